"""Odd values, and odd places to keep them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock import flow, task
from penstock._engine.recorder import Recorder
from penstock.cache_policies import INPUTS, NO_CACHE
from penstock.exceptions import ConfigurationError
from penstock.states import Completed, Failed

executed: list[Any] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    executed.clear()


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@task(cache_policy=INPUTS)
def double(x: Any, y: Any = None) -> Any:
    executed.append(x)
    return x * 2


@task
def same(x: int) -> int:
    return x


# --- values -----------------------------------------------------------------------------------------------------


class Rude:
    """Cannot be unpickled."""

    def __reduce__(self) -> Any:
        return _explode, ()


def _explode() -> None:
    raise RuntimeError("this cannot be read")


class Selfish:
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise RuntimeError("this cannot be written")


@pytest.mark.parametrize(
    "value",
    [None, False, 0, "", [], (), ValueError("x"), StopIteration(1), Exception, ..., b"", float("inf"), 1 << 5000],
)
def test_odd_values_come_back(value: Any) -> None:
    @task(cache_policy=NO_CACHE + INPUTS)
    def give(number: int) -> Any:
        executed.append(number)
        return value

    for _ in range(2):
        found = give(1)
        assert type(found) is type(value)
        assert repr(found) == repr(value)
    assert len(executed) == 1


def test_a_value_that_cannot_be_read_again_is_computed_again(caplog: pytest.LogCaptureFixture) -> None:
    @task(cache_policy=INPUTS)
    def rude() -> Any:
        executed.append(1)
        return Rude()

    assert isinstance(rude(), Rude)
    assert isinstance(rude(), Rude)
    assert len(executed) == 2
    assert any("this cannot be read" in line for line in messages(caplog))


def test_a_value_that_cannot_be_written_is_given_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    @task(cache_policy=INPUTS, cache_result_in_memory=False)
    def selfish() -> Any:
        executed.append(1)
        return Selfish()

    assert isinstance(selfish(), Selfish)
    assert isinstance(selfish(), Selfish)
    assert len(executed) == 2
    assert sum("its result is not kept" in line for line in messages(caplog)) == 2


def test_a_store_that_takes_no_values_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recorder, "commit", lambda recorder: False)

    @task(persist_result=True)
    def kept(number: int) -> int:
        return number

    @flow
    def main() -> list[int]:
        return kept.map(range(5)).result()

    assert main() == [*range(5)]
    assert sum("its result is not stored yet" in line for line in messages(caplog)) == 1


def test_hand_made_states_and_lists_of_futures_as_values() -> None:
    @task(cache_policy=INPUTS)
    def skip() -> Any:
        executed.append("skip")
        return Completed(name="Skipped", data=5)

    @task(cache_policy=INPUTS)
    def bad() -> Any:
        executed.append("bad")
        return Failed(message="no")

    @task(cache_policy=INPUTS)
    def several() -> Any:
        executed.append("several")
        return {"list": double.map([1, 2]), "one": double.submit(3)}

    @task(cache_policy=INPUTS)
    def states() -> Any:
        executed.append("states")
        return [Completed(data=1), Completed(data=2)]

    assert [skip(return_state=True).name, skip(return_state=True).name] == ["Skipped", "Cached"]
    assert skip() == 5
    assert [bad(return_state=True).name for _ in range(2)] == ["Failed", "Failed"]
    assert several() == several() == {"list": [2, 4], "one": 6}
    assert [state.result() for state in states()] == [state.result() for state in states()] == [1, 2]
    assert executed == ["skip", "bad", "bad", "several", *executed[4:7], "states"]


def test_a_large_value_that_is_not_kept_in_memory() -> None:
    @task(cache_policy=INPUTS, cache_result_in_memory=False)
    def large(n: int) -> bytes:
        executed.append(n)
        return bytes(n)

    @flow
    def main() -> list[int]:
        first, second = large.submit(1 << 20), large.submit(1 << 20)
        return [len(first.result()), len(second.result()), len(first.state.result()), len(large(1 << 20))]

    assert main() == [1 << 20] * 4
    assert executed == [1 << 20]


def test_who_changes_a_value_does_not_change_what_is_kept() -> None:
    @task(cache_policy=INPUTS)
    def items() -> list[int]:
        return [1]

    items().append(2)
    items().append(3)
    assert items() == [1]


# --- storages ---------------------------------------------------------------------------------------------------


class Shelf:
    """A storage of the user's, that may be out of order."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.broken: set[str] = set()

    def _check(self, what: str) -> None:
        if what in self.broken:
            raise RuntimeError(f"{what} is out of order")

    def read(self, key: str) -> bytes:
        self._check("read")
        return self.content[key]

    def write(self, key: str, data: bytes) -> None:
        self._check("write")
        self.content[key] = data

    def exists(self, key: str) -> bool:
        self._check("exists")
        return key in self.content


