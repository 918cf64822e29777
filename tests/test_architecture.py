"""Who may import whom: the laws of the design, read from the source text and by importing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCH = sorted((ROOT / "bench").rglob("*.py"))
METHODS = sorted((ROOT / "methods").glob("*.py"))
LEADERBOARD = sorted((ROOT / "leaderboard").rglob("*.py"))
NAMES = sorted(path.stem for path in METHODS if not path.stem.startswith("_"))
# Rooms and modules that read results: they need no torch, and never load it.
LEFT_ROOMS = ("datasets", "evidence", "files", "logs", "rules", "spec", "store")
LEFT_MODULES: tuple[str, ...] = (
    "errors",
    "registry",
    "matrix.slurm_queue",
    "matrix.report",
    "matrix.status",
    "verify.logs",
    "verify.radii",
)
LEFT_MODULES += ("verify.report", "verify.results")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def file_of(module: str) -> Path:
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


LEFT_WING = [*(f"bench.{name}" for name in LEFT_MODULES)]
LEFT_WING += [module_name(path) for room in LEFT_ROOMS for path in (ROOT / "bench" / room).rglob("*.py")]


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), str(path))


def without_type_checking(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those below `if TYPE_CHECKING:`, which never run."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and getattr(child.test, "id", getattr(child.test, "attr", "")) == "TYPE_CHECKING":
            for other in child.orelse:
                yield from without_type_checking(other)
        else:
            yield from without_type_checking(child)


def imports(tree: ast.Module, package: str) -> set[str]:
    """Modules that a source imports anywhere, functions included; `from a import b` counts as a and as a.b."""
    found: set[str] = set()
    for node in without_type_checking(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(filter(None, [*package.split(".")[: len(package.split(".")) - node.level + 1], base]))
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def docstrings(tree: ast.Module) -> set[int]:
    """The ids of the nodes that are documentation: strings that stand alone as a statement."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}


def test_the_files_are_where_the_laws_look() -> None:
    assert {"consistency", "gaussian", "macer", "smoothadv", "smoothmix", "stability"} <= set(NAMES)
    assert len(BENCH) > 12
    assert LEADERBOARD


# --------------------------------------------------------------------------------------------------------------- law 1

STDLIB = sys.stdlib_module_names
ALLOWED_IN_METHODS = {"bench.method", "bench.smoothing", "bench.attacks", "bench.spec"}
OUT_OF_BOUNDS = {"random", "os", "sys", "pathlib", "io", "shutil", "subprocess", "socket", "pickle", "importlib", "threading", "time"}


@pytest.mark.parametrize("path", METHODS, ids=short)
def test_methods_import_only_torch_and_the_contract(path: Path) -> None:
    for module in imports(parse(path), "methods"):
        top = module.partition(".")[0]
        assert top in {"torch", "bench"} | STDLIB - OUT_OF_BOUNDS, f"{short(path)} imports {module}"
        if top == "bench":
            assert any(module == allowed or module.startswith(f"{allowed}.") for allowed in ALLOWED_IN_METHODS), f"{short(path)}: {module}"
        assert not module.startswith(("torch.optim", "torch.utils", "torch.random", "torch.distributed")), f"{short(path)}: {module}"


@pytest.mark.parametrize("path", METHODS, ids=short)
def test_methods_name_no_device_and_draw_no_ambient_noise(path: Path) -> None:
    words = {"rand", "randn", "rand_like", "randn_like", "randint", "randperm", "normal", "bernoulli", "multinomial", "manual_seed"}
    words |= {"normal_", "uniform_", "random_", "bernoulli_", "cuda", "cpu", "step", "zero_grad", "backward"}
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in words, f"{short(path)}, line {node.lineno}: {node.func.attr}"


# --------------------------------------------------------------------------------------------------------------- law 2


def method_named(text: str) -> str | None:
    """The first method that stands in a text as a word of its own; _ and - part words."""
    words = re.split(r"[^a-z0-9]+", text.lower())
    return next((name for name in NAMES if name in words), None)


