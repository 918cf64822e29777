"""Stores with known evidence: what is averaged, what is not, and what may stand in one table."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_store import CERTIFY, N, add, new_store, run_spec, write_evidence
from typer.testing import Result

from bench.errors import BenchError, UsageError
from bench.files.writing import write_json
from bench.spec import PROTOCOLS, CertifySpec, select_images
from bench.store.runs import Store
from bench.store.subject import Source
from leaderboard.aggregate import Filters, Group, Row, collect
from leaderboard.frame import load_results, table
from leaderboard.metrics import DEFAULT
from leaderboard.tables import render

FULL = 0.5 * 2.463262615  # ACR at sigma 0.5 when every image is certified by 1000 of 1000 samples
HALF = (N, N, 500, 500)
SAME = dataclasses.asdict(run_spec().train)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path)


def rows(group: Group, sigma: float = 0.5) -> dict[str, Row]:
    return {row.label: row for section in group.sections if section.sigma == sigma for row in section.rows}


def only(store: Store, alpha: float | None = None, metrics: Sequence[str] = DEFAULT, **filters: Any) -> Group:
    (group,) = collect(store, Filters(**filters), alpha=alpha, metrics=metrics)
    return group


def test_mean_and_sample_deviation_over_seeds(store: Store) -> None:
    add(store, run_spec(seed=0))
    add(store, run_spec(seed=1), HALF)
    stats = rows(only(store, metrics=["ACR", "accuracy", "abstention"]))["gaussian"].stats
    assert stats["ACR"].mean == pytest.approx(0.75 * FULL, rel=1e-9)
    assert stats["ACR"].std == pytest.approx(0.5 * FULL / math.sqrt(2), rel=1e-9)
    assert (stats["0.00"].mean, stats["0.00"].std, stats["0.00"].n) == (75, 35.35533905932738, 2)
    assert (stats["1.00"].mean, stats["1.50"].mean) == (75, 0)
    assert stats["abstention"].mean == 25


def test_one_seed_has_no_deviation(store: Store) -> None:
    add(store, run_spec())
    group = only(store)
    stat = rows(group)["gaussian"].stats["ACR"]
    assert (stat.std, stat.n, group.seeds) == (None, 1, (0,))
    assert stat.mean == pytest.approx(FULL, rel=1e-9)


def test_equal_seeds_deviate_by_exactly_zero(store: Store) -> None:
    for seed in range(3):
        add(store, run_spec(seed=seed), (N, 777, 612, 901))
    assert rows(only(store))["gaussian"].stats["ACR"].std == 0


def test_a_missing_image_is_never_averaged_in(store: Store) -> None:
    add(store, run_spec(seed=0))
    add(store, run_spec(seed=1), (N, N, N))
    row = rows(only(store))["gaussian"]
    assert (row.stats, row.status) == ({}, "1/2 seeds")
    assert [(s.state, s.done, s.outcomes is not None) for s in row.seeds] == [("done", 4, True), ("certifying", 3, False)]


def test_a_missing_seed_shows_no_mean(store: Store) -> None:
    for seed in (0, 1, 4):
        add(store, run_spec("macer", seed=seed))
    add(store, run_spec(seed=0))
    found = rows(only(store))
    assert found["macer"].stats
    assert (found["gaussian"].status, found["gaussian"].stats) == ("1/3 seeds", {})
    assert [s.state for s in found["gaussian"].seeds] == ["done", "missing", "missing"]


def test_a_filter_does_not_lower_what_is_expected(store: Store) -> None:
    add(store, run_spec("macer", seed=0))
    add(store, run_spec("macer", seed=1))
    add(store, run_spec(seed=0))
    assert rows(only(store, methods=["gaussian"]))["gaussian"].status == "1/2 seeds"
    assert rows(only(store, seeds=[0]))["gaussian"].stats["ACR"].n == 1


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"counts": (N, N, N)}, "3/4 images"),
        ({"counts": ()}, "0/4 images"),
        ({"counts": None}, "0/4 images"),
        ({"counts": None, "state": None}, "in training"),
        ({"counts": (N, N, N, N), "state": None}, "damaged"),
        ({"counts": None, "state": "diverged"}, "diverged"),
        ({"counts": (N,), "failure": True}, "failed"),
        ({"counts": (N, N, N, N), "failure": True}, ""),
    ],
)
def test_states_of_a_single_seed(store: Store, settings: dict[str, Any], status: str) -> None:
    add(store, run_spec("macer"))
    add(store, run_spec(), **settings)
    row = rows(only(store))["gaussian"]
    assert row.status == status
    assert bool(row.stats) == (status == "")


def test_states_of_several_seeds(store: Store) -> None:
    for seed in range(3):
        add(store, run_spec("macer", seed=seed))
    add(store, run_spec(seed=0))
    add(store, run_spec(seed=1), None, state="diverged")
    add(store, run_spec(seed=2), (N,), failure=True)
    assert rows(only(store))["gaussian"].status == "1/3 seeds, 1 diverged, 1 failed"


def test_a_torn_last_line_is_an_unfinished_image(store: Store) -> None:
    run = add(store, run_spec())
    evidence = run.certification(CERTIFY).evidence
    evidence.write_bytes(evidence.read_bytes()[:-5])
    assert rows(only(store))["gaussian"].status == "3/4 images"


def test_training_only_stands_in_the_protocols_group(store: Store) -> None:
    add(store, run_spec(), None)
    group = only(store)
    certify = PROTOCOLS["quick"].certify
    assert {k: v for k, v in group.conditions.items() if k.startswith("certify.")} == {
        f"certify.{k}": v for k, v in dataclasses.asdict(certify).items() if k != "changes"
    }
    assert rows(group)["gaussian"].status == f"0/{len(select_images(certify.images, 10_000))} images"


def test_uncertified_runs_stand_in_every_group_of_their_training(store: Store) -> None:
    other = dataclasses.replace(CERTIFY, images="first:2")
    run = add(store, run_spec())
    write_evidence(run.certification(other), (N, N))
    add(store, run_spec("macer"), None, state="diverged")
    add(store, run_spec("stability"))
    groups = {group.conditions["certify.images"]: rows(group) for group in collect(store)}
    assert {images: sorted(found) for images, found in groups.items()} == {
        "first:4": ["gaussian", "macer", "stability"],
        "first:2": ["gaussian", "macer"],
    }
    assert groups["first:2"]["macer"].status == "diverged"


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": "smoke"},
        {"recipe": "paper"},
        {"protocol": "smoke", "train": SAME},
        {"recipe": "paper", "train": SAME},
        {"changes": {"train.epochs": 2}, "train": {"epochs": 2}},
        {"changes": {"train.arch": "mlp"}, "train": {"arch": "mlp"}},
        {"train": {"lr": 0.123}},  # a protocol that another release defined otherwise
    ],
)
def test_other_trainings_stand_in_other_tables(store: Store, changes: dict[str, Any]) -> None:
    add(store, run_spec())
    add(store, run_spec("macer", **changes))
    assert sorted(tuple(rows(group)) for group in collect(store)) == [("gaussian",), ("macer",)]


@pytest.mark.parametrize("change", [{"n": 2000}, {"n0": 20}, {"images": "500-503"}, {"seed": 1}], ids=lambda change: next(iter(change)))
def test_other_certifications_stand_in_other_tables(store: Store, change: dict[str, Any]) -> None:
    add(store, run_spec())
    certify = dataclasses.replace(CERTIFY, **change)
    add(store, run_spec("macer"), (certify.n,) * 4, certify=certify)
    groups = collect(store)
    assert sorted(tuple(rows(group)) for group in groups) == [("gaussian",), ("macer",)]
    assert len({str(group.conditions) for group in groups}) == 2


def test_equal_images_written_differently_share_a_table_and_count_once(store: Store) -> None:
    """The text of a selection is in the key of a certification, but a table asks which images it means."""
    again = dataclasses.replace(CERTIFY, images="0-3")
    run = add(store, run_spec())
    add(store, run_spec("macer"), certify=again)
    write_evidence(run.certification(again), (N, N))
    found = rows(only(store))
    assert {name: row.status for name, row in found.items()} == {"gaussian": "", "macer": ""}


def test_certifications_that_agree_share_a_table_whoever_asked(store: Store) -> None:
    """`bench run --set certify.images=...` records what was asked for, `bench certify --images ...` does not."""
    asked = dataclasses.replace(CERTIFY, images="first:4 of 0-100", changes={"images": "first:4 of 0-100"})
    add(store, run_spec("macer"), certify=asked)
    assert only(store).conditions["changes"] == "certify.images=first:4"
    run = add(store, run_spec())
    for _ in range(2):
        group = only(store)
        assert {name: row.status for name, row in rows(group).items()} == {"gaussian": "", "macer": ""}
        assert group.conditions["changes"] == "", "one whose record names no change is found without --where"
        assert len(load_results(store.root)) == 8, "images"
        write_evidence(run.certification(asked), (N, N))  # of two of one run that agree, the one with more rows counts
    other = Store(store.root / "other")
    add(other, run_spec("macer"))
    add(other, run_spec(), certify=asked)
    group = only(store)
    assert {name: (row.status, row.stats["ACR"].n) for name, row in rows(group).items()} == {"gaussian": ("", 1), "macer": ("", 1)}
    assert table(load_results(store.root)) == render([group], "terminal")


def test_a_release_that_changed_its_protocol_is_told(store: Store) -> None:
    add(store, run_spec("strangers", train={"lr": 0.25}))
    add(store, run_spec("others", train={"lr": 0.125}))
    assert {note for group in collect(store) for note in group.notes} == {
        "another table has the same protocol but another training; here lr=0.25",
        "another table has the same protocol but another training; here lr=0.125",
    }


def test_the_batch_that_a_recipe_cuts_does_not_part_rows(store: Store) -> None:
    add(store, run_spec(protocol="full"))
    add(store, run_spec("smoothadv", protocol="full", train={"batch": 64}))
    assert list(rows(only(store))) == ["gaussian", "smoothadv"]


def test_an_override_that_changed_nothing_for_a_row_keeps_it_in_the_table(store: Store) -> None:
    # --set train.batch=64 leaves no trace in a run whose recipe has batch 64 anyway.
    add(store, run_spec(protocol="full", changes={"train.batch": 64}, train={"batch": 64}))
    add(store, run_spec("smoothadv", protocol="full", train={"batch": 64}))
    add(store, run_spec("macer", protocol="full"))
    groups = {group.conditions["changes"]: list(rows(group)) for group in collect(store)}
    assert groups == {"": ["smoothadv", "macer"], "train.batch=64": ["gaussian", "smoothadv"]}


def test_rows_of_one_name_and_several_settings_are_not_averaged(store: Store) -> None:
    add(store, run_spec("strangers", seed=0, hyperparameters={"steps": 4}))
    add(store, run_spec("strangers", seed=1, hyperparameters={"steps": 10}), HALF)
    found = rows(only(store))
    assert list(found) == ["strangers #1", "strangers #2"]
    assert [row.status for row in found.values()] == ["1/2 seeds", "1/2 seeds"]
    assert found["strangers #1"].notes == found["strangers #2"].notes
    assert found["strangers #1"].notes[:1] == (
        "strangers at sigma 0.5 stands 2 times, since its settings differ: hyperparameters.steps: 10 in #1, 4 in #2",
    )
    assert [s.state for s in found["strangers #1"].seeds] == ["missing", "done"]


def test_order_of_rows_and_sections(store: Store) -> None:
    names = ["zebra", "smoothmix.eta5", "smoothmix.eta1", "ant", "gaussian", "stability"]
    for sigma in (1.0, 0.25):
        for name in names:
            add(store, run_spec(name, sigma=sigma))
    add(store, run_spec("smoothmix.eta5", sigma=1.0, changes={"steps": 2}, hyperparameters={"steps": 2}))
    group = only(store)
    assert [section.sigma for section in group.sections] == [0.25, 1.0]
    assert list(rows(group, 1.0)) == [
        "gaussian",
        "stability",
        "smoothmix.eta1",
        "smoothmix.eta5",
        "ant",
        "smoothmix.eta5[steps=2]",
        "zebra",
    ]


def test_a_row_of_several_sources_shows_no_mean_unless_mixed(store: Store) -> None:
    add(store, run_spec(seed=0), environment={"method_sha256": "a" * 64})
    add(store, run_spec(seed=1), environment={"method_sha256": "b" * 64})
    for seed in (0, 1):
        add(store, run_spec("macer", seed=seed), environment={"method_sha256": "c" * 64})
    note = "several versions of its method's code: gaussian was trained from aaaaaaaa, bbbbbbbb"
    group = only(store)
    assert group.footnotes == (f"{note}; --mix shows its means all the same",)
    assert (rows(group)["gaussian"].status, rows(group)["gaussian"].stats) == ("several versions", {})
    assert (rows(group)["macer"].status, rows(group)["macer"].notes) == ("", ())
    (group,) = collect(store, mix=True)
    assert group.footnotes == (note,)
    assert rows(group)["gaussian"].stats["ACR"].n == 2
    assert group.mixed


def test_rows_of_one_source_each_keep_their_means(store: Store) -> None:
    """Another variant, or another sigma, was run after the method's file was edited."""
    for seed in (0, 1):
        add(store, run_spec("smoothmix.eta1", seed=seed), environment={"method_sha256": "a" * 64})
        add(store, run_spec("smoothmix.eta5", seed=seed), environment={"method_sha256": "b" * 64})
        add(store, run_spec("smoothmix.eta5", seed=seed, sigma=1.0), environment={"method_sha256": "a" * 64})
    found = rows(only(store))
    assert [row.stats["ACR"].n for row in found.values()] == [2, 2]
    told = "trained from version {} of smoothmix's code, others of the method here from {}"
    assert [row.notes for row in found.values()] == [(told.format("a" * 8, "b" * 8),), (told.format("b" * 8, "a" * 8),)]
    assert not only(store).mixed


