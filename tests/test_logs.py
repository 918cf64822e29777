"""The field's certification logs: what is read, and what is refused as a whole."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from pathlib import Path

import pytest
from fake_store import certificate
from hypothesis import given
from hypothesis import strategies as st

from bench.evidence import certification_log
from bench.evidence.certification_log import Expected, FieldRow, Refused
from bench.spec import select_images

EXPECTED = Expected(classes=3, test_size=20, images=("first:6",), n=100_000, alpha=0.001, sigma=0.25)
HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime"
GOOD = f"""{HEADER}
0\t0\t0\t0.953\t1\t0:00:01.286530
1\t1\t1\t0.5\t1\t0:00:00.278602
2\t2\t-1\t0.0\t0\t0:00:01
3\t0\t1\t0.251\t0\t1:00:00.5
4\t1\t1\t4.75e-05\t1\t1 day, 0:00:01.25
5\t2\t2\t0.901\t1\t0:00:00.287616
"""
ROWS = [
    FieldRow(0, 0, 0, "0.953"),
    FieldRow(1, 1, 1, "0.5"),
    FieldRow(2, 2, -1, "0.0"),
    FieldRow(3, 0, 1, "0.251"),
    FieldRow(4, 1, 1, "4.75e-05"),
    FieldRow(5, 2, 2, "0.901"),
]
LINES = [f"{row.index}\t{row.label}\t{row.predict}\t{row.radius_text}\t{int(row.correct)}" for row in ROWS]
ADAPTIVE = "idx\tlabel\tpredict\tpA\tsamplesize\tradius\tcorrect\ttime_forward\n" + "".join(
    f"{row.index}\t{row.label}\t{row.predict}\t0.9\t1000\t{row.radius_text}\t{int(row.correct)}\t0.25\n" for row in ROWS
)
OURS = f"{HEADER}\tcount\tn\n" + "".join(f"{line}\t0:00:00\t99000\t100000\n" for line in LINES)


def parse(data: bytes | str, expected: Expected = EXPECTED) -> list[FieldRow]:
    return certification_log.parse(data.encode() if isinstance(data, str) else data, expected, name="x.tsv").rows


def put(line: int, column: int, text: str) -> bytes:
    """The good log with one cell replaced; lines count from 1, columns from 0."""
    lines = GOOD.split("\n")
    cells = lines[line - 1].split("\t")
    cells[column] = text
    lines[line - 1] = "\t".join(cells)
    return "\n".join(lines).encode()


def without(*numbers: int) -> bytes:
    """The good log without some lines."""
    return "".join(line for number, line in enumerate(GOOD.splitlines(True), start=1) if number not in numbers).encode()


# name -> the file, the line that is told, the kind
MALFORMED: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 1, "header"),
    "header only": (f"{HEADER}\n".encode(), 1, "cut short"),
    "one row of six": (without(3, 4, 5, 6, 7), 2, "cut short"),
    "five rows of six": (without(7), 6, "cut short"),
    "last line without its end": (GOOD[:-1].encode(), 7, "cut short"),
    "last line with too few columns": (GOOD.encode()[: GOOD.rindex("\t")] + b"\n", 7, "columns"),
    "no header": (without(1), 1, "header"),
    "accuracies of two columns": (b"0.25\t0.9912\n0.5\t0.98\n", 1, "header"),
    "commas": (GOOD.replace("\t", ",").encode(), 1, "header"),
    "capitals in the header": (GOOD.replace("idx", "Idx").encode(), 1, "header"),
    "columns in another order": (GOOD.replace("label\tpredict", "predict\tlabel").encode(), 1, "header"),
    "a header of 10 MB": (b"idx\t" * 2_500_000 + b"\n", 1, "header"),
    "a line with a column more": (put(4, 5, "0:00:01\t1"), 4, "columns"),
    "a comment": (GOOD.replace("\n3\t", "\n# resumed\n3\t").encode(), 5, "columns"),
    "no time": (put(3, 5, ""), 3, "columns"),
    "binary after the header": (GOOD.encode()[:60] + bytes(range(256)), 3, "encoding"),
    "UTF-16": (GOOD.encode("utf-16"), 1, "encoding"),
    "digits of another script": (put(3, 1, "\u0661"), 3, "encoding"),
    "a line of 10 MB": (put(4, 3, "0." + "1" * 10_000_000), 4, "radius"),
    "nan for an image that abstained": (put(4, 3, "NaN"), 4, "radius"),
    "inf": (put(2, 3, "inf"), 2, "radius"),
    "an overflowing exponent": (put(2, 3, "1e+999"), 2, "radius"),
    "a negative radius": (put(5, 3, "-0.251"), 5, "radius"),
    "an impossible radius": (put(7, 3, "0.954"), 7, "radius"),
    "impossible by half a unit of four digits": (put(2, 3, "0.9530"), 2, "radius"),
    "no radius": (put(3, 3, ""), 3, "radius"),
    "a tensor for a radius": (put(3, 3, "tensor(0.5)"), 3, "radius"),
    "an underscore in a radius": (put(3, 3, "0_0.5"), 3, "radius"),
    "abstained with a radius": (put(4, 3, "0.1"), 4, "radius"),
    "a label out of range": (put(3, 1, "3"), 3, "label"),
    "a label with a leading zero": (put(3, 1, "01"), 3, "label"),
    "minus two for a prediction": (put(3, 2, "-2"), 3, "predict"),
    "a huge index": (put(3, 0, "9" * 300), 3, "idx"),
    "a negative index": (put(2, 0, "-0"), 2, "idx"),
    "a null byte": (GOOD.replace("\n3\t", "\n\x003\t").encode(), 5, "idx"),
    "an index twice": (put(4, 0, "1"), 4, "images"),
    "the whole log twice, with its header": ((GOOD * 2).encode(), 9, "images"),
    "a missing image": (without(4), 4, "images"),
    "unsorted": (put(3, 0, "3"), 3, "images"),
    "an image more": (f"{GOOD}6\t0\t0\t0.5\t1\t1.0\n".encode(), 8, "images"),
    "a flag that lies": (put(5, 4, "1"), 5, "correct"),
    "a count that jumps": (put(7, 4, "7"), 7, "correct"),
    "another n": (OURS.replace("\t100000\n", "\t1000\n").encode(), 2, "n"),
    "a count above n": (OURS.replace("\t99000\t", "\t100001\t", 1).encode(), 2, "count"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_logs_are_refused_with_file_line_and_reason(name: str) -> None:
    data, line, kind = MALFORMED[name]
    with pytest.raises(Refused) as caught:
        parse(data)
    assert (caught.value.file, caught.value.line, caught.value.kind) == ("x.tsv", line, kind)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", [GOOD, ADAPTIVE, OURS])
def test_a_log_cut_anywhere_is_refused(text: str) -> None:
    for end in range(len(text)):
        with pytest.raises(Refused):
            parse(text[:end])


def test_damage_anywhere_is_refused_or_harmless() -> None:
    """Nothing but `Refused` comes out, and what is still accepted has rows in range."""
    dice = random.Random(0)
    for _ in range(2000):
        data = bytearray(dice.choice((GOOD, ADAPTIVE, OURS)).encode())
        for _ in range(dice.randint(1, 3)):
            place = dice.randrange(len(data))
            choice = dice.randrange(3)
            if choice == 0:
                data[place] = dice.choice(b"0123456789.-e\t\n\r\x00\xff")
            elif choice == 1:
                del data[place : place + dice.randint(1, 20)]
            else:
                data[place:place] = data[dice.randrange(len(data)) :][:9]
        with contextlib.suppress(Refused):
            rows = parse(bytes(data))
            assert [row.index for row in rows] == list(range(6))
            assert all(0 <= row.label < 3 and -1 <= row.predict < 3 and 0 <= row.radius <= 0.9535 for row in rows)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace("\n", "\r\n"),
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\t\n"),
        GOOD.replace("\n", " \n"),
        GOOD + "\n\n",
        GOOD.replace("\n3\t", f"\n{HEADER}\n3\t"),
        "\n".join(["\t".join(HEADER.split("\t")[:5]), *LINES, ""]),
        ADAPTIVE,
        OURS,
        "\n".join([HEADER, *(f"{line[:-1]}{count}\t1" for line, count in zip(LINES, (1, 2, 2, 2, 3, 4), strict=True)), ""]),
    ],
    ids=["plain", "carriage returns", "byte order mark", "trailing tabs", "trailing blanks", "blank lines", "header again",
         "no time column", "adaptive", "ours", "running count"],
)  # fmt: skip
def test_dialects(text: str) -> None:
    assert parse(text) == ROWS
    assert [row.correct for row in parse(text)] == [True, True, False, False, True, True]


def test_rounding_to_the_printed_digits_is_allowed_for() -> None:
    """The largest radius is 0.952864: 0.953 is its three digits, 0.9529 its four decimals; of a file of two decimals 0.95."""
    for text in ("0.953", "0.9529", "0.95286", "0.95"):
        assert parse(put(2, 3, text))[0].radius_text == text
    for text in ("0.954", "0.9530", "0.95287"):
        with pytest.raises(Refused, match="above"):
            parse(put(2, 3, text))
    with pytest.raises(Refused, match=r"alpha=0\.01 would fit"):
        parse(put(2, 3, "0.977"))


@pytest.mark.parametrize(
    ("indices", "told"),
    [
        (range(0, 20, 5), "every:5"),
        (range(20), "all"),
        (range(0, 15, 5), "cut short: 3 of 4 images"),
        (range(9), "cut short: 9 of 20 images; it is images=first:9, if"),
        ((0, 5, 15), "image 15 stands where images=every:5 has image 10"),
    ],
)
def test_one_of_several_selections(indices: range, told: str) -> None:
    both = Expected(classes=3, test_size=20, images=("all", "every:5"), n=1000, alpha=0.001, sigma=1.0)
    text = "\n".join([HEADER, *(f"{i}\t0\t0\t0.5\t1\t1.0" for i in indices), ""])
    if told in both.images:
        assert certification_log.parse(text.encode(), both, name="x").images == told
    else:
        with pytest.raises(Refused, match=told):
            parse(text, both)


@given(st.integers(0, 30), st.integers(1, 5), st.integers(1, 20))
def test_a_selection_is_named_as_it_is_read(first: int, step: int, count: int) -> None:
    found = range(first, first + step * count, step)
    word = certification_log.selection(found, 200)
    assert word is None or list(select_images(word, 200)) == list(found)
    assert certification_log.selection([*found, found[-1]], 200) is None


def test_labels_must_be_those_of_the_data_set() -> None:
    log = certification_log.parse(GOOD.encode(), EXPECTED, name="x")
    certification_log.check_labels(log, {0: 0, 3: 0})
    with pytest.raises(Refused, match="x, line 5: image 3 has label 0, but label 1 in the data set"):
        certification_log.check_labels(log, {3: 1})
    with pytest.raises(Refused, match="another order"):
        certification_log.check_labels(log, {row.index: 3 - row.label for row in ROWS})


def test_canonical_rows() -> None:
    data = certification_log.canonical(ROWS)
    assert data.startswith(b"idx\tlabel\tpredict\tradius\tcorrect\n0\t0\t0\t0.953\t1\n")
    unknown = Expected(classes=None, test_size=None, images=("all",), n=100_000, alpha=0.001, sigma=0.25)
    assert parse(data) == parse(data, unknown) == ROWS


def test_only_files_are_read(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="not a regular file"):
        certification_log.load(tmp_path, name="x")


def test_no_torch_and_no_pandas() -> None:
    code = "import sys, bench.evidence.certification_log, bench.logs; sys.exit(bool({'torch', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_what_we_write_we_read() -> None:
    """Radii are rounded down, an abstained image keeps its count, and an unknown time is 0."""
    rows = [certificate(2, 2, 50_000, 100_000), certificate(0, 1, 100_000, 100_000), certificate(1, 1, 99_990, 100_000, selected=0)]
    data = certification_log.write(rows, alpha=0.001, sigma=0.5, seconds={0: 1.25, 1: 90061.5})
    assert data.decode().splitlines() == [
        "idx\tlabel\tpredict\tradius\tcorrect\ttime\tcount\tn",
        "0\t1\t1\t1.9057\t1\t0:00:01.250000\t100000\t100000",
        "1\t1\t0\t1.7451\t0\t25:01:01.500000\t99990\t100000",
        "2\t2\t-1\t0.0\t0\t0:00:00\t50000\t100000",
    ]
    read = parse(data, Expected(classes=10, test_size=3, n=100_000, alpha=0.001, sigma=0.5))
    assert read == [FieldRow(0, 1, 1, "1.9057"), FieldRow(1, 1, 0, "1.7451"), FieldRow(2, 2, -1, "0.0")]
    for row, back in zip(sorted(rows, key=lambda row: row.index), read, strict=True):
        radius = row.radius(0.001, 0.5)
        assert back.correct == row.correct(0.001, 0.5)
        assert back.radius <= (radius or 0.0) < back.radius + 1e-4
