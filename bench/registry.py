"""Where methods, data sets, networks and metrics come from: a folder, an entry point, or a .py file that `--plugin` names.

One mechanism for all four; a new one is one file, and its name is the file's:

| kind | folder of the suite | entry points | what the file holds |
|---|---|---|---|
| method | `methods` | `bench.methods` | one subclass of `bench.method.Method` |
| data set | `bench/datasets/known` | `bench.datasets` | `DATASET`, a `bench.datasets.DatasetInfo` |
| network | `bench/models/known` | `bench.networks` | `NETWORK`, a function that returns a network, see `bench.models.Factory` |
| metric | `leaderboard/metrics/known.py` | `bench.metrics` | functions marked `@metric("NAME")`, see `leaderboard.metrics.metric` |

A file may hold several kinds. Nothing is imported until it is asked for by name; what stands in a file without running it (what it holds,
its first line, its variants) is read from its text.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import os
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

from bench.datasets import BUILT_IN, DATASETS, DatasetInfo
from bench.errors import BenchError, UsageError, lies_here, nearest
from bench.spec import NAME, RECIPES, coerce, hyperparameters, replace_checked
from bench.store import presets
from bench.system.sources import code_sha256, with_helpers

if TYPE_CHECKING:
    from bench.method import Method

NO_HELPERS = sys.stdlib_module_names | {"__main__", "bench", "methods", "leaderboard"}
"""Never found beside a plug-in: Python's own modules and the suite's."""
ROOT = Path(__file__).resolve().parents[1]
"""What the suite's packages stand in. Built-in files are found from here, so that no folder on the user's path hides them."""


@dataclass(frozen=True)
class Kind:
    """Something that a file can define.

    Attributes:
        word: as people call it.
        group: of entry points.
        package: of the suite's own.
        holds: the name that a file gives it; empty for a method, which is a class, and a metric, which is a function with a mark.
    """

    word: str
    group: str
    package: str
    holds: str = ""


METHOD = Kind("method", "bench.methods", "methods")
DATASET = Kind("data set", "bench.datasets", "bench.datasets.known", "DATASET")
NETWORK = Kind("network", "bench.networks", "bench.models.known", "NETWORK")
METRIC = Kind("metric", "bench.metrics", "leaderboard.metrics.known")
KINDS = (METHOD, DATASET, NETWORK, METRIC)


@dataclass(frozen=True)
class Entry:
    """Something that can be asked for: where it comes from, not yet imported."""

    kind: Kind
    name: str
    origin: str  # built in, plug-in file, or the package that offers it
    path: Path | None = None
    point: EntryPoint | None = None

    def __str__(self) -> str:
        return f"{self.kind.word} {self.name!r} ({self.origin})"

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
    """A method's class and its name.

    Attributes:
        source_sha256: of the file that it stands in. code_sha256: of that file and its helpers, without comments and docstrings.
    """

    name: str
    cls: type[Method]
    source_sha256: str
    code_sha256: str
    doc: str


@dataclass
class Registry:
    """Everything that can be asked for by name.

    Args:
        plugins: paths of .py files.
        hint: for a kind's word and a name that is not known, what else is known of it, as the end of a sentence.
    """

    plugins: tuple[Path, ...] = ()
    hint: Callable[[str, str], str] = lambda kind, name: ""
    _loaded: dict[tuple[Kind, str], Any] = field(default_factory=dict)

    def entries(self, kind: Kind = METHOD) -> dict[str, Entry]:
        """Every one of a kind that can be asked for, by name.

        Raises:
            UsageError: a plug-in that is no file, has no valid name, or the name of another.
        """
        found: dict[str, Entry] = {}
        for path in sorted(ROOT.joinpath(*kind.package.split(".")).glob("[!_]*.py")):
            name = path.stem.replace("_", "-") if kind is DATASET else path.stem
            found[name] = Entry(kind, name, "built in", path=path)
        if kind is METRIC:
            from leaderboard.metrics import defined_in, known

            found = {name: Entry(kind, name, "built in") for name in defined_in(known)}
        for point in entry_points(group=kind.group):
            found.setdefault(point.name, Entry(kind, point.name, point.dist.name if point.dist else "package", point=point))
        problems = []
        for path in self.plugins:
            name = path.stem
            if not os.path.isfile(path):  # noqa: PTH113 - a path too long for the system is no file, and no error
                problems.append(f"plug-in {path} is not a file")
            elif path.suffix != ".py" or not NAME.match(name):
                problems.append(f"plug-in {path}: its file must be NAME.py, with a name of lower case letters, digits, - and _")
            elif kind not in kinds_in(path):
                continue
            elif name in found and found[name].path != path:
                problems.append(f"plug-in {path}: there is already a {kind.word} {name!r} ({found[name].origin}); rename the file")
            else:
                found[name] = Entry(kind, name, "plug-in file", path=path)
        if problems:
            raise UsageError(problems)
        return found

    def load(self, name: str) -> Loaded:
        """Imports a method.

        Raises:
            BenchError: unknown name, a file that fails to import, or one that does not hold exactly one method.
        """
        loaded: Loaded = self._load(METHOD, name, _method)
        if self.entries()[name].origin != "built in":
            presets.learn(name, loaded.code_sha256, presets_of(loaded))
        return loaded

    def load_dataset(self, name: str) -> DatasetInfo:
        """A data set, from then on in `DATASETS`, where the engine looks it up.

        Raises:
            BenchError: unknown name, a file that fails to import, or one that holds no data set of that name.
        """
        if name not in BUILT_IN:
            DATASETS[name] = self._load(DATASET, name, _dataset)
        return DATASETS[name]

    def load_network(self, name: str) -> None:
        """A network, from then on in `bench.models.ARCHITECTURES`; one that no file and no package defines is left to timm.

        Raises:
            BenchError: a file that fails to import, or one that holds no function of that kind.
        """
        if (NETWORK, name) not in self._loaded:
            entry = self.entries(NETWORK).get(name)
            self._loaded[NETWORK, name] = self._load(NETWORK, name, _network) if entry and entry.origin != "built in" else None

    def load_metrics(self, words: Iterable[str]) -> None:
        """The metrics among some words of `--metric`, from then on in `leaderboard.metrics.METRICS`; other words are left alone.

        Raises:
            BenchError: a file that fails to import, or one that holds no metric of its name.
        """
        from leaderboard.metrics import METRICS

        if self.plugins or set(words) - set(METRICS):
            outside = {name for name, entry in self.entries(METRIC).items() if entry.origin != "built in"}
            METRICS.update({name: self._load(METRIC, name, _metric) for name in words if name in outside})

    def use(self, *kinds: Kind) -> None:
        """Imports what the plug-ins hold of these kinds, so that commands know it by name.

        Raises:
            BenchError: as of loading each. UsageError: as `entries`.
        """
        load: dict[Kind, Callable[[str], object]] = {DATASET: self.load_dataset, NETWORK: self.load_network}
        load |= {METHOD: self.load, METRIC: lambda name: self.load_metrics([name])}
        for kind in kinds:
            for entry in self.entries(kind).values():
                if entry.origin == "plug-in file":
                    load[kind](entry.name)

    def sources(self, method: Loaded, dataset: str, network: str) -> dict[str, Any]:
        """What is recorded of the code that a run comes from: hashes, and the plug-ins' names, without their folders."""
        found: dict[str, Any] = {"method_sha256": method.source_sha256, "method_code_sha256": method.code_sha256}
        if isinstance(outside := self._loaded.get((NETWORK, network)), str):
            found["network_code_sha256"] = outside
        return found | self.used(method.name, dataset, network)

    def used(self, *names: str) -> dict[str, Any]:
        """What is recorded of the plug-ins that define these names: file name -> SHA-256 of the code."""
        found = {path.name: code_of_plugin(path) for path in sorted(self.plugins) if path.stem in names}
        return {"plugins": found} if found else {}

    def _load(self, kind: Kind, name: str, read: Callable[[Entry, Any, ModuleType], Any]) -> Any:
        if (kind, name) not in self._loaded:
            entries = self.entries(kind)
            if name not in entries:
                raise BenchError(
                    f"unknown {kind.word} {name!r}" + (self.hint(kind.word, name) or lies_here(name) or nearest(name, entries))
                )
            entry = entries[name]
            try:
                self._loaded[kind, name] = read(entry, *_module(entry))
            except (BenchError, KeyboardInterrupt):
                raise
            except BaseException as error:
                where = _last_line(error, entry.path)
                hint = "; decorate it with @dataclass(frozen=True, kw_only=True)" if "non-frozen dataclass" in str(error) else ""
                raise BenchError(f"{entry} cannot be imported: {type(error).__name__}: {error}{where}{hint}") from error
        return self._loaded[kind, name]


