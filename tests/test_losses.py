"""Every method's loss against formulas written out here: values, gradients of every parameter, float64.

The references use plain tensor arithmetic only, nothing of bench.smoothing or bench.attacks. A test of its own plants errors in the
methods and shows that each would be seen on this data.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from planting import plant
from torch import Tensor, nn

from bench.attacks import ascend, climb, mislead
from bench.method import Batch, Method
from bench.smoothing import SmoothedClassifier
from methods.adaptive import Adaptive
from methods.catrs import CatRS, rms
from methods.consistency import Consistency
from methods.gaussian import Gaussian
from methods.macer import Macer
from methods.smoothadv import SmoothAdv
from methods.smoothmix import SmoothMix
from methods.sphere import Sphere
from methods.stability import Stability

SIGMA = 0.5
CLASSES = 4
EPOCHS = (0, 3, 9, 31, 89)
NOISE_SEED = 2024
TOLERANCE = 1e-10


class Tiny(nn.Module):
    """Convolution, perhaps batch norm, tanh, linear."""

    def __init__(self, batch_norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3) if batch_norm else nn.Identity()
        self.linear = nn.Linear(3 * 4 * 4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.tanh(self.norm(self.conv(x))).flatten(1))  # type: ignore[no-any-return]


def network(batch_norm: bool) -> Tiny:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = Tiny(batch_norm).double()
        with torch.no_grad():
            model.linear.weight.mul_(4)  # away from the uniform prediction
            if isinstance(model.norm, nn.BatchNorm2d):  # running statistics unlike those of the batch
                model.norm.running_mean = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
                model.norm.running_var = torch.tensor([0.5, 1.5, 0.7], dtype=torch.float64)
    return model.train()


def data() -> tuple[Tensor, Tensor]:
    """Eight images with many pixels at 0 and at 1, as MNIST has; labels that the networks get right about half the time."""
    generator = torch.Generator().manual_seed(8)
    x = (torch.rand(8, 1, 6, 6, generator=generator, dtype=torch.float64) * 2 - 0.5).clamp(0, 1)
    y = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    for batch_norm in (False, True):  # rows 0 to 3 get the label that the networks like, the others keep theirs
        model = network(batch_norm)
        with torch.no_grad():
            y[2 * batch_norm : 2 * batch_norm + 2] = model(x).argmax(1)[2 * batch_norm : 2 * batch_norm + 2]
    return x, y


class Draws:
    """The documented order of draws, from a generator of its own."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(NOISE_SEED)

    def noise(self, x: Tensor, copies: int) -> Tensor:
        return SIGMA * torch.randn((copies, *x.shape), dtype=x.dtype, generator=self.generator)

    def share(self, x: Tensor) -> Tensor:
        return torch.rand(len(x), dtype=x.dtype, generator=self.generator) / 2


# ------------------------------------------------------------------------------------------------------------- references


Restrict = Callable[[Tensor], Tensor]


def softmax(z: Tensor) -> Tensor:
    e = (z - z.detach().max(-1, keepdim=True).values).exp()
    return e / e.sum(-1, keepdim=True)


def label_ce(p: Tensor, y: Tensor) -> Tensor:
    """-log p[y] of each row of probabilities: ... B K -> ... B."""
    one_hot = torch.zeros(len(y), p.shape[-1], dtype=p.dtype)
    for b in range(len(y)):
        one_hot[b, y[b]] = 1
    return -(p * one_hot).sum(-1).log()


