"""How Sphinx makes the pages: `make docs`, into build/docs. A warning is an error."""

import sys
from pathlib import Path

from docutils.nodes import Element, TextElement
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import trio_amped
import trio_amped.asgi
import trio_amped.disk
import trio_amped.testing

sys.path.insert(0, str(Path(__file__).parent))

project = "trio_amped"
copyright = "the authors of trio_amped, MIT licence"
version = release = trio_amped.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "generated",  # ours
]
nitpicky = True
smartquotes = False  # help texts have quotes that are to be typed
default_role = "code"  # docstrings are written for help(): `name` is code
html_theme = "furo"
html_title = "trio_amped"
html_copy_source = False
html_show_sphinx = False
myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"

# What other projects call what we name: lists of our own, in the format that is plain text
# (`name kind page`). The pages are made without a network, and are the same with one; a name that
# is missing here is an error. Whether they lead somewhere: `sphinx-build -b linkcheck docs OUT`.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", "inventories/python.txt"),
    "trio": ("https://trio.readthedocs.io/en/stable", "inventories/trio.txt"),
    "h11": ("https://h11.readthedocs.io/en/latest", "inventories/h11.txt"),
}

PUBLIC = (trio_amped, trio_amped.asgi, trio_amped.disk, trio_amped.testing)


def public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: TextElement
) -> Element | None:
    """A class of ours in an annotation leads to where it is imported from, not to its code."""
    target = str(node.get("reftarget", ""))
    name = target.rpartition(".")[2]
    for module in PUBLIC:
        if target.startswith("trio_amped.") and name in module.__all__:
            full, here = f"{module.__name__}.{name}", node["refdoc"]
            domain = env.domains["py"]
            return domain.resolve_xref(env, here, app.builder, "obj", full, node, content)
    return None


def context_manager(
    app: Sphinx, what: str, name: str, value: object, options: object, signature: str, gives: str
) -> tuple[str, str]:
    """What @asynccontextmanager has made returns no iterator, but what `async with` takes."""
    if hasattr(value, "__wrapped__") and gives:
        gives = gives.replace(
            "collections.abc.AsyncIterator", "contextlib.AbstractAsyncContextManager"
        )
    return signature, gives


def setup(app: Sphinx) -> None:
    app.connect("missing-reference", public_name)
    app.connect("autodoc-process-signature", context_manager)
