from __future__ import annotations

import contextvars
import dataclasses
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import settings
from penstock.exceptions import ConfigurationError
from penstock.settings import Settings, current, files, home, temporary_settings


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variables, no files around, and nothing said before."""
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    for cached in (settings._merged, settings._warn_unknown, files._warn_foreign):
        cached.cache_clear()
    yield
    for cached in (settings._merged, settings._warn_unknown, files._warn_foreign):
        cached.cache_clear()


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# --- reading ---


def test_the_defaults() -> None:
    assert current() == Settings()
    assert dataclasses.asdict(current()) == {
        "home": None,
        "logging_level": "INFO",
        "logging_format": "text",
        "logging_record_level": None,
        "progress": "auto",
        "progress_interval_seconds": 10.0,
        "traceback": "short",
        "runner": None,
        "logging_log_prints": False,
        "cancel_grace_seconds": 3.0,
        "timeout_grace_seconds": 0.3,
        "tasks_runner_thread_pool_max_workers": 256,
        "tasks_runner_process_pool_max_workers": None,
        "tasks_default_retries": 0,
        "tasks_default_retry_delay_seconds": (),
        "tasks_refresh_cache": False,
        "tasks_disable_caching": False,
        "tasks_default_no_cache": False,
        "tasks_default_persist_result": None,
        "flows_default_retries": 0,
        "flows_default_retry_delay_seconds": (),
        "flows_default_on_unobserved_failure": "fail",
        "results_persist_by_default": False,
        "results_default_serializer": "pickle",
        "results_durability": "process",
        "results_inline_bytes": 65536,
        "results_key_path": None,
        "results_local_storage_path": None,
        "store_url": None,
        "store_window_seconds": 0.05,
        "store_patience_seconds": 5.0,
        "store_keep_days": None,
    }


def test_every_setting_is_described() -> None:
    for entry in dataclasses.fields(Settings):
        assert entry.metadata["help"].endswith("."), entry.name


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("HOME", "/data/runs", Path("/data/runs")),
        ("HOME", "~/runs", Path.home() / "runs"),
        ("LOGGING_LEVEL", "debug", "DEBUG"),
        ("LOGGING_LOG_PRINTS", "true", True),
        ("LOGGING_LOG_PRINTS", " ON ", True),
        ("CANCEL_GRACE_SECONDS", "0", 0.0),
        ("TIMEOUT_GRACE_SECONDS", "0.4", 0.4),
        ("TASKS_RUNNER_THREAD_POOL_MAX_WORKERS", "8", 8),
        ("TASKS_RUNNER_PROCESS_POOL_MAX_WORKERS", "1", 1),
        ("TASKS_DEFAULT_RETRIES", "3", 3),
        ("TASKS_DEFAULT_RETRY_DELAY_SECONDS", "1.5", (1.5,)),
        ("TASKS_DEFAULT_RETRY_DELAY_SECONDS", "1, 10,100", (1.0, 10.0, 100.0)),
        ("TASKS_REFRESH_CACHE", "1", True),
        ("TASKS_DISABLE_CACHING", "yes", True),
        ("TASKS_DEFAULT_NO_CACHE", "True", True),
        ("TASKS_DEFAULT_PERSIST_RESULT", "no", False),
        ("FLOWS_DEFAULT_RETRIES", "0", 0),
        ("FLOWS_DEFAULT_RETRY_DELAY_SECONDS", "2", (2.0,)),
        ("RESULTS_PERSIST_BY_DEFAULT", "off", False),
        ("RESULTS_DEFAULT_SERIALIZER", "json", "json"),
        ("RESULTS_LOCAL_STORAGE_PATH", "results", Path("results")),
        ("STORE_WINDOW_SECONDS", "1", 1.0),
        ("STORE_PATIENCE_SECONDS", "1e9", 1e9),
    ],
)
def test_variables(monkeypatch: pytest.MonkeyPatch, variable: str, text: str, value: Any) -> None:
    monkeypatch.setenv(f"PENSTOCK_{variable}", text)
    found = getattr(current(), variable.lower())
    assert found == value
    assert type(found) is type(value)


NUMBERS = "a number of seconds, or up to 50 of them, as in 1,10,100"


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("HOME", "~no_such_user_here/x", "a path"),
        ("LOGGING_LEVEL", "loud", "DEBUG, INFO, WARNING, ERROR or CRITICAL"),
        ("LOGGING_LOG_PRINTS", "maybe", "true or false"),
        ("CANCEL_GRACE_SECONDS", "-1", "a number of seconds, 0 or more"),
        ("CANCEL_GRACE_SECONDS", "inf", "a number of seconds, 0 or more"),
        ("TIMEOUT_GRACE_SECONDS", "0.5", "a number of seconds from 0 to 0.4"),
        ("TIMEOUT_GRACE_SECONDS", "nan", "a number of seconds from 0 to 0.4"),
        ("STORE_WINDOW_SECONDS", "1.1", "a number of seconds from 0 to 1"),
        ("STORE_PATIENCE_SECONDS", "inf", "a number of seconds, 0 or more"),
        ("FLOWS_DEFAULT_ON_UNOBSERVED_FAILURE", "ignore", "fail or warn"),
        ("TASKS_RUNNER_THREAD_POOL_MAX_WORKERS", "0", "an integer, 1 or more"),
        ("TASKS_RUNNER_PROCESS_POOL_MAX_WORKERS", "2.5", "an integer, 1 or more"),
        ("TASKS_DEFAULT_RETRIES", "-1", "an integer, 0 or more"),
        ("TASKS_DEFAULT_RETRIES", "many", "an integer, 0 or more"),
        ("TASKS_DEFAULT_RETRY_DELAY_SECONDS", "1,,2", NUMBERS),
        ("TASKS_DEFAULT_RETRY_DELAY_SECONDS", "1,-2", NUMBERS),
        ("FLOWS_DEFAULT_RETRY_DELAY_SECONDS", ",".join(["1"] * 51), NUMBERS),
    ],
)
def test_invalid_values_are_named(monkeypatch: pytest.MonkeyPatch, variable: str, text: str, expected: str) -> None:
    monkeypatch.setenv(f"PENSTOCK_{variable}", text)
    for _ in range(2):  # an error is not remembered as an answer
        with pytest.raises(ConfigurationError) as caught:
            current()
        assert str(caught.value) == f"PENSTOCK_{variable}={text!r} is not valid: expected {expected}."
    assert isinstance(caught.value, ValueError)


def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for entry in dataclasses.fields(Settings):
        monkeypatch.setenv(f"PENSTOCK_{entry.name.upper()}", "")
    assert current() == Settings()


def test_changes_are_seen_and_equal_environments_share_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    before = current()
    monkeypatch.setenv("PENSTOCK_TASKS_DEFAULT_RETRIES", "2")
    assert current().tasks_default_retries == 2
    monkeypatch.setenv("PENSTOCK_TASKS_DEFAULT_RETRIES", "3")
    assert current().tasks_default_retries == 3
    monkeypatch.delenv("PENSTOCK_TASKS_DEFAULT_RETRIES")
    assert current() is before


def test_settings_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        current().tasks_default_retries = 1  # type: ignore[misc]


# --- unknown names ---


def test_an_unknown_name_is_warned_about_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PENSTOCK_TASK_DEFAULT_RETRIES", "2")
    assert current() == Settings()
    monkeypatch.setenv("PENSTOCK_TASKS_DEFAULT_RETRIES", "2")
    assert current().tasks_default_retries == 2
    assert warnings_in(caplog) == [
        "Ignored the unknown setting PENSTOCK_TASK_DEFAULT_RETRIES. Did you mean PENSTOCK_TASKS_DEFAULT_RETRIES?"
    ]
    assert caplog.records[0].name == "penstock"


def test_a_name_like_no_other_gets_no_suggestion(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PENSTOCK_QQ", "2")
    current()
    assert warnings_in(caplog) == ["Ignored the unknown setting PENSTOCK_QQ."]


def test_overrides_of_the_runtime_are_no_settings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PENSTOCK__RUNTIME__TASK_RUN__NAME", "x")
    monkeypatch.setenv("PENSTOCKING", "x")
    assert current() == Settings()
    assert warnings_in(caplog) == []


# --- temporary settings ---


def test_temporary_settings_win_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_TASKS_DEFAULT_RETRIES", "2")
    with temporary_settings({"PENSTOCK_TASKS_DEFAULT_RETRIES": 5, "tasks_refresh_cache": True}) as inside:
        assert inside is current()
        assert (inside.tasks_default_retries, inside.tasks_refresh_cache) == (5, True)
        with temporary_settings({"tasks_default_retries": None}):
            assert (current().tasks_default_retries, current().tasks_refresh_cache) == (0, True)
        assert current().tasks_default_retries == 5
    assert (current().tasks_default_retries, current().tasks_refresh_cache) == (2, False)


def test_temporary_settings_end_with_an_exception() -> None:
    with pytest.raises(KeyError), temporary_settings({"tasks_default_retries": 5}):
        raise KeyError
    assert current().tasks_default_retries == 0


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("tasks_default_retry_delay_seconds", [1, 2.5], (1.0, 2.5)),
        ("tasks_default_retry_delay_seconds", (), ()),
        ("tasks_default_retry_delay_seconds", 3, (3.0,)),
        ("results_local_storage_path", Path("/r"), Path("/r")),
        ("cancel_grace_seconds", 0.1, 0.1),
        ("tasks_default_persist_result", False, False),
        ("PENSTOCK_LOGGING_LEVEL", "error", "ERROR"),
    ],
)
def test_temporary_values_are_texts_or_values(key: str, value: Any, expected: Any) -> None:
    with temporary_settings({key: value}) as inside:
        assert getattr(inside, key.removeprefix("PENSTOCK_").lower()) == expected


def test_temporary_settings_refuse_what_is_wrong() -> None:
    with pytest.raises(ConfigurationError) as caught, temporary_settings({"task_default_retries": 1}):
        pytest.fail("entered")
    assert str(caught.value) == (
        "There is no setting 'task_default_retries'. Did you mean PENSTOCK_TASKS_DEFAULT_RETRIES?"
    )
    with pytest.raises(ConfigurationError) as refused, temporary_settings({"tasks_default_retries": -1}):
        pytest.fail("entered")
    assert str(refused.value) == ("PENSTOCK_TASKS_DEFAULT_RETRIES='-1' is not valid: expected an integer, 0 or more.")
    assert current() == Settings()


def test_temporary_settings_hold_in_this_context_only() -> None:
    seen: list[int] = []

    def look() -> None:
        seen.append(current().tasks_default_retries)

    with temporary_settings({"tasks_default_retries": 5}):
        context = contextvars.copy_context()
        for target in (look, lambda: context.run(look)):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert seen == [0, 5]


# --- places ---


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory below which nothing is configured."""
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    deep = tmp_path / "project" / "src" / "deep"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    return tmp_path


