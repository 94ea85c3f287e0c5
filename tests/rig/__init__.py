"""Real disks and real servers for the tests and the benchmark, as context managers (block).

Slow, broken, hung and strange disks, made of loop devices, FUSE, overlayfs, tmpfs and cgroups;
the page cache as a test wants it; a server as a process, as another user if need be. Everything
is undone on leaving, also when a test fails. `missing` says what this machine cannot do.
"""

from tests.rig.features import missing, needs
from tests.rig.file_systems import block_device, loop_disk, loop_ext4, overlayfs, read_ahead, tmpfs
from tests.rig.fuse import FuseDisk, Operation, fuse_disk
from tests.rig.memory import LimitedCache, limited_cache
from tests.rig.mount_points import public_directory
from tests.rig.page_cache import evict, forget_names, held_in_memory, load, resident_pages
from tests.rig.server import ServerProcess, running_server
from tests.rig.slow_disk import DiskReads, SlowDisk, slow_cgroup
from tests.rig.tools import GUARD, NOBODY, REPOSITORY, identity
from tests.rig.users import as_nobody, for_strangers

__all__ = [
    "GUARD",
    "NOBODY",
    "REPOSITORY",
    "DiskReads",
    "FuseDisk",
    "LimitedCache",
    "Operation",
    "ServerProcess",
    "SlowDisk",
    "as_nobody",
    "block_device",
    "evict",
    "for_strangers",
    "forget_names",
    "fuse_disk",
    "held_in_memory",
    "identity",
    "limited_cache",
    "load",
    "loop_disk",
    "loop_ext4",
    "missing",
    "needs",
    "overlayfs",
    "public_directory",
    "read_ahead",
    "resident_pages",
    "running_server",
    "slow_cgroup",
    "tmpfs",
]
