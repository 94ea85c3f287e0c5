"""How Sphinx makes the pages: `make docs`, into build/docs. A warning is an error."""

import sys
from pathlib import Path

import trio_amped
import trio_amped.disk

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

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
# is missing here is an error. Whether the links lead somewhere: `sphinx-build -b linkcheck docs OUT`.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", "inventories/python.txt"),
    "trio": ("https://trio.readthedocs.io/en/stable", "inventories/trio.txt"),
    "h11": ("https://h11.readthedocs.io/en/latest", "inventories/h11.txt"),
}

# A public name is said as it is imported, and not where its code is.
for module in (trio_amped, trio_amped.disk):
    for name in module.__all__:
        if not name.startswith("__"):
            getattr(module, name).__module__ = module.__name__
