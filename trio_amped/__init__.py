"""A static-file web server on trio that never lets the disk stop its event loop (AMPED)."""

from .config import Answered, Config, Site
from .serving.exchange import Exchange
from .serving.server import Server, serve
from .serving.sites import Sites, handle_connection, open_sites
from .serving.transport import ClientGone
from .stats import Stats

__version__ = "0.1.0"

__all__ = [
    "Answered",
    "ClientGone",
    "Config",
    "Exchange",
    "Server",
    "Site",
    "Sites",
    "Stats",
    "__version__",
    "handle_connection",
    "open_sites",
    "serve",
]
