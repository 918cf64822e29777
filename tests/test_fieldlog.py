"""The field's logs: what is read, and what is refused as a whole."""

from __future__ import annotations

import contextlib
import gzip
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_store import certificate
from typer.testing import Result

from bench.errors import BenchError
from bench.evidence import certification_log
from bench.evidence.certification_log import Expected, FieldRow, Refused

Call = Callable[..., Result]

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
MAP = """
collection = "toy"
[datasets.toy]
classes = 3
test_size = 20
[[logs]]
path = "{*}.tsv"
dataset = "toy"
arch = "lenet"
method = "gaussian"
sigma = 0.25
run = "1"
images = ["first:6"]
"""


def put(line: int, column: int, text: str) -> bytes:
    """The good log with one cell replaced; lines count from 1, columns from 0."""
    lines = GOOD.split("\n")
    cells = lines[line - 1].split("\t")
    cells[column] = text
    lines[line - 1] = "\t".join(cells)
    return "\n".join(lines).encode()


def without(*numbers: int, text: str = GOOD) -> bytes:
    """The good log without some lines."""
    return "".join(line for number, line in enumerate(text.splitlines(True), start=1) if number not in numbers).encode()


def titled(header: str, row: str) -> bytes:
    """A log of one made-up line under a header."""
    return f"{header}\n{row}\n".encode()


ADAPTIVE = "idx\tlabel\tpredict\tpA\tsamplesize\tradius\tcorrect\ttime_forward\n" + "".join(
    f"{row.index}\t{row.label}\t{row.predict}\t0.9\t1000\t{row.radius_text}\t{int(row.correct)}\t0.25\n" for row in ROWS
)
OURS = f"{HEADER}\tcount\tn\n" + "".join(
    f"{row.index}\t{row.label}\t{row.predict}\t{row.radius_text}\t{int(row.correct)}\t0:00:00\t99000\t100000\n" for row in ROWS
)