def votes(model: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
    """softmax f(x + d_i), one pass over all copies (batch norm sees them together): M B K."""
    return softmax(model(torch.cat([x + d for d in noise]))).reshape(len(noise), len(x), -1)


def length(x: Tensor) -> Tensor:
    return (x * x).sum((1, 2, 3), keepdim=True).sqrt()


def into_ball(x: Tensor, centre: Tensor, radius: float) -> Tensor:
    rows = []
    for row, middle in zip(x, centre, strict=True):
        shift = row - middle
        size = float((shift * shift).sum().sqrt())
        rows.append(middle + shift * (radius / size) if size > radius else row)
    return torch.stack(rows)


def attack(
    model: nn.Module, x: Tensor, y: Tensor, noise: Tensor, steps: int, size: float, restrict: Restrict, guard: float
) -> list[Tensor]:
    buffers = [(b, b.clone()) for b in model.buffers()]
    model.eval()
    path = [x]
    for _ in range(steps):
        point = path[-1].clone().requires_grad_(True)
        pbar = torch.stack([softmax(model(point + d)) for d in noise]).sum(0) / len(noise)  # B K
        goal = torch.stack([-pbar[b, y[b]].clamp(min=1e-20).log() for b in range(len(y))]).sum()
        gradient = torch.autograd.grad(goal, point)[0]
        path.append(restrict((point + size * gradient / (length(gradient) + guard)).detach()).detach())
    model.train()
    for buffer, before in buffers:
        buffer.copy_(before)
    return path


def ref_gaussian(method: Gaussian, model: nn.Module, x: Tensor, y: Tensor, epoch: int) -> Tensor:
    return label_ce(softmax(model(x + Draws().noise(x, 1)[0])), y).sum() / len(x)


def ref_stability(method: Stability, model: nn.Module, x: Tensor, y: Tensor, epoch: int) -> Tensor:
    if method.two_copies:
        p = votes(model, x, Draws().noise(x, 2))
        first, second = p[0], p[1]
        divergence = (first * (first / second).log()).sum()
        total: Tensor = label_ce(first, y).sum() + method.strength * divergence
        return total / len(x)
    d = Draws().noise(x, 1)[0]
    target = softmax(model(x))
    noisy = softmax(model(x + d))
    return (label_ce(target, y).sum() + method.strength * -(target * noisy.log()).sum()) / len(x)


def ref_consistency(method: Consistency, model: nn.Module, x: Tensor, y: Tensor, epoch: int) -> Tensor:
    m = method.copies
    p = votes(model, x, Draws().noise(x, m))
    pbar = p.sum(0) / m
    total = label_ce(p, y).sum() / (m * len(x))
    for b in range(len(x)):
        kl = torch.stack([(pbar[b] * (pbar[b] / p[i, b]).log()).sum() for i in range(m)]).sum()
        entropy = -(pbar[b] * pbar[b].log()).sum()
        total = total + (method.strength * kl / m + method.entropy_strength * entropy) / len(x)
    return total


def icdf(p: Tensor) -> Tensor:
    return torch.distributions.Normal(0.0, 1.0).icdf(p)  # type: ignore[no-any-return, no-untyped-call]


def ref_macer(method: Macer, model: nn.Module, x: Tensor, y: Tensor, epoch: int) -> Tensor:
    m = method.copies
    noise = Draws().noise(x, m)
    z = model(torch.cat([x + d for d in noise])).reshape(m, len(x), -1)
    pbar = softmax(z).sum(0) / m
    classification = -(torch.stack([pbar[b, y[b]] for b in range(len(y))]) + 1e-10).log().sum()
    if epoch < method.deferral:
        return classification / len(x)
    q = softmax(method.temperature * z).sum(0) / m
    robustness = torch.zeros((), dtype=x.dtype)
    for b in range(len(x)):
        order = sorted(range(q.shape[1]), key=lambda c: -float(q[b, c].detach()))
        with torch.no_grad():
            xi = float(icdf(q[b, order[0]]) - icdf(q[b, order[1]]))
        if order[0] == int(y[b]) and math.isfinite(xi) and abs(xi) <= method.margin:
            robustness = robustness + method.margin - (icdf(q[b, order[0]]) - icdf(q[b, order[1]]))
    return (classification + method.strength * SIGMA / 2 * robustness) / len(x)


def ref_smoothadv(method: SmoothAdv, model: nn.Module, x: Tensor, y: Tensor, epoch: int) -> Tensor:
    radius = method.epsilon * min(1.0, (epoch + method.warmup_first) / 10)
    noise = Draws().noise(x, method.copies)
    size = 2 * radius / method.steps
    adversary = attack(model, x, y, noise, method.steps, size, lambda z: into_ball(z.clamp(0, 1), x, radius), 0.0)[-1]
    return label_ce(votes(model, adversary, noise), y).sum() / (method.copies * len(x))


def ref_smoothmix(method: SmoothMix, model: nn.Module, x: Tensor, y: Tensor, epoch: int) -> Tensor:
    m = method.copies
    ramp = min(1.0, (epoch + 1) / method.warmup_epochs) if method.warmup_epochs else 1.0
    draws = Draws()
    noise, share = draws.noise(x, m), draws.share(x)

    def restrict(z: Tensor) -> Tensor:
        if method.norm_limit is not None:
            z = into_ball(z, x, method.norm_limit)
        return z.clamp(0, 1) if method.clip else z

    path = attack(model, x, y, noise, method.steps, method.step_size, restrict, method.guard)
    clean, adversary = x, path[-1]
    if method.one_step:
        clean = path[1]
        if method.reproject:
            clean = into_ball(clean, x, ramp * method.step_size)
        if method.one_step_limit is not None:
            clean = into_ball(clean, x, method.one_step_limit)

    p = votes(model, clean, noise)  # M B K
    pbar = p.sum(0) / m
    lam = share.reshape(-1, 1, 1, 1)
    target = (1 - share[:, None]) * pbar + share[:, None] / CLASSES
    if method.detach_target:
        target = target.detach()
    p_mix = votes(model, (1 - lam) * clean + lam * adversary, noise)
    total = torch.zeros((), dtype=x.dtype)
    for b in range(len(x)):
        if method.mask_wrong and int(pbar[b].argmax()) != int(y[b]):
            continue
        for i in range(m):
            total = total - (target[b] * p_mix[i, b].log()).sum()
            if method.mix_loss == "kl":
                total = total + (target[b] * target[b].log()).sum()
    return (label_ce(p, y).sum() + method.strength * ramp * total) / (m * len(x))


def turned(model: nn.Module, x: Tensor, y: Tensor, noise: Tensor, steps: int, size: float) -> Tensor:
    """Each copy of each image on its own: kept where it is first misclassified, else a step uphill and back to its length."""
    model.eval()
    found = noise.clone()
    for i in range(len(noise)):
        for b in range(len(x)):
            d = noise[i, b]
            n = d
            for _ in range(steps):
                point = n.clone().requires_grad_(True)
                p = softmax(model((x[b] + point)[None]))[0]
                if int(p.argmax()) != int(y[b]):
                    break
                (gradient,) = torch.autograd.grad(-p[y[b]].log(), point)
                n = n + size * gradient / ((gradient**2).sum().sqrt() + 1e-8)
                n = (d**2).sum().sqrt() * n / ((n**2).sum().sqrt() + 1e-8)
            found[i, b] = n
    model.train()
    return found


def ref_sphere(method: Sphere, model: nn.Module, x: Tensor, y: Tensor, epoch: int) -> Tensor:
    noise = turned(model, x, y, Draws().noise(x, method.copies), method.steps, method.epsilon)
    return label_ce(votes(model, x, noise), y).sum() / (method.copies * len(x))


def ref_adaptive(method: Adaptive, model: nn.Module, x: Tensor, y: Tensor, epoch: int) -> Tensor:
    noise = Draws().noise(x, method.copies)
    if method.attack and epoch >= method.start:
        noise = turned(model, x, y, noise, method.steps, method.epsilon)
    return label_ce(votes(model, x, noise), y).sum() / (method.copies * len(x))


def shares() -> Tensor:
    """What a survey found of the images of `data()`: one is sure, one is even, one has classes without a vote."""
    counts = torch.tensor(
        [[9, 1, 0, 0], [10, 0, 0, 0], [3, 2, 3, 2], [1, 1, 4, 4], [0, 5, 5, 0], [2, 6, 1, 1], [0, 0, 10, 0], [1, 2, 3, 4]]
    )
    return counts.double() / 10


def divergence(target: Tensor, p: Tensor) -> Tensor:
    """KL of each row, classes that the target gives nothing left out: K, K -> scalar."""
    return torch.stack([t * (t.log() - q.log()) for t, q in zip(target, p, strict=True) if t > 0]).sum()


def root_mean_square(x: Tensor) -> Tensor:
    return ((x * x).sum() / x.numel()).sqrt()


def ref_catrs(method: CatRS, model: nn.Module, x: Tensor, y: Tensor, epoch: int) -> Tensor:
    """Image by image and copy by copy, but for the two passes in training mode, which batch norm sees whole."""
    m, draws = method.copies, Draws()
    noise = draws.noise(x, m)
    u = torch.stack([torch.rand(len(x), dtype=x.dtype, generator=draws.generator) for _ in range(m)])
    p = votes(model, x, noise)  # M B K
    target = (p.sum(0) / m).detach() if method.target == "self" else shares()
    radius = method.epsilon * (2 if method.doubled_from is not None and epoch >= method.doubled_from else 1)
    model.eval()
    moved = noise.clone()
    for i in range(m):
        for b in range(len(x)):
            d, n = noise[i, b], noise[i, b]
            for _ in range(method.steps):
                point = n.clone().requires_grad_(True)
                (gradient,) = torch.autograd.grad(divergence(target[b], softmax(model((x[b] + point)[None]))[0]) / m, point)
                n = n + 2 * radius / method.steps * gradient / ((gradient**2).sum().sqrt() + 1e-8)
                n = into_ball(n[None], d[None], radius)[0]
                n = d.mean() + root_mean_square(d) * (n - n.mean()) / root_mean_square(n)
            moved[i, b] = n
    model.train()
    q = votes(model, x, moved)
    total = torch.zeros((), dtype=x.dtype)
    for b in range(len(x)):
        right = sum(int(p[i, b].argmax()) == int(y[b]) for i in range(m)) / m
        share = right if method.confidence == "batch" else float(shares()[b, y[b]])
        kept = max(1, sum(float(u[i, b]) < share for i in range(m)))
        losses = sorted((label_ce(p[i, b][None], y[b : b + 1])[0] for i in range(m)), key=lambda loss: float(loss.detach()))
        total = total + torch.stack(losses[:kept]).sum() / m
        if kept == m:
            total = total + method.strength * max((divergence(target[b], q[i, b]) for i in range(m)), key=lambda kl: float(kl.detach()))
    return total / len(x)


REFERENCES: dict[type[Method], Callable[..., Tensor]] = {
    CatRS: ref_catrs,
    Adaptive: ref_adaptive,
    Gaussian: ref_gaussian,
    Stability: ref_stability,
    Sphere: ref_sphere,
    Consistency: ref_consistency,
    Macer: ref_macer,
    SmoothAdv: ref_smoothadv,
    SmoothMix: ref_smoothmix,
}

# --------------------------------------------------------------------------------------------------------------- comparing

Outcome = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]


