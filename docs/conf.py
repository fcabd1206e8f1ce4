"""Sphinx: Markdown in, static pages out that load nothing from the network."""

from __future__ import annotations

from importlib.metadata import version as installed_version

project = "penstock"
author = "the penstock authors"
release = version = installed_version("penstock")

extensions = ["myst_parser"]
html_theme = "alabaster"  # comes with Sphinx; no web fonts, no scripts from elsewhere
html_theme_options = {"description": "Ordinary Python functions as recorded, concurrent work."}
html_show_sourcelink = False
myst_heading_anchors = 3  # `[text](page.md#heading)` works as it does on code hosts