# name -> the file, the line that is told, words of the reason
MALFORMED: dict[str, tuple[bytes, int, str]] = {
    # cut short
    "empty": (b"", 1, "empty"),
    "only a line end": (b"\n", 1, "the header is"),
    "header only": (f"{HEADER}\n".encode(), 1, "0 of 6 images"),
    "header without a line end": (HEADER.encode(), 1, "no line end"),
    "one row of six": (without(3, 4, 5, 6, 7), 2, "cut short: 1 of 6 images"),
    "five rows of six": (without(7), 6, "cut short: 5 of 6 images"),
    "last line without its end": (GOOD[:-1].encode(), 7, "no line end"),
    "last line cut in its time": (GOOD[:-5].encode(), 7, "no line end"),
    "last line cut after two columns": (GOOD[: GOOD.rindex("0.901")].encode(), 7, "no line end"),
    "last line with too few columns": (GOOD.encode()[: GOOD.rindex("\t")] + b"\n", 7, "5 columns, but the header has 6"),
    # columns
    "no header": (without(1), 1, "no header"),
    "accuracies of two columns": (b"0.25\t0.9912\n0.5\t0.98\n", 1, "_acc"),
    "accuracies parted by blanks": (b"0 0.9912\n1 0.98\n", 1, "_acc"),
    "commas": (GOOD.replace("\t", ",").encode(), 1, "not parted by single tabs"),
    "blanks": (GOOD.replace("\t", " ").encode(), 1, "not parted by single tabs"),
    "two tabs": (GOOD.replace("\t", "\t\t").encode(), 1, "not parted by single tabs"),
    "capitals in the header": (GOOD.replace("idx", "Idx").encode(), 1, "not in lower case"),
    "a column less": (GOOD.replace("\ttime", "").encode(), 1, "the header is"),
    "a column more": (GOOD.replace("\ttime", "\ttime\tmemory").encode(), 1, "the header is"),
    "columns in another order": (GOOD.replace("label\tpredict", "predict\tlabel").encode(), 1, "the header is"),
    "the header twice": (GOOD.replace("0\t0\t0\t", f"{HEADER}\n0\t0\t0\t", 1).encode(), 2, "index 'idx'"),
    "a line with a column more": (put(4, 5, "0:00:01\t1"), 4, "7 columns"),
    "an empty line": (GOOD.replace("\n3\t", "\n\n3\t").encode(), 5, "0 columns"),
    "an empty line at the end": (f"{GOOD}\n".encode(), 8, "0 columns"),
    "two rows in one line": (GOOD.replace("\n1\t", "\t1\t").encode(), 2, "12 columns"),
    "a comment": (GOOD.replace("\n3\t", "\n# resumed\n3\t").encode(), 5, "1 column, but"),
    # encodings
    "a zip file": (gzip.compress(GOOD.encode(), mtime=0), 1, "binary"),
    "binary after the header": (GOOD.encode()[:60] + bytes(range(256)), 2, "binary"),
    "a null byte": (GOOD.replace("\n3\t", "\n\x003\t").encode(), 5, "0x00"),
    "UTF-16": (GOOD.encode("utf-16"), 1, "UTF-16"),
    "UTF-16 without its mark": (GOOD.encode("utf-16-le"), 1, "0x00"),
    "a byte order mark": (GOOD.encode("utf-8-sig"), 1, "byte order mark"),
    "Latin-1": (put(3, 5, "0:00:01 s\u00e9c").decode().encode("latin-1"), 3, "0xe9"),
    "digits of another script": (put(3, 1, "\u0661"), 3, "U+0661"),
    "wide digits": (put(6, 3, "\uff10.25"), 6, "U+FF10"),
    "a minus that is none": (put(4, 2, "\u22121"), 4, "U+2212"),
    "old line ends": (GOOD.replace("\n", "\r").encode(), 1, "line ends"),
    "mixed line ends": (GOOD.replace("\n", "\r\n", 3).encode(), 4, "line ends"),
    "an escape sequence": (put(3, 5, "\x1b[31m1"), 3, "0x1b"),
    # lines
    "a line of 10 MB": (put(4, 3, "0." + "1" * 10_000_000), 4, "is longer than"),
    "10 MB without a line end": (b"7" * 10_000_000, 1, "is longer than"),
    "a header of 10 MB": (b"idx\t" * 2_500_000 + b"\n", 1, "is longer than"),
    # radii
    "nan": (put(2, 3, "nan"), 2, "not a finite number"),
    "NaN for an image that abstained": (put(4, 3, "NaN"), 4, "not a finite number"),
    "inf": (put(2, 3, "inf"), 2, "not a finite number"),
    "minus inf": (put(2, 3, "-inf"), 2, "not a finite number"),
    "an overflowing exponent": (put(2, 3, "1e+999"), 2, "above 0.952864"),
    "a negative radius": (put(5, 3, "-0.251"), 5, "negative"),
    "minus zero": (put(4, 3, "-0.0"), 4, "negative"),
    "an impossible radius": (put(7, 3, "0.954"), 7, "above 0.952864, the largest for n=100000, alpha=0.001, sigma=0.25"),
    "a radius of another sigma": (put(7, 3, "1.91"), 7, "above"),
    "impossible by half a unit of four digits": (put(2, 3, "0.9530"), 2, "above"),
    "no radius": (put(3, 3, ""), 3, "radius ''"),
    "a word for a radius": (put(3, 3, "None"), 3, "radius 'None'"),
    "a tensor for a radius": (put(3, 3, "tensor(0.5)"), 3, "radius"),
    "a comma in a radius": (put(3, 3, "0,5"), 3, "radius '0,5'"),
    "an underscore in a radius": (put(3, 3, "0_0.5"), 3, "radius"),
    "a hexadecimal radius": (put(3, 3, "0x1p-1"), 3, "radius"),
    "a blank before a radius": (put(3, 3, " 0.5"), 3, "radius"),
    "abstained with a radius": (put(4, 3, "0.1"), 4, "abstained, but with radius 0.1"),
    # classes
    "a label out of range": (put(3, 1, "3"), 3, "label '3' is not a class 0 .. 2"),
    "a negative label": (put(3, 1, "-1"), 3, "label '-1'"),
    "a prediction out of range": (put(3, 2, "10"), 3, "prediction '10'"),
    "minus two for a prediction": (put(3, 2, "-2"), 3, "prediction '-2'"),
    "a prediction with decimals": (put(3, 2, "1.0"), 3, "prediction '1.0'"),
    "a label with a leading zero": (put(3, 1, "01"), 3, "label '01'"),
    "no label": (put(3, 1, ""), 3, "label ''"),
    # images
    "a huge index": (put(3, 0, "9" * 300), 3, "is not a whole number"),
    "an index beyond 64 bits": (put(7, 0, "18446744073709551616"), 7, "is not a whole number"),
    "a negative index": (put(2, 0, "-0"), 2, "is not a whole number"),
    "an index with decimals": (put(3, 0, "1.0"), 3, "is not a whole number"),
    "an index twice": (put(4, 0, "1"), 4, "image 1 stands twice, first in line 3"),
    "the whole log twice": ((GOOD + GOOD.partition("\n")[2]).encode(), 8, "image 0 stands twice, first in line 2"),
    "a missing image": (without(4), 4, "image 2 of images=first:6 is missing before image 3"),
    "the first image missing": (without(2), 2, "image 0 of images=first:6 is missing before image 1"),
    "unsorted": (put(3, 0, "3"), 4, "image 2 comes after image 3"),
    "images from 1 up": ("\n".join([HEADER, *(f"{i}\t0\t0\t0.5\t1\t1.0" for i in range(1, 7)), ""]).encode(), 2, "image 0"),
    "an image more": (f"{GOOD}6\t0\t0\t0.5\t1\t1.0\n".encode(), 8, "image 6 is not among images=first:6"),
    # correct
    "a flag that lies": (put(5, 4, "1"), 5, "correct is '1', but prediction 1 for label 0 gives 0"),
    "a flag that is missing": (put(3, 4, "0"), 3, "gives 1"),
    "flags for abstained images": (put(4, 4, "1"), 4, "prediction -1 for label 2 gives 0"),
    "a count that jumps": (put(7, 4, "7"), 7, "or 4 as a running count"),
    "a word for correct": (put(3, 4, "True"), 3, "correct is 'True'"),
    "no flag": (put(3, 4, ""), 3, "correct is ''"),
    # times
    "no time": (put(3, 5, ""), 3, "time ''"),
    "a negative time": (put(3, 5, "-1 day, 23:59:59"), 3, "time '-1 day"),
    "a time that is nan": (put(3, 5, "nan"), 3, "time 'nan'"),
    "seconds above 59": (put(3, 5, "0:00:60"), 3, "time '0:00:60'"),
    "a date": (put(3, 5, "2021-05-01"), 3, "time"),
    # the columns of other dialects
    "more samples than n": (ADAPTIVE.replace("\t1000\t", "\t100001\t", 1).encode(), 2, "samplesize '100001'"),
    "a probability above 1": (ADAPTIVE.replace("\t0.9\t", "\t1.1\t").encode(), 2, "pA '1.1'"),
    "a probability that is nan": (ADAPTIVE.replace("\t0.9\t", "\tnan\t").encode(), 2, "pA 'nan'"),
    "another n": (OURS.replace("\t100000\n", "\t1000\n").encode(), 2, "n '1000' is not 100000"),
    "a count above n": (OURS.replace("\t99000\t", "\t100001\t", 1).encode(), 2, "count '100001'"),
}


