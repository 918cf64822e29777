"""Study files: what flags say, as a file that asks for the same."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pages import blocks, script
from rich.console import Console
from typer.testing import Result

import bench as api
from bench.api import study
from bench.api.matrix import Matrix
from bench.api.request import Part, RunRequest
from bench.cli import runs
from bench.errors import UsageError
from bench.executors.engine import Engine

Call = Callable[..., Result]

ROOT = Path(__file__).resolve().parent.parent
words = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Cn", "Co", "Zl", "Zp", "Zs"), exclude_characters="/"), min_size=1
)
names = st.from_regex(r"(train\.|certify\.)?[a-z_]{1,6}", fullmatch=True)
numbers = st.floats(allow_nan=False, allow_infinity=False)
values = st.one_of(
    words, st.integers().map(str), numbers.map(repr), st.sampled_from(["true", "false", "none", "True", "1e5", "007", "1_0"])
)


def some(one: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(one, min_size=1, max_size=3, unique=True)


paths = st.lists(words.filter(lambda word: word not in (".", "..")), min_size=1, max_size=2).map(lambda parts: Path(*parts))

FIELDS: dict[type, dict[str, st.SearchStrategy[Any]]] = {
    Part: {
        "methods": some(words),
        "datasets": some(words),
        "sigmas": some(numbers),
        "seeds": st.one_of(st.integers(1, 9).map(range), some(st.integers(0, 2**63))),
        "protocol": words,
        "recipe": words,
        "changes": st.dictionaries(names, values, min_size=1, max_size=4),
        "table": st.integers(),
    },
    Engine: {
        "name": words,
        "address": words,
        "jobs": st.one_of(st.just("auto"), st.integers(1, 9999).map(str)),
        "slots_per_gpu": st.integers(),
        "timeout": numbers,
        "resources": some(words).map(tuple),
        "cells_per_job": st.integers(),
        "device": words,
    },
    RunRequest: {
        "plugins": some(paths).map(tuple),
        "results": paths,
        "batch": st.integers(),
        "micro_batch": st.integers(),
        "graph": st.booleans(),
        "allow_changed_source": st.booleans(),
        "allow_other_data": st.booleans(),
        "data_dir": paths,
    },
}


def some_of(kind: type, **more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects of which any fields have their default."""
    fixed = {"results": paths} if kind is RunRequest else {}
    optional = {name: field for name, field in FIELDS[kind].items() if name not in fixed}
    return st.fixed_dictionaries(fixed | more, optional=optional).map(lambda fields: kind(**fields))


requests = some_of(RunRequest, parts=st.lists(some_of(Part), min_size=1, max_size=3).map(tuple), engine=some_of(Engine))


