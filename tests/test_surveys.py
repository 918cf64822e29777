"""Surveys of the training images: counted as a certification counts, asked when due, kept, resumed to the byte; and weighted drawing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from toys import INFO, plain_spec, through_a_file, toy_trainer
from typer.testing import CliRunner

import bench.models
from bench.certify import Sampler
from bench.cli import app
from bench.contract import check
from bench.data import Split
from bench.errors import BenchError
from bench.files import disk
from bench.matrix.surveys import Files
from bench.method import Batch, Method, Survey, Terms
from bench.registry import Registry
from bench.smoothing import SmoothedClassifier, cross_entropy
from bench.store.surveys import line, read
from bench.train import surveys
from bench.train.loop import Trainer
from bench.train.surveys import Answers, Memory, Question, Surveys, check_weights, times


class Toy(nn.Sequential):
    def __init__(self, classes: int) -> None:
        super().__init__(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, classes))


@pytest.fixture(autouse=True)
def _toy_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench.models.ARCHITECTURES, "toy", lambda info: Toy(info.classes))


SEEN: list[Batch] = []


@dataclass(frozen=True, kw_only=True)
class Asking(Method):
    """Votes once before the first step, right answers before epochs 1 and 3; images that are mostly wrong are then left out."""

    least: float = 0.3

    def surveys(self) -> Mapping[str, Survey]:
        return {"votes": Survey(copies=12, votes=True), "right": Survey(copies=7, first=1, every=2)}

    def weights(self, y: Tensor, right: Mapping[str, Tensor], epoch: float) -> Tensor | None:
        return (right["right"] >= self.least) * (1 + right["votes"]) if "right" in right else None

    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        SEEN.append(batch)
        each = cross_entropy(g.logits(batch.x, g.noise(batch.x)), batch.surveys["votes"])
        return {"cross_entropy": (each * (1 + batch.surveys.get("right", batch.y * 0.0))).mean()}


def trainer(keeper: Memory | None = None, method: Method | None = None, **train: Any) -> Trainer:
    values: dict[str, Any] = {"arch": "toy", "batch": 5, "epochs": 4, "clock": 4} | train
    t = toy_trainer(method or Asking(), 23, **values)
    t.surveys.keeper = keeper or Memory()
    return t


def end(t: Trainer) -> dict[str, Tensor]:
    t.run(lambda _: None)
    return {name: tensor.clone() for name, tensor in t.model.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(tensor, right[name]) for name, tensor in left.items())


# ------------------------------------------------------------------------------------------------------------- counting


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.dictionaries(st.integers(0, 4), st.integers(1, 9)), min_size=1, max_size=9), st.integers(1, 3), st.integers(0, 5))
def test_shares_come_back_by_place(rows: list[dict[int, int]], step: int, start: int) -> None:
    places = range(start, start + step * len(rows), step)
    labels = torch.arange(len(rows)) % 5
    answers = Answers.of(places, 9, labels, cast(Any, rows), 5)
    order = torch.tensor(places)[torch.randperm(len(rows), generator=torch.Generator().manual_seed(len(rows)))]
    dense = torch.tensor([[row.get(c, 0) / 9 for c in range(5)] for row in rows])
    at = (order - start) // step
    assert torch.equal(answers.rows(order), dense[at])
    assert answers.right.float().tolist() == dense[range(len(rows)), labels].tolist()
    alone = Answers.of(places, 9, labels, cast(Any, rows), 0)
    assert torch.equal(alone.rows(order), dense[at, labels[at]])


@pytest.mark.parametrize("copies", [1, 7, 60])
def test_counts_do_not_depend_on_passes_nor_on_company(copies: int) -> None:
    torch.manual_seed(3)
    base, images = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), torch.rand(6, 1, 8, 8)
    whole = Sampler(base, 0.5, 3, 9).survey(images, range(10, 16), copies)
    assert whole.sum(1).tolist() == [copies] * 6
    for batch in (1, 16, 100):
        sampler = Sampler(base, 0.5, 3, 9, batch)
        parts = [sampler.survey(images[at : at + size], range(10 + at, 10 + at + size), copies) for at, size in ((0, 1), (1, 2), (3, 3))]
        assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(
        Sampler(base, 0.5, 3, 8).survey(images, range(10, 16), 60), Sampler(base, 0.5, 3, 9).survey(images, range(10, 16), 60)
    )


def test_a_survey_counts_what_the_noisy_copies_are_called() -> None:
    """The share of a linear classifier is Phi(margin / sigma), within five standard errors."""
    linear = nn.Linear(64, 2)
    base = nn.Sequential(nn.Flatten(), linear)
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight[1, 0], linear.bias[0], linear.bias[1] = 1.0, 0.25, 0.0
    image = torch.full((1, 1, 8, 8), 0.5)
    found = Sampler(base, 0.5, 2, 1).survey(image, [0], 4000)
    expected = float(torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(0.5)))  # type: ignore[no-untyped-call]
    assert abs(int(found[0, 1]) / 4000 - expected) < 5 * (expected * (1 - expected) / 4000) ** 0.5


# --------------------------------------------------------------------------------------------------- when, and by whom


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(1, 12), st.integers(0, 9), st.integers(0, 4), st.integers(1, 40))
def test_what_is_due_is_asked_once_before_the_first_step_of_its_epoch(clock: int, first: int, every: int, steps: int) -> None:
    class Plain(Asking):
        def __new__(cls, **_: object) -> Plain:
            return object.__new__(cls)

        def surveys(self) -> Mapping[str, Survey]:
            return {"some": Survey(copies=1, first=first, every=every)}

    spec = plain_spec(arch="toy", epochs=1, clock=clock, batch=1, lr=0.1, lr_step=2)
    found = Surveys(
        spec, Plain(), Split(torch.zeros(steps, *INFO.shape, dtype=torch.uint8), torch.zeros(steps, dtype=torch.int64), {}), 3, steps
    )
    asked: dict[int, int] = {}
    for step in range(steps):
        for name, epoch in found.due(step).items():
            asked[step] = epoch
            found.taken.append((name, epoch, ""))
        assert not found.due(step)
        assert found.begun(step) == max((s for s in asked if s <= step), default=0)
    wanted = [e for e in range(clock) if e >= first and (e - first) % every == 0] if every else [first] * (first < clock)
    epochs = [clock * step // steps for step in range(steps)]
    expected = {next(s for s in range(steps) if epochs[s] >= e): e for e in wanted if e <= epochs[-1]}
    assert asked == expected
    assert times(Survey(copies=1, first=first, every=every), clock, steps) == len(expected)


def test_a_loss_sees_what_the_model_of_that_time_says() -> None:
    models = {0: end_of(0), 1: end_of(5), 3: end_of(15)}
    SEEN.clear()
    keeper = Memory()
    t = trainer(keeper)
    t.run(lambda _: None)
    assert [taken[:2] for taken in t.surveys.taken] == [("votes", 0), ("right", 1), ("right", 3)]
    data = cast(Split, t.data)
    for name, epoch, copies in (("votes", 0, 12), ("right", 1, 7), ("right", 3, 7)):
        seed = t.surveys.question(name, epoch, 0.5, "").seed
        counts = Sampler(models[epoch], 0.5, 3, seed).survey(data.images(torch.arange(23)), range(23), copies)
        votes, kept = keeper.recall(name, epoch, range(23), "")
        assert kept == copies
        for row, count, y in zip(votes, counts.tolist(), data.labels.tolist(), strict=True):
            assert row == {c: k for c, k in enumerate(count) if k and (name == "votes" or c == y)}
        for batch in SEEN:
            if name not in batch.surveys or (name == "right" and (batch.epoch >= 3) != (epoch == 3)):
                continue
            shares = counts[batch.index].float() / copies
            if name == "right":
                shares = shares.gather(1, batch.y.unsqueeze(1)).squeeze(1)
            assert torch.allclose(batch.surveys[name], shares)
    assert t.model.training
    assert [sorted(batch.surveys) for batch in SEEN[4:6]] == [["votes"], ["right", "votes"]]


def end_of(step: int) -> nn.Module:
    """The model before a step, of a training of the same kind."""
    other = trainer()

    class Stop(Exception):
        pass

    def stop(now: Trainer) -> None:
        if now.step == step:
            raise Stop

    if step:
        with pytest.raises(Stop):
            other.run(stop)
    return other.model.eval()


def test_weights_say_which_images_come_and_a_pass_keeps_its_length() -> None:
    SEEN.clear()
    t = trainer()
    t.run(lambda _: None)
    assert len(SEEN) == t.total == 20
    plain = [sorted(itertools.chain(*(b.index.tolist() for b in SEEN[at : at + 5]))) for at in (0, 5, 10, 15)]
    assert plain[0] == list(range(23))  # each once before the first weights
    keeper = cast(Memory, t.surveys.keeper)
    for at, epoch in ((1, 1), (2, 1), (3, 3)):
        votes, copies = keeper.recall("right", epoch, range(23), "")
        kept = {n for n, row in enumerate(votes) if row.get(n % 3, 0) / copies >= 0.3}
        assert len(plain[at]) == 23
        assert set(plain[at]) <= kept
        assert len(set(plain[at])) < 23  # with replacement


@pytest.mark.parametrize("clock", [4, 11])  # 11: a survey in the middle of a pass
def test_resuming_after_every_step_gives_the_same_weights(clock: int) -> None:
    keeper = Memory()
    whole = trainer(keeper, clock=clock)
    states: list[dict[str, Any]] = []
    whole.run(lambda t: states.append(through_a_file(t.state())))
    final = whole.model.state_dict()
    for state in states[:: 2 if clock == 4 else 3]:
        again = trainer(keeper, clock=clock)
        again.restore(state)
        assert same(end(again), final)
        assert again.surveys.taken == whole.surveys.taken
        assert again.curve == whole.curve


def test_pieces_of_a_step_see_their_rows_of_a_survey() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Separable(Asking):
        separable = True

    whole = toy_trainer(Separable(), 8, arch="toy", batch=8, epochs=1, clock=1, lr=1e-3)
    pieces = toy_trainer(Separable(), 8, arch="toy", batch=8, epochs=1, clock=1, lr=1e-3, micro_batch=3)
    SEEN.clear()
    whole.run(lambda _: None)
    pieces.run(lambda _: None)
    assert torch.equal(SEEN[0].surveys["votes"], torch.cat([piece.surveys["votes"] for piece in SEEN[1:]]))
    assert torch.equal(SEEN[0].index, torch.cat([piece.index for piece in SEEN[1:]]))


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (torch.zeros(4), "none is left"),
        (torch.tensor([1.0, -1.0, 1.0, 1.0]), "finite numbers from 0 up"),
        (torch.tensor([1.0, float("nan"), 1.0, 1.0]), "finite numbers from 0 up"),
        (torch.ones(3), "each of the 4 training images"),
        ([1.0] * 4, "not list"),
    ],
)
def test_weights_that_draw_nothing_are_refused(weights: object, reason: str) -> None:
    with pytest.raises(BenchError, match=reason):
        check_weights(weights, 4)


# ------------------------------------------------------------------------------------------------------------------ files


class Run:
    """As much of a run that this process holds as the files ask for."""

    def __init__(self, path: Path) -> None:
        self.run, self.path = self, path


def question(**changes: Any) -> Question:
    values: dict[str, Any] = {"survey": "some", "epoch": 3, "copies": 9, "votes": True, "augment": "none", "images": "all", "sigma": 0.5}
    return Question(**(values | {"seed": 1, "model": "abc"} | changes))


def files(path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setattr("bench.files.claims.guard", lambda path: None)
    return Files(cast(Any, Run(path)), lambda done, total: None, lambda: None)


PLACES = range(0, 1400, 2)
VOTES: list[Mapping[int, int]] = [{n % 3: 5, 7: 4} if n % 5 else {} for n in range(len(PLACES))]


def counting(asked: list[int], stop_after: int = 99) -> Any:
    def count(start: int) -> Iterator[list[Mapping[int, int]]]:
        asked.append(start)
        for number, at in enumerate(range(start, len(VOTES), surveys.CHUNK)):
            if number == stop_after:
                raise KeyboardInterrupt
            yield VOTES[at : at + surveys.CHUNK]

    return count


@pytest.mark.parametrize("torn", [b"", b'{"counts":{"1":', b'{"counts":{},"index":1000}\n{"cou'])
def test_an_interrupted_survey_goes_on_to_the_same_bytes(tmp_path: Path, torn: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    votes, sha256 = files(one, monkeypatch).keep(question(), PLACES, counting([]))
    assert votes == VOTES
    asked: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        files(two, monkeypatch).keep(question(), PLACES, counting(asked, 2))
    path = two / "survey-some-3.jsonl"
    with path.open("ab") as file:
        file.write(torn)
    assert files(two, monkeypatch).keep(question(), PLACES, counting(asked)) == (VOTES, sha256)
    assert asked == [0, 500]
    assert path.read_bytes() == (one / path.name).read_bytes()
    assert files(two, monkeypatch).keep(question(), PLACES, counting(asked)) == (VOTES, sha256)
    assert asked == [0, 500]  # a whole one is not counted again
    assert files(two, monkeypatch).recall("some", 3, PLACES, sha256) == (VOTES, 9)


def test_a_survey_of_something_else_is_counted_anew_and_never_recalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper, asked = files(tmp_path, monkeypatch), list[int]()
    _, sha256 = keeper.keep(question(), PLACES, counting(asked))
    keeper.keep(question(model="other"), PLACES, counting(asked))
    path = tmp_path / "survey-some-3.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"index":20}', b'"index":21}'))
    with pytest.raises(BenchError, match="image 20"):
        read(path, PLACES)
    keeper.keep(question(model="other"), PLACES, counting(asked))
    assert asked == [0, 0, 0]
    with pytest.raises(BenchError, match="not the survey that the checkpoint was trained with"):
        keeper.recall("some", 3, PLACES, sha256)
    assert line(4, {2: 1, 0: 8}) == '{"counts":{"0":8,"2":1},"index":4}\n'


def test_a_survey_may_be_as_large_as_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ImageNet's training images, with as many classes that got a vote as an image may be expected to have."""
    size = 1_281_167 * len(line(1_281_166, dict.fromkeys(range(900, 1000), 100)))
    assert size < disk.limit_of("survey-some-3.jsonl")
    whole: list[Mapping[int, int]] = [dict.fromkeys(range(10), 1000)] * 60_000  # MNIST, each class in each image
    keeper = files(tmp_path, monkeypatch)
    votes, sha256 = keeper.keep(question(), range(60_000), lambda start: iter([whole]))
    assert keeper.recall("some", 3, range(60_000), sha256) == (votes, 9)


