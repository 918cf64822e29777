"""Submissions: what is handed in verifies, whatever is changed in it afterwards is refused, and nothing of it is ever run."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import yaml
from test_verify import edit, lift, only, reseal
from typer.testing import Result

from bench.errors import Fault
from bench.files import disk
from bench.files.writing import read_json, write_json
from bench.registry import code_of_plugin
from bench.spec import canonical, to_json
from bench.store import submission
from bench.store.runs import Run, Store
from bench.store.submission import Listed, Submission
from bench.verify import verify

Call = Callable[..., Result]
ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "submissions" / "example"
PLUGIN = '''"""A method."""

from bench.method import Method
from helper import terms


class Mine(Method):
    loss = terms
'''


@pytest.fixture(scope="module")
def handed_in(bench: Call, two_cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A submission of two really trained runs, one of which says that it comes from a plug-in."""
    top = tmp_path_factory.mktemp("submission")
    results = Path(shutil.copytree(two_cells, top / "runs"))
    (top / "mine.py").write_text(PLUGIN)
    (top / "helper.py").write_text("terms = open('ran', 'w')\n")
    record = first(results).path / "environment.json"
    write_json(record, read_json(record) | {"plugins": {"mine.py": code_of_plugin(top / "mine.py")}})
    result = bench("submit", results, "--plugin", top / "mine.py", "--out", top / "handed")
    assert result.exit_code == 0, result.output
    assert f"bench verify {top / 'handed'} --complete --recertify 66" in result.output
    return top / "handed"


def test_whoever_takes_in_a_network_is_told_to_name_it(bench: Call, two_cells: Path, tmp_path: Path) -> None:
    results = Path(shutil.copytree(two_cells, tmp_path / "runs"))
    file = tmp_path / "net.py"
    file.write_text("def NETWORK(info):\n    raise NotImplementedError\n")
    record = first(results).path / "environment.json"
    write_json(record, read_json(record) | {"plugins": {"net.py": code_of_plugin(file)}})
    result = bench("submit", results, "--plugin", file, "--out", tmp_path / "handed")
    assert f"--recertify 66 --plugin {tmp_path / 'handed' / 'plugins' / 'net' / 'net.py'}\n" in result.output


@pytest.fixture
def folder(handed_in: Path, tmp_path: Path) -> Path:
    """A copy, to be tampered with."""
    return Path(shutil.copytree(handed_in, tmp_path / "handed"))


def first(folder: Path) -> Run:
    return next(Store(folder).runs())


def accepted(folder: Path) -> bool:
    return not verify(folder, complete=True).failures