def test_the_search_for_names_finds_them() -> None:
    for text in ("macer", "smoothmix.eta5", "_macer", "is_smoothmix", "SmoothAdv", "try --method gaussian"):
        assert method_named(text)
    for text in ("inconsistency_", "gaussians", "mix"):
        assert method_named(text) is None


@pytest.mark.parametrize("path", BENCH, ids=short)
def test_the_engine_names_no_method(path: Path) -> None:
    """Identifiers, imports and strings; documentation may speak of papers, and help texts of the command line may give examples."""
    tree = parse(path)
    documentation = docstrings(tree)
    for node in ast.walk(tree):
        texts: list[str] = []
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            prose = "cli" in path.parts and " " in node.value
            texts = [] if prose else [node.value]
        elif isinstance(node, ast.Name):
            texts = [node.id]
        elif isinstance(node, ast.Attribute):
            texts = [node.attr]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            texts = [node.name]
        elif isinstance(node, (ast.arg, ast.keyword)):
            texts = [node.arg or ""]
        elif isinstance(node, ast.alias):
            texts = [node.name, node.asname or ""]
        elif isinstance(node, ast.ImportFrom):
            texts = [node.module or ""]
        for text in texts:
            assert method_named(text) is None, f"{short(path)}, line {getattr(node, 'lineno', '?')}: names a method in {text!r}"


@pytest.mark.parametrize("path", [path for path in BENCH if path.stem != "registry"], ids=short)
def test_only_the_registry_knows_the_folder_of_methods(path: Path) -> None:
    tree = parse(path)
    assert not {m for m in imports(tree, "bench") if m.partition(".")[0] == "methods"}
    documentation = docstrings(tree)
    plain = "cli" in path.parts  # a word of the command line there
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            folder = re.match(r"methods[./]\w", node.value) or (node.value == "methods" and not plain)
            assert not folder, f"{short(path)}, line {node.lineno}: {node.value!r}"


# --------------------------------------------------------------------------------------------------------------- law 3


HEAVY = {"torch", "timm", "torchvision", "safetensors"}
HEAVY |= {f"bench.{m}" for m in ("method", "smoothing", "models", "train", "matrix.cells", "data", "certify")}


# The registry imports a method when one is asked for, so it is tested below only, by importing it.
@pytest.mark.parametrize("path", [*LEADERBOARD, *(file_of(m) for m in LEFT_WING if m != "bench.registry")], ids=short)
def test_the_left_wing_imports_no_torch_not_even_in_a_function(path: Path) -> None:
    package = module_name(path) if path.stem == "__init__" else module_name(path).rpartition(".")[0]
    assert not {m for m in imports(parse(path), package) if m in HEAVY or m.partition(".")[0] in HEAVY}


def test_the_left_wing_never_loads_torch() -> None:
    """In a fresh interpreter, with everything that the imports bring along."""
    modules = [*LEFT_WING, *(module_name(path) for path in LEADERBOARD)]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, timeout=60, check=False).returncode == 0


def test_the_interpreter_test_would_see_torch() -> None:
    code = "import sys, bench.method; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False).returncode == 1


def test_the_command_line_imports_no_torch_at_its_top() -> None:
    code = "import sys, bench.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False).returncode == 0


# -------------------------------------------------------------------------------------------------------- floors, cycles


def graph() -> dict[str, set[str]]:
    known = {module_name(path) for path in BENCH}
    edges: dict[str, set[str]] = {}
    for path in BENCH:
        name = module_name(path)
        package = name if path.stem == "__init__" else name.rpartition(".")[0]
        edges[name] = {m for m in imports(parse(path), package) if m in known and m not in (name, "bench")}
    return edges


def test_bench_has_no_import_cycle() -> None:
    edges = graph()
    assert edges["bench.train.loop"] >= {"bench.data", "bench.method", "bench.smoothing"}  # the graph is not empty
    assert_no_circle(edges)


def test_the_search_for_circles_finds_them() -> None:
    with pytest.raises(AssertionError, match="a -> b -> c -> a"):
        assert_no_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def test_no_room_imports_one_that_stands_on_it() -> None:
    """A room is a folder of bench, or a module beside them; floors follow from the imports, so there is no list of them."""
    rooms: dict[str, set[str]] = {}
    for module, others in graph().items():
        rooms.setdefault(room_of(module), set()).update(room_of(other) for other in others)
    assert_no_circle({room: others - {room} for room, others in rooms.items()})


