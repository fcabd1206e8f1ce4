"""Results behind a URL, through fsspec (the extra `remote`), which is imported when there is such a URL.

Nothing here makes a write appear whole: object stores do that by themselves, and what is cut off elsewhere is found
out by its digest.
"""

from __future__ import annotations

import re
from typing import Any

from penstock.exceptions import ConfigurationError
from penstock.results.keys import check_key

_PASSWORD = re.compile(r"(?<=://)([^/@]*):[^/@]*@")


class RemoteStorage:
    """Objects below a URL. Errors of the file system behind it pass as they are."""

    def __init__(self, url: str, option: str = "result_storage") -> None:
        self.uri = url.rstrip("/") if not url.endswith("://") else url
        _check(url, option)

    def read(self, key: str) -> bytes:
        system, path = self._find(key)
        return bytes(system.cat_file(path))

    def write(self, key: str, data: bytes, *, durable: bool = False) -> None:
        system, path = self._find(key)
        try:
            system.pipe_file(path, data)
        except FileNotFoundError:
            # Not beforehand: where there are no directories, this may try to make a bucket.
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
            system.pipe_file(path, data)

    def exists(self, key: str) -> bool:
        system, path = self._find(key)
        try:  # not isfile(), which takes a network out of reach for a no
            return bool(system.info(path)["type"] == "file")
        except FileNotFoundError:
            return False

    def _find(self, key: str) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        check_key(key)
        # Asked for each time: fsspec keeps one for each thread and process. Without its memory of listings, in which
        # what others have written since is missing.
        system, root = url_to_fs(self.uri, use_listings_cache=False)
        return system, f"{root.rstrip('/')}/{key}"

    def __repr__(self) -> str:
        return f"RemoteStorage({self.uri!r})"


def _check(url: str, option: str) -> None:
    if _PASSWORD.search(url):
        hidden = _PASSWORD.sub(r"\1:***@", url)
        raise ConfigurationError(
            f"{option}={hidden!r} has a password in it, which would be stored with the records: "
            "leave it to the environment, or to fsspec's configuration."
        )
    try:
        from fsspec.registry import get_filesystem_class
    except ModuleNotFoundError as error:
        if error.name != "fsspec":
            raise
        raise ImportError(f"{option}={url!r} needs the 'fsspec' package: pip install \"penstock[remote]\"") from None
    try:
        get_filesystem_class(url.partition("://")[0].partition("::")[0])
    except ImportError as error:
        raise ImportError(f"{option}={url!r}: {error}") from error
    except ValueError as error:
        raise ConfigurationError(f"{option}={url!r}: {error}") from error
