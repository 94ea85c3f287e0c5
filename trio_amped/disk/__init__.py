"""The disk room: the only one that touches files. Gates, helpers, open files.

For other trio programs: `open`, `open_gate`, and what they give. They are imported when they are
asked for: a helper process imports this package without trio (see carriers.py).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .reader import DiskGate, File, open, open_gate

__all__ = ["DiskGate", "File", "open", "open_gate"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import reader

        return getattr(reader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
