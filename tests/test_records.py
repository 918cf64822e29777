"""Evidence files: what is written is what is read, and no damage passes as a different row."""

from __future__ import annotations

import dataclasses
import json
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.evidence.certificate import MAX_LINE, Certificate, from_line, read_log, read_rows, to_line
from bench.rules.bounds import certified_radius

QUIET = settings(deadline=None, derandomize=True)


def certificate(index: int = 0, label: int = 7, selected: int = 7, **counts: dict[int, int]) -> Certificate:
    return Certificate(
        index=index,
        label=label,
        selected=selected,
        selection=counts.get("selection", {selected: 98, 1: 2}),
        estimation=counts.get("estimation", {selected: 990, 0: 9, 3: 1}),
    )


ROWS = [
    certificate(),
    certificate(20, 2, 2, selection={2: 100}, estimation={2: 1000}),
    certificate(40, 1, 8, selection={8: 40, 9: 40, 2: 20}, estimation={9: 999, 8: 1}),
    certificate(60, 0, 0, selection={0: 34, 4: 33, 5: 33}, estimation={4: 1000}),
    certificate(9999, 9, 9, selection={9: 51, 3: 49}, estimation={9: 500, 3: 500}),
]


def evidence(path: Path, rows: list[Certificate] | None = None) -> Path:
    path.write_bytes("".join(map(to_line, ROWS if rows is None else rows)).encode())
    return path


def test_round_trip(tmp_path: Path) -> None:
    assert read_rows(evidence(tmp_path / "evidence.jsonl")) == ROWS
    assert read_rows(evidence(tmp_path / "empty.jsonl", [])) == []
    assert {row.index for row in ROWS} == {0, 20, 40, 60, 9999}


@st.composite
def certificates(draw: st.DrawFn) -> Certificate:
    counts = st.dictionaries(st.integers(0, 10**4), st.integers(1, 10**8), min_size=1, max_size=12)
    selection = draw(counts)
    return Certificate(
        index=draw(st.integers(0, 10**9)),
        label=draw(st.integers(0, 10**4)),
        selected=max(selection, key=lambda c: (selection[c], -c)),
        selection=selection,
        estimation=draw(counts),
    )


@QUIET
@given(certificates())
def test_every_certificate_survives_its_line(row: Certificate) -> None:
    line = to_line(row)
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert line.isascii()
    assert from_line(line.encode()) == row


def test_the_line_is_what_it_always_was() -> None:
    """A literal line: a change of the format would make every published file unreadable."""
    body = '{"index":0,"label":7,"n":{"0":9,"3":1,"7":990},"n0":{"1":2,"7":98},"selected":7}'
    assert to_line(ROWS[0]) == f'{body[:-1]},"~crc":"{zlib.crc32(body.encode()):08x}"}}\n'
    assert to_line(ROWS[0]) == to_line(dataclasses.replace(ROWS[0], estimation={0: 9, 7: 990, 3: 1}))  # the order of counts does not matter


def test_what_is_derived() -> None:
    row = certificate(estimation={7: 990, 0: 10})
    assert (row.n0, row.n, row.count) == (100, 1000, 990)
    assert row.radius(0.001, 0.5) == certified_radius(990, 1000, 0.001, 0.5)
    assert row.correct(0.001, 0.5)
    assert not dataclasses.replace(row, label=3).correct(0.001, 0.5)
    abstaining = certificate(estimation={7: 549, 0: 451})
    assert abstaining.radius(0.001, 0.5) is None
    assert not abstaining.correct(0.001, 0.5)
    assert certificate(estimation={7: 550, 0: 450}).correct(0.001, 0.5)
    elsewhere = certificate(estimation={0: 1000})  # the estimation never saw the selected class
    assert (elsewhere.count, elsewhere.radius(0.001, 0.5)) == (0, None)
    assert not any("radius" in field.name or "correct" in field.name for field in dataclasses.fields(Certificate))


@pytest.mark.parametrize(
    "change",
    [
        {"index": -1},
        {"index": 1.0},
        {"index": True},
        {"label": -1},
        {"label": "7"},
        {"selected": -1},
        {"selected": 1},  # not the most frequent
        {"selection": {7: 50, 1: 50}, "selected": 7},  # a tie goes to the lowest class
        {"selection": {}},
        {"estimation": {}},  # skipped although the class is right
        {"estimation": {7: 0}},
        {"estimation": {7: -1}},
        {"estimation": {7: 10.0}},
        {"estimation": {7: True}},
        {"estimation": {-1: 10}},
        {"selection": {7: 98, 1: 0}},
    ],
)
def test_impossible_certificates_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"whole|class|counts"):
        dataclasses.replace(certificate(), **change)  # type: ignore[arg-type]


def test_a_tie_of_the_selection_goes_to_the_lowest_class() -> None:
    assert certificate(selected=1, selection={1: 50, 7: 50}).selected == 1


# --------------------------------------------------------------------------------------------------------------- damage


def sound_prefix(path: Path, original: list[Certificate]) -> bool:
    """True if the file was refused with its name and a line, False if the rows read are the first of the original ones."""
    try:
        rows = read_rows(path)
    except BenchError as refusal:
        return str(refusal).startswith(f"{path}, line ")
    assert rows == original[: len(rows)]
    return False