def relist(folder: Path) -> None:
    """Makes the list fit whatever is there, as a forger does."""
    said = submission.read(folder)
    files = {}
    for name, kind in submission.content(folder):
        if name != "submission.json" and kind == "file":
            content = (folder / name).read_bytes()
            files[name] = Listed(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    Submission(files=files, weights_at=said.weights_at).write(folder)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------------------------ the good


def test_what_is_handed_in_is_accepted(bench: Call, folder: Path) -> None:
    result = bench("verify", folder, "--complete", "--recertify", "2", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert f"{len(files_of(folder)) - 1} files compared with the list" in result.output
    relist(folder)
    assert accepted(folder)
    assert accepted(folder.rename(folder.with_name("renamed")).parent), "a folder of submissions is read alike"


def test_nothing_of_this_machine_is_in_it(handed_in: Path) -> None:
    for path in files_of(handed_in):
        content = path.read_bytes()
        assert str(handed_in.parent).encode() not in content
        assert path.name not in ("failure.json", "checkpoint.bin")
        assert not path.stat().st_mode & 0o111


def test_texts_are_not_run(folder: Path) -> None:
    text = folder / "plugins" / "mine" / "mine.py"
    text.write_text(f'"""Other words."""\n\nraise SystemExit\nopen({str(folder / "ran")!r}, "w")\n' + text.read_text())
    relist(folder)
    assert [fault.file for fault in verify(folder).failures] == [text]
    assert not (folder / "ran").exists()


def test_of_texts_the_code_counts(folder: Path) -> None:
    text = folder / "plugins" / "mine" / "mine.py"
    text.write_text("# a comment\n" + text.read_text())
    assert not accepted(folder)
    relist(folder)
    assert accepted(folder)
    text.unlink()
    relist(folder)
    assert not accepted(folder), "helpers of nothing"


# ------------------------------------------------------------------------------------------------------------ tampered


@pytest.mark.parametrize("seed", range(2))
def test_a_change_of_any_file_is_refused(folder: Path, seed: int) -> None:
    """A byte, the end, more, nothing, or no file at all."""
    choice = random.Random(seed)
    for path in files_of(folder):
        if path.name == "submission.json":  # the list is what the others are held against; it holds none of itself
            continue
        before = path.read_bytes()
        place = choice.randrange(len(before))
        changed = before[:place] + bytes([before[place] ^ 1 << choice.randrange(8)]) + before[place + 1 :]
        for content in choice.sample([changed, before[:place], before + b"\n", b""], 2):
            path.write_bytes(content)
            assert not accepted(folder), (path, place)
        path.unlink()
        assert not accepted(folder), path
        path.write_bytes(before)
    assert accepted(folder)


def test_lifted_counts_with_every_record_fitting_are_found_by_counting_again(bench: Call, folder: Path) -> None:
    edit(only(first(folder)), lambda rows: lift(rows, [0, 1, 2], 60))
    relist(folder)
    assert accepted(folder)
    result = bench("verify", folder, "--complete", "--recertify", "66", "--device", "cpu")
    assert result.exit_code == 1, result.output
    assert "certified again" in result.output


def swap(folder: Path) -> None:
    one, other = list(Store(folder).runs())
    shutil.copy(other.weights, one.weights)


def swap_and_rename(folder: Path) -> None:
    """Other weights, whose header and every record say that they are these."""
    swap(folder)
    run = first(folder)
    metadata = {"certbench": canonical({"spec": to_json(run.spec), "key": run.spec.key})}
    safetensors.torch.save_file(safetensors.torch.load_file(run.weights), run.weights, metadata)


def header(folder: Path) -> None:
    weights = first(folder).weights
    weights.write_bytes(weights.read_bytes().replace(b'"sigma\\":0.25', b'"sigma\\":0.26', 1).replace(b"lenet", b"lunet", 1))


def spec(folder: Path) -> None:
    path = first(folder).path / "spec.json"
    path.write_text(path.read_text().replace('"seed":0', '"seed":1'))


def certified_less(folder: Path) -> None:
    edit(only(first(folder)), lambda rows: rows.__delitem__(-1))


def unbound(folder: Path) -> None:
    (only(first(folder)).path / "finished.json").unlink()


def unlisted(folder: Path, *parts: str) -> None:
    path = folder.joinpath(*parts)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("x")


def link(folder: Path) -> None:
    path = first(folder).path / "curve.csv"
    path.rename(folder.parent / "curve.csv")
    path.symlink_to(folder.parent / "curve.csv")


def link_to_a_folder(folder: Path) -> None:
    path = only(first(folder)).path
    path.rename(folder.parent / path.name)
    path.symlink_to(folder.parent / path.name)


def large(folder: Path) -> None:
    with (first(folder).path / "timing.json").open("r+b") as file:
        file.truncate(disk.OTHERS + 1)


def large_text(folder: Path) -> None:
    with (folder / "plugins" / "mine" / "mine.py").open("r+b") as file:
        file.truncate(disk.OTHERS + 1)


def deep_text(folder: Path) -> None:
    (folder / "plugins" / "mine" / "mine.py").write_text("-" * 500_000 + "1")


FORGERIES: dict[str, Callable[[Path], None]] = {
    one.__name__: one
    for one in (swap, swap_and_rename, header, spec, certified_less, unbound, link, link_to_a_folder, large, large_text, deep_text)
} | {
    "/".join(parts): lambda folder, parts=parts: unlisted(folder, *parts)  # type: ignore[misc]
    for parts in (
        ("conftest.py",),
        ("setup.py",),
        ("plugins", "other", "other.py"),
        ("plugins", "mine", "more.so"),
        ("plugins", "loose.py"),
        (".git", "hooks", "post-checkout"),
        (".replaced", "mnist", "spec.json"),
        ("mnist", "sitecustomize.py"),
        ("mnist", "README.md"),
    )
}


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("name", FORGERIES)
def test_forgeries_are_refused_with_a_list_that_fits_too(folder: Path, name: str, listed: bool) -> None:
    FORGERIES[name](folder)
    if listed and name == "mnist/README.md":  # people's words, which nothing reads: these may be handed in
        relist(folder)
        assert accepted(folder)
        return
    if listed:
        relist(folder)
    assert not accepted(folder)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/hostname", "a//b", "a/./b", "a/../b", "a\\b", "", "submission.json", ".x", "a\0b", "a/" * 20]
)
def test_a_list_names_no_path_outside(folder: Path, name: str) -> None:
    data = read_json(folder / "submission.json")
    data["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    write_json(folder / "submission.json", data)
    with pytest.raises(Fault):
        submission.read(folder)
    assert not accepted(folder)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"schema": 2},
        {"more": 1},
        {"files": []},
        {"elsewhere": {"mnist/evidence.jsonl": {"bytes": 1, "sha256": "0" * 64}}},
        {"elsewhere": {"a/weights.safetensors": {"bytes": -1, "sha256": "0" * 64}}},
        {"elsewhere": {"a/weights.safetensors": {"bytes": 1, "sha256": "0" * 64}}},
        {"weights_at": "file:///etc"},
        {"weights_at": "https://host:port"},
        {"weights_at": "https://host:70000"},
        {"weights_at": "https://[::1"},
        {"weights_at": 5},
        {"weights_at": []},
        {"weights_at": "https://user:secret@host"},
    ],
)
def test_a_list_says_nothing_else(folder: Path, change: dict[str, object]) -> None:
    path = folder / "submission.json"
    path.write_text(json.dumps(read_json(path) | change))
    assert accepted(folder) is (change == {})


