"""The map of a collection of logs: a TOML file that says what its paths mean, and which runs the published tables average."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

from bench.datasets import DATASETS
from bench.errors import BenchError, UsageError, nearest
from bench.evidence.certification_log import Refused
from bench.rules.bounds import check_alpha
from bench.spec import NAME, Scalar, coerce, row_name, select_images
from bench.store.imports import RUN, ImportSpec

_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_PLACEHOLDER = re.compile(r"\{(\*|[A-Za-z_][A-Za-z0-9_]*)(?::([^{}]+))?\}")
_RULE_KEYS = ("path", "skip", "method", "variant", "settings", "changes", "dataset", "sigma", "run", "arch", "images", "n0", "n", "alpha")
_MAP_KEYS = ("collection", "n0", "n", "alpha", "images", "datasets", "presets", "logs", "tables")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One path pattern of a map and what it means.

    Attributes:
        pattern: as written. `{word}` stands for a number, `{word:a|b}` for one of the given words, `{*}` for anything.
        skip: why such files are left out; empty for logs.
        fields: the other keys, with `{word}` where the path says the value.
    """

    pattern: str
    regex: re.Pattern[str]
    skip: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """What a map says of a path: the spec without what only the file's content can say."""

    source: str
    skip: str = ""  # why the file is left out; all that follows is then empty
    method: str = ""
    variant: str = "default"
    changes: Mapping[str, Scalar] = field(default_factory=dict)
    dataset: str = ""
    sigma: float = 0.0
    run: str = ""
    arch: str = ""
    images: tuple[str, ...] = ()
    n0: int = 0
    n: int = 0
    alpha: float = 0.0

    @property
    def row(self) -> str:
        """The name of the table row, in the syntax of `RunSpec.row`."""
        return row_name(self.method, self.variant, self.changes)

    @property
    def place(self) -> tuple[str, str, str, float, str]:
        """What no two logs of a collection share: data set, network, row, sigma and run."""
        return self.dataset, self.arch, self.row, self.sigma, self.run

    def spec(self, collection: str, images: str, sha256: str, rows_sha256: str) -> ImportSpec:
        """The spec, once the file was read.

        Raises:
            ValueError: a value of the map that is out of range.
        """
        return ImportSpec(
            collection=collection,
            method=self.method,
            variant=self.variant,
            changes=dict(self.changes),
            dataset=self.dataset,
            sigma=self.sigma,
            run=self.run,
            arch=self.arch,
            n0=self.n0,
            n=self.n,
            alpha=self.alpha,
            images=images,
            source=self.source,
            sha256=sha256,
            rows_sha256=rows_sha256,
        )


@dataclass(frozen=True, kw_only=True)
class LogMap:
    """The map of a collection: what its paths mean, and which runs the published tables average.

    Attributes:
        origin: the file it was read from.
        sizes: data set -> classes and test images.
        presets: row -> `dataset/sigma` -> hyperparameters that the row's bare name stands for.
        tables: number -> row -> sigma -> runs.
        networks: number -> the network of the table's rows, where the map says it.
    """

    origin: str
    collection: str
    rules: tuple[Rule, ...]
    sizes: Mapping[str, tuple[int, int]]
    presets: Mapping[str, Mapping[str, Mapping[str, Scalar]]]
    tables: Mapping[int, Mapping[str, Mapping[float, tuple[str, ...]]]]
    networks: Mapping[int, str]

    def place(self, path: str, above: Sequence[str] = ()) -> Placed:
        """What a path means.

        The path is tried as it is; failing that, without its first folders and behind the folders above it, as long as
        all that fits means the same.

        Args:
            path: relative to the folder that is imported, with `/` between its parts.
            above: the folders that lead to it.

        Raises:
            Refused: no pattern fits, or several.
        """
        parts = [*above, *path.split("/")]
        found = self._fitting(path) or [fit for start in range(len(parts)) for fit in self._fitting("/".join(parts[start:]))]
        if not found:
            raise Refused(path, None, f"no path pattern of {self.origin} fits it", "no pattern")
        if len(found) > 1:
            patterns = " and ".join(f"{rule.pattern!r} ({source})" for rule, _, source in found[:2])
            raise Refused(path, None, f"several path patterns of {self.origin} fit it: {patterns}", "no place")
        rule, words, source = found[0]
        try:
            return self._placed(rule, words, source)
        except ValueError as error:
            raise Refused(path, None, f"pattern {rule.pattern!r} of {self.origin}: {error}", "no place") from None

    def _fitting(self, path: str) -> list[tuple[Rule, dict[str, str], str]]:
        return [(rule, match.groupdict(), path) for rule in self.rules if (match := rule.regex.fullmatch(path))]

    def _placed(self, rule: Rule, words: Mapping[str, str], source: str) -> Placed:
        if rule.skip:
            return Placed(source=source, skip=rule.skip)

        def fill(name: str) -> str:
            return str(rule.fields[name]).format_map(words)

        method, variant, dataset, sigma = fill("method"), fill("variant"), fill("dataset"), _number(fill("sigma"))
        if dataset not in self.sizes:
            raise ValueError(f"unknown data set {dataset!r}{nearest(dataset, self.sizes)}")
        row = row_name(method, variant, {})
        changes = {name: _guess(str(value).format_map(words)) for name, value in rule.fields["changes"].items()}
        if settings := rule.fields["settings"]:
            preset = self.presets.get(row, {}).get(f"{dataset}/{sigma:g}")
            if preset is None:
                raise ValueError(f"there is no preset of {row} for {dataset}/{sigma:g}")
            for name, value in settings.items():
                if name not in preset:
                    raise ValueError(f"the preset of {row} for {dataset}/{sigma:g} has no {name!r}{nearest(name, preset)}")
                own = _as(preset[name], str(value).format_map(words))
                if own != preset[name]:
                    changes[name] = own
        placed = Placed(
            source=source,
            method=method,
            variant=variant,
            changes=changes,
            dataset=dataset,
            sigma=sigma,
            run=fill("run"),
            arch=fill("arch"),
            images=tuple(rule.fields["images"]),
            n0=rule.fields["n0"],
            n=rule.fields["n"],
            alpha=rule.fields["alpha"],
        )
        placed.spec(self.collection, placed.images[0], "0" * 64, "0" * 64)  # ValueError where a value is out of range
        return placed


