"""A static-file web server on trio that never lets the disk stop its event loop (AMPED)."""

from .config import Config, Site
from .serving.server import Server, serve
from .stats import Stats

__version__ = "0.1.0"

__all__ = ["Config", "Server", "Site", "Stats", "__version__", "serve"]