# -------------------------------------------------------------------------------------------------- from start to end


def bench_run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_method_with_everything_runs_and_is_verified(tmp_path: Path) -> None:
    """That of `bench new-method`: checked, trained, its surveys kept beside it and bound to it."""
    made = bench_run("new-method", "mine", "--folder", tmp_path, "--with", "index,length,ascent,survey,weights")
    assert made.exit_code == 0, made.output
    plugin, results = tmp_path / "mine.py", tmp_path / "runs"
    fewer = [word for name in ("train.images=every:400", "train.batch=50", "certify.n=100") for word in ("--set", name)]
    line = ("run", "--plugin", plugin, "--sigma", 0.5, "--protocol", "smoke", "--results", results, *fewer)
    done = bench_run(*line)
    assert done.exit_code == 0, done.output
    (folder,) = (results / "mnist" / "mine.default").iterdir()
    names = sorted(path.name for path in folder.glob("survey-*"))
    assert names == ["survey-easy-30.jsonl", "survey-easy-60.jsonl"]  # of three steps the last two begin at these epochs of 90
    facts, votes = read(folder / names[0], range(0, 60_000, 400))
    assert (facts["copies"], len(votes)) == (10, 150)  # of 16 copies, 10 under protocol smoke
    training = json.loads((folder / "training.json").read_text())
    assert sorted(training["surveys"]) == names
    assert bench_run("verify", results).exit_code == 0
    shown = bench_run("show", folder).output
    assert "survey survey-easy-30.jsonl: 10 copies of each training image before epoch 30" in shown
    assert "forward passes/image in surveys" in " ".join(shown.split())
    text = (folder / names[1]).read_text()
    (folder / names[1]).write_text(text.replace('"index":400}', '"index":401}'))
    assert bench_run("verify", results).exit_code == 1


