"""Pages as one HTML file, which opens from disk: no script, nothing from a network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape as escape_html

from leaderboard.formats.page import EMPTY, Cell, Grid, Mark, Page, clean, marked_up

SIGNS: dict[Mark, str] = {"bold": "<strong>Bold</strong>", "underlined": "<u>Underlined</u>", "beyond": EMPTY}
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
section { margin-bottom: 3rem } h2 { font-size: 1.05rem }
.table { overflow-x: auto }
table { border-collapse: collapse; border-block: 2px solid #444; margin: .8rem 0; font-variant-numeric: tabular-nums }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem }
th, td { padding: .2rem .7rem; text-align: right; white-space: pre }
sup { line-height: 0 } .grey { color: #888 }
th { font-weight: normal } thead th { font-weight: 600 } .word { text-align: left }
tbody { border-top: 1px solid #999 }
p { max-width: 60rem; margin: .35rem 0; color: #555; font-size: .9rem }
"""


def render(pages: Sequence[Page]) -> str:
    """All pages, one below the other."""
    title = escape("".join(cell.text for cell in pages[0].title))
    head = f'<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n<title>{title}</title>\n<style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n' + "\n".join(map(_page, pages)) + "\n</body>\n</html>\n"


def escape(text: str) -> str:
    """Text that HTML shows as it is, without control characters."""
    return escape_html(clean(text))


def _page(page: Page) -> str:
    title = "".join(map(_cell, page.title))
    parts = [] if page.label else [f"<h2>{title}</h2>"]
    for part in page.parts:
        if isinstance(part, Grid):
            parts.append(_grid(part, title if page.label else escape(part.caption)))
        else:
            parts.append(f"<p>{marked_up(part, SIGNS, escape)}</p>")
    return "<section>\n" + "\n".join(parts) + "\n</section>"


def _grid(grid: Grid, caption: str) -> str:
    def line(cells: Sequence[str], kinds: Sequence[str]) -> str:
        tags = [f"<{kind}>{cell}</{kind.split()[0]}>" for kind, cell in zip(kinds, cells, strict=True)]
        return f"<tr>{''.join(tags)}</tr>"

    numbers = len(grid.head) - grid.words
    head = ['th scope="col" class="word"'] * grid.words + ['th scope="col"'] * numbers
    kinds = ['th scope="row" class="word"'] * grid.words + ["td"] * numbers
    lines = [line([*map(_cell, cells)], kinds) for cells in grid.lines]
    bodies = ["<tbody>\n" + "\n".join(block) + "\n</tbody>" for block in grid.in_blocks(lines)]
    top = f"<thead>\n{line([*map(escape, grid.head)], head)}\n</thead>"
    named = f"<caption>{caption}</caption>\n" if caption else ""
    return f'<div class="table"><table>\n{named}{top}\n' + "\n".join(bodies) + "\n</table></div>"


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    text = f"<code>{text}</code>" if cell.code else text
    text = f'<span class="grey">{text}</span>' if cell.grey else text
    text = f"<u>{text}</u>" if cell.underlined else text
    text = f"<strong>{text}</strong>" if cell.bold else text
    return text + (f" ± {cell.std}" if cell.std else "") + "".join(f" <sup>{letter}</sup>" for letter in cell.letters)