@pytest.mark.parametrize("what", ["read", "write", "exists"])
def test_a_storage_out_of_order_costs_time_and_nothing_else(what: str, caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf()

    @task(cache_policy=INPUTS, result_storage=shelf)
    def one() -> int:
        executed.append(1)
        return 1

    shelf.broken.add(what)
    assert [one(), one()] == [1, 1]
    assert len(executed) == 2
    assert any(f"{what} is out of order" in line for line in messages(caplog))
    shelf.broken.clear()
    assert one() == one() == 1
    assert one(return_state=True).name == "Cached"


@pytest.mark.parametrize("content", [b"", b"junk", b"\0" * 1000])
def test_a_storage_that_gives_something_else(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf()

    @task(cache_policy=INPUTS, result_storage=shelf)
    def one() -> int:
        executed.append(1)
        return 1

    one()
    shelf.content = dict.fromkeys(shelf.content, content)
    assert one() == 1
    assert len(executed) == 2
    assert any(("one" in line and "absent" in line) or "cache could not be read" in line for line in messages(caplog))


def test_storages_by_path_text_and_url(tmp_path: Path) -> None:
    directory = tmp_path / "a b"
    for storage in (directory, str(directory), directory.as_uri()):
        made = double.with_options(result_storage=storage)
        assert made(21) == 42
    assert executed == [21]
    assert len(list(directory.iterdir())) == 1


def test_a_storage_in_memory_by_url() -> None:
    pytest.importorskip("fsspec")
    made = double.with_options(result_storage="memory://penstock-corners")
    assert [made(22), made(22)] == [44, 44]
    assert executed == [22]


@pytest.mark.parametrize("storage", [5, object(), Shelf, "", b"x"])
def test_what_is_no_storage(storage: Any) -> None:
    with pytest.raises(ConfigurationError, match="result_storage"):
        task(result_storage=storage)(lambda: 1)


@pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "a/../../b", "", "x\0y", "{parameters[y]}"])
def test_a_storage_key_does_not_lead_out(key: str, tmp_path: Path) -> None:
    made = task(result_storage=tmp_path / "inside", result_storage_key=key, persist_result=True)(lambda x: x)
    state = made(1, return_state=True)
    assert state.is_completed() or "result_storage_key" in str(state.data)
    outside = [path for path in tmp_path.iterdir() if path.name not in ("inside", "penstock-home")]
    assert outside == []


def test_an_empty_list_of_futures_is_a_list_whether_or_not_there_are_others() -> None:
    @task(cache_policy=INPUTS)
    def kind(values: Any) -> list[str]:
        executed.append(values)
        return [type(values).__name__, type(values[0]).__name__]

    @flow
    def main(others: bool) -> list[str]:
        kept_alive = same.submit(1) if others else None
        found = kind([same.map([])])
        assert kept_alive is None or kept_alive.result() == 1
        return found

    assert [main(False), main(True)] == [["list", "list"]] * 2
    assert executed == [[[]]]