@pytest.mark.parametrize("word", ["index", "length", "ascent", "survey", "weights"])
def test_every_ability_is_shown_in_a_file_that_keeps_the_contract(word: str, tmp_path: Path) -> None:
    assert bench_run("new-method", "mine", "--folder", tmp_path, "--with", word).exit_code == 0
    results = check(Registry((tmp_path / "mine.py",)).load("mine"))
    assert [result for result in results if result.problem] == []
    assert len(results) == (8 if word in ("survey", "weights") else 7)


def test_an_unknown_ability_is_refused(tmp_path: Path) -> None:
    refused = bench_run("new-method", "mine", "--folder", tmp_path, "--with", "weighs")
    assert refused.exit_code == 2
    assert "weights" in refused.output
    assert not list(tmp_path.iterdir())


BROKEN = {
    "no survey": ("Survey(copies=16, first=30, every=10)", "16"),
    "no name": ('"easy": Survey', '"Easy Ones": Survey'),
    "negative weights": ("1.1 - right", "0.5 - right"),
    "weights of chance": ("1.1 - right", "1.1 + __import__('torch').rand(60) - right"),
    "weights for others": ('1.1 - right["easy"]', '1.1 - right["easy"][1:]'),
    "all left out": ('1.1 - right["easy"]', '0 * right["easy"]'),
    "answers changed": ("        return 1.1 -", '        if right:\n            right["easy"].mul_(0.5)\n        return 1.1 -'),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_planted_fault_breaks_the_promise_of_surveys(fault: str, tmp_path: Path) -> None:
    bench_run("new-method", "mine", "--folder", tmp_path, "--with", "weights")
    path, (old, new) = tmp_path / "mine.py", BROKEN[fault]
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    broken = [result.promise for result in check(Registry((path,)).load("mine")) if result.problem]
    assert "its surveys can be asked, and images drawn by its weights" in broken or "named, finite" in " ".join(broken)