def _number(text: str) -> float:
    """A number, or the quotient `a/b` of two."""
    above, slash, below = text.partition("/")
    try:
        value = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a number")
    return value


def _as(like: Scalar, text: str) -> Scalar:
    """A word of a path in the type that a preset's value has."""
    if isinstance(like, (bool, str)) or like is None:
        return coerce(text, type(like))
    value = _number(text)
    if isinstance(like, float):
        return value
    if value != int(value):
        raise ValueError(f"{text!r} is not a whole number")
    return int(value)


def _guess(text: str) -> Scalar:
    """A word of a path without a preset to say its type."""
    if re.fullmatch(r"\d{1,18}", text, re.ASCII):
        return int(text)
    try:
        return _number(text)
    except ValueError:
        return text


def default_map() -> Path:
    """The map that ships with the suite: the one *-logs.toml beside the published tables, installed or in a checkout.

    Raises:
        BenchError: there is none, or several to choose from.
    """
    top = Path(__file__).resolve().parents[2]
    folders = (top / "leaderboard" / "published", top / "results" / "published")
    maps = next(filter(None, (sorted(folder.glob("*-logs.toml")) for folder in folders)), [])
    if len(maps) == 1:
        return maps[0]
    if not maps:
        raise BenchError(f"there is no map of logs in {folders[0]}; install certbench again, or name one by --map")
    raise BenchError(f"there are {len(maps)} maps of logs: {', '.join(path.name for path in maps)}; name one by --map")


def load_map(path: Path | None = None) -> LogMap:
    """A map from its TOML file; by default the one that ships with the suite.

    Raises:
        UsageError: everything that is wrong with it, one sentence each.
        BenchError: it cannot be read, or is no TOML.
    """
    path = default_map() if path is None else path
    try:
        data = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{path}: not a map in TOML: {error}") from None
    problems: list[str] = []
    result = _map(data, str(path), problems)
    if problems or result is None:
        raise UsageError(problems)
    return result


_KINDS: Mapping[str, tuple[Any, str]] = {
    "collection": (str, "a word"),
    "n0": (int, "a whole number"),
    "n": (int, "a whole number"),
    "alpha": (float, "a number"),
    "images": (list, "a list of selections"),
    "datasets": (dict, "a table"),
    "presets": (dict, "a table"),
    "logs": (list, "an array of tables"),
    "tables": (dict, "a table"),
    "settings": (dict, "a table"),
    "changes": (dict, "a table"),
}


def _check_keys(data: Mapping[str, Any], known: Sequence[str], where: str, problems: list[str]) -> None:
    for name, value in data.items():
        if name not in known:
            problems.append(f"{where}: unknown key {name!r}{nearest(name, known)}")
            continue
        kind, words = _KINDS.get(name, (str, "a word"))
        plain = name in ("sigma", "run") and isinstance(value, (int, float)) and not isinstance(value, bool)
        if not plain and (not isinstance(value, kind) or isinstance(value, bool)):
            problems.append(f"{where}: {name} must be {words}, not {value!r}")


