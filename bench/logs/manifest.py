"""Manifests: CSV files that say what each published log is, one line per log or per glob of logs.

    path,collection,row,dataset,arch,sigma,run,n0,n,alpha,images,paper table
    mnist/run7.tsv,mine,gaussian,mnist,lenet,0.5,7,100,100000,0.001,all,

The manifests of known collections lie in `results/published/logs` of a checkout. docs/logs.md has a table of the columns.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from bench.datasets import DATASETS
from bench.errors import BenchError, UsageError, nearest
from bench.rules.bounds import check_alpha
from bench.spec import MOST_SAMPLES, NAME, Scalar, check_sigma, row_name, select_images
from bench.store.imports import RUN, ImportSpec

COLUMNS = ("path", "collection", "row", "dataset", "arch", "sigma", "run", "n0", "n", "alpha", "images")
OPTIONAL = ("paper table", "classes", "test images", "skip")
_ROW = re.compile(r"([a-z0-9][a-z0-9_-]*)(?:\.([a-z0-9][a-z0-9_-]*))?(?:\[(.+)\])?")
_WORDS: Mapping[str, Scalar] = {"none": None, "true": True, "false": False}


@dataclass(frozen=True, kw_only=True)
class Line:
    """What a manifest says of a log, or of all that a glob names.

    Attributes:
        number: of the line in its file.
        path: of the log within its collection; `*` stands for any part of a name, `**` for any part of a path.
        skip: why such a file is left out; all that follows is then empty.
        facts: collection, method, variant, changes, dataset, sigma, arch, n0, n and alpha, as `ImportSpec` has them.
        row: the table row.
        run: which training; `*` where it is what the path's own `*` stands for.
        images: the selections that the log may cover; one of them entirely.
        tables: numbers of the published tables that average this log.
        sizes: classes and test images of the data set.
    """

    number: int
    path: str
    skip: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    row: str = ""
    run: str = ""
    images: tuple[str, ...] = ()
    tables: tuple[int, ...] = ()
    sizes: tuple[int, int] = (0, 0)

    @property
    def collection(self) -> str:
        name: str = self.facts["collection"]
        return name


@dataclass(frozen=True)
class Claim:
    """A line that names a log: by which path within the collection, and as which run."""

    line: Line
    source: str
    run: str


@dataclass(frozen=True)
class Manifest:
    """A manifest that was read: what it is called, and its lines."""

    origin: str
    lines: tuple[Line, ...]

    def claims(self, files: Iterable[Path], folder: Path) -> dict[Path, list[Claim]]:
        """The lines that name each log.

        Paths of a manifest start at the collection's top folder. That is the folder that is imported, if any path starts
        there; else the folder above or below it where most of them do.

        Args:
            files: absolute paths.
            folder: what is imported.
        """
        found: dict[str, dict[Path, list[Claim]]] = defaultdict(lambda: defaultdict(list))
        patterns = [(line, line.path.rpartition("*")[2], _regex(line.path)) for line in self.lines]
        own = folder.as_posix()
        for file in files:
            path = file.as_posix()
            for line, tail, regex in patterns:
                if path.endswith(tail) and (match := regex.fullmatch(path, len(own)) or regex.fullmatch(path)):
                    _, source, *stars = match.groups()
                    found[path[: match.start(2) - 1]][file].append(Claim(line, source, stars[0] if line.run == "*" else line.run))
        logs = Counter({top: sum(not claims[0].line.skip for claims in named.values()) for top, named in found.items()})
        return found[own if logs[own] or not logs else logs.most_common(1)[0][0]]


def _regex(path: str) -> re.Pattern[str]:
    """Groups of a match: what is above, the path, and what its `*` stands for."""
    text = re.escape(path).replace(r"\*\*/", "(?:.+/)?").replace(r"\*\*", ".+").replace(r"\*", "([^/]+)")
    return re.compile(f"(.*?)/({text})")


def load_manifest(word: str | Path) -> Manifest:
    """A manifest from its file, or of a known collection by its name.

    Raises:
        UsageError: everything that is wrong with it, with line, column and value.
        BenchError: it cannot be read, or is no such name.
    """
    if str(word) in (known := shipped()):
        return known[str(word)]
    try:
        return parse_manifest(Path(word).read_bytes(), str(word))
    except FileNotFoundError:
        raise BenchError(f"there is no manifest {word}{nearest(str(word), known)}") from None
    except OSError as error:
        raise BenchError(f"{word}: {error.strerror}") from None


@cache
def shipped() -> Mapping[str, Manifest]:
    """The manifests that ship with the suite, by the name of their collection."""
    top = Path(__file__).resolve().parents[2]
    folders = (top / "leaderboard" / "published" / "logs", top / "results" / "published" / "logs")
    files = next(filter(None, (sorted(folder.glob("*.csv")) for folder in folders)), [])
    return {file.stem: parse_manifest(file.read_bytes(), file.stem) for file in files}


def recognise(files: Sequence[Path], folder: Path) -> Manifest:
    """The manifest of the known collection that most of the files belong to.

    Raises:
        BenchError: none of them names a log, or two name as many.
    """
    named: Counter[str] = Counter()
    for name, manifest in shipped().items():
        named[name] = sum(any(not claim.line.skip for claim in claims) for claims in manifest.claims(files, folder).values())
    (best, most), *others = named.most_common()
    if not most:
        raise BenchError(f"no known collection has such logs; `bench import {folder} --draft FILE.csv` begins a manifest of your own")
    if same := [name for name, count in others if count == most]:
        raise BenchError(f"these logs may be of {' or '.join([best, *same])}; say which by --manifest")
    return shipped()[best]


def parse_manifest(data: bytes, origin: str) -> Manifest:
    """A manifest from its text.

    Raises:
        UsageError: everything that is wrong with it, with line, column and value.
        BenchError: it is no CSV in UTF-8.
    """
    problems: list[str] = []
    try:
        reader = csv.DictReader(data.decode("utf-8-sig").splitlines(), restkey="", strict=True)
        titles = [title.strip() for title in reader.fieldnames or ()]
        reader.fieldnames = titles
        table = [(reader.line_num, {k: v.strip() for k, v in row.items() if isinstance(v, str)}, row.get("")) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BenchError(f"{origin}: not a CSV file in UTF-8: {error}") from None
    where = f"{origin}, line 1"
    problems += [f"{where}: unknown column {t!r}{nearest(t, (*COLUMNS, *OPTIONAL))}" for t in titles if t not in (*COLUMNS, *OPTIONAL)]
    problems += [f"{where}: column {title!r} is missing; a manifest has {','.join(COLUMNS)}" for title in COLUMNS if title not in titles]
    problems += [f"{origin}, line {number}: more cells than the {len(titles)} columns" for number, _, more in table if more]
    if problems:
        raise UsageError(problems)
    blank: dict[str, list[int]] = defaultdict(list)
    lines = []
    for number, row, _ in table:
        cells = {title: row.get(title, "") for title in (*COLUMNS, *OPTIONAL)}
        lines.append(_line(number, cells, origin, problems, blank))
    for title, numbers in blank.items():
        others = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
        problems.append(f"{origin}, line {numbers[0]}{others}, column {title}: the cell is empty")
    if not problems and not lines:
        problems.append(f"{origin}: it names no logs")
    if problems:
        raise UsageError(problems)
    return Manifest(origin, tuple(line for line in lines if line))


def _line(number: int, cells: Mapping[str, str], origin: str, problems: list[str], blank: dict[str, list[int]]) -> Line | None:
    """A line of a manifest; None, and what is wrong with it in problems and blank."""
    values: dict[str, Any] = {}

    def wrong(title: str, reason: str) -> None:
        problems.append(f"{origin}, line {number}, column {title}: {cells[title]!r} {reason}")

    for title in ("path",) if cells["skip"] else COLUMNS:
        if not cells[title]:
            blank[title].append(number)
    for title in filter(cells.get, _READ):
        if cells["skip"] and title != "path":
            wrong(title, "stands beside a reason to skip the log; clear one of them")
        try:
            values[title] = _READ[title](cells[title])
        except ValueError as error:
            wrong(title, str(error))
    dataset = values.get("dataset", "")
    info = DATASETS.get(dataset)
    sizes = (info.classes, info.test_size) if info else (values.get("classes", 0), values.get("test images", 0))
    if dataset and not all(sizes):
        wrong("dataset", f"is no data set of the suite{nearest(dataset, DATASETS)}; state classes and test images of another one")
    for word in values.get("images", ()):
        try:
            if not select_images(word, sizes[1] or 1):
                wrong("images", f"selects none of the {sizes[1]} test images")
        except ValueError as error:
            wrong("images", f"cannot be: {error}")
    if values.get("run") == "*" and cells["path"].replace("**", "").count("*") != 1:
        wrong("run", "is what the one * of the path stands for, and the path has another number of them")
    try:
        method, variant, changes = values.get("row", ("", "", {}))
        facts = {name: values[name] for name in ("collection", "dataset", "arch", "sigma", "n0", "n", "alpha") if name in values}
        line = Line(
            number=number,
            path=values["path"],
            skip=cells["skip"],
            facts=facts | {"method": method, "variant": variant, "changes": changes},
            row=cells["row"],
            run=values.get("run", ""),
            images=values.get("images", ()),
            tables=values.get("paper table", ()),
            sizes=sizes,
        )
    except KeyError:  # told above
        return None
    return line


def parse_row(name: str) -> tuple[str, str, dict[str, Scalar]]:
    """Method, variant and changed hyperparameters of a row's name; the inverse of `bench.spec.row_name`.

    Raises:
        ValueError: it is no such name.
    """
    match = _ROW.fullmatch(name)
    pairs = [part.partition("=") for part in match[3].split(",")] if match and match[3] else []
    if match and all(key and value for key, _, value in pairs):
        changes = {key: _scalar(value) for key, _, value in pairs}
        if (own := row_name(match[1], match[2] or "default", changes)) == name:
            return match[1], match[2] or "default", changes
        raise ValueError(f"is written {own}")
    raise ValueError("is not the name of a row, such as method.variant[strength=2.0]")


def _scalar(text: str) -> Scalar:
    if text in _WORDS:
        return _WORDS[text]
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if type(value) in (int, float) else text


def _path(text: str) -> str:
    if text.startswith("/") or "\\" in text or {".", "..", ""} & set(text.split("/")):
        raise ValueError("is not a path from the collection's top folder, with / between its parts")
    return text


def _name(text: str) -> str:
    if not NAME.match(text):
        raise ValueError("is not a name: lower case letters, digits, - and _")
    return text


def _number(check: Callable[[float], object]) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError("is not a number, such as 0.5") from None
        try:
            check(value)
        except ValueError as error:
            raise ValueError(f"cannot be: {error}") from None
        return value

    return read


def _whole(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,9}", text) or int(text) > MOST_SAMPLES:
        raise ValueError(f"is not a whole number from 1 to {MOST_SAMPLES}")
    return int(text)


def _run(text: str) -> str:
    if text != "*" and not RUN.fullmatch(text):
        raise ValueError("is neither a word of letters, digits, . - and _, nor *")
    return text


_READ: Mapping[str, Callable[[str], Any]] = {
    "path": _path,
    "collection": _name,
    "row": parse_row,
    "dataset": _name,
    "arch": _name,
    "sigma": _number(check_sigma),
    "run": _run,
    "n0": _whole,
    "n": _whole,
    "alpha": _number(check_alpha),
    "images": lambda text: tuple(word.replace("=", ":") for word in re.split(r"\s+or\s+", text)),
    "paper table": lambda text: tuple(map(_whole, text.split())),
    "classes": _whole,
    "test images": _whole,
}
"""Column -> its value from a cell; ValueError says what is wrong with it."""


# ------------------------------------------------------------------------------------------------------ published tables


@cache
def _printed(number: int) -> tuple[Line, ...]:
    """The logs that a published table averages."""
    return tuple(line for manifest in shipped().values() for line in manifest.lines if number in line.tables)


def default_collection() -> str:
    """Name of the collection that holds the logs of the published tables."""
    return next((line.collection for manifest in shipped().values() for line in manifest.lines if line.tables), "")


def runs_of_table(number: int, row: str, sigma: float) -> tuple[str, ...]:
    """The runs that a published table averages in one cell; empty where there are none."""
    return tuple(line.run for line in _printed(number) if (line.row, line.facts["sigma"]) == (row, float(sigma)))


def network_of_table(number: int) -> str:
    """The network of the logs that a published table averages; empty where none were published."""
    return next((line.facts["arch"] for line in _printed(number)), "")


def import_spec(claim: Claim, images: str, sha256: str, rows_sha256: str) -> ImportSpec:
    """What a log is, once its file was read."""
    return ImportSpec(**claim.line.facts, run=claim.run, images=images, source=claim.source, sha256=sha256, rows_sha256=rows_sha256)
