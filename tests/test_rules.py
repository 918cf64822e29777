"""Rules: what each has to hold, and that a new one is one file."""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_store import CERTIFY, N, add, certificate, new_store, run_spec, write_evidence
from numpy.typing import NDArray
from scipy.special import ndtr
from typer.testing import Result

from bench import rules
from bench.errors import BenchError
from bench.evidence.certificate import to_line
from bench.evidence.columns import Columns
from bench.rules import known
from bench.rules.bounds import certified_radius
from bench.rules.rule import Counts, Rule
from bench.spec import CertifySpec
from bench.store.runs import Run, Store
from bench.verify import verify
from leaderboard.aggregate import collect
from leaderboard.compare import compare
from leaderboard.metrics import average_certified_radius, certified_accuracy, outcomes
from leaderboard.tables import render
from leaderboard.tables.marks import mark_ties

Call = Callable[..., Result]
ROOT = Path(__file__).resolve().parent.parent
NAMES = rules.names()
STORED = [name for name in NAMES if rules.named(name).stored_as == name]


def spec_of(name: str, **fields: Any) -> CertifySpec:
    values: dict[str, Any] = {"n0": 10, "n": 10_000, "rule": rules.named(name).stored_as, "radii": "0,0.3,0.5"} | fields
    return CertifySpec(**values)


def rule_of(name: str, **fields: Any) -> Rule:
    return rules.of(spec_of(name, **fields), name)


def one_line(result: Result) -> str:
    return " ".join(result.output.split())


# ---- every rule


def test_rules_are_found_by_their_folder() -> None:
    files = {path.stem.replace("_", "-") for path in (ROOT / "bench" / "rules" / "known").glob("[!_]*.py")}
    assert set(NAMES) == files == set(rules.summaries())
    assert NAMES[0] == rules.DEFAULT
    assert all(summary.endswith(".") for summary in rules.summaries().values())
    assert [rules.named(name).name for name in NAMES] == list(NAMES)
    for wrong in ("clopper", "../spec", "os", ""):
        with pytest.raises(ValueError, match="rule="):
            rules.named(wrong)
        with pytest.raises(ValueError, match="rule="):
            CertifySpec(n0=1, n=1, rule=wrong)


def test_a_spec_names_a_rule_without_numpy() -> None:
    code = "import sys, bench.spec; bench.spec.CertifySpec(n0=1, n=1); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False).returncode == 0


def every_count(n: int) -> Counts:
    counts = np.arange(n + 1)
    return Counts(counts, np.full(n + 1, n), n - counts)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 10, 1000])
