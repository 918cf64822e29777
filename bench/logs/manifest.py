"""Manifests: CSV files that say what each published log is, one line per log or per glob of logs.

    path,collection,row,dataset,arch,sigma,run,n0,n,alpha,images,paper table
    mnist/run7.tsv,mine,gaussian,mnist,lenet,0.5,7,100,100000,0.001,all,

The manifests of known collections lie in `results/published/logs` of a checkout. docs/notes/logs.md has a table of the columns.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.datasets import DATASETS
from bench.errors import BenchError, UsageError, nearest
from bench.spec import Scalar, coerce, row_name, select_images
from bench.store.imports import ImportSpec

COLUMNS = ("path", "collection", "row", "dataset", "arch", "sigma", "run", "n0", "n", "alpha", "images")
OPTIONAL = ("paper table", "classes", "test images", "skip")
_NUMBERS: Mapping[str, type] = {"sigma": float, "n0": int, "n": int, "alpha": float, "classes": int, "test images": int}
_ROW = re.compile(r"([a-z0-9][a-z0-9_-]*)(?:\.([a-z0-9][a-z0-9_-]*))?(?:\[(.+)\])?")
_WORDS: Mapping[str, Scalar] = {"none": None, "true": True, "false": False}


@dataclass(frozen=True)
class Line:
    """What a manifest says of a log, or of all that a glob names.

    Attributes:
        number: of the line in its file.
        path: of the log within its collection; `*` stands for any part of a name, `**` for any part of a path.
        skip: why such a file is left out; all that follows is then empty.
        spec: what its logs share; run, images, source and check sums are no log's own.
        run: which training; `*` where it is what the path's own `*` stands for.
        images: the selections that the log may cover; one of them entirely.
        tables: numbers of the published tables that average the log.
        classes, test_size: of the data set.
    """

    number: int
    path: str
    skip: str = ""
    spec: ImportSpec | None = None
    run: str = ""
    images: tuple[str, ...] = ()
    tables: tuple[int, ...] = ()
    classes: int = 0
    test_size: int = 0


@dataclass(frozen=True)
class Claim:
    """A line that names a log: by which path within the collection, and as which run."""

    line: Line
    source: str
    run: str

    def spec(self, images: str, sha256: str, rows_sha256: str) -> ImportSpec:
        """What the log is, once its file was read."""
        assert self.line.spec
        return dataclasses.replace(self.line.spec, run=self.run, images=images, source=self.source, sha256=sha256, rows_sha256=rows_sha256)


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
    return Manifest(origin, tuple(lines))


def _line(number: int, cells: Mapping[str, str], origin: str, problems: list[str], blank: dict[str, list[int]]) -> Line:
    """A line of a manifest; adds to problems what is wrong with it, and to blank what is not filled in."""
    where, path, dataset = f"{origin}, line {number}", cells["path"], cells["dataset"]
    empty = [title for title in (("path",) if cells["skip"] else COLUMNS) if not cells[title]]
    for title in empty:
        blank[title].append(number)
    if cells["skip"]:
        filled = [title for title in COLUMNS[1:] if cells[title]]
        problems += [f"{where}, column {title}: {cells[title]!r} stands beside a reason to skip the log; clear one" for title in filled[:1]]
    if empty or cells["skip"]:
        return Line(number, path, cells["skip"])
    values: dict[str, Any] = {"sigma": 1.0, "n0": 1, "n": 1, "alpha": 0.001, "classes": 0, "test images": 0}
    for title in filter(cells.get, _NUMBERS):
        try:
            values[title] = coerce(cells[title], _NUMBERS[title])
        except ValueError as error:
            problems.append(f"{where}, column {title}: {cells[title]!r} {error}")
    images = tuple(word.replace("=", ":") for word in re.split(r"\s+or\s+", cells["images"]))
    try:
        if path.startswith("/") or "\\" in path or {".", "..", ""} & set(path.split("/")):
            raise ValueError(f"path {path!r} does not begin at the collection's top folder, with / between its parts")
        if info := DATASETS.get(dataset):
            if cells["classes"] or cells["test images"]:
                raise ValueError(f"dataset {dataset!r} is one of the suite; leave the cells of classes and test images empty")
            values |= {"classes": info.classes, "test images": info.test_size}
        elif not (values["classes"] > 0 < values["test images"]):
            told = f"dataset {dataset!r} is none of the suite{nearest(dataset, DATASETS)}"
            raise ValueError(f"{told}; of another one, fill in the columns classes and test images")
        if cells["run"] == "*" and path.replace("**", "").count("*") != 1:
            raise ValueError(f"run '*' is what the one * of the path stands for, and {path} has another number of them")
        method, variant, changes = parse_row(cells["row"])
        if nothing := [word for word in images if not select_images(word, values["test images"])]:
            raise ValueError(f"images={nothing[0]} selects none of the {values['test images']} test images")
        spec = ImportSpec(
            collection=cells["collection"],
            method=method,
            variant=variant,
            changes=changes,
            dataset=dataset,
            arch=cells["arch"],
            run="any" if cells["run"] == "*" else cells["run"],
            **{title: values[title] for title in ("sigma", "n0", "n", "alpha")},
            source=path,
            sha256="0" * 64,
            rows_sha256="0" * 64,
        )
        if not re.fullmatch(r"[0-9 ]*", cells["paper table"]):
            raise ValueError(f"paper table {cells['paper table']!r} is not numbers of tables, such as 4 5")
    except ValueError as error:
        problems.append(f"{where}: {error}")
        return Line(number, path)
    tables = tuple(map(int, cells["paper table"].split()))
    return Line(number, path, "", spec, cells["run"], images, tables, values["classes"], values["test images"])


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
        raise ValueError(f"row {name!r} is written {own}")
    raise ValueError(f"row {name!r} is not the name of one, such as method.variant[strength=2.0]")


def _scalar(text: str) -> Scalar:
    if text in _WORDS:
        return _WORDS[text]
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if type(value) in (int, float) else text


# ------------------------------------------------------------------------------------------------------ published tables


@cache
def _printed(number: int) -> tuple[ImportSpec, ...]:
    """The logs that a published table averages."""
    return tuple(line.spec for manifest in shipped().values() for line in manifest.lines if line.spec and number in line.tables)


def printed_collection() -> str:
    """Name of the collection that holds the logs of the published tables."""
    return next(name for name, manifest in shipped().items() if any(line.tables for line in manifest.lines))


def runs_of_table(number: int, row: str, sigma: float) -> tuple[str, ...]:
    """The runs that a published table averages in one cell; empty where there are none."""
    return tuple(spec.run for spec in _printed(number) if (spec.row, spec.sigma) == (row, float(sigma)))


def network_of_table(number: int) -> str:
    """The network of the logs that a published table averages; empty where none were published."""
    return next((spec.arch for spec in _printed(number)), "")
