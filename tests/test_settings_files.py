"""Settings in files: which are found, what wins, what is refused."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import flow, settings, task
from penstock.exceptions import ConfigurationError
from penstock.settings import Settings, current, files, home, reference, temporary_settings
from penstock.settings.table import KNOWN
from penstock.task_runners import DaskTaskRunner, ProcessPoolTaskRunner, RayTaskRunner

posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="files have no owner here")


@pytest.fixture(autouse=True)
def clean(own_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variables, a working directory inside a repository, and nothing said before."""
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "project" / ".git").mkdir(parents=True)
    (tmp_path / "project" / "src").mkdir()
    monkeypatch.chdir(tmp_path / "project" / "src")
    files._warn_foreign.cache_clear()
    yield
    files._warn_foreign.cache_clear()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return tmp_path / "project"


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "config" / "penstock" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


def refused() -> str:
    for _ in range(2):  # an error is not remembered as an answer
        with pytest.raises(ConfigurationError) as caught:
            current()
    return str(caught.value)


# --- what wins ---


def test_each_source_wins_over_the_next(project: Path, users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [current().tasks_default_retries]
    users.write_text("tasks.default_retries = 1")
    seen.append(current().tasks_default_retries)
    (project / "pyproject.toml").write_text("[tool.penstock.tasks]\ndefault_retries = 2")
    seen.append(current().tasks_default_retries)
    (project / "penstock.toml").write_text("[tasks]\ndefault_retries = 3")
    seen.append(current().tasks_default_retries)
    monkeypatch.setenv("PENSTOCK_TASKS_DEFAULT_RETRIES", "4")
    seen.append(current().tasks_default_retries)
    with temporary_settings({"tasks_default_retries": 5}):
        seen.append(current().tasks_default_retries)
        with temporary_settings({"tasks_default_retries": None}):
            seen.append(current().tasks_default_retries)
    monkeypatch.setenv("PENSTOCK_TASKS_DEFAULT_RETRIES", "")
    seen.append(current().tasks_default_retries)
    assert seen == [0, 1, 2, 3, 4, 5, 0, 3]


def test_what_one_file_does_not_say_the_next_may(project: Path, users: Path) -> None:
    users.write_text("tasks.default_retries = 1\nflows.default_retries = 1\nlogging.level = 'ERROR'")
    (project / "pyproject.toml").write_text("[tool.penstock]\ntasks.default_retries = 2\nflows.default_retries = 2")
    (project / "penstock.toml").write_text("tasks.default_retries = 3")
    now = current()
    assert (now.tasks_default_retries, now.flows_default_retries, now.logging_level) == (3, 2, "ERROR")


def test_arguments_win_over_files(project: Path) -> None:
    (project / "penstock.toml").write_text("[tasks]\ndefault_retries = 2\ndefault_retry_delay_seconds = 0")
    attempts: list[str] = []

    def fails(which: str) -> None:
        attempts.append(which)
        raise ValueError

    @flow(on_unobserved_failure="warn")
    def etl() -> None:
        task(fails).submit("by the file").wait()
        task(fails, retries=1).submit("by the argument").wait()

    etl()
    assert attempts == ["by the file"] * 3 + ["by the argument"] * 2


# --- keys and values ---


@pytest.mark.parametrize(
    "text",
    [
        "[tasks]\ndefault_retries = 3",
        "[tasks]\n'default_retries' = 3",
        "tasks.default_retries = 3",
        "tasks_default_retries = 3",
        "tasks = {default_retries = 3}",
        "[tasks]\r\ndefault_retries = 0x3\r\n",
    ],
    ids=["table", "quoted", "dotted", "flat", "inline", "windows"],
)
def test_spellings_of_a_key(project: Path, text: str) -> None:
    (project / "penstock.toml").write_text(text, newline="")
    assert current() == Settings(tasks_default_retries=3)


@pytest.mark.parametrize(
    "text",
    [
        "[tool.penstock.tasks]\ndefault_retries = 3",
        "[ tool . 'penstock' . tasks ]\ndefault_retries = 3",
        "[tool]\npenstock = {tasks = {default_retries = 3}}",
        "tool.penstock.tasks_default_retries = 3",
        'tool = {"penstock" = {tasks_default_retries = 3}}',
        "[tool]\nother = 1\n[tool.penstock]\ntasks.default_retries = 3",
    ],
    ids=["tables", "quoted", "inline", "dotted", "all-inline", "others"],
)
def test_spellings_of_the_table_in_a_shared_file(project: Path, text: str) -> None:
    (project / "pyproject.toml").write_text(text)
    assert current() == Settings(tasks_default_retries=3)


@pytest.mark.parametrize(
    ("key", "toml", "value"),
    [
        ("logging.log_prints", "true", True),
        ("tasks.default_persist_result", "false", False),
        ("logging.level", '"debug"', "DEBUG"),
        ("runner", '"threads"', "threads"),
        ("cancel_grace_seconds", "1", 1.0),
        ("cancel_grace_seconds", "1.5", 1.5),
        ("tasks.default_retry_delay_seconds", "2", (2.0,)),
        ("tasks.default_retry_delay_seconds", "[\n  1,\n  2.5,\n]", (1.0, 2.5)),
        ("results.default_serializer", '"json"', "json"),
        ("store.window_seconds", "1e-1", 0.1),
    ],
)
def test_values(project: Path, key: str, toml: str, value: Any) -> None:
    (project / "penstock.toml").write_text(f"{key} = {toml}")
    found = getattr(current(), key.replace(".", "_"))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "toml", "expected"),
    [
        ("logging.log_prints", '"true"', "true or false"),
        ("logging.log_prints", "1", "true or false"),
        ("logging.level", "10", "DEBUG, INFO, WARNING, ERROR or CRITICAL"),
        ("logging.level", '"loud"', "DEBUG, INFO, WARNING, ERROR or CRITICAL"),
        ("tasks.default_retries", "true", "an integer, 0 or more"),
        ("tasks.default_retries", "2.0", "an integer, 0 or more"),
        ("tasks.default_retries", '"2"', "an integer, 0 or more"),
        ("tasks.default_retries", "-1", "an integer, 0 or more"),
        ("cancel_grace_seconds", '"3"', "a number of seconds, 0 or more"),
        ("cancel_grace_seconds", "nan", "a number of seconds, 0 or more"),
        ("timeout_grace_seconds", "0.5", "a number of seconds from 0 to 0.4"),
        ("tasks.default_retry_delay_seconds", "[]", "a number of seconds, or up to 50 of them, as in 1,10,100"),
        ("tasks.default_retry_delay_seconds", "[true]", "a number of seconds, or up to 50 of them, as in 1,10,100"),
        ("home", "1979-05-27", "a path"),
        ("home", '""', "a path"),
        ("results.default_serializer", '["json"]', "text"),
    ],
)
def test_values_that_do_not_fit(project: Path, key: str, toml: str, expected: str) -> None:
    path = project / "penstock.toml"
    path.write_text(f"# mine\n\n{key} = {toml}\n")
    shown = f'"{toml}"' if "-05-" in toml else "NaN" if toml == "nan" else toml
    assert refused() == f"{path}:3: {key} = {shown} is not valid: expected {expected}."


