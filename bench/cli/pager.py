"""Tables and sentences of a report in one format: terminal, markdown or latex."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.cli.common import plain


class Page:
    """How names, sentences and tables are written.

    Args:
        format: terminal, markdown or latex.
    """

    def __init__(self, format: str) -> None:
        self.markdown, self.latex = format == "markdown", format == "latex"

    def name(self, label: str) -> str:
        """The name of a row."""
        # In a code span nothing is markup but the bar, which would end the cell.
        return f"`{label.replace('`', chr(39))}`".replace("|", "\\|") if self.markdown else label

    def prose(self, text: str) -> str:
        """A sentence."""
        if self.latex:
            from leaderboard.tables import escape_latex

            return escape_latex(text)
        return "".join(f"\\{c}" if c in "\\`*_[]<>|~$#" else c for c in text) if self.markdown else text

    def title(self, label: str, text: str) -> str:
        """What the report is about: `label` names a row."""
        if self.latex:
            return rf"\noindent\textbf{{{self.prose(label + text)}}}"
        strong = "**" if self.markdown else ""
        return f"{strong}{label}{self.prose(text)}{strong}"

    def table(self, head: Sequence[str], lines: Sequence[Sequence[str]], texts: int) -> str:
        """A table whose first columns, as many as `texts`, hold words, and the others numbers."""
        from tabulate import tabulate

        if self.latex:
            from leaderboard.tables import escape_latex

            rows = [" & ".join(map(escape_latex, line)) + r" \\" for line in (head, *lines)]
            columns = "l" * texts + "r" * (len(head) - texts)
            small = r"{\footnotesize\setlength{\tabcolsep}{3pt}"
            begin = rf"\noindent{small}\begin{{tabular}}{{{columns}}}"
            return "\n".join([begin, r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule", r"\end{tabular}}"])
        align = ["left"] * texts + ["right"] * (len(head) - texts)
        return tabulate(lines, head, tablefmt="pipe" if self.markdown else "simple", disable_numparse=True, colalign=align)

    def whole(self, parts: Iterable[str]) -> str:
        """All parts, without control characters but line ends."""
        text = "\n\n".join("\n".join(map(plain, part.split("\n"))) for part in parts) + "\n"
        return f"% needs \\usepackage{{booktabs}}\n{text}" if self.latex else text
