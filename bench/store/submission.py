"""A submission: a results folder that somebody hands in, with the list of what is in it.

    FOLDER/submission.json                  every file with its size and SHA-256, and where weights lie that are too large for it
    FOLDER/plugins/NAME/NAME.py             text of a plug-in and of the modules beside it that it imports: shown, never run
    FOLDER/mnist/NAME.default/0.5-seed0-<key>/...   as in any results folder

The list shows what was damaged, dropped or added on the way. Whoever can write a file can write the list too: what a count is worth, the
reader and `bench verify --recertify` say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from bench.errors import BenchError, Fault
from bench.evidence.records import SHA256
from bench.files import disk
from bench.files.walk import DEEPEST, PLUGINS, SUBMISSION
from bench.files.writing import read_json, write_json

WEIGHTS = "weights.safetensors"
_ODD = re.compile(r"[\x00-\x1f\x7f\\]")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What a file must be: its length in bytes, and its SHA-256 in hex."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What submission.json says.

    Attributes:
        files: what is in the folder, by path with slashes.
        elsewhere: weights that are not, and may be brought in.
        weights_at: the address that the authors name for them; empty if they name none.
    """

    files: Mapping[str, Listed]
    elsewhere: Mapping[str, Listed] = field(default_factory=dict)
    weights_at: str = ""

    def write(self, folder: Path) -> None:
        """Writes submission.json."""
        lists = {name: {path: vars(one) for path, one in getattr(self, name).items()} for name in ("files", "elsewhere")}
        write_json(folder / SUBMISSION, {"schema": 1, "weights_at": self.weights_at, **lists})


def read(folder: Path) -> Submission:
    """The list of a submission.

    Raises:
        Fault: there is none, or it is not what `Submission.write` writes: another field, a path that leads out of the folder, no SHA-256.
    """
    path = folder / SUBMISSION
    data = read_json(path)
    try:
        if set(data) != {"schema", "weights_at", "files", "elsewhere"} or data["schema"] != 1:
            raise ValueError("it must hold schema 1, weights_at, files and elsewhere, and no more")
        files, elsewhere = _listed(data["files"]), _listed(data["elsewhere"])
        if both := sorted(files.keys() & elsewhere):
            raise ValueError(f"{both[0]!r:.200} is said to be in the folder and elsewhere")
        if other := [name for name in elsewhere if PurePosixPath(name).name != WEIGHTS]:
            raise ValueError(f"{other[0]!r:.200} is said to be elsewhere, and only {WEIGHTS} may be")
        if data["weights_at"] != "":
            check_address(data["weights_at"])
    except ValueError as error:
        raise Fault(path, None, str(error)) from None
    return Submission(files=files, elsewhere=elsewhere, weights_at=data["weights_at"])


def _listed(entries: Any) -> dict[str, Listed]:
    """Files by path; ValueError if they cannot be."""
    if not isinstance(entries, dict):
        raise ValueError(f"files and elsewhere must be objects, not {entries!r:.80}")
    found = {}
    for name, entry in entries.items():
        parts = name.split("/")
        if _ODD.search(name) or name == SUBMISSION or any(part.startswith(".") or not part for part in parts) or len(parts) > DEEPEST:
            raise ValueError(f"{name!r:.200} is no path of a file in a submission")
        match entry:
            case {"bytes": size, "sha256": str(digest)} if len(entry) == 2 and type(size) is int and size >= 0 and SHA256.fullmatch(digest):
                found[name] = Listed(bytes=size, sha256=digest)
            case _:
                raise ValueError(f"{name!r:.200} has no length and SHA-256, but {entry!r:.200}")
    return found


def check_address(address: object) -> None:
    """ValueError unless it is an address under which weights can be asked for."""
    if not isinstance(address, str) or _ODD.search(address) or len(address) > 2000:
        raise ValueError(f"address {address!r:.80} is no text of a line")
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"address {address!r:.80} is none: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(f"address {address!r:.80} does not begin with https:// or http:// and the name of a server")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"address {address!r:.80} holds a password, a ? or a #; names of files are added behind it")


def content(folder: Path, below: str = "") -> Iterator[tuple[str, disk.Kind]]:
    """Everything in a folder but the folders themselves, by path with slashes; hidden folders as one, and no link is followed.

    Raises:
        Fault: a folder that cannot be read, or that is too deep.
    """
    if below.count("/") > DEEPEST:
        raise Fault(folder / below, None, f"folders more than {DEEPEST} deep are not looked into")
    for name, kind in disk.children(folder / below).items():
        path = f"{below}{name}"
        if kind == "folder" and not name.startswith("."):
            yield from content(folder, f"{path}/")
        else:
            yield path, kind


def of_source(path: str) -> bool:
    """Whether a path of a submission is that of a plug-in's text."""
    return path.startswith(f"{PLUGINS}/") and path.endswith(".py")


def limit_of(root: Path, path: Path) -> int | None:
    """How many bytes a weights file has, as the list of the submission says; None where there is no list, or not of it.

    Raises:
        BenchError: a list that cannot be read.
    """
    try:
        said = read(root)
    except Fault as fault:
        if disk.absent(fault):
            return None
        raise
    name = path.relative_to(root).as_posix()
    listed = said.elsewhere.get(name) or said.files.get(name)
    if listed is None:
        raise BenchError(f"{root / SUBMISSION} does not list {name}, so it is not brought in")
    return listed.bytes
