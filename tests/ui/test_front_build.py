"""The front end gets into packages, and a machine without npm gets a package all the same."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import hatch_build
import pytest
from touring import STATIC

ROOT = Path(__file__).parents[2]


class Told:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def display_warning(self, text: str) -> None:
        self.warnings.append(text)


def initialized() -> list[str]:
    """What the build hook complains about. (Its constructor takes what only hatchling has.)"""
    told = Told()
    hatch_build.FrontEnd.initialize(SimpleNamespace(app=told), "standard", {})  # type: ignore[arg-type]
    return told.warnings


def test_without_npm_the_package_is_made_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hatch_build, "BUILT", tmp_path / "index.html")
    monkeypatch.setattr(hatch_build, "search_path", lambda: str(tmp_path))
    [warning] = initialized()
    assert "npm was not found" in warning


def test_when_npm_fails_the_package_is_made_all_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no network; exit 1\n", "utf-8")
    npm.chmod(0o755)
    monkeypatch.setattr(hatch_build, "BUILT", tmp_path / "index.html")
    monkeypatch.setattr(hatch_build, "search_path", lambda: f"{tmp_path}:/usr/bin:/bin")
    [warning] = initialized()
    assert "no network" in warning


def test_what_is_built_is_not_built_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built = tmp_path / "index.html"
    built.touch()
    monkeypatch.setattr(hatch_build, "BUILT", built)
    monkeypatch.setattr(hatch_build, "build", lambda: pytest.fail("was built"))
    assert initialized() == []


def test_the_wheel_has_the_pages(tmp_path: Path) -> None:
    if not (STATIC / "index.html").exists():
        pytest.skip("the front end was not built; type: make ui")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {name.removeprefix("penstock/ui/static/") for name in names if name.startswith("penstock/ui/static/")}
    assert shipped == {str(path.relative_to(STATIC)) for path in STATIC.rglob("*") if path.is_file()}
    assert not any("node_modules" in name or name.endswith(".tsx") for name in names)


def test_the_lock_file_names_no_registry() -> None:
    assert "resolved" not in (ROOT / "ui" / "package-lock.json").read_text("utf-8")


@pytest.mark.parametrize("script", ["test", "check"])
def test_the_scripts_pass_their_own_tests_and_the_linter(script: str) -> None:
    if not (ROOT / "ui" / "node_modules").exists():
        pytest.skip("what the front end is built with is not there; type: make ui")
    environment = {**os.environ, "PATH": hatch_build.search_path()}
    command = ["npm", "run", "--silent", script]
    done = subprocess.run(command, cwd=ROOT / "ui", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