def test_home_is_the_variable_first(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nowhere / "project" / ".penstock").mkdir()
    monkeypatch.setenv("PENSTOCK_HOME", "runs")
    assert home() == Path.cwd() / "runs"
    monkeypatch.chdir(nowhere)
    assert home() == nowhere / "runs"
    with temporary_settings({"home": nowhere / "other"}):
        assert home() == nowhere / "other"
    assert not home().exists()


def test_home_needs_no_other_variable(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_HOME", "/runs")
    monkeypatch.setenv("PENSTOCK_TASKS_DEFAULT_RETRIES", "invalid")
    assert home() == Path("/runs")


def test_home_is_the_nearest_project_directory_next(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    (nowhere / ".penstock").mkdir()
    assert home() == nowhere / ".penstock"
    (nowhere / "project" / ".penstock").mkdir()
    assert home() == nowhere / "project" / ".penstock"
    (nowhere / "project" / "src" / ".penstock").write_text("a file is no directory")
    assert home() == nowhere / "project" / ".penstock"
    (Path.cwd() / ".penstock").mkdir()
    assert home() == Path.cwd() / ".penstock"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="files have no owner here")
def test_a_project_directory_of_another_user_is_ignored(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = nowhere / "project" / ".penstock"
    foreign.mkdir()
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    assert home() == home() == nowhere / "me" / ".local" / "state" / "penstock"
    assert warnings_in(caplog) == [
        f"Ignored {foreign}: it belongs to another user. To use it, set PENSTOCK_HOME={foreign}"
    ]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("/state", "/state/penstock"),
        ("", "me/.local/state/penstock"),
        ("relative", "me/.local/state/penstock"),
    ],
)
def test_home_is_the_state_directory_last(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, state: str, expected: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", state)
    assert home() == nowhere / expected
    assert not (nowhere / "me").exists()


def test_a_deleted_working_directory_is_no_obstacle(nowhere: Path) -> None:
    Path.cwd().rmdir()
    assert home() == nowhere / "me" / ".local" / "state" / "penstock"


def test_without_any_home_the_error_says_what_to_set(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ConfigurationError) as caught:
        home()
    assert str(caught.value) == "There is no home directory: set PENSTOCK_HOME to a directory."