@pytest.mark.parametrize(
    "entry", [None, [], {}, {"bytes": True, "sha256": "0" * 64}, {"bytes": 1, "sha256": 7}, {"bytes": 1, "sha256": "x"}]
)
def test_an_entry_that_is_none_is_named(folder: Path, entry: object) -> None:
    data = read_json(folder / "submission.json")
    write_json(folder / "submission.json", data | {"files": {"mnist/odd": entry}})
    with pytest.raises(Fault, match="'mnist/odd' has no length and SHA-256"):
        submission.read(folder)


def test_a_list_is_right_about_lengths_too(folder: Path) -> None:
    data = read_json(folder / "submission.json")
    next(iter(data["files"].values()))["bytes"] += 1
    write_json(folder / "submission.json", data)
    assert not accepted(folder)


# ---------------------------------------------------------------------------------------------------------- incomplete


def left_rows(run: Run) -> None:
    certification = only(run)
    edit(certification, lambda rows: rows.__delitem__(-1))
    times = certification.path / "times.csv"
    times.write_text("".join(times.read_text().splitlines(keepends=True)[:-1]))


def named_path(run: Run) -> None:
    path = run.path / "environment.json"
    write_json(path, read_json(path) | {"note": "made in /home/somebody/runs"})


MISSING: dict[str, Callable[[Run], object]] = {
    "unfinished": left_rows,
    "unbound": lambda run: (only(run).path / "finished.json").unlink(),
    "it is not certified": lambda run: shutil.rmtree(only(run).path),
    "its training is not finished": lambda run: (run.path / "training.json").unlink(),
    "names a place on this machine": named_path,
    "check sum": lambda run: only(run).evidence.write_bytes(only(run).evidence.read_bytes().replace(b'"label":7', b'"label":3')),
}


@pytest.mark.parametrize("told", MISSING)
def test_what_is_missing_is_named_and_nothing_is_written(bench: Call, two_cells: Path, tmp_path: Path, told: str) -> None:
    results = Path(shutil.copytree(two_cells, tmp_path / "runs"))
    MISSING[told](first(results))
    result = bench("submit", results, "--out", tmp_path / "out")
    assert result.exit_code == 1, result.output
    assert told in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def test_a_folder_that_is_there_is_left_alone(bench: Call, two_cells: Path, tmp_path: Path) -> None:
    for words in (
        ("--out", tmp_path),
        ("--out", two_cells / "inside"),
        ("--out", tmp_path / "a" / "b"),
        ("--out", tmp_path / "x", "--weights-at", "here"),
    ):
        assert bench("submit", two_cells, *words).exit_code == 2
    assert list(tmp_path.iterdir()) == []
    assert not (two_cells / "inside").exists()