def test_few_modules_stand_outside_a_room() -> None:
    assert len(list((ROOT / "bench").glob("*.py"))) <= 12


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def assert_no_circle(edges: dict[str, set[str]]) -> None:
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"circle: {' -> '.join([*trail[trail.index(name) :], name])}"
        if name not in done:
            for other in sorted(edges[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in sorted(edges):
        visit(name, ())


def test_the_leaderboard_stands_on_evidence_alone() -> None:
    allowed = {f"bench.{name}" for name in ("spec", "errors", "rules", "evidence", "store", "files", "datasets", "logs")}
    for path in LEADERBOARD:
        package = module_name(path) if path.stem == "__init__" else module_name(path).rpartition(".")[0]
        for module in imports(parse(path), package):
            if module.startswith("bench."):
                assert any(module == a or module.startswith(f"{a}.") for a in allowed), f"{short(path)} imports {module}"


# ------------------------------------------------------------------------------------------------------- dangerous calls

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


def problems(tree: ast.Module) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"imports {name}" for name in names if name.partition(".")[0] in FORBIDDEN_MODULES]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "input"):
            found.append(f"calls {called}")
        if called.startswith("yaml.") and called.endswith(("load", "load_all")):
            found.append(f"calls {called}")
        if called.endswith(("read_pickle", "to_pickle", "jit.load", "hub.load")):
            found.append(f"calls {called}")
        keywords = {k.arg: k.value for k in node.keywords}
        if called == "torch.load" and getattr(keywords.get("weights_only"), "value", None) is not True:
            found.append("calls torch.load without weights_only=True")
        if called.endswith("load") and getattr(keywords.get("allow_pickle"), "value", False):
            found.append("allows pickle")
        if getattr(keywords.get("shell"), "value", False):
            found.append("runs a shell")
    return found


# CIFAR's published files are pickles. They are unpickled there alone, behind their MD5 or the user's word, with no name looked up.
EXCUSED = {"bench/datasets/pickled.py": ["imports pickle"]}


@pytest.mark.parametrize("path", [*BENCH, *METHODS, *LEADERBOARD], ids=short)
def test_nothing_dangerous_is_called(path: Path) -> None:
    assert problems(parse(path)) == EXCUSED.get(short(path), [])


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "exec(x)",
        "yaml.load(f)",
        "yaml.full_load(f)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "torch.load(f, weights_only=flag)",
        "numpy.load(f, allow_pickle=True)",
        "pandas.read_pickle(f)",
        "subprocess.run(x, shell=True)",
        "os.system(x)",
    ],
)
def test_the_search_for_dangerous_calls_finds_them(source: str) -> None:
    assert problems(ast.parse(source))


def test_safe_calls_are_not_reported() -> None:
    assert problems(ast.parse("torch.load(f, weights_only=True); json.load(f); ast.literal_eval(x); model.eval(); re.compile(x)")) == []


@pytest.mark.parametrize("path", [*BENCH, *METHODS, *LEADERBOARD], ids=short)
def test_only_the_command_line_prints(path: Path) -> None:
    if path.stem == "cli" or "cli" in path.parts:
        return
    for node in ast.walk(parse(path)):
        assert not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"), f"{short(path)}, line {node.lineno}"


def test_the_page_names_what_is_there() -> None:
    """Every path of docs/architecture.md, but those of a new file and of a results folder of one's own."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"\b(?:bench|methods|leaderboard|results|tests)/[\w./-]+", text))
    named = {path.rstrip(".") for path in paths if "NAME" not in path and not path.startswith("results/runs")}
    assert len(named) > 40
    assert not [path for path in named if not (ROOT / path).exists()]
    rooms = {path.name for path in (ROOT / "bench").iterdir() if (path / "__init__.py").exists()}
    assert not [room for room in rooms if f"bench/{room}" not in text]
