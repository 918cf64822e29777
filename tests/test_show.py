"""`bench show`: a run that a reader understands, and one image from its counts to its share of the ACR."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_store import CERTIFY, add, new_store, run_spec
from typer.testing import Result

from bench.cli.trace import trace
from bench.errors import BenchError
from bench.spec import select_images
from bench.store.runs import Store

Call = Callable[..., Result]
REFERENCE = Path(__file__).resolve().parent.parent / "results" / "reference"
QUICK = "d8952a1d87f07d73"  # smoothmix.eta5 at sigma 0.5, 500 images


def test_the_traced_images_add_up_to_the_acr(bench: Call) -> None:
    run = Store(REFERENCE).find(QUICK)
    (whole,) = json.loads(bench("show", QUICK, "--results", REFERENCE, "--json").stdout)["certifications"]
    images = select_images(whole["spec"]["images"], 10_000)
    found = [trace(run, image, None, None, None)[0] for image in images[::7]]
    rows = {row.index: row for (certification,) in [list(run.certifications())] for row in certification.rows()}
    for one in found:
        row = rows[one["image"]]
        assert one["radius"] == row.radius(0.001, 0.5)
        line = Path(one["file"]).read_text().splitlines()[one["line"] - 1]
        assert json.loads(line)["index"] == one["image"]
        assert sum(one["estimation"].values()) == one["n"]
    total = sum(row.radius(0.001, 0.5) or 0.0 for row in rows.values() if row.selected == row.label)
    assert whole["acr (alpha 0.001)"] == pytest.approx(total / len(images))
    assert [one["adds"] for one in found] == [
        (row.radius(0.001, 0.5) or 0) * (row.selected == row.label) for row in (rows[k["image"]] for k in found)
    ]


@pytest.mark.parametrize(("count", "radius"), [(500, 0.5), (400, 0.0), (250, None)])
def test_an_image_of_a_rule_that_gives_no_bound(bench: Call, tmp_path: Path, count: int, radius: float | None) -> None:
    store = new_store(tmp_path)
    spec = dataclasses.replace(CERTIFY, rule="rungs", radii="0,0.5", first_look=500, n=500)
    run = add(store, run_spec(), (count,) * 4, certify=spec)
    (found,) = json.loads(bench("show", run.key, "--results", tmp_path, "--image", "1", "--json").stdout)
    assert (found["bound"], found["adds"]) == (None, None), "and no ACR, to which it would add"
    assert found["radius"] == (None if radius is None else pytest.approx(radius))
    told = bench("show", run.key, "--results", tmp_path, "--image", "1").output
    assert ("is the ACR" in told, "certified at every r up to" in told) == (False, radius is not None), told


def test_an_image_that_was_not_certified_names_the_nearest() -> None:
    with pytest.raises(BenchError, match="300"):
        trace(Store(REFERENCE).find(QUICK), 301, None, None, None)


def test_the_command_that_is_shown_makes_the_run(bench: Call, two_cells: Path) -> None:
    """Nothing is left to do where it is there, so the command asks for exactly this cell."""
    for run in Store(two_cells).runs():
        (command,) = json.loads(bench("show", run.key, "--results", two_cells, "--json").stdout)["commands"]
        planned = json.loads(bench(*shlex.split(command)[1:], "--dry-run", "--json").stdout)["cells"]
        assert [(cell["key"], cell["state"]) for cell in planned] == [(run.key, "done")]
        assert command in bench("show", run.key, "--results", two_cells).output


def test_the_command_asks_for_the_images_that_were_certified_whoever_asked(bench: Call) -> None:
    """`bench certify KEY --images every:20` certified them, and its record names no change."""
    (command,) = json.loads(bench("show", "e1970ed5", "--results", REFERENCE, "--json").stdout)["commands"]
    (cell,) = json.loads(bench(*shlex.split(command)[1:], "--dry-run", "--json").stdout)["cells"]
    assert cell["key"].startswith("e1970ed5")
    assert command.partition(" --set ")[2].split(" --results")[0] == "certify.images=every:20"


def test_the_beginning_of_several_keys_is_answered_with_them(bench: Call) -> None:
    every = [run.key for run in Store(REFERENCE).runs()]
    prefix, keys = next((key[:2], fit) for key in every if 1 < len(fit := [other for other in every if other[:2] == key[:2]]) < 8)
    for words in (("show", prefix), ("verify", prefix), ("attack", prefix, "--eps", "1")):
        result = bench(*words, "--results", REFERENCE)
        assert (result.exit_code, result.output.count(f"--results {REFERENCE}")) == (2, 1)
        assert all(key in result.output for key in keys)


def test_flags_of_one_image_need_it(bench: Call) -> None:
    for words in (("--alpha", "0.01"), ("--rule", "two-sided"), ("--image", "-1"), ("--image", "0", "--alpha", "2")):
        assert bench("show", QUICK, "--results", REFERENCE, *words).exit_code == 2


def test_a_radius_is_what_its_formula_says() -> None:
    """The numbers that stand in it suffice to compute it by hand."""
    run = Store(REFERENCE).find("b1c7d85d28cdbc11")  # gaussian at sigma 1: samples of an image fall on many classes
    for rule in ("clopper-pearson", "two-sided"):
        for image in range(0, 10_000, 2_500):
            (found,) = trace(run, image, None, None, rule)
            if found["radius"] is not None:
                product = found["formula"].rpartition(") = ")[2] or found["formula"]
                scale, _, quantiles = product.rpartition("= ")[2].partition(" * ")
                first, _, second = quantiles.strip("()").partition(" - ")
                assert float(scale) * (float(first) - float(second or 0)) == pytest.approx(found["radius"], abs=5e-6)
