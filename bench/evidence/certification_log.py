"""The field's certification logs: tab-separated files, one line per test image, in several dialects.

Source of the format: the released code of Cohen, Rosenfeld and Kolter (2019), whose header is
`idx label predict radius correct time`; abstention is predict -1 with radius 0.0 and correct 0. Radii are rounded, as a
rule to three significant digits and half of them upward, so a radius stays the text that was printed.

Such a file comes from outside: it is read as a whole or refused as a whole, with file, line and reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from itertools import accumulate
from pathlib import Path

from bench.errors import BenchError
from bench.evidence.certificate import Certificate
from bench.rules.bounds import certified_radius
from bench.spec import select_images

MAX_FILE = 64 << 20  # bytes; a log of 10,000 images takes 0.3 MB, one of 1,000,000 some 30 MB
MAX_LINE = 400  # characters; the longest column is a time, and no dialect has ten columns

CANONICAL = ("idx", "label", "predict", "radius", "correct")
COHEN = (*CANONICAL, "time")
ADAPTIVE = ("idx", "label", "predict", "pA", "samplesize", "radius", "correct", "time_forward")
OURS = (*COHEN, "count", "n")
DIALECTS = (COHEN, ADAPTIVE, OURS)

_WHOLE = re.compile(r"0|[1-9][0-9]{0,8}")
_RADIUS = re.compile(r"(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,30})?(?:e[+-][0-9]{2,3})?")
_TIME = re.compile(
    r"(?:[1-9][0-9]{0,4} days?, )?[0-9]{1,6}:[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?|[0-9]{1,12}(?:\.[0-9]{1,30})?(?:e[+-][0-9]{2,3})?"
)
_NUMBER = re.compile(r"[+-]?(?:nan|inf(?:inity)?|[0-9.]+(?:e[+-]?[0-9]+)?)", re.IGNORECASE)
_BAD_BYTE = re.compile(rb"[^\t\n\r\x20-\x7e]")


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
        classes: of the data set; labels lie in 0 .. classes - 1.
        test_size: images of the test set.
        images: the selections that the log may cover, see `bench.spec.select_images`; it must cover one of them entirely.
        n, alpha, sigma: of the certification; they set the largest radius.
    """

    classes: int
    test_size: int
    images: Sequence[str] = ("all",)
    n: int
    alpha: float
    sigma: float

    @property
    def largest(self) -> float:
        """The radius of an image whose n samples all agree."""
        return certified_radius(self.n, self.n, self.alpha, self.sigma) or 0.0


@dataclass(frozen=True)
class Log:
    """A log that was read.

    Attributes:
        rows: by index.
        images: the selection that it covers, e.g. `all`.
        columns: its dialect.
        cumulative: whether its column `correct` held a running count.
    """

    rows: list[FieldRow]
    images: str
    columns: tuple[str, ...]
    cumulative: bool


def read(source: Path | bytes, expected: Expected, *, labels: Mapping[int, int] | None = None, name: str = "") -> list[FieldRow]:
    """The rows of a log, by index.

    Args:
        labels: image -> class, where known; a log that differs is refused.
        name: what the file is called in errors; its path if not given.

    Raises:
        Refused: anything that is not entirely a log of what is expected.
        OSError: the file cannot be read.
    """
    called = name or (str(source) if isinstance(source, Path) else "log")
    data = load(source, name=called) if isinstance(source, Path) else source
    rows = parse(data, expected, name=called).rows
    if labels is not None:
        check_labels(rows, labels, name=called)
    return rows


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


