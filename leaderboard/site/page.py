"""Values, template, script and style as a page: one file, or a folder for hosting."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from bench.files import disk
from bench.files.writing import write_atomically
from bench.store.runs import Store
from leaderboard.site import drawing
from leaderboard.site.content import Content

STYLES = 8
MARKS = (
    "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0-4 0Z",
    "M-3.6-3.6H3.6V3.6H-3.6Z",
    "M0-4.6L4.4 3.4H-4.4Z",
    "M0-4.8L4.8 0L0 4.8L-4.8 0Z",
    "M0 4.6L4.4-3.4H-4.4Z",
    "M-1.4-4.6H1.4V-1.4H4.6V1.4H1.4V4.6H-1.4V1.4H-4.6V-1.4H-1.4Z",
    "M0-4.6L4.4-1.4L2.7 3.7H-2.7L-4.4-1.4Z",
    "M-4.4-2.2L-2.2-4.4L0-2.2L2.2-4.4L4.4-2.2L2.2 0L4.4 2.2L2.2 4.4L0 2.2L-2.2 4.4L-4.4 2.2L-2.2 0Z",
)
"""Shapes beside the colours, one for each."""
GLYPHS = dict(zip(("claimed", "log", "evidence", "weights checked", "recertified", "computed"), "○◌◔◑●·", strict=True))
EARLY = 'document.documentElement.className = "js";'
"""Runs before the page is drawn, so that nothing flickers."""


def text_of(name: str) -> str:
    """A file of this package."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def render(content: Content, *, evidence: str = "") -> str:
    """The page.

    Args:
        evidence: where the evidence lies that rows link to, such as `evidence/`; empty: they name its file.
    """
    style, script = text_of("page.css"), text_of("certificate.js") + text_of("page.js")
    environment = Environment(
        loader=FunctionLoader(text_of),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "fixed": lambda value, decimals: f"{value:.{decimals}f}",
        "interval": lambda rank: f"{rank[0]}" if rank[0] == rank[1] else f"{rank[0]}–{rank[1]}",
        "style": lambda number: "sg dashed" if number < 0 else f"s{number % STYLES}" + ("", " dashed", " dotted")[number // STYLES % 3],
        "mark": lambda number: (number + number // STYLES * 3) % STYLES,
        "level": _level,
        "glyph": lambda status: GLYPHS.get(_word(status), ""),
        "groupby_run": lambda rows, name: [list(same) for _, same in itertools.groupby(rows, key=lambda row: row[name])],
        "short": _short,
    }
    return environment.get_template("page.html.j2").render(
        data=content.data,
        drawings=content.drawings,
        pictures=content.pictures,
        evidence=evidence,
        policy=_policy(style, [EARLY, script]),
        style=Markup(style),
        early=Markup(EARLY),
        script=Markup(script),
        embedded=Markup(_embedded(content.data)),
        bibtex=bibtex(content.data),
        marks=MARKS,
        left=drawing.LEFT,
        right=drawing.RIGHT,
        top=drawing.TOP,
        bottom=drawing.BOTTOM,
    )


def write_folder(content: Content, store: Store, folder: Path, before: Mapping[str, Any] | None = None) -> None:
    """The page as a folder for hosting: index.html, the evidence that it links to, and its earlier versions as they were.

    evidence/ is a results folder without weights, which every command reads.

    Args:
        before: the data of the page that stands there; it is kept below versions/.

    Raises:
        BenchError: evidence that can no longer be read. OSError.
    """
    index, evidence = folder / "index.html", folder / "evidence"
    if before and index.is_file() and before["version"] != content.data["version"]:
        write_atomically(folder / "versions" / f"{before['version']}.html", index.read_bytes())
    for file in sorted(content.files):
        write_atomically(evidence / file, disk.read(store.root / file))
    for stale in [path for path in evidence.rglob("*") if path.is_file() and path.relative_to(evidence) not in content.files]:
        stale.unlink()
    write_atomically(index, render(content, evidence="evidence/").encode())


def _policy(style: str, scripts: Sequence[str]) -> str:
    """Nothing but this style and these scripts; pictures from the page itself."""

    def source(text: str) -> str:
        return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {' '.join(map(source, scripts))}; style-src {source(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _embedded(data: Mapping[str, Any]) -> str:
    """JSON that no HTML parser takes for anything else."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def bibtex(data: Mapping[str, Any]) -> str:
    """How to cite the page: its version, and the hash of all evidence on it."""
    title = re.sub(r"[{}\\%#&$_^~]", " ", data["title"])
    return (
        f"@misc{{certbench-{data['version']},\n  title = {{{title}}},\n"
        f"  note = {{certbench {data['certbench']}, page version {data['version']}, SHA-256 of the evidence {data['evidence']}}},\n}}"
    )


def _short(value: Any) -> Any:
    """A long hash by its first digits, a word as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28,}\b", r"\1…", text)


def _word(status: str) -> str:
    """The level in a status, such as `recertified on 2 images, unbound`."""
    return next((level for level in GLYPHS if status.startswith(level)), "")


def _level(status: str) -> str:
    if _word(status) in ("weights checked", "recertified"):
        return "high"
    return "low" if status in ("claimed", "unfinished") else ""
