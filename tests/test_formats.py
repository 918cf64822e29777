"""Every format shows the same cells, and a text that means something in a format comes out as text."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_store import N, add, new_store, run_spec
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import Result

from bench.errors import BenchError
from leaderboard.formats import FORMATS, Cell, Document, Grid, Page, Text, clean, render
from leaderboard.formats.latex import escape as escape_latex
from leaderboard.formats.values import field

HOSTILE = st.text(st.sampled_from("ab1 |&%_$#{}~^\\[]*`<>\"'\n\x1b\t=+-@/,;ü漢α±"), max_size=24)
NUMBER = Cell("0.9237", "0.0012", bold=True, underlined=True)


def document(texts: list[str], note: str, label: str = "", fitted: bool = False) -> Document:
    """A page with a line of words and numbers for each text, a footnote, and a legend."""
    lines = tuple((Cell(str(n)), Cell(text, letters=("a",)), NUMBER) for n, text in enumerate(texts))
    grid = Grid(head=("sigma", "row", "ACR"), lines=lines, words=2, blocks=(len(lines),), caption="all")
    parts = (grid, Text(text="About.", legend=(("bold", note),), about=True), Text(text=note, letter="a"))
    page = Page(title=(Cell("Title"),), parts=parts, label=label, fitted=fitted)
    return Document(pages=(page,), fields=("row", "mean"), lines=[{"row": text, "mean": 0.1} for text in texts], data={"rows": texts})


class Elements(HTMLParser):
    """Asserts that elements close in order and ask for nothing from elsewhere, and collects their texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = defaultdict(list)
        self.feed(text)
        assert self.open == []
        assert not self.texts.keys() & {"script", "link", "img", "iframe"}
        assert "url(" not in self.texts["style"][0]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
            self.texts[tag].append("")
        assert {name for name, _ in attrs} <= {"lang", "charset", "name", "content", "class", "scope"}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data


def markdown_cells(line: str) -> list[str]:
    """The texts of a line of a table, read as Markdown reads them."""
    tokens = re.findall(r"\\.|&\w+;|<.*?>|.", line)
    plain = {"&amp;": "&", "&lt;": "<", "&gt;": ">"}
    cells = [""]
    for token in tokens:
        if token == "|":
            cells.append("")
        elif not (token.startswith("<") and token.endswith(">")):  # <u>, <sup>
            cells[-1] += plain.get(token, token[-1])
    return [cell.strip() for cell in cells[1:-1]]


def check_latex(text: str, columns: int) -> None:
    """Asserts that braces and environments are closed, and that lines of tables have their columns."""
    assert text.isascii()
    depth = 0
    environments: list[str] = []
    for token in re.findall(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(token, 0)
        assert depth >= 0
    assert depth == 0
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        assert kind == "begin" or environments.pop() == name
        environments += [name] * (kind == "begin")
    assert not environments
    for body in re.findall(r"\\toprule\n(.*?)\\bottomrule", text, re.DOTALL):
        for line in body.splitlines():
            assert line == r"\midrule" or (line.endswith(r" \\") and len(re.findall(r"(?<!\\)&", line)) == columns - 1), line
    assert not re.search(r"(?<!\\)[#_]", text)
    assert len(re.findall(r"(?<!\\)%", text)) == 1  # the first line's comment


@settings(max_examples=60, deadline=None)
@given(st.lists(HOSTILE, min_size=1, max_size=4), HOSTILE, st.sampled_from([("", False), ("label", False), ("label", True)]))
def test_texts_come_out_as_they_are(texts: list[str], note: str, kind: tuple[str, bool]) -> None:
    made = document(texts, note, *kind)
    shown = [clean(text) for text in texts]
    marked = [line for line in render(made, "markdown").splitlines() if line.startswith("|")]
    assert [markdown_cells(line.replace("<sup>a</sup>", ""))[1] for line in marked[2:]] == [text.strip() for text in shown]
    assert all("<sup>a</sup>" in line and "**<u>0.9237</u>**" in line for line in marked[2:])
    check_latex(render(made, "latex"), 3)
    found = Elements(render(made, "html")).texts
    assert found["th"][4::2] == [f"{text} a" for text in shown]
    assert found["strong"][0] == found["u"][0] == "0.9237"
    assert any(text.endswith(f"Bold: {clean(note)}") for text in found["p"])
    lines = list(csv.DictReader(io.StringIO(render(made, "csv"))))
    assert [line["row"] for line in lines] == [f"'{text}" if text.startswith(("=", "+", "-", "@")) else text for text in shown]
    assert {line["mean"] for line in lines} == {"0.1"}
    assert json.loads(render(made, "json")) == {"rows": texts}
    terminal = render(made, "terminal", width=400)
    assert "\x1b" not in terminal
    assert all(text.strip() in terminal for text in shown)
    assert "0.9237±0.0012+*" in terminal if kind[1] else "0.9237+*" in terminal


def test_a_flag_is_no_dash_in_latex() -> None:
    assert escape_latex("--mix, 5-10, –") == "-{}-mix, 5-10, --"


def test_values_of_a_csv() -> None:
    assert [field(value) for value in (-0.5, 0.1, None, 7, True)] == ["-0.5", "0.1", "", "7", "True"]


def test_endings_say_the_format_or_are_refused(bench: Callable[..., Result], tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for row in ("gaussian", "macer"):
        add(store, run_spec(row), (N,) * 4)
    for words in (("table",), ("table", "--table", "5", "--protocol", "quick"), ("compare", "gaussian", "macer")):
        for ending, told in ((".htm", "did you mean '.html'"), (".xlsx", ".html"), (".jsn", "did you mean '.json'")):
            refused = bench(*words, "--results", store.root, "--out", tmp_path / f"a{ending}")
            assert refused.exit_code == 2
            assert told in refused.output
            assert not (tmp_path / f"a{ending}").exists()
        assert bench(*words, "--results", store.root, "--out", "x" * 300 + ".md").exit_code == 2
        for format, known in FORMATS.items():
            assert bench(*words, "--results", store.root, "--out", tmp_path / f"a{known.suffix}").exit_code == 0
            written = (tmp_path / f"a{known.suffix}").read_text()
            assert written == bench(*words, "--results", store.root, "--format", format).output
            assert format != "html" or Elements(written).texts["caption"]
    with pytest.raises(BenchError, match="unknown table format 'markdwn'; did you mean 'markdown'"):
        render(document(["a"], ""), "markdwn")
