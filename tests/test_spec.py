"""Specs: canonical JSON both ways, keys that never change, strict reading, seeds of one purpose each."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.datasets import DATASETS, recipe_train
from bench.errors import BenchError, nearest
from bench.spec import (
    PROTOCOLS,
    CertifySpec,
    RunSpec,
    TrainSpec,
    canonical,
    coerce,
    derive,
    describe_images,
    describe_type,
    digest,
    from_json,
    parse_json,
    protocol_train,
    replace_checked,
    same_images,
    select_images,
    to_json,
)

QUIET = settings(deadline=None, derandomize=True)

TRAIN = TrainSpec(arch="lenet", epochs=90, clock=90, batch=64, lr=0.01, lr_step=30, lr_lag=1)
RUN = RunSpec(
    method="mine",
    variant="default",
    hyperparameters={"copies": 4, "strength": 5.0, "limit": None, "one_step": False, "mix_loss": "kl"},
    dataset="mnist",
    sigma=0.5,
    seed=3,
    recipe="official",
    protocol="full",
    train=TRAIN,
)
CERTIFY = CertifySpec(n0=100, n=100_000)

# ---------------------------------------------------------------------------------------------------------- round trip

numbers = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=1e-9, max_value=1e9)
counts = st.integers(1, 10**9)
names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)
selections = st.one_of(st.just("all"), *(st.integers(1, 10**9 - 1).map(f"{word}{{}}".format) for word in ("every:", "first:", "0-")))
scalars = st.one_of(st.none(), st.booleans(), st.integers(-(10**15), 10**15), numbers, st.text(max_size=12))
mappings = st.dictionaries(st.text(min_size=1, max_size=12), scalars, max_size=5)
trains = st.builds(
    TrainSpec,
    arch=st.text(min_size=1, max_size=12),
    epochs=counts,
    clock=counts,
    batch=counts,
    lr=positive,
    lr_step=counts,
    lr_lag=st.integers(0, 9),
    lr_gamma=positive,
    momentum=st.floats(0.01, 1),
    nesterov=st.booleans(),
    weight_decay=st.floats(0, 1),
    images=selections,
)
runs = st.builds(
    RunSpec,
    method=names,
    variant=names,
    hyperparameters=mappings,
    dataset=names,
    sigma=positive,
    seed=st.integers(0, 2**63 - 1),
    recipe=names,
    protocol=names,
    train=trains,
    changes=mappings,
)
certifies = st.builds(CertifySpec, n0=counts, n=counts, images=st.just("every:20"), seed=st.integers(0, 2**63 - 1), changes=mappings)


@QUIET
@given(runs)
def test_run_specs_survive_json(spec: RunSpec) -> None:
    text = canonical(to_json(spec))
    again = from_json(RunSpec, text, "here")
    assert again == spec
    assert again.key == spec.key
    assert canonical(to_json(again)) == text
    assert from_json(RunSpec, json.dumps(json.loads(text), indent=3), "here").key == spec.key


@QUIET
@given(certifies)
def test_certify_specs_survive_json(spec: CertifySpec) -> None:
    again = from_json(CertifySpec, canonical(to_json(spec)), "here")
    assert again == spec
    assert again.key == spec.key


@QUIET
@given(st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)))
def test_canonical_json_has_one_text_per_value(value: object) -> None:
    assert parse_json(canonical(value)) == value
    assert canonical(parse_json(canonical(value))) == canonical(value)


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical({"b": 1, "a": [1.0, "ü"]}) == canonical({"a": [1.0, "ü"], "b": 1}) == '{"a":[1.0,"ü"],"b":1}'
    for value in (math.nan, math.inf, {"x": [-math.inf]}):
        with pytest.raises(ValueError):
            canonical(value)


# ---------------------------------------------------------------------------------------------------------------- keys


def test_keys_are_what_they_always_were() -> None:
    """Literal keys: every stored run would be lost if their making changed, so that must be a decision."""
    assert RUN.key == "5602c3c27a1d53b1"
    assert CERTIFY.key == "16fb7f9599e11247"
    assert digest({"a": 1}) == "015abd7f5cc57a2d"


OTHER: dict[str, Any] = {"images": "first:10", "augment": "crop", "precision": "tf32", "sampling": "grid", "rule": "curtailed"}
OTHER |= {"radii": "0,1"}


def with_another(spec: Any, name: str) -> Any:
    """The spec with another value of a field, any that it can have."""
    value = getattr(spec, name)
    made: dict[type, Any] = {bool: value is False, int: 7, float: 0.125, str: "other"}
    return dataclasses.replace(spec, **{name: OTHER.get(name, made.get(type(value), {}))})


def test_every_field_is_in_the_key() -> None:
    names = {spec: {f.name for f in dataclasses.fields(spec)} for spec in (RunSpec, TrainSpec, CertifySpec)}
    runs = [with_another(RUN, name) for name in names[RunSpec] - {"train", "changes", "depends"}]
    runs += [dataclasses.replace(RUN, changes={"copies": 4}), dataclasses.replace(RUN, depends="0123456789abcdef")]
    trainings = [with_another(TRAIN, name) for name in names[TrainSpec] - {"sync_batchnorm"}]
    trainings.append(dataclasses.replace(TRAIN, devices=2, sync_batchnorm=True))
    runs += [dataclasses.replace(RUN, train=train) for train in trainings]
    certifications = [with_another(CERTIFY, name) for name in names[CertifySpec] - {"precision", "changes"}]
    certifications.append(dataclasses.replace(CERTIFY, changes={"n": 99}))
    for keys in ([RUN.key, *(spec.key for spec in runs)], [CERTIFY.key, *(spec.key for spec in certifications)]):
        assert len(set(keys)) == len(keys)


def test_equal_specs_have_equal_keys_whatever_the_order_and_number_type() -> None:
    shuffled = dataclasses.replace(RUN, hyperparameters=dict(reversed(list(RUN.hyperparameters.items()))))
    assert shuffled == RUN
    assert shuffled.key == RUN.key
    one, same = dataclasses.replace(RUN, sigma=1), dataclasses.replace(RUN, sigma=1.0)
    assert one == same
    assert one.key == same.key
    written: list[list[dict[str, Any]]] = [[{"lr": 1}, {"lr": 1.0}], [{"images": "first=9"}, {"images": "first:9"}]]
    for alike in written:
        assert len({dataclasses.replace(RUN, train=dataclasses.replace(TRAIN, **change)).key for change in alike}) == 1


def test_alpha_device_paths_and_workers_are_in_no_key() -> None:
    words = {"alpha", "device", "path", "out", "workers", "host", "threads", "jobs"}
    for spec in (RUN, CERTIFY):
        text = to_json(spec)
        assert not words & set(text)
        assert not words & set(text.get("train", {}))
    assert "batch" not in to_json(CERTIFY)


def test_a_field_that_came_later_leaves_published_keys_alone() -> None:
    quick = PROTOCOLS["quick"].certify
    assert quick.key == "c439a80df934124f"  # of runs since the first release
    assert "sampling" not in to_json(quick)
    grid = dataclasses.replace(quick, sampling="grid")
    assert to_json(grid)["sampling"] == "grid"
    assert from_json(CertifySpec, canonical(to_json(grid)), "x") == grid


def test_seeds_of_one_configuration_share_the_cell() -> None:
    seeds = [dataclasses.replace(RUN, seed=seed) for seed in range(5)]
    assert len({spec.cell for spec in seeds}) == 1
    assert len({spec.key for spec in seeds}) == 5
    assert dataclasses.replace(RUN, sigma=0.25).cell != RUN.cell
    assert '"seed"' not in RUN.cell


def test_row_names() -> None:
    assert RUN.row == "mine"
    eta = dataclasses.replace(RUN, variant="eta5")
    assert eta.row == "mine.eta5"
    changed = dataclasses.replace(eta, changes={"step_size": 0.5, "train.epochs": 3, "clip": True, "limit": None, "copies": 2})
    assert changed.row == "mine.eta5[clip=true,copies=2,limit=none,step_size=0.5]"


# ------------------------------------------------------------------------------------------------------- strict reading


def test_a_spec_is_frozen_and_keyword_only() -> None:
    for spec in (RUN, TRAIN, CERTIFY):
        for field in dataclasses.fields(spec):
            assert field.kw_only
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(spec, field.name, None)


BAD: dict[str, list[Any]] = {
    "schema": [2, True, "1"],
    "seed": [-1, 2**63, 0.0],
    "sigma": [0, -0.5],
    "method": ["../../etc", "Mine", "mine\n", "a.b", "", "a" * 65, "-rf"],
    "hyperparameters": [[1], {"x": [1]}],
    "train": [[], None],
    "train.epochs": [1.5, "90", True, None, 0],
    "train.lr": [-0.1, "0.1"],
    "train.nesterov": [1],
    "train.momentum": [-1.0],
    "train.precision": ["bfloat16"],
    "train.images": ["some", "every:0"],
    "train.arch": [7],
    "train.devices": [0, 65],
    "train.sync_batchnorm": [True],
    "train.lrr": [1],
    "methods": ["x"],
    "certify.n": [0, 1e5, 2**31],
    "certify.n0": [-100],
    "certify.rule": ["hoeffding"],
    "certify.precision": ["float16"],
    "certify.images": ["every:0"],
    "certify.alpha": [0.001],
    "certify.sampling": ["gird"],
    "certify.stop_alpha": [0.5],
    "certify.radius_step": [0.0],
}
PLAIN = json.dumps(to_json(RUN))
TEXTS = ["", "{", "[]", "7", "{}", "[" * 100_000, b"\xff\xfe\x00{", *(PLAIN.replace("0.5", n) for n in ("NaN", "-Infinity", "1e999"))]
TEXTS += [PLAIN.replace('"seed": 3', '"seed": 3, "seed": 3'), PLAIN.replace('"lr": 0.01', '"lr": 0.01, "lr": 0.02')]
TEXTS += [PLAIN.replace('"seed": 3', '"seed": ' + "9" * 5000), PLAIN.replace('"mine"', '"\\ud800"')]


def with_value(name: str, *value: Any) -> tuple[type, str]:
    """A stored spec with another value under a name, or without it."""
    part, _, last = name.rpartition(".")
    data: dict[str, Any] = to_json(CERTIFY if part == "certify" else RUN)
    inner = data["train"] if part == "train" else data
    inner.pop(last, None)
    inner |= dict.fromkeys([last], *value) if value else {}
    return CertifySpec if part == "certify" else RunSpec, json.dumps(data)


BAD_SPECS = [with_value(name, value) for name, values in BAD.items() for value in values] + [(RunSpec, text) for text in TEXTS]
BAD_SPECS += [with_value(name) for name in ("schema", "seed", "train", "train.epochs", "certify.n")]


@pytest.mark.parametrize(("kind", "text"), BAD_SPECS)
def test_bad_specs_are_refused_in_one_sentence(kind: type, text: str | bytes) -> None:
    with pytest.raises(BenchError) as caught:
        from_json(kind, text, "folder/spec.json")
    assert str(caught.value).startswith("folder/spec.json: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1100


# --------------------------------------------------------------------------------------------------------------- seeds


def test_derived_seeds_are_64_bits_and_never_change() -> None:
    assert derive(0, "init") == 10356376711116929272
    assert derive(3, "certify", 9999) == 7322955232035409220
    seeds = [derive(0, "certify", index) for index in range(20_000)]
    assert all(0 <= seed < 2**64 for seed in seeds)
    for bit in range(64):  # 6 standard deviations of a fair coin
        assert abs(sum(seed >> bit & 1 for seed in seeds) - 10_000) < 6 * math.sqrt(5_000)


def test_derived_seeds_differ_by_purpose_and_do_not_collide() -> None:
    purposes: list[tuple[str | int, ...]] = [
        ("init",),
        ("noise",),
        ("ambient",),
        ("order", 0),
        ("order", 1),
        ("certify", 0),
        ("certify", 1),
    ]
    purposes += [("certify", "0"), ("certify", 0, 0), ("certify0",), (), ("certify,0",), ("1", "1"), ("11",), (1, 1), (11,)]
    assert len({derive(0, *purpose) for purpose in purposes}) == len(purposes)
    found = {derive(seed, "certify", index) for seed in range(10) for index in range(10_000)}
    assert len(found) == 100_000
    assert len({seed & 0xFFFFFFFF for seed in found}) > 99_980  # seed + index would leave 10,009


def test_neighbouring_seeds_and_images_do_not_share() -> None:
    assert derive(0, "certify", 1) != derive(1, "certify", 0)
    assert derive(1, "certify", 2) != derive(2, "certify", 1)


# ---------------------------------------------------------------------------------------------------------- selections

number = st.integers(1, 30)
ends = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted)
parts = st.one_of(
    st.just(("all", lambda images: images)),
    st.tuples(number, st.sampled_from(":=")).map(lambda a: (f"every{a[1]}{a[0]}", lambda images: images[:: a[0]])),
    st.tuples(number, st.sampled_from(":=")).map(lambda a: (f"first{a[1]}{a[0]}", lambda images: images[: a[0]])),
    ends.map(lambda e: (f"{e[0]}-{e[1]}", lambda images: [x for place, x in enumerate(images) if e[0] <= place <= e[1]])),
    st.tuples(ends, number).map(
        lambda a: (f"{a[0][0]}-{a[0][1]}:{a[1]}", lambda images: [images[p] for p in range(a[0][0], a[0][1] + 1, a[1]) if p < len(images)])
    ),
)


@QUIET
@given(st.lists(parts, min_size=1, max_size=3), st.integers(0, 50))
def test_a_selection_reads_as_it_is_written_and_prints_one_text_for_equal_images(chain: list[Any], size: int) -> None:
    text, expected = " of ".join(part for part, _ in chain), list(range(size))
    for _, taken in reversed(chain):
        expected = taken(expected)
    found = select_images(text, size)
    assert list(found) == expected
    assert select_images(same_images(text, size), size) == found
    if expected:
        assert same_images(text, size) == describe_images(select_images(text.replace(":", "="), size), size)


@pytest.mark.parametrize(
    ("text", "size", "printed"),
    [
        *((text, 500, text) for text in ("all", "every:20", "first:50", "7-7", "100-199", "100-480:20", "first:3 of every:100")),
        ("every=20", 500, "every:20"),
        ("0-49", 500, "first:50"),
        ("100-499:20", 500, "100-480:20"),
        ("first:999", 500, "all"),
        ("0-20 of every:20", 500, "first:21 of every:20"),
        ("10-20 of every:20", 500, "200-400:20"),
        ("every:2 of every:10", 500, "every:20"),
        ("500-600", 500, "500-600"),
    ],
)
def test_selections_print_as_the_field_writes_them(text: str, size: int, printed: str) -> None:
    assert same_images(text, size) == printed


WRONG = [
    "",
    "some",
    "every",
    "every:",
    "every:0",
    "every:-1",
    "every:1.5",
    "first:0",
    "5-2",
    "-5",
    "5-",
    "1,2",
    "all ",
    " all",
    "ALL",
    "every:20\n",
]
WRONG += [
    "first:" + "9" * 30,
    "0-" + "9" * 30,
    "every:٣",
    "٣-٤",
    "0-9:0",
    "0-9:",
    "first:3:2",
    "all of",
    "of all",
    "all of of all",
    "all  of all",
]


@pytest.mark.parametrize("text", WRONG)
def test_words_that_select_nothing_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no selection of images"):
        select_images(text, 50)


def test_the_text_of_a_selection_is_kept_for_it_is_in_the_key() -> None:
    one, other = (dataclasses.replace(CERTIFY, images=text) for text in ("0-499", "first:500"))
    assert (one.images, other.images) == ("0-499", "first:500")
    assert one.key != other.key


# --------------------------------------------------------------------------------------------------- words to values

Loss = Literal["kl", "cross-entropy"]


GOOD: list[tuple[Any, list[tuple[object, object]]]] = [
    (float, [("0.5", 0.5), ("5", 5.0), (5, 5.0), ("1e-8", 1e-8), ("-0.5", -0.5)]),
    (int, [("5", 5), ("-5", -5), ("+5", 5), (5, 5)]),
    (bool, [("true", True), ("False", False), (True, True)]),
    (float | None, [("none", None), ("None", None), (None, None), ("2", 2.0)]),
    (Loss, [("kl", "kl")]),
    (str, [("word", "word"), ("none", "none")]),
]
REFUSED: list[tuple[Any, str, list[object]]] = [
    (float, "a finite number", ["half", "nan", "inf", "-Infinity", "1e999", 10**400, True, "none", "", [1]]),
    (int, "a whole number", ["5.0", 5.0, True, "9" * 30, "5 ", "1_000", {}]),
    (bool, "true or false", ["1", 1, "yes"]),
    (float | None, "a finite number or none", ["half"]),
    (Loss, "one of kl, cross-entropy; did you mean 'kl'?", ["kll"]),
    (str, "a word", [7]),
]


@pytest.mark.parametrize(("kind", "value", "expected"), [(kind, *pair) for kind, pairs in GOOD for pair in pairs])
def test_coerce(kind: Any, value: object, expected: object) -> None:
    found = coerce(value, kind)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(("kind", "words", "value"), [(kind, words, value) for kind, words, values in REFUSED for value in values])
def test_coerce_refuses_and_says_what_would_fit(kind: Any, words: str, value: object) -> None:
    with pytest.raises(ValueError) as caught:
        coerce(value, kind)
    assert str(caught.value) == f"must be {words}"
    assert describe_type(kind) in (words, "kl | cross-entropy")


def test_replace_checked_collects_every_problem() -> None:
    changed, problems = replace_checked(TRAIN, {"epochs": "3", "lr": "0.5"}, "train")
    assert problems == []
    assert changed == dataclasses.replace(TRAIN, epochs=3, lr=0.5)
    unchanged, problems = replace_checked(TRAIN, {"epoch": "3", "lr": "fast", "momentum": "0.8", "wight_decay": "0"}, "train")
    assert unchanged is TRAIN
    assert problems == [
        "train has no field 'epoch'; did you mean 'epochs'?",
        "train: lr=fast is wrong: it must be a finite number",
        "train has no field 'wight_decay'; did you mean 'weight_decay'?",
    ]
    unchanged, problems = replace_checked(TRAIN, {"epochs": "0"}, "train")
    assert unchanged is TRAIN
    assert problems == ["train: epochs=0 must be greater than 0"]


def test_nearest_names() -> None:
    assert nearest("smothmix", ["smoothmix", "macer"]) == "; did you mean 'smoothmix'?"
    assert nearest("xyz", ["b", "a"]) == "; there is a, b"
    assert nearest("xyz", []) == "; there is none"


# ------------------------------------------------------------------------------------------------ learning rate, protocols


def test_learning_rate_steps() -> None:
    train = TrainSpec(arch="lenet", epochs=1, clock=90, batch=1, lr=0.5, lr_step=2, lr_lag=3, lr_gamma=0.1)
    rates = [train.lr_at(epoch) for epoch in range(9)]
    assert rates == pytest.approx([0.5] * 5 + [0.05] * 2 + [0.005] * 2)


def test_protocols_keep_the_clock_of_the_recipe() -> None:
    assert set(PROTOCOLS) == {"full", "quick", "smoke"}
    full = PROTOCOLS["full"]
    assert (full.certify.n0, full.certify.n, full.certify.images) == (100, 100_000, "all")
    assert full.seeds == (0, 1, 2, 3, 4)
    for recipe in ("official", "paper"):
        base = recipe_train(DATASETS["mnist"], recipe, 4)
        assert protocol_train(base, full) == base
        for protocol in PROTOCOLS.values():
            short = protocol_train(base, protocol)
            assert short.clock == 90
            assert (short.lr_step, short.lr_lag, short.nesterov) == (base.lr_step, base.lr_lag, base.nesterov)
    assert len({protocol.certify.key for protocol in PROTOCOLS.values()}) == 3
