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
    describe_type,
    digest,
    from_json,
    parse_json,
    protocol_train,
    replace_checked,
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
selections = st.one_of(st.just("all"), counts.map("every:{}".format), counts.map("first:{}".format), counts.map("0-{}".format))
selections = selections.filter(lambda text: len(text) < 16)
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
    images=selections.filter(lambda text: text != "every:1000000000" and text != "first:1000000000" and text != "0-1000000000"),
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


def test_every_field_is_in_the_key() -> None:
    changes: dict[str, Any] = {
        "method": "other",
        "variant": "other",
        "hyperparameters": {},
        "dataset": "other",
        "sigma": 0.25,
        "seed": 4,
        "recipe": "paper",
        "protocol": "quick",
        "train": dataclasses.replace(TRAIN, epochs=89),
        "changes": {"copies": 4},
    }
    assert set(changes) == {f.name for f in dataclasses.fields(RunSpec)}
    keys = {RUN.key} | {dataclasses.replace(RUN, **{name: value}).key for name, value in changes.items()}
    assert len(keys) == len(changes) + 1
    train_changes: dict[str, Any] = {
        "arch": "other",
        "epochs": 1,
        "clock": 91,
        "batch": 65,
        "lr": 0.02,
        "lr_step": 31,
        "lr_lag": 0,
        "lr_gamma": 0.2,
        "momentum": 0.8,
        "nesterov": True,
        "weight_decay": 0.0,
        "images": "first:10",
        "augment": "crop",
        "devices": 2,
    }
    assert set(train_changes) | {"precision", "sync_batchnorm"} == {f.name for f in dataclasses.fields(TrainSpec)}
    keys = {dataclasses.replace(RUN, train=dataclasses.replace(TRAIN, **{k: v})).key for k, v in train_changes.items()}
    assert len(keys | {RUN.key}) == len(train_changes) + 1
    synchronised = dataclasses.replace(RUN, train=dataclasses.replace(TRAIN, devices=2, sync_batchnorm=True))
    assert synchronised.key not in keys
    certify_changes: dict[str, Any] = {"n0": 101, "n": 99, "images": "every:20", "seed": 1, "sampling": "grid", "changes": {"n": 99}}
    certify_changes |= {"skip_misclassified": True, "stop_alpha": 0.01, "radius_step": 0.5}
    assert set(certify_changes) | {"rule", "precision"} == {f.name for f in dataclasses.fields(CertifySpec)}
    keys = {dataclasses.replace(CERTIFY, **{k: v}).key for k, v in certify_changes.items()}
    assert len(keys | {CERTIFY.key}) == len(certify_changes) + 1


def test_equal_specs_have_equal_keys_whatever_the_order_and_number_type() -> None:
    shuffled = dataclasses.replace(RUN, hyperparameters=dict(reversed(list(RUN.hyperparameters.items()))))
    assert shuffled == RUN
    assert shuffled.key == RUN.key
    one, same = dataclasses.replace(RUN, sigma=1), dataclasses.replace(RUN, sigma=1.0)
    assert one == same
    assert one.key == same.key
    assert (
        dataclasses.replace(RUN, train=dataclasses.replace(TRAIN, lr=1)).key
        == dataclasses.replace(RUN, train=dataclasses.replace(TRAIN, lr=1.0)).key
    )


def test_equal_selections_have_equal_keys() -> None:
    assert dataclasses.replace(CERTIFY, images="every=20").key == dataclasses.replace(CERTIFY, images="every:20").key
    assert dataclasses.replace(RUN, train=dataclasses.replace(TRAIN, images="first=9")).key == (
        dataclasses.replace(RUN, train=dataclasses.replace(TRAIN, images="first:9")).key
    )


def test_alpha_device_paths_and_workers_are_in_no_key() -> None:
    words = {"alpha", "device", "path", "out", "workers", "host", "threads", "jobs"}
    for spec in (RUN, CERTIFY):
        text = to_json(spec)
        assert not words & set(text)
        assert not words & set(text.get("train", {}))
    assert "batch" not in to_json(CERTIFY)


def test_a_field_that_came_later_leaves_published_keys_alone() -> None:
    quick = PROTOCOLS["quick"].certify
    assert quick.key == "c439a80df934124f"  # a folder in results/reference
    assert "sampling" not in to_json(quick)
    grid = dataclasses.replace(quick, sampling="grid")
    assert to_json(grid)["sampling"] == "grid"
    assert from_json(CertifySpec, canonical(to_json(grid)), "x") == grid
    with pytest.raises(ValueError, match=r"sampling=gird is not supported; did you mean 'grid'\?"):
        dataclasses.replace(quick, sampling="gird")


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