def test_a_source_that_changed_during_the_training_is_noted(store: Store) -> None:
    history = [{"method_sha256": "b" * 64, "threads": 2, "device": "cpu"}]
    add(store, run_spec(), environment={"method_sha256": "a" * 64, "threads": 2, "device": "cpu", "history": history})
    assert only(store).footnotes == ("gaussian at sigma 0.5, seed 0: changed while it was trained: the method's code",)


def damage(store: Store, name: str = "gaussian") -> str:
    """The footnote of a row whose evidence is damaged, which must not spoil the others."""
    add(store, run_spec("macer"))
    group = only(store)
    row = rows(group)[name]
    assert (row.status, row.stats) == ("damaged", {})
    assert rows(group)["macer"].status == ""
    (note,) = row.notes
    return note


def test_damaged_evidence_names_file_and_line(store: Store) -> None:
    run = add(store, run_spec())
    evidence = run.certification(CERTIFY).evidence
    lines = evidence.read_text().splitlines(keepends=True)
    evidence.write_text("".join([*lines[:2], lines[2].replace('"1":1000', '"1":999'), lines[3]]))
    assert "evidence.jsonl, line 3: the check sum" in damage(store)


def test_a_damaged_run_is_left_out_and_named(store: Store) -> None:
    add(store, run_spec())
    broken = add(store, run_spec("macer"))
    (broken.path / "training.json").write_text('{"state":"banana"}')
    group = only(store)
    assert {name: row.seeds[0].state for name, row in rows(group).items()} == {"gaussian": "done", "macer": "damaged"}
    assert any("state 'banana' is neither trained nor diverged" in note for note in group.footnotes)


