"""A disk that can be made to fail: every I/O step below a folder is counted, and one of them ends the process or raises.

Steps are what changes a disk: open for writing, write, truncate, fsync, mkdir, rename, link, unlink. It also remembers what was
synced, file by file and folder by folder, and can leave exactly that behind, as a loss of power may.
"""

from __future__ import annotations

import builtins
import io
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

CRASHED = 77
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Disk:
    """Counts the steps below `root` once installed; a forked process is meant to end with it.

    Attributes:
        steps: names of the steps so far.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.steps: list[str] = []
        self.act: Callable[[int, Callable[[], Any] | None], None] = lambda number, half: None
        self.after: Callable[[int], None] = lambda number: None
        self.content: dict[int, bytes] = {}  # synced bytes by inode
        self.entries: dict[Path, dict[str, int | None]] = {root: {}}  # synced entries of folders; None: a folder
        self._real = {name: getattr(os, name) for name in ("open", "write", "fsync", "replace", "rename", "link", "unlink", "mkdir")}
        self._real_open = io.open

    def crash(self, fatal: int, when: str) -> None:
        """The process ends before, after, or half-way through step `fatal` (which must be a write for the last)."""

        def act(number: int, half: Callable[[], Any] | None) -> None:
            if number == fatal and when != "after":
                if half and when == "half":
                    half()
                self._real_exit()

        self.act = act
        self.after = lambda number: self._real_exit() if number == fatal and when == "after" else None

    def fail(self, fatal: int, code: int) -> None:
        """Step `fatal` raises an OSError, a write after half of its bytes."""

        def act(number: int, half: Callable[[], Any] | None) -> None:
            if number == fatal:
                if half:
                    half()
                raise OSError(code, os.strerror(code))

        self.act = act

    def lose_power(self, fatal: int, seed: int | None) -> None:
        """Before step `fatal` the process ends and the folder is left as it was synced.

        Args:
            seed: of the choice which unsynced changes survive all the same; None: none does.
        """

        def act(number: int, half: Callable[[], Any] | None) -> None:
            if number == fatal:
                self._leave_what_was_synced(None if seed is None else random.Random(seed))
                self._real_exit()

        self.act = act

    @staticmethod
    def _real_exit() -> None:
        os._exit(CRASHED)

    def install(self) -> None:
        """From now on, in this process."""
        real = self._real

        def step(name: str, path: Any, whole: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
            if not self._below(path):
                return whole()
            self.steps.append(name)
            number = len(self.steps)
            self.act(number, half)
            result = whole()
            self._remember(name, path)
            self.after(number)
            return result

        self._step = step
        for name in ("fsync", "mkdir", "unlink"):

            def one(path: Any, *more: Any, name: str = name, **fields: Any) -> Any:
                return step(name, path, lambda: real[name](path, *more, **fields))

            setattr(os, name, one)
        for name in ("replace", "rename", "link"):

            def two(source: Any, target: Any, *more: Any, name: str = name, **fields: Any) -> Any:
                return step(name, target, lambda: real[name](source, target, *more, **fields))

            setattr(os, name, two)

        def opened(path: Any, flags: int, *more: Any, **fields: Any) -> int:
            if not flags & WRITING:
                return real["open"](path, flags, *more, **fields)  # type: ignore[no-any-return]
            return step("open", path, lambda: real["open"](path, flags, *more, **fields))  # type: ignore[no-any-return]

        os.open = opened

        def write(handle: int, data: Any) -> int:
            half = len(data) // 2
            return step("write", handle, lambda: real["write"](handle, data), lambda: real["write"](handle, data[:half]))  # type: ignore[no-any-return]

        os.write = write

        def open_file(file: Any, mode: str = "r", *more: Any, **fields: Any) -> Any:
            def whole() -> Any:
                return self._real_open(file, mode, *more, **fields)

            if not set(mode) & set("wax+") or not self._below(file):
                return whole()
            return _File(self, whole() if isinstance(file, int) else step("open", file, whole))

        io.open = builtins.open = open_file

    def _below(self, path: Any) -> bool:
        return self._path(path).is_relative_to(self.root)

    def _path(self, path: Any) -> Path:
        if isinstance(path, int):
            try:
                return Path(os.readlink(f"/proc/self/fd/{path}").removesuffix(" (deleted)"))  # noqa: PTH115
            except OSError:
                return Path("/")
        return Path(os.fspath(path))

    def _remember(self, name: str, path: Any) -> None:
        if name != "fsync":
            return
        status, place = os.fstat(path), self._path(path)
        if place.is_dir():
            self.entries[place] = {e.name: None if e.is_dir() else e.inode() for e in os.scandir(place)}
        else:
            with self._real_open(f"/proc/self/fd/{path}", "rb") as file:
                self.content[status.st_ino] = file.read()

    def _leave_what_was_synced(self, chance: random.Random | None) -> None:
        now = {folder: {e.name: None if e.is_dir() else e.inode() for e in os.scandir(folder)} for folder in self._folders(self.root)}
        written = {e.inode(): Path(e.path).read_bytes() for folder in now for e in os.scandir(folder) if e.is_file()}
        saved = self.root.with_name(self.root.name + "-after")

        def build(folder: Path, target: Path) -> None:
            target.mkdir()
            old, new = self.entries.get(folder, {}), now.get(folder, {})
            for name in sorted(old.keys() | new.keys()):
                keep_new = chance is not None and chance.random() < 0.5
                entries = new if keep_new else old
                if name not in entries:
                    continue
                inode = entries[name]
                if inode is None:
                    build(folder / name, target / name)
                else:
                    synced = self.content.get(inode, b"")
                    full = written.get(inode, synced)
                    extra = chance.randint(len(synced), max(len(synced), len(full))) if chance and full.startswith(synced) else len(synced)
                    (target / name).write_bytes(full[:extra] if full.startswith(synced) else synced)

        for name, function in self._real.items():
            setattr(os, name, function)
        io.open = builtins.open = self._real_open
        build(self.root, saved)
        shutil.rmtree(self.root)
        saved.rename(self.root)

    def _folders(self, folder: Path) -> list[Path]:
        return [folder, *(deeper for e in os.scandir(folder) if e.is_dir() for deeper in self._folders(Path(e.path)))]


class _File:
    """A file opened for writing, whose writes are steps and reach the system at once."""

    def __init__(self, disk: Disk, file: Any) -> None:
        self._disk, self._file = disk, file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def _put(self, data: Any) -> Any:
        result = self._file.write(data)
        self._file.flush()
        return result

    def write(self, data: Any) -> Any:
        return self._disk._step("write", self._file.fileno(), lambda: self._put(data), lambda: self._put(data[: len(data) // 2]))

    def truncate(self, size: int) -> Any:
        return self._disk._step("truncate", self._file.fileno(), lambda: self._file.truncate(size))