def parse(data: bytes, expected: Expected, *, name: str) -> Log:
    """A log from its bytes.

    Everything is checked by column, where 10,000 rows cost milliseconds; a line is searched for only once a column is
    known to be wrong.

    Raises:
        Refused: anything that is not entirely a log of what is expected.
    """
    lines = _lines(data, name)
    columns = _header(lines[0], name)
    del lines[0]
    width = len(columns)

    def refuse(place: int, reason: str, kind: str) -> Refused:
        return Refused(name, place + 2, reason, kind)

    for place, line in enumerate(lines):
        if line.count("\t") != width - 1:
            found = line.count("\t") + 1 if line else 0
            raise refuse(place, f"{found} column{'' if found == 1 else 's'}, but the header has {width}", "columns")
    if not lines:
        total = len(select_images(expected.images[0], expected.test_size))
        raise Refused(name, 1, f"cut short: a header without rows, 0 of {total} images", "cut short")
    cells = "\t".join(lines).split("\t")
    column = {title: cells[number::width] for number, title in enumerate(columns)}

    images, indices = _images(column["idx"], expected, refuse)
    classes = {str(number): number for number in range(expected.classes)}
    _every(column["label"], classes.keys(), "label", f"a class 0 .. {expected.classes - 1}", refuse)
    predicted = classes | {"-1": -1}
    _every(column["predict"], predicted.keys(), "prediction", f"a class 0 .. {expected.classes - 1}, nor -1 for abstain", refuse)
    labels = [classes[text] for text in column["label"]]
    predictions = [predicted[text] for text in column["predict"]]
    _radii(column["radius"], predictions, expected, refuse)
    cumulative = _correct(column["correct"], labels, predictions, refuse)
    _times(column[columns[columns.index("correct") + 1]], refuse)
    for title in ("samplesize", "n", "count", "pA"):
        if title in column:
            _extra(title, column[title], expected, refuse)
    rows = list(map(FieldRow, indices, labels, predictions, column["radius"]))
    return Log(rows, images, columns, cumulative)


