"""What a power cut leaves of a directory, in the worst case: of each file what it held when it was last synced.

Names, too: a file is found again only under names that its directory had when that was last synced. A real disk may
keep more of it, and never less if it does what it is told.
"""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path


class Disk:
    """What is safe of a directory: all that is in it now, and what is synced from now on, which it has to be told."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._contents: dict[int, bytes] = {}  # inode -> what is safe of that file
        self._names: dict[int, dict[str, int]] = {}  # inode of a directory -> its names
        self._directories: set[int] = {os.stat(root).st_ino}
        self._held: list[int] = []  # descriptors, so that no inode number is used again
        for path in (root, *root.rglob("*")):
            if path.is_dir() or path.is_file():
                self.sync(str(path))

    def sync(self, path: str) -> None:
        """The file or directory is being synced: what is in it now will be safe."""
        if path != str(self._root) and not path.startswith(f"{self._root}/"):
            return
        with suppress(FileNotFoundError):
            self._sync(path)

    def _sync(self, path: str) -> None:
        inode = self._hold(path)
        if not os.path.isdir(path):
            self._contents[inode] = Path(path).read_bytes()
            return
        names: dict[str, int] = {}
        for name in os.listdir(path):
            with suppress(FileNotFoundError):  # renamed or removed by another thread meanwhile
                names[name] = self._hold(os.path.join(path, name))
        self._names[inode] = names

    def _hold(self, path: str) -> int:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._held.append(descriptor)
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            self._directories.add(found.st_ino)
        return found.st_ino

    def restart(self, directory: Path) -> None:
        """Put what is safe of `directory`, one below the root, in its place."""
        inode = self._names.get(os.stat(self._root).st_ino, {}).get(directory.name)
        left = directory.with_name(f"{directory.name}-left")
        if inode is not None:
            self._write(inode, left)
        shutil.rmtree(directory, ignore_errors=True)
        if inode is not None:
            left.rename(directory)

    def _write(self, inode: int, path: Path) -> None:
        if inode not in self._directories:
            path.touch(0o600)
            path.write_bytes(self._contents.get(inode, b""))
            return
        path.mkdir(0o700)
        for name, below in self._names.get(inode, {}).items():
            self._write(below, path / name)

    def close(self) -> None:
        for descriptor in self._held:
            os.close(descriptor)
        self._held.clear()
