"""`bench certify`, `bench predict` and `bench export --format checkpoint`, as a user types them."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from typer.testing import Result

from bench.certify import Sampler
from bench.checkpoints import check
from bench.evidence import certification_log
from bench.evidence.certificate import Certificate, read_rows
from bench.files.writing import sha256
from bench.store.checkpoints import Checkpoint, Origin, tensors_sha256
from bench.store.runs import Run, Store
from bench.store.subject import Subject

Call = Callable[..., Result]
FEW = ["--dataset", "mnist", "--sigma", "0.5", "--images", "first=3", "--device", "cpu"]
CERTIFY = [*FEW, "--n", "200", "--n0", "20"]


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of accuracy on fewer images; `test_checkpoints` has it whole."""
    monkeypatch.setattr(check, "IMAGES", 20)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the suite, trained and certified by `bench run` as every test of this file certifies."""
    from conftest import TINY
    from typer.testing import CliRunner

    from bench.cli import app

    root = tmp_path_factory.mktemp("own")
    words = ["run", *TINY, "--method", "gaussian", "--sigma", "0.5", "--results", str(root)]
    assert CliRunner().invoke(app, words).exit_code == 0
    (run,) = Store(root).runs()
    return run


def evidence_of(run: Subject) -> bytes:
    (certification,) = run.certifications()
    return certification.evidence.read_bytes()


def field_file(run: Run, path: Path, prefix: str) -> Path:
    """The weights of a run as the field saves them; written here by hand, with torch alone."""
    weights = safetensors.torch.load_file(run.weights)
    state = {name.replace("1.", prefix, 1): tensor for name, tensor in weights.items() if name.startswith("1.")}
    assert len(state) == 8
    torch.save({"epoch": 1, "arch": "lenet", "state_dict": state, "optimizer": {}}, path)
    return path


@pytest.fixture
def checkpoint(own: Run, tmp_path: Path) -> Path:
    return field_file(own, tmp_path / "model.pth.tar", "1.")


@pytest.mark.parametrize("prefix", ["1.", "1.module."])
def test_a_checkpoint_of_the_field_gives_the_evidence_of_our_own_weights(prefix: str, own: Run, bench: Call, tmp_path: Path) -> None:
    path = field_file(own, tmp_path / "model.pth.tar", prefix)
    result = bench("certify", path, *CERTIFY, "--results", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    (subject,) = Store(tmp_path / "runs").subjects(Checkpoint)
    assert evidence_of(subject) == evidence_of(own)
    assert len(read_rows(next(iter(subject.certifications())).evidence)) == 3
    # The weights are kept, bound to the evidence by their hash, and are those of the run.
    kept, ours = (safetensors.torch.load_file(weights) for weights in (subject.weights, own.weights))
    assert kept.keys() == ours.keys()
    assert all(torch.equal(kept[name], ours[name]) for name in ours)
    (certification,) = subject.certifications()
    stated = json.loads((certification.path / "subject.json").read_text())["weights_sha256"]
    assert stated == subject.spec.weights_sha256 == sha256(subject.weights)
    assert certification.status().sound().state == "done"
    # The file of the suite is the same subject.
    assert bench("certify", own.weights, *CERTIFY, "--results", tmp_path / "runs").exit_code == 0
    (same,) = Store(tmp_path / "runs").subjects(Checkpoint)
    assert same.origin() == Origin(name="weights.safetensors", tensors_sha256=tensors_sha256(own.weights.read_bytes()))


def test_a_row_is_said_renamed_and_kept_and_changes_no_count(own: Run, checkpoint: Path, bench: Call, tmp_path: Path) -> None:
    words = ("certify", checkpoint, *CERTIFY, "--results", tmp_path / "runs")
    assert "row " not in bench(*words).output
    (subject,) = Store(tmp_path / "runs").subjects(Checkpoint)
    assert (subject.origin().row, subject.origin().label) == (None, "model")
    for more, told in (
        (("--row", "mine"), "row mine of tables; it was model before\n"),
        ((), "row mine of tables\n"),
        (("--row", "yours"), "row yours of tables; it was mine before\n"),
    ):
        result = bench(*words, *more)
        assert result.exit_code == 0, result.output
        assert told in result.output
        assert "3 of 3 images done\n" in result.output
    assert list(Store(tmp_path / "runs").subjects(Checkpoint)) == [subject]
    assert evidence_of(subject) == evidence_of(own)
    assert json.loads(bench(*words, "--json", "-q").stdout)["row"] == "yours"


def test_checkpoints_of_a_row_become_a_row_of_a_table(own: Run, checkpoint: Path, bench: Call, tmp_path: Path) -> None:
    """The same weights in another layout of keys are no second training."""
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["1.fc2.bias"] += 1
    torch.save(content, tmp_path / "second.pth")
    field_file(own, tmp_path / "third.pth", "1.module.")
    for path in (checkpoint, tmp_path / "second.pth", tmp_path / "third.pth"):
        assert bench("certify", path, *CERTIFY, "--row", "mine", "--results", tmp_path / "runs", "-q").exit_code == 0
    (group,) = json.loads(bench("table", "--results", tmp_path / "runs", "--format", "json").stdout)["groups"]
    (row,) = group["sections"][0]["rows"]
    assert (row["row"], [seed["state"] for seed in row["seeds"]], row["metrics"]["ACR"]["n"]) == ("mine", ["done", "done"], 2)
    assert row["metrics"]["ACR"]["std"] is not None
    data = json.loads(bench("list", "checkpoints", "--results", tmp_path / "runs", "--json").stdout)
    assert [(row["row"], row["file"], row["state"], row["images certified"]) for row in data] == [
        ("mine", "second.pth", "done", "3/3"),
        ("mine", "third.pth", "done", "3/3"),
    ]


def test_a_run_of_the_suite_has_its_row(own: Run, bench: Call) -> None:
    before = sorted(own.path.rglob("*"))
    result = bench("certify", own.spec.key, "--images", "first:2", "--n", "100", "--row", "mine", "--results", own.path.parents[2])
    assert result.exit_code == 2
    assert f"--row mine: {own.path} is a run of the suite, whose row is gaussian; leave out --row" in result.output
    assert sorted(own.path.rglob("*")) == before


def test_a_certification_of_a_run_goes_into_the_run(own: Run, bench: Call) -> None:
    before = list(own.certifications())
    words = ("certify", own.spec.key[:8], "--images", "first:2", "--n", "100", "--n0", "10", "--results", own.path.parents[2])
    result = bench(*words)
    assert result.exit_code == 0, result.output
    (new,) = [c for c in own.certifications() if c.spec not in [b.spec for b in before]]
    assert len(new.rows()) == 2
    assert str(new.path) in result.output
    assert list(Store(own.path.parents[2]).subjects(Checkpoint)) == []
    # At another noise level it is another classifier, and no run of the store is of that.
    assert bench(*words, "--sigma", "1").exit_code == 0
    (subject,) = Store(own.path.parents[2]).subjects(Checkpoint)
    assert subject.spec.sigma == 1.0
    for certification in (new, *subject.certifications()):
        for path in certification.path.iterdir():
            path.unlink()
        certification.path.rmdir()


def test_a_stopped_certification_continues_to_the_same_bytes(
    own: Run, checkpoint: Path, bench: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("certify", checkpoint, *CERTIFY, "--results", tmp_path / "runs")
    real, seen, signals = Sampler.certify, list[int](), [signal.SIGINT]

    def stopped(self: Sampler, x: torch.Tensor, index: int, *rest: Any, **more: Any) -> Certificate:
        seen.append(index)
        if index == 1 and signals:
            signal.raise_signal(signals.pop())
        return real(self, x, index, *rest, **more)

    monkeypatch.setattr(Sampler, "certify", stopped)
    result = bench(*words)
    assert result.exit_code == 130
    assert "Run the same command again to resume" in result.output
    (subject,) = Store(tmp_path / "runs").subjects(Checkpoint)
    (certification,) = subject.certifications()
    assert len(read_rows(certification.evidence)) == 2
    with certification.evidence.open("ab") as file:  # a kill in the middle of a line
        file.write(evidence_of(own).splitlines()[2][:30])
    for told in ("2 of 3 images done\n", "3 of 3 images done\n"):
        result = bench(*words)
        assert result.exit_code == 0
        assert told in result.output
        assert seen == [0, 1, 2]
        assert evidence_of(subject) == evidence_of(own)


def test_evidence_of_other_weights_is_never_mixed(own: Run, checkpoint: Path, bench: Call, tmp_path: Path) -> None:
    words = ("certify", checkpoint, *CERTIFY, "--results", tmp_path / "runs")
    assert bench(*words).exit_code == 0
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["1.fc2.bias"] += 1
    torch.save(content, checkpoint)
    assert bench(*words).exit_code == 0
    first, second = Store(tmp_path / "runs").subjects(Checkpoint)
    assert first.spec.weights_sha256 != second.spec.weights_sha256
    (certification,) = first.certifications()
    (certification.path / "subject.json").write_text('{"weights_sha256":"' + "0" * 64 + '"}\n')
    again = (bench(*words), bench("certify", own.weights, *CERTIFY, "--results", tmp_path / "runs"))
    assert sorted(result.exit_code for result in again) == [0, 2]
    assert sum("were certified, but the run's are" in result.output for result in again) == 1


def test_the_report_and_its_json_say_what_was_certified(own: Run, checkpoint: Path, bench: Call, tmp_path: Path) -> None:
    from bench.rules.bounds import certified_radius
    from leaderboard import metrics

    words = ("certify", checkpoint, *CERTIFY, "--results", tmp_path / "runs")
    result = bench(*words)
    data = json.loads(bench(*words, "--json", "-q").stdout)
    o = metrics.outcomes(own.certification(next(iter(own.certifications())).spec).columns(), 0.001, 0.5)
    assert data["ACR"] == metrics.average_certified_radius(o)
    assert data["abstention"] == metrics.abstention_rate(o)
    assert list(data["certified_accuracy"]) == ["0.00", "0.25", "0.50", "0.75"]
    assert data["certified_accuracy"]["0.25"] == metrics.certified_accuracy(o, 0.25)
    assert (data["n"], data["n0"], data["images"], data["alpha"]) == (200, 20, 3, 0.001)
    assert data["base_accuracy"]["images"] == 20
    assert (data["rule"], data["drawn"], data["largest_radius"]) == ("clopper-pearson", 200, certified_radius(200, 200, 0.001, 0.5))
    assert f"ACR {data['ACR']:.4f}; abstained on {data['abstention']:.2%}" in result.output
    told = "sigma 0.5, n0 20, n 200, clopper-pearson bound, alpha 0.001, seed 0"
    assert f"certified 3 of 10000 test images (first:3): {told}" in result.output
    assert str(checkpoint) not in (tmp_path / "runs" / "checkpoints").rglob("origin.json").__next__().read_text()
    loose = json.loads(bench(*words, "--json", "-q", "--alpha", "0.05").stdout)
    assert loose["evidence"] == data["evidence"]
    assert loose["ACR"] > data["ACR"]


def test_the_log_is_the_fields_with_radii_rounded_down(own: Run, checkpoint: Path, bench: Call, tmp_path: Path) -> None:
    out = tmp_path / "log.tsv"
    assert bench("certify", checkpoint, *CERTIFY, "--results", tmp_path / "runs", "--tsv", out).exit_code == 0
    expected = certification_log.Expected(classes=10, test_size=10_000, images=("first:3",), n=200, alpha=0.001, sigma=0.5)
    log = certification_log.parse(out.read_bytes(), expected, name="log.tsv")
    assert tuple(log.table.cells) == certification_log.OURS
    rows = next(iter(own.certifications())).rows()
    for row, back in zip(rows, log.rows, strict=True):
        assert 0 <= (row.radius(0.001, 0.5) or 0.0) - back.radius < 1e-4
        assert back.correct == row.correct(0.001, 0.5)
    cannot = bench("certify", checkpoint, *CERTIFY, "--results", tmp_path / "runs", "--tsv", checkpoint / "log.tsv")
    assert cannot.exit_code == 2
    assert "--tsv" in cannot.output
    counts = [line.split("\t")[6:] for line in out.read_text().splitlines()[1:]]
    assert counts == [[str(row.count), str(row.n)] for row in rows]


def test_predict_writes_its_table(own: Run, checkpoint: Path, bench: Call, tmp_path: Path) -> None:
    out = tmp_path / "predictions.tsv"
    result = bench("predict", checkpoint, *FEW, "--n", "300", "--tsv", out, "--results", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    header, *lines = out.read_text().splitlines()
    assert header.split("\t") == ["idx", "label", "predict", "correct", "counts"]
    assert [line.split("\t")[:2] for line in lines] == [["0", "7"], ["1", "2"], ["2", "1"]]
    right = abstained = 0
    for line in lines:
        _, label, predicted, correct, counts = line.split("\t")
        assert sum(int(part.partition(":")[2]) for part in counts.split()) == 300
        assert int(correct) == int(label == predicted)
        right, abstained = right + int(correct), abstained + (predicted == "-1")
    assert f"right on {right / 3:.2%}, abstained on {abstained / 3:.2%}" in result.output
    assert not (tmp_path / "runs").exists()
    data = json.loads(bench("predict", own.weights, *FEW, "--n", "300", "--json", "-q", "--results", tmp_path).stdout)
    assert (data["accuracy"], data["abstention"], data["n"]) == (right / 3, abstained / 3, 300)
    # Selection and estimation of a certificate of the same seed come from other noise.
    first = {int(c): int(k) for c, k in (part.split(":") for part in lines[0].split("\t")[4].split())}
    certificate = Sampler(_model(own), 0.5, 10, 0).certify(_image(0), 0, 7, 150, 150)
    both = {c: certificate.selection.get(c, 0) + certificate.estimation.get(c, 0) for c in range(10)}
    assert first != {c: k for c, k in both.items() if k}


def test_noise_that_drowns_every_image_is_warned_of(checkpoint: Path, bench: Call, tmp_path: Path) -> None:
    words = ["--dataset", "mnist", "--sigma", "128", "--images", "first:1", "--device", "cpu", "--n", "20"]
    result = bench("predict", checkpoint, *words, "--results", tmp_path / "runs")
    assert result.exit_code == 0
    assert "128/255 is 0.502" in result.output


def _model(run: Run) -> torch.nn.Module:
    from bench.checkpoints.load import Wanted, load

    return load(Wanted(word=str(run.weights), results=Path())).model


def _image(index: int) -> torch.Tensor:
    from bench.data import load

    return load("mnist", "test").images(torch.tensor([index]))[0]


def test_a_stopped_prediction_keeps_what_it_has(checkpoint: Path, bench: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Sampler.certify

    def stopped(self: Sampler, x: torch.Tensor, index: int, *rest: Any, **more: Any) -> Certificate:
        if index == 1:
            signal.raise_signal(signal.SIGTERM)
        return real(self, x, index, *rest, **more)

    monkeypatch.setattr(Sampler, "certify", stopped)
    out = tmp_path / "p.tsv"
    result = bench("predict", checkpoint, *FEW, "--n", "100", "--tsv", out)
    assert result.exit_code == 143
    assert f"interrupted after 2 of 3 images; they are in {out}. Run the same command again to start over" in result.output
    assert len(out.read_text().splitlines()) == 3


@pytest.mark.parametrize(("forward", "refused"), [("self.linear(x.flatten(1))", ""), ("x.flatten(1)[:, :10] / 0", "not finite")])
def test_a_factory_certifies_unless_its_logits_are_not_finite(
    forward: str, refused: str, bench: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "broken_factory" if refused else "linear_factory"
    (tmp_path / f"{name}.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Make(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        torch.manual_seed(0)\n        self.linear = nn.Linear(784, 10)\n\n"
        f"    def forward(self, x):\n        return {forward}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    result = bench("certify", f"{name}:Make", *CERTIFY)
    (subject,) = Store(tmp_path / "results" / "runs").subjects(Checkpoint)
    assert subject.spec.arch == f"{name}:Make"
    assert re.fullmatch("[0-9a-f]{64}", subject.spec.code_sha256)
    assert result.exit_code == (2 if refused else 0), result.output
    assert refused in result.output
    assert f"{name}:Make: {name}:Make for mnist" in result.output  # no picture in the place of a word
    rows = [path for path in subject.path.rglob("evidence.jsonl") if path.stat().st_size]
    assert len(rows) == (0 if refused else 1)
    assert "bench: warning: accuracy on 20 test images" in result.output


MISTAKES: list[tuple[list[str], list[str]]] = [
    (["certify", "{file}"], ["does not say what it is to be certified on; give --dataset and --sigma"]),
    (["certify", "{file}", *FEW, "--n", "0"], ["--n=0 must be greater than 0"]),
    (["certify", "{file}", *FEW, "--n0", "-1"], ["--n0=-1 must be greater than 0"]),
    (["certify", "{file}", *FEW[:4], "--images", "every"], ["--images=every is no selection of images: write all, every:100"]),
    (["certify", "{file}", *FEW[:4], "--images", "10000-20000"], ["--images 10000-20000 selects none of the 10000 test images of mnist"]),
    (
        ["certify", "{file}", "--dataset", "mnist", "--alpha", "0.5", "--sigma", "-1"],
        ["--alpha 0.5 must lie", "--sigma -1.0 must be a finite number"],
    ),
    (
        ["certify", "{file}", *FEW, "--row", "My Row", "--alpha", "1"],
        ["--row 'My Row' is not a name: at most 64 lower", "--alpha 1.0 must"],
    ),
    (["certify", "{file}", *FEW, "--row", ""], ["--row '' is not a name"]),
    (["certify", "{file}", *FEW[:-2], "--device", "tpu"], ["unknown device 'tpu'; there is auto, cpu, cuda"]),
    (["certify", "{file}", *FEW, "--tsv", "{folder}"], ["is a folder; name a file"]),
    (["certify", "{file}", *FEW, "--results", "{file}"], ["is a file, not a folder"]),
    (["certify", "{folder}", *FEW], ["is a folder, but not of a run"]),
    (["certify", "abcdef", *FEW, "--results", "{folder}"], ["no run in", "'abcdef' is no weights file"]),
    (
        ["certify", "{file}", *FEW, "--n", "9"],
        ["--n 9: every image would abstain with n 9 at alpha 0.001, even if all samples agree; the least n is 10"],
    ),
    (["predict", "{file}", *FEW, "--n", "10"], ["--n 10 always abstains at alpha 0.001; the least that can decide is 11"]),
    (["predict", "{file}", *FEW, "--alpha", "0"], ["--alpha 0.0 must lie between 0 and 0.5"]),
]


@pytest.mark.parametrize(("words", "told"), MISTAKES, ids=[" ".join(words[:1] + words[-2:]) for words, _ in MISTAKES])
def test_a_mistake_is_a_sentence_and_writes_nothing(words: list[str], told: list[str], own: Run, bench: Call, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = field_file(own, tmp_path / "model.pth", "1.")
    typed = [word.format(file=file, folder=folder) for word in words]
    if "--results" not in typed:
        typed += ["--results", str(tmp_path / "runs")]
    result = bench(*typed)
    assert result.exit_code == 2, result.output
    assert all(text in result.output for text in told), result.output
    assert "Traceback" not in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "model.pth"]


# ------------------------------------------------------------------------------------------------- export


def test_export_writes_what_plain_torch_loads(own: Run, bench: Call, tmp_path: Path) -> None:
    out = tmp_path / "x.pth"
    result = bench("export", own.spec.key, "--format", "checkpoint", "--out", out, "--results", own.path.parents[2])
    assert result.exit_code == 0, result.output
    assert f"wrote {out}: lenet of gaussian, seed 0, sigma 0.5; normalisation none is not in the file" in result.output
    content: dict[str, Any] = torch.load(out, weights_only=True)
    assert (content["epoch"], content["arch"], "optimizer" in content) == (1, "lenet", False)
    ours = safetensors.torch.load_file(own.weights)
    assert content["state_dict"].keys() == {name for name in ours if name.startswith("1.")}
    assert all(torch.equal(tensor, ours[name]) for name, tensor in content["state_dict"].items())
    assert bench("certify", out, *CERTIFY, "--results", tmp_path / "runs").exit_code == 0
    (subject,) = Store(tmp_path / "runs").subjects(Checkpoint)
    assert evidence_of(subject) == evidence_of(own)


def test_export_of_weights_takes_no_flags_of_a_log(own: Run, bench: Call, tmp_path: Path) -> None:
    words = ("export", own.spec.key, "--format", "checkpoint", "--out", tmp_path / "x.pth", "--results", own.path.parents[2])
    for extra in (("--alpha", "0.01"), ("--certification", "ab")):
        result = bench(*words, *extra)
        assert result.exit_code == 2
        assert "writes weights; leave out --alpha and --certification" in result.output
    wrong = bench("export", own.spec.key, "--format", "checkpiont", "--out", tmp_path / "x.pth", "--results", own.path.parents[2])
    assert "--format checkpiont is unknown; did you mean 'checkpoint'?" in wrong.output
    file = bench("export", own.weights, "--format", "checkpoint", "--out", tmp_path / "x.pth", "--results", own.path.parents[2])
    assert "is a weights file; name the run that it is of" in file.output
    assert not (tmp_path / "x.pth").exists()
