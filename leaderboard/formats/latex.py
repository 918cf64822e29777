"""Pages in LaTeX, as one pastes them into a paper."""

from __future__ import annotations

from collections.abc import Sequence

from leaderboard.formats.page import EMPTY, Cell, Grid, Mark, Page, Text, clean, legend_of

SIGNS: dict[Mark, str] = {"bold": "Bold", "underlined": "Underlined", "beyond": "–"}
SMALL = r"\footnotesize\setlength{\tabcolsep}{3pt}"
FITTED = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{"
"""What is wider than the text is shrunk to it; nothing is enlarged."""
CHARACTERS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "–",  # as below
    "±": r"$\pm$",
    "α": r"$\alpha$",
    "ε": r"$\varepsilon$",
    "η": r"$\eta$",
    "∞": r"$\infty$",
    **{c: f"\\{c}" for c in "$&#%_"},
}


def escape(text: str) -> str:
    """Text that LaTeX prints as it is, without control characters."""
    # pdflatex stops at characters that its fonts lack, so those outside ASCII are spelled out.
    # Two hyphens are a flag such as --mix, not a dash.
    return "".join(CHARACTERS.get(c, c if c.isascii() else f"U+{ord(c):04X}") for c in clean(text)).replace("--", "-{}-").replace("–", "--")


def render(pages: Sequence[Page]) -> str:
    """All pages, one below the other."""
    return "% needs \\usepackage{booktabs,graphicx}\n" + "\n".join(_table(page) if page.label else _report(page) for page in pages)


def _table(page: Page) -> str:
    """A float: what is about the table stands in its caption, notes below it."""
    title = "".join(cell.text for cell in page.title).rstrip(".")
    texts = [part for part in page.parts if isinstance(part, Text)]
    caption = [f"{title}.", *(word for text in texts if text.about for word in (text.text, legend_of(text, SIGNS)) if word)]
    notes = [_letters((text.letter,)) + " " * bool(text.letter) + escape(text.text) for text in texts if not text.about]
    return "\n".join(
        [
            r"\begin{table}[ht]",
            r"\centering",
            rf"\caption{{{escape(' '.join(caption))}}}",
            rf"\label{{tab:{page.label}}}",
            SMALL,
            *(_grid(part) for part in page.parts if isinstance(part, Grid)),
            *(rf"\par\smallskip {note}" for note in notes),
            r"\end{table}",
            "",
        ]
    )


def _report(page: Page) -> str:
    parts = [rf"\noindent\textbf{{{escape(''.join(cell.text for cell in page.title))}}}"]
    parts += [rf"\noindent{{{SMALL}{_grid(part)}}}" if isinstance(part, Grid) else escape(part.text) for part in page.parts]
    return "\n\n".join(parts) + "\n"


def _grid(grid: Grid) -> str:
    lines = [" & ".join(map(_cell, line)) + r" \\" for line in grid.lines]
    head = " & ".join(r"$\sigma$" if name == "sigma" else escape(name) for name in grid.head) + r" \\"
    body = [line for block in grid.in_blocks(lines) for line in (r"\midrule", *block)]
    columns = "l" * grid.words + "r" * (len(grid.head) - grid.words)
    return "\n".join([FITTED + rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, *body, r"\bottomrule", r"\end{tabular}}"])


def _cell(cell: Cell) -> str:
    text = "--" if cell.text == EMPTY else escape(cell.text)
    text = rf"\textbf{{{text}}}" if cell.bold else text
    text = rf"\underline{{{text}}}" if cell.underlined else text
    return text + (rf" $\pm$ {cell.std}" if cell.std else "") + _letters(cell.letters)


def _letters(letters: Sequence[str]) -> str:
    return "".join(rf"\textsuperscript{{{letter}}}" for letter in letters if letter)
