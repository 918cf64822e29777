"""Tables in Markdown and LaTeX, with names as text whatever they mean there."""

from __future__ import annotations

from collections.abc import Callable

from leaderboard.aggregate import Group, Row
from leaderboard.tables.captions import caption, clean, details, headline, legend, letters_of, sigma_text
from leaderboard.tables.cells import Cell, cells


def markdown(group: Group) -> str:
    """One group, ending in a line end."""
    from tabulate import tabulate

    def show(cell: Cell) -> str:
        mean = f"<u>{_md(cell.mean)}</u>" if cell.best else _md(cell.mean)
        mean = f"**{mean}**" if cell.improves else mean
        mean += "<sup>~</sup>" if cell.tied else ""
        return f"{mean} ± {cell.std}" if cell.std else mean

    letters = letters_of(group)
    lines = _lines(group, show, lambda row: _md(clean(row.label)) + "".join(f" <sup>{letters[note]}</sup>" for note in row.notes))
    align = ("left", "left", *("left",) * group.show_trust, *("right" for _ in group.metrics))
    head = ["sigma", "row", *("status",) * group.show_trust, *(metric.heading for metric in group.metrics)]
    table = tabulate(lines, head, tablefmt="pipe", disable_numparse=True, colalign=align)
    explained = legend(group, tie="<sup>~</sup>").replace("Bold", "**Bold**").replace("Underlined", "<u>Underlined</u>")
    parts = [f"**{_md(headline(group))}**", table, f"{_md(details(group))} {explained}".strip()]
    parts += [_md(clean(note)) for note in group.notes]
    parts += [f"<sup>{c}</sup> {_md(clean(note))}" for note, c in letters.items()]
    return "\n\n".join(parts) + "\n"


def _md(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]|~$#" else c for c in escaped)


def latex(group: Group, number: int) -> str:
    """One group; the number is that of its label."""

    def show(cell: Cell) -> str:
        mean = rf"\textbf{{{escape_latex(cell.mean)}}}" if cell.improves else escape_latex(cell.mean)
        mean = rf"\underline{{{mean}}}" if cell.best else mean
        mean += r"\textsuperscript{\textasciitilde}" if cell.tied else ""
        return rf"{mean} $\pm$ {cell.std}" if cell.std else mean

    letters, status = letters_of(group), ("status",) * group.show_trust
    lines = _lines(
        group, show, lambda row: escape_latex(row.label) + "".join(rf"\textsuperscript{{{letters[note]}}}" for note in row.notes)
    )
    rows = [" & ".join(line) + r" \\" for line in lines]
    ends = [len(section.rows) for section in group.sections]
    body = []
    for length in ends:
        body += [r"\midrule", *rows[:length]]
        rows = rows[length:]
    notes = [escape_latex(note) for note in group.notes] + [rf"\textsuperscript{{{c}}} {escape_latex(note)}" for note, c in letters.items()]
    return "\n".join(
        [
            r"\begin{table}[ht]",
            r"\centering",
            rf"\caption{{{escape_latex(caption(group))}}}",
            rf"\label{{tab:certbench-{number}}}",
            r"\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\begin{{tabular}}{{ll{'l' * group.show_trust}{'r' * len(group.metrics)}}}",
            r"\toprule",
            " & ".join([r"$\sigma$", "row", *status, *(escape_latex(metric.heading) for metric in group.metrics)]) + r" \\",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\smallskip {note}" for note in notes),
            r"\end{table}",
            "",
        ]
    )


_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "α": r"$\alpha$",
    "ε": r"$\varepsilon$",
    "η": r"$\eta$",
    "∞": r"$\infty$",
    **{c: f"\\{c}" for c in "$&#%_"},
}


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is, without control characters."""
    # pdflatex stops at characters that its fonts lack, so those outside ASCII are spelled out.
    # Two hyphens are a flag such as --mix, not a dash.
    return "".join(_TEX.get(c, c if c.isascii() else f"U+{ord(c):04X}") for c in clean(text)).replace("--", "-{}-")


def _lines(group: Group, show: Callable[[Cell], str], name: Callable[[Row], str]) -> list[list[str]]:
    """One list of texts per row: sigma (in the first row of its section only), name, status if shown, metrics."""
    return [
        ["" if number else sigma_text(section.sigma), name(row), *(row.trust,) * group.show_trust, *map(show, shown)]
        for section in group.sections
        for number, (row, shown) in enumerate(zip(section.rows, cells(group, section), strict=True))
    ]
