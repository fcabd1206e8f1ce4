"""`penstock init`: what it makes, that it leaves alone what is there, and that the settings it writes are right."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from penstock import settings
from penstock.cli import main
from penstock.settings.table import KNOWN, Settings


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, in which the command is typed, in an environment without settings."""
    for name in os.environ:
        if name.startswith("PENSTOCK_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    directory = tmp_path / "project"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def init(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["init", *map(str, arguments)])


def test_a_project_gets_a_store_and_settings(project: Path) -> None:
    result = init()
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        ".penstock is made: runs are recorded there",
        "penstock.toml is made: all settings, commented out",
    ]
    assert settings.home() == project / ".penstock"
    assert stat.S_IMODE((project / ".penstock").stat().st_mode) == 0o700
    assert (project / ".penstock" / ".gitignore").read_text().splitlines()[-1] == "*"


def test_git_does_not_see_the_store(project: Path) -> None:
    init()
    (project / ".penstock" / "penstock.db").touch()
    subprocess.run(["git", "init", "--quiet"], check=True)
    status = subprocess.run(["git", "status", "--porcelain", "-uall"], capture_output=True, text=True, check=True)
    assert status.stdout == "?? penstock.toml\n"


def test_twice_does_no_harm(project: Path) -> None:
    init()
    (project / "penstock.toml").write_text("progress = 'off'\n")
    (project / ".penstock" / ".gitignore").write_text("mine\n")
    assert init().stdout.splitlines() == [".penstock is there already", "penstock.toml is there already"]
    assert (project / "penstock.toml").read_text() == "progress = 'off'\n"
    assert (project / ".penstock" / ".gitignore").read_text() == "mine\n"


def test_a_store_without_its_gitignore_gets_one(project: Path) -> None:
    (project / ".penstock").mkdir()
    assert init().stdout.splitlines()[0] == ".penstock/.gitignore is made"


def test_settings_in_pyproject_stay_the_only_ones(project: Path) -> None:
    (project / "pyproject.toml").write_text("[project]\nname = 'x'\n\n[tool.penstock]\nprogress = 'off'\n")
    assert init().stdout.splitlines()[1] == "pyproject.toml has settings already: no penstock.toml is made"
    assert not (project / "penstock.toml").exists()


def test_another_directory(project: Path) -> None:
    assert init("deep/er").exit_code == 0
    assert (project / "deep" / "er" / ".penstock").is_dir() and (project / "deep" / "er" / "penstock.toml").exists()
    (project / "file").touch()
    result = init("file/x")
    assert (result.exit_code, "Not a directory" in result.stderr) == (1, True)


def test_who_has_set_penstock_home_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_HOME", "/elsewhere")
    assert init().stdout.splitlines()[-1] == "PENSTOCK_HOME is set, and wins: runs are recorded in /elsewhere"


def test_the_settings_say_nothing_as_they_are(project: Path) -> None:
    init()
    assert settings.current() == Settings()


def test_each_line_is_the_default_once_it_is_no_comment(project: Path) -> None:
    init()
    written = (project / "penstock.toml").read_text("utf-8")
    names = {field.name for field in KNOWN.values() if not field.metadata["yours"]}
    assert len(re.findall(r"^# \w+ = ", written, re.MULTILINE)) == len(names)
    said = re.sub(r"^# (\w+ = (?!\.\.\.))", r"\1", written, flags=re.MULTILINE)
    (project / "penstock.toml").write_text(said, "utf-8")
    assert settings.current() == Settings()
    from_file = {one.name for one in settings.stated() if one.source == "file"}
    assert from_file == {
        field.name for field in KNOWN.values() if field.name in names and field.default not in (None, ())
    }