def test_there_are_enough_of_them() -> None:
    assert len(MALFORMED) >= 90


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_logs_are_refused_with_file_line_and_reason(name: str, tmp_path: Path, bench: Call) -> None:
    """By the reader, and by the command, which leaves no trace of them in the store."""
    data, line, reason = MALFORMED[name]
    with pytest.raises(Refused) as caught:
        certification_log.read(data, EXPECTED, name="x.tsv")
    assert (caught.value.file, caught.value.line) == ("x.tsv", line)
    assert reason in caught.value.reason
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()

    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "x.tsv").write_bytes(data)
    (tmp_path / "map.toml").write_text(MAP)
    words = ("import", logs, "--map", tmp_path / "map.toml", "--results", tmp_path / "runs")
    result = bench(*words)
    assert result.exit_code == 1, "nothing was read"
    assert f"refused: x.tsv, line {line}: " in result.output
    assert reason in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "runs").exists()
    assert bench(*words, "--strict").exit_code == 1


def test_a_log_cut_anywhere_is_refused() -> None:
    for text in (GOOD, ADAPTIVE, OURS):
        for end in range(len(text)):
            with pytest.raises(Refused):
                certification_log.read(text[:end].encode(), EXPECTED)


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
            rows = certification_log.read(bytes(data), EXPECTED)
            assert [row.index for row in rows] == list(range(6))
            assert all(0 <= row.label < 3 and -1 <= row.predict < 3 and 0 <= row.radius <= 0.9535 for row in rows)


# ------------------------------------------------------------------------------------------------------- what is read


def test_a_good_log() -> None:
    log = certification_log.parse(GOOD.encode(), EXPECTED, name="x")
    assert log.rows == ROWS
    assert (log.images, log.columns, log.cumulative) == ("first:6", certification_log.COHEN, False)
    assert [row.correct for row in log.rows] == [True, True, False, False, True, True]
    assert log.rows[4].radius == 4.75e-05