def outcome(loss: Tensor, model: nn.Module) -> Outcome:
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) == len(list(model.parameters()))
    return loss.detach(), gradients, {name: b.clone().double() for name, b in model.named_buffers()}


def ours(method: Method, epoch: int, batch_norm: bool) -> Outcome:
    x, y = data()
    model = network(batch_norm)
    g = SmoothedClassifier(model, SIGMA, torch.Generator().manual_seed(NOISE_SEED))
    terms = method.loss(g, Batch(x=x, y=y, epoch=float(epoch), surveys={"prior": shares()}))
    assert all(term.dtype == torch.float64 and term.shape == () for term in terms.values())
    assert model.training
    return outcome(torch.stack(list(terms.values())).sum(), model)


def reference(method: Method, epoch: int, batch_norm: bool) -> Outcome:
    x, y = data()
    model = network(batch_norm)
    return outcome(REFERENCES[type(method)](method, model, x, y, epoch), model)


def distance(a: Outcome, b: Outcome) -> float:
    """Largest difference of loss, gradients and buffers; each relative to its largest entry, but to no less than 1/1000."""
    parts = [(a[0], b[0])] + [(left[name], right[name]) for left, right in ((a[1], b[1]), (a[2], b[2])) for name in right]
    return max(float((left - right).abs().max() / right.abs().max().clamp(min=1e-3)) for left, right in parts)