def kinds_in(path: Path) -> tuple[Kind, ...]:
    """What a file holds, read from its text. What names nothing else is a method: its import will say what is wrong with it."""
    try:
        tree = ast.parse(path.read_bytes()) if path.is_file() else ast.Module([], [])  # a pipe would never end
    except (SyntaxError, ValueError, OSError):
        return (METHOD,)
    names: set[str] = set()
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
        names.update(getattr(target, "id", getattr(target, "name", "")) for target in targets)
    marks = (mark for node in tree.body if isinstance(node, ast.FunctionDef) for mark in node.decorator_list)
    marked = any(ast.unparse(mark).partition("(")[0].endswith("metric") for mark in marks)
    held = tuple(kind for kind in KINDS if kind.holds in names - {""} or (kind is METRIC and marked))
    losses = (n for c in tree.body if isinstance(c, ast.ClassDef) for n in c.body if getattr(n, "name", "") == "loss")
    return (METHOD, *held) if any(losses) or not held else held


class _Uncached(SourceFileLoader):
    """Runs a file as it is at this moment, and leaves no bytecode beside it.

    Python takes bytecode for that of a source of the same size and the same second, and would run another method than the one hashed.
    """

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(Path(self.path).read_bytes(), self.path)


class _Beside(MetaPathFinder):
    """Finds the modules that lie beside a plug-in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place(self, name: str) -> Path | None:
        parts = name.split(".")
        places = (self.folder.joinpath(*parts[:-1], f"{parts[-1]}.py"), self.folder.joinpath(*parts, "__init__.py"))
        return None if parts[0] in NO_HELPERS else next((place for place in places if place.is_file()), None)

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not (place := self.place(fullname)):
            return None
        return importlib.util.spec_from_file_location(fullname, place, loader=_Uncached(fullname, str(place)))


@contextlib.contextmanager
def _beside(folder: Path, plugin: str) -> Iterator[None]:
    """Inside, the modules of a folder can be imported; afterwards they belong to the plug-in alone, and another has its own."""
    finder = _Beside(folder)
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if finder.place(name)}
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if finder.place(name)]:
            module = sys.modules[f"{plugin}.{name}"] = sys.modules.pop(name)
            for value in vars(module).values():  # classes look their module up by name
                if isinstance(value, type) and value.__module__ == name:
                    value.__module__ = f"{plugin}.{name}"
        sys.modules.update(hidden)


def _module(entry: Entry) -> tuple[Any, ModuleType]:
    """What an entry names, and the module that it stands in."""
    if entry.point:
        target = entry.point.load()
        module = target if isinstance(target, ModuleType) else sys.modules[target.__module__]
    elif entry.origin == "built in":
        target = module = _built_in(entry)
    else:
        assert entry.path
        name = f"bench_plugin_{entry.name.replace('-', '_')}"
        with _beside(entry.path.absolute().parent, name):
            target = module = _executed(name, entry.path.absolute())
    return getattr(target, entry.kind.holds, target) if entry.kind.holds else target, module


def _built_in(entry: Entry) -> ModuleType:
    """A module of the suite, under a name of its own where another package of the user's has the usual one."""
    assert entry.path
    package, name = entry.kind.package, f"{entry.kind.package}.{entry.path.stem}"
    spec = importlib.util.find_spec(package)
    if spec and str(entry.path.parent) in map(os.path.realpath, spec.submodule_search_locations or ()):
        return importlib.import_module(name)
    return sys.modules.get(f"certbench.{name}") or _executed(f"certbench.{name}", entry.path)


