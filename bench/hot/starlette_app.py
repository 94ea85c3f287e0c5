"""The folder ROOT by Starlette, as its documentation says; uvicorn and Hypercorn run it."""

import os

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

app = Starlette(routes=[Mount("/", app=StaticFiles(directory=os.environ["ROOT"]))])