def altered(**changes: Any) -> str:
    return json.dumps({name: value for name, value in (to_json(RUN) | changes).items() if value != "GONE"})


def altered_train(**changes: Any) -> str:
    return altered(train={name: value for name, value in (to_json(RUN)["train"] | changes).items() if value != "GONE"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a valid spec"),
        ("{", "not a valid spec"),
        ("[]", "schema version None"),
        ("7", "schema version None"),
        ("{}", "schema version None"),
        (altered(schema=2), "schema version 2 is not 1"),
        (altered(schema=True), "schema version True is not 1"),
        (altered(schema="1"), "schema version '1' is not 1"),
        (altered(schema="GONE"), "schema version None"),
        (altered(methods="x"), r"unknown key 'methods'; did you mean 'method'\?"),
        (altered(seed="GONE"), "key 'seed' is missing"),
        (altered(train="GONE"), "key 'train' is missing"),
        (altered_train(epochs="GONE"), "train: key 'epochs' is missing"),
        (altered_train(lrr=1), r"train: unknown key 'lrr'; did you mean 'lr'\?"),
        (altered_train(epochs=1.5), "epochs must be a whole number"),
        (altered_train(epochs="90"), "epochs must be a whole number, not the text '90'"),
        (altered_train(epochs=True), "epochs must be a whole number"),
        (altered_train(epochs=None), "epochs must be a whole number"),
        (altered_train(epochs=0), "epochs=0 must be greater than 0"),
        (altered_train(lr=-0.1), "lr=-0.1 must be greater than 0"),
        (altered_train(lr="0.1"), "lr must be a finite number, not the text '0.1'"),
        (altered_train(nesterov=1), "nesterov must be true or false"),
        (altered_train(nesterov=True, momentum=0.0), "nesterov=true needs a momentum"),
        (altered_train(momentum=-1.0), "momentum=-1.0 must not be negative"),
        (altered_train(precision="bfloat16"), "precision=bfloat16 is not supported"),
        (altered_train(images="some"), "images=some is no selection"),
        (altered_train(arch=7), "arch must be a word"),
        (altered(train=[]), "train: expected an object, found list"),
        (altered(hyperparameters=[1]), "hyperparameters must be an object of plain values"),
        (altered(hyperparameters={"x": [1]}), "hyperparameters must be an object of plain values"),
        (altered(sigma=0), "sigma 0.0 must be a finite number greater than 0"),
        (altered(sigma=-0.5), "sigma -0.5 must be"),
        (altered(seed=-1), r"seed -1 must lie in 0 \.\. 2\*\*63 - 1"),
        (altered(seed=2**63), "seed 9223372036854775808 must lie in"),
        (altered(seed=0.0), "seed must be a whole number"),
        (altered(method="../../etc"), r"method '\.\./\.\./etc' is not a name"),
        (altered(method="Mine"), "method 'Mine' is not a name"),
        (altered(method="mine\n"), r"method 'mine\\n' is not a name"),
        (altered(method="a.b"), "is not a name"),
        (altered(method=""), "is not a name"),
        (altered(variant="a" * 65), "is not a name"),
        (altered(dataset="a/b"), "is not a name"),
        (altered(recipe="-rf"), "is not a name"),
        (altered(protocol=".."), "is not a name"),
        (altered().replace('"sigma": 0.5', '"sigma": NaN'), "NaN is not a number of JSON"),
        (altered().replace('"sigma": 0.5', '"sigma": Infinity'), "Infinity is not a number of JSON"),
        (altered().replace('"sigma": 0.5', '"sigma": -Infinity'), "-Infinity is not a number of JSON"),
        (altered().replace('"sigma": 0.5', '"sigma": 1e999'), "1e999|finite"),
        (altered().replace('"strength": 5.0', '"strength": 1e999'), "1e999|finite|number of JSON"),
        (altered().replace('"seed": 3', '"seed": 3, "seed": 3'), "a key stands twice"),
        (altered().replace('"lr": 0.01', '"lr": 0.01, "lr": 0.02'), "a key stands twice"),
        (altered().replace('"seed": 3', '"seed": ' + "9" * 5000), "not a valid spec"),
        ("[" * 100_000, "not a valid spec"),
    ],
)
def test_bad_run_specs_are_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(BenchError, match=message) as caught:
        from_json(RunSpec, text, "folder/spec.json")
    assert str(caught.value).startswith("folder/spec.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "n=0 must be greater than 0"),
        ({"n0": -100}, "n0=-100 must be greater than 0"),
        ({"n": 1e5}, "n must be a whole number"),
        ({"rule": "hoeffding"}, "rule=hoeffding is not supported"),
        ({"precision": "float16"}, "precision=float16 is not supported"),
        ({"images": "every:0"}, "no selection"),
        ({"alpha": 0.001}, "unknown key 'alpha'"),
    ],
)
def test_bad_certify_specs_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        from_json(CertifySpec, json.dumps(to_json(CERTIFY) | change), "here")


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(BenchError, match="not a valid spec"):
        from_json(RunSpec, b"\xff\xfe\x00{", "here")


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


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("all", 5, [0, 1, 2, 3, 4]),
        ("all", 0, []),
        ("every:20", 50, [0, 20, 40]),
        ("every=20", 50, [0, 20, 40]),
        ("every:1", 3, [0, 1, 2]),
        ("every:100", 50, [0]),
        ("first:3", 50, [0, 1, 2]),
        ("first=3", 50, [0, 1, 2]),
        ("first:99", 4, [0, 1, 2, 3]),
        ("2-4", 50, [2, 3, 4]),
        ("0-0", 50, [0]),
        ("48-60", 50, [48, 49]),
        ("50-60", 50, []),
    ],
)
def test_selections(text: str, size: int, expected: list[int]) -> None:
    assert list(select_images(text, size)) == expected