def _map(data: Mapping[str, Any], origin: str, problems: list[str]) -> LogMap | None:
    _check_keys(data, _MAP_KEYS, origin, problems)
    problems += [f"{origin}: key {name!r} is missing" for name in ("collection", "logs") if name not in data]
    if problems:
        return None
    if not NAME.match(data["collection"]):
        problems.append(f"{origin}: collection {data['collection']!r} is not a name: lower case letters, digits, - and _")
    sizes = _sizes(data.get("datasets", {}), origin, problems)
    presets = data.get("presets", {})
    for row, cells in presets.items():
        good = isinstance(cells, dict) and all(isinstance(preset, dict) for preset in cells.values())
        plain = good and all(isinstance(v, (bool, int, float, str)) for preset in cells.values() for v in preset.values())
        if not plain:
            problems.append(f"{origin}: presets of {row!r} must be tables of plain values by 'dataset/sigma'")
    rules = tuple(
        rule
        for number, entry in enumerate(data["logs"], start=1)
        if (rule := _rule(entry, number, data, sizes, origin, problems)) is not None
    )
    networks: dict[int, str] = {}
    tables = _tables(data.get("tables", {}), origin, networks, problems)
    return LogMap(origin=origin, collection=data["collection"], rules=rules, sizes=sizes, presets=presets, tables=tables, networks=networks)


def _sizes(data: Mapping[str, Any], origin: str, problems: list[str]) -> dict[str, tuple[int, int]]:
    """Classes and test images: those of the suite's data sets, and what the map says of others."""
    sizes = {name: (info.classes, info.test_size) for name, info in DATASETS.items()}
    for name, facts in data.items():
        found = (facts.get("classes"), facts.get("test_size")) if isinstance(facts, dict) and len(facts) == 2 else (None, None)
        if not all(type(value) is int and 0 < value < 10**9 for value in found):
            problems.append(f"{origin}: data set {name!r} needs classes and test_size, whole numbers greater than 0, and nothing else")
        elif sizes.setdefault(name, cast(tuple[int, int], found)) != found:
            problems.append(f"{origin}: data set {name!r} has {sizes[name][0]} classes and {sizes[name][1]} test images here, not {found}")
    return sizes


def _rule(
    entry: Any, number: int, data: Mapping[str, Any], sizes: Mapping[str, tuple[int, int]], origin: str, problems: list[str]
) -> Rule | None:
    """A rule with its defaults filled in; None and problems for a wrong one."""
    where = f"{origin}: logs entry {number}"
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        problems.append(f"{where} must be a table with a path")
        return None
    where += f" ({entry['path']})"
    before = len(problems)
    _check_keys(entry, _RULE_KEYS, where, problems)
    try:
        regex = _regex(entry["path"])
    except ValueError as error:
        problems.append(f"{where}: {error}")
        return None
    skip = entry.get("skip", "")
    if "skip" in entry and (len(entry) > 2 or not skip):
        problems.append(f"{where}: skip needs a reason, and no other key but path beside it")
    if problems[before:] or skip:
        return None if problems[before:] else Rule(pattern=entry["path"], regex=regex, skip=skip, fields={})
    fields: dict[str, Any] = {"variant": "default", "sigma": "{sigma}", "run": "{run}", "settings": {}, "changes": {}}
    fields |= {"n0": 100, "n": 100_000, "alpha": 0.001, "images": ["all"]}
    fields |= {name: data[name] for name in ("n0", "n", "alpha", "images") if name in data}
    fields |= {name: value for name, value in entry.items() if name != "path"}
    problems += [f"{where}: key {name!r} is missing" for name in ("method", "dataset", "arch") if name not in fields]
    for name, value in {**fields["settings"], **fields["changes"]}.items():
        if not isinstance(value, (bool, int, float, str)):
            problems.append(f"{where}: {name} must be a plain value, not {value!r}")
    known = set(regex.groupindex)
    texts = [fields.get(name, "") for name in ("method", "variant", "dataset", "sigma", "run", "arch")]
    for text in [*texts, *fields["settings"].values(), *fields["changes"].values()]:
        rest = re.sub(r"\{(\w+)\}", lambda match: "" if match[1] in known else match[0], str(text))
        if "{" in rest or "}" in rest:
            problems.append(f"{where}: {text!r} asks for a word that the path does not have{nearest(str(text).strip('{}'), known)}")
    if "dataset" in fields and "{" not in fields["dataset"] and fields["dataset"] not in sizes:
        problems.append(f"{where}: unknown data set {fields['dataset']!r}{nearest(fields['dataset'], sizes)}; state it under [datasets]")
    for name in ("n0", "n"):
        if fields[name] < 1:
            problems.append(f"{where}: {name}={fields[name]} must be greater than 0")
    try:
        check_alpha(fields["alpha"])
    except ValueError as error:
        problems.append(f"{where}: {error}")
    _check_images(fields["images"], sizes.get(fields.get("dataset", ""), (1, 10**9))[1], where, problems)
    return None if problems[before:] else Rule(pattern=entry["path"], regex=regex, skip="", fields=fields)