def _executed(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, loader=_Uncached(name, str(path)))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def code_of(module: ModuleType, *, plugin: bool = False) -> str:
    """Hex SHA-256 of a module's code and that of its helpers: beside a plug-in, else within its package."""
    path = Path(str(module.__file__))
    if plugin:
        return code_of_plugin(path)
    parts = module.__name__.split(".")
    return code_sha256(with_helpers(path, path.parents[len(parts) - (path.stem != "__init__")], lambda name: name == parts[0]))


def files_of_plugin(path: Path) -> list[Path]:
    """A plug-in, and the modules beside it that it imports; nothing of them is run."""
    return with_helpers(path, path.parent, lambda name: name not in NO_HELPERS)


def code_of_plugin(path: Path) -> str:
    """Hex SHA-256 of the code of these, as a run records it."""
    return code_sha256(files_of_plugin(path))


def _dataset(entry: Entry, found: Any, module: ModuleType) -> DatasetInfo:
    if not isinstance(found, DatasetInfo) or found.source is None:
        raise BenchError(f"{entry}: DATASET must be a DatasetInfo with a source")
    if found.name != entry.name:
        raise BenchError(f"{entry}: its DATASET has the name {found.name!r}; both must agree")
    return found


def _network(entry: Entry, found: Any, module: ModuleType) -> str:
    from bench import models  # torch: only when a network is really wanted

    if fault := models.fault(found):
        raise BenchError(f"{entry}: NETWORK must be a function of info or sigma or both, such as `def NETWORK(info)`: {fault}")
    if models.is_known(entry.name) and entry.name not in models.OUTSIDE:
        raise BenchError(f"{entry}: timm has a network of this name; rename the file")
    models.register(entry.name, found, code := code_of(module, plugin=entry.point is None))
    return code