def test_a_path_is_read_as_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(GOOD)
    assert certification_log.read(tmp_path / "log", EXPECTED) == ROWS
    with pytest.raises(Refused, match="not a regular file"):
        certification_log.read(tmp_path, EXPECTED)


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("\n", "\r\n"),
        ADAPTIVE,
        OURS,
        GOOD.replace("0:00:01.286530", "1.286530").replace("1:00:00.5", "3.6e+03"),
        GOOD.replace("1 day, ", "12 days, "),
        GOOD.replace("0.953", "0.9528"),
        GOOD.replace("0.953", "0.95286391"),
    ],
    ids=["carriage returns", "adaptive", "ours", "seconds", "days", "4 decimals", "8 decimals"],
)
def test_dialects(text: str) -> None:
    rows = certification_log.read(text.encode(), EXPECTED)
    assert [(row.index, row.label, row.predict, row.correct) for row in rows] == [(r.index, r.label, r.predict, r.correct) for r in ROWS]
    assert rows[1:] == ROWS[1:]


def test_a_running_count_is_read_and_recomputed() -> None:
    text = GOOD
    for line, count in ((4, 2), (5, 2), (6, 3), (7, 4), (3, 2)):
        cells = text.split("\n")[line - 1].split("\t")
        text = text.replace("\t".join(cells), "\t".join([*cells[:4], str(count), cells[5]]))
    log = certification_log.parse(text.encode(), EXPECTED, name="x")
    assert log.cumulative
    assert log.rows == ROWS


def test_rounding_to_the_printed_digits_is_allowed_for() -> None:
    """The largest radius is 0.952864: 0.953 is its three digits, 0.9529 its four decimals; of a file of two decimals 0.95."""
    for text in ("0.953", "0.9529", "0.95286", "0.95"):
        assert certification_log.read(put(2, 3, text), EXPECTED)[0].radius_text == text
    for text in ("0.954", "0.9530", "0.95287"):
        with pytest.raises(Refused, match="above"):
            certification_log.read(put(2, 3, text), EXPECTED)


def test_one_of_several_selections() -> None:
    both = Expected(classes=3, test_size=20, images=("all", "every:5"), n=1000, alpha=0.001, sigma=1.0)
    body = "".join(f"{i}\t0\t0\t0.5\t1\t1.0\n" for i in range(0, 20, 5))
    assert certification_log.parse(f"{HEADER}\n{body}".encode(), both, name="x").images == "every:5"
    body = "".join(f"{i}\t0\t0\t0.5\t1\t1.0\n" for i in range(20))
    assert certification_log.parse(f"{HEADER}\n{body}".encode(), both, name="x").images == "all"
    for indices, words in (((0, 5, 10), "3 of 4"), (range(9), "9 of 20"), ((0, 5, 15), "image 10 of images=every:5 is missing")):
        body = "".join(f"{i}\t0\t0\t0.5\t1\t1.0\n" for i in indices)
        with pytest.raises(Refused, match=words):
            certification_log.parse(f"{HEADER}\n{body}".encode(), both, name="x")


def test_labels_must_be_those_of_the_data_set() -> None:
    assert certification_log.read(GOOD.encode(), EXPECTED, labels={0: 0, 3: 0})
    with pytest.raises(Refused, match="x, line 5: image 3 has label 0, but label 1 in the data set"):
        certification_log.read(GOOD.encode(), EXPECTED, labels={3: 1}, name="x")


def test_canonical_rows() -> None:
    data = certification_log.canonical(ROWS)
    assert data.startswith(b"idx\tlabel\tpredict\tradius\tcorrect\n0\t0\t0\t0.953\t1\n")
    assert certification_log.from_canonical(data, name="x") == ROWS
    for damaged in (data[:-1], data.replace(b"0.953\t1", b"0.953\t0"), data + b"\n", data.replace(b"\t", b" "), b"", b"\xff"):
        with pytest.raises(BenchError, match="not the rows of an imported log"):
            certification_log.from_canonical(damaged, name="x")


def test_no_torch_and_no_pandas() -> None:
    code = "import sys, bench.evidence.certification_log, bench.logs; sys.exit(bool({'torch', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


# --------------------------------------------------------------------------------------------------------------- write


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
    expected = Expected(classes=10, test_size=3, n=100_000, alpha=0.001, sigma=0.5)
    read = certification_log.read(data, expected)
    assert read == [FieldRow(0, 1, 1, "1.9057"), FieldRow(1, 1, 0, "1.7451"), FieldRow(2, 2, -1, "0.0")]
    for row, back in zip(sorted(rows, key=lambda row: row.index), read, strict=True):
        radius = row.radius(0.001, 0.5)
        assert back.correct == row.correct(0.001, 0.5)
        assert back.radius <= (radius or 0.0) < back.radius + 1e-4