def test_a_damaged_record_of_one_seed_leaves_no_mean(store: Store) -> None:
    for seed in (0, 1, 2):
        run = add(store, run_spec(seed=seed))
    (run.path / "plots").mkdir()
    assert rows(only(store))["gaussian"].stats["ACR"].n == 3, "a folder of the user's own is named, and no more"
    for name in ("timing.json", "environment.json", "training.json"):
        kept = (run.path / name).read_bytes() if (run.path / name).exists() else None
        (run.path / name).write_text("[]")
        group = only(store)
        assert not rows(group)["gaussian"].stats
        assert [seed.state for seed in rows(group)["gaussian"].seeds] == ["done", "done", "damaged"]
        (run.path / name).unlink() if kept is None else (run.path / name).write_bytes(kept)


def test_a_row_of_another_sigma_is_shown_as_missing(store: Store) -> None:
    add(store, run_spec(sigma=0.25))
    add(store, run_spec(sigma=0.5))
    add(store, run_spec("macer", sigma=0.25))
    group = only(store)
    assert {s.sigma: [(r.name, r.status) for r in s.rows] for s in group.sections} == {
        0.25: [("gaussian", ""), ("macer", "")],
        0.5: [("gaussian", ""), ("macer", "missing")],
    }


def test_evidence_of_different_conditions_is_noted(store: Store) -> None:
    for row, torch in (("gaussian", "2.14"), ("macer", "2.10")):
        run = add(store, run_spec(row))
        write_json(run.certification(CERTIFY).path / "environment.json", {"device": "cpu", "threads": 2, "libraries": {"torch": torch}})
    assert only(store).notes == ("certified under different torch: 2.10 and 2.14",)