def plain(value: Any) -> Any:
    """A request with its sequences as lists and its paths whole, for comparisons."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list | range):
        return [plain(item) for item in value]
    return value.resolve() if isinstance(value, Path) else value


def test_every_field_of_a_request_has_a_key() -> None:
    for kind, own, apart in ((Part, study.OF_PARTS, ()), (Engine, study.OF_ENGINE, ()), (RunRequest, study.OF_ALL, study.APART)):
        fields = {field.name for field in dataclasses.fields(kind)} - {"parts", "engine"}
        assert {field for field, _ in own.values()} == fields - {*apart} == FIELDS[kind].keys()
    assert len(study.KEYS) == len({*study.KEYS})


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests)
@example(RunRequest(results=Path("x"), parts=(Part(changes={"train": "1", "train.epochs": "2", "a b": "3", 'q"': "\x7f\\"}),)))
def test_what_is_written_is_read_as_the_same_request(tmp_path: Path, request_: RunRequest) -> None:
    file = tmp_path / "some where" / "study.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(study.text_of(request_, file.parent))
    found = study.read(file)
    assert plain(found.request) == plain(request_)
    assert study.text_of(found.request, file.parent) == file.read_text()


FLAGS: dict[str, st.SearchStrategy[list[str]]] = {
    "methods": st.lists(
        st.sampled_from(["gaussian", "smoothmix.*", "smoothadv[steps=2]", "macer"]).map(lambda name: f"--method={name}"), max_size=3
    ),
    "sigmas": st.sampled_from([[], ["--sigma", "0.25,1"], ["--sigma", "1", "--sigma", ".5"]]),
    "seeds": st.sampled_from([[], ["--seeds", "3"], ["--seeds", "4,"], ["--seeds", "2,7"]]),
    "protocol": st.sampled_from([[], ["--protocol", "smoke"], ["--protocol", "paper"]]),
    "recipe": st.sampled_from([[], ["--recipe", "paper"]]),
    "changes": st.sampled_from([[], ["--set", "train.epochs=2,certify.images=first:427 of every:100"], ["--precision", "bf16"]]),
    "more": st.sampled_from([[], ["--skip-misclassified"], ["--jobs", "2", "--timeout", "9"], ["--no-graph", "--batch", "32"]]),
}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(*FLAGS.values()).map(lambda groups: [word for group in groups for word in group]))
def test_flags_saved_as_a_study_plan_the_same_cells(bench: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]) -> None:
    seen: list[RunRequest] = []
    monkeypatch.setattr(runs, "_carry_out", lambda request, *more: seen.append(request))
    assert bench("run", *flags).exit_code == 0
    (tmp_path / "s.toml").write_text(study.text_of(seen[0], tmp_path))
    assert bench("run", tmp_path / "s.toml").exit_code == 0
    (one, its), (other, others) = (request.prepare() for request in seen)
    assert [cell.id for cell in one.cells] == [cell.id for cell in other.cells]
    assert (one.notes, its, seen[0].engine) == (other.notes, others, seen[1].engine)


def test_a_study_is_run_kept_and_resumed(bench: Call, tiny: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "studies" / "mine.toml"
    file.parent.mkdir()
    said = tiny("--method", "gaussian", "--sigma", "0.25", "--save-study", file, "--dry-run")
    assert said.exit_code == 0, said.output
    assert not (tmp_path / "runs").exists(), "a dry run writes the study, and no more"
    assert tomllib.loads(file.read_text())["results"] == "../runs"
    for _ in range(2):
        result = bench("run", "studies/mine.toml")
        assert result.exit_code == 0, result.output
    assert "1 done, 0 diverged, 0 to do" in result.output
    (copy,) = (tmp_path / "runs" / study.FOLDER).iterdir()
    assert copy.read_bytes() == file.read_bytes()
    assert copy.name == f"mine-{study.read(file).sha256[:16]}.toml"
    assert bench("verify", tmp_path / "runs").exit_code == 0

    result = bench("run", "studies/mine.toml", "--results", "others", "--jobs", "2", "--dry-run")
    assert "--results takes the place of results" in result.output
    assert "--jobs" not in result.output, "the study says nothing of it"
    frame = api.run_study(file, quiet=True)
    assert len(frame) == 3
    file.write_text(file.read_text() + "\n# a word\n")
    assert bench("run", file, "--save-study", file).exit_code == 2, "a file with words of its own is not written over"


def test_paths_of_a_study_are_relative_to_it(bench: Call, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "s.toml").write_text('plugin = "../mine.py"\nresults = "runs"\ndata-dir = "/data"\n')
    request = study.read(folder / "s.toml").request
    assert [path.resolve() for path in request.plugins] == [tmp_path / "a" / "mine.py"]
    assert (request.results, request.data_dir) == (folder / "runs", Path("/data"))


def test_parts_add_to_what_stands_above_them(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(
        'method = "smoothmix.eta5"\nsigma = 1\nset.train.images = "first:64"\n'
        '[[part]]\n[[part]]\nset.clip = false\n[[part]]\nsigma = [0.5, 1]\nset."train.images" = "first:32"\n[[part]]\n'
    )
    plan, _ = study.read(tmp_path / "s.toml").request.prepare()
    assert [(cell.spec.row, cell.spec.sigma, cell.spec.train.images) for cell in plan.cells] == [
        ("smoothmix.eta5", 1.0, "first:64"),
        ("smoothmix.eta5[clip=false]", 1.0, "first:64"),
        ("smoothmix.eta5", 0.5, "first:32"),
        ("smoothmix.eta5", 1.0, "first:32"),
    ]


WRONG = [
    ("methods = 'x'", "did you mean 'method'?"),
    ("sigmas = 1", "did you mean 'sigma'?"),
    ("sigma = '1'", "a number"),
    ("sigma = []", "a number"),
    ("sigma = true", "a number"),
    (f"sigma = 1{'0' * 400}", "a number"),
    (f"seeds = 1{'0' * 5000}", "no TOML file"),
    (f"set{'.a' * 3000} = 1", "a table of names and plain values"),
    ("seeds = 0", "seeds"),
    ("seeds = 1.0", "seeds"),
    ("method = ['a', 1]", "a word"),
    ("method = ''", "a word"),
    ("jobs = 'many'", "auto"),
    ("no-graph = 1", "true or false"),
    ("set = 1", "set.train.epochs"),
    ("set.train.epochs = [1]", "set.train.epochs"),
    ('set.train.epochs = 1\nset."train.epochs" = 2', "set.train.epochs is there twice"),
    ("micro_batch = 3", "did you mean 'micro-batch'?"),
    ("precision = 'bf16'", "set.train.precision"),
    ("rerun = 'all'", "--rerun"),
    ("part = 1", "[[part]]"),
    ("[part]\nsigma = 1", "[[part]]"),
    ("[[part]]\njobs = 1", "above the first part"),
    ("[[part]]\n[[part]]\nsigmas = 1", "part 2: a study has no key 'sigmas'"),
    ("\nsigma = = 1", "line 2"),
    ("[[part]]\nmethod='gausian'\n[[part]]\nmethod='smothmix'", "part 2: unknown method 'smothmix'; did you mean 'smoothmix'?"),
    ("table = 8\nsigma = 1", "--table"),
    ("executor = 'slrm'", "did you mean 'slurm'?"),
]


@pytest.mark.parametrize(("text", "part"), WRONG, ids=[text[:60] for text, _ in WRONG])
def test_what_a_study_cannot_say(bench: Call, tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    result = bench("run", tmp_path / "s.toml", "--dry-run", "--results", tmp_path / "runs")
    assert result.exit_code == 2, result.output
    assert part in result.output
    assert "Traceback" not in result.output
    with pytest.raises(UsageError):
        api.run_study(tmp_path / "s.toml", results=tmp_path / "runs")
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]


@pytest.mark.parametrize("flag", ["--method x", "--sigma 1", "--seeds 1", "--set a=1", "--table 4", "--plugin x.py", "--precision bf16"])
def test_what_is_computed_is_said_in_one_place(bench: Call, tmp_path: Path, flag: str) -> None:
    (tmp_path / "s.toml").write_text("method = 'gaussian'")
    result = bench("run", tmp_path / "s.toml", "--dry-run", *shlex.split(flag))
    assert result.exit_code == 2
    assert f"bench: {flag.partition(' ')[0]}: what is computed stands in" in result.output


@pytest.mark.parametrize("name", ["absent.toml", ".", "pipe", "gaussian"])
def test_what_is_no_study(bench: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    result = bench("run", name)
    assert (result.exit_code, result.output.count("\n")) == (2, 1), result.output


# ---- the studies of the repository

CELLS = {"ablation": 90, "quick-table": 210, "table-5": 135, "tables-8-11": 48}


def test_every_study_is_counted() -> None:
    assert {path.stem for path in (ROOT / "studies").glob("*.toml")} == CELLS.keys()
    table = dict(re.findall(r"^\| `(\S+)\.toml` \|.*\| (\d+) \|$", (ROOT / "studies" / "README.md").read_text(), re.MULTILINE))
    assert {name: int(cells) for name, cells in table.items()} == CELLS


@pytest.mark.parametrize("name", CELLS)
def test_a_study_of_the_repository_has_its_cells(name: str) -> None:
    plan, _ = study.read(ROOT / "studies" / f"{name}.toml").request.prepare()
    assert len(plan.cells) == CELLS[name]
    assert plan.notes == ()
    assert {cell.certify.rule for cell in plan.cells} == {"clopper-pearson"}


def test_the_ablation_changes_one_switch_at_a_time_to_what_the_paper_prints() -> None:
    """Held against the recipe `paper`, which has all switches; D11 is of protocol full only."""
    plan, _ = study.read(ROOT / "studies" / "ablation.toml").request.prepare()
    rows = sorted({f"{cell.spec.method}.{cell.spec.variant}" for cell in plan.cells})
    printed, _ = RunRequest(parts=(Part(methods=rows, sigmas=(0.5, 1.0), recipe="paper"),), results=Path("x")).prepare()
    paper = {(cell.spec.method, cell.spec.variant, cell.spec.sigma): cell.spec for cell in printed.cells}
    changes = set()
    for spec in (cell.spec for cell in plan.cells if cell.spec.changes):
        other = paper[spec.method, spec.variant, spec.sigma]
        for change, value in spec.changes.items():
            name = change.removeprefix("train.")
            assert change == "train.batch" or value == (getattr(other.train, name) if name != change else other.hyperparameters[name])
        changes.add((spec.method, *spec.changes))
    assert changes == {
        ("smoothmix", "train.nesterov"),  # D1
        ("smoothmix", "train.lr_lag"),
        ("smoothmix", "mask_wrong"),
        ("smoothmix", "warmup_epochs"),
        ("smoothmix", "clip"),
        ("smoothmix", "mix_loss"),
        ("smoothmix", "reproject"),  # D7
        ("smoothadv", "epsilon", "warmup_first"),  # D9
        ("macer", "deferral"),
        ("smoothmix", "train.batch"),  # D11
    }


def test_the_table_of_the_ablation_holds_every_row_of_its_study() -> None:
    plan, _ = study.read(ROOT / "studies" / "ablation.toml").request.prepare()
    planned = {(cell.spec.row, *sorted(name for name in cell.spec.changes if "." in name)) for cell in plan.cells}
    switches = script("studies/ablation.py").SWITCHES
    sides = [side for _, code, paper, change in switches for side in ((code, ""), (paper, change))]
    shown = {(row, f"train.{change.partition('=')[0]}") if change else (row,) for row, change in sides}
    assert shown == planned


def test_the_table_of_the_ablation_is_what_compare_says(bench: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("studies/ablation.py")
    monkeypatch.setattr(module, "SWITCHES", [("it", "gaussian", "stability", ""), ("not there", "gaussian", "gaussian", "batch=1")])
    monkeypatch.setattr(module, "STUDY", {"protocol": "quick", "set": {"certify": {"images": "every:20"}}})
    header, _, *lines = module.lines(ROOT / "results" / "reference")
    told = [dict(zip(header.split("|"), line.split("|"), strict=True)) for line in lines]
    assert [line[" difference "] == " not all seeds and images are there " for line in told] == [False] * 3 + [True] * 3
    compared = json.loads(
        bench(
            "compare", "gaussian", "stability", "--protocol", "quick", "--results", ROOT / "results" / "reference", "--format", "json"
        ).stdout
    )
    for line, found in zip(told, compared["comparisons"], strict=False):
        seeds, images = found["seeds"], found["images"]
        assert line[" code "].strip() == f"{seeds['mean_a']:.4f}"
        assert line[" difference "].strip() == f"{seeds['difference']:+.4f} ±{(seeds['high'] - seeds['low']) / 2:.4f}"
        assert line[" across images "].strip() == f"{images['low']:+.4f} to {images['high']:+.4f}"
        assert line[" images up, down "].strip() == f"{500 * images['more_b']:.0f}, {500 * images['more_a']:.0f}"


def test_the_plan_names_each_change(tmp_path: Path, bench: Call) -> None:
    """The example of the guide: two of its trainings differ in what no row's name says."""
    (text,) = blocks("guide/studies.md", "clip=false", "toml")
    file = tmp_path / "ablation.toml"
    file.write_text(f'protocol = "smoke"\n{text}')
    result = bench("run", file, "--results", tmp_path / "runs", "--dry-run")
    assert "18 cells: rows 3, noise levels 2, seeds 3" in result.output
    lines = [line for line in result.output.splitlines() if line.startswith("smoothmix.eta5")]
    assert len(lines) == 6
    assert all("0,1,2" in line for line in lines)
    assert sum("train.nesterov=true" in line for line in lines) == 2
    cells = json.loads(bench("run", file, "--results", tmp_path / "runs", "--dry-run", "--json").stdout)["cells"]
    assert len({(cell["row"], cell["changes"], cell["sigma"], cell["seed"]) for cell in cells}) == len(cells)


def test_the_progress_of_cells_names_what_tells_them_apart(tmp_path: Path) -> None:
    parts = [Part(methods=["gaussian"], sigmas=[0.5], seeds=[0], protocol=name) for name in ("smoke", "quick")]
    parts += [dataclasses.replace(parts[0], changes=change) for change in ({"train.epochs": "2"}, {"certify.n": "50"})]
    request = RunRequest(parts=tuple(parts), results=tmp_path, engine=Engine(device="cpu"))
    plan, options = request.prepare()
    names = Matrix(request, plan, options, Console())._short_names(plan.cells)
    assert len(set(names)) == len(parts)
