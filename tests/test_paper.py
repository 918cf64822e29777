"""The paper's tables from imported logs and from our own runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from fake_logs import manifest, write_log
from fake_store import N, add, run_spec
from typer.testing import Result

from bench.datasets import DATASETS
from bench.errors import BenchError
from bench.logs import import_logs, load_manifest, printed_collection, runs_of_table
from bench.rules.bounds import certified_radius
from bench.spec import CertifySpec
from bench.store.runs import Store
from leaderboard import layouts, paper
from leaderboard.formats import FORMATS
from leaderboard.formats import render as formatted

GOLDEN = os.environ.get("CERTBENCH_GOLDEN")
needs_golden = pytest.mark.skipif(not GOLDEN, reason="CERTBENCH_GOLDEN names no folder of third-party logs")
ROWS = ("gaussian", "smoothmix.eta5-onestep")


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("golden")
    report = import_logs(Path(str(GOLDEN)) / "smoothmix-logs", root, strict=True)
    assert len(report.read) == 30
    return Store(root)


@needs_golden
@pytest.mark.parametrize(("number", "expected"), [(4, 36), (5, 6)])
def test_the_published_logs_give_the_published_digits(golden: Store, tmp_path: Path, number: int, expected: int) -> None:
    """Every mean and every deviation of the two rows whose logs are at hand, at all noise levels."""
    table = paper.build(number, golden, compat="3sig")
    filled = {place: entry for place, entry in table.entries.items() if entry.values}
    assert {row for _, row, _ in filled} == set(ROWS)
    assert len(filled) == expected
    for place, entry in filled.items():
        assert len(entry.values) == 5
        assert entry.text == entry.paper, place
        assert float(entry.difference) == 0
    assert all(entry.text == "missing" for place, entry in table.entries.items() if place not in filled)
    assert paper.unexplained(table) == ()
    assert [paper.marks(table, (s, ROWS[1], "ACR")) for s in ("0.25", "0.50", "1.00") if number == 5] == [(True, True)] * 3 * (number == 5)
    strict = paper.build(number, golden, compat="exact")
    assert paper.unexplained(strict) or number == 5
    # Rounded radii pile up at the grid: with > instead of >= the digits of the paper do not come out.
    assert any(e.values and e.text != e.paper for e in strict.entries.values()) == (number == 4)
    assert ("radius > r" in strict.caption) == (number == 4)
    assert any("rounded as printed" in note for note in strict.notes)
    shutil.copytree(golden.root, tmp_path / "copy")
    shutil.rmtree(next((tmp_path / "copy" / "imported").glob("*/gaussian*/0.25-919-*")))
    entries = paper.build(5, Store(tmp_path / "copy"), compat="3sig").entries
    assert entries["0.25", "gaussian", "ACR"].text == "4/5 runs"
    assert entries["0.50", "gaussian", "ACR"].text == "1.5581 ± 0.0016"


# What is known of the paper's own numbers, by table: (row, sigma, metric), what differs there.
KNOWN = {
    4: {("consistency", "1.00", "0.50", "mean"), ("consistency", "1.00", "2.00", "std")},
    5: {("consistency", sigma, "ACR", what) for sigma, what in (("0.50", "std"), ("1.00", "std"), ("0.25", "mean"), ("0.25", "std"))},
    6: {("gaussian", "1.00", "ACR", "mean"), ("smoothadv", "1.00", "0.50", "mean"), ("macer", "1.00", "ACR", "mean")},
    7: {("smoothadv", "0.50", "ACR", "mean"), ("gaussian", "1.00", "0.00", "mean"), ("consistency", "0.50", "1.00", "mean")},
    **{number: {("gaussian", "1.00", "ACR", "mean")} for number in (8, 9, 10, 11)},
}
STRICT = {
    4: {("consistency", "0.50", "0.50", "mean"), ("gaussian", "1.00", "0.50", "mean")},
    5: {("consistency", "0.50", "ACR", "mean"), ("gaussian", "0.25", "ACR", "mean"), ("stability", "0.25", "ACR", "std")},
    6: {("consistency", "1.00", "ACR", "mean"), ("smoothmix.eta5", "1.00", "ACR", "mean")},
    7: {("consistency", "0.50", "ACR", "mean"), ("smoothmix.eta5-onestep", "1.00", "ACR", "mean")},
    **{number: {("smoothmix.eta1", "1.00", "ACR", "mean")} for number in (8, 9, 10)},
}


@pytest.mark.parametrize("number", layouts.numbers())
def test_a_wrong_digit_is_excused_exactly_where_the_paper_is_known_to_differ(number: int) -> None:
    """Every printed value is taken as ours but for one digit; only the known places excuse it."""
    layout = layouts.load(number)

    def table(wrong: tuple[str, str, str], what: str) -> paper.PaperTable:
        entries = {}
        for p in layouts.values(number):
            place, mean = (p.sigma, p.row, p.metric), float(p.mean)
            spread = float(p.std or 0) / 2**0.5
            if place == wrong:
                mean, spread = (mean + 1, spread) if what == "mean" else (mean, spread + 1)
            values = (mean - spread, mean + spread) if p.std or spread else (mean,)
            entries[place] = paper.Entry(values=values, status="", printed=p)
        return paper.PaperTable(layout=layout, entries=entries, source="imported", compat="3sig", caption="", notes=())

    assert paper.unexplained(table(("", "", ""), "")) == ()
    for row, sigma, metric, what in KNOWN[number]:
        assert paper.unexplained(table((sigma, row, metric), what)) == (), (row, sigma, metric, what)
    for row, sigma, metric, what in STRICT.get(number, ()):
        (told,) = paper.unexplained(table((sigma, row, metric), what))
        assert told.startswith(f"{sigma} {row} {metric} {what}: ")
        assert told in formatted(paper.document(table((sigma, row, metric), what)), "markdown")


@pytest.mark.parametrize("number", layouts.numbers())
def test_every_table_prints_the_papers_numbers_without_any_run(number: int, bench: Callable[..., Result], tmp_path: Path) -> None:
    result = bench("table", "--table", str(number), "--against", "published", "--results", tmp_path / "none", "--format", "markdown")
    assert result.exit_code == 0, result.output
    assert "Nothing in the store fills this table" in result.output
    shown = [line for line in result.output.splitlines() if "| paper " in line]
    assert len(shown) == len(layouts.load(number).rows) * (
        1 if layouts.load(number).columns == "sigmas" else len(layouts.load(number).sigmas)
    )
    for value in layouts.values(number):
        assert value.mean in " ".join(shown)
    assert bench("table", "--table", str(number), "--results", tmp_path / "none").exit_code == 2


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def entry(store: Store, metric: str, **settings: object) -> paper.Entry:
    number = 5 if metric == "ACR" else 4
    table = paper.build(number, store, protocol="quick", **settings)  # type: ignore[arg-type]
    return table.entries["0.50", "gaussian", metric]


def test_our_runs_by_hand(store: Store) -> None:
    """Four images, one of them wrong (count 0 of its class): ACR and accuracy of each seed, mean and sample deviation."""
    counts = ((N, N, 900, 0), (N, 990, 900, 0))
    for seed, chosen in enumerate(counts):
        add(store, run_spec(seed=seed), chosen)
    radii = {count: certified_radius(count, N, 0.001, 0.5) or 0.0 for count in (N, 990, 900)}
    first, second = (2 * radii[N] + radii[900]) / 4, (radii[N] + radii[990] + radii[900]) / 4
    found = entry(store, "ACR")
    assert found.values == pytest.approx((first, second), abs=1e-12)
    assert found.mean == f"{(first + second) / 2:.4f}"
    assert found.std == f"{abs(first - second) / 2**0.5:.4f}"
    assert entry(store, "0.00").text == "75.00 ± 0.00"


def test_rounding_up_counts_only_when_asked(store: Store) -> None:
    """96,160 of 100,000 at sigma 1 is a radius of 1.74705, which three digits print as 1.75."""
    certify = CertifySpec(n0=10, n=100_000, images="first:4")
    assert certified_radius(96_160, 100_000, 0.001, 1.0) == pytest.approx(1.74705, abs=5e-6)
    add(store, run_spec(sigma=1.0), (96_160,) * 4, certify=certify)
    for compat, accuracy in (("exact", "0.0"), ("3sig", "100.0")):
        table = paper.build(8, store, protocol="quick", compat=compat)  # type: ignore[arg-type]
        assert [table.entries["1.00", "gaussian", r].mean for r in ("1.50", "1.75")] == ["100.0", accuracy]


def test_a_seed_that_another_row_has_is_a_gap(store: Store) -> None:
    """No mean over one seed beside means over two; a seed of a row that the table does not show is no gap."""
    for seed in (0, 1):
        add(store, run_spec("macer", seed=seed))
    for seed in (0, 1, 2):
        add(store, run_spec("mine", seed=seed))
    add(store, run_spec(seed=0))
    assert entry(store, "ACR").text == "1/2 seeds"
    assert entry(store, "ACR", seeds=(0,)).values == pytest.approx((1.2316,), abs=1e-4)
    add(store, run_spec(seed=1), (N, N))  # unfinished
    assert entry(store, "ACR").text == "1/2 seeds"
    assert paper.build(5, store, protocol="quick").entries["0.50", "macer", "ACR"].std == "0.0000"


def test_several_sources_of_a_method_and_damaged_runs_are_told(store: Store) -> None:
    add(store, run_spec(seed=0), environment={"method_sha256": "a" * 64})
    add(store, run_spec(seed=1), environment={"method_sha256": "b" * 64})
    damaged = add(store, run_spec(seed=2))
    (damaged.path / "spec.json").write_text("{")
    table = paper.build(5, store, protocol="quick")
    assert table.entries["0.50", "gaussian", "ACR"].text == "several versions"
    for format in FORMATS:
        text = " ".join(formatted(paper.document(table), format).split())
        assert "trained from aaaaaaaa, bbbbbbbb" in text, format
        assert "left out: " in text, format


def import_as(root: Path, folder: Path, collection: str, *logs: str, alpha: str = "0.001") -> None:
    """Logs of four or three images under the name of a collection."""
    for number, name in enumerate(logs):
        write_log(folder / collection / name, (0.7, 0.6, 0.5, 0.1 * (number + 1))[: 3 if "macer" in name else 4])
    own = manifest(*(f"{row}/noise_0.5_*" for row in ("gaussian", "macer")), collection=collection, alpha=alpha)
    import_logs(folder / collection, root, own, strict=True)


def test_what_is_fixed_in_logs_is_not_asked_for_in_vain(store: Store, tmp_path: Path) -> None:
    """The same run ids in another collection mean other trainings."""
    ids = runs_of_table(5, "gaussian", 0.5)
    import_as(tmp_path / "other", tmp_path, "mine", *(f"gaussian/noise_0.5_{run}" for run in ids if run.isdigit()))
    with pytest.raises(BenchError, match="neither imported logs of smoothmix-logs nor"):
        paper.build(5, Store(tmp_path / "other"))
    import_as(store.root, tmp_path, printed_collection(), *(f"gaussian/noise_0.5_{run}" for run in ids))
    table = paper.build(5, store)
    assert len(table.entries["0.50", "gaussian", "ACR"].values) == len(ids)
    assert not any("not comparable" in note for note in table.notes)
    with pytest.raises(BenchError, match=r"certified at alpha 0\.001, and --alpha 0.01 cannot change that"):
        paper.build(5, store, alpha=0.01)
    with pytest.raises(BenchError, match="holds nothing for table 5"):
        paper.build(5, store, protocol="quick")
    with pytest.raises(BenchError, match="imported logs have no protocol"):
        paper.build(5, store, source="imported", seeds=(0,))


def test_logs_of_other_images_get_a_footnote(store: Store, tmp_path: Path) -> None:
    for row in ("gaussian", "macer"):
        names = [f"{row}/noise_0.5_{run}" for run in runs_of_table(5, row, 0.5)]
        import_as(store.root, tmp_path, printed_collection(), *names)
    table = paper.build(5, store)
    (note,) = [note for note in table.notes if "not comparable" in note]
    assert "test images = first:" in note
    for format in FORMATS:
        assert "is not comparable with the rows around it" in formatted(paper.document(table), format), format


def test_other_test_images_than_the_papers_are_told_beside_its_numbers(store: Store) -> None:
    add(store, run_spec(protocol="full"))
    table = paper.build(5, store)
    assert table.apart.startswith("test images = first:4, n0 = 10, n = ")
    assert "other test images or samples" in formatted(paper.document(table, against=True), "terminal")
    assert "other test images or samples" not in formatted(paper.document(table), "terminal")


def test_imported_radii_are_rounded_when_that_is_asked_for(store: Store, tmp_path: Path) -> None:
    for number, run in enumerate(runs_of_table(4, "gaussian", 0.5)):
        write_log(log := tmp_path / printed_collection() / f"gaussian/noise_0.5_{run}", (0.7, 0.6, 0.25, 0.01 * (number + 1)))
        log.write_text(log.read_text().replace("0.25", "0.4996"))
    own = manifest("gaussian/noise_0.5_*", collection=printed_collection())
    import_logs(tmp_path / printed_collection(), store.root, own, strict=True)
    shares = [paper.build(4, store, compat=compat).entries["0.50", "gaussian", "0.50"].mean for compat in ("exact", "3sig")]
    assert shares == ["50.00", "75.00"]


def write_field_log(path: Path, labels: Sequence[int], radii: Sequence[float], every: int = 1) -> None:
    """A log of every so many images, whose predictions are right where the radius is above 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = zip(range(0, every * len(labels), every), labels, radii, strict=True)
    lines = [f"{index}\t{label}\t{label if r else -1}\t{r:.3g}\t{int(r > 0)}\t0:00:01" for index, label, r in rows]
    path.write_text("\n".join(["idx\tlabel\tpredict\tradius\tcorrect\ttime", *lines, ""]))


