"""A study: what `bench run` is asked for, as a TOML file that can be kept, sent and run again. docs/guide/studies.md explains it.

Each key is a flag of `bench run` without its dashes. What a study has several of, as one switch at a time, stands in parts:

    method = "smoothmix.eta5"
    sigma = [0.5, 1.0]
    seeds = 3                      # seeds 0, 1 and 2; a list means just those
    set.certify.images = "every:50"

    [[part]]                       # as it is

    [[part]]                       # with one switch
    set.train.nesterov = true

Each part is a matrix of its own: it has every key above that it does not say itself, and its `set` adds to the one above. Paths are
relative to the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import reprlib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.api.request import Part, RunRequest
from bench.errors import BenchError, UsageError, nearest
from bench.executors.engine import Engine
from bench.files import disk
from bench.files.writing import make_folder, write_atomically
from bench.spec import scalar_word
from bench.store.runs import DEFAULT_ROOT

BARE = re.compile(r"[A-Za-z0-9_-]+")
FOLDER = ".studies"
"""In a results folder: a copy of each study that was run into it, under its name and the beginning of its SHA-256."""
MOST_SEEDS = 100_000


@dataclass(frozen=True)
class Kind:
    """What a key may be set to.

    Attributes:
        says: it in words, after `must be`.
        read: from a value of TOML, relative to a folder; ValueError or TypeError for one that does not fit.
        write: the inverse.
    """

    says: str
    read: Callable[[Any, Path], Any]
    write: Callable[[Any, Path], Any] = lambda value, folder: value


def _is(value: Any, kind: type) -> Any:
    """The value, if it is of just that type: TOML tells 1, 1.0, true and "1" apart, and so does a study."""
    if type(value) is not kind:
        raise TypeError
    return value


def _word(value: Any, folder: Path) -> str:
    if not _is(value, str) or not value.isprintable():  # nor is an empty word one
        raise ValueError
    return str(value)


def _number(value: Any, folder: Path) -> float:
    if type(value) not in (int, float):
        raise TypeError
    return float(value)


def _whole(value: Any, folder: Path) -> int:
    return int(_is(value, int))


def _several(one: Callable[[Any, Path], Any]) -> Callable[[Any, Path], tuple[Any, ...]]:
    """One value, or a list of at least one; a value that stands twice counts once."""

    def read(value: Any, folder: Path) -> tuple[Any, ...]:
        if value == []:
            raise ValueError
        return tuple(dict.fromkeys(one(item, folder) for item in (value if isinstance(value, list) else [value])))

    return read


def _listed(one: Callable[[Any, Path], Any]) -> Callable[[Any, Path], Any]:
    """What `_several` reads: one value plain, several as a list."""

    def write(values: Any, folder: Path) -> Any:
        found = [one(value, folder) for value in values]
        return found[0] if len(found) == 1 else found

    return write


def _seeds(value: Any, folder: Path) -> tuple[int, ...]:
    if type(value) is not int:
        return _several(_whole)(_is(value, list), folder)
    if not 1 <= value <= MOST_SEEDS:
        raise ValueError
    return tuple(range(value))


def _counted(seeds: Any, folder: Path) -> Any:
    return len(seeds) if list(seeds) == list(range(len(seeds))) else list(seeds)


def _path(value: Any, folder: Path) -> Path:
    return folder / _word(value, folder)


def _relative(value: Path, folder: Path) -> str:
    real = Path(os.path.realpath(value.parent), value.name)  # not of the file itself: a plug-in's method has the name of its file
    return Path(os.path.relpath(real, os.path.realpath(folder))).as_posix()


def _changes(value: Any, folder: Path, above: str = "") -> dict[str, str]:
    """Names of --set and their values as words; `set.train.epochs` and `set."train.epochs"` are the same."""
    found: dict[str, str] = {}
    for name, inner in _is(value, dict).items():
        if type(inner) not in (dict, bool, int, float, str) or (type(inner) is float and not math.isfinite(inner)):
            raise TypeError
        more = _changes(inner, folder, f"{above}{name}.") if isinstance(inner, dict) else {above + name: scalar_word(inner)}
        if twice := found.keys() & more.keys():
            raise BenchError(f"set.{min(twice)} is there twice")
        found |= more
    return found


def _unchanged(changes: Mapping[str, str], folder: Path) -> dict[str, Any]:
    return {name: _value(word) for name, word in sorted(changes.items())}


def _value(word: str) -> bool | int | float | str:
    """The value that a word means, if that is written as the same word again."""
    for kind in (int, float):
        try:
            value = kind(word)
        except (ValueError, OverflowError):
            continue
        if math.isfinite(value) and scalar_word(value) == word:
            return value
    return {"true": True, "false": False}.get(word, word)


WORD = Kind("a word", _word)
WORDS = Kind("a word, or a list of words", _several(_word), _listed(lambda value, folder: value))
NUMBER = Kind("a number", _number)
NUMBERS = Kind("a number, or a list of numbers", _several(_number), _listed(lambda value, folder: value))
WHOLE = Kind("a whole number", _whole)
SWITCH = Kind("true or false", lambda value, folder: _is(value, bool))
SWITCH_OFF = Kind("true or false", lambda value, folder: not _is(value, bool), lambda value, folder: not value)
PATH = Kind("a path", _path, _relative)
PATHS = Kind("a path, or a list of paths", _several(_path), _listed(_relative))
SEEDS = Kind(f"a whole number N up to {MOST_SEEDS}, for seeds 0 to N - 1, or a list of seeds", _seeds, _counted)
JOBS = Kind(
    '"auto" or a whole number',
    lambda value, folder: value if value == "auto" else str(_is(value, int)),
    lambda value, folder: value if value == "auto" else int(value),
)
CHANGES = Kind("a table of names and plain values, such as set.train.epochs = 3", _changes, _unchanged)


def _keys(**fields: tuple[str, Kind]) -> Mapping[str, tuple[str, Kind]]:
    """Key -> field and kind, of field -> key and kind."""
    return {key: (field, kind) for field, (key, kind) in fields.items()}


OF_PARTS = _keys(
    methods=("method", WORDS),
    datasets=("dataset", WORDS),
    sigmas=("sigma", NUMBERS),
    seeds=("seeds", SEEDS),
    protocol=("protocol", WORD),
    recipe=("recipe", WORD),
    table=("table", WHOLE),
    changes=("set", CHANGES),
)
"""Key -> field of `Part`, and what it may be: what is to be computed."""

OF_ALL = _keys(
    plugins=("plugin", PATHS),
    results=("results", PATH),
    data_dir=("data-dir", PATH),
    batch=("batch", WHOLE),
    micro_batch=("micro-batch", WHOLE),
    graph=("no-graph", SWITCH_OFF),
    allow_changed_source=("allow-changed-source", SWITCH),
    allow_other_data=("allow-other-data", SWITCH),
)
"""Key -> field of `RunRequest`."""

OF_ENGINE = _keys(
    device=("device", WORD),
    jobs=("jobs", JOBS),
    slots_per_gpu=("slots-per-gpu", WHOLE),
    timeout=("timeout", NUMBER),
    name=("executor", WORD),
    address=("address", WORD),
    resources=("resources", WORDS),
    cells_per_job=("cells-per-job", WHOLE),
)
"""Key -> field of `Engine`."""

KEYS = (*OF_PARTS, *OF_ALL, *OF_ENGINE)
SHORT = {
    "devices-per-cell": "set.train.devices",
    "precision": "set.train.precision",
    "sync-batchnorm": "set.train.sync_batchnorm",
    "skip-misclassified": "set.certify.skip_misclassified",
}
"""Flags that are short forms of --set, and the key that says the same."""
USUAL = RunRequest(results=DEFAULT_ROOT)
"""What is asked for where nothing is said."""
APART = ("rerun",)
"""Fields of `RunRequest` that no study holds: it would compute everything again whenever it is run."""


@dataclass(frozen=True)
class Study:
    """A study file that was read.

    Attributes:
        text: what is in the file.
    """

    path: Path
    text: bytes
    request: RunRequest

    @property
    def sha256(self) -> str:
        """Of its text."""
        return hashlib.sha256(self.text).hexdigest()

    def keep(self, results: Path) -> Path:
        """Leaves a copy in the results folder, which tells later how its runs came about; returns where."""
        copy = results / FOLDER / f"{self.path.stem}-{self.sha256[:16]}.toml"
        if not copy.exists():
            make_folder(copy.parent)
            write_atomically(copy, self.text)
        return copy


def read(path: Path) -> Study:
    """A study file as the request that flags would make; of what it asks for, `RunRequest.prepare` says whether it can be.

    Raises:
        UsageError: there is no such file, it is no TOML, or it holds unknown keys or wrong types: one sentence each.
    """
    try:
        text = disk.read(path.resolve(), disk.MIB)
        found = tomllib.loads(text.decode())
    except (BenchError, OSError) as error:
        if not path.exists():
            raise UsageError([f"{path}: there is no such study file; a method is named by --method {path}"]) from None
        raise UsageError([f"{path}: {getattr(error, 'reason', None) or getattr(error, 'strerror', error)}"]) from None
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, and of a number with thousands of digits
        raise UsageError([f"{path} is no TOML file: {error}"]) from None
    problems: list[str] = []
    folder = path.parent
    common = {name: value for name, value in found.items() if name != "part"}
    shared = _read(common, {**OF_PARTS, **OF_ALL, **OF_ENGINE}, folder, problems, "")
    parts = found.get("part", [{}])
    if not (isinstance(parts, list) and parts and all(isinstance(part, dict) for part in parts)):
        problems.append('part must be written as a line "[[part]]" with the keys of the part below it')
        parts = [{}]
    made = []
    for number, part in enumerate(parts, start=1):
        own = _read(part, OF_PARTS, folder, problems, f"part {number}: ")
        changes = {**shared.get("set", {}), **own.get("set", {})}
        whole = {name: value for name, value in shared.items() if name in OF_PARTS} | own | {"set": changes}
        made.append(Part(**_as_fields(whole, OF_PARTS)))
    if problems:
        raise UsageError([f"{path}: {problem}" for problem in problems])
    engine = Engine(**_as_fields(shared, OF_ENGINE))
    given = {"results": DEFAULT_ROOT} | _as_fields(shared, OF_ALL)
    return Study(path, text, RunRequest(parts=tuple(made), engine=engine, **given))


def _read(
    values: Mapping[str, Any], known: Mapping[str, tuple[str, Kind]], folder: Path, problems: list[str], where: str
) -> dict[str, Any]:
    """Key -> what it means; what is wrong is added to the problems."""
    found = {}
    for name, value in values.items():
        if name not in known:
            problems.append(f"{where}{_unknown(name, known)}")
            continue
        try:
            found[name] = known[name][1].read(value, folder)
        except BenchError as error:
            problems.append(f"{where}{error}")
        except (ValueError, TypeError, OverflowError, RecursionError):
            problems.append(f"{where}{name} = {_shown(value)} is wrong: it must be {known[name][1].says}")
    return found


def _unknown(name: str, known: Iterable[str]) -> str:
    if name in SHORT:
        return f"a study has no key {name!r}; write {SHORT[name]}"
    if name in APART:
        return f"a study has no key {name!r}, for it would compute everything again whenever it is run; give --{name} beside it"
    if name in KEYS:
        return f"{name!r} is the same for all parts; write it above the first part"
    return f"a study has no key {name!r}{nearest(name, known)}"


def _shown(value: Any) -> str:
    try:
        text = _toml(value)
    except (TypeError, ValueError):
        text = reprlib.repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _as_fields(values: Mapping[str, Any], of: Mapping[str, tuple[str, Kind]]) -> dict[str, Any]:
    return {of[name][0]: value for name, value in values.items() if name in of}


# ---- writing


def text_of(request: RunRequest, folder: Path) -> str:
    """The study that `read` makes the request of again; what is as it is without being said is left out.

    Args:
        folder: where the file will lie, to which its paths are relative.

    Raises:
        UsageError: a path or word that no TOML file can hold.
    """
    whole = _of_all(request, folder)
    parts = [_said(part, Part(), OF_PARTS, folder) for part in request.parts]
    shared = [line for line in parts[0] if all(line in lines for lines in parts)]
    own = [[line for line in lines if line not in shared] for lines in parts] if len(parts) > 1 else []
    blocks = [[*shared, *whole], *(["[[part]]", *lines] for lines in own)]
    text = "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(["a name in it is no text, and a study file can only hold text"]) from None
    return text


def with_key(request: RunRequest, key: str, other: RunRequest, folder: Path) -> tuple[RunRequest, str]:
    """A request with one key that concerns all parts as another request has it, and the line of a study that it takes the place of.

    Args:
        folder: of the study. The line is empty where there is none, or where it says the same.
    """
    if key in OF_ENGINE:
        name = OF_ENGINE[key][0]
        changed = replace(request, engine=replace(request.engine, **{name: getattr(other.engine, name)}))
    else:
        name = OF_ALL[key][0]
        changed = replace(request, **{name: getattr(other, name)})
    before, now = ([line for line in _of_all(one, folder) if line.startswith(f"{key} = ")] for one in (request, changed))
    return changed, "".join(before) if before != now else ""


def _of_all(request: RunRequest, folder: Path) -> list[str]:
    """The lines that concern all parts."""
    return [*_said(request, USUAL, OF_ALL, folder), *_said(request.engine, USUAL.engine, OF_ENGINE, folder)]


def _said(of: Part | RunRequest | Engine, usual: Any, known: Mapping[str, tuple[str, Kind]], folder: Path) -> list[str]:
    """A line for each field that is not the usual one."""
    lines = []
    for name, (field, kind) in known.items():
        value, otherwise = (list(v) if isinstance(v, (tuple, range)) else v for v in (getattr(of, field), getattr(usual, field)))
        if value == otherwise:
            continue
        written = kind.write(value, folder)
        if isinstance(written, dict):
            lines += [f"{name}.{_dotted(inner, written)} = {_toml(one)}" for inner, one in written.items()]
        else:
            lines.append(f"{name} = {_toml(written)}")
    return lines


def _dotted(name: str, others: Iterable[str]) -> str:
    """A name of --set as a key: `train.epochs` as it is; in quotes where that would be no key, or one that another name is a part of."""
    above = {name[:place] for place, letter in enumerate(name) if letter == "."}
    below = any(other.startswith(f"{name}.") for other in others)
    plain = all(BARE.fullmatch(part) for part in name.split(".")) and not below and not above & {*others}
    return name if plain else _toml(name)


def _toml(value: Any) -> str:
    """A value as TOML writes it; TypeError for one that no flag has."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    raise TypeError(f"{type(value).__name__} is not written")