def switched(method: Method, **changes: Any) -> Method:
    return dataclasses.replace(cast(Any, method), **changes)  # type: ignore[no-any-return]


def variants_of_smoothmix() -> dict[str, Method]:
    """The two recipes and each switch of facts.md part 4 on its own."""
    presets = SmoothMix.presets
    official, paper = presets["official", "eta5", "mnist", 1.0], presets["paper", "eta5", "mnist", 1.0]
    official1, paper1 = presets["official", "eta5-onestep", "mnist", 0.5], presets["paper", "eta5-onestep", "mnist", 0.5]
    return {
        "official": official,
        "official eta1 sigma .25": presets["official", "eta1", "mnist", 0.25],
        "official onestep": official1,
        "paper": paper,
        "paper onestep": paper1,
        "D3 mix every image": switched(official, mask_wrong=False),
        "D4 no warm-up": switched(official, warmup_epochs=0),
        "D4 no warm-up, onestep": switched(official1, warmup_epochs=0),
        "D5 unrestricted": switched(official, clip=False),
        "D6 cross-entropy": switched(official, mix_loss="cross-entropy"),
        "D7 taken as it is": switched(official1, reproject=False),
        "detached": switched(official, detach_target=True),
        "detached, cross-entropy": switched(paper, detach_target=True),
        "norm 2": presets["official", "eta1-norm2", "mnist", 1.0],
        "norm 1.1": switched(official, norm_limit=1.1),
        "paper norm 1.1": switched(paper, norm_limit=1.1),
        "norm 1.1 onestep": switched(official1, norm_limit=0.6),
        "limit of the replacement": switched(official1, one_step_limit=0.3),
        "imagenet official": presets["official", "eta5-onestep", "imagenet", 0.5],
        "imagenet paper": presets["paper", "eta5-onestep", "imagenet", 1.0],
        "guard": switched(official, guard=0.25),
        "paper, masked": switched(paper, mask_wrong=True),
        "paper, ramp": switched(paper1, warmup_epochs=10),
        "paper, clipped": switched(paper, clip=True),
        "paper, kl": switched(paper, mix_loss="kl"),
        "paper, reprojected": switched(paper1, reproject=True, warmup_epochs=10),
    }


METHODS: dict[str, Method] = {
    "gaussian": Gaussian(),
    "stability": Stability.presets["official", "default", "mnist", 0.5],
    "stability 1": Stability.presets["paper", "default", "cifar10", 1.0],
    "catrs": CatRS.presets["official", "default", "mnist", 0.5],
    "catrs, two copies": CatRS(copies=2, steps=3, epsilon=0.4, strength=2.0),
    "catrs imagenet": CatRS.presets["official", "default", "imagenet", 1.0],
    "catrs, one copy": CatRS(copies=1, steps=1),
    "catrs.self": CatRS.presets["official", "self", "cifar10", 1.0],
    "adaptive": Adaptive.presets["official", "default", "mnist", 0.25],
    "adaptive, late": Adaptive(copies=2, start=89, steps=2, epsilon=2.0),
    "adaptive, no attack": Adaptive(start=0, attack=False),
    "stability two-copy": Stability.presets["official", "two-copy", "mnist", 0.5],
    "sphere": Sphere.presets["official", "default", "mnist", 1.0],
    "sphere, long steps": Sphere(copies=2, steps=6, epsilon=4.0),
    "sphere, one step": Sphere(copies=1, steps=1, epsilon=0.25),
    "consistency": Consistency.presets["official", "default", "mnist", 0.25],
    "consistency 3 copies": Consistency(copies=3, strength=5.0, entropy_strength=0.1),
    "consistency 1 copy": Consistency(copies=1),
    "macer official": Macer.presets["official", "default", "mnist", 0.5],
    "macer paper (D10)": Macer.presets["paper", "default", "mnist", 0.5],
    "macer gamma 1": Macer(copies=5, strength=6.0, margin=1.0, deferral=0),
    "macer beta 2": Macer(copies=3, strength=12.0, temperature=2.0, deferral=9),
    "smoothadv official": SmoothAdv.presets["official", "default", "mnist", 0.5],
    "smoothadv paper": SmoothAdv.presets["paper", "default", "mnist", 0.5],
    "smoothadv D9 epsilon": SmoothAdv(epsilon=1.0),
    "smoothadv D9 start": SmoothAdv(warmup_first=0.0),
    "smoothadv imagenet": SmoothAdv.presets["official", "default", "imagenet", 1.0],
} | {f"smoothmix {name}": method for name, method in variants_of_smoothmix().items()}


@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "batch norm"])
@pytest.mark.parametrize("name", METHODS)
def test_loss_gradients_and_running_statistics(name: str, batch_norm: bool) -> None:
    for epoch in EPOCHS:
        assert distance(ours(METHODS[name], epoch, batch_norm), reference(METHODS[name], epoch, batch_norm)) < TOLERANCE, f"epoch {epoch}"


# ------------------------------------------------------------------------------------ the data can tell right from wrong