def test_every_truncation_leaves_whole_rows_only(tmp_path: Path) -> None:
    content = evidence(tmp_path / "evidence.jsonl").read_bytes()
    path = tmp_path / "cut.jsonl"
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        assert read_rows(path) == ROWS[: content[:size].count(b"\n")]
        assert read_log(path) == content[: content[:size].rfind(b"\n") + 1]


def test_every_damaged_byte_is_seen(tmp_path: Path) -> None:
    """A flipped bit, another digit, and what some line splitters take for a line end: a row must never vanish in silence.

    Only the very last line end, once damaged, makes a torn tail, which is left out.
    """
    content = evidence(tmp_path / "evidence.jsonl").read_bytes()
    path = tmp_path / "damaged.jsonl"
    for position, byte in enumerate(content):
        for other in {*b"\r\x00\x0b\x0c\x1c\x85 \n{\xff0123456789", *(byte ^ 1 << bit for bit in range(8))} - {byte}:
            path.write_bytes(content[:position] + bytes([other]) + content[position + 1 :])
            if position == len(content) - 1:
                assert sound_prefix(path, ROWS) or read_rows(path) == ROWS[:-1]
            else:
                assert sound_prefix(path, ROWS), f"byte {position} as {other}"


def test_a_forged_row_with_its_own_check_sum_must_still_be_possible() -> None:
    def forge(**changes: object) -> bytes:
        body = {"index": 0, "label": 7, "selected": 7, "n0": {"7": 100}, "n": {"7": 1000}} | changes
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        return f'{text[:-1]},"~crc":"{zlib.crc32(text.encode()):08x}"}}\n'.encode()

    assert from_line(forge()).count == 1000
    forgeries: list[dict[str, object]] = [
        {"selected": 3},
        {"label": -1},
        {"n": {"7": 1e3}},
        {"n": {"7": "1000"}},
        {"n": {"7": -1}},
        {"n": {"07": 1000}},
        {"n": {"+7": 1000}},
        {"n": {"seven": 1000}},
        {"n": [1000]},
        {"n": None},
        {"n": {}},
        {"index": "0"},
        {"index": True},
        {"extra": 1},
        {"radius": 3.0},
    ]
    for changes in forgeries:
        with pytest.raises(ValueError):
            from_line(forge(**changes))


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"7\n",
        b'"text"\n',
        b"NaN\n",
        b"not json\n",
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b"9" * 5_000 + b"\n",
        b'{"index":1e999}\n',
        b"idx\tlabel\tpredict\tradius\tcorrect\ttime\n",
        to_line(ROWS[0]).replace(",", ", ").encode(),
        to_line(ROWS[0]).replace("\n", "\r\n").encode(),
        to_line(ROWS[0]).replace("{", "{ ", 1).encode(),
        b"\xef\xbb\xbf" + to_line(ROWS[0]).encode(),
        to_line(ROWS[0]).replace('"index":0', '"index":0,"index":0').encode(),
        to_line(ROWS[0]).split(',"~crc"')[0].encode() + b"}\n",
    ],
    ids=range(19),
)
def test_lines_that_were_never_written_are_refused(line: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        from_line(line)
    path = tmp_path / "evidence.jsonl"
    path.write_bytes(to_line(ROWS[1]).encode() + line + to_line(ROWS[2]).encode())
    with pytest.raises(BenchError, match=r"evidence\.jsonl, line 2: "):
        read_rows(path)


def test_a_line_of_two_megabytes_is_refused(tmp_path: Path) -> None:
    wide = certificate(estimation=dict.fromkeys(range(170_000), 100))
    assert len(to_line(wide)) > 2_000_000 > MAX_LINE
    path = evidence(tmp_path / "evidence.jsonl", [ROWS[0], wide])
    with pytest.raises(BenchError, match=r"line 2: a line of \d+ bytes is longer than 1048576"):
        read_rows(path)


def test_a_row_of_a_thousand_classes_fits() -> None:
    row = certificate(selection=dict.fromkeys(range(1000), 1) | {7: 2}, estimation=dict.fromkeys(range(1000), 100))
    assert len(to_line(row)) < MAX_LINE / 10
    assert from_line(to_line(row).encode()) == row


def test_a_doubled_row_is_refused_with_both_lines(tmp_path: Path) -> None:
    for rows in (
        [*ROWS, ROWS[0]],
        [*ROWS, dataclasses.replace(ROWS[0], estimation={7: 1000})],  # the same image with other counts
    ):
        with pytest.raises(BenchError, match=r"evidence\.jsonl, line 6: image 0 already stands in line 1"):
            read_rows(evidence(tmp_path / "evidence.jsonl", rows))


def test_rows_may_stand_in_any_order(tmp_path: Path) -> None:
    assert read_rows(evidence(tmp_path / "evidence.jsonl", ROWS[::-1])) == ROWS[::-1]


def test_the_finished_log_of_an_empty_and_of_a_torn_file(tmp_path: Path) -> None:
    path = tmp_path / "evidence.jsonl"
    for content, length in ((b"", 0), (b"torn", 0), (b"whole\n", 6), (b"whole\ntorn", 6)):
        path.write_bytes(content)
        assert read_log(path) == content[:length]