def test_an_empty_store_says_what_to_run(store: Store) -> None:
    sources: tuple[tuple[Source | None, str], ...] = ((None, "run"), ("checkpoints", "certify"), ("imported", "import"))
    for source, verb in sources:
        with pytest.raises(BenchError, match=f"there are no .* in .*; `bench {verb}` "):
            collect(store, source=source)


def test_a_selection_of_no_image(store: Store) -> None:
    add(store, run_spec(), (), certify=CertifySpec(n0=10, n=N, images="20000-20001"))
    with pytest.raises(BenchError, match="images=20000-20001 selects no"):
        collect(store)
    (told,) = load_results(store.root).attrs["left_out"]
    assert (told["state"], told["reason"].endswith("images=20000-20001 selects no test image")) == ("damaged", True)


def test_the_same_run_twice(store: Store) -> None:
    run = add(store, run_spec())
    copy = run.path.with_name(f"copy-{run.spec.key}")
    copy.mkdir()
    write_json(copy / "spec.json", {})
    (copy / "spec.json").write_bytes((run.path / "spec.json").read_bytes())
    group = only(store)
    assert rows(group)["gaussian"].stats["ACR"].n == 1
    assert [note for note in group.notes if str(copy) in note], "it is not where it belongs"


def test_a_run_in_two_folders_shows_what_each_certified_and_equal_ones_once(store: Store) -> None:
    other, more = Store(store.root / "other"), dataclasses.replace(CERTIFY, images="first:2")
    for row in ("gaussian", "macer"):
        add(store, run_spec(row))
        add(other, run_spec(row), (N, N), certify=more)
    groups = collect(store)
    assert [(group.images, group.notes, [*rows(group)]) for group in groups] == [(i, (), ["gaussian", "macer"]) for i in (2, 4)]
    assert table(load_results(store.root)) == render(groups, "terminal")
    for row in ("gaussian", "macer"):
        write_evidence(other.run(run_spec(row)).certification(dataclasses.replace(CERTIFY, images="0-3")), HALF)
    for group in collect(store):
        assert rows(group)["gaussian"].stats["ACR"].mean == pytest.approx(FULL)
        assert [("damaged" in note, "1 more" in note, str(other.root) in note) for note in group.notes] == [(False, True, True)]
    assert table(load_results(store.root)) == render(collect(store), "terminal")


