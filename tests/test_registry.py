"""Three ways for methods, data sets, networks and metrics to be found, and what a broken one says."""

from __future__ import annotations

import hashlib
import inspect
import linecache
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from test_contract import GOOD
from torch import nn

import methods
from bench import models
from bench.contract import check_metric
from bench.datasets import BUILT_IN, DATASETS
from bench.errors import BenchError
from bench.registry import DATASET, KINDS, METHOD, METRIC, NETWORK, Kind, Registry, kinds_in
from leaderboard.metrics import METRICS, columns_of

ROOT = Path(__file__).parent.parent
SIZES = 'DATASET = dataclasses.replace(DATASETS["mnist"], name="mine", like="mnist")\n'
TEXT = {
    METHOD: GOOD,
    DATASET: f'"""Mine."""\nimport dataclasses\nfrom bench.datasets import DATASETS\n{SIZES}',
    NETWORK: '"""Mine."""\nfrom torch import nn\n\ndef NETWORK(info):\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n',
}


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What plug-ins defined is forgotten again."""
    networks = set(models.ARCHITECTURES)
    yield
    for name in set(DATASETS) - BUILT_IN:
        del DATASETS[name]
    for name in set(models.ARCHITECTURES) - networks:
        del models.ARCHITECTURES[name], models.OUTSIDE[name]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def hash_of(tmp_path: Path, text: str, **beside: str) -> str:
    for name, helper in beside.items():
        write(tmp_path / f"{name}.py", helper)
    return Registry((write(tmp_path / "mine.py", text),)).load("mine").code_sha256


@pytest.mark.parametrize("lies", [True, False])
def test_an_unknown_name_whose_file_lies_here_is_told_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lies: bool) -> None:
    monkeypatch.chdir(tmp_path)
    if lies:
        write(tmp_path / "mine.py", GOOD)
    for ask in (
        Registry().load,
        Registry().load_dataset,
        lambda name: models.build(name, DATASETS["mnist"], 0),
        lambda name: columns_of([name], (), 10),
    ):
        with pytest.raises(BenchError) as caught:
            ask("mine")
        assert ("--plugin mine.py" in str(caught.value)) is lies


def load(registry: Registry, kind: Kind, name: str) -> object:
    return {METHOD: registry.load, DATASET: registry.load_dataset, NETWORK: registry.load_network}[kind](name)


def files_of(package: ModuleType) -> set[str]:
    """The names of the modules in a folder."""
    return {path.stem for folder in package.__path__ for path in Path(folder).glob("[!_]*.py")}


def test_built_in_methods_are_the_files_of_the_folder() -> None:
    registry = Registry()
    entries = registry.entries()
    assert entries["smoothmix"].describe()[1][:2] == ("eta5", "eta5-onestep")
    assert entries["gaussian"].describe() == ("Gaussian augmentation: cross-entropy on noisy images.", ("default",))
    for name, entry in entries.items():
        assert entry.describe()[1] == registry.load(name).cls.variants
    assert set(registry.entries(DATASET)) == BUILT_IN
    assert set(registry.entries(NETWORK)) == files_of(models.known) == set(models.ARCHITECTURES)


def test_a_folder_of_the_user_hides_no_built_in_method(tmp_path: Path) -> None:
    for hiding in ("__init__.py", "gaussian.py"):
        write(tmp_path / "methods" / hiding, "print('not this')\n")
    code = "from bench.registry import Registry; r = Registry(); print(len(r.entries()), r.load('gaussian').cls())"
    words = [sys.executable, "-c", code]
    found = subprocess.run(words, env=os.environ | {"PYTHONPATH": str(tmp_path)}, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout == f"{len(files_of(methods))} Gaussian()\n"


@pytest.mark.parametrize("kind", TEXT, ids=str)
def test_a_plugin_file_by_path(tmp_path: Path, kind: Kind) -> None:
    path = write(tmp_path / "mine.py", TEXT[kind])
    assert kinds_in(path) == (kind,)
    registry = Registry((path,))
    assert [k for k in KINDS if "mine" in registry.entries(k)] == [kind]
    assert registry.entries(kind)["mine"].origin == "plug-in file"
    assert not {"mine"} & {*DATASETS, *models.ARCHITECTURES}, "listing must not run its code"
    load(registry, kind, "mine")
    known = {METHOD: {"mine"}, DATASET: set(DATASETS), NETWORK: set(models.ARCHITECTURES)}
    assert "mine" in known[kind]


def test_a_file_may_hold_several_kinds(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", GOOD + TEXT[NETWORK] + TEXT[DATASET])
    assert kinds_in(path) == (METHOD, DATASET, NETWORK)
    registry = Registry((path,))
    for kind in kinds_in(path):
        load(registry, kind, "mine")
    assert {"mine"} <= {*DATASETS} & {*models.ARCHITECTURES}


def test_a_plugin_runs_as_it_is_hashed(tmp_path: Path) -> None:
    """Two versions of one size and one time of change, of which Python would run the bytecode of the first twice; helpers likewise."""
    path, helper, found = tmp_path / "mine.py", tmp_path / "utils.py", []
    for strength in ("1.0", "9.0"):
        path.write_text(GOOD.replace("strength: float = 1.0", f"strength: float = {strength}") + "\nimport utils\nMine.helped = utils.X\n")
        helper.write_text(f"X = {strength}\n")
        for file in (path, helper):
            os.utime(file, (1_700_000_000, 1_700_000_000))
        loaded = Registry((path,)).load("mine")
        assert loaded.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        found.append((vars(loaded.cls())["strength"], vars(loaded.cls)["helped"]))
        assert f"strength: float = {strength}" in inspect.getsource(loaded.cls)
        linecache.clearcache()
    assert found == [(1.0, 1.0), (9.0, 9.0)]
    assert {entry.name for entry in tmp_path.iterdir()} == {"mine.py", "utils.py"}, "nothing is left beside a user's file"


def test_a_plugin_that_was_edited_is_read_again(tmp_path: Path) -> None:
    """As in a notebook: the last one counts."""
    found = []
    for value in (1, 2):
        text = f'from leaderboard.metrics import metric\n\n@metric("mine")\ndef mine(o):\n    return {value}\n'
        Registry((write(tmp_path / "mine.py", text),)).use(METRIC)
        (column,) = METRICS["mine"][0]((), 2)
        assert column.of_seed
        found.append(column.of_seed(None))  # type: ignore[arg-type]
    del METRICS["mine"]
    assert found == [1, 2]


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        ("o.values.mean()", True),
        ("None", True),
        ("100 * (o.radius > o.sigma).mean()", True),
        ("o.nothing", False),
        ("math.nan", False),
        ("o.radius", False),
    ],
)
def test_a_metric_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, holds: bool) -> None:
    monkeypatch.setitem(METRICS, "mine", [])
    text = f'import math\nfrom leaderboard.metrics import metric\n\n@metric("mine")\ndef mine(o):\n    return {value}\n'
    Registry((write(tmp_path / "mine.py", text),)).use(METRIC)
    assert (check_metric("mine").problem is None) is holds


# ---------------------------------------------------------------------------------------------- modules beside a plug-in


def test_two_plugins_have_helpers_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each its own; the user's module of that name is left alone, and afterwards nobody finds theirs."""
    monkeypatch.syspath_prepend(write(tmp_path / "user" / "utils.py", "WHOSE = 'user'\n").parent)
    monkeypatch.delitem(sys.modules, "utils", raising=False)
    import utils  # type: ignore[import-not-found]

    paths = []
    for name in ("one", "two"):
        write(tmp_path / name / "utils.py", "from __future__ import annotations\nfrom typing import Literal\nimport deep.below\n" + BASE)
        write(tmp_path / name / "deep" / "__init__.py", "")
        write(tmp_path / name / "deep" / "below.py", f"from . import __name__ as package\nWHOSE = '{name}'\n")
        text = GOOD.replace("from bench.method import", "import random\nimport utils\nfrom bench.method import Batch, Terms, Method #")
        paths.append(write(tmp_path / name / f"{name}.py", text.replace("class Mine(Method)", "class Mine(utils.Base)")))
    registry = Registry(tuple(paths))
    assert [vars(registry.load(name).cls())["whose"] for name in ("one", "two")] == ["one", "two"]
    assert registry.load("one").code_sha256 != registry.load("two").code_sha256, "it covers what is imported through others"
    assert sys.modules["utils"] is utils
    assert utils.WHOSE == "user"
    assert not {"deep", "deep.below"} & set(sys.modules)
    assert not any(str(tmp_path / name) in sys.path for name in ("one", "two"))


