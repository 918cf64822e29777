"""The field's certification logs: tab-separated files, one line per test image, in several dialects.

Source of the format: the released code of Cohen, Rosenfeld and Kolter (2019), whose header is
`idx label predict radius correct time`; abstention is predict -1 with radius 0.0 and correct 0. Radii are rounded, as a
rule to three significant digits and half of them upward, so a radius stays the text that was printed.

Such a file comes from outside: it is read as a whole or refused as a whole, with file, line and reason. What editors and
interrupted runs leave in it is no harm: a byte order mark, carriage returns, tabs and blanks at the end of a line, blank
lines, the header once more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from itertools import accumulate, zip_longest
from pathlib import Path

from bench.errors import BenchError, counted
from bench.evidence.certificate import Certificate
from bench.rules.bounds import certified_radius
from bench.spec import select_images

MAX_FILE = 64 << 20  # bytes; a log of 10,000 images takes 0.3 MB, one of 1,000,000 some 30 MB

CANONICAL = ("idx", "label", "predict", "radius", "correct")
COHEN = (*CANONICAL, "time")
WITH_PA = ("idx", "label", "predict", "pA", "samplesize", "radius", "correct", "time_forward")
OURS = (*COHEN, "count", "n")
DIALECTS = (CANONICAL, COHEN, WITH_PA, OURS)

USUAL = ((100_000, 0.001), (100_000, 0.01), (100_000, 0.05), (10_000, 0.001), (1_000_000, 0.001), (1_000, 0.001))
"""n and alpha of published logs, the most frequent first."""

_WHOLE = re.compile(r"0|[1-9][0-9]{0,8}")
RADIUS = re.compile(r"(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,30})?(?:e[+-][0-9]{2,3})?")


class Refused(BenchError):
    """A log that is not read, not even in part.

    Args:
        file: what it is called.
        line: the line where the problem shows, counted from 1; None where the file was not opened.
        reason: one sentence.
        kind: one word or two for the summary, e.g. `cut short`.
    """

    def __init__(self, file: str, line: int | None, reason: str, kind: str) -> None:
        self.file, self.line, self.reason, self.kind = file, line, reason, kind
        super().__init__(f"{file}{'' if line is None else f', line {line}'}: {reason}")


@dataclass(frozen=True, slots=True)
class FieldRow:
    """One image of a log.

    Attributes:
        index: position in the test set.
        label: true class.
        predict: the certified class, -1 for abstain.
        radius_text: the certified radius as printed: a rounded number, in pixels of [0, 1].
    """

    index: int
    label: int
    predict: int
    radius_text: str

    @property
    def radius(self) -> float:
        """The printed number; the radius itself may lie half a unit of the last digit to either side."""
        return float(self.radius_text)

    @property
    def correct(self) -> bool:
        """Computed, never read: some writers put a running count into that column."""
        return self.predict == self.label


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a log must agree with.

    Attributes:
        classes: of the data set; labels lie in 0 .. classes - 1. None: not known.
        test_size: images of the test set. None: not known, so it ends with the log's last image.
        images: the selections that the log may cover, see `bench.spec.select_images`; it must cover one of them entirely.
        n, alpha, sigma: of the certification; they set the largest radius.
    """

    classes: int | None
    test_size: int | None
    images: Sequence[str] = ("all",)
    n: int
    alpha: float
    sigma: float


@dataclass(frozen=True)
class Table:
    """The cells of a log, of which nothing is known but that every line has one for each title.

    Attributes:
        name: what the file is called in errors.
        cells: title of the column -> its texts, one per row.
        lines: of each row, counted from 1.
    """

    name: str
    cells: Mapping[str, Sequence[str]]
    lines: Sequence[int]

    def refuse(self, place: int, reason: str, kind: str) -> Refused:
        """The error that something of a row is wrong."""
        return Refused(self.name, self.lines[place], reason, kind)

    def check(self, title: str, good: Callable[[str], object], wanted: str) -> Sequence[str]:
        """The texts of a column, which are all good.

        Raises:
            Refused: the first that is not.
        """
        for place, text in enumerate(self.cells[title]):
            if not good(text):
                raise self.refuse(place, f"{title} {_shown(text)} is not {wanted}", title)
        return self.cells[title]


@dataclass(frozen=True)
class Log:
    """A log that was read.

    Attributes:
        rows: by index.
        images: the selection that it covers, e.g. `all`.
        table: what it was read from.
    """

    rows: list[FieldRow]
    images: str
    table: Table


def load(path: Path, *, name: str) -> bytes:
    """The bytes of a log.

    Raises:
        Refused: not a regular file (a pipe would block), or a file too large to be a log.
        OSError: the file cannot be read.
    """
    if not path.is_file():
        raise Refused(name, None, "it is not a regular file", "unreadable")
    with path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise Refused(name, 1, f"it is larger than {MAX_FILE >> 20} MB, and a log of 10,000 images takes 0.3 MB", "too large")
    return data


