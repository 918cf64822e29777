"""The hyperparameters of the paper and of its authors' code, as a literal table, against what the methods' files say."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import beta, norm

from bench.datasets import DATASETS, recipe_train
from bench.method import Method
from bench.registry import Registry
from bench.spec import RECIPES
from bench.train.passes import pairs_per_image
from methods.adaptive import JUDGES, Adaptive, weight_of
from methods.catrs import CatRS
from methods.consistency import Consistency
from methods.gaussian import Gaussian
from methods.macer import Macer
from methods.smoothadv import SmoothAdv
from methods.smoothmix import SmoothMix
from methods.sphere import Sphere
from methods.stability import Stability

STABILITY = {  # lambda
    ("mnist", 0.25): 2.0,
    ("mnist", 0.5): 2.0,
    ("mnist", 1.0): 2.0,
    ("cifar10", 0.25): 2.0,
    ("cifar10", 0.5): 2.0,
    ("cifar10", 1.0): 1.0,
}
SMOOTHADV = {  # m, T
    ("mnist", 0.25): (4, 10),
    ("mnist", 0.5): (4, 10),
    ("mnist", 1.0): (4, 10),
    ("cifar10", 0.25): (8, 10),
    ("cifar10", 0.5): (8, 10),
    ("cifar10", 1.0): (8, 10),
}
SMOOTHADV_EPSILON = {"official": 0.99609375, "paper": 1.0}  # 255/256
SMOOTHADV_IMAGENET = {("imagenet", 0.5): 0.99609375, ("imagenet", 1.0): 2.0}  # one step
MACER = {  # lambda, deferral of the official code, of the paper
    ("mnist", 0.25): (16.0, 31, 0),
    ("mnist", 0.5): (16.0, 31, 0),
    ("mnist", 1.0): (6.0, 31, 0),
    ("cifar10", 0.25): (12.0, 0, 0),
    ("cifar10", 0.5): (4.0, 0, 0),
    ("cifar10", 1.0): (12.0, 51, 50),
}
CONSISTENCY = {  # lambda, eta
    ("mnist", 0.25): (10.0, 0.5),
    ("mnist", 0.5): (5.0, 0.5),
    ("mnist", 1.0): (5.0, 0.5),
    ("cifar10", 0.25): (20.0, 0.5),
    ("cifar10", 0.5): (10.0, 0.5),
    ("cifar10", 1.0): (10.0, 0.5),
    ("imagenet", 0.5): (5.0, 0.5),
    ("imagenet", 1.0): (5.0, 0.1),
}
ADAPTIVE = {  # E_t, p_t, T, eps, epochs between weightings; on MNIST ours: 90/150 of the epochs
    ("cifar10", 0.25): (60, 0.5, 3, 0.25, 10),
    ("cifar10", 0.5): (70, 0.4, 6, 0.25, 10),
    ("cifar10", 1.0): (60, 0.4, 4, 0.5, 10),
    ("mnist", 0.25): (36, 0.5, 3, 0.25, 6),
    ("mnist", 0.5): (42, 0.4, 6, 0.25, 6),
    ("mnist", 1.0): (36, 0.4, 4, 0.5, 6),
}
CATRS = {  # M, T, lambda, and what ImageNet has of its own; lambda on MNIST at .5 and 1 is ours
    **{("mnist", sigma): (4, 4, 1.0, "batch", None) for sigma in (0.25, 0.5, 1.0)},
    **{("cifar10", sigma): (4, 4, strength, "batch", None) for sigma, strength in ((0.25, 0.5), (0.5, 1.0), (1.0, 2.0))},
    ("imagenet", 1.0): (2, 1, 2.0, "prior", 80),
}
SPHERE = {  # T, eps; the MNIST rows are ours
    (dataset, sigma): values
    for dataset in ("cifar10", "mnist")
    for sigma, values in {0.25: (3, 0.25), 0.5: (6, 0.25), 1.0: (4, 0.5)}.items()
}
SMOOTHMIX = {  # m, T, alpha, eta, one step, norm limit, limit of the replacement
    ("eta1", "mnist", 0.25): (4, 3, 1.0, 1.0, False, None, None),
    ("eta1", "mnist", 0.5): (4, 4, 1.0, 1.0, False, None, None),
    ("eta1", "mnist", 1.0): (4, 8, 1.0, 1.0, False, None, None),
    ("eta1-onestep", "mnist", 0.25): (4, 3, 1.0, 1.0, True, None, None),
    ("eta1-onestep", "mnist", 0.5): (4, 4, 1.0, 1.0, True, None, None),
    ("eta1-onestep", "mnist", 1.0): (4, 8, 1.0, 1.0, True, None, None),
    ("eta5", "mnist", 0.25): (4, 2, 1.0, 5.0, False, None, None),
    ("eta5", "mnist", 0.5): (4, 4, 1.0, 5.0, False, None, None),
    ("eta5", "mnist", 1.0): (4, 8, 1.0, 5.0, False, None, None),
    ("eta5-onestep", "mnist", 0.25): (4, 2, 1.0, 5.0, True, None, None),
    ("eta5-onestep", "mnist", 0.5): (4, 4, 1.0, 5.0, True, None, None),
    ("eta5-onestep", "mnist", 1.0): (4, 8, 1.0, 5.0, True, None, None),
    ("eta1-norm2", "mnist", 1.0): (4, 8, 1.0, 1.0, False, 2.0, None),
    ("eta1-norm4", "mnist", 1.0): (4, 8, 1.0, 1.0, False, 4.0, None),
    ("eta1-norm6", "mnist", 1.0): (4, 8, 1.0, 1.0, False, 6.0, None),
    ("eta1-norm8", "mnist", 1.0): (4, 8, 1.0, 1.0, False, 8.0, None),
    ("eta5", "cifar10", 0.25): (2, 4, 0.5, 5.0, False, None, None),
    ("eta5", "cifar10", 0.5): (2, 4, 1.0, 5.0, False, None, None),
    ("eta5", "cifar10", 1.0): (2, 4, 2.0, 5.0, False, None, None),
    ("eta5-onestep", "cifar10", 0.25): (2, 4, 0.5, 5.0, True, None, None),
    ("eta5-onestep", "cifar10", 0.5): (2, 4, 1.0, 5.0, True, None, None),
    ("eta5-onestep", "cifar10", 1.0): (2, 4, 2.0, 5.0, True, None, None),
    ("eta5-onestep", "imagenet", 0.5): (1, 1, 8.0, 5.0, True, None, 1.0),
    ("eta5-onestep", "imagenet", 1.0): (1, 1, 8.0, 5.0, True, None, 1.0),
}
SMOOTHMIX_SWITCHES: dict[str, dict[str, object]] = {
    "official": {"clip": True, "mask_wrong": True, "warmup_epochs": 10, "reproject": True, "mix_loss": "kl", "guard": 1e-8},
    "paper": {"clip": False, "mask_wrong": False, "warmup_epochs": 0, "reproject": False, "mix_loss": "cross-entropy", "guard": 0.0},
}


def expected(cls: type[Method]) -> dict[tuple[str, str, str, float], dict[str, object]]:
    rows: dict[tuple[str, str, str, float], dict[str, object]] = {}
    for recipe in ("official", "paper"):
        if cls is Stability:
            for where, strength in STABILITY.items():
                rows[recipe, "default", *where] = {"strength": strength, "two_copies": False}
                rows[recipe, "two-copy", *where] = {"strength": 6.0, "two_copies": True}
        if cls is CatRS:
            for (dataset, sigma), own in CATRS.items():
                called = ("copies", "steps", "strength", "confidence", "doubled_from")
                same: dict[str, object] = {"epsilon": 1.0, "votes": 10_000, "prior_sigma": 0.25, **dict(zip(called, own, strict=True))}
                rows[recipe, "default", dataset, sigma] = same | {"target": "prior"}
                if dataset != "imagenet":
                    rows[recipe, "self", dataset, sigma] = same | {"target": "self"}
        if cls is Adaptive:
            words = ("start", "threshold", "steps", "epsilon", "every")
            for where, settings in ADAPTIVE.items():
                switched_on: dict[str, object] = {"copies": 4, "discard": True, "weighted": True, "attack": True}
                rows[recipe, "default", *where] = dict(zip(words, settings, strict=True)) | switched_on
        if cls is Sphere:
            for (dataset, sigma), (steps, epsilon) in SPHERE.items():
                rows[recipe, "default", dataset, sigma] = {"copies": 4, "steps": steps, "epsilon": epsilon}
        if cls is SmoothAdv:
            start: dict[str, object] = {"warmup_epochs": 10, "warmup_first": {"official": 1.0, "paper": 0.0}[recipe]}
            for where, (copies, steps) in SMOOTHADV.items():
                rows[recipe, "default", *where] = {"copies": copies, "steps": steps, "epsilon": SMOOTHADV_EPSILON[recipe], **start}
            for where, epsilon in SMOOTHADV_IMAGENET.items():
                rows[recipe, "default", *where] = {"copies": 1, "steps": 1, "epsilon": epsilon, **start}
        if cls is Macer:
            for where, (strength, official, paper) in MACER.items():
                deferral = official if recipe == "official" else paper
                rows[recipe, "default", *where] = {
                    "copies": 16,
                    "strength": strength,
                    "temperature": 16.0,
                    "margin": 8.0,
                    "deferral": deferral,
                }
        if cls is Consistency:
            for where, (strength, eta) in CONSISTENCY.items():
                rows[recipe, "default", *where] = {"copies": 2, "strength": strength, "entropy_strength": eta}
        if cls is SmoothMix:
            for (variant, dataset, sigma), values in SMOOTHMIX.items():
                names = ("copies", "steps", "step_size", "strength", "one_step", "norm_limit", "one_step_limit")
                rows[recipe, variant, dataset, sigma] = {
                    **dict(zip(names, values, strict=True)),
                    **SMOOTHMIX_SWITCHES[recipe],
                    "detach_target": False,
                }
    return rows


@pytest.mark.parametrize("cls", [Gaussian, Stability, SmoothAdv, Macer, Consistency, SmoothMix, Sphere, Adaptive, CatRS])
def test_presets_are_the_published_hyperparameters(cls: type[Method]) -> None:
    assert {key: dataclasses.asdict(preset) for key, preset in cls.presets.items()} == expected(cls)


def test_default_variants_and_the_field_defaults() -> None:
    assert SmoothMix.variants[0] == "eta5"
    assert set(SmoothMix.variants) == {variant for variant, *_ in SMOOTHMIX}
    assert Stability.variants == ("default", "two-copy")
    assert CatRS.variants == ("default", "self")
    assert CatRS(target="self").surveys() == {}
    for cls in (Gaussian, SmoothAdv, Macer, Consistency, Sphere, Adaptive):
        assert cls.variants == ("default",)


CHUNKS = {Gaussian: 1, Stability: 1, SmoothAdv: 4, Macer: 1, Consistency: 2, SmoothMix: 4, Sphere: 4, Adaptive: 4, CatRS: 4}


@pytest.mark.parametrize("cls", CHUNKS)
def test_the_official_recipe_steps_on_256_over_m_images(cls: type[Method]) -> None:
    preset = next((p for (recipe, _, dataset, _), p in cls.presets.items() if (recipe, dataset) == ("official", "mnist")), None) or cls()
    chunks = preset.chunks if isinstance(preset.chunks, int) else getattr(preset, preset.chunks)
    assert chunks == CHUNKS[cls]
    official = recipe_train(DATASETS["mnist"], "official", chunks)
    assert (official.batch, official.nesterov) == (256 // CHUNKS[cls], False)
    paper = recipe_train(DATASETS["mnist"], "paper", chunks)
    assert (paper.batch, paper.nesterov) == (256, True)


@pytest.mark.parametrize(("recipe", "lengths"), [("official", [31, 30, 29]), ("paper", [30, 30, 30])])
def test_learning_rate_falls_tenfold_after(recipe: str, lengths: list[int]) -> None:
    train = recipe_train(DATASETS["mnist"], recipe, 1)
    rates = [train.lr_at(epoch) for epoch in range(90)]
    assert rates == pytest.approx([0.01] * lengths[0] + [0.001] * lengths[1] + [0.0001] * lengths[2], rel=1e-12)


def test_the_rest_of_the_training_recipe() -> None:
    for recipe in RECIPES:
        train = dataclasses.asdict(recipe_train(DATASETS["mnist"], recipe, 1))
        wanted = {"arch": "lenet", "epochs": 90, "clock": 90, "lr": 0.01, "lr_step": 30, "lr_gamma": 0.1}
        wanted |= {"momentum": 0.9, "weight_decay": 1e-4, "images": "all", "batch": 256}
        assert {name: train[name] for name in wanted} == wanted
        assert train["lr_lag"] == {"official": 1, "paper": 0}[recipe]
    info = DATASETS["mnist"]
    assert (info.classes, info.shape, info.sigmas) == (10, (1, 28, 28), (0.25, 0.5, 1.0))
    assert (info.mean, info.std) == ((0.0,), (1.0,))


COSTS: list[tuple[Method, float]] = [
    (Gaussian(), 1),
    (Stability(), 2),
    (Consistency(copies=2), 2),
    (Consistency(copies=5), 5),
    (Macer(copies=16), 16),
    (Macer.presets["official", "default", "mnist", 0.25], 16),
    (SmoothAdv(copies=4, steps=10), 44),
    (SmoothAdv(copies=8, steps=10), 88),
    (SmoothAdv(copies=1, steps=1), 2),
    (SmoothMix(copies=4, steps=2), 16),
    (SmoothMix(copies=4, steps=8), 40),
    (SmoothMix(copies=4, steps=8, one_step=True), 40),
    (SmoothMix(copies=2, steps=4), 12),
    (SmoothMix(copies=1, steps=1), 3),
    (Stability(two_copies=True), 2),
    (Sphere(copies=4, steps=6), 28),
    (CatRS(copies=4, steps=4), 24),
    (CatRS(copies=2, steps=1), 6),
    (Adaptive(copies=4, steps=6, start=60), (60 * 4 + 30 * 28) / 90),  # Gaussian before
    (Adaptive(copies=4, attack=False), 4),
]


@pytest.mark.parametrize(("method", "pairs"), COSTS, ids=[f"{type(m).__name__}-{c:g}" for m, c in COSTS])
def test_forward_and_backward_pairs_per_image(method: Method, pairs: float) -> None:
    """Gaussian 1, Stability 2, Consistency m, MACER m, SmoothAdv m(T+1), SmoothMix m(T+2)."""
    assert pairs_per_image(method, DATASETS["mnist"]) == pytest.approx(pairs)


def test_weights_of_the_adaptive_training_by_the_number_of_right_answers() -> None:
    """Phi^-1 of the one-sided 90 % Clopper-Pearson lower bound: as published to four digits, and by scipy to nine."""
    assert [round(weight_of(count), 4) for count in range(12, 17)] == [0.1537, 0.3286, 0.5257, 0.7649, 1.1075]
    for count in range(12, 17):
        assert weight_of(count) == pytest.approx(norm.ppf(beta.ppf(0.1, count, JUDGES - count + 1)), rel=1e-9)


def test_which_images_the_adaptive_training_draws_and_how_often() -> None:
    """By hand: 40 of 100 stays at p_t .4 and 39 does not; below 12 of 16 counts as 12; each part can be switched off."""
    right = {
        "discard": torch.tensor([40.0, 39.0, 100.0, 41.0, 0.0]).double() / 100,
        "weight": torch.tensor([16, 16, 15, 3, 12]).double() / 16,
    }
    y = torch.zeros(5, dtype=torch.int64)
    both = Adaptive(threshold=0.4).weights(y, right, 60.0)
    assert both is not None
    assert both.tolist() == pytest.approx([1.1075, 0, 0.7649, 0.1537, 0], abs=5e-5)
    kept = Adaptive(threshold=0.4, weighted=False).weights(y, {"discard": right["discard"]}, 60.0)
    assert kept is not None
    assert kept.tolist() == [1, 0, 1, 1, 0]
    weighted = Adaptive(discard=False).weights(y, {"weight": right["weight"]}, 60.0)
    assert weighted is not None
    assert weighted.tolist() == pytest.approx([1.1075, 1.1075, 0.7649, 0.1537, 0.1537], abs=5e-5)
    assert Adaptive().weights(y, {}, 0.0) is None
    assert Adaptive(discard=False, weighted=False).surveys() == {}
    asked = Adaptive(start=60).surveys()
    assert list(asked["discard"].epochs(150)) == [60]
    assert list(asked["weight"].epochs(150)) == [60, 70, 80, 90, 100, 110, 120, 130, 140]
    assert {name: survey.copies for name, survey in asked.items()} == {"discard": 100, "weight": 16}
    shares = [k / 16 for k in range(17)]  # every share of 16 finds its own weight, whatever rounding does to it
    found = Adaptive(discard=False).weights(torch.zeros(17), {"weight": torch.tensor(shares, dtype=torch.float64)}, 0.0)
    assert found is not None
    assert found.tolist() == pytest.approx([weight_of(max(12, k)) for k in range(17)], rel=1e-12)


def test_the_page_of_methods_names_every_one_with_what_it_costs() -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "notes" / "methods.md").read_text(encoding="utf-8")
    told = {row: float(pairs) for row, pairs in re.findall(r"^\| `([^`]+)` \|[^|]*[a-z][^|]*\| ([\d.]+) \|", text, re.M)}
    registry = Registry()
    built_in = {name for name, entry in registry.entries().items() if entry.origin == "built in"}
    assert {row.partition(".")[0] for row in told} == built_in
    for row, pairs in told.items():
        name, _, variant = row.partition(".")
        cls = registry.load(name).cls
        preset = cls.presets.get(("official", variant or "default", "mnist", 0.5)) or cls()
        assert pairs_per_image(preset, DATASETS["mnist"]) == pytest.approx(pairs), row


@pytest.mark.parametrize(
    ("cls", "wrong"),
    [
        (Stability, {"strength": -1.0}),
        (Consistency, {"copies": 0}),
        (Consistency, {"entropy_strength": -0.5}),
        (Macer, {"copies": 0}),
        (Macer, {"temperature": 0.0}),
        (Macer, {"margin": 0.0}),
        (Macer, {"deferral": -1}),
        (SmoothAdv, {"steps": 0}),
        (SmoothAdv, {"epsilon": -1.0}),
        (SmoothMix, {"steps": 0}),
        (Sphere, {"steps": 0}),
        (CatRS, {"steps": 0}),
        (CatRS, {"prior_sigma": 0.0}),
        (Adaptive, {"every": 0}),
        (Adaptive, {"threshold": 1.5}),
        (Sphere, {"epsilon": -0.1}),
        (SmoothMix, {"step_size": 0.0}),
        (SmoothMix, {"guard": -1e-8}),
        (SmoothMix, {"norm_limit": 0.0}),
        (SmoothMix, {"one_step_limit": -1.0}),
    ],
)
def test_impossible_hyperparameters_are_refused(cls: type[Method], wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        cls(**wrong)


@pytest.mark.parametrize("cls", [Gaussian, Stability, SmoothAdv, Macer, Consistency, SmoothMix, Sphere, Adaptive, CatRS])
def test_methods_are_frozen_and_keyword_only(cls: type[Method]) -> None:
    assert all(f.kw_only for f in dataclasses.fields(cls))
    for f in dataclasses.fields(cls):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(cls(), f.name, 0)
    assert hash(cls()) == hash(cls())
