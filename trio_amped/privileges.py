"""The rights that a worker gives up for good, before it reads a byte from a client.

Those of the user who has started it (setuid(2), capabilities(7)), and to open files beyond the
folders that it serves (landlock(7)). Nothing here waits for the disk, but to open the folders.
"""

import ctypes
import grp
import logging
import os
import pwd
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

log = logging.getLogger("trio_amped")

# include/uapi/linux/prctl.h and capability.h
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION_3: Final = 0x20080522

# include/uapi/linux/landlock.h; asm-generic/unistd.h: the same numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION: Final = 1
_PATH_BENEATH: Final = 1
_EXECUTE, _WRITE, _READ, _READ_FOLDER = (1 << bit for bit in range(4))
_RIGHTS: Final = (13, 14, 15, 15, 16)
"""How many rights there are in each version of Landlock's interface from 1 on."""
_SERVED: Final = _READ | _READ_FOLDER
_PROGRAM: Final = _EXECUTE | _READ | _READ_FOLDER
_OF_FILES: Final = _EXECUTE | _WRITE | _READ  # what a rule for a single file can allow

_libc: Final = ctypes.CDLL(None, use_errno=True)


def _function(name: str, *arguments: Any) -> Any:
    function = _libc[name]  # a new object each time, so that prototypes do not collide
    function.restype, function.argtypes = ctypes.c_long, arguments
    return function


_long, _int, _pointer = ctypes.c_long, ctypes.c_int, ctypes.c_char_p
_prctl = _function("prctl", _int, *[ctypes.c_ulong] * 4)
_prctl.restype = _int
_capset = _function("capset", _pointer, _pointer)
_capset.restype = _int
_landlock_create_ruleset = _function("syscall", _long, _pointer, ctypes.c_size_t, _int)
_landlock_add_rule = _function("syscall", _long, _int, _int, _pointer, _int)
_landlock_restrict_self = _function("syscall", _long, _int, _int)


class User(NamedTuple):
    """Who a worker is, once it has dropped its rights."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def find_user(text: str) -> User:
    """Return who `NAME[:GROUP]` is; a number is as good as a name.

    Without a group, those of the user are taken. Raises ValueError, with a sentence for the user.
    """
    name, separator, group = text.partition(":")
    entry = _user_entry(name)
    if separator:
        gid = _group_id(group)
    elif entry is None:
        raise ValueError(f"user {name} is in no group that is known: name one, {name}:GROUP")
    else:
        gid = entry.pw_gid
    uid = int(name) if entry is None else entry.pw_uid
    if uid == 0:
        raise ValueError(f"user {name} has all rights: name another one")
    groups = (gid,) if entry is None else tuple(os.getgrouplist(entry.pw_name, gid))
    return User(text, uid, gid, groups)


def _user_entry(name: str) -> "pwd.struct_passwd | None":
    """Return the user of a name or number; None for a number that has no entry."""
    try:
        return pwd.getpwuid(int(name)) if _is_number(name) else pwd.getpwnam(name)
    except KeyError:
        if not _is_number(name):
            raise ValueError(f"user {name!r} does not exist") from None
        return None


def _group_id(group: str) -> int:
    if _is_number(group):
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ValueError(f"the group {group!r} does not exist") from None


def _is_number(text: str) -> bool:
    """Return whether it can be the number of a user or a group; all bits set are nobody's."""
    return text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) < 2**32 - 1


def check_user(user: User) -> None:
    """Find out whether a worker can run as that user. Waits for a process, 20 ms.

    Raises ValueError, with a sentence for the user.
    """
    if os.geteuid() != 0:
        raise ValueError("--user: only root can have somebody else serve; start it as root")
    place = os.path.dirname(os.path.abspath(__file__))
    try:
        answer = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _MAY_RUN, sys.base_prefix, place],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            user=user.uid,
            group=user.gid,
            extra_groups=user.groups,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(f"--user {user.name}: cannot start {sys.executable}: {error}") from None
    if answer.returncode != 0:
        raise ValueError(
            f"--user {user.name} may not read {sys.base_prefix} and {place}: "
            "install Python and this package where that user may"
        )


# An interpreter whose library is closed to a user may start all the same, with another's.
_MAY_RUN: Final = """
import os, sys
prefix, place = sys.argv[1:]
sys.exit(sys.base_prefix != prefix or not os.access(place, os.R_OK | os.X_OK))
"""


def warn_of_root() -> None:
    """Say whose rights a server has that is root, and how to have others."""
    if os.geteuid() == 0:
        log.warning("as root it can read every file; --user NAME serves as somebody else")


