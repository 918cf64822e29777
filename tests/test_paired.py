"""`bench compare RUN ROW`: one run of ours against imported logs, image by image."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from fake_logs import MANIFEST, write_log
from fake_store import LABELS, add, run_spec, write_evidence
from scipy import stats
from typer.testing import Result

from bench.errors import BenchError
from bench.logs import import_logs
from bench.rules.bounds import certified_radius
from bench.spec import CertifySpec
from bench.store.runs import Run, Store
from leaderboard.compare import compare_with_logs
from leaderboard.compare.logs import _printing

N = 100_000
AS_LOGGED = CertifySpec(n0=100, n=N, images="first:4")
COUNTS = (99_000, 80_000, N, 51_000)  # of images 0 to 3
PLAIN = ((1.03, 0.42, 1.91, 0.0), (1.01, 0.4, 1.85, 0.02), (1.1, 0.0, 1.91, 0.01))


def radius(count: int) -> float:
    return certified_radius(count, N, 0.001, 0.5) or 0.0


def imported(folder: Path, rows: Mapping[str, Sequence[float]]) -> Path:
    """A store with a log for each path below the folder of logs."""
    for name, radii in rows.items():
        write_log(folder / "logs" / name, radii)
    import_logs(folder / "logs", folder / "theirs", MANIFEST, strict=True)
    return folder / "theirs"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    names = [f"plain/noise_0.5_{run}" for run in (1, 2, 3)]
    return imported(tmp_path, {**dict(zip(names, PLAIN, strict=True)), "other/noise_0.5_1": (0.5,) * 4, "short/noise_0.5_1": (0.5,) * 3})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return add(Store(tmp_path / "runs"), run_spec(protocol="full"), COUNTS, certify=AS_LOGGED)


def test_by_hand(run: Run, theirs: Path) -> None:
    found = compare_with_logs(run, "plain", theirs)
    ours = np.array([float(f"{radius(count):.3g}") for count in COUNTS])
    logs = np.array(PLAIN)
    assert ours.tolist() == [1.14, 0.414, 1.91, 0.0064]
    assert found.acr == pytest.approx(ours.mean(), abs=1e-15)
    assert found.acr_exact == pytest.approx(statistics.fmean(map(radius, COUNTS)), abs=1e-15)
    assert found.acr_logs == pytest.approx(logs.mean(axis=1), abs=1e-15)
    assert found.difference == pytest.approx((ours - logs.mean(axis=0)).mean(), abs=1e-15)
    assert found.error == pytest.approx((ours - logs.mean(axis=0)).std(ddof=1) / 2)
    assert found.low < found.difference < found.high
    means = logs.mean(axis=1)
    assert found.spread == pytest.approx(np.abs(means - means.mean()).max())
    assert found.predicted == pytest.approx(float(stats.t.ppf(0.975, 2)) * means.std(ddof=1) * math.sqrt(4 / 3))
    assert found.agreement == (0.75, 1.0, 0.75)  # the first log abstains on image 3, the last on image 1
    assert found.agreement_among == (0.75, 0.5, 0.75)
    assert found.correlation == pytest.approx([np.corrcoef(ours, log)[0, 1] for log in logs])
    assert found.correlation_among[1] == pytest.approx(np.corrcoef(logs[0], logs[2])[0, 1])
    by_radius = {a.radius: a for a in found.accuracies}
    assert by_radius["0.00"].logs == (75.0, 100.0, 75.0)
    assert by_radius["0.00"].difference == pytest.approx(100 - 250 / 3)
    assert (by_radius["1.00"].run, by_radius["1.00"].logs, by_radius["1.00"].difference) == (50.0, (50.0,) * 3, 0.0)
    assert "2.00" not in by_radius  # no image reaches it
    assert "the run is gaussian, the logs are plain" in found.notes


def test_radii_are_rounded_as_the_logs_are(tmp_path: Path) -> None:
    """All samples of all images agree: without rounding the run would seem worse by 0.004 at every image."""
    run = add(Store(tmp_path / "runs"), run_spec(), (N,) * 4, certify=AS_LOGGED)
    assert radius(N) == pytest.approx(1.9057, abs=1e-4)
    found = compare_with_logs(run, "plain", imported(tmp_path, {"plain/noise_0.5_1": (1.91,) * 4}))
    assert (found.difference, found.low, found.high) == (0.0, 0.0, 0.0)
    assert found.acr_exact == pytest.approx(radius(N))
    assert any("3 significant digits" in note and "1.9057" in note for note in found.notes)
    assert found.correlation == (None,)  # nothing varies
    (tmp_path / "fine").mkdir()
    path = tmp_path / "fine/plain/noise_0.5_2"
    write_log(path, (1.91,) * 4)
    path.write_text(path.read_text().replace("1.91", "1.9057"))
    import_logs(tmp_path / "fine", tmp_path / "finer", MANIFEST, strict=True)
    found = compare_with_logs(run, "plain", tmp_path / "finer")
    assert found.difference == 0.0
    assert any("4 decimals" in note for note in found.notes)


def test_a_run_on_some_of_the_images(tmp_path: Path, theirs: Path) -> None:
    """Image 2 only has its partner in image 2."""
    run = add(Store(tmp_path / "runs"), run_spec(), None)
    certification = run.certification(CertifySpec(n0=100, n=N, images="1-2"))
    write_evidence(certification, (80_000, N), LABELS[1:3])
    found = compare_with_logs(run, "plain", theirs)
    assert (found.images, found.selection) == (2, "1-2")
    assert found.acr_logs == pytest.approx([(0.42 + 1.91) / 2, (0.4 + 1.85) / 2, 1.91 / 2])


@pytest.mark.parametrize(
    ("texts", "radius", "expected", "words"),
    [
        (("0.953", "0.04", "0.0", "1.0"), 0.006494, 0.00649, "3 significant digits"),
        (("0.953", "0.040", "0.412", "0.000"), 0.006494, 0.006, "3 decimals"),
        (("1.9057", "0.5"), 0.006494, 0.0065, "4 decimals"),
        (("1.91", "0.00808"), 1.9057, 1.91, "3 significant digits"),
    ],
)
def test_how_logs_are_rounded_is_seen(texts: Sequence[str], radius: float, expected: float, words: str) -> None:
    printed, told = _printing(texts)
    assert (printed(radius), told) == (expected, words)


@pytest.mark.parametrize(("counts", "within"), [((99_000, 79_500, N, 50_000), True), ((N, N, N, N), False), ((50_000,) * 4, False)])
def test_the_verdict(tmp_path: Path, counts: Sequence[int], within: bool) -> None:
    """Five logs that differ by a hundredth, so that only a run of their kind lies within."""
    logs = {f"plain/noise_0.5_{k}": (1.11 + k / 100, 0.38 + k / 100, 1.91, 0.0) for k in range(1, 6)}
    run = add(Store(tmp_path / "runs"), run_spec(), counts, certify=AS_LOGGED)
    found = compare_with_logs(run, "plain", imported(tmp_path, logs))
    assert found.within is within
    assert ("ACR" not in found.outside) is within
    coinciding = {a.radius for a in found.accuracies if len(set(a.logs)) == 1}
    assert "0.00" in coinciding  # every log certifies three of the four images
    assert {a.radius for a in found.accuracies if a.predicted is None} == coinciding
    assert not coinciding & {*found.outside}
    assert found.spread == pytest.approx(0.01)


def test_a_changed_training_is_told(tmp_path: Path, theirs: Path) -> None:
    run = add(Store(tmp_path / "runs"), run_spec(changes={"train.epochs": 30}), COUNTS, certify=AS_LOGGED)
    assert "the run was trained with train.epochs=30 instead of the recipe's" in compare_with_logs(run, "plain", theirs).notes


def test_one_log_has_no_spread(run: Run, theirs: Path) -> None:
    found = compare_with_logs(run, "other", theirs)
    assert (found.spread, found.predicted, found.within, found.agreement_among) == (None, None, None, ())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("plian", r"no imported log at sigma 0\.5 is of row 'plian'.*plain"),
        ("short", r"noise_0\.5_1 does not hold image 3"),
    ],
)
def test_wrong_rows_are_refused(run: Run, theirs: Path, row: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        compare_with_logs(run, row, theirs)


@pytest.mark.parametrize(
    ("certify", "counts", "message"),
    [
        (CertifySpec(n0=100, n=1000, images="first:4"), (1000,) * 4, "no finished certification with n0=100, n=100000.*n=1000"),
        (CertifySpec(n0=10, n=N, images="first:4"), (N,) * 4, "n0=10"),
        (CertifySpec(n0=100, n=N, images="first:4", rule="curtailed"), (N,) * 4, "curtailed"),
        (CertifySpec(n0=100, n=N, images="first:4", sampling="grid"), (N,) * 4, "no finished certification"),
        (AS_LOGGED, (N,) * 3, "first:4 with n0=100, n=100000, clopper-pearson .certifying"),
        (AS_LOGGED, None, "no finished certification with n0=100, n=100000, clopper-pearson, as the logs have it$"),
        (CertifySpec(n0=100, n=N, images="first:1"), (N,), "at least two"),
    ],
)
def test_other_certifications_are_refused(
    tmp_path: Path, theirs: Path, certify: CertifySpec, counts: Sequence[int] | None, message: str
) -> None:
    run = add(Store(tmp_path / "runs"), run_spec(), counts, certify=certify)
    with pytest.raises(BenchError, match=message):
        compare_with_logs(run, "plain", theirs)


def test_other_sigmas_networks_and_labels_are_refused(tmp_path: Path, theirs: Path) -> None:
    store = Store(tmp_path / "runs")
    with pytest.raises(BenchError, match=r"no imported log of mnist at sigma 1;.*bench import"):
        compare_with_logs(add(store, run_spec(sigma=1.0), COUNTS, certify=AS_LOGGED), "plain", theirs)
    with pytest.raises(BenchError, match="is a resnet50, but the logs are of lenet"):
        compare_with_logs(add(store, run_spec(train={"arch": "resnet50"}), COUNTS, certify=AS_LOGGED), "plain", theirs)
    foreign = {"data_differences": ["made up"]}
    run = add(store, run_spec(seed=7), None, environment=foreign)
    certification = run.certification(AS_LOGGED)
    write_evidence(certification, COUNTS, (1, 2, 3, 4))
    with pytest.raises(BenchError, match=r"label"):
        compare_with_logs(run, "plain", theirs)


def test_the_command(run: Run, theirs: Path, bench: Callable[..., Result], tmp_path: Path) -> None:
    words = ("compare", run.path, "plain", "--logs", theirs)
    shown = bench(*words)
    assert shown.exit_code == 0, shown.output
    for part in (
        "3 imported logs of plain (mine: 1, 2, 3)",
        "n=100,000",
        "run - logs",
        "prediction interval",
        "same answer",
        "the run lies",
    ):
        assert part in shown.stdout
    assert bench("compare", run.spec.key[:6], "plain", "--logs", theirs, "--results", tmp_path / "runs").stdout == shown.stdout
    markdown = bench(*words, "--format", "markdown").stdout
    assert "| ACR" in markdown
    assert r"\begin{tabular}" in bench(*words, "--format", "latex").stdout
    data = json.loads(bench(*words, "--format", "json").stdout)
    assert (data["within"], len(data["acr_logs"])) == (compare_with_logs(run, "plain", theirs).within, 3)
    rows = list(csv.DictReader(io.StringIO(bench(*words, "--format", "csv").stdout)))
    assert [row["metric"] for row in rows[:2]] == ["ACR", "0.00"]
    assert float(rows[0]["run"]) == data["acr"]
    assert [float(value) for value in rows[0]["logs"].split()] == data["acr_logs"]
    assert {row["key"] for row in rows} == {run.spec.key}
    assert "the logs are plain" in rows[0]["note"]
    assert bench("compare", run.path, "other", "--logs", theirs).exit_code == 0


def test_what_the_command_refuses(run: Run, theirs: Path, bench: Callable[..., Result], tmp_path: Path) -> None:
    for words, message in (
        ((run.path, "plain", "--sigma", "0.5", "--alpha", "0.01"), "--sigma, --alpha: A is a run"),
        ((run.path, "plain", "--logs", tmp_path / "none"), "--logs"),
        ((run.path, "plain", "--results", theirs, "--format", "yaml"), "--format yaml is unknown"),
        (("fff0", "plain", "--results", tmp_path / "runs"), "no run in"),
    ):
        result = bench("compare", *words)
        assert result.exit_code == 2
        assert message in result.stderr.replace("\n", " ")
        assert "Traceback" not in result.output
