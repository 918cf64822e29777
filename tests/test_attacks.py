"""Normalised L2 ascent: step lengths, images without gradient, and what the attack leaves behind."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.attacks import ascend, climb, mislead, project_l2
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


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.floats(0.0, 80.0), st.floats(0.1, 8.0), st.integers(1, 4))
def test_every_step_has_exactly_the_step_size(margin: float, step_size: float, steps: int) -> None:
    """Also where the network is confident: gradients are e^-margin / 784, whose squares vanish in float32 from about e^-45 on."""
    g, x, y, noise = setup(margin)
    path = ascend(g, x, y, noise, steps=steps, step_size=step_size)
    assert len(path) == steps + 1
    assert torch.equal(path[0], x)
    for before, after in pairwise(path):
        assert lengths(after - before) == pytest.approx([step_size] * 3, rel=1e-4)


@pytest.mark.parametrize("margin", [85.0, 90.0, 95.0, 100.0, 1000.0])
def test_a_vanishing_gradient_never_gives_a_longer_step(margin: float) -> None:
    g, x, y, noise = setup(margin)
    for before, after in pairwise(ascend(g, x, y, noise, steps=3, step_size=1.0)):
        assert (lengths(after - before) <= 1.0001).all()


def test_the_step_goes_uphill_along_the_gradient() -> None:
    g, x, y, noise = setup(0.0, slope=3.0)
    path = ascend(g, x, y, noise, steps=1, step_size=1.0)
    assert path[1] - x == pytest.approx(torch.full_like(x, 1 / 28).numpy(), abs=1e-5)  # class 1 grows with every pixel
    other = ascend(g, x, torch.ones_like(y), noise, steps=1, step_size=1.0)
    assert other[1] - x == pytest.approx(torch.full_like(x, -1 / 28).numpy(), abs=1e-5)


@pytest.mark.parametrize(
    ("margin", "slope", "guard", "moves"),
    [(1.0, 0.0, 0.0, False), (1.0, 0.0, 1e-8, False), (-60.0, 1.0, 0.0, False), (-40.0, 1.0, 0.0, True)],
)
def test_an_image_without_gradient_stays_put(margin: float, slope: float, guard: float, moves: bool) -> None:
    """Without a slope, or where the label's probability e^margin is below the floor of 1e-20."""
    g, x, y, noise = setup(margin, slope)
    for point in ascend(g, x, y, noise, steps=3, step_size=1.0, guard=guard)[1:]:
        assert torch.equal(point, x) is not moves


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


def test_nothing_is_drawn_and_nothing_keeps_a_gradient() -> None:
    """Nor does it matter whether gradients were switched off outside."""
    g, x, y, noise = setup()
    before, states = x.clone(), (g.generator.get_state(), torch.random.get_rng_state())
    x.requires_grad_(True)
    path = ascend(g, x, y, noise, steps=2, step_size=1.0)
    assert not any(point.requires_grad or point.grad is not None for point in path)
    assert x.requires_grad
    assert x.grad is None
    assert torch.equal(x, before)
    assert all(p.grad is None for p in g.base.parameters())
    with torch.no_grad():
        assert all(map(torch.equal, path, ascend(g, x, y, noise, steps=2, step_size=1.0)))
        assert not torch.is_grad_enabled()
    assert all(map(torch.equal, (g.generator.get_state(), torch.random.get_rng_state()), states))


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
    with pytest.raises(Stubborn) if fails else contextlib.nullcontext():
        ascend(g, x, y, noise, steps=2, step_size=1.0)
    assert seen
    assert not any(seen)
    assert {name: module.training for name, module in base.named_modules()} == modes
    assert {name: p.requires_grad for name, p in base.named_parameters()} == flags
    assert all(torch.equal(b, buffers[name]) for name, b in base.named_buffers())
    assert set(modes.values()) == {True, False}


# ------------------------------------------------------------------------------------------------- any objective, any variable


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.floats(0.1, 4.0), st.integers(1, 4), st.booleans())
def test_ascend_is_a_climb_on_the_smoothed_label(step_size: float, steps: int, clip: bool) -> None:
    g, x, y, noise = setup()
    restrict = (lambda z: z.clamp(0, 1)) if clip else None

    def objective(point: Tensor) -> Tensor:
        return -g.logits(point, noise).softmax(-1).mean(0)[range(3), y].log().sum()

    ours = climb(g, x, objective, steps=steps, step_size=step_size, restrict=restrict)
    theirs = ascend(g, x, y, noise, steps=steps, step_size=step_size, restrict=restrict)
    assert all((one - other).abs().max() < 1e-5 for one, other in zip(ours, theirs, strict=True))