def test_an_invalid_value_is_an_error_although_something_else_wins(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "penstock.toml").write_text("[tasks]\ndefault_retries = -1")
    monkeypatch.setenv("PENSTOCK_TASKS_DEFAULT_RETRIES", "4")
    assert "expected an integer" in refused()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tasks]\n\ndefault_retry = 1", "3: there is no setting 'tasks.default_retry'. Did you mean RETRIES?"),
        ("[task]\ndefault_retries = 1", "2: there is no setting 'task.default_retries'. Did you mean RETRIES?"),
        ("[tasks.default]\nretries = 1", "2: there is no setting 'tasks.default.retries'. Did you mean RETRIES?"),
        ("loging_level = 'DEBUG'", "1: there is no setting 'loging_level'. Did you mean logging.level?"),
        ("[progress]\nmode = 'on'", "2: there is no setting 'progress.mode'. Did you mean progress?"),
        ("[qqqq]\n", "1: there is no setting 'qqqq'."),
        ("[[qqqq]]\nx = 1", "1: there is no setting 'qqqq'."),
        ("x.y = {}", "1: there is no setting 'x.y'."),
        ("[tool.penstock]\nx = 1", "2: there is no setting 'tool.penstock.x'."),
        ("tasks_default_retries = 1\n[tasks]\ndefault_retries = 2", "3: tasks_default_retries is set a second time."),
    ],
)
def test_keys_that_do_not_fit(project: Path, text: str, said: str) -> None:
    path = project / "penstock.toml"
    path.write_text(text)
    assert refused() == f"{path}:{said}".replace("RETRIES", "tasks.default_retries")