def listed() -> list[str]:
    """Paths of the collection on CIFAR-10: all that are listed at hand, or some, with networks and noise levels that no table has."""
    if GOLDEN:
        names = (Path(GOLDEN) / "LISTING.txt").read_text().split()
        return [name for name in names if name.startswith("cifar10/") and not name.endswith(("_acc", "_o"))]
    settings = ("densenet40/noise_0.50", "resnet20/noise_0.50", *(f"resnet110/noise_{sigma}" for sigma in ("0.25", "0.50", "1.00")))
    return [f"cifar10/consistency/cohen/num_2/lbd_10.0/eta_0.5/cifar_{words}" for words in settings]


def test_table_6_from_the_whole_collection(store: Store, tmp_path: Path) -> None:
    """Its one log is found among those of other networks and noise levels, whose run is called `only` as well."""
    own = "cifar10/consistency/cohen/num_2/lbd_10.0/eta_0.5/cifar_resnet110/noise_1.00"
    paths = listed()
    assert own in paths
    labels = [index % 10 for index in range(500)]
    for number, name in enumerate(paths):
        radii = [0.6] * 171 + [0.3] * 329 if name == own else [0.4] * (number + 1) + [0.0] * (499 - number)
        write_field_log(tmp_path / "logs" / name, labels, radii, every=20)
    report = import_logs(tmp_path / "logs", store.root, load_manifest(printed_collection()), strict=True)
    assert len(report.read) == len(paths)
    table = paper.build(6, store, compat="3sig")
    values = {metric: table.entries["1.00", "consistency", metric].mean for metric in layouts.load(6).metrics}
    assert values == {"ACR": "0.403", "0.00": "100.0", "0.25": "100.0", "0.50": "34.2", **dict.fromkeys(layouts.load(6).metrics[4:], "0.0")}
    assert {row for _, row, _ in (place for place, e in table.entries.items() if e.values)} == {"consistency"}