def test_a_climb_in_the_noise_moves_every_copy_on_its_own() -> None:
    g, x, _, noise = setup(slope=2.0)
    path = climb(g, noise, lambda n: g.logits(x, n)[..., 1].sum(), steps=3, step_size=0.5)
    for before, after in pairwise(path):
        assert after.shape == noise.shape
        assert (after - before).flatten(2).norm(dim=2) == pytest.approx(torch.full((2, 3), 0.5).numpy(), rel=1e-4)


def test_what_is_held_stays_to_the_bit() -> None:
    g, x, _, noise = setup(slope=2.0)
    held = torch.tensor([[True, False, False], [False, False, True]])
    last = climb(g, noise, lambda n: (g.logits(x, n)[..., 1].sum(), held), steps=2, step_size=0.5, restrict=lambda z: 2 * z)[-1]
    assert [[bool(torch.equal(a, b)) for a, b in zip(*copies, strict=True)] for copies in zip(last, noise, strict=True)] == held.tolist()


class Halves(nn.Module):
    """Class 1 where the first of two pixels is above `line`, by a margin that is linear in it."""

    def __init__(self, line: float) -> None:
        super().__init__()
        self.line = nn.Parameter(torch.tensor(line, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        over = x[:, 0, 0, 0] - self.line
        return torch.stack([-over, over], 1)


@pytest.mark.parametrize(
    ("line", "steps", "expected"),
    [
        (-1.0, 3, (0.0, 1.0)),  # misclassified from the start, so the noise is kept as it is
        (0.5, 1, (0.7071067811865476, 0.7071067811865476)),  # a step of 1 along (1, 0), back to length 1: 45 degrees
        (0.5, 3, (0.7071067811865476, 0.7071067811865476)),  # over the line after one step, and kept there
        (0.8, 2, (0.9238795325112867, 0.3826834323650898)),  # 45 degrees are not enough; half of what was left is
        (0.999, 2, (0.9238795325112867, 0.3826834323650898)),  # the last iterate is not looked at
    ],
)
def test_noise_is_turned_until_it_misleads(line: float, steps: int, expected: tuple[float, float]) -> None:
    """By hand, in the plane: an image of two black pixels, its noise (0, 1), steps of length 1."""
    g = SmoothedClassifier(Halves(line).train(), 1.0, torch.Generator())
    x, noise = torch.zeros(1, 1, 1, 2, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(1, 1, 1, 1, 2)
    turned = mislead(g, x, torch.tensor([0]), noise, steps=steps, step_size=1.0)
    assert turned.flatten().tolist() == pytest.approx(expected, rel=1e-7, abs=1e-12)


def test_turned_noise_keeps_its_length_and_each_copy_its_own() -> None:
    g, x, y, noise = setup(0.3, slope=0.5)
    turned = mislead(g, x, y, noise, steps=3, step_size=1.0)
    assert turned.flatten(2).norm(dim=2) == pytest.approx(noise.flatten(2).norm(dim=2).numpy(), rel=1e-5)
    assert not torch.equal(turned, noise)
    alone = mislead(g, x[1:2], y[1:2], noise[1:, 1:2], steps=3, step_size=1.0)
    assert torch.allclose(alone[0, 0], turned[1, 1], atol=1e-5)


# ----------------------------------------------------------------------------------------------------------- projection


@settings(deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([0.0, 0.3, 0.999, 1.001, 2.0, 500.0]), min_size=1, max_size=6), st.sampled_from([0.0, 0.5, 1.0, 3.0]))
def test_projection_is_the_nearest_point_of_each_image_s_ball(sizes: list[float], radius: float) -> None:
    generator = torch.Generator().manual_seed(0)
    centre, shift = torch.rand((2, len(sizes), 3, 5, 5), generator=generator, dtype=torch.float64) - 0.5
    shift = shift / shift.flatten(1).norm(dim=1)[:, None, None, None]
    far = centre + shift * torch.tensor(sizes, dtype=torch.float64)[:, None, None, None]
    near = project_l2(far, centre, radius)
    for row, size in enumerate(sizes):
        if size <= radius:  # inside: not a bit is moved
            assert torch.equal(near[row], far[row])
        assert (near[row] - (centre + shift * min(size, radius))[row]).abs().max() < 1e-12
    assert (project_l2(near, centre, radius) - near).abs().max() < 1e-12
