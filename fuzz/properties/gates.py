"""Which gate a file gets: the decision rests on who asks, since a lie looks like the truth."""

import os
from dataclasses import dataclass
from typing import Final
from unittest import mock

from hypothesis import strategies as st

from fuzz.target import Target
from tests.simulated import REGULAR
from trio_amped.config import GateMode
from trio_amped.disk import kernel
from trio_amped.disk.opening import Opened, Status, Volume
from trio_amped.disk.pages import Gate, PageGate

_NOBODY: Final = 65534  # also how an owner from outside of the user namespace is shown
_MAGIC: Final = {name: magic for magic, name in kernel.FILE_SYSTEMS.items()}
_STACKED: Final = ("overlayfs", "ecryptfs")
_IN_MEMORY: Final = ("tmpfs", "ramfs")
_REMOTE: Final = ("fuse", "nfs", "smb2", "9p", "unheard of")
_LOCAL: Final = ("ext4", "xfs", "btrfs")


@dataclass(frozen=True)
class Machine:
    """Who we are, whose file it is, and where."""

    uid: int
    owner: int
    has_fowner: bool
    maps_all: bool  # whether each owner has a number of its own here
    may_write: bool  # what access(2) says, of the file that is seen
    may_write_below: bool  # what the kernel would say of the inode that has the pages
    file_system: str

    @property
    def tells_the_truth(self) -> bool:
        """What mincore does (mm/mincore.c, can_do_mincore): the owner, who has CAP_FOWNER over a
        known owner, and who may write the inode that has the pages are told the truth."""
        is_known = self.owner != _NOBODY or self.maps_all
        if is_known and (self.uid == self.owner or self.has_fowner):
            return True
        is_stacked = self.file_system in _STACKED
        return self.may_write_below if is_stacked else self.may_write

    @property
    def opened(self) -> Opened:
        volume = Volume(_MAGIC.get(self.file_system, 1), 0)
        return Opened(3, Status(REGULAR, self.owner, 1, 1, 1, 0, 0, 0), volume, noatime=True)

    def choose(self, mode: GateMode) -> Gate:
        """What our gate makes of it."""
        with (
            mock.patch.object(kernel, "has_fowner", return_value=self.has_fowner),
            mock.patch.object(kernel, "all_owners_are_mapped", return_value=self.maps_all),
            mock.patch.object(kernel, "may_write", return_value=self.may_write),
            mock.patch.object(os, "geteuid", return_value=self.uid),
        ):
            return PageGate(mode).choose(self.opened)


def check_gates(machine: Machine, mode: GateMode) -> None:
    """mincore is believed where it tells the truth, and asked wherever that is known."""
    gate = machine.choose(mode)
    if gate is Gate.MINCORE:
        assert machine.tells_the_truth, "it says to strangers that all is in memory"
    if mode == "never":
        assert gate is Gate.NEVER
    elif mode == "always" or machine.file_system in _REMOTE:
        assert gate is Gate.ALWAYS
    elif machine.file_system in _IN_MEMORY:
        assert gate is Gate.MEMORY
    elif mode == "nowait":
        assert gate is Gate.NOWAIT
    elif machine.file_system in _LOCAL and machine.tells_the_truth:
        assert gate is Gate.MINCORE
    else:
        assert gate in (Gate.MINCORE, Gate.ALWAYS if mode == "mincore" else Gate.NOWAIT)


_UIDS: Final = st.sampled_from([0, 1000, 1001, _NOBODY])
_MODES: Final[list[GateMode]] = ["auto", "auto", "mincore", "nowait", "always", "never"]

TARGETS: Final = (
    Target(
        "gates",
        check_gates,
        {
            "machine": st.builds(
                Machine,
                uid=_UIDS,
                owner=_UIDS,
                has_fowner=st.booleans(),
                maps_all=st.booleans(),
                may_write=st.booleans(),
                may_write_below=st.booleans(),
                file_system=st.sampled_from([*_LOCAL, *_STACKED, *_IN_MEMORY, *_REMOTE]),
            ),
            "mode": st.sampled_from(_MODES),
        },
    ),
)
