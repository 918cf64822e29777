"""Where methods and data sets come from: a folder, an entry point, or a path to a .py file.

The folders are `methods` and `bench/datasets/known`, the groups of entry points `bench.methods` and `bench.datasets`. A file that assigns
`DATASET` is a data set, any other a method. Nothing is imported until it is asked for by name (but for the suite's own data sets); what
stands in a file without running it (its first line, its variants) is read from its text.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import importlib.util
import os
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from bench.datasets import BUILT_IN, DATASETS, DatasetInfo, known
from bench.errors import BenchError, UsageError, nearest
from bench.spec import NAME, RECIPES, coerce

if TYPE_CHECKING:
    from bench.method import Method

GROUP = "bench.methods"
DATASET_GROUP = "bench.datasets"


@dataclass(frozen=True)
class Entry:
    """A method or data set that can be asked for: where it comes from, not yet imported."""

    name: str
    origin: str  # built in, plug-in file, or the package that offers it
    path: Path | None = None
    point: EntryPoint | None = None
    module: str | None = None

    def describe(self) -> tuple[str, tuple[str, ...]]:
        """First line of the docstring and the variants, read from the source text; empty for packages."""
        if self.path is None:
            return "", ()
        try:
            tree = ast.parse(self.path.read_bytes())
        except (SyntaxError, ValueError, OSError) as error:
            return f"cannot be read: {error}", ()
        summary = (ast.get_docstring(tree) or "").partition("\n")[0]
        for node in ast.walk(tree):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
            if any(getattr(target, "id", "") == "variants" for target in targets):
                try:
                    return summary, tuple(map(str, ast.literal_eval(node.value)))  # type: ignore[attr-defined]
                except (ValueError, TypeError):
                    return summary, ("known when it is loaded",)
        return summary, ("default",)


@dataclass(frozen=True)
class Loaded:
    """A method's class, its name, and the SHA-256 of the file it stands in."""

    name: str
    cls: type[Method]
    source_sha256: str
    doc: str


@dataclass
class Registry:
    """All methods and data sets by name.

    Args:
        plugins: paths of .py files, each one method or data set named as the file.
    """

    plugins: tuple[Path, ...] = ()
    _loaded: dict[str, Loaded] = field(default_factory=dict)
    _datasets: dict[str, DatasetInfo] = field(default_factory=dict)

    def entries(self) -> dict[str, Entry]:
        """Every method that can be asked for, by name.

        Raises:
            UsageError: a plug-in that is no file, has no valid name, or the name of another method.
        """
        found: dict[str, Entry] = {}
        spec = importlib.util.find_spec("methods")
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for path in sorted(Path(folder).glob("*.py")):
                if not path.stem.startswith("_"):
                    found[path.stem] = Entry(path.stem, "built in", path=path, module=f"methods.{path.stem}")
        for point in entry_points(group=GROUP):
            if point.name not in found:
                found[point.name] = Entry(point.name, point.dist.name if point.dist else "package", point=point)
        self._add_plugins(found, "method")
        return found

    def datasets(self) -> dict[str, Entry]:
        """Every data set that can be asked for, by name.

        Raises:
            UsageError: as for methods.
        """
        found = {name: Entry(name, "built in", path=_known_file(name)) for name in sorted(BUILT_IN)}
        for point in entry_points(group=DATASET_GROUP):
            if point.name not in found:
                found[point.name] = Entry(point.name, point.dist.name if point.dist else "package", point=point)
        self._add_plugins(found, "data set")
        return found

    def _add_plugins(self, found: dict[str, Entry], kind: str) -> None:
        problems = []
        for path in self.plugins:
            name = path.stem
            if not os.path.isfile(path):  # noqa: PTH113 - a path too long for the system is no file, and no error
                problems.append(f"plug-in {path} is not a file")
            elif path.suffix != ".py" or not NAME.match(name):
                problems.append(f"plug-in {path}: a method's file is NAME.py, with a name of lower case letters, digits, - and _")
            elif holds_dataset(path) != (kind == "data set"):
                continue
            elif name in found and found[name].path != path:
                problems.append(f"plug-in {path}: there is already a {kind} {name!r} ({found[name].origin}); rename the file")
            else:
                found[name] = Entry(name, "plug-in file", path=path)
        if problems:
            raise UsageError(problems)

    def load_dataset(self, name: str) -> DatasetInfo:
        """A data set; one of a plug-in is imported and from then on in `DATASETS`, where the engine looks it up.

        Raises:
            BenchError: unknown name, a file that fails to import, or one that holds no data set of that name.
        """
        entries = self.datasets()
        if name not in entries:
            raise BenchError(f"unknown data set {name!r}{nearest(name, entries)}")
        if name not in BUILT_IN and name not in self._datasets:
            found = _guarded(entries[name], "data set", _import_dataset)
            self._datasets[name] = DATASETS[name] = found
        return DATASETS[name]

    def load(self, name: str) -> Loaded:
        """Imports a method.

        Raises:
            BenchError: unknown name, a file that fails to import, or one that does not hold exactly one method.
        """
        if name in self._loaded:
            return self._loaded[name]
        entries = self.entries()
        if name not in entries:
            raise BenchError(f"unknown method {name!r}{nearest(name, entries)}")
        found = self._loaded[name] = _guarded(entries[name], "method", _import)
        return found


T = TypeVar("T")


def _guarded(entry: Entry, kind: str, work: Callable[[Entry], T]) -> T:
    """Imports an entry; whatever its code raises becomes a sentence."""
    try:
        return work(entry)
    except BenchError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        where = _last_line(error, entry.path)
        raise BenchError(f"{kind} {entry.name!r} ({entry.origin}) cannot be imported: {type(error).__name__}: {error}{where}") from error