def test_a_run_that_lies_in_a_second_folder_hides_no_damage(store: Store) -> None:
    run = add(store, run_spec())
    add(Store(store.root / "other"), run_spec())
    (run.certification(CERTIFY).path / "spec.json").write_text("{")
    group = only(store)
    assert rows(group)["gaussian"].status == ""
    assert [any(word in note for note in group.notes) for word in ("not a valid spec", "the same run is shown from")] == [True, True]


def test_a_link_says_what_to_do(store: Store) -> None:
    add(store, run_spec())
    (store.root.parent / "links").mkdir()
    (store.root.parent / "links" / "runs").symlink_to(store.root)
    with pytest.raises(BenchError, match=r"nothing in .* can be read: .*it is a link.*; put a copy"):
        collect(Store(store.root.parent / "links"))


@pytest.mark.parametrize("alpha", [0, 0.5, -1])
def test_alpha_out_of_range(store: Store, alpha: float) -> None:
    add(store, run_spec())
    with pytest.raises(BenchError, match=f"alpha {alpha} must lie"):
        collect(store, alpha=alpha)


def test_alpha_changes_the_numbers(store: Store) -> None:
    add(store, run_spec(), (549,) * 4)
    assert rows(only(store, metrics=["abstention"]))["gaussian"].stats["abstention"].mean == 100
    assert rows(only(store, alpha=0.01, metrics=["abstention"]))["gaussian"].stats["abstention"].mean == 0


