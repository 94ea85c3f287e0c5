"""The system calls that may fail, and with which errors. Pure.

The errors are those of the man pages (section 2), and of the file systems and sockets behind them,
that a system can cause: not EFAULT, EBADF and EINVAL, which a program causes itself. EINTR and
EAGAIN are among them where the call can wait.
"""

from typing import Final

TIMES: Final = (1, 2, 3, 7, 20)
"""Which call of its kind fails, counted from when we look."""

_MEMORY: Final = ("ENOMEM",)
_NEW: Final = ("EMFILE", "ENFILE", "ENOMEM")
_OPEN: Final = ("EMFILE", "ENFILE", "ENOMEM", "EACCES", "EIO", "ENOENT", "EINTR", "ELOOP", "ENXIO")
_STAT: Final = ("ENOMEM", "EOVERFLOW", "EIO", "ESTALE")
_PATH: Final = ("ENOMEM", "EACCES", "ENOENT", "ENOTDIR", "ELOOP", "EIO")
_READ: Final = ("EIO", "EINTR", "EISDIR", "ESTALE")
_WRITE: Final = ("EAGAIN", "EPIPE", "EIO", "ENOSPC", "EINTR")
_POLL: Final = ("EINTR", "ENOMEM")
_RECEIVE: Final = ("ECONNRESET", "ENOMEM", "ENOTCONN", "ETIMEDOUT", "EAGAIN", "EINTR")
_SEND: Final = ("ECONNRESET", "EPIPE", "ENOBUFS", "ENOMEM", "ENOTCONN", "EAGAIN", "EINTR")
_START: Final = ("EAGAIN", "ENOMEM")

# In the order of the harm that is likeliest.
ERRORS: Final[dict[str, tuple[str, ...]]] = {
    "clone3": (*_START, "EPERM"),
    "clone": _START,
    "vfork": _START,
    "fork": _START,
    "mmap": ("ENOMEM", "EAGAIN", "EPERM", "ENFILE", "ENODEV"),
    "munmap": _MEMORY,
    "socketpair": (*_NEW, "EOPNOTSUPP"),
    "socket": (*_NEW, "ENOBUFS", "EAFNOSUPPORT"),
    "accept4": (*_NEW, "ENOBUFS", "ECONNABORTED", "EPROTO", "EPERM", "EAGAIN", "EINTR"),
    "epoll_ctl": ("ENOMEM", "ENOSPC"),
    "epoll_wait": ("EINTR",),
    "openat2": (*_OPEN, "EAGAIN", "EXDEV", "ENOSYS"),
    "openat": (*_OPEN, "ENOTDIR"),
    "read": (*_READ, "EAGAIN"),
    "recvfrom": _RECEIVE,
    "recvmsg": _RECEIVE,
    "sendto": _SEND,
    "sendmsg": (*_SEND, "EMSGSIZE", "ETOOMANYREFS"),
    "sendfile": ("EIO", "ENOMEM", "EPIPE", "ECONNRESET", "EOVERFLOW", "EAGAIN", "EINTR"),
    "fstat": _STAT,
    "newfstatat": (*_PATH, "EOVERFLOW"),
    "statx": _PATH,
    "pread64": _READ,
    "preadv2": (*_READ, "EAGAIN", "EOPNOTSUPP"),
    "close": ("EIO", "EINTR", "ENOSPC"),
    "eventfd2": _NEW,
    "pipe2": _NEW,
    "epoll_create1": _NEW,
    "memfd_create": _NEW,
    "pidfd_open": (*_NEW, "ESRCH", "ENODEV"),
    "execve": ("ENOMEM", "EAGAIN", "EACCES", "EIO", "EMFILE", "ENOENT", "ETXTBSY"),
    "wait4": ("ECHILD", "EINTR"),
    "waitid": ("ECHILD", "EINTR"),
    "kill": ("EPERM", "ESRCH"),
    "tgkill": ("ESRCH", "EAGAIN"),
    "fcntl": ("EMFILE", "EPERM", "EAGAIN"),
    "dup": _NEW,
    "dup2": ("EMFILE", "EBUSY", "EINTR"),
    "dup3": ("EMFILE", "EBUSY", "EINTR"),
    # ENOENT, of a directory that was deleted, is its end by POSIX, and readdir(3) does not tell.
    "getdents64": ("EIO", "ESTALE"),
    "mincore": ("EAGAIN", "ENOMEM"),
    "madvise": ("EAGAIN", "ENOMEM", "EIO"),
    "fadvise64": ("ESPIPE",),
    "brk": _MEMORY,
    "mprotect": _MEMORY,
    "mremap": (*_MEMORY, "EAGAIN"),
    "write": _WRITE,
    "writev": _WRITE,
    "pwrite64": _WRITE,
    "ftruncate": ("EIO", "EINTR", "EPERM"),
    "fstatfs": ("ENOMEM", "EIO", "ENOSYS", "EINTR"),
    "statfs": ("ENOMEM", "EIO", "ENOSYS", "EACCES"),
    "readlink": _PATH,
    "readlinkat": _PATH,
    "access": _PATH,
    "getcwd": ("ENOENT", "ENOMEM"),
    "lseek": ("ESPIPE", "EOVERFLOW"),
    "ioctl": ("ENOTTY", "EIO", "ENOMEM"),
    "poll": _POLL,
    "ppoll": _POLL,
    "pselect6": _POLL,
    "bind": ("EADDRINUSE", "EACCES", "ENOMEM"),
    "listen": ("EADDRINUSE", "EOPNOTSUPP"),
    "connect": ("ECONNREFUSED", "EAGAIN", "EINTR"),
    "shutdown": ("ENOTCONN", "ENOBUFS"),
    "setsockopt": ("ENOPROTOOPT", "ENOMEM", "ENOBUFS"),
    "getsockopt": ("ENOPROTOOPT", "ENOBUFS"),
    "getsockname": ("ENOBUFS",),
    "getpeername": ("ENOTCONN", "ENOBUFS"),
    "prlimit64": ("EPERM",),
    "setpriority": ("EPERM", "EACCES"),
    "sched_getaffinity": ("ESRCH",),
    "sched_setaffinity": ("EPERM",),
    "prctl": ("EPERM",),
    "getpriority": ("ESRCH",),
    "sigaltstack": ("ENOMEM", "EPERM"),
    "landlock_create_ruleset": (*_NEW, "EOPNOTSUPP"),
    "landlock_add_rule": ("ENOMEM", "EOPNOTSUPP"),
    "landlock_restrict_self": ("EPERM", "E2BIG"),
}

# What cannot fail, or not in a way that a program could meet: futex(2) is the interpreter's own.
_SURE: Final = """
arch_prctl clock_gettime clock_nanosleep close_range exit exit_group futex getegid geteuid
getgid getgroups getpgrp getpid getppid getrandom getresgid getresuid gettid getuid membarrier
pause restart_syscall rseq rt_sigaction rt_sigprocmask rt_sigreturn sched_yield
set_robust_list set_tid_address sysinfo umask uname
"""
SURE: Final = frozenset(_SURE.split())