def split(data: bytes, *, name: str) -> Table:
    """The bytes of a log as cells.

    Raises:
        Refused: no text, an unknown header, a line with more or fewer columns, a last line without its end.
    """
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode("ascii")
    except UnicodeDecodeError as error:
        line, byte = data.count(b"\n", 0, error.start) + 1, error.object[error.start]
        raise Refused(name, line, f"byte 0x{byte:02x} is not ASCII: no log, or another encoding", "encoding") from None
    lines = [line.rstrip() for line in text.split("\n")]
    titles = tuple(lines[0].split("\t"))
    if titles not in DIALECTS:
        tabs = " parted by tabs" if tuple(re.split(r"[\s,;]+", lines[0].lower())) in DIALECTS else ""
        raise Refused(name, 1, f"the header is {_shown(lines[0])}, not one like 'idx label predict radius correct time'{tabs}", "header")
    if lines[-1]:
        raise Refused(name, len(lines), "cut short: the last line has no line end", "cut short")
    rows = [(number, line) for number, line in enumerate(lines, start=1) if line and line != lines[0]]
    for number, row in rows:
        if (found := row.count("\t") + 1) != len(titles):
            raise Refused(name, number, f"it has {found} columns, but the header {len(titles)}", "columns")
    if not rows:
        raise Refused(name, 1, "cut short: a header without rows", "cut short")
    cells = "\t".join(line for _, line in rows).split("\t")
    return Table(name, {title: cells[place :: len(titles)] for place, title in enumerate(titles)}, [number for number, _ in rows])


def parse(data: bytes, expected: Expected, *, name: str) -> Log:
    """A log from its bytes. All is checked by column, where 10,000 rows cost milliseconds.

    Raises:
        Refused: anything that is not entirely a log of what is expected.
    """
    table = split(data, name=name)
    images = _images(table, expected)
    wanted = "a class" if expected.classes is None else f"a class 0 .. {expected.classes - 1}"

    def is_class(text: str) -> bool:
        return bool(_WHOLE.fullmatch(text)) and (expected.classes is None or int(text) < expected.classes)

    labels = [*map(int, table.check("label", is_class, wanted))]
    predictions = [*map(int, table.check("predict", lambda text: text == "-1" or is_class(text), f"{wanted}, or -1 for abstain"))]
    _radii(table, predictions, expected)
    _correct(table, labels, predictions)
    if "n" in table.cells:
        table.check("n", str(expected.n).__eq__, f"{expected.n}, as was said of the log")
        table.check("count", lambda text: _WHOLE.fullmatch(text) and int(text) <= expected.n, f"a whole number up to {expected.n}")
    return Log(list(map(FieldRow, map(int, table.cells["idx"]), labels, predictions, table.cells["radius"])), images, table)


def indices(table: Table) -> list[int]:
    """The images of a log, in its order.

    Raises:
        Refused: one that is no whole number.
    """
    return [int(text) for text in table.check("idx", _WHOLE.fullmatch, "a whole number")]


def selection(found: Sequence[int], size: int) -> str | None:
    """Images in the notation of `bench.spec.select_images`, where they have one.

    Args:
        found: positions in the test set.
        size: images of the test set.
    """
    first, last, count = found[0], found[-1], len(found)
    step = found[1] - first if count > 1 else 1
    if step < 1:
        return None
    span = f"{first}-{last}" + (f":{step}" if step > 1 else "")
    every = "all" if step == 1 else f"every:{step}"
    for word in (every, f"first:{count}" + (f" of {every}" if step > 1 else ""), span):
        try:
            if list(select_images(word, size)) == list(found):
                return word
        except ValueError:
            continue
    return None


def largest_radius(n: int, alpha: float, sigma: float) -> float:
    """The radius of an image whose n samples all agree, in pixels of [0, 1]; 0 where even that one abstains."""
    return certified_radius(n, n, alpha, sigma) or 0.0


def rounded_up(table: Table, largest: float) -> Decimal:
    """The largest radius as a file may print it: rounding may lift it by half a unit of the last place that the file shows."""
    digits = places = 1
    for text in set(table.cells["radius"]):
        number = Decimal(text).as_tuple()
        digits = max(digits, len(number.digits) if any(number.digits) else 1)
        places = max(places, -int(number.exponent))
    unit = max(Decimal(1).scaleb(-places), Decimal(1).scaleb(Decimal(largest).adjusted() - digits + 1)) if largest else Decimal(0)
    return Decimal(largest) + unit / 2


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _agreement(first: Sequence[object], second: Sequence[object]) -> int:
    """The place of the first difference."""
    return next((p for p, (a, b) in enumerate(zip_longest(first, second)) if a != b), len(first))


