"""Sphinx: Markdown in, static pages out that load nothing from the network."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "penstock"
author = "the penstock authors"
release = version = installed_version("penstock")

extensions = ["myst_parser", "sphinx.ext.autodoc", "generated"]
exclude_patterns = ["_ext"]
default_role = "py:obj"  # docstrings say `name`
add_module_names = False
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 90
smartquotes = False  # would make one dash of two
myst_heading_anchors = 3  # `[text](page.md#heading)` works as it does on code hosts

html_theme = "furo"  # its fonts are the reader's own, and nothing comes from elsewhere
html_title = "penstock"
html_static_path = ["_static"]
html_css_files = ["penstock.css"]
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
html_show_search_summary = False  # the browser would fetch the pages, which it must not from the disk
html_theme_options = {"navigation_with_keys": True}