def _lines(data: bytes, name: str) -> list[str]:
    """The lines without their ends, one at least."""
    if not data:
        raise Refused(name, 1, "the file is empty", "cut short")
    for mark, encoding in ((b"\xef\xbb\xbf", "UTF-8 with a byte order mark"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16")):
        if data.startswith(mark):
            raise Refused(name, 1, f"the encoding is {encoding}, not ASCII", "encoding")
    if bad := _BAD_BYTE.search(data):
        line, byte = data.count(b"\n", 0, bad.start()) + 1, data[bad.start()]
        if byte < 0x80:
            raise Refused(name, line, f"byte 0x{byte:02x}: a binary file, not a table", "encoding")
        try:
            letter = data[bad.start() : bad.start() + 4].decode("utf-8", "ignore")[:1]
            data.decode("utf-8")
        except UnicodeDecodeError:
            raise Refused(name, line, f"byte 0x{byte:02x} is not ASCII: another encoding or a binary file", "encoding") from None
        raise Refused(name, line, f"character U+{ord(letter):04X} is not ASCII", "encoding")
    if returns := data.count(b"\r"):
        if not returns == data.count(b"\r\n") == data.count(b"\n"):
            odd = re.search(rb"\r(?!\n)|(?<!\r)\n", data)
            line = data.count(b"\n", 0, odd.start()) + 1 if odd else 1
            raise Refused(name, line, "line ends are mixed: some with, some without a carriage return, or one within a line", "columns")
        data = data.replace(b"\r\n", b"\n")
    lines = data.decode("ascii").split("\n")
    if len(longest := max(lines, key=len)) > MAX_LINE:
        place = next(number for number, line in enumerate(lines, start=1) if len(line) > MAX_LINE)
        raise Refused(name, place, f"a line of {len(lines[place - 1] or longest)} characters is longer than {MAX_LINE}", "columns")
    if lines[-1]:
        raise Refused(name, len(lines), "cut short: the last line has no line end", "cut short")
    return lines[:-1]


def _header(line: str, name: str) -> tuple[str, ...]:
    """The columns of a known dialect."""
    columns = tuple(line.split("\t"))
    if columns in DIALECTS:
        return columns
    words = re.split(r"[\t ,;]+", line.strip())
    if all(map(_NUMBER.fullmatch, words[:3])):
        if len(words) == 2:
            reason = "no header and two columns: accuracies (such files end in _acc), no certification log"
            raise Refused(name, 1, reason, "no certification log")
        raise Refused(name, 1, "no header: the first line is a row of numbers", "columns")
    if tuple(word.lower() for word in words) in {tuple(word.lower() for word in dialect) for dialect in DIALECTS}:
        reason = "the header's columns are not parted by single tabs, or not in lower case"
    else:
        shown = ", ".join(word[:20] for word in columns[:10])
        reason = f"the header is {shown!r}, not 'idx label predict radius correct time' or another that is known"
    raise Refused(name, 1, reason, "columns")


Refuse = Callable[[int, str, str], Refused]


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def _every(texts: Sequence[str], known: Iterable[str], what: str, wanted: str, refuse: Refuse) -> None:
    """Each text is one of the known ones."""
    if strange := set(texts) - set(known):
        place = next(place for place, text in enumerate(texts) if text in strange)
        raise refuse(place, f"{what} {_shown(texts[place])} is not {wanted}", "labels" if what == "label" else f"{what}s")


def _images(texts: Sequence[str], expected: Expected, refuse: Refuse) -> tuple[str, range]:
    """The selection that the indices are, entirely and in order."""
    selections = {word: select_images(word, expected.test_size) for word in expected.images}
    for word, indices in selections.items():
        if len(indices) == len(texts) and list(map(str, indices)) == texts:
            return word, indices

    seen: dict[int, int] = {}
    last = -1
    for place, text in enumerate(texts):
        if not _WHOLE.fullmatch(text):
            raise refuse(place, f"index {_shown(text)} is not a whole number", "images")
        index = int(text)
        if index in seen:
            raise refuse(place, f"image {index} stands twice, first in line {seen[index] + 2}", "images")
        if index < last:
            raise refuse(place, f"image {index} comes after image {last}", "images")
        seen[index] = place
        last = index
    found = list(seen)
    for indices in selections.values():
        if found == list(indices[: len(found)]):
            raise refuse(len(texts) - 1, f"cut short: {len(found)} of {len(indices)} images", "cut short")

    # The selection that fits for longest is the one that was meant.
    def agreeing(indices: range) -> int:
        return next((p for p, (a, b) in enumerate(zip(found, indices, strict=False)) if a != b), min(len(found), len(indices)))

    word = max(selections, key=lambda word: agreeing(selections[word]))
    indices = selections[word]
    place = agreeing(indices)
    if place < len(indices) and found[place] > indices[place]:
        raise refuse(place, f"image {indices[place]} of images={word} is missing before image {found[place]}", "images")
    raise refuse(place, f"image {found[place]} is not among images={word}", "images")


def _radii(texts: Sequence[str], predictions: Sequence[int], expected: Expected, refuse: Refuse) -> None:
    """Radii are numbers from 0 to the largest possible one, and 0 for abstain."""
    distinct = set(texts)
    values: dict[str, float] = {}
    for text in distinct:
        if _RADIUS.fullmatch(text):
            values[text] = float(text)
    if bad := distinct - values.keys():
        place = next(place for place, text in enumerate(texts) if text in bad)
        text = texts[place]
        negative = text.startswith("-") and _RADIUS.fullmatch(text[1:])
        raise refuse(place, f"radius {_shown(text)} is {'negative' if negative else 'not a finite number'}", "radii")
    largest = expected.largest
    if above := {text for text, value in values.items() if value > largest}:
        # Rounding may have lifted the largest radius by half a unit of the last place that this file prints.
        digits, places = map(max, zip(*map(_precision, distinct), strict=True))
        unit = max(Decimal(1).scaleb(-places), Decimal(1).scaleb(Decimal(largest).adjusted() - digits + 1)) if largest else Decimal(0)
        limit = f"{largest:.6g}, the largest for n={expected.n}, alpha={expected.alpha:g}, sigma={expected.sigma:g}"

        def impossible(text: str) -> bool:
            return Decimal(text) > Decimal(largest) + unit / 2

        if wrong := set(filter(impossible, above)):
            place = next(place for place, text in enumerate(texts) if text in wrong)
            raise refuse(place, f"radius {texts[place]} is above {limit}", "radii")
    if {values[text] for text, predict in zip(texts, predictions, strict=True) if predict == -1} - {0.0}:
        place = next(p for p, text in enumerate(texts) if predictions[p] == -1 and values[text])
        raise refuse(place, f"abstained, but with radius {texts[place]}", "radii")


def _precision(text: str) -> tuple[int, int]:
    """Significant digits and decimals of a printed number."""
    number = Decimal(text).as_tuple()
    exponent = int(number.exponent)
    return (len(number.digits) if any(number.digits) else 1), max(0, -exponent)


def _correct(texts: Sequence[str], labels: Sequence[int], predictions: Sequence[int], refuse: Refuse) -> bool:
    """Whether the column is the running count of right predictions; it must be that or their flags."""
    flags = [int(label == predict) for label, predict in zip(labels, predictions, strict=True)]
    if list(map(str, flags)) == texts:
        return False
    counts = list(accumulate(flags))
    if list(map(str, counts)) == texts:
        return True
    plain = set(texts) <= {"0", "1"}
    place = next(p for p, text in enumerate(texts) if text != str(flags[p]) and (plain or text != str(counts[p])))
    own = f"prediction {predictions[place]} for label {labels[place]} gives {flags[place]}"
    own += "" if plain else f", or {counts[place]} as a running count"
    raise refuse(place, f"correct is {_shown(texts[place])}, but {own}", "correct")


def _times(texts: Sequence[str], refuse: Refuse) -> None:
    match = _TIME.fullmatch
    for place, text in enumerate(texts):
        if not match(text):
            raise refuse(place, f"time {_shown(text)} is neither seconds nor h:mm:ss", "times")


def _extra(title: str, texts: Sequence[str], expected: Expected, refuse: Refuse) -> None:
    """The columns that only some dialects have; nothing of them is kept, but nonsense in them is a sign of damage."""
    for text in set(texts):
        if title == "pA":
            good, wanted = bool(_RADIUS.fullmatch(text)) and float(text) <= 1, "a number from 0 to 1"
        elif title == "n":
            good, wanted = text == str(expected.n), f"{expected.n}, as the map says"
        else:
            low = 0 if title == "count" else 1
            good = bool(_WHOLE.fullmatch(text)) and low <= int(text) <= expected.n
            wanted = f"a whole number from {low} to {expected.n}"
        if not good:
            raise refuse(texts.index(text), f"{title} {_shown(text)} is not {wanted}", "columns")


def check_labels(rows: Sequence[FieldRow], labels: Mapping[int, int], *, name: str, source: str = "the data set") -> None:
    """Refuses a log whose labels are not those that are known.

    Args:
        labels: image -> class; images that are not in it are not checked.
        source: where these come from.

    Raises:
        Refused: the first image whose label differs.
    """
    for place, row in enumerate(rows):
        if labels.get(row.index, row.label) != row.label:
            raise Refused(name, place + 2, f"image {row.index} has label {row.label}, but label {labels[row.index]} in {source}", "labels")


def canonical(rows: Iterable[FieldRow]) -> bytes:
    """Rows as the store keeps them: the five columns that matter, `correct` recomputed, radii as printed."""
    body = [f"{r.index}\t{r.label}\t{r.predict}\t{r.radius_text}\t{int(r.label == r.predict)}\n" for r in rows]
    return ("\t".join(CANONICAL) + "\n" + "".join(body)).encode("ascii")


def from_canonical(data: bytes, *, name: str) -> list[FieldRow]:
    """The inverse of `canonical`.

    Raises:
        BenchError: anything that `canonical` would not have written.
    """
    cells = data.decode("ascii", "replace").split()[len(CANONICAL) :]
    try:
        columns = (map(int, cells[0::5]), map(int, cells[1::5]), map(int, cells[2::5]), cells[3::5])
        rows = [FieldRow(*row) for row in zip(*columns, strict=True)]
    except ValueError:
        rows = []
    if canonical(rows) != data:
        raise BenchError(f"{name}: not the rows of an imported log; import the log again")
    return rows


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
