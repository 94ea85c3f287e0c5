"""The page gate trusts whom the kernel tells the truth: by a table, and with the kernel itself."""

import contextlib
import functools
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, get_args
from unittest import mock

from hypothesis import strategies as st

from fuzz.tally import note
from fuzz.target import Target
from trio_amped.config import GateMode
from trio_amped.disk import kernel
from trio_amped.disk.opening import Opened, Status, Volume, volume_of
from trio_amped.disk.pages import Gate, PageGate

_DEVICE: Final = 77
_OVERFLOW: Final = 65534  # what a user from outside of the namespace looks like
# What docs/design.md says of file systems, by their magic numbers.
_LOCAL: Final = (0xEF53, 0x9123683E, 0x58465342)
_STACKED: Final = (0x794C7630, 0xF15F)
_MEMORY: Final = (0x01021994, 0x858458F6)
_REMOTE: Final = (0x65735546, 0x6969, 0xFF534D42, 0x01021997, 0x12345678)  # the last: unheard of


@dataclass(frozen=True)
class Case:
    """Who we are, and whose the file is."""

    user: int
    owner: int
    has_fowner: bool
    may_write: bool  # what the kernel says of the file
    may_write_below: bool  # and of the inode that its pages belong to
    is_owner_mapped: bool
    are_all_mapped: bool  # no namespace, or one that has them all
    magic: int
    refuses_nowait: bool

    @property
    def seen_owner(self) -> int:
        return self.owner if self.is_owner_mapped or self.are_all_mapped else _OVERFLOW

    @property
    def is_told_the_truth(self) -> bool:
        """What the kernel's mincore asks about: the inode below, where there is one."""
        is_known = self.is_owner_mapped or self.are_all_mapped
        is_owner = is_known and (self.user == self.owner or self.has_fowner)
        is_writer = self.may_write_below if self.magic in _STACKED else self.may_write
        return is_owner or is_writer

    @property
    def can_be_sure(self) -> bool:
        """Whether what a process can see proves the above."""
        looks_foreign = self.seen_owner == _OVERFLOW and not self.are_all_mapped
        if not looks_foreign and (self.user == self.owner or self.has_fowner):
            return True
        return self.may_write and self.magic not in _STACKED


def check_gates(mode: GateMode, case: Case) -> None:
    """The kernel is asked about pages where what is known proves that it does not lie."""
    gate = PageGate(mode)
    if case.refuses_nowait:
        gate._refused_nowait.add(_DEVICE)
    with _as_in(case):
        found = gate.choose(_opened(case))
    assert found is _expected(mode, case), found
    assert found is not Gate.MINCORE or case.is_told_the_truth


def _opened(case: Case) -> Opened:
    status = Status(stat.S_IFREG | 0o644, case.seen_owner, _DEVICE, 1, 100, 0, 0, 0)
    return Opened(-1, status, Volume(case.magic, 0), noatime=True)


@contextlib.contextmanager
def _as_in(case: Case) -> Iterator[None]:
    """The kernel, as far as the gate asks it."""
    with (
        mock.patch.object(os, "geteuid", _saying(case.user)),
        mock.patch.object(kernel, "has_fowner", _saying(case.has_fowner)),
        mock.patch.object(kernel, "may_write", _saying(case.may_write)),
        mock.patch.object(kernel, "all_owners_are_mapped", _saying(case.are_all_mapped)),
    ):
        yield


def _saying(answer: int) -> Callable[..., int]:
    return lambda *_: answer


def _expected(mode: GateMode, case: Case) -> Gate:
    """The table of docs/design.md, from top to bottom."""
    if mode in ("never", "always"):
        return Gate(mode)
    if case.magic in _REMOTE:
        return Gate.ALWAYS
    if case.magic in _MEMORY:
        return Gate.MEMORY
    if mode in ("auto", "mincore") and case.can_be_sure:
        return Gate.MINCORE
    has_nowait = mode in ("auto", "nowait") and not case.refuses_nowait
    return Gate.NOWAIT if has_nowait else Gate.ALWAYS


# ------------------------------------------------------------------ the kernel itself

_SIZE: Final = 4 * kernel.PAGE
_USERS: Final = (0, 1000, 1001, _OVERFLOW)


@functools.cache
def _file() -> int | None:
    """A file without a name, on a disk, none of whose pages is in memory: nobody ever reads it.

    None where there is no such thing.
    """
    with tempfile.TemporaryFile(dir="/var/tmp") as file:  # a disk more often than /tmp is
        file.write(bytes(_SIZE))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, _SIZE, os.POSIX_FADV_DONTNEED)
        # Not for writing: a server has its files open for reading alone.
        descriptor = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY)
    volume = volume_of(descriptor)
    if volume.is_remote or volume.is_memory or _resident(descriptor):
        os.close(descriptor)
        return None
    return descriptor


def check_mincore(user: int, owner: int, mode: int) -> None:
    """Whoever we are, mincore is asked where this kernel does not lie, and only there."""
    descriptor = _file()
    if descriptor is None:
        note("mincore", "not tried: no file of this machine can be put out of its memory")
        return
    volume = volume_of(descriptor)
    with contextlib.suppress(PermissionError), _acting(descriptor, user, owner, mode):
        opened = Opened(descriptor, Status.of(descriptor), volume, noatime=True)
        is_asked = PageGate("auto").choose(opened) is Gate.MINCORE
        is_true = not _resident(descriptor)
        note("mincore", "true" if is_true else "a lie")
        assert is_true or not is_asked, "a lie is believed"
        assert is_asked or not is_true or volume.is_stacked, "the truth is not asked for"


@contextlib.contextmanager
def _acting(descriptor: int, user: int, owner: int, mode: int) -> Iterator[None]:
    """Be that user, where we may: as root, and where all users are known. Else be who we are."""
    us = os.geteuid()
    if us != 0 or not kernel.all_owners_are_mapped():
        user = owner = us
    os.fchown(descriptor, owner, -1)
    os.fchmod(descriptor, mode)
    os.seteuid(user)  # without a user namespace, the capabilities go and come with it
    try:
        yield
    finally:
        os.seteuid(us)


def _resident(descriptor: int) -> int:
    mapping = kernel.ShadowMapping(descriptor, _SIZE)
    try:
        return mapping.resident(0, _SIZE)
    finally:
        mapping.close()


_CASES: Final = st.builds(
    Case,
    user=st.sampled_from([0, 1000, _OVERFLOW]),
    owner=st.sampled_from([0, 1000, _OVERFLOW]),
    has_fowner=st.booleans(),
    may_write=st.booleans(),
    may_write_below=st.booleans(),
    is_owner_mapped=st.booleans(),
    are_all_mapped=st.booleans(),
    magic=st.sampled_from(_LOCAL + _STACKED + _MEMORY + _REMOTE),
    refuses_nowait=st.booleans(),
)

TARGETS: Final = (
    Target("gates", check_gates, {"mode": st.sampled_from(get_args(GateMode)), "case": _CASES}),
    Target(
        "mincore",
        check_mincore,
        {
            "user": st.sampled_from(_USERS),
            "owner": st.sampled_from(_USERS),
            "mode": st.sampled_from([0o400, 0o600, 0o420, 0o402, 0o444, 0o666]),
        },
    ),
)
