"""Pictures: their numbers by hand, their files, and what they refuse."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from fake_store import CERTIFY, N, add, new_store, run_spec
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import Result

import bench
from bench.errors import BenchError
from bench.files.writing import write_json
from bench.logs import import_logs
from bench.rules.bounds import certified_radius
from bench.spec import CertifySpec
from bench.store.runs import Store
from leaderboard import plots
from leaderboard.aggregate import EVERYTHING, Filters, collect
from leaderboard.aggregate.where import flags
from leaderboard.plots.draw import styles
from leaderboard.plots.picture import Seed, Series, Steps, certified_steps, envelope, over_seeds

GOLDEN = os.environ.get("CERTBENCH_GOLDEN")
needs_golden = pytest.mark.skipif(not GOLDEN, reason="CERTBENCH_GOLDEN names no folder of third-party logs")
CURVE = "epoch,step,lr,cross_entropy,mix,loss\n0,1,0.1,2.0,,2.0\n1,2,0.1,1.0,0.5,1.5\n2,3,0.1,0.5,0.25,0.75\n"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path)


def series(picture: plots.Picture, sigma: float = 0.5) -> dict[str, Series]:
    return {one.label: one for one in picture.panels[sigma]}


def only(kind: plots.Kind, store: Store, filters: Filters = EVERYTHING, **how: Any) -> plots.Picture:
    (picture,) = plots.pictures(kind, store, filters, **how)
    return picture


def choices(kind: plots.Kind, store: Store) -> list[str]:
    return [flags(picture.chosen) for picture in plots.pictures(kind, store)]


def curve(store: Store, text: str = CURVE) -> None:
    for run in store.runs():
        run.curve.write_text(text)


# ---- numbers


@pytest.mark.parametrize("images", [0, 1, 5, 40])
def test_the_step_function_is_certified_accuracy_at_every_radius(images: int) -> None:
    """Also where radii repeat, where an image is wrong with a large radius or right at 0, and where nothing is certified."""
    rng = np.random.default_rng(images)
    radius = np.concatenate([[0.5, 1.0, 0.5, 3.0, 0.0], rng.integers(0, 8, images) / 4])
    correct = np.array([images > 0] * 3 + [False, True] + rng.choice([True, False], images).tolist())
    found = certified_steps(correct, radius)
    places = np.concatenate([found.x, np.nextafter(found.x[1:], 0), [0.3, 9.0]])
    assert found.at(places).tolist() == pytest.approx(100 * bench.certified_accuracy(radius, correct, places))
    assert found.x[0] == 0
    assert found.x[1:].tolist() == sorted({*radius[correct & (radius > 0)].tolist()})


def test_the_band_by_hand() -> None:
    one = Steps(np.array([0.0, 1.0]), np.array([80.0, 0.0]))
    two = Steps(np.array([0.0, 0.5, 2.0]), np.array([60.0, 20.0, 0.0]))
    band = over_seeds([one, two])
    assert band.x.tolist() == [0.0, 0.5, 1.0, 2.0]
    assert band.mean.tolist() == [70.0, 50.0, 10.0, 0.0]
    assert band.std is not None
    assert band.std == pytest.approx(np.array([20, 60, 20, 0]) / 2**0.5)  # ddof=1: the difference of two by the root of 2
    assert over_seeds([one]).std is None


@given(st.data())
def test_the_envelope_is_the_best_mean_at_every_radius(data: st.DataObject) -> None:
    trainings = data.draw(st.integers(1, 3))
    images = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.3, 0.5, 1.0, 2.0])), min_size=4, max_size=4)

    def training() -> Steps:
        correct, radius = zip(*data.draw(images), strict=True)
        return certified_steps(np.array(correct), np.array(radius))

    found = {
        sigma: [training() for _ in range(trainings)] for sigma in data.draw(st.sampled_from([(0.25,), (0.25, 0.5), (0.25, 0.5, 1.0)]))
    }
    best, spans = envelope(found)
    assert len(best) == trainings
    start = 0.0
    for sigma, end in spans:
        for r in {start, min((start + end) / 2, 9.0), np.nextafter(min(end, 9.0), 0)}:
            means = {s: np.mean([one.at(np.array([r])) for one in steps]) for s, steps in found.items()}
            assert means[sigma] == pytest.approx(max(means.values()))
            assert [one.at(np.array([r])) for one in best] == [one.at(np.array([r])) for one in found[sigma]]
        assert start < end
        start = end
    assert start == np.inf


def test_the_envelope_says_which_sigma_and_needs_all(store: Store) -> None:
    for row in ("gaussian", "macer"):
        add(store, run_spec(row, sigma=0.25), (N, N, N, 900))
    add(store, run_spec(sigma=1.0), (N, N, 600, 500))
    picture = only("envelope", store)
    assert (picture.best_of, list(picture.panels)) == ((0.25, 1.0), [1.0])
    ((one,),) = picture.panels.values()
    # At 0.25 all four images have a radius; at 1 two have the larger ones, and none of the others reaches that of 0.25 with N.
    reach = certified_radius(N, N, 0.001, 0.25)
    assert f"gaussian: sigma 0.25 below r = {reach:.3f}, 1 beyond." in picture.notes
    assert one.seeds[0].steps.at(np.array([0.0, 0.5, 1.0, 3.0])).tolist() == [100.0, 75.0, 50.0, 0.0]
    assert any("macer at sigma 1 (" in note for note in picture.notes)


def test_accuracy_against_pa_is_the_metric_at_every_threshold(store: Store) -> None:
    add(store, run_spec(), (N, 950, 700, 300))
    (one,) = only("pa", store).panels[0.5]
    ((section,),) = (group.sections for group in collect(store, metrics=["pa"]))
    for threshold in (0.5, 0.75, 0.9, 0.99):
        assert one.seeds[0].steps.at(np.array([threshold])) == section.rows[0].stats[f"pA>{threshold}"].mean
    add(store, run_spec(protocol="smoke"), certify=CertifySpec(n0=10, n=N, images="first:4", rule="curtailed"))
    with pytest.raises(BenchError, match="no lower bound on pA of every image"):
        only("pa", store, Filters(protocols=["smoke"]))
    for kind in ("pa", "envelope"):
        with pytest.raises(BenchError, match="leave out --from published"):
            only(kind, store, source="published")


def test_a_picture_of_runs_has_the_values_of_the_table(store: Store) -> None:
    for seed, counts in enumerate(((N, N, 900, 0), (N, 990, 900, 0))):
        add(store, run_spec(seed=seed), counts)
    radii = {count: certified_radius(count, N, 0.001, 0.5) or 0.0 for count in (N, 990, 900)}
    picture = only("curves", store)
    first, second = series(picture)["gaussian"].seeds
    assert first.steps.x.tolist() == [0.0, radii[900], radii[N]]
    assert first.steps.y.tolist() == [75.0, 50.0, 0.0]
    assert second.steps.y.tolist() == [75.0, 50.0, 25.0, 0.0]
    assert first.acr == pytest.approx((2 * radii[N] + radii[900]) / 4, abs=1e-12)
    assert picture.name == "curves-mnist-quick"
    assert "2 seeds (0, 1)" in picture.headline
    for part in ("n0 = 10, n = 1,000, alpha = 0.001", "4 of 10,000 test images (first:4), sampling seed 0. Certified accuracy", "Band: ±"):
        assert part in picture.notes[0], part
    assert "Columns" not in picture.notes[0]
    strict, loose = (only("curves", store, alpha=alpha).panels[0.5][0].seeds[0].steps.x[-1] for alpha in (0.001, 0.1))
    assert (strict, loose) == (radii[N], certified_radius(N, N, 0.1, 0.5))
    with pytest.raises(BenchError, match="alpha"):
        only("curves", store, alpha=0.7)


def test_the_curve_of_a_training(store: Store) -> None:
    for seed in (0, 1):
        add(store, run_spec(seed=seed), counts=None)  # trained is enough
    curve(store)
    picture = only("training", store)
    terms = series(picture)["gaussian"].seeds[1].terms
    assert list(terms) == ["loss", "cross_entropy", "mix"]
    assert terms["loss"].y.tolist() == [2.0, 1.5, 0.75]
    assert np.isnan(terms["mix"].y[0])
    assert terms["mix"].y[1:].tolist() == [0.5, 0.25]
    assert plots.render(picture, ".svg")


def test_a_training_that_was_certified_twice_is_drawn_once(store: Store) -> None:
    for certify in (CERTIFY, CertifySpec(n0=10, n=N, images="first:3")):
        add(store, run_spec(), certify=certify)
    curve(store)
    assert len(only("training", store).panels[0.5]) == 1
    assert sorted(choices("curves", store)) == ["--where certify.images=first:3", "--where certify.images=first:4"]


@pytest.mark.parametrize(
    "text", ["", "epoch,step,lr,loss\n0,1,0.1,abc\n", "epoch,step,lr,x\n0,1,0.1,1\n", CURVE + CURVE, "\0", "epoch,loss\n0,nan\n"]
)
def test_a_damaged_curve_is_named(store: Store, text: str) -> None:
    add(store, run_spec())
    curve(store, text)
    with pytest.raises(BenchError, match=r"curve\.csv"):
        only("training", store)
    next(store.runs()).curve.unlink()
    with pytest.raises(BenchError, match=r"curve\.csv: cannot be read: No such file"):
        only("training", store)


# ---- what is left out, and what never mixes


@pytest.mark.parametrize("kind", ["curves", "envelope", "pa", "tradeoff", "training"])
def test_unfinished_rows_are_left_out_and_named(store: Store, kind: plots.Kind) -> None:
    """A training is finished without its certificates; nothing is where a seed is missing that another row has."""
    for seed in (0, 1):
        add(store, run_spec(seed=seed))
        add(store, run_spec("macer", seed=seed), (N, N))
    add(store, run_spec("smoothadv"))
    add(store, run_spec("stability"), None, state="diverged")
    write_json(add(store, run_spec("mine")).path / "training.json", {"state": "odd"})
    curve(store)
    picture = only(kind, store)
    training = kind == "training"
    assert list(series(picture)) == ["gaussian", *["macer"] * training]
    told = ("0/2 trained, 1 diverged, 1 missing", "1/2 trained, 1 missing") if training else ("0/2 seeds, 1 diverged", "1/2 seeds")
    for row, state in zip(("stability", "smoothadv"), told, strict=True):
        assert any(f"{row} at sigma 0.5 ({state})" in note for note in picture.notes)
    assert any("state 'odd'" in note for note in picture.notes) or training
    assert any("mine at sigma 0.5 (" in note and "1 damaged" in note for note in picture.notes)
    with pytest.raises(BenchError, match=r"no row is finished: stability at sigma 0\.5 \("):
        only(kind, store, Filters(methods=["stability"]))


def test_groups_are_never_mixed(store: Store) -> None:
    add(store, run_spec())
    add(store, run_spec(protocol="smoke"))
    curve(store)
    assert choices("curves", store) == choices("training", store) == ["--where protocol=quick", "--where protocol=smoke"]
    assert only("curves", store, Filters(protocols=["smoke"])).name == "curves-mnist-smoke"


# ---- files

MAGIC = {".svg": b"<?xml", ".pdf": b"%PDF", ".png": b"\x89PNG"}


def full(store: Store) -> None:
    for row in ("gaussian", "macer", "smoothmix.eta5", "mine"):
        for sigma in (0.25, 1.0):
            for seed in (0, 1):
                add(store, run_spec(row, seed=seed, sigma=sigma), (N, 990 - len(row) * seed, 900, 0))
    curve(store)


@pytest.mark.parametrize("kind", ["curves", "envelope", "pa", "tradeoff", "training"])
def test_every_format_is_written_and_repeats_in_every_byte(store: Store, kind: plots.Kind) -> None:
    full(store)
    picture = only(kind, store)
    for suffix, magic in MAGIC.items():
        data = plots.render(picture, suffix)
        assert data.startswith(magic)
        assert len(data) > 5000
        assert data == plots.render(picture, suffix)
    text = plots.render(picture, ".svg").decode()
    assert "<dc:date>" not in text
    assert "<text" not in text  # glyphs are paths: nothing depends on the fonts of the reader
    with pytest.raises(BenchError, match=r"\.svg, \.pdf, \.png, not '\.jpg'"):
        plots.render(picture, ".jpg")


def test_pyplot_is_never_loaded() -> None:
    import subprocess

    code = (
        "import sys; from leaderboard import plots; assert 'matplotlib' not in sys.modules\n"
        "from leaderboard.plots.picture import Seed, Series, Steps\n"
        "import numpy as np\n"
        "s = Seed(acr=1.0, steps=Steps(np.array([0.0, 1.0]), np.array([50.0, 0.0])))\n"
        "p = plots.Picture(kind='curves', name='x', headline='h', notes=('n',), baseline='b', panels={0.5: (Series('a', (s,)),)})\n"
        "assert plots.render(p, '.png')\n"
        "sys.exit(bool({'torch', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "DISPLAY"}
    root = Path(__file__).resolve().parent.parent
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=root, env=environment, timeout=60, check=False).returncode == 0


HOSTILE = ("_x", "a$b$c", "a\\frac{", "<b>&amp;--></b>", "$\\undefined{$", "%s {0}", "\x1b[31m", "漢字 \U0001f600", "x" * 300)


@pytest.mark.parametrize("kind", ["curves", "envelope", "pa", "tradeoff", "training"])
def test_names_with_markup_are_harmless(kind: plots.Kind) -> None:
    steps = Steps(np.array([0.0, 1.0]), np.array([50.0, 0.0]))

    def terms(name: str) -> Mapping[str, Steps]:
        return {"loss": steps, name[:40]: steps}

    rows = tuple(Series(name, (Seed(acr=1.0, steps=steps, terms=terms(name)),)) for name in HOSTILE)
    picture = plots.Picture(kind=kind, name="x", headline=" ".join(HOSTILE), notes=HOSTILE, baseline="<b>", panels={0.5: rows})
    for suffix in MAGIC:
        data = plots.render(picture, suffix)
        if suffix == ".svg":
            ElementTree.fromstring(data)


def test_every_row_of_the_paper_looks_different_without_colour() -> None:
    from leaderboard import layouts

    rows = [*layouts.load(4).rows, "mine", "yours"]
    found = styles(rows, "gaussian")
    looks = {(str(style.dash), style.marker) for style in found.values()}
    assert len(looks) == len(rows)
    assert found["gaussian"].color == "#7f7f7f"
    assert styles(["macer", "mine"], "gaussian")["macer"] == found["macer"]  # whatever stands beside it


# ---- imported logs


@needs_golden
def test_imported_logs_have_bands_and_say_that_they_are_rounded(tmp_path: Path, bench: Callable[..., Result]) -> None:
    import_logs(Path(str(GOLDEN)) / "smoothmix-logs", tmp_path / "runs", strict=True)
    store = Store(tmp_path / "runs")
    picture = only("curves", store, Filters(sigmas=[0.5]))
    assert {label: len(one.seeds) for label, one in series(picture).items()} == {"gaussian": 5, "smoothmix.eta5-onestep": 5}
    band = over_seeds([seed.steps for seed in series(picture)["gaussian"].seeds])
    assert band.std is not None
    assert f"{band.mean[0]:.2f} ± {band.std[0]:.2f}" == "99.15 ± 0.03"  # Table 4 of the paper
    assert "rounded as printed" in picture.notes[0]
    acr = [seed.acr for seed in series(only("tradeoff", store))["gaussian"].seeds]
    assert f"{np.mean(acr):.4f} ± {np.std(acr, ddof=1):.4f}" == "1.5581 ± 0.0016"  # Table 5
    for words, told in (
        (("--alpha", "0.01"), "cannot change that"),
        (("--seeds", "5"), "no protocol, recipe or seeds"),
        (("--method", "gaussain"), "did you mean 'gaussian'"),
        (("--sigma", "0.3"), "no imported log has sigma 0.3"),
        (("--dataset", "cifar10"), "no imported log has data set cifar10"),
        (("--from", "runs"), "there are no runs"),
    ):
        refused = bench("plot", "curves", "--results", store.root, "--out", tmp_path / "a.svg", *words)
        assert refused.exit_code == 2, words
        assert told in refused.output
    next((store.root / "imported").glob("*/gaussian/0.5-*/spec.json")).unlink()
    picture = only("curves", store, Filters(sigmas=[0.5]))
    assert any("gaussian at sigma 0.5 (4/5 runs)" in note for note in picture.notes)
    add(store, run_spec())
    with pytest.raises(BenchError, match="--from imported or --from runs"):
        only("curves", store)
    assert only("curves", store, source="runs").name == "curves-mnist-quick"


# ---- the command


def test_the_command(store: Store, bench: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full(store)
    monkeypatch.chdir(tmp_path)
    for kind in ("curves", "envelope", "pa", "tradeoff", "training"):
        result = bench("plot", kind, "--results", store.root, "--sigma", "1", "--method", "ma*")
        assert result.exit_code == 0, result.output
        assert f"wrote {kind}-mnist-quick.svg" in result.output
        assert (tmp_path / f"{kind}-mnist-quick.svg").stat().st_size > 5000
    assert bench("plot", "curves", "--results", store.root, "--out", tmp_path / "A.PNG").exit_code == 0


def test_what_the_command_refuses(store: Store, bench: Callable[..., Result], tmp_path: Path) -> None:
    add(store, run_spec())
    (tmp_path / "file").write_text("")
    for words, told in (
        (("curve",), "did you mean 'curves'"),
        (("curves", "--out", tmp_path / "a.jpg"), ".svg, .pdf, .png"),
        (("curves", "--out", tmp_path / "a"), ".svg, .pdf, .png"),
        (("curves", "--out", tmp_path), "is a folder"),
        (("curves", "--out", tmp_path / "no" / "a.svg"), "there is no folder"),
        (("curves", "--out", tmp_path / "file" / "a.svg"), "there is no folder"),
        (("curves", "--out", "x" * 300 + ".svg"), "name too long"),
        (("curves", "--alpha", "0.6"), "between 0 and 0.5"),
        (("curves", "--from", "logs"), "--from logs is unknown"),
        (("training", "--from", "imported"), "no training curves"),
        (("curves", "--from", "imported"), "no imported logs"),
        (("curves", "--method", "gausian"), "did you mean 'gaussian'"),
        (("curves", "--results", tmp_path / "none"), "no such folder"),
    ):
        rest = () if "--results" in words else ("--results", store.root)
        out = () if "--out" in words else ("--out", tmp_path / "out.svg")
        result = bench("plot", *words, *rest, *out)
        assert result.exit_code == 2, (words, result.output)
        assert isinstance(result.exception, SystemExit)
        assert told.lower() in result.output.lower(), (words, result.output)
    assert not (tmp_path / "out.svg").exists()
