"""Settings of the documentation: python -m sphinx -W docs docs/_build (needs pip install '.[docs]').

The package that is documented is the one Python imports, because autodoc reads the compiled modules.
"""
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import microgpt  # noqa: E402

project = "microgpt"
author = "The microgpt developers"
copyright = author
version = release = microgpt.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxarg.ext"]
exclude_patterns = ["_build", "_ext"]
nitpicky = False
default_role = "code"  # docstrings write names between single backticks

html_theme = "furo"
html_title = "microgpt"
html_theme_options = {"source_directory": "docs/"}
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_copy_source = False

myst_heading_anchors = 4  # links to headings, as GitHub makes them
myst_enable_extensions = ["deflist"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the stubs of the compiled modules are checked by mypy; docstrings name types and shapes
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # attributes that are properties too are documented once


def _escape_markup(app, what, name, obj, options, lines):
    """Escape what reStructuredText would take for markup: docstrings are plain text with names between backticks."""
    if what in ("attribute", "property"):
        lines[:0] = ["..", ""]  # an empty comment, or napoleon takes what is before a colon for a type
    for i, line in enumerate(lines):
        parts = re.split(r"(`+[^`]+`+)", line)
        for j, part in enumerate(parts):
            if not part.startswith("`"):
                parts[j] = re.sub(r"[*|]|(?<=\w)_(?!\w)", r"\\\g<0>", part)
                if j and part[:1].isalnum():  # `Token`s
                    parts[j] = "\\ " + parts[j]
        lines[i] = "".join(parts)


def _without_c_types(app, what, name, obj, options, signature, return_annotation):
    """Drop the C types and `self` that Cython writes into signatures."""
    if signature:
        signature = re.sub(r"\b(?:double|Py_ssize_t|bint|GPT) (?=\w)", "", signature).replace("(self, ", "(").replace("(self)", "()")
    return signature, return_annotation


_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)\s]*)?\)")


def _unlink_sources(app, docname, source):
    """Keep only the text of links to files outside docs/: they exist in the repository, where GitHub shows the page."""
    docs, page = Path(app.srcdir).resolve(), Path(app.srcdir, docname).parent

    def text_or_link(match):
        return match[0] if docs in (page / match[2]).resolve().parents else match[1]

    source[0] = _LINK.sub(text_or_link, source[0])


def setup(app):
    app.connect("autodoc-process-docstring", _escape_markup, priority=400)
    app.connect("autodoc-process-signature", _without_c_types)
    app.connect("source-read", _unlink_sources)