ASCENT = "ascend(g, clean, y, noise, steps=self.steps, step_size=self.step_size, restrict=restrict, guard=self.guard)[-1]"
PLANTED: list[tuple[str, int, Callable[..., Any], str, str]] = [  # a case of METHODS, an epoch, and what is replaced in a function
    ("gaussian", 0, Gaussian.loss, "batch.x, g.noise(batch.x)", "(batch.x + g.noise(batch.x)[0]).clamp(0, 1)"),
    ("stability", 0, Stability.loss, "clean.softmax(-1)", "clean.softmax(-1).detach()"),
    ("stability", 0, Stability.loss, "cross_entropy(clean, batch.y)", "cross_entropy(noisy, batch.y)"),
    ("stability", 0, Stability.loss, "noisy, clean.softmax(-1)).mean()", "noisy - clean, clean.softmax(-1)).mean()"),
    ("stability two-copy", 0, Stability.loss, "logits[0].softmax(-1), logits[1:]", "logits[1].softmax(-1), logits[:1]"),
    ("stability two-copy", 0, Stability.loss, "logits[0].softmax(-1)", "logits[0].softmax(-1).detach()"),
    ("catrs, two copies", 0, CatRS.loss, ".clamp_min(1)", ""),
    ("catrs", 0, CatRS.loss, "draws < right", "draws > right"),
    ("catrs", 0, CatRS.loss, ".sort(0).values", ".sort(0, descending=True).values"),
    ("catrs", 0, CatRS.loss, ".sum(0) / self.copies", ".sum(0) / kept"),
    ("catrs", 0, CatRS.loss, "kl(target, g.logits", "kl(soft_vote(logits), g.logits"),
    ("catrs", 0, CatRS.loss, ".max(0).values", ".mean(0)"),
    ("catrs", 0, CatRS.loss, "high * (kept == self.copies)", "high * (right == 1)"),
    ("catrs", 0, CatRS.loss, "high * (kept == self.copies)", "high"),
    ("catrs imagenet", 31, CatRS.loss, 'self.confidence == "batch"', "True"),
    ("catrs imagenet", 89, CatRS.worst, "batch.epoch >= self.doubled_from", "False"),
    ("catrs.self", 0, CatRS.loss, "soft_vote(logits).detach()", "soft_vote(logits)"),
    ("catrs, two copies", 0, CatRS.worst, "moved = project_l2(moved, noise, radius)", "pass"),
    ("catrs", 0, CatRS.worst, "project_l2(moved, noise, radius)", "project_l2(moved, torch.zeros_like(noise), radius)"),
    ("catrs", 0, CatRS.worst, "mean + size", "size"),
    ("catrs", 0, CatRS.worst, "/ rms(moved)", "/ rms(moved - moved.mean(PIXELS, keepdim=True))"),
    ("catrs", 0, CatRS.worst, "size * (moved", "(moved"),
    ("catrs", 0, CatRS.worst, "2 * radius / self.steps", "radius / self.steps"),
    ("adaptive", 31, Adaptive.loss, "batch.epoch >= self.start", "True"),
    ("adaptive, late", 89, Adaptive.loss, "batch.epoch >= self.start", "batch.epoch > self.start"),
    ("adaptive, no attack", 3, Adaptive.loss, "self.attack and ", ""),
    ("sphere", 0, Sphere.loss, "batch.y, noise,", "batch.y + 0 * batch.index, g.noise(batch.x, self.copies),"),
    ("sphere", 0, mislead, ", logits.argmax(-1) != y", ", logits.argmax(-1) == y"),
    ("sphere", 0, mislead, "length * turned", "turned"),
    ("sphere", 0, mislead, "l2_norm(noise)", "1.1 * l2_norm(noise)"),
    ("sphere", 0, mislead, "cross_entropy(logits, y)", "cross_entropy(logits.mean(0, keepdim=True).expand_as(logits), y)"),
    ("sphere", 0, climb, "torch.where(held[..., None, None, None], point, moved)", "moved"),
    ("consistency", 0, Consistency.loss, "kl(mean, logits)", "kl(mean.detach(), logits)"),
    ("consistency", 0, Consistency.loss, "kl(mean, logits)", "kl(logits.softmax(-1), mean.log().expand_as(logits))"),
    ("consistency", 0, Consistency.loss, "self.entropy_strength *", "-self.entropy_strength *"),
    ("consistency", 0, Consistency.loss, "self.entropy_strength *", "self.strength * self.entropy_strength *"),
    ("consistency", 0, Consistency.loss, "self.strength * kl", "self.copies * self.strength * kl"),
    ("macer official", 0, Macer.loss, "gather(soft_vote(logits), batch.y)", "logits.softmax(-1)[:, range(8), batch.y]"),
    ("macer official", 0, Macer.loss, "batch.epoch < self.deferral", "batch.epoch < 0"),
    ("macer paper (D10)", 0, Macer.loss, "self.deferral", "31"),
    ("macer official", 31, Macer.loss, "self.temperature * logits", "logits"),
    ("macer official", 31, Macer.loss, "g.sigma / 2 *", "g.sigma *"),
    ("macer official", 31, Macer.loss, "* kept).mean()", "* kept).sum() / kept.sum()"),
    ("macer official", 31, Macer.loss, "(classes[:, 0] == batch.y) & ", ""),
    ("macer official", 31, Macer.loss, "self.strength * robustness", "robustness"),
    ("macer gamma 1", 0, Macer.loss, " & (gap.abs() <= self.margin)", ""),
    ("macer gamma 1", 0, Macer.loss, "(self.margin - gap)", "(8.0 - gap)"),
    ("smoothadv official", 89, SmoothAdv.loss, "project_l2(z.clamp(0, 1), x, radius)", "project_l2(z, x, radius).clamp(0, 1)"),
    ("smoothadv official", 89, SmoothAdv.loss, "2 * radius / self.steps", "radius / self.steps"),
    ("smoothadv official", 89, SmoothAdv.loss, "g.logits(adversary, noise)", "g.logits(adversary, g.noise(x, self.copies))"),
    ("smoothadv D9 epsilon", 89, SmoothAdv.loss, "self.epsilon *", "0.9 *"),
    ("smoothadv D9 start", 0, SmoothAdv.loss, "self.warmup_first", "1.0"),
    ("smoothmix official", 3, SmoothMix.loss, "like=x) / 2", "like=x)"),
    (
        "smoothmix official",
        3,
        SmoothMix.loss,
        "noise = g.noise(x, self.copies)",
        "g.uniform(len(x), like=x); noise = g.noise(x, self.copies)",
    ),
    ("smoothmix official", 3, SmoothMix.loss, "lerp(clean, adversary", "lerp(adversary, clean"),
    ("smoothmix official", 3, SmoothMix.loss, "lerp(mean, ", "lerp(torch.eye(4, dtype=x.dtype)[y], "),
    ("smoothmix official", 3, SmoothMix.loss, "g.logits(x_mix, noise)", "g.logits(x_mix, g.noise(x, self.copies))"),
    ("smoothmix official", 3, SmoothMix.loss, "mixed.mean()}", "mixed.sum() / (mixed != 0).sum()}"),
    ("smoothmix official", 3, SmoothMix.loss, "self.strength * ramp *", "self.strength *"),
    ("smoothmix D4 no warm-up", 3, SmoothMix.loss, "self.warmup_epochs", "10"),
    ("smoothmix official onestep", 3, SmoothMix.loss, "ramp * self.step_size", "self.step_size"),
    ("smoothmix D3 mix every image", 3, SmoothMix.loss, "if self.mask_wrong:", "if True:"),
    ("smoothmix D5 unrestricted", 89, SmoothMix.loss, " if self.clip else z", ""),
    ("smoothmix D6 cross-entropy", 89, SmoothMix.loss, 'self.mix_loss == "kl"', "True"),
    ("smoothmix D7 taken as it is", 3, SmoothMix.loss, "self.one_step and self.reproject", "self.one_step"),
    ("smoothmix official onestep", 3, SmoothMix.loss, "path[1] if self.one_step else x", "x"),
    ("smoothmix detached", 89, SmoothMix.loss, "if self.detach_target:", "if False:"),
    ("smoothmix norm 1.1", 89, SmoothMix.loss, "if self.norm_limit is not None:", "if False:"),
    ("smoothmix norm 1.1", 89, SmoothMix.loss, "z = project_l2(z, x", "return project_l2(z.clamp(0, 1), x"),
    ("smoothmix limit of the replacement", 89, SmoothMix.loss, "self.one_step_limit is not None", "False"),
    ("smoothmix guard", 89, SmoothMix.loss, "guard=self.guard", "guard=0.0"),
    (
        "smoothmix limit of the replacement",
        89,
        SmoothMix.loss,
        "clean = project_l2(clean, x, self.one_step_limit)",
        "clean, adversary = (project_l2(z, x, self.one_step_limit) for z in (clean, adversary))",
    ),
    (
        "smoothmix official onestep",
        3,
        SmoothMix.loss,
        "logits = g.logits(clean, noise)",
        f"adversary = {ASCENT}; logits = g.logits(clean, noise)",
    ),
    *(
        (f"{name} official", epoch, where, old, new)
        for name, epoch in (("smoothadv", 89), ("smoothmix", 3))
        for where, old, new in (
            (climb, "point + step_size", "point - step_size"),
            (climb, "norm = l2_norm", "gradient = gradient.sign(); norm = l2_norm"),
            (ascend, "gather(log_soft_vote(g.logits(point, noise)), y)", "g.logits(point, noise).log_softmax(-1)[:, range(8), y].mean(0)"),
            (SmoothedClassifier.frozen, "self.base.eval()", "pass"),
        )
    ),
]