def test_two_logs_of_one_run_are_told(store: Store, tmp_path: Path) -> None:
    """Those of another network are of another run."""
    for arch, images in (("lenet", 4), ("other", 4), ("lenet", 3)):
        folder = tmp_path / f"{arch}{images}"
        write_log(folder / "gaussian/noise_0.5_393", (0.5, 0.4, 0.3, 0.2)[:images])
        import_logs(folder, store.root, manifest("gaussian/noise_0.5_*", collection=printed_collection(), arch=arch), strict=True)
        if arch == "other":
            assert paper.build(4, store).entries["0.50", "gaussian", "0.00"].text == "1/5 runs"
    with pytest.raises(BenchError, match="hold the same run of gaussian"):
        paper.build(4, store)


def test_ties_fall_as_those_of_the_paper(store: Store, tmp_path: Path) -> None:
    """Shares of 10,000 images that lie between two printed digits, where the order of two operations decides: mean(correct) * 100."""
    size, radii = 10_000, layouts.load(8).radii
    torn = [count for count in range(size) if f"{100 * count / size:.1f}" != f"{count / size * 100:.1f}"]
    counts = torn[:: -len(torn) // len(radii)][: len(radii)]
    assert len(counts) == len(radii)
    steps = [float(r) + 0.1 for r in radii]
    right = np.zeros(size)
    for count, radius in zip(counts, steps, strict=True):
        right[:count] = radius
    labels = DATASETS["mnist"].known_labels()
    assert labels is not None
    write_field_log(tmp_path / "logs/ablation/eta/smix_1.0_8_m0/tau_1.0/num_4/10/noise_1.0", labels, right.tolist())
    import_logs(tmp_path / "logs", store.root, strict=True)
    shares = [np.mean(right >= radius) for radius in steps]
    for compat, expected in (("3sig", [share * 100 for share in shares]), ("exact", [100 * count / size for count in counts])):
        entries = paper.build(8, store, compat=compat).entries  # type: ignore[arg-type]
        assert [entries["1.00", "smoothmix.eta1", r].mean for r in radii] == [f"{value:.1f}" for value in expected]


def test_the_rule_of_the_paper_is_named_where_it_is_not_used(store: Store, bench: Callable[..., Result]) -> None:
    add(store, run_spec())
    for number, compat, named in (("4", "exact", True), ("4", "3sig", False), ("5", "exact", False)):
        words = ("--protocol", "quick", "--against", "published", "--results", store.root, "--format", "markdown")
        result = bench("table", "--table", number, "--compat", compat, *words)
        assert ("--compat 3sig" in result.output) == named, result.output


def test_ways_that_do_not_mix(store: Store) -> None:
    with pytest.raises(BenchError, match="holds nothing for table 4"):
        paper.build(4, store)
    add(store, run_spec())
    with pytest.raises(BenchError, match="nothing for table 4: neither imported logs of smoothmix-logs nor runs of protocol full"):
        paper.build(4, store)
    add(store, run_spec("macer"), certify=CertifySpec(n0=10, n=N, images="first:3"))
    with pytest.raises(BenchError, match=r"certified in several ways.*--where certify.images=first:[34] or --where"):
        paper.build(4, store, protocol="quick")
    for images, row in (("first:4", "gaussian"), ("first:3", "macer")):
        table = paper.build(4, store, protocol="quick", where=[f"certify.images={images}"])
        assert {name for (_, name, _), entry in table.entries.items() if not entry.status} == {row}
    with pytest.raises(BenchError, match="leave out --where method=macer"):
        paper.build(4, store, protocol="quick", where=["method=macer"])
    with pytest.raises(BenchError, match="no published table 12"):
        paper.build(12, store)


def test_a_study_on_other_images_fills_a_table(store: Store) -> None:
    """Such as `--set certify.images=every:50`, which is no certification of the protocol's, and has to be asked for."""
    changed = CertifySpec(n0=100, n=10_000, images="first:3", changes={"images": "first:3"})
    add(store, run_spec(), certify=changed, counts=[10_000] * 3)
    with pytest.raises(BenchError, match=r"choose one by --where certify.images=first:3"):
        paper.build(4, store, protocol="quick")
    table = paper.build(4, store, protocol="quick", where=["certify.images=first:3"])
    assert "test images = first:3" in table.apart
    assert table.entries["0.50", "gaussian", "1.00"].mean == "100.00"


@pytest.mark.parametrize("number", layouts.numbers())
def test_every_layout_prints_in_every_format(store: Store, number: int) -> None:
    layout = layouts.load(number)
    if layout.dataset != "mnist":
        with pytest.raises(BenchError, match="holds nothing"):
            paper.build(number, store, protocol="quick")
        return
    for row in layout.rows:
        add(store, run_spec(row.partition("[")[0], sigma=float(layout.sigmas[-1]))) if "[" not in row else None
    table = paper.build(number, store, protocol="quick")
    for format in ("terminal", "markdown", "latex", "html", "csv"):
        text = formatted(paper.document(table, against=True), format)
        assert all(ord(c) < 128 for c in text) or format != "latex"
        assert "aussian" in text
    data = json.loads(formatted(paper.document(table), "json"))
    assert len(data["entries"]) == len(layouts.values(number))


def test_the_command(store: Store, bench: Callable[..., Result]) -> None:
    add(store, run_spec())
    result = bench("table", "--table", "4", "--protocol", "quick", "--against", "published", "--results", store.root)
    assert result.exit_code == 0, result.output
    for part in ("99.15 ± 0.03", "difference", "with our runs: mnist, protocol quick", "first:4", "missing"):
        assert part in result.output, part
    for words in (
        ("--table", "12"),
        ("--table", "4", "--sigma", "1"),
        ("--compat", "3sig"),
        ("--table", "4", "--from", "logs"),
        ("--against", "x"),
    ):
        refused = bench("table", "--results", store.root, *words)
        assert refused.exit_code == 2, words
        assert isinstance(refused.exception, SystemExit)


def test_bold_and_underlined_follow_the_rules_of_the_table(store: Store) -> None:
    """Only rows of the paper's own method are bold in Table 4, where they improve; the best of all is underlined."""
    add(store, run_spec("gaussian"), (N, N, 900, 0))
    add(store, run_spec("smoothadv"), (N, N, N, N))
    add(store, run_spec("smoothmix.eta1"), (N, N, N, 0))
    add(store, run_spec("smoothmix.eta5"), (900, 0, 0, 0))
    table = paper.build(5, store, protocol="quick")
    found = {row: paper.marks(table, ("0.50", row, "ACR")) for row in layouts.load(5).rows}
    assert found["gaussian"] == (False, False)
    assert found["smoothadv"] == (False, True)
    assert found["smoothmix.eta1"] == (True, False)
    assert found["smoothmix.eta5"] == (False, False)
    assert found["macer"] == (False, False)
    latex = formatted(paper.document(table), "latex")
    assert latex.count(r"\textbf{") == 1
    assert latex.count(r"\underline{") == 1
    assert latex.count("{") == latex.count("}")
    assert "<u>1.2316</u>" in formatted(paper.document(table), "markdown")