def _check_images(images: Sequence[Any], size: int, where: str, problems: list[str]) -> None:
    if not images:
        problems.append(f"{where}: images must name at least one selection, such as 'all'")
    for word in images:
        try:
            if not select_images(str(word), size):
                problems.append(f"{where}: images={word} selects none of the {size} test images")
        except ValueError as error:
            problems.append(f"{where}: {error}")


def _regex(pattern: str) -> re.Pattern[str]:
    """The expression of a path pattern; its literal parts match themselves only, and no part can backtrack for long."""
    result, end, seen = "", 0, set()
    for match in _PLACEHOLDER.finditer(pattern):
        literal = pattern[end : match.start()]
        name, choice = match[1], match[2]
        end = match.end()
        if "{" in literal or "}" in literal:
            break
        if name != "*" and name in seen:
            raise ValueError(f"{{{name}}} stands twice in the path")
        seen.add(name)
        inner = "|".join(map(re.escape, choice.split("|"))) if choice else ".+" if name == "*" else _NUMBER
        result += re.escape(literal) + (f"({inner})" if name == "*" else f"(?P<{name}>{inner})")
    if "{" in pattern[end:] or "}" in pattern[end:]:
        raise ValueError("braces must hold a word, as {sigma} or {arch:a|b}, or be {*}")
    if pattern.count("{*}") > 2:
        raise ValueError("{*} may stand twice at most")
    return re.compile(result + re.escape(pattern[end:]))


def _tables(
    data: Mapping[str, Any], origin: str, networks: dict[int, str], problems: list[str]
) -> dict[int, dict[str, dict[float, tuple[str, ...]]]]:
    """The runs of each table, and its network where one is named; a table given as a number has those of that other one."""
    tables: dict[int, dict[str, dict[float, tuple[str, ...]]]] = {}
    for name, content in data.items():
        where = f"{origin}: tables.{name}"
        if isinstance(content, int) and not isinstance(content, bool):
            content = data.get(str(content))
        if not (re.fullmatch(r"[1-9][0-9]{0,3}", name) and isinstance(content, dict)):
            problems.append(f"{where} must be a number: a table of rows, or the number of the table with the same runs")
            continue
        rows: dict[str, dict[float, tuple[str, ...]]] = {}
        for row, cells in content.items():
            if row == "network" and isinstance(cells, str) and NAME.match(cells):
                networks[int(name)] = cells
                continue
            try:
                rows[row] = {_number(sigma): tuple(runs) for sigma, runs in cells.items()}
                good = all(isinstance(run, str) and RUN.fullmatch(run) for runs in rows[row].values() for run in runs)
                good = good and all(isinstance(runs, list) for runs in cells.values())
            except (AttributeError, TypeError, ValueError):
                good = False
            if not good:
                problems.append(f"{where}: row {row!r} must be lists of run ids by sigma")
        tables[int(name)] = rows
    return tables


@cache
def _shipped() -> LogMap:
    return load_map()


def default_collection() -> str:
    """Name of the collection whose map ships with the suite."""
    return _shipped().collection


def runs_of_table(number: int, row: str, sigma: float, log_map: LogMap | None = None) -> tuple[str, ...]:
    """The runs of a collection that a published table averages in one cell; empty where it has none.

    Args:
        sigma: compared as a number: `0.50` and `0.5` are one.
        log_map: the collection; by default the one that ships with the suite.
    """
    tables = (_shipped() if log_map is None else log_map).tables
    return tables.get(number, {}).get(row, {}).get(float(sigma), ())


def network_of_table(number: int, log_map: LogMap | None = None) -> str:
    """The network of the logs that a published table averages; empty where the map names none, since all are of one."""
    return (_shipped() if log_map is None else log_map).networks.get(number, "")