def check_log(user: User, path: str | os.PathLike[str]) -> None:
    """Find out whether a log that root opens is safe from that user. Waits for the disk.

    Who may write its folder could put a link there, and have root write to any file (as in
    CVE-2016-1247); the same holds for the folders above, but not for a sticky one (/tmp) there:
    what is root's stays in it. Only owners and modes are looked at, not access control lists.
    Raises ValueError, with a sentence for the user.
    """
    for place in (os.path.abspath(path), os.path.realpath(path)):
        folder = Path(place).parent
        for each in (folder, *folder.parents):
            if _may_replace(user, each, stays=each != folder):
                raise ValueError(
                    f"--access-log: user {user.name} may write {each}, and could have root write "
                    "to any file: choose a folder that is root's alone, as those above are"
                )


def _may_replace(user: User, folder: Path, stays: bool) -> bool:
    """Return whether a user may put something else at a name in a folder; `stays`: at one of root's
    that is there."""
    try:
        found = os.stat(folder)
    except OSError:  # nobody can open a log there, which is said then
        return False
    if found.st_uid == user.uid:
        return True
    if stays and found.st_mode & stat.S_ISVTX:
        return False
    is_of_group = found.st_gid in (user.gid, *user.groups)
    return bool(found.st_mode & (stat.S_IWOTH | (stat.S_IWGRP if is_of_group else 0)))


def become(user: User) -> None:
    """Give up the rights of root, and every way back to them. Raises OSError.

    No program that is started can have more rights either (PR_SET_NO_NEW_PRIVS).
    """
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    _call(_prctl, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    # This process; twice none effective, permitted and inheritable.
    _call(_capset, struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24))
    _call(_prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # After a change of user /proc/self is root's, and the path gate asks there what is open.
    _call(_prctl, _PR_SET_DUMPABLE, 1, 0, 0, 0)


def landlock_version() -> int:
    """Return which version of Landlock the kernel has; 0: none, or it is not enabled."""
    version: int = _landlock_create_ruleset(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    return max(0, version)


def check_confinement() -> None:
    """Raises ValueError, with a sentence for the user, where a process cannot be confined."""
    if not landlock_version():
        raise ValueError(
            "--confine needs Landlock, which this kernel lacks (Linux 5.13) or disables"
        )


def confine(folders: Sequence[str | os.PathLike[str]]) -> None:
    """Open nothing from now on but what is below these folders, and what the program itself needs.

    Binds the thread that calls, and all threads and processes that it starts. A folder is
    its inode: what a link leads to later is another. Nothing can be written. Raises OSError.
    """
    rights = (1 << _RIGHTS[min(landlock_version(), len(_RIGHTS)) - 1]) - 1
    # Later versions have fields for the network and for signals: they are not restricted.
    ruleset = _call(_landlock_create_ruleset, _CREATE_RULESET, struct.pack("=Q", rights), 8, 0)
    try:
        for path, allowed in _allowed(folders):
            _allow(ruleset, path, allowed)
        _call(_prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _call(_landlock_restrict_self, _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allowed(folders: Sequence[str | os.PathLike[str]]) -> Iterator[tuple[str, int]]:
    """What may be opened below which paths: what is served, and what helpers are made of."""
    for folder in folders:
        yield os.fspath(folder), _SERVED
    for place in sorted({sys.prefix, sys.base_prefix, sys.executable, *_packages(), *_libraries()}):
        yield place, _PROGRAM
    yield "/etc/ld.so.cache", _READ
    yield "/proc", _SERVED
    yield os.devnull, _READ | _WRITE


def _packages() -> set[str]:
    """The folders of the packages that were imported; not all of sys.path, which may have "/"."""
    packages = [module for name, module in list(sys.modules.items()) if "." not in name]
    return {place for each in packages for place in getattr(each, "__path__", ())}


def _libraries() -> set[str]:
    """The folders of the libraries that this process has loaded: its mappings (proc(5), maps)."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        mapped = [line.rstrip("\n").split(maxsplit=5)[5:] for line in maps if " r-xp " in line]
    return {os.path.dirname(path) for [path] in filter(None, mapped) if path.startswith("/")}


def _allow(ruleset: int, path: str, allowed: int) -> None:
    try:
        place = os.open(path, os.O_PATH)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):
            allowed &= _OF_FILES
        rule = struct.pack("=Qi", allowed, place)
        _call(_landlock_add_rule, _ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(place)


def _call(function: Any, *arguments: object) -> int:
    """Call a function of libc, and return its result. Raises OSError."""
    result: int = function(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