def test_unknown_dataset(store: Store) -> None:
    add(store, run_spec(dataset="mnits"), None)
    with pytest.raises(BenchError, match=r"can be read: .*unknown data set 'mnits'; did you mean 'mnist'"):
        collect(store)


def test_filters(store: Store) -> None:
    for name in ("gaussian", "smoothmix.eta1", "smoothmix.eta5"):
        for sigma in (0.25, 0.5):
            add(store, run_spec(name, sigma=sigma))
    changed = run_spec("smoothmix.eta1", changes={"steps": 2}, hyperparameters={"steps": 2})
    add(store, changed)
    add(store, run_spec(protocol="smoke"))

    def shown(**filters: Any) -> list[tuple[str, float, str]]:
        groups = collect(store, Filters(**filters))
        return [(g.conditions["protocol"], s.sigma, r.name) for g in groups for s in g.sections for r in s.rows]

    assert len(shown()) == 9
    assert shown(sigmas=[0.25], protocols=["quick"], methods=["gaussian"]) == [("quick", 0.25, "gaussian")]
    assert len(shown(methods=["smoothmix"])) == 6
    assert shown(methods=["smoothmix.eta1[steps=2]"]) == [("quick", 0.5, "smoothmix.eta1[steps=2]")]
    assert [name for _, _, name in shown(methods=["*.eta5"])] == ["smoothmix.eta5"] * 2
    assert shown(protocols=["smoke"]) == [("smoke", 0.5, "gaussian")]


def test_filters_that_fit_nothing_are_all_named(store: Store) -> None:
    add(store, run_spec("smoothadv", sigma=0.25))
    with pytest.raises(UsageError) as caught:
        only(store, datasets=["mnis"], sigmas=[0.26], methods=["smothadv", "x*"], protocols=["quik"], recipes=["papers"], seeds=[3])
    assert caught.value.problems == (
        "no run has data set mnis; did you mean 'mnist'?",
        "no run has sigma 0.26; did you mean '0.25'?",
        "no run has protocol quik; did you mean 'quick'?",
        "no run has recipe papers; there is official",
        "no run has seed 3; there is 0",
        "no run is of method 'smothadv'; did you mean 'smoothadv'?",
        "no run is of method 'x*'; there is smoothadv",
    )


def test_filters_that_fit_nothing_together(store: Store) -> None:
    add(store, run_spec(sigma=0.25))
    add(store, run_spec("macer", sigma=0.5))
    with pytest.raises(BenchError, match=r"no run has all of: sigma 0\.25; method macer"):
        only(store, sigmas=[0.25], methods=["macer"])


def test_a_certification_that_the_usual_alpha_cannot_read_hides_nothing(store: Store, bench: Callable[..., Result]) -> None:
    """It is left out with a note, where it stands beside others; `show` takes its own alpha, and so may everybody."""
    strict = CertifySpec(n0=10, n=6000, images="first:4", rule="curtailed", stop_alpha=1e-4)
    run = add(store, run_spec())
    add(store, run_spec("macer"))
    write_evidence(run.certification(strict), (6000,) * 4)
    where = ("--results", store.root)
    note = f"left out: certification {strict.key} (curtailed): sampling was stopped where nothing certifies at alpha 0.0001"
    for words in (
        ("table", *where),
        ("table", *where, "--format", "json"),
        ("compare", "gaussian", "macer", *where),
        ("plot", "curves", "--out", store.root.parent / "x.svg", *where),
    ):
        result = bench(*words)
        assert (result.exit_code, note in " ".join(result.output.split())) == (0, True), result.output
    assert list(rows(collect(store)[0])) == ["gaussian", "macer"]
    shown = bench("show", run.spec.key, *where).output
    assert re.search(r"clopper-pearson +0\.001 +1\.2316$", shown, re.M), "each ACR beside its own alpha"
    assert re.search(r"curtailed +0\.0001 +\d\.\d{4}$", shown, re.M)
    assert sorted(group.conditions["certify.rule"] for group in collect(store, alpha=1e-4)) == ["clopper-pearson", "curtailed"]
    alone = Store(store.root.parent / "alone")
    write_evidence(add(alone, run_spec(), None).certification(strict), (6000,) * 4)
    refused = bench("table", "--results", alone.root)
    assert refused.exit_code == 2
    assert "give --alpha 0.0001 or less" in " ".join(refused.output.split())
