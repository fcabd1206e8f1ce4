"""Whether a Dask cluster has the packages that this process has."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

_logger = logging.getLogger("penstock")
_PATIENCE = 2.0  # seconds for workers to answer


def compare_versions(client: Any) -> None:
    """One warning that names what differs from this process; an error for what cannot work."""
    report = versions_reporter()
    ours, theirs = report(), {"scheduler": client.run_on_scheduler(report)}
    with contextlib.suppress(TimeoutError):  # a worker is busy; it will be heard of if it matters
        workers = client.sync(client._run, report, on_error="ignore", callback_timeout=_PATIENCE)
        theirs.update((f"worker {address}", versions) for address, versions in workers.items())
    for place, versions in theirs.items():
        if versions["penstock"] is None:
            raise RuntimeError(f"penstock is not installed on the Dask {place}: install {ours['penstock']} there")
    differing = {
        f"{name} {version} on the {place}, {ours[name]} here"
        for place, versions in theirs.items()
        for name, version in versions.items()
        if version != ours[name]
    }
    if differing:
        _logger.warning(
            "Versions differ on the Dask cluster: %s. Tasks may fail to be sent or to be rebuilt there; "
            "install the same versions on both sides",
            "; ".join(sorted(differing)),
        )


def versions_reporter() -> Callable[[], dict[str, str | None]]:
    """By value, since a worker may not have penstock."""

    def report() -> dict[str, str | None]:
        import platform
        from importlib import metadata

        found: dict[str, str | None] = {"python": platform.python_version().rpartition(".")[0]}
        for name in ("penstock", "cloudpickle", "dask", "distributed"):
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                found[name] = None
        return found

    return report
