"""`python -m penstock.cli`: the `penstock` command where it is not on the path."""

from __future__ import annotations

from penstock.cli import main

main()
