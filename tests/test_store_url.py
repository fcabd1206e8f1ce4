"""The setting that names a database: from where it may come, and that its password is nowhere to be seen."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from click.testing import CliRunner

from penstock import settings
from penstock import task as penstock_task
from penstock.cli import main
from penstock.exceptions import ConfigurationError
from penstock.settings.table import DatabaseURL, without_password
from penstock.testing.isolation import home_in_memory, isolated_store

URL = "postgresql://me:S3cret@db.example:5433/runs?sslmode=require"
SHOWN = "postgresql://me@db.example:5433/runs?sslmode=require"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (URL, SHOWN),
        ("postgres://db/runs", "postgres://db/runs"),
        ("postgresql://me@db/runs", "postgresql://me@db/runs"),
        ("postgresql://:S3cret@db", "postgresql://@db"),
        ("postgresql://me:S3/c@ret@db/runs", "postgresql://me@db/runs"),
        ("postgresql://db/runs?password=S3cret&connect_timeout=2", "postgresql://db/runs?connect_timeout=2"),
        ("postgresql://db/runs?sslPassword=S3cret", "postgresql://db/runs"),
        ("postgresql://db/runs?p%61ssword=S3cret", "postgresql://db/runs"),
        ("me:S3cret@db", "..."),
        ("", "..."),
    ],
)
def test_without_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_it_is_the_text_and_looks_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_STORE_URL", URL)
    now = settings.current()
    assert now.store_url == settings.store_url() == URL
    assert "S3cret" not in repr(now) and SHOWN in repr(now)
    again = pickle.loads(pickle.dumps(now))  # as it travels to workers
    assert again.store_url == URL and "S3cret" not in repr(again)
    assert isinstance(again.store_url, DatabaseURL)


@pytest.mark.parametrize("wrong", ["me:S3cret@db", "mysql://me:S3cret@db/x", "postgresql://me:S3 cret@db", "S3cret"])
def test_what_is_none_is_refused_without_being_shown(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_STORE_URL", wrong)
    with pytest.raises(
        ConfigurationError, match=r"PENSTOCK_STORE_URL='.*' is not valid: expected a URL, as in"
    ) as caught:
        settings.current()
    error: BaseException | None = caught.value
    while error is not None:
        assert "S3" not in str(error)
        error = error.__cause__


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_config_shows_it_without(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_STORE_URL", URL)
    shown = CliRunner().invoke(main, ["config", "show", "store_url", *arguments])
    assert shown.exit_code == 0
    assert SHOWN in shown.output and "S3cret" not in shown.output


def test_a_project_may_not_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "penstock.toml").write_text(f'[store]\nurl = "{URL}"\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"files of a project, .* Set PENSTOCK_STORE_URL") as caught:
        settings.current()
    assert "S3cret" not in str(caught.value)


def test_the_users_own_file_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "penstock").mkdir()
    file = tmp_path / "penstock" / "config.toml"
    file.write_text(f'[store]\nurl = "{URL}"\n')
    assert settings.store_url() == URL
    monkeypatch.setenv("PENSTOCK_STORE_URL", "none")
    assert settings.store_url() is None
    monkeypatch.delenv("PENSTOCK_STORE_URL")
    file.write_text('[store]\nurl = "mysql://me:S3cret@db"\n')
    with pytest.raises(ConfigurationError, match="is not valid: expected a URL") as caught:
        settings.current()
    assert "S3cret" not in str(caught.value)


def test_a_store_in_a_directory_that_is_named_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_STORE_URL", "postgresql://me:S3cret@localhost:1/x")
    listed = CliRunner().invoke(main, ["ls", "--store", str(tmp_path)])
    assert listed.exit_code == 3 and f"there is no run store at {tmp_path}/penstock.db" in listed.output


def test_tests_do_not_record_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_STORE_URL", URL)
    with isolated_store() as store:
        assert settings.store_url() is None
        assert penstock_task(lambda: 1)() == 1
        assert [row.status for row in store.runs()] == ["COMPLETED"]
    with home_in_memory(str(tmp_path / "home")):
        assert settings.store_url() is None
    assert settings.store_url() == URL