@pytest.mark.parametrize(
    "text",
    [
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
        "first:" + "9" * 30,
        "0-" + "9" * 30,
        "every:٣",
        "٣-٤",
    ],
)
def test_words_that_select_nothing_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no selection of images: write all, every:20, first:500 or 500-999"):
        select_images(text, 50)


# --------------------------------------------------------------------------------------------------- words to values

Loss = Literal["kl", "cross-entropy"]


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("0.5", float, 0.5),
        ("5", float, 5.0),
        (5, float, 5.0),
        ("1e-8", float, 1e-8),
        ("-0.5", float, -0.5),
        ("5", int, 5),
        ("-5", int, -5),
        ("+5", int, 5),
        (5, int, 5),
        ("true", bool, True),
        ("False", bool, False),
        (True, bool, True),
        ("none", float | None, None),
        ("None", float | None, None),
        (None, float | None, None),
        ("2", float | None, 2.0),
        ("kl", Loss, "kl"),
        ("word", str, "word"),
        ("none", str, "none"),
    ],
)
def test_coerce(value: object, kind: Any, expected: object) -> None:
    found = coerce(value, kind)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("half", float, "must be a finite number"),
        ("nan", float, "must be a finite number"),
        ("inf", float, "must be a finite number"),
        ("-Infinity", float, "must be a finite number"),
        ("1e999", float, "must be a finite number"),
        (10**400, float, "must be a finite number"),
        (True, float, "must be a finite number"),
        ("none", float, "must be a finite number"),
        ("", float, "must be a finite number"),
        ("5.0", int, "must be a whole number"),
        (5.0, int, "must be a whole number"),
        (True, int, "must be a whole number"),
        ("9" * 30, int, "must be a whole number"),
        ("5 ", int, "must be a whole number"),
        ("1_000", int, "must be a whole number"),
        ("1", bool, "must be true or false"),
        (1, bool, "must be true or false"),
        ("yes", bool, "must be true or false"),
        ("half", float | None, "must be a finite number or none"),
        ("kll", Loss, "must be one of kl, cross-entropy; did you mean 'kl'?"),
        (7, str, "must be a word"),
        ([1], float, "must be a finite number"),
        ({}, int, "must be a whole number"),
    ],
)
def test_coerce_refuses(value: object, kind: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        coerce(value, kind)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (float, "a finite number"),
        (int | None, "a whole number or none"),
        (Loss, "kl | cross-entropy"),
        (bool, "true or false"),
        (str, "a word"),
    ],
)
def test_types_in_words(kind: Any, words: str) -> None:
    assert describe_type(kind) == words


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