@pytest.mark.parametrize(("name", "epoch", "where", "old", "new"), PLANTED, ids=[f"{name}: {old}" for name, _, _, old, _ in PLANTED])
def test_a_planted_error_would_be_seen(
    name: str, epoch: int, where: Callable[..., Any], old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # batch norm, because one of the errors is the mode of the attack
    expected = reference(METHODS[name], epoch, True)
    plant(where, old, new, monkeypatch)
    assert distance(ours(METHODS[name], epoch, True), expected) > 1e-4


def test_the_data_has_wrong_predictions_and_pixels_at_both_ends() -> None:
    x, y = data()
    assert (x == 0).sum() > 20
    assert (x == 1).sum() > 20
    for batch_norm in (False, True):
        p = votes(network(batch_norm), x, Draws().noise(x, 4)).mean(0)
        assert 2 <= int((p.argmax(1) == y).sum()) <= 6


def test_detaching_the_target_changes_gradients_only() -> None:
    kept, detached = ours(METHODS["smoothmix official"], 89, False), ours(METHODS["smoothmix detached"], 89, False)
    assert kept[0] == detached[0]


# ---------------------------------------------------------------------------------------------- modes, statistics, names

TRAINING_PASSES = {Gaussian: 1, Stability: 2, Consistency: 1, Macer: 1, SmoothAdv: 1, SmoothMix: 2, Sphere: 1, Adaptive: 1, CatRS: 2}


@pytest.mark.parametrize("cls", TRAINING_PASSES)
def test_only_training_passes_move_the_running_statistics(cls: type[Method]) -> None:
    """And the batch is left alone."""
    x, y = data()
    model = network(True)
    assert isinstance(model.norm, nn.BatchNorm2d)
    modes: list[bool] = []
    model.norm.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    g = SmoothedClassifier(model, SIGMA, torch.Generator().manual_seed(NOISE_SEED))
    cls().loss(g, Batch(x=x, y=y, epoch=89.0, surveys={"prior": shares()}))
    steps = getattr(cls(), "steps", 0)
    attack_at = 1 if cls is CatRS else 0  # it needs its own predictions first
    assert modes == [True] * attack_at + [False] * steps + [True] * (TRAINING_PASSES[cls] - attack_at)
    assert model.norm.num_batches_tracked == TRAINING_PASSES[cls]
    assert all(map(torch.equal, (x, y), data()))
    assert not x.requires_grad


TERMS = {
    Gaussian: ["cross_entropy"],
    Stability: ["cross_entropy", "stability"],
    Consistency: ["cross_entropy", "consistency", "entropy"],
    Macer: ["classification", "robustness"],
    SmoothAdv: ["cross_entropy"],
    Sphere: ["cross_entropy"],
    Adaptive: ["cross_entropy"],
    CatRS: ["low", "high"],
    SmoothMix: ["cross_entropy", "mix"],
}


@pytest.mark.parametrize("cls", TERMS)
def test_names_of_the_terms(cls: type[Method]) -> None:
    x, y = data()
    g = SmoothedClassifier(network(False), SIGMA, torch.Generator())
    assert list(cls().loss(g, Batch(x=x, y=y, epoch=31.0, surveys={"prior": shares()}))) == TERMS[cls]


def test_noise_that_is_moved_keeps_its_ball_its_mean_and_its_size() -> None:
    """By hand, noise of two pixels (3, 4) moved by 1 to (3, 5), in a ball of .5: (3, 4.5), of mean 3.75 and rms sqrt(29.25 / 2)."""
    seen: list[Tensor] = []

    class Upwards(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach())
            return torch.stack([x[:, 0, 0, 1], -x[:, 0, 0, 1]], 1)

    g = SmoothedClassifier(Upwards(), 1.0, torch.Generator())
    noise = torch.tensor([3.0, 4.0], dtype=torch.float64).reshape(1, 1, 1, 1, 2)
    batch = Batch(x=torch.zeros(1, 1, 1, 2, dtype=torch.float64), y=torch.tensor([0]), epoch=0.0)
    method, target = CatRS(copies=1, steps=1, epsilon=0.5), torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    moved = method.worst(g, batch, target, noise)
    size, found = math.sqrt(12.5), math.sqrt(29.25 / 2)
    assert moved.flatten().tolist() == pytest.approx([3.5 - size * 0.75 / found, 3.5 + size * 0.75 / found], rel=1e-9)
    assert rms(noise).item() == pytest.approx(size, rel=1e-12)


def test_how_many_copies_count_is_binomial() -> None:
    """k of M, at least 1: of 4,000 images each copy of which counts with probability .3, k is 4 in .0081 and 1 in .2401 + .4116."""
    images = 4000
    votes_of_prior = torch.tensor([0.3, 0.7]).expand(images, 2)
    logits = torch.tensor([[1.0, 0.0]]).expand(images, 2)

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * logits.repeat(len(x) // images, 1) + 0 * x.mean((1, 2, 3)).unsqueeze(1)

    g = SmoothedClassifier(Fixed(), 1.0, torch.Generator().manual_seed(6))
    batch = Batch(x=torch.rand(images, 1, 2, 2), y=torch.zeros(images, dtype=torch.int64), epoch=0.0, surveys={"prior": votes_of_prior})
    terms = CatRS(confidence="prior", strength=1.0).loss(g, batch)
    each = -math.log(math.exp(1) / (1 + math.exp(1)))  # every copy has this cross-entropy, so the mean of k / M shows
    mean = float(terms["low"].detach()) / each * 4
    assert mean == pytest.approx(0.6517 + 2 * 0.2646 + 3 * 0.0756 + 4 * 0.0081, abs=5 * 0.75 / math.sqrt(images))


# ------------------------------------------------------------------------------------------------------- MACER in float32


class FixedLogits(nn.Module):
    """Logits that do not depend on the noise: image b gets row b, for every copy."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor(logits))

    def forward(self, x: Tensor) -> Tensor:
        return self.table.repeat(len(x) // len(self.table), 1)


def macer_terms(logits: list[list[float]], y: list[int], method: Macer) -> tuple[float, Tensor]:
    model = FixedLogits(logits)
    g = SmoothedClassifier(model, SIGMA, torch.Generator().manual_seed(0))
    terms = method.loss(g, Batch(x=torch.zeros(len(y), 1, 2, 2), y=torch.tensor(y), epoch=90.0))
    terms["robustness"].backward()  # type: ignore[no-untyped-call]
    assert model.table.grad is not None
    return float(terms["robustness"].detach()), model.table.grad


def test_macer_keeps_exactly_the_rows_of_the_paper() -> None:
    """By hand, in float32: beta 1, two classes, q = (e^a, 1) / (1 + e^a), xi = 2 Phi^-1(q1)."""
    a = math.log(0.975 / 0.025)  # q = (.975, .025): xi = 2 * 1.959963985
    far = math.log(0.9999 / 0.0001)  # xi = 2 * 3.719016485 = 7.438, inside gamma 8
    beyond = math.log(0.99998 / 0.00002)  # xi = 2 * 4.107 = 8.21, outside
    logits = [[a, 0.0], [0.0, a], [far, 0.0], [beyond, 0.0], [200.0, 0.0]]
    method = Macer(copies=2, strength=1.0, temperature=1.0, deferral=0)
    value, gradient = macer_terms(logits, [0, 0, 0, 0, 0], method)
    expected = SIGMA / 2 * ((8 - 2 * 1.959963985) + (8 - 2 * 3.719016485)) / 5
    assert value == pytest.approx(expected, rel=1e-4)
    assert gradient.isfinite().all()
    assert [bool(row.any()) for row in gradient] == [True, False, True, False, False]
    # d xi / d a = 2 q (1 - q) / phi(Phi^-1(q))
    phi = math.exp(-(1.959963985**2) / 2) / math.sqrt(2 * math.pi)
    assert float(gradient[0, 0]) == pytest.approx(-SIGMA / 2 / 5 * 2 * 0.975 * 0.025 / phi, rel=1e-4)


def test_macer_with_nothing_to_keep_has_zero_robustness_and_zero_gradient() -> None:
    for logits, y in (([[0.0, 5.0], [0.0, 9.0]], [0, 0]), ([[500.0, 0.0], [0.0, 500.0]], [0, 1])):
        value, gradient = macer_terms(logits, y, Macer(copies=2, deferral=0))
        assert value == 0.0
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize(("scale", "least_dropped"), [(0.1, 0), (1.0, 1), (10.0, 2)])
def test_macer_in_float32_against_the_row_by_row_reference(scale: float, least_dropped: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With large logits and little noise the averaged softmax saturates to exactly 1 and 0; such rows are dropped and leave no NaN."""
    monkeypatch.setitem(globals(), "SIGMA", 0.05)
    method = Macer(copies=16, strength=16.0, deferral=0)
    x, y = data()
    gradients, losses, dropped = [], [], 0
    for ours_first in (True, False):
        model = network(False).float()
        with torch.no_grad():
            model.linear.weight.mul_(scale)
        if ours_first:
            g = SmoothedClassifier(model, SIGMA, torch.Generator().manual_seed(NOISE_SEED))
            loss = sum(method.loss(g, Batch(x=x.float(), y=y, epoch=0.0)).values(), torch.zeros(()))
        else:
            loss = ref_macer(method, model, x.float(), y, 0)
            q = softmax(16 * model(torch.cat([x.float() + d for d in Draws().noise(x.float(), 16)]))).reshape(16, len(x), -1).mean(0)
            dropped = int((q.max(1).values == 1).sum())
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(float(loss.detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert gradients[0].isfinite().all()
    assert gradients[1].any()
    assert (gradients[0] - gradients[1]).abs().max() < 1e-3 * gradients[1].abs().max()
    assert least_dropped <= dropped < len(x)


# ---------------------------------------------------------------------------------------- float32, as training uses it


@pytest.mark.parametrize(
    "name", ["gaussian", "stability", "consistency", "smoothadv official", "smoothmix official", "smoothmix official onestep"]
)
def test_float32_agrees_with_float64(name: str) -> None:
    """Same draws in single precision (a generator gives other numbers per dtype, so the noise is handed in)."""
    x, y = data()
    losses = []
    for dtype in (torch.float64, torch.float32):
        model = network(True).to(dtype)
        g = SmoothedClassifier(model, SIGMA, torch.Generator().manual_seed(NOISE_SEED))
        g.noise = lambda x, copies=1: Draws().noise(x.double(), copies).to(x.dtype)  # type: ignore[method-assign]
        g.uniform = lambda size, like: torch.linspace(0, 1, size, dtype=like.dtype)  # type: ignore[method-assign]
        terms = METHODS[name].loss(g, Batch(x=x.to(dtype), y=y, epoch=89.0))
        assert all(term.dtype == dtype for term in terms.values())
        losses.append(float(torch.stack(list(terms.values())).sum().detach()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("cls", REFERENCES)
def test_hopeless_and_perfect_logits_leave_loss_and_gradient_finite(cls: type[Method]) -> None:
    """Margins of 1e2 and 1e4 in float32: probabilities underflow to 0, logarithms must not."""
    for size in (1e2, 1e4):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        with torch.no_grad():
            model[1].weight.copy_(torch.tensor([[size, 0, 0, 0], [0, 0, 0, size]]))  # type: ignore[operator]
        x = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]], [[[0.0, 0.0], [0.0, 1.0]]], [[[1.0, 0.5], [0.5, 0.0]]]])
        g = SmoothedClassifier(model, 0.25, torch.Generator().manual_seed(3))
        batch = Batch(x=x, y=torch.tensor([0, 0, 1]), epoch=89.0, surveys={"prior": torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])})
        loss = torch.stack(list(cls().loss(g, batch).values())).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.isfinite()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