def holds_dataset(path: Path) -> bool:
    """Whether a file assigns `DATASET`, read from its text. What is no file, as a pipe that would never end, does not."""
    try:
        if not path.is_file():
            return False
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return False  # its import as a method will say what is wrong
    targets = [t for node in tree.body for t in (node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)])]
    return any(getattr(target, "id", "") == "DATASET" for target in targets)


def _known_file(name: str) -> Path:
    return Path(str(known.__file__)).parent / f"{name.replace('-', '_')}.py"


def _import_dataset(entry: Entry) -> DatasetInfo:
    target, _ = _module(entry)
    found = getattr(target, "DATASET", target)
    if not isinstance(found, DatasetInfo) or found.source is None:
        raise BenchError(f"data set {entry.name!r} ({entry.origin}): DATASET must be a DatasetInfo with a source")
    if found.name != entry.name:
        raise BenchError(f"data set {entry.name!r} ({entry.origin}): its DATASET has the name {found.name!r}; both must agree")
    return found


class _Uncached(SourceFileLoader):
    """Runs a file as it is at this moment, and leaves no bytecode beside it.

    Python takes bytecode for that of a source of the same size and the same second, and would run another method than the one hashed.

    Attributes:
        source: what the file holds.
    """

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name, str(path))
        self.source = path.read_bytes()

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.source, self.path)


def _module(entry: Entry) -> tuple[Any, ModuleType]:
    """What an entry names, and the module that it stands in."""
    if entry.point:
        target = entry.point.load()
        module = target if isinstance(target, ModuleType) else sys.modules[target.__module__]
    elif entry.module:
        target = module = importlib.import_module(entry.module)
    else:
        assert entry.path
        loader = _Uncached(f"bench_plugin_{entry.name.replace('-', '_')}", entry.path.absolute())
        spec = importlib.util.spec_from_file_location(loader.name, loader.path, loader=loader)
        assert spec is not None
        target = module = importlib.util.module_from_spec(spec)
        sys.modules[module.__name__] = module  # dataclasses look their module up by name
        try:
            loader.exec_module(module)
        except BaseException:
            del sys.modules[module.__name__]
            raise
    return target, module


def _import(entry: Entry) -> Loaded:
    from bench.method import Method  # torch: only when a method is really wanted

    target, module = _module(entry)
    if isinstance(target, type):
        classes = [target]
    else:
        classes = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__ and issubclass(v, Method)]
        classes = [c for c in classes if not getattr(c, "__abstractmethods__", None)]
    if len(classes) != 1 or not issubclass(classes[0], Method):
        names = ", ".join(c.__name__ for c in classes) or "none"
        raise BenchError(
            f"method {entry.name!r} ({entry.origin}): its file must hold exactly one subclass of Method with a loss, not {names}"
        )
    if fault := _fault(classes[0]):
        raise BenchError(f"method {entry.name!r} ({entry.origin}): {fault}")
    return Loaded(entry.name, classes[0], hashlib.sha256(_source(module)).hexdigest(), module.__doc__ or "")


def _source(module: ModuleType) -> bytes:
    loader = module.__spec__ and module.__spec__.loader
    return loader.source if isinstance(loader, _Uncached) else Path(str(module.__file__)).read_bytes()


def _fault(cls: type[Method]) -> str | None:
    """What makes a class unusable as a method, in words; None if nothing does."""
    params = vars(cls).get("__dataclass_params__")
    if not (params and params.frozen and all(f.kw_only for f in dataclasses.fields(cls))):
        return f"write @dataclass(frozen=True, kw_only=True) above class {cls.__name__}"
    hints = typing.get_type_hints(cls)
    if not isinstance(cls.variants, tuple) or not cls.variants or not all(isinstance(v, str) and NAME.match(v) for v in cls.variants):
        return f"variants={cls.variants!r} must be a tuple of names, the default one first"
    names = [f.name for f in dataclasses.fields(cls)]
    if isinstance(cls.chunks, str):
        if cls.chunks not in names or hints[cls.chunks] is not int:
            return f"chunks={cls.chunks!r} must be a whole number from 1 up, or the name of such a field"
    elif type(cls.chunks) is not int or cls.chunks < 1:
        return f"chunks={cls.chunks!r} must be a whole number from 1 up, or the name of such a field"
    if not isinstance(cls.presets, Mapping):
        return "presets must be a dict with keys (recipe, variant, dataset, sigma)"
    for key, preset in cls.presets.items():
        if not (isinstance(key, tuple) and len(key) == 4 and all(isinstance(k, str) for k in key[:3]) and isinstance(key[3], float)):
            return f"preset key {key!r} must be (recipe, variant, dataset, sigma), sigma a float"
        if key[0] not in RECIPES:
            return f"preset {key}: recipe {key[0]!r} is none of {', '.join(RECIPES)}"
        if key[1] not in cls.variants:
            return f"preset {key}: variant {key[1]!r} is none of {', '.join(cls.variants)}"
        if type(preset) is not cls or not key[3] > 0:
            return f"preset {key} must be a {cls.__name__}, for a sigma above 0"
    for preset in cls.presets.values() or (cls(),):
        for name in names:
            coerce(getattr(preset, name), hints[name])  # a ValueError becomes the reason
        hash(preset)
    return None


def _last_line(error: BaseException, path: Path | None) -> str:
    line = None
    trace = error.__traceback__
    while trace:
        if path and trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" ({path}, line {line})" if line else ""