def _metric(entry: Entry, found: Any, module: ModuleType) -> Any:
    from leaderboard.metrics import defined_in

    words = defined_in(module)
    if set(words) != {entry.name}:
        raise BenchError(f"{entry}: its functions must be marked @metric({entry.name!r}), not {', '.join(words) or 'by nothing'}")
    return words[entry.name]


def _method(entry: Entry, found: Any, module: ModuleType) -> Loaded:
    from bench.method import Method  # torch: only when a method is really wanted

    if isinstance(found, type):
        classes = [found]
    else:
        classes = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__ and issubclass(v, Method)]
        classes = [c for c in classes if not getattr(c, "__abstractmethods__", None)]
    if len(classes) != 1 or not issubclass(classes[0], Method):
        names = ", ".join(c.__name__ for c in classes) or "none"
        raise BenchError(f"{entry}: its file must hold exactly one subclass of Method with a loss, not {names}")
    if fault := _fault(classes[0]):
        raise BenchError(f"{entry}: {fault}")
    source_sha256 = hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()
    return Loaded(entry.name, classes[0], source_sha256, code_of(module, plugin=entry.point is None), module.__doc__ or "")


def presets_of(loaded: Loaded) -> list[dict[str, Any]]:
    """A method's presets as specs hold them (a 5 in a float's place is 5.0); where it has none, one for all data sets and noise levels."""
    own = {"method": loaded.name, "chunks": loaded.cls.chunks}
    found = []
    for (recipe, variant, dataset, sigma), preset in sorted(loaded.cls.presets.items()):
        place = {"recipe": recipe, "variant": variant, "dataset": dataset, "sigma": sigma}
        found.append(own | place | {"hyperparameters": _values(preset)})
    return found or [own | {"hyperparameters": _values(loaded.cls())}]


def _values(preset: Method) -> dict[str, Any]:
    whole = {field.name: getattr(preset, field.name) for field in dataclasses.fields(preset)}
    checked, problems = replace_checked(preset, whole, "preset")
    assert not problems, problems
    return hyperparameters(checked, checked)


def _fault(cls: type[Method]) -> str | None:
    """What makes a class unusable as a method, in words; None if nothing does."""
    params = vars(cls).get("__dataclass_params__")
    if not (params and params.frozen and all(f.kw_only for f in dataclasses.fields(cls))):
        return f"write @dataclass(frozen=True, kw_only=True) above class {cls.__name__}"
    hints = typing.get_type_hints(cls)
    if not isinstance(cls.variants, tuple) or not cls.variants or not all(isinstance(v, str) and NAME.match(v) for v in cls.variants):
        return f"variants={cls.variants!r} must be a tuple of names, the default one first"
    names = [f.name for f in dataclasses.fields(cls)]
    known = cls.chunks in names and hints[cls.chunks] is int if isinstance(cls.chunks, str) else type(cls.chunks) is int and cls.chunks > 0
    if not known:
        return f"chunks={cls.chunks!r} must be a whole number from 1 up, or the name of such a field"
    if not isinstance(cls.presets, Mapping):
        return "presets must be a dict with keys (recipe, variant, dataset, sigma)"
    for key, preset in cls.presets.items():
        if not (isinstance(key, tuple) and len(key) == 4 and all(isinstance(k, str) for k in key[:3]) and isinstance(key[3], float)):
            return f"preset key {key!r} must be (recipe, variant, dataset, sigma), sigma a float"
        for word, value, there in (("recipe", key[0], RECIPES), ("variant", key[1], cls.variants)):
            if value not in there:
                return f"preset {key}: {word} {value!r} is none of {', '.join(there)}"
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
