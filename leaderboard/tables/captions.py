"""What a table is about, in words that every format shows."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from bench.datasets import DATASETS
from bench.errors import counted
from bench.rules.rule import drawn_words
from bench.spec import PROTOCOLS, CertifySpec, same_images
from leaderboard.aggregate import Group
from leaderboard.formats import clean

RULE = "correct and radius > r, {radii}"
SAID = ("certify.n0", "certify.n", "certify.images", "certify.seed", "certify.rule")


def headline(group: Group) -> str:
    """What the table is about, in one line: data, source, protocol and what was changed of it, recipe, network, seeds."""
    known, changes = group.conditions, _changes(group)
    names = ("protocol", "recipe", "network", "normalisation")
    words = [f"{name} {known[name]}{changes if name == 'protocol' else ''}" for name in names if name in known]
    source = [known["source"]] if group.source in ("imported", "checkpoints") and "source" in known else []
    return clean(", ".join([group.dataset, *source, *words, *_trainings(group)]))


def _changes(group: Group) -> str:
    """What was changed of the protocol, in brackets: as it was asked for, and the images even where nobody asked `bench run` for them."""
    known, info = group.conditions, DATASETS.get(group.dataset)
    told = [known["changes"]] if known.get("changes") else []
    if info and known.get("protocol") in PROTOCOLS and not any("certify.images=" in words for words in told):
        usual = info.protocol(PROTOCOLS[known["protocol"]]).certify.images
        if known["certify.images"] != same_images(usual, info.test_size):
            told.append(f"certify.images={known['certify.images']}")
    return f" ({', '.join(told)})" if told else ""


def _trainings(group: Group) -> list[str]:
    """`5 seeds (0-4)`, `5 runs`, `2 or 3 checkpoints`; nothing where rows differ in it."""
    if group.seeds:
        numbers = [seed for seed in group.seeds if isinstance(seed, int)]
        return [f"seed {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} seeds ({_spans(numbers)})"]
    counts = sorted({len(row.seeds) for row in group.rows if row.finished and not row.constant})
    if group.mixed or not counts:
        return []
    return [f"1 {group.unit}" if counts == [1] else f"{' or '.join(map(str, counts))} {group.unit}s"]


def details(group: Group) -> str:
    """How the numbers came about and what they mean."""
    meanings = [metric.meaning for metric in group.metrics if metric.meaning]
    if radii := [metric.heading for metric in group.metrics if metric.heading.startswith("r=")]:
        columns = "Columns r" if len(radii) > 1 else f"Column {radii[0]}"
        meanings.insert(1 if meanings else 0, f"{columns}: certified accuracy at r in % ({rule(group)}).")
    text = " ".join([*conditions(group), *dict.fromkeys(meanings)])
    if any(stat.std is not None for row in group.rows for stat in row.stats.values()):
        text += f" ±: sample standard deviation over the {group.unit}s."
    return clean(text)


def rule(group: Group) -> str:
    """When an image counts as certified at a radius."""
    radii = group.conditions.get("rounding", "as each row says")
    return RULE.format(radii="exact radii" if radii == "exact" else f"radii {radii}")


def conditions(group: Group) -> list[str]:
    """What all rows share of training and certification, in sentences."""
    known = group.conditions
    sentences = []
    if "train.epochs" in known and "train.images" in known:
        epochs = known["train.epochs"]
        sentences.append(f"Training: {counted(epochs, 'epoch')}, images {known['train.images']}.")
    parts = [f"n0 = {known['certify.n0']:,}"] if "certify.n0" in known else []
    parts += [f"n = {n:,}{drawn_words(n, None if group.mixed else group.drawn)}"] if (n := known.get("certify.n")) else []
    parts += [f"alpha = {known['alpha']:g}"] if "alpha" in known else []
    parts += [group.rule.words()] if group.rule else []
    if group.images and "certify.images" in known:
        of = f"{group.images:,} of " if group.test_size else ""
        parts.append(f"{of}{counted(group.test_size or group.images, 'test image', ',')} ({known['certify.images']})")
    parts += [f"sampling seed {known['certify.seed']}"] if "certify.seed" in known else []
    # Whatever else a certification may be told is unusual, and is said where it is not as usual.
    usual = {f"certify.{f.name}": f.default for f in dataclasses.fields(CertifySpec)}
    words = {"certify.skip_misclassified": "misclassified images are skipped", "certify.sampling": "sampling on a {} of floating point"}
    parts += [
        words.get(name, f"{name.removeprefix('certify.').replace('_', ' ')} {{}}").format(value)
        for name, value in known.items()
        if name in usual and name not in SAID and value != usual[name]
    ]
    return [*sentences, f"Certification: {', '.join(parts)}."] if parts else sentences


def fewer_seeds(group: Group) -> list[str]:
    """What to do about rows with fewer seeds than others: a sentence, where every row that was begun has finished some of them."""
    begun = [row for row in group.rows if any(seed.state != "missing" for seed in row.seeds)]
    few = [row.status for row in begun if row.unit == "seed" and not row.finished and not row.refused]
    if not few or not (same := set.intersection(*({s.seed for s in row.seeds if s.outcomes is not None} for row in begun))):
        return []
    seeds = ",".join(map(str, sorted(same, key=int))) + "," * (len(same) == 1)
    return [f"`{few[0]}`: no mean over so few; --seeds {seeds} shows the seeds that every row has."]


def _spans(numbers: Sequence[int]) -> str:
    """`0-4, 7` for 0, 1, 2, 3, 4, 7."""
    spans = [[n for _, n in run] for _, run in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{span[0]}-{span[-1]}" if len(span) > 2 else ", ".join(map(str, span)) for span in spans)


def letters_of(group: Group) -> dict[str, str]:
    """Footnote -> its letter: a, b, ..., z, aa, ab, ..."""

    def letter(number: int) -> str:
        return (letter(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)

    return {note: letter(number) for number, note in enumerate(group.footnotes)}


def sigma_text(sigma: float) -> str:
    return text if float(text := f"{sigma:.2f}") == sigma else repr(sigma)