def test_arrays_are_read_as_single_counts_are(name: str, n: int) -> None:
    rule, counts = rule_of(name, n=n), every_count(n)
    radii = rule.radii(counts, 0.001, 0.5)
    for k in {0, n // 2, n - n // 20, n}:
        row = certificate(0, 3, k, n=n)
        assert row.radius(0.001, 0.5, rule) == (None if np.isnan(radii[k]) else radii[k])
        assert Columns.of([row]).runner_up.tolist() == [row.runner_up] == [n - k]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sigma", [0.25, 1.0])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_radii_grow_with_the_count_up_to_the_largest(name: str, sigma: float, alpha: float) -> None:
    rule = rule_of(name, n=1000, stop_alpha=alpha)
    radii = np.nan_to_num(rule.radii(every_count(1000), alpha, sigma), nan=-1.0)
    assert (np.diff(radii) >= 0).all()
    assert (radii[:501] == -1).all(), "no majority, no certificate"
    assert rule.largest_radius(alpha, sigma) == radii[-1] > 0
    assert rule_of(name, n=1, stop_alpha=alpha).largest_radius(alpha, sigma) == 0
    for wrong_alpha, wrong_sigma in ((0.0, sigma), (0.5, sigma), (alpha, 0.0), (alpha, float("nan"))):
        with pytest.raises(ValueError, match=r"alpha|sigma"):
            rule.radii(every_count(10), wrong_alpha, wrong_sigma)


def simulated(rule: Rule, p: float, sigma: float, *, block: int, images: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts and samples drawn of many images whose class has probability p, with the looks and ends of the sampler."""
    rng, stop, n = np.random.default_rng(0), rule.stop(sigma), rule.spec.n
    enough = functools.cache(stop.enough) if stop else None  # images often meet the same counts
    found = []
    for _ in range(images):
        count = drawn = 0
        for look in [n] if stop is None else stop.looks(n, block):
            if drawn and enough and enough(count, drawn):
                break
            count, drawn = count + int(rng.binomial(look - drawn, p)), look
        found.append((count, drawn))
    counts, ends = np.array(found).T
    return counts, ends


@pytest.mark.parametrize("name", NAMES)
def test_no_more_than_alpha_of_the_certificates_are_false(name: str) -> None:
    """2,000 images with a true radius of 0.3 at alpha 0.05, two classes: 133 is 5 % plus 3.4 deviations. The end is the sampler's."""
    sigma, true, rule = 0.5, 0.3, rule_of(name, n=1000, stop_alpha=0.05)
    count, drawn = simulated(rule, float(ndtr(true / sigma)), sigma, block=5, images=2000)
    radii = rule.radii(Counts(count, drawn, drawn - count), 0.05, sigma)
    assert np.count_nonzero(radii > 0) > 0
    assert np.count_nonzero(radii > true) <= 133
    early = drawn < 1000
    assert rule.may_stop(Counts(count[early], drawn[early], (drawn - count)[early])).all(), "what it gives is what is accepted"
    assert rule.stops or not early.any()


@pytest.mark.parametrize("name", STORED)
def test_looks_ascend_to_n_and_do_not_depend_on_the_passes(name: str) -> None:
    if stop := rule_of(name).stop(0.5):
        for n, block in ((10_000, 500), (499, 500), (5_000, 500), (12_345, 100)):
            looks = list(stop.looks(n, block))
            assert looks == sorted(set(looks))
            assert looks[-1] == n
            assert all(look % block == 0 for look in looks[:-1])


@pytest.mark.parametrize(("n", "fixed", "sequence"), [(10_000, 1.5993, 1.5169), (100_000, 1.9057, 1.8238)])
def test_largest_radii_are_those_of_the_rule(n: int, fixed: float, sequence: float) -> None:
    for name, radius in (("clopper-pearson", fixed), ("curtailed", fixed), ("confidence-sequence", sequence)):
        assert rule_of(name, n=n).largest_radius(0.001, 0.5) == pytest.approx(radius, abs=5e-5)


def test_the_default_rule_is_that_of_the_bounds_module_in_every_bit() -> None:
    radii = rule_of(rules.DEFAULT).radii(every_count(1000), 0.001, 0.25)
    assert [None if np.isnan(r) else r for r in radii.tolist()] == [certified_radius(k, 1000, 0.001, 0.25) for k in range(1001)]


# ---- what is printed names its rule


def two_ways(tmp_path: Path, other: CertifySpec, counts: tuple[int, ...] = (N, N, 990, 0)) -> Store:
    """Rows gaussian and macer, each certified as usual and in another way."""
    store = new_store(tmp_path)
    for method, own in (("gaussian", counts), ("macer", (N, N, N, 0))):
        run = add(store, run_spec(method), own)
        write_evidence(run.certification(other), own)
    return store


def test_a_certification_that_cannot_be_read_at_alpha_hides_nothing_else(bench: Call, tmp_path: Path) -> None:
    other = dataclasses.replace(CERTIFY, rule="curtailed", stop_alpha=1e-4)
    store = two_ways(tmp_path, other)
    groups = collect(store)
    assert [group.conditions["certify.rule"] for group in groups] == ["clopper-pearson"]
    assert any(other.key in note and "--alpha 0.0001" in note for note in groups[0].notes), groups[0].notes
    assert len(collect(store, alpha=1e-4)) == 2
    run = next(store.runs())
    for words in (("table",), ("show", run.spec.key), ("plot", "curves", "--out", tmp_path / "x.svg"), ("compare", "gaussian", "macer")):
        result = bench(*words, "--results", store.root)
        assert result.exit_code == 0, result.output
    shown = json.loads(bench("show", run.spec.key, "--results", store.root, "--json").stdout)["certifications"]
    assert {item["spec"].get("rule"): item["alpha"] for item in shown} == {"clopper-pearson": 0.001, "curtailed": 1e-4}
    for item in shown:
        o = outcomes(run.certification(other).columns(), item["alpha"], run.spec.sigma)
        assert item[f"acr (alpha {item['alpha']})"] == average_certified_radius(o)

    for name in ("macer", "gaussian"):  # nothing else is left to show
        folder = store.run(run_spec(name)).certification(CERTIFY).path
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    result = bench("table", "--results", store.root)
    assert (result.exit_code, "--alpha 0.0001" in result.output) == (2, True), result.output


def test_an_acr_that_is_nearly_blind_is_not_ranked(bench: Call, tmp_path: Path) -> None:
    store = two_ways(tmp_path, dataclasses.replace(CERTIFY, rule="confidence-sequence"))
    usual, blind = sorted(
        collect(store, metrics=("ACR", "quantiles", "classes", "accuracy")), key=lambda g: g.rule is not rules.named("clopper-pearson")
    )
    assert blind.rule is rules.named("confidence-sequence")
    note = blind.rule.acr_note
    assert note in blind.notes
    assert note not in usual.notes
    assert "ACR" in note
    shown = {
        name: json.loads(render([group], "json", marks="paper"))["groups"][0]["sections"][0]["rows"]
        for name, group in (("usual", usual), ("blind", blind))
    }
    assert ["ACR" in row["best"] for row in shown["usual"]] == [False, True]
    for row in shown["blind"]:
        assert "ACR" in row["metrics"]
        marked = {*row["best"], *row["improves"]}
        assert not {name for name in marked if name.startswith(("ACR", "radius"))}, marked
        assert not row["tied"]
    assert not any(row.tied for section in mark_ties(blind).sections for row in section.rows)
    assert "not tested (ACRs are not compared under confidence-sequence)" in mark_ties(blind).ties
    assert "not tested (4 images" in mark_ties(usual).ties
    with pytest.raises(BenchError, match="confidence-sequence"):
        compare(store, "gaussian", "macer", rule="confidence-sequence")
    assert bench("table", "--marks", "test", "--results", store.root).exit_code == 0
    # One group, chosen by its rule.
    assert [group.rule for group in collect(store, rule="confidence-sequence")] == [blind.rule]
    result = bench("plot", "tradeoff", "--rule", "confidence-sequence", "--out", tmp_path / "x.svg", "--results", store.root)
    assert (result.exit_code, note in one_line(result)) == (0, True), result.output
    assert bench("table", "--rule", "clopper", "--results", store.root).exit_code == 2


def test_the_acr_of_a_sequence_is_not_monotone() -> None:
    """Why it is not ranked: sure images have a smaller radius than those of probability 0.9999, which end later, in the mean."""
    rule, means = rule_of("confidence-sequence", n=100_000), {}
    for p in (0.9999, 1.0):
        means[p] = float(rule.radii(Counts(*simulated(rule, p, 0.25, block=500, images=400)), 0.001, 0.25).mean())
    assert means[1.0] == pytest.approx(0.7584, abs=5e-5)
    assert means[0.9999] == pytest.approx(0.7615, abs=0.0015)
    assert means[0.9999] > means[1.0]


def test_every_table_says_how_many_samples_were_drawn(tmp_path: Path) -> None:
    other = dataclasses.replace(CERTIFY, rule="confidence-sequence")
    store = new_store(tmp_path)
    certification = add(store, run_spec(), None).certification(other)
    certification.begin(str(certification.binding().weights_sha256))
    rows = [certificate(index, label, n, n) for index, (label, n) in enumerate(zip((7, 2, 1, 0), (500, 500, 500, 1000), strict=True))]
    certification.evidence.write_text("".join(map(to_line, rows)))
    (group,) = collect(store)
    assert group.drawn == 625
    for format in ("terminal", "markdown", "latex"):
        text = " ".join(render([group], format).split())
        assert re.search(r"n = 1,000 at most, 625 drawn per image", text), text
        assert "confidence-sequence bound" in text
    assert json.loads(render([group], "json"))["groups"][0]["sections"][0]["rows"][0]["drawn"] == 625


def test_a_table_of_the_paper_and_a_mixture_say_so_too(bench: Call, tmp_path: Path) -> None:
    store = two_ways(tmp_path, dataclasses.replace(CERTIFY, rule="confidence-sequence"))
    result = bench("table", "--table", "4", "--protocol", "quick", "--results", store.root)
    assert (result.exit_code, "under confidence-sequence" in one_line(result)) == (0, True), result.output
    (group,) = collect(store, mix=True)
    notes = [note for row in group.sections[0].rows for note in row.notes]
    assert group.rule is None
    assert any("bound = confidence-sequence" in note and rules.named("confidence-sequence").acr_note in note for note in notes), notes
    result = bench("compare", "gaussian", "macer", "--results", store.root)
    for rule, code in (("clopper-pearson", 0), ("confidence-sequence", 2)):
        choice = f"--where certify.rule={rule}"
        assert (result.exit_code, choice in one_line(result)) == (2, True), result.output
        assert bench("compare", "gaussian", "macer", "--results", store.root, *choice.split()).exit_code == code
    assert bench("compare", "gaussian", "macer", "--rule", "clopper-pearson", "--results", store.root).exit_code == 0


@pytest.mark.parametrize("name", [name for name in STORED if rules.named(name).recomputed])
def test_verification_sees_a_rule_that_reads_too_much(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store(tmp_path)
    run = add(store, run_spec(), (N, N, 990, 600), certify=dataclasses.replace(CERTIFY, rule=name))
    evidence = next(run.certifications()).evidence

    def faults() -> list[int | None]:
        return [failure.line for failure in verify(store.root).failures if failure.file == evidence]

    assert not faults()
    cls = rules.named(name)
    bounds, radii = cls.bounds, cls.radii
    with monkeypatch.context() as planted:
        planted.setattr(cls, "bounds", lambda self, counts, alpha: bounds(self, counts, 2 * alpha))
        assert set(faults()) == {1, 3, 4}
    with monkeypatch.context() as planted:
        planted.setattr(cls, "radii", lambda self, counts, alpha, sigma: radii(self, counts, alpha, sigma).round(2))
        assert set(faults()) == {1, 3, 4}


# ---- a rule of one's own is one file

SAMPLES = '''"""Certifies the radii 0, 0.1 and 0.2, and stops once it does.

A union bound over the looks, which come after every block.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bench.rules.bounds import certified_radii, lower_confidence_bounds
from bench.rules.rule import Counts, Floats, Rule, Stopping


class EveryBlock(Stopping):
    def looks(self, n: int, block: int) -> Iterable[int]:
        return (*range(block, n, block), n)


class ThreeRadii(Rule):
    stops = True
    acr = "none"
    acr_note = "Only three radii are certified, so no ACR can be read."

    def stop(self, sigma: float) -> Stopping:
        def enough(count: int, drawn: int) -> bool:
            counts = Counts(np.array([count]), np.array([drawn]))
            return bool(self.radii(counts, self.spec.stop_alpha, sigma)[0] > 0.2)

        return EveryBlock(enough)

    def may_stop(self, counts: Counts) -> np.ndarray:
        return counts.n % 500 == 0

    def bounds(self, counts: Counts, alpha: float) -> Floats:
        return lower_confidence_bounds(counts.count, counts.n, alpha / -(-self.spec.n // 500))

    def radii(self, counts: Counts, alpha: float, sigma: float) -> Floats:
        found = certified_radii(self.bounds(counts, alpha), sigma)
        return np.nextafter(np.where(found > 0, np.minimum(np.floor(found * 10) / 10, 0.2), found), 1)


RULE = ThreeRadii
'''

READS = '''"""Counts of a fixed n; abstains where the runner-up has a tenth of them."""

from __future__ import annotations

import numpy as np

from bench.rules.known.clopper_pearson import ClopperPearson
from bench.rules.rule import Counts, Floats


class Careful(ClopperPearson):
    stored_as = "clopper-pearson"

    def refusal(self, alpha: float) -> str:
        return "the runner-up of a wrong class was not counted" if self.spec.skip_misclassified else ""

    def radii(self, counts: Counts, alpha: float, sigma: float) -> Floats:
        assert counts.runner_up is not None
        return np.where(10 * counts.runner_up >= counts.n, np.nan, super().radii(counts, alpha, sigma))


RULE = Careful
'''


@pytest.fixture
def own_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two files in the folder of rules, and nothing else."""
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "three_radii.py").write_text(SAMPLES)
    (folder / "careful.py").write_text(READS)
    monkeypatch.setattr(known, "__path__", [*known.__path__, str(folder)])
    rules.named.cache_clear()
    yield
    rules.named.cache_clear()
    for name in ("three_radii", "careful"):
        sys.modules.pop(f"{known.__name__}.{name}", None)


def only_run(store: Store) -> Run:
    (run,) = store.runs()
    return run


def test_a_rule_that_samples_is_one_file(own_rules: None, bench: Call, tiny: Call, tmp_path: Path) -> None:
    assert tiny("--method", "gaussian", "--sigma", "0.5").exit_code == 0
    store = Store(tmp_path / "runs")
    run, where = only_run(store), ("--results", tmp_path / "runs")
    words = ("certify", run.path, "--rule", "three-radii", "--n", "2000", "--n0", "20", "--images", "first=5", "--device", "cpu", *where)
    assert rules.summaries()["three-radii"] == "Certifies the radii 0, 0.1 and 0.2, and stops once it does."
    result = bench(*words)
    assert result.exit_code == 0, result.output
    assert "three-radii bound" in one_line(result)
    assert "no ACR" in one_line(result)
    assert "largest possible radius 0.2000" in one_line(result)
    data = json.loads(bench(*words, "--json").stdout)
    certification = next(c for c in run.certifications() if c.spec.rule == "three-radii")
    rows = certification.rows()
    assert (data["rule"], data["ACR"], data["drawn"]) == ("three-radii", None, sum(row.n for row in rows) / 5)
    assert any(row.n < 2000 for row in rows), "its looks come before those of other rules"
    assert {row.n % 500 for row in rows} == {0}

    verified = json.loads(bench("verify", store.root, "--json").stdout)
    assert not verified["failures"]
    assert any("three-radii" in reason for reason in verified["unchecked"])
    table = json.loads(bench("table", *where, "--metric", "all", "--format", "json").stdout)["groups"]
    (row,) = next(g["sections"][0]["rows"] for g in table if g["conditions"]["certify.rule"] == "three-radii")
    assert row["state"] == "done"
    assert not {name for name in row["metrics"] if name.startswith(("ACR", "radius", "pA", "t-int"))}
    accuracy = certified_accuracy(outcomes(certification.columns(), 0.001, 0.5, certification.spec), 0.0)
    assert row["metrics"]["0.00"]["mean"] == 100 * accuracy
    text = one_line(bench("table", *where))
    assert "three-radii bound" in text
    assert "Only three radii are certified, so no ACR can be read." in text
    assert "three-radii" in one_line(bench("show", run.spec.key, *where))
    picture = ("--rule", "three-radii", "--out", tmp_path / "x.svg", *where)
    assert [bench("plot", kind, *picture).exit_code for kind in ("curves", "tradeoff")] == [0, 2]
    certification_of = ("--certification", certification.spec.key)
    attack = bench("attack", run.path, "--eps", "0.1", "--steps", "1", "--n", "20", "--device", "cpu", "--json", *certification_of, *where)
    assert attack.exit_code == 0, attack.output
    attacked = json.loads(attack.stdout)
    assert (attacked["attack"]["rule"], attacked["drawn"]) == ("three-radii", data["drawn"])
    assert {item["radius"] for item in attacked["images"]} <= {None, *np.nextafter([0.0, 0.1, 0.2], 1).tolist()}
    assert bench("export", run.path, "--out", tmp_path / "x.tsv", *certification_of, *where).exit_code == 2
    assert bench("compare", "gaussian", "macer", *where).exit_code == 2
    assert bench("status", *where).exit_code in (0, 1)


def test_a_way_to_read_is_one_file(own_rules: None, bench: Call, tmp_path: Path) -> None:
    store = new_store(tmp_path)
    run = add(store, run_spec(), (N, N, 899, 600))
    write_evidence(run.certification(dataclasses.replace(CERTIFY, skip_misclassified=True)), (N, N, N, N))
    (group,) = collect(store, rule="careful", metrics=("abstention",))
    assert group.sections[0].rows[0].stats["abstention"].mean == 50
    assert any("was not counted" in note for note in group.notes)
    assert {
        g.sections[0].rows[0].stats["abstention"].mean for g in collect(store, metrics=("abstention",)) if g.sections[0].rows[0].stats
    } == {0}
    text = one_line(bench("table", "--rule", "careful", "--results", store.root))
    assert "careful bound" in text
    with pytest.raises(ValueError, match="rule=careful"):
        CertifySpec(n0=1, n=1, rule="careful")
    with pytest.raises(BenchError, match="curtailed"):
        rules.of(CertifySpec(n0=1, n=1, rule="curtailed"), "careful")


def test_certify_stores_a_way_to_read_under_the_key_of_its_counts(own_rules: None, bench: Call, tiny: Call, tmp_path: Path) -> None:
    assert tiny("--method", "gaussian", "--sigma", "0.5").exit_code == 0
    run, sizes = only_run(Store(tmp_path / "runs")), ("--n", "300", "--n0", "20", "--images", "first=2", "--device", "cpu")
    words = ("certify", run.path, *sizes, "--json", "--results", tmp_path / "runs")
    usual, careful = (json.loads(bench(*words, *more).stdout) for more in ((), ("--rule", "careful")))
    assert usual["evidence"] == careful["evidence"]
    assert (usual["rule"], careful["rule"]) == (rules.DEFAULT, "careful")
    assert careful["ACR"] <= usual["ACR"]


# ---- no other code knows a rule's name

ORDINARY = {"two-sided"}
"""Names that are also words of statistics, so that prose may have them."""
CODE = [
    path
    for folder in ("bench", "leaderboard", "methods")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.relative_to(ROOT).parts[:2] != ("bench", "rules")
]


def rule_named(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Lines that name a rule: identifiers in any spelling, and strings but for documentation."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
    plain = {name.replace("-", ""): name for name in NAMES}
    for node in ast.walk(tree):
        words: list[str] = []
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            words = [name for name in NAMES if re.search(rf"\b{name}\b", node.value) and (name not in ORDINARY or name == node.value)]
        identifiers = [getattr(node, field, None) for field in ("id", "attr", "name", "asname", "arg", "module")]
        found = [part for word in identifiers if isinstance(word, str) for part in word.split(".")]
        words += [plain[bare] for word in found if (bare := word.replace("_", "").lower()) in plain]
        for word in words:
            yield getattr(node, "lineno", 0), word


def test_no_other_code_knows_a_rule_by_name() -> None:
    assert len(CODE) > 100
    assert not [(str(path), *found) for path in CODE for found in rule_named(ast.parse(path.read_bytes(), str(path)))]


@pytest.mark.parametrize(
    "source",
    ['f"{n}, rule confidence-sequence"', "class Curtailed: pass", "from bench.rules.known import clopper_pearson", "f(curtailed=1)"],
)
def test_the_search_for_names_of_rules_finds_them(source: str) -> None:
    assert list(rule_named(ast.parse(source)))
