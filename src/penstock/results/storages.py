"""Where users want their results to be: a directory, a URL, or an object of theirs.

A storage is known by its `uri`, which the record keeps: `storage_from` makes it again in another process. Except for
objects, which nobody can make from a text: they are found if the program has given them to a task or flow before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from inspect import iscoroutinefunction
from itertools import count
from threading import Lock
from typing import Any, Protocol
from weakref import WeakValueDictionary

from penstock.exceptions import ConfigurationError
from penstock.results import files
from penstock.results.keys import check_key, shown
from penstock.results.remote import RemoteStorage

_METHODS = ("read", "write", "exists")


class Storage(Protocol):
    """Keeps bytes under keys. All methods block, and raise what went wrong; they may be called from any thread."""

    uri: str

    def read(self, key: str) -> bytes: ...

    def write(self, key: str, data: bytes, *, durable: bool = False) -> None: ...

    def exists(self, key: str) -> bool: ...


def storage_for(spec: Any, option: str = "result_storage") -> Storage:
    """The storage that a user means: a directory (path or text), a URL, or an object with `read write exists`.

    Raises `ConfigurationError` for anything else, and `ImportError` for a URL without the extra that it needs.
    """
    if isinstance(spec, DirectoryStorage | RemoteStorage | ObjectStorage):
        return spec
    if isinstance(spec, str) and "://" in spec:
        return _from_url(spec, option)
    if isinstance(spec, str | os.PathLike) and spec != "":
        return _directory(spec, option)
    return _from_object(spec, option)


def storage_from(uri: str) -> Storage:
    """The storage with this `uri`. Raises like `storage_for`; `ConfigurationError` for an object that is not here."""
    if uri.startswith(_OBJECT):
        return _registered(uri)
    return _from_url(uri, "storage")


# --- directories ---


class DirectoryStorage:
    """Files in a directory, which is made when something is written."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = os.path.abspath(os.path.expanduser(directory))
        self.uri = _file_uri(self._directory)

    def read(self, key: str) -> bytes:
        check_key(key)
        return files.read(self._directory, key)

    def write(self, key: str, data: bytes, *, durable: bool = False) -> None:
        check_key(key)
        files.write(self._directory, key, data, durable=durable)

    def exists(self, key: str) -> bool:
        check_key(key)
        return files.exists(self._directory, key)

    def __repr__(self) -> str:
        return f"DirectoryStorage({self._directory!r})"


def _directory(spec: str | os.PathLike[str], option: str) -> DirectoryStorage:
    path = os.path.expanduser(spec)
    if not isinstance(path, str) or "\0" in path:
        raise ConfigurationError(f"{option}={spec!r} is no name of a directory.")
    if os.path.exists(path) and not os.path.isdir(path):
        raise ConfigurationError(f"{option}={str(spec)!r} is a file, not a directory.")
    return DirectoryStorage(path)


def _file_uri(directory: str) -> str:
    from urllib.parse import quote_from_bytes  # only for who chooses a storage

    return "file://" + quote_from_bytes(os.fsencode(directory))


def _from_file_uri(uri: str, option: str) -> DirectoryStorage:
    from urllib.parse import unquote_to_bytes

    path = os.fsdecode(unquote_to_bytes(uri.removeprefix("file://")))
    if not os.path.isabs(path):
        raise ConfigurationError(f"{option}={uri!r} names a host or a relative path: write file:///directory.")
    return _directory(path, option)


def _from_url(url: str, option: str) -> Storage:
    if url.startswith("file://"):  # safer than through fsspec: whole files only, no links followed
        return _from_file_uri(url, option)
    return RemoteStorage(url, option)


# --- objects of users ---

_OBJECT = "object:"
_registering = Lock()
_registry: WeakValueDictionary[str, Any] = WeakValueDictionary()
_unweak: dict[str, Any] = {}  # objects that no weak reference can be made to


class ObjectStorage:
    """An object of the user's. What it raises passes; what it returns is checked."""

    def __init__(self, wrapped: Any, uri: str) -> None:
        self._wrapped = wrapped
        self.uri = uri

    def read(self, key: str) -> bytes:
        check_key(key)
        data = self._wrapped.read(key)
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"read() of {self.uri} returned {type(data).__name__}, not bytes")
        return bytes(data)

    def write(self, key: str, data: bytes, *, durable: bool = False) -> None:
        check_key(key)
        self._wrapped.write(key, data)

    def exists(self, key: str) -> bool:
        check_key(key)
        return bool(self._wrapped.exists(key))

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self._wrapped, self.uri)

    def __repr__(self) -> str:
        return f"ObjectStorage({self.uri!r})"


def _from_object(spec: Any, option: str) -> ObjectStorage:
    methods = [getattr(spec, name, None) for name in _METHODS]
    if isinstance(spec, type) or not all(map(callable, methods)):
        raise ConfigurationError(
            f"{option}={shown(spec)} is no storage: give a directory, a URL, or an object with the methods "
            "read(key), write(key, data) and exists(key)."
        )
    if any(map(iscoroutinefunction, methods)):
        raise ConfigurationError(f"{option}={shown(spec)}: read, write and exists must not be coroutine functions.")
    return ObjectStorage(spec, _uri_of(spec))


def _uri_of(spec: Any) -> str:
    with _registering:
        for uri in _uris(spec):
            known = _registry.get(uri, _unweak.get(uri))
            if known is None:
                _register(uri, spec)
            if known is None or known is spec:
                return uri
    raise AssertionError("the numbers do not end")


def _uris(spec: Any) -> Iterator[str]:
    """The names that an object may have, best first.

    Its own `uri` tells it from others of its class in every process. Numbers do as long as all processes make the
    objects in the same order.
    """
    own = getattr(spec, "uri", None)
    name = f"{_OBJECT}{own}" if isinstance(own, str) else f"{_OBJECT}{type(spec).__module__}.{type(spec).__qualname__}"
    yield name
    yield from (f"{name}#{number}" for number in count(2))


def _register(uri: str, spec: Any) -> None:
    try:
        _registry[uri] = spec
    except TypeError:
        _unweak[uri] = spec


def _arrived(wrapped: Any, uri: str) -> ObjectStorage:
    with _registering:
        if _registry.get(uri, _unweak.get(uri)) is None:
            _register(uri, wrapped)
    return ObjectStorage(wrapped, uri)


def _registered(uri: str) -> ObjectStorage:
    with _registering:
        known = _registry.get(uri, _unweak.get(uri))
    if known is None:
        raise ConfigurationError(
            f"The storage {uri.removeprefix(_OBJECT)} is an object that this program has not given to a task or flow."
        )
    return ObjectStorage(known, uri)