def test_a_plugin_must_be_the_one_that_was_used(bench: Call, two_cells: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 1\n")
    result = bench("submit", two_cells, "--plugin", tmp_path / "mine.py", "--out", tmp_path / "out")
    assert (result.exit_code, "no run was made with" in result.output) == (1, True), result.output


def test_a_part_of_the_results_without_weights_and_these_from_elsewhere(bench: Call, two_cells: Path, tmp_path: Path) -> None:
    run, out = first(two_cells), tmp_path / "out"
    result = bench("submit", run.path, "--out", out, "--weights-up-to", "0.5", "--weights-at", "https://example.org/w/")
    assert result.exit_code == 0, result.output
    assert "1 file of weights left out" in result.output
    assert [found.key for found in Store(out).runs()] == [run.key], "in its place, whatever folder was named"
    assert accepted(out)
    assert bench("pull", "--from", two_cells, "--results", out).exit_code == 0
    assert bench("verify", out, "--complete", "--recertify", "1", "--device", "cpu").exit_code == 0
    reseal(only(first(out)))
    assert accepted(out), "the same records again"


# ------------------------------------------------------------------------------------- the example, the workflow, the docs


def test_the_example_is_small_and_accepted(bench: Call) -> None:
    assert sum(path.stat().st_size for path in files_of(EXAMPLE)) < 1_000_000
    result = bench("verify", EXAMPLE, "--complete")
    assert result.exit_code == 0, result.output
    assert "1 run, 1 of them with weights" in result.output


def test_the_workflow_runs_nothing_that_is_submitted() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "submissions.yml").read_text())
    assert workflow[True] == {"pull_request": {"paths": ["submissions/**"]}}, "YAML reads the word on as true"
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert "secrets" not in json.dumps(job)
    checkouts = [step["with"] for step in job["steps"] if step.get("uses", "").startswith("actions/checkout")]
    assert [(one["path"], one["persist-credentials"]) for one in checkouts] == [("base", False), ("submitted", False)]
    assert checkouts[0]["ref"] == "${{ github.event.pull_request.base.sha }}"
    assert (checkouts[1]["sparse-checkout"], checkouts[1]["submodules"]) == ("submissions", False)
    scripts = [step for step in job["steps"] if "run" in step]
    assert {step["working-directory"] for step in scripts} == {"base"}
    lines = [line for step in scripts for line in step["run"].splitlines()]
    assert not [line for line in lines if "${{" in line], "no words of a pull request in a shell"
    assert [line for line in lines if "submitted" in line] == [".ci/submissions ../submitted/submissions submissions"]


def judge(submitted: Path, base: Path) -> subprocess.CompletedProcess[str]:
    """What the workflow's script says."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    words = ["bash", str(ROOT / ".ci" / "submissions"), str(submitted), str(base)]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path, "ROWS": "1"})


def test_the_script_judges_what_is_new(folder: Path, tmp_path: Path) -> None:
    base, submitted = tmp_path / "base", tmp_path / "submitted"
    for where in (base, submitted):
        shutil.copytree(EXAMPLE, where / "example")
    result = judge(submitted, base)
    assert (result.returncode, "0 submissions judged" in result.stdout) == (0, True), result.stdout
    marker = tmp_path / "ran"
    code = f"open({str(marker)!r}, 'w')\n"
    for name in ("conftest.py", "sitecustomize.py", "bench.py", "torch.py"):
        (folder / name).write_text(code)
    for weights in folder.rglob("weights.safetensors"):  # so that the script counts nothing again, which takes longer
        weights.unlink()
    shutil.move(folder, submitted / "hostile")
    (submitted / "file.py").write_text(code)
    (submitted / "linked").symlink_to(EXAMPLE)
    (submitted / "no-list").mkdir()
    (submitted / "--help; touch ran").mkdir()
    (submitted / "example" / "submission.json").write_text("{}")
    (base / "taken-out").mkdir()
    result = judge(submitted, base)
    assert result.returncode == 1, result.stdout
    refused = {line.split(": ")[1] for line in result.stdout.splitlines() if line.startswith("refused: ")}
    assert refused == {"hostile", "file.py", "linked", "no-list", "taken-out", r"--help\;\ touch\ ran", "example"}
    assert "conftest.py: submission.json does not list it" in result.stdout
    assert "note: hostile: no weights are in it" in result.stdout
    (tmp_path / "link").symlink_to(base)
    assert judge(tmp_path / "link", base).returncode == 1
    assert not marker.exists()


@pytest.mark.slow
def test_the_script_accepts_the_example(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "submitted" / "example")
    result = judge(tmp_path / "submitted", tmp_path / "base")
    assert (result.returncode, "1 row certified again" in result.stdout) == (0, True), result.stdout + result.stderr


def test_the_page_for_authors_is_short() -> None:
    text = (ROOT / "docs" / "guide" / "submit.md").read_text()
    assert len(text.split()) < 600, "its commands run in test_guide.py"