BASE = """
from dataclasses import dataclass
from bench.method import Method

@dataclass(frozen=True, kw_only=True)
class Base(Method):
    kind: Literal["a", "b"] = "a"
    whose: str = deep.below.WHOSE
"""


def test_a_hash_covers_code_and_helpers_but_no_comment(tmp_path: Path) -> None:
    text = GOOD.replace("import random", "import random\nfrom utils import scale")
    before = hash_of(tmp_path, text, utils="def scale(x):\n    return x\n")
    said = text.replace("Mine. Somebody", "Other words. Somebody").replace("STATE = []", "# why\n\nSTATE = []  # this")
    assert hash_of(tmp_path, said, utils='def scale(x):\n    """Of x."""\n    return x  # itself\n') == before
    assert hash_of(tmp_path, text, utils="def scale(x):\n    return 2 * x\n") != before
    assert hash_of(tmp_path, text.replace("1.0", "1.5"), utils="def scale(x):\n    return x\n") != before
    assert hash_of(tmp_path, text, utils="def scale(x):\n    return x\n", other="X = 1\n") == before, "another file beside it"


# ------------------------------------------------------------------------------------------------------------ packages


def install(folder: Path, group: str, target: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with an entry point, as pip would leave it."""
    write(folder / "stranger.py", text)
    write(folder / "stranger-1.0.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    write(folder / "stranger-1.0.dist-info" / "entry_points.txt", f"[{group}]\nmine = {target}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "stranger", raising=False)


@pytest.mark.parametrize(
    ("kind", "target"),
    [(METHOD, "stranger"), (METHOD, "stranger:Mine"), (DATASET, "stranger:DATASET"), (DATASET, "stranger"), (NETWORK, "stranger:NETWORK")],
    ids=str,
)
def test_a_package_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, target: str) -> None:
    install(tmp_path, kind.group, target, TEXT[kind], monkeypatch)
    registry = Registry()
    assert registry.entries(kind)["mine"].origin == "stranger"
    assert "stranger" not in sys.modules, "listing must not run a package's code"
    load(registry, kind, "mine")


def test_the_error_of_a_package_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "bench.methods", "stranger", "raise RuntimeError('out of cheese')", monkeypatch)
    with pytest.raises(BenchError, match=r"'mine' \(stranger\) cannot be imported: RuntimeError: out of cheese"):
        Registry().load("mine")


# -------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("kind", "text", "part"),
    [
        (METHOD, "def broken(:\n", "SyntaxError"),
        (METHOD, "import no_such_module_at_all\n", "ModuleNotFoundError"),
        (METHOD, "x = 1\n\nraise ValueError('no')\n", "line 3"),
        (METHOD, "raise SystemExit(3)\n", "SystemExit"),
        (METHOD, "x = 1\n", "exactly one subclass of Method with a loss, not none"),
        (METHOD, GOOD + "\n@dataclass(frozen=True, kw_only=True)\nclass Two(Mine):\n    pass\n", "not Mine, Two"),
        (METHOD, "from bench.method import Method\nclass Half(Method):\n    pass\n", "not none"),
        (DATASET, "DATASET = 3\n", "must be a DatasetInfo"),
        (DATASET, TEXT[DATASET].replace('name="mine"', 'name="yours"'), "has the name 'yours'"),
        (NETWORK, "NETWORK = 3\n", "an object of type int"),
        (NETWORK, "def NETWORK(classes): ...\n", "it wants classes"),
    ],
)
def test_a_broken_plugin_says_why(tmp_path: Path, kind: Kind, text: str, part: str) -> None:
    path = write(tmp_path / "mine.py", text)
    with pytest.raises(BenchError) as caught:
        load(Registry((path,)), kind, "mine")
    assert part in str(caught.value)
    assert "mine" in str(caught.value)


def test_what_is_no_plugin(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="is not a file"):
        Registry((tmp_path / "absent.py",)).entries()
    for name in ("Mine.py", "mine.txt", "a b.py"):
        with pytest.raises(BenchError, match=r"must be NAME\.py"):
            Registry((write(tmp_path / name, GOOD),)).entries()
    with pytest.raises(BenchError, match="already a method 'gaussian'"):
        Registry((write(tmp_path / "gaussian.py", GOOD),)).entries()
    with pytest.raises(BenchError, match="timm has a network of this name"):
        Registry((write(tmp_path / "resnet50.py", TEXT[NETWORK]),)).use(NETWORK)
    with pytest.raises(BenchError, match="did you mean 'gaussian'"):
        Registry().load("gausian")


# ------------------------------------------------------------------------------------------------------- noise levels


def test_a_network_may_take_the_noise_level() -> None:
    """By name, and only where it asks for it."""
    info = DATASETS["mnist"]

    class Scaled(nn.Linear):
        def __init__(self, sigma: float) -> None:
            super().__init__(1, 1)
            self.sigma = sigma

    made = models.call(lambda sigma, info: Scaled(sigma), info, 0.5)
    assert isinstance(made, Scaled)
    assert made.sigma == 0.5
    assert isinstance(models.call(lambda: nn.Identity(), info, 0.5), nn.Identity)
    for factory, part in ((lambda classes: nn.Identity(), "classes"), (lambda sigma: nn.Identity(), "nobody said"), (lambda: 3, "int")):
        with pytest.raises(TypeError, match=part):
            models.call(factory, info, None)
    assert models.call(lambda: nn.Linear(1, 1).double(), info, None).weight.dtype == torch.float32
