"""Normalised L2 ascent: step lengths, images without gradient, and what the attack leaves behind."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from bench.attacks import ascend, project_l2
from bench.smoothing import SmoothedClassifier


class Affine(nn.Module):
    """Two classes: a constant logit for class 0, the mean pixel for class 1; with dropout and batch norm on the way."""

    def __init__(self, margin: float, slope: float = 1.0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.drop = nn.Dropout(0.5)
        self.margin = nn.Parameter(torch.tensor(margin))
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.drop(self.norm(x)).mean((1, 2, 3))
        return torch.stack([mean * 0 + self.margin, mean * self.slope], 1)


def setup(margin: float = 1.0, slope: float = 1.0) -> tuple[SmoothedClassifier, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(3, 1, 28, 28, generator=generator)
    g = SmoothedClassifier(Affine(margin, slope).train(), 0.25, generator)
    return g, x, torch.tensor([0, 0, 0]), g.noise(x, 2)


def lengths(x: Tensor) -> Tensor:
    return (x.double() ** 2).sum((1, 2, 3)).sqrt()


@pytest.mark.parametrize("step_size", [0.1, 1.0, 8.0])
def test_every_step_has_exactly_the_step_size(step_size: float) -> None:
    g, x, y, noise = setup()
    path = ascend(g, x, y, noise, steps=4, step_size=step_size)
    assert len(path) == 5
    assert torch.equal(path[0], x)
    for before, after in pairwise(path):
        assert lengths(after - before) == pytest.approx([step_size] * 3, rel=1e-5)


@pytest.mark.parametrize("margin", [0.0, 10.0, 30.0, 45.0, 50.0, 60.0, 70.0, 80.0])
def test_steps_keep_their_length_where_the_gradient_is_tiny(margin: float) -> None:
    """A confident network: gradients of e^-margin / 784, whose squares vanish in float32 from about e^-45 on."""
    g, x, y, noise = setup(margin)
    path = ascend(g, x, y, noise, steps=1, step_size=1.0)
    assert lengths(path[1] - x) == pytest.approx([1.0] * 3, rel=1e-4)


@pytest.mark.parametrize("margin", [85.0, 90.0, 95.0, 100.0, 1000.0])
def test_a_vanishing_gradient_never_gives_a_longer_step(margin: float) -> None:
    g, x, y, noise = setup(margin)
    path = ascend(g, x, y, noise, steps=3, step_size=1.0)
    for before, after in pairwise(path):
        assert (lengths(after - before) <= 1.0001).all()


def test_the_step_goes_uphill_along_the_gradient() -> None:
    g, x, y, noise = setup(0.0, slope=3.0)
    path = ascend(g, x, y, noise, steps=1, step_size=1.0)
    assert path[1] - x == pytest.approx(torch.full_like(x, 1 / 28).numpy(), abs=1e-5)  # class 1 grows with every pixel
    other = ascend(g, x, torch.ones_like(y), noise, steps=1, step_size=1.0)
    assert other[1] - x == pytest.approx(torch.full_like(x, -1 / 28).numpy(), abs=1e-5)


@pytest.mark.parametrize("guard", [0.0, 1e-8])
def test_an_image_without_gradient_stays_put(guard: float) -> None:
    g, x, y, noise = setup(1.0, slope=0.0)
    for point in ascend(g, x, y, noise, steps=3, step_size=1.0, guard=guard):
        assert torch.equal(point, x)


def test_a_label_below_the_floor_has_no_gradient() -> None:
    """-log clamp(pbar_y, 1e-20): with probability e^-60 of the label the image stays; with e^-40 it moves."""
    for margin, moves in ((-60.0, False), (-40.0, True)):
        g, x, y, noise = setup(margin)
        path = ascend(g, x, y, noise, steps=1, step_size=1.0)
        assert torch.equal(path[1], x) is not moves


def test_the_guard_shortens_the_step() -> None:
    g, x, y, noise = setup()
    free = ascend(g, x, y, noise, steps=1, step_size=1.0)[1] - x
    held = ascend(g, x, y, noise, steps=1, step_size=1.0, guard=1.0)[1] - x
    assert (lengths(held) < 0.9 * lengths(free)).all()
    assert torch.nn.functional.cosine_similarity(free.flatten(1), held.flatten(1)).min() > 0.9999


def test_every_new_iterate_is_restricted_but_not_the_start() -> None:
    g, x, y, noise = setup()
    path = ascend(g, x + 5, y, noise, steps=3, step_size=1.0, restrict=lambda z: z.clamp(0, 1))
    assert torch.equal(path[0], x + 5)
    assert all(float(point.min()) >= 0 and float(point.max()) <= 1 for point in path[1:])


def test_iterates_are_detached_and_the_image_is_left_alone() -> None:
    g, x, y, noise = setup()
    before = x.clone()
    x.requires_grad_(True)
    path = ascend(g, x, y, noise, steps=2, step_size=1.0)
    assert not any(point.requires_grad or point.grad is not None for point in path)
    assert x.requires_grad
    assert x.grad is None
    assert torch.equal(x, before)
    assert all(p.grad is None for p in g.base.parameters())


def test_the_attack_works_under_no_grad() -> None:
    g, x, y, noise = setup()
    outside = ascend(g, x, y, noise, steps=2, step_size=1.0)[-1]
    with torch.no_grad():
        assert torch.equal(ascend(g, x, y, noise, steps=2, step_size=1.0)[-1], outside)
        assert not torch.is_grad_enabled()


def test_the_attack_draws_nothing() -> None:
    g, x, y, noise = setup()
    own, ambient = g.generator.get_state(), torch.random.get_rng_state()
    first = ascend(g, x, y, noise, steps=3, step_size=1.0)
    assert torch.equal(g.generator.get_state(), own)
    assert torch.equal(torch.random.get_rng_state(), ambient)
    assert all(map(torch.equal, first, ascend(g, x, y, noise, steps=3, step_size=1.0)))


class Stubborn(Exception):
    pass


@pytest.mark.parametrize("fails", [False, True])
def test_modes_flags_and_running_statistics_come_back(fails: bool) -> None:
    g, x, y, noise = setup()
    base = g.base
    assert isinstance(base, Affine)
    base.drop.eval()  # a mixture of modes and flags
    base.slope.requires_grad_(False)
    modes = {name: module.training for name, module in base.named_modules()}
    flags = {name: p.requires_grad for name, p in base.named_parameters()}
    buffers = {name: b.clone() for name, b in base.named_buffers()}
    seen: list[bool] = []

    def spy(module: nn.Module, _: object) -> None:
        seen.extend([module.training, any(p.requires_grad for p in module.parameters())])
        if fails:
            raise Stubborn

    base.norm.register_forward_pre_hook(spy)
    if fails:
        with pytest.raises(Stubborn):
            ascend(g, x, y, noise, steps=2, step_size=1.0)
    else:
        ascend(g, x, y, noise, steps=2, step_size=1.0)
    assert seen
    assert not any(seen)
    assert {name: module.training for name, module in base.named_modules()} == modes
    assert {name: p.requires_grad for name, p in base.named_parameters()} == flags
    assert all(torch.equal(b, buffers[name]) for name, b in base.named_buffers())
    assert set(modes.values()) == {True, False}


# ----------------------------------------------------------------------------------------------------------- projection


def test_projection_onto_the_ball() -> None:
    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(6, 3, 5, 5, generator=generator, dtype=torch.float64)
    shift = torch.randn(6, 3, 5, 5, generator=generator, dtype=torch.float64)
    shift = shift / shift.flatten(1).norm(dim=1)[:, None, None, None]
    sizes = torch.tensor([0.0, 0.3, 0.999, 1.001, 2.0, 500.0], dtype=torch.float64)
    far = centre + shift * sizes[:, None, None, None]
    near = project_l2(far, centre, 1.0)
    assert torch.equal(near[:3], far[:3])  # inside: not a bit is moved
    assert (near[3:] - centre[3:]).flatten(1).norm(dim=1) == pytest.approx([1.0] * 3, rel=1e-12)
    assert (near[3:] - (centre + shift)[3:]).abs().max() < 1e-12
    assert (project_l2(near, centre, 1.0) - near).abs().max() < 1e-12


def test_projection_to_radius_zero_is_the_centre() -> None:
    centre = torch.rand(2, 1, 3, 3)
    assert torch.equal(project_l2(centre + 1, centre, 0.0), centre)
    assert torch.equal(project_l2(centre, centre, 0.0), centre)


def test_each_image_is_projected_on_its_own() -> None:
    centre = torch.zeros(2, 1, 1, 2)
    moved = project_l2(torch.tensor([[[[3.0, 4.0]]], [[[0.3, 0.4]]]]), centre, 1.0)
    assert moved[0].flatten().tolist() == pytest.approx([0.6, 0.8])
    assert moved[1].flatten().tolist() == pytest.approx([0.3, 0.4])
