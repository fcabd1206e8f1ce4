from __future__ import annotations

import os
import threading
from pathlib import Path

import leaks


def test_nothing_new_is_no_leak() -> None:
    before = leaks.snapshot()
    assert leaks.since(before, grace=0) == []


def test_a_running_thread_is_named_with_its_stack() -> None:
    before = leaks.snapshot()
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="forgotten")
    thread.start()
    try:
        (found,) = leaks.since(before, grace=0)
    finally:
        release.set()
        thread.join()
    assert found.startswith("thread 'forgotten' (daemon=False) still runs:")
    assert "in wait" in found
    assert leaks.since(before, grace=0) == []


def test_an_open_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "left-open"
    before = leaks.snapshot()
    with path.open("w"):
        assert leaks.since(before, grace=0) == [f"1 descriptor(s) still open on {path}"]
    assert leaks.since(before, grace=0) == []


def test_a_second_descriptor_on_an_open_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "twice"
    with path.open("w") as file:
        before = leaks.snapshot()
        copy = os.dup(file.fileno())
        assert leaks.since(before, grace=0) == [f"1 descriptor(s) still open on {path}"]
        os.close(copy)


def test_a_thread_that_ends_within_the_grace_is_forgiven() -> None:
    before = leaks.snapshot()
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    threading.Timer(0.02, release.set).start()
    assert leaks.since(before, grace=5) == []


def test_each_test_has_a_home_of_its_own(own_store: Path, tmp_path: Path) -> None:
    assert os.environ["PENSTOCK_HOME"] == str(own_store)
    assert own_store.parent == tmp_path