def _images(table: Table, expected: Expected) -> str:
    """The selection that the indices are, entirely and in order; of several, the refusal speaks of the one that fits for longest."""
    found = indices(table)
    size = max(found) + 1 if expected.test_size is None else expected.test_size
    selections = {word: select_images(word, size) for word in expected.images}
    word = max(selections, key=lambda word: (_agreement(found, selections[word]), len(selections[word]) == len(found)))
    wanted, place = selections[word], _agreement(found, selections[word])
    if place == len(found) == len(wanted):
        return word
    own = selection(found, size)
    hint = f"; it is images={own}, if that is all there is" if own else ""
    if place == len(found):
        raise table.refuse(place - 1, f"cut short: {len(found)} of {counted(len(wanted), 'image')}{hint}", "cut short")
    if (index := found[place]) in found[:place]:
        raise table.refuse(place, f"image {index} stands twice, first in line {table.lines[found.index(index)]}", "images")
    there = f"where images={word} has image {wanted[place]}" if place < len(wanted) else f"after the last of images={word}"
    raise table.refuse(place, f"image {index} stands {there}{hint}", "images")


def _radii(table: Table, predictions: Sequence[int], expected: Expected) -> None:
    """Radii are numbers from 0 to the largest possible one, and 0 for abstain."""
    texts = table.check("radius", RADIUS.fullmatch, "a finite number, 0 or more")
    values = [float(text) for text in texts]
    largest = largest_radius(expected.n, expected.alpha, expected.sigma)
    top = max(range(len(values)), key=values.__getitem__)
    if values[top] > largest and Decimal(texts[top]) > rounded_up(table, largest):
        fits = [(n, a) for n, a in USUAL if Decimal(texts[top]) <= rounded_up(table, largest_radius(n, a, expected.sigma))]
        hint = f"; n={fits[0][0]} and alpha={fits[0][1]:g} would fit" if fits else ""
        own = f"n={expected.n}, alpha={expected.alpha:g}, sigma={expected.sigma:g}"
        raise table.refuse(top, f"radius {texts[top]} is above {largest:.6g}, the largest for {own}{hint}", "radius")
    for place, predict in enumerate(predictions):
        if predict == -1 and values[place]:
            raise table.refuse(place, f"abstained, but with radius {texts[place]}", "radius")


def _correct(table: Table, labels: Sequence[int], predictions: Sequence[int]) -> None:
    """The column must hold the flags of the right predictions, or their running count."""
    texts = list(table.cells["correct"])
    flags = [int(label == predict) for label, predict in zip(labels, predictions, strict=True)]
    place, counted = (_agreement(texts, list(map(str, own))) for own in (flags, accumulate(flags)))
    if max(place, counted) < len(texts):
        own = f"prediction {predictions[place]} for label {labels[place]} gives {flags[place]}"
        raise table.refuse(place, f"correct is {_shown(texts[place])}, but {own}", "correct")


def check_labels(log: Log, labels: Mapping[int, int], *, source: str = "the data set") -> None:
    """Refuses a log whose labels are not those that are known.

    Args:
        labels: image -> class; images that are not in it are not checked.
        source: where these come from.

    Raises:
        Refused: the first image whose label differs.
    """
    wrong = [place for place, row in enumerate(log.rows) if labels.get(row.index, row.label) != row.label]
    if wrong:
        row = log.rows[wrong[0]]
        reason = f"image {row.index} has label {row.label}, but label {labels[row.index]} in {source}"
        if len(wrong) > len(log.rows) // 2:
            reason += f"; {len(wrong)} of {len(log.rows)} labels differ, so its images are in another order: renumber or skip them"
        raise log.table.refuse(wrong[0], reason, "label")


def canonical(rows: Iterable[FieldRow]) -> bytes:
    """Rows as the store keeps them: the five columns that matter, `correct` recomputed, radii as printed."""
    body = [f"{r.index}\t{r.label}\t{r.predict}\t{r.radius_text}\t{int(r.label == r.predict)}\n" for r in rows]
    return ("\t".join(CANONICAL) + "\n" + "".join(body)).encode("ascii")


def write(rows: Iterable[Certificate], *, alpha: float, sigma: float, seconds: Mapping[int, float] | None = None) -> bytes:
    """Our evidence as a log of the field, with the counts in two more columns at its end.

    Radii are rounded down at 4 decimals: what the log says was certified.

    Args:
        alpha: failure probability of each certificate.
        seconds: image -> time, where known.

    Raises:
        ValueError: alpha or sigma out of range.
    """
    lines = ["\t".join(OURS) + "\n"]
    for row in sorted(rows, key=lambda row: row.index):
        radius = row.radius(alpha, sigma)
        predict = -1 if radius is None else row.selected
        text = "0.0" if radius is None else str(Decimal(radius).quantize(Decimal("0.0001"), rounding=ROUND_FLOOR))
        time = _clock((seconds or {}).get(row.index))
        lines.append(f"{row.index}\t{row.label}\t{predict}\t{text}\t{int(predict == row.label)}\t{time}\t{row.count}\t{row.n}\n")
    return "".join(lines).encode("ascii")


def _clock(seconds: float | None) -> str:
    """`h:mm:ss.ffffff`, or `0:00:00` for a time that is not known."""
    if seconds is None:
        return "0:00:00"
    micro = round(seconds * 1_000_000)
    minutes, rest = divmod(micro, 60_000_000)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest // 1_000_000:02d}.{rest % 1_000_000:06d}"