def test_a_key_inside_an_inline_table_is_found_in_the_line_of_the_table(project: Path) -> None:
    path = project / "pyproject.toml"
    path.write_text("[tool]\n\npenstock = {tasks = {default_retry = 1}}")
    assert refused().startswith(f"{path}:3: there is no setting 'tasks.default_retry'.")


@pytest.mark.parametrize("line", ["[" + "1" * 3000 + ",", '["' + "a." * 3000 + '",', "  " * 3000 + "1,"])
def test_no_line_takes_for_ever(project: Path, line: str) -> None:
    path = project / "pyproject.toml"
    path.write_text(f"[tool.other]\nx = [\n{line}\n{']' if line[0] == '[' else ''}]\n[tool.penstock]\ntasks.x = 1")
    assert refused().startswith(f"{path}:6: there is no setting 'tasks.x'.")


def test_the_table_must_be_one(project: Path) -> None:
    path = project / "pyproject.toml"
    path.write_text("[tool]\npenstock = 3")
    assert refused() == f"{path}: penstock = 3 is not valid: expected a table."
    path.write_text("tool = 'penstock'")
    assert refused() == f'{path}: tool = "penstock" is not valid: expected a table.'


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"[tasks]\ndefault_retries = = 3\n", ":2"),
        (b"[tasks]\n\ndefault_retries", ":3"),
        (b"logging.level = '''\n\n", ":1"),
        (b"[tasks]\n[tasks]\n", ":2"),
        (b"logging.level = '\xff'", ""),
        (b"tasks.default_retries = " + b"9" * 5000, ""),
        (b"x = " + b"[" * 100_000, ""),
    ],
    ids=["twice", "cut-off", "open", "same-table", "latin-1", "huge", "deep"],
)
def test_a_broken_file_is_named(project: Path, content: bytes, line: str) -> None:
    path = project / "penstock.toml"
    path.write_bytes(content)
    assert refused().startswith(f"{path}{line}: this is not valid TOML: ")


def test_a_shared_file_that_has_no_table_for_us_may_be_broken(project: Path) -> None:
    (project / "pyproject.toml").write_text("[project]\ndependencies = ['penstock'\n")
    assert current() == Settings()


