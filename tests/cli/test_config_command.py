"""`penstock config`: settings with their origins, files, schema."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from penstock.cli import main
from penstock.settings import reference
from penstock.settings.table import KNOWN


@pytest.fixture(autouse=True)
def project(own_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, the root of a repository, with a file in it."""
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    directory = tmp_path / "project"
    (directory / ".git").mkdir(parents=True)
    (directory / "penstock.toml").write_text("[tasks]\ndefault_retries = 3\ndefault_retry_delay_seconds = [1, 10]\n")
    monkeypatch.chdir(directory)
    return directory


def config(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["config", *arguments])


def test_show_tells_values_and_origins(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_LOGGING_LOG_PRINTS", "yes")
    result = config("show")
    assert result.exit_code == 0 and result.stderr == ""
    lines = [line.split(maxsplit=2) for line in result.stdout.splitlines()]
    assert lines[0] == ["SETTING", "VALUE", "ORIGIN"]
    assert [line[0] for line in lines[1:]] == [field.name for field in KNOWN.values()]
    rows = {line[0]: line[1:] for line in lines}
    assert rows["home"] == [str(tmp_path / "state" / "penstock"), "default"]
    assert rows["tasks_default_retries"] == ["3", f"{project}/penstock.toml:2"]
    assert rows["tasks_default_retry_delay_seconds"] == ["1.0,10.0", f"{project}/penstock.toml:3"]
    assert rows["logging_log_prints"] == ["true", "PENSTOCK_LOGGING_LOG_PRINTS"]
    assert rows["runner"] == ["unset", "default"]


def test_show_of_some(project: Path) -> None:
    result = config("show", "tasks_default_retries", "logging_level")
    assert result.stdout.splitlines() == [
        f"SETTING                VALUE  ORIGIN{' ' * 0}",
        "logging_level          INFO   default",
        f"tasks_default_retries  3      {project}/penstock.toml:2",
    ]
    wrong = config("show", "tasks_default_retry")
    assert wrong.exit_code == 2
    assert "there is no setting 'tasks_default_retry'. Did you mean tasks_default_retries?" in wrong.stderr


def test_show_as_json(project: Path) -> None:
    document = json.loads(config("show", "--json").stdout)
    assert document["schema"] == 1
    found = {one.pop("name"): one for one in document["settings"]}
    assert list(found) == [field.name for field in KNOWN.values()]
    path = f"{project}/penstock.toml"
    assert found["tasks_default_retries"] == {"value": 3, "source": "file", "where": f"{path}:2"}
    assert found["tasks_default_retry_delay_seconds"] == {"value": [1.0, 10.0], "source": "file", "where": f"{path}:3"}
    assert found["results_key_path"] == {"value": None, "source": "default", "where": None}
    assert isinstance(found["home"]["value"], str)


def test_show_refuses_what_a_run_would_refuse(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "penstock.toml").write_text("[tasks]\ndefault_retry = 3\n")
    result = config("show")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{project}/penstock.toml:2: there is no setting 'tasks.default_retry'" in result.stderr
    (project / "penstock.toml").unlink()
    monkeypatch.setenv("PENSTOCK_LOGGING_LEVEL", "loud")
    assert "PENSTOCK_LOGGING_LEVEL='loud' is not valid" in config("show").stderr


def test_a_command_that_runs_a_flow_says_what_is_wrong(project: Path) -> None:
    (project / "penstock.toml").write_text("[tasks]\ndefault_retry = 3\n")
    (project / "etl.py").write_text("from penstock import flow\n@flow\ndef etl(): print('ran')\n")
    for command in (["run", "etl.py"], ["run", "etl.py", "--runner", "threads"], ["ls"]):
        result = CliRunner().invoke(main, command)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "there is no setting 'tasks.default_retry'" in result.stderr


def test_path_tells_what_is_looked_for(project: Path, tmp_path: Path) -> None:
    (project / "src").mkdir()
    os.chdir(project / "src")
    (project / "pyproject.toml").write_text("[project]")
    result = config("path")
    assert result.exit_code == 0
    assert [line.split(maxsplit=1) for line in result.stdout.splitlines()] == [
        ["FILE", "FOUND"],
        [f"{project}/src/penstock.toml", "not there"],
        [f"{project}/penstock.toml", "used"],
        [f"{project}/src/pyproject.toml", "not there"],
        [f"{project}/pyproject.toml", "has no [tool.penstock]"],
        [f"{tmp_path}/config/penstock/config.toml", "not there"],
    ]


def test_path_tells_what_is_wrong_with_files(project: Path) -> None:
    (project / "penstock.toml").write_text("[tasks\n")
    result = config("path", "--json")
    assert result.exit_code == 0
    first = json.loads(result.stdout)["files"][0]
    assert first["path"] == f"{project}/penstock.toml"
    assert first["found"].startswith(f"{project}/penstock.toml:1: this is not valid TOML: ")


def test_schema(project: Path) -> None:
    (project / "penstock.toml").write_text("[tasks\n")  # needs no valid settings
    result = config("schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json.loads(json.dumps(reference.schema()))
