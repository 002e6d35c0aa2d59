"""The documentation site: ``make docs`` builds it into docs/_build/html."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import api  # noqa: E402

import attnzoo  # noqa: E402

api.write(HERE / "api")

project = "attnzoo"
copyright = "the attnzoo authors"  # noqa: A001
release = version = attnzoo.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_ext"]

html_theme = "furo"
html_title = "attnzoo"

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4
myst_fence_as_directive = ["math"]
nb_execution_mode = "off"

default_role = "code"
add_module_names = False
toc_object_entries_show_parents = "hide"
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
maximum_signature_line_length = 88
python_display_short_literal_types = True
suppress_warnings = ["ref.python"]  # names in annotations that several classes have


def setup(app):
    app.connect("autodoc-process-signature", api.name_arrays)
    app.connect("autodoc-process-docstring", api.protect, priority=400)
    app.connect("autodoc-process-docstring", api.mend, priority=600)  # napoleon has 500
