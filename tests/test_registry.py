"""Three ways for a method to be found, and what a broken one says."""

from __future__ import annotations

import hashlib
import inspect
import linecache
import os
import sys
from pathlib import Path

import pytest
from test_contract import GOOD

from bench.errors import BenchError
from bench.registry import Registry


def test_built_in_methods_are_the_files_of_the_folder() -> None:
    entries = Registry().entries()
    assert entries["smoothmix"].describe()[1][:2] == ("eta5", "eta5-onestep")
    assert entries["gaussian"].describe() == ("Gaussian augmentation: cross-entropy on noisy images.", ("default",))


def test_static_variants_are_the_real_ones() -> None:
    registry = Registry()
    for name, entry in registry.entries().items():
        assert entry.describe()[1] == registry.load(name).cls.variants


def test_a_plugin_file_by_path(tmp_path: Path) -> None:
    path = tmp_path / "my-method.py"
    path.write_text(GOOD)
    registry = Registry((path,))
    assert registry.entries()["my-method"].origin == "plug-in file"
    loaded = registry.load("my-method")
    assert loaded.cls.__name__ == "Mine"
    assert loaded.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_plugin_runs_as_it_is_hashed(tmp_path: Path) -> None:
    """Two versions of one size and one time of change, of which Python would run the bytecode of the first twice."""
    path, found = tmp_path / "mine.py", []
    for strength in ("1.0", "9.0"):
        path.write_text(GOOD.replace("strength: float = 1.0", f"strength: float = {strength}"))
        os.utime(path, (1_700_000_000, 1_700_000_000))
        loaded = Registry((path,)).load("mine")
        assert loaded.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        found.append(vars(loaded.cls())["strength"])
        assert f"strength: float = {strength}" in inspect.getsource(loaded.cls)
        linecache.clearcache()
    assert found == [1.0, 9.0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.py"], "nothing is left beside a user's file"


def install(folder: Path, target: str, text: str) -> None:
    """A package with an entry point, as pip would leave it."""
    (folder / "stranger.py").write_text(text)
    info = folder / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[bench.methods]\nstrange = {target}\n")


@pytest.mark.parametrize("target", ["stranger", "stranger:Mine"])
def test_a_package_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    install(tmp_path, target, GOOD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    registry = Registry()
    assert registry.entries()["strange"].origin == "stranger"
    assert "stranger" not in sys.modules, "listing must not run a package's code"
    assert registry.load("strange").cls.__name__ == "Mine"


def test_the_error_of_a_package_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "stranger", "raise RuntimeError('out of cheese')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    assert "strange" in Registry().entries()
    with pytest.raises(BenchError, match=r"'strange' \(stranger\) cannot be imported: RuntimeError: out of cheese"):
        Registry().load("strange")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("def broken(:\n", "SyntaxError"),
        ("import no_such_module_at_all\n", "ModuleNotFoundError"),
        ("x = 1\n\nraise ValueError('no')\n", "line 3"),
        ("raise SystemExit(3)\n", "SystemExit"),
        ("x = 1\n", "exactly one subclass of Method with a loss, not none"),
        (GOOD + "\n@dataclass(frozen=True, kw_only=True)\nclass Two(Mine):\n    pass\n", "not Mine, Two"),
        ("from bench.method import Method\nclass Half(Method):\n    pass\n", "not none"),
    ],
)
def test_a_broken_plugin_says_why(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(BenchError) as caught:
        Registry((path,)).load("mine")
    assert part in str(caught.value)
    assert "mine" in str(caught.value)


def test_what_is_no_plugin(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="is not a file"):
        Registry((tmp_path / "absent.py",)).entries()
    for name in ("Mine.py", "mine.txt", "a b.py"):
        (tmp_path / name).write_text(GOOD)
        with pytest.raises(BenchError, match=r"a method's file is NAME\.py"):
            Registry((tmp_path / name,)).entries()
    with pytest.raises(BenchError, match="did you mean 'gaussian'"):
        Registry().load("gausian")
