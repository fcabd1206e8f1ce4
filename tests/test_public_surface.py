"""The public names, as lists: a name is added here first; one of a later milestone must not exist yet."""

from __future__ import annotations

import importlib
import inspect

import pytest

import penstock

NAMES: dict[str, str] = {
    "penstock": """
        flow task Flow Task State Future FutureList unmapped allow_failure quote opaque wait as_completed tags
        get_run_logger transaction concurrency rate_limit runtime resume
    """,
    "penstock.futures": """
        Future FutureList wait as_completed resolve_futures_to_states resolve_futures_to_results
        DoneAndNotDoneFutures
    """,
    "penstock.task_runners": "TaskRunner Capabilities SequentialTaskRunner ThreadPoolTaskRunner ConcurrentTaskRunner",
    "penstock.tasks": "Task task exponential_backoff task_input_hash NotSet",
    "penstock.flows": "Flow flow cancel_run",
    "penstock.states": """
        State StateType StateGroup
        Scheduled AwaitingRetry Pending Running Retrying Completed Failed Crashed Cancelling Cancelled
        is_state_iterable raise_state_exception get_state_exception return_value_to_state
    """,
    "penstock.cache_policies": """
        CachePolicy DEFAULT INPUTS TASK_SOURCE FLOW_PARAMETERS RUN_ID NO_CACHE NONE register_hasher
    """,
    "penstock.transactions": "transaction get_transaction Transaction CommitMode IsolationLevel",
    "penstock.serializers": "Serializer PickleSerializer JSONSerializer CompressedSerializer",
    "penstock.results": "ResultStore ResultRecord",
    "penstock.locking": "MemoryLockManager FileSystemLockManager",
    "penstock.concurrency": "concurrency rate_limit set_limit",
    "penstock.runtime": "flow_run task_run",
    "penstock.context": "FlowRunContext TaskRunContext TagsContext get_run_context tags with_context",
    "penstock.exceptions": """
        PenstockError UpstreamTaskError FailedRun CrashedRun CancelledRun UnfinishedRun MissingResult
        WorkerLost TaskRunTimeoutError FlowRunTimeoutError ParameterBindError ParameterTypeError
        ReservedArgumentError SignatureMismatchError InvalidNameError MappingLengthMismatch
        MappingMissingIterable MissingContextError ConfigurationError SerializationError ResumeError
        ResultCorrupt StoreUnavailable InternalError TerminationSignal CancelSignal
    """,
    "penstock.testing": """
        isolated_store temporary_settings ManualClock ScriptedRunner check_runner check_store
        SkippingClock stub Stub MakeStub recorded_runs RecordedRun RecordedRuns RunList
    """,
    "penstock.testing.conformance": "RUNNER_CHECKS STORE_CHECKS check_runner check_store run_check",
}

# Milestone -> module -> names that arrive with it, and before that do not exist at all, half-working or not.
LATER: dict[str, dict[str, str]] = {
    "pause, schedules": {
        "penstock.states": "Paused Suspended Late Submitting",
        "penstock.exceptions": "PausedRun",
        "penstock.runtime": "deployment",
    },
}

# Not in __all__, because each brings something along that not every program needs.
ON_DEMAND = {
    "penstock.task_runners": "DaskTaskRunner ProcessPoolTaskRunner RayTaskRunner get_dask_client remote_options",
}

# Names under which people who know another library look for ours: they work, but are not offered.
ALIASES = {"PrefectFuture": "Future", "PrefectFutureList": "FutureList"}

PUBLIC = [(module, name) for table in (NAMES, ON_DEMAND) for module, names in table.items() for name in names.split()]
ABSENT = [(module, name) for arriving in LATER.values() for module, names in arriving.items() for name in names.split()]


@pytest.mark.parametrize("module", NAMES)
def test_all_is_exactly_the_list(module: str) -> None:
    exported = importlib.import_module(module).__all__
    assert sorted(exported) == sorted(NAMES[module].split())


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_public_name_is_there_and_documented(module: str, name: str) -> None:
    assert inspect.getdoc(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize(("module", "name"), ABSENT)
def test_later_name_is_absent(module: str, name: str) -> None:
    with pytest.raises(ImportError):
        exec(f"from {module} import {name}")


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_hidden_alias(alias: str, name: str) -> None:
    futures = importlib.import_module("penstock.futures")
    assert getattr(futures, alias) is getattr(futures, name)
    assert alias not in dir(futures)


def test_one_class_has_two_names() -> None:
    runners = importlib.import_module("penstock.task_runners")
    assert runners.ConcurrentTaskRunner is runners.ThreadPoolTaskRunner


def test_concurrency_is_the_function_although_a_module_has_its_name() -> None:
    module = importlib.import_module("penstock.concurrency")
    assert inspect.ismodule(module)
    assert penstock.concurrency is module.concurrency


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        penstock.no_such_name