def test_a_file_that_cannot_be_read_is_an_error(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project / "penstock.toml"
    path.write_text("tasks.default_retries = 1")

    def refuse(name: Any, *rest: Any) -> Any:
        if name == str(path):
            raise PermissionError(13, "Permission denied", name)
        return builtins.open(name, *rest)

    monkeypatch.setattr(files, "open", refuse, raising=False)
    assert refused() == f"{path} cannot be read: Permission denied."


# --- where ---


def test_files_are_looked_for_up_to_the_root_of_the_repository(tmp_path: Path, project: Path) -> None:
    (tmp_path / "penstock.toml").write_text("tasks.default_retries = 9")
    (tmp_path / "pyproject.toml").write_text("tool.penstock.flows.default_retries = 9")
    assert current() == Settings()
    (project / ".git").rmdir()
    assert current() == Settings(tasks_default_retries=9, flows_default_retries=9)
    (project / ".git").write_text("gitdir: elsewhere")  # a work tree, or a submodule
    assert current() == Settings()


def test_the_nearest_of_each_name_is_used_alone(project: Path) -> None:
    (project / "penstock.toml").write_text("tasks.default_retries = 1\nflows.default_retries = 1")
    (project / "src" / "penstock.toml").write_text("tasks.default_retries = 2")
    assert current() == Settings(tasks_default_retries=2)
    (project / "src" / "pyproject.toml").write_text("[tool.other]\nx = 1")  # has no table: the next may have one
    (project / "pyproject.toml").write_text("tool.penstock.logging.level = 'ERROR'")
    assert current() == Settings(tasks_default_retries=2, logging_level="ERROR")
    (project / "src" / "pyproject.toml").write_text("[tool.penstock]")
    assert current() == Settings(tasks_default_retries=2)


def test_what_is_no_file_is_none_of_ours(project: Path) -> None:
    (project / "src" / "penstock.toml").mkdir()
    os.mkfifo(project / "src" / "pyproject.toml")
    (project / "penstock.toml").write_text("tasks.default_retries = 1")
    assert current() == Settings(tasks_default_retries=1)


@posix
def test_files_of_other_users_are_ignored(
    project: Path, users: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [project / "penstock.toml", users]
    for path in paths:
        path.write_text("tasks.default_retries = 1")
        os.chown(path, 4321, -1)
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    assert current() == current() == Settings()
    assert [record.getMessage() for record in caplog.records] == [
        f"Ignored {path}: it belongs to another user. To use it, make it yours (chown)" for path in paths
    ]
    os.chown(users, 0, -1)
    assert current() == Settings(tasks_default_retries=1)
    os.chown(users, 1234, -1)
    assert current() == Settings(tasks_default_retries=1)


def test_what_is_beyond_the_nearest_is_not_looked_at(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody's file in /tmp is no concern of those who work in a repository there."""
    for name in ("penstock.toml", "pyproject.toml"):
        (tmp_path / name).write_text("[tool.penstock")
        (project / name).write_text("" if name == "penstock.toml" else "[tool.penstock]")
        (project / "src" / name).write_text("")
    (project / "src" / ".penstock").mkdir()
    (project / ".penstock").mkdir()
    looked_at: list[str] = []
    real = files._belongs_to
    monkeypatch.setattr(files, "_belongs_to", lambda path, *users: looked_at.append(path) or real(path, *users))
    assert current() == Settings()
    assert home() == project / "src" / ".penstock"
    assert {os.path.relpath(path, project) for path in looked_at} == {
        *("src/penstock.toml", "src/pyproject.toml", "src/.penstock", "pyproject.toml"),
    }
    assert caplog.records == []


@posix
def test_a_link_of_another_user_is_ignored(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """He would choose which of my files is read, and what its paths are relative to."""
    target, link = project / "mine.toml", project / "penstock.toml"
    target.write_text("tasks.default_retries = 1")
    os.chown(target, 1234, -1)
    link.symlink_to(target)
    os.chown(link, 1234, -1, follow_symlinks=False)
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    assert current() == Settings(tasks_default_retries=1)
    os.chown(link, 4321, -1, follow_symlinks=False)
    os.utime(project)
    assert current() == Settings()


@pytest.mark.parametrize(("configured", "place"), [("xdg", "xdg"), ("relative", "me/.config"), (None, "me/.config")])
def test_the_users_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: str | None, place: str) -> None:
    if configured is None:
        monkeypatch.delenv("XDG_CONFIG_HOME")
    else:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg") if configured == "xdg" else configured)
    path = tmp_path / place / "penstock" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("tasks.default_retries = 1")
    assert current() == Settings(tasks_default_retries=1)
    assert files.user_file() == str(path)


def test_without_a_working_directory_the_users_file_counts(project: Path, users: Path) -> None:
    users.write_text("tasks.default_retries = 1")
    (project / "src").rmdir()
    assert current() == Settings(tasks_default_retries=1)


# --- home, and what a project may not say ---


def test_home_of_a_project_is_relative_to_its_file(project: Path, users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users.write_text('home = "runs"')
    assert home() == users.parent / "runs"
    (project / ".penstock").mkdir()
    assert home() == project / ".penstock"
    (project / "pyproject.toml").write_text('[tool.penstock]\nhome = "build/runs"')
    assert home() == current().home == project / "build" / "runs"
    with temporary_settings({"home": None}):
        assert home() == project / ".penstock"
    monkeypatch.setenv("PENSTOCK_HOME", "/elsewhere")
    (project / "pyproject.toml").write_text("[tool.penstock]\nhome = 3")
    assert home() == Path("/elsewhere")  # needs no file
    monkeypatch.delenv("PENSTOCK_HOME")
    with pytest.raises(ConfigurationError, match="home = 3"):
        home()


def test_users_may_name_any_place(tmp_path: Path, users: Path) -> None:
    users.write_text('home = "~/runs"\nresults = {key_path = "/etc/key", local_storage_path = "../values"}')
    now = current()
    assert home() == now.home == tmp_path / "me" / "runs"
    assert now.results_key_path == Path("/etc/key")
    assert now.results_local_storage_path == users.parent / "../values"


@pytest.mark.parametrize("key", ["home", "results.local_storage_path"])
@pytest.mark.parametrize("place", ["/var/runs", "../runs", "~/runs", ".", "src/../../runs", "link/runs"])
def test_places_of_a_project_are_inside_it(project: Path, key: str, place: str) -> None:
    """A repository that somebody else wrote must not have records and values written all over the machine."""
    (project / "link").symlink_to(project.parent)
    path = project / "penstock.toml"
    path.write_text(f'{key} = "{place}"')
    assert refused() == (
        f'{path}:1: {key} = "{place}": in the files of a project, paths must lead to places below {project}. For '
        f"others, set the environment variable, or write it into {files.user_file()}."
    )
    path.write_text(f'{key} = "some/where"')
    assert getattr(current(), key.replace(".", "_")) == project / "some" / "where"


def test_the_key_of_results_is_not_for_projects(project: Path) -> None:
    path = project / "pyproject.toml"
    path.write_text('[tool.penstock.results]\nkey_path = "results.key"')
    assert refused() == (
        f'{path}:2: results.key_path = "results.key": this is not for the files of a project, which others may have '
        f"written. Set PENSTOCK_RESULTS_KEY_PATH, or write it into {files.user_file()}."
    )


# --- what has changed is seen, what has not is not looked at again ---


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that are read from now on; times of files are believed, however young."""
    found: list[str] = []
    real = files._read

    def read(path: str) -> Any:
        found.append(os.path.basename(path))
        return real(path)

    monkeypatch.setattr(files, "_read", read)
    monkeypatch.setattr(files, "_ROUNDING", -(10**12))
    return found


def test_a_file_is_read_again_when_it_has_changed(project: Path, users: Path, reads: list[str]) -> None:
    path = project / "penstock.toml"
    path.write_text("tasks.default_retries = 1")
    users.write_text("flows.default_retries = 1")
    first = current()
    assert current() is first and home() and current() is first
    assert reads == ["penstock.toml", "config.toml"]
    path.write_text("tasks.default_retries = 22")
    assert current() == current() == Settings(tasks_default_retries=22, flows_default_retries=1)
    assert reads == ["penstock.toml", "config.toml", "penstock.toml"]
    path.unlink()
    users.unlink()
    assert current() == Settings()
    assert len(reads) == 3


@pytest.mark.parametrize("where", ["src", "."])
def test_a_file_that_appears_is_seen(project: Path, reads: list[str], where: str) -> None:
    assert current() == Settings()
    (project / where / "penstock.toml").write_text("tasks.default_retries = 1")
    assert current() == Settings(tasks_default_retries=1)
    (project / where / ".penstock").mkdir()
    assert home() == (project / where).resolve() / ".penstock"


def test_a_file_of_the_user_that_appears_with_its_directory_is_seen(tmp_path: Path, reads: list[str]) -> None:
    assert current() == Settings()
    path = tmp_path / "config" / "penstock" / "config.toml"
    path.parent.mkdir(parents=True)
    assert current() == Settings()
    path.write_text("tasks.default_retries = 1")
    assert current() == Settings(tasks_default_retries=1)


def test_a_young_file_is_read_again_although_its_times_are_the_same(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within their rounding."""
    path = project / "penstock.toml"
    path.write_text("tasks.default_retries = 1")
    stamps = {os.fspath(path): files._stamp(os.fspath(path))}
    real = files._stamp
    monkeypatch.setattr(files, "_stamp", lambda path: stamps.get(path) or real(path))
    assert current().tasks_default_retries == 1
    path.write_text("tasks.default_retries = 2")
    assert current().tasks_default_retries == 2


def test_the_same_surroundings_give_the_same_object(project: Path) -> None:
    path = project / "penstock.toml"
    path.write_text("tasks.default_retries = 1")
    before = current()
    path.write_text("tasks.default_retries = 2")
    assert current() is not before
    path.write_text("tasks.default_retries = 1")
    assert current() is before


def test_many_directories_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(files._MOST_LEVELS + 20):
        directory = tmp_path / str(number)
        directory.mkdir()
        monkeypatch.chdir(directory)
        files.survey()
    assert len(files._levels) <= files._MOST_LEVELS + 1


def test_where_there_is_no_file_no_parser_is_loaded(tmp_path: Path) -> None:
    script = """
import sys
from penstock import settings
before = set(sys.modules)
settings.current()
print(sorted(set(sys.modules) - before))
"""
    command = [sys.executable, "-I", "-c", script]
    environment = {**os.environ, "HOME": str(tmp_path)}
    (tmp_path / "pyproject.toml").write_text("[project]\ndependencies = ['penstock']\n[tool.other]\nx = 1")
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert run.stdout == "[]\n"


# --- workers ---


@task
def looks() -> tuple[int, str, str]:
    os.chdir("/")
    with temporary_settings({"logging_level": "ERROR"}):
        level = current().logging_level
    return current().tasks_default_retries, level, os.fspath(home())


def worker_sees(runner: Any, project: Path) -> None:
    """What the flow's files say, and nothing that the worker finds."""
    (project / "penstock.toml").write_text('tasks.default_retries = 7\nhome = "runs"')

    @flow(task_runner=runner)
    def asks() -> tuple[int, str, str]:
        return looks.submit().result()

    assert asks() == (7, "ERROR", str(project / "runs"))


def test_a_process_has_the_settings_of_the_flow(project: Path, users: Path) -> None:
    worker_sees(ProcessPoolTaskRunner(max_workers=1), project)


def test_a_process_has_the_home_of_the_flow(project: Path) -> None:
    (project / ".penstock").mkdir()

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    def asks() -> tuple[int, str, str]:
        return looks.submit().result()

    assert asks()[2] == str(project / ".penstock")


def test_a_dask_worker_has_the_settings_of_the_flow(project: Path, dask_address: str) -> None:
    worker_sees(DaskTaskRunner(address=dask_address), project)


def test_a_ray_worker_has_the_settings_of_the_flow(project: Path, running_ray: None) -> None:
    worker_sees(RayTaskRunner(), project)


# --- for people and programs ---


def test_every_setting_is_in_the_reference() -> None:
    text = reference.markdown()
    for entry in reference.entries():
        assert f"`{entry.variable}`" in text and entry.help in text
        assert f"`{entry.key.rpartition('.')[2]}`" in text
    assert [entry.name for entry in reference.entries()] == [field.name for field in KNOWN.values()]
    assert "### `[tasks]`" in text and "### Outside any table" in text
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert len(headings) == len(set(headings))  # the groups of the table are not scattered


def test_help_is_fit_for_a_table() -> None:
    for entry in reference.entries():
        assert "|" not in entry.help + entry.expected + entry.default
        assert entry.help.endswith(".")


def test_defaults_are_valid_values() -> None:
    for field in KNOWN.values():
        if field.default not in (None, ()):
            text = reference.shown(field.default)
            with temporary_settings({field.name: text}):
                assert getattr(current(), field.name) == field.default


@pytest.mark.parametrize(
    ("document", "is_valid"),
    [
        ({}, True),
        ({"tasks": {"default_retries": 3}, "progress": "off", "logging_level": "DEBUG"}, True),
        ({"tasks": {"default_retry_delay_seconds": [1, 2.5]}}, True),
        ({"tasks": {"default_retry_delay_seconds": []}}, False),
        ({"tasks": {"default_retries": True}}, False),
        ({"tasks": {"default_retries": -1}}, False),
        ({"tasks": {"tasks_default_retries": 1}}, False),
        ({"progress": "loud"}, False),
        ({"home": ""}, False),
        ({"tassks": {}}, False),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_the_schema_accepts_what_is_accepted(project: Path, document: dict[str, Any], is_valid: bool) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = reference.schema()
    jsonschema.Draft7Validator.check_schema(schema)
    assert jsonschema.Draft7Validator(schema).is_valid(document) is is_valid
    text = "\n".join(f"{key} = {as_toml(value)}" for key, value in document.items())
    (project / "penstock.toml").write_text(text)
    if is_valid:
        current()
    else:
        refused()


def as_toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {as_toml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)


def test_every_setting_is_in_the_schema_under_both_names() -> None:
    properties = reference.schema()["properties"]
    for entry in reference.entries():
        table, _, key = entry.key.rpartition(".")
        assert properties[entry.name]["description"] == entry.help
        if table:
            assert properties[table]["properties"][key] == properties[entry.name]


def test_the_origins(project: Path, users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users.write_text("tasks.default_retries = 1\nflows.default_retries = 1")
    path = project / "penstock.toml"
    path.write_text("\n[tasks]\ndefault_retries = 2\nrefresh_cache = true")
    monkeypatch.setenv("PENSTOCK_TASKS_REFRESH_CACHE", "no")
    found = {one.name: one[1:] for one in settings.stated()}
    assert found["tasks_default_retries"] == (2, "file", f"{path}:3")
    assert found["flows_default_retries"] == (1, "file", f"{users}:2")
    assert found["tasks_refresh_cache"] == (False, "environment", "PENSTOCK_TASKS_REFRESH_CACHE")
    assert found["logging_level"] == ("INFO", "default", None)
    assert found["home"] == (project.parent / "state" / "penstock", "default", None)
    (project / ".penstock").mkdir()
    assert settings.stated()[0] == ("home", project / ".penstock", "directory", str(project / ".penstock"))
    with temporary_settings({"tasks_default_retries": None}):
        assert {one.name: one[1:] for one in settings.stated()}["tasks_default_retries"] == (0, "default", None)
