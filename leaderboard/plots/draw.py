"""Draws a picture with matplotlib, without pyplot and without a display.

Source of the colours: Okabe and Ito, "Color Universal Design", 2008.
"""

from __future__ import annotations

import bisect
import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench.errors import BenchError, nearest
from leaderboard import layouts
from leaderboard.plots.labels import Box, needs_line, place_labels
from leaderboard.plots.picture import Band, Kind, Picture, Points, Series, over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".svg", ".pdf", ".png")
GREY, INK = "#7f7f7f", "#262626"
# Okabe and Ito without yellow, which is too light for a thin line on white.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (6, 2, 1.2, 2)), (0, (1.4, 1.6)))
MARKERS = "os^DvP*<X>"
PT = 72  # points per inch
TITLE, LABEL, SMALL = 10.0, 9.0, 8.0  # font sizes
FOLD = 1.9  # inches, of a row name
SETTINGS: dict[str, Any] = {
    "text.parse_math": False, "text.usetex": False, "font.family": ["DejaVu Sans"], "font.size": LABEL, "axes.titlesize": TITLE,
    "svg.hashsalt": "certbench", "svg.fonttype": "path", "pdf.fonttype": 42, "path.simplify": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK, "axes.linewidth": 0.7, "text.color": INK,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.6, "figure.facecolor": "white",
    "xtick.color": INK, "ytick.color": INK, "axes.labelcolor": INK, "xtick.major.width": 0.7, "ytick.major.width": 0.7,
}  # fmt: skip


class Style(NamedTuple):
    """How a row looks in every panel: colour, dash and marker, so that no two rows need the colour to be told apart."""

    color: str
    dash: Any
    marker: str
    place: int


def styles(labels: Sequence[str], baseline: str) -> dict[str, Style]:
    """Label -> style. A row of the paper's Table 4 has one of its own, whatever stands beside it; others take those that are free."""
    known = [row for row in layouts.load(4).rows if row != baseline]
    place = {label: known.index(label) for label in labels if label in known}
    free = (number for number in itertools.count() if number not in place.values())
    place |= dict(zip([label for label in labels if label not in place and label != baseline], free, strict=False))
    result = {}
    for label in labels:
        n = place.get(label, -1)
        # Every colour comes back with another dash and another marker.
        own = Style(COLORS[n % len(COLORS)], DASHES[n % len(DASHES)], MARKERS[n % len(MARKERS)], n + 1)
        result[label] = Style(GREY, (0, (3.5, 2)), "", 0) if label == baseline else own
    return result


def require_matplotlib() -> None:
    """BenchError where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise BenchError("pictures need matplotlib, which is not installed; pip install 'certbench[plot]'") from None


def render(picture: Picture, suffix: str) -> bytes:
    """The picture as a file: .svg, .pdf or .png; the same picture gives the same bytes.

    Raises:
        BenchError: another suffix, or matplotlib is not installed.
    """
    if suffix not in FORMATS:
        raise BenchError(f"pictures are {', '.join(FORMATS)}, not {suffix!r}{nearest(suffix, FORMATS)}")
    require_matplotlib()
    from matplotlib.style import context

    dates: dict[str, dict[str, Any]] = {
        ".svg": {"Date": None, "Creator": "certbench", "Title": _show(picture.headline)},
        ".pdf": {"CreationDate": None, "Creator": "certbench", "Producer": None, "Title": _show(picture.headline)},
        ".png": {"Software": None, "Title": "certbench"},
    }
    draw: dict[Kind, Callable[[Picture], Figure]] = {"curves": _curves, "tradeoff": _tradeoff, "training": _training}
    file = io.BytesIO()
    with context(["default", SETTINGS]):
        draw[picture.kind](picture).savefig(file, format=suffix[1:], dpi=150, metadata=dates[suffix])
    return file.getvalue()


@lru_cache(maxsize=4096)
def _show(text: str) -> str:
    """Text that the font can draw: one line, other characters spelled out."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    return "".join(c if c.isprintable() and font.get_char_index(ord(c)) else f"U+{ord(c):04X}" for c in text)


@lru_cache(maxsize=4096)
def _width(text: str, size: float) -> float:
    """Of a line of text, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return float(text_to_path.get_text_width_height_descent(text, FontProperties(family="DejaVu Sans", size=size), False)[0]) / PT


def _wrap(text: str, width: float, size: float) -> list[str]:
    """Lines of at most a width in inches; a word that is longer than a line, such as a path, is cut."""
    lines = [""]
    for word in _show(text).split():
        joined = f"{lines[-1]} {word}".strip()
        if _width(joined, size) <= width:
            lines[-1] = joined
            continue
        lines.append(word)
        while _width(lines[-1], size) > width:
            cut = max(1, bisect.bisect_right(range(1, len(lines[-1])), width, key=lambda n: _width(lines[-1][:n], size)))
            lines[-1:] = [lines[-1][:cut], lines[-1][cut:]]
    return [line for line in lines if line]


def _fold(label: str, size: float) -> list[str]:
    """A long row name over several lines, broken before its bracket and after its commas, as tables do."""
    lines = [""]
    for piece in re.split(r"(?<=,)|(?=\[)", _show(label)):
        if lines[-1] and _width(lines[-1] + piece, size) > FOLD:
            lines.append("")
        lines[-1] += piece
    return [part for line in lines for part in _wrap(line, FOLD, size)]


class _Sheet:
    """A figure with a headline, a grid of panels, a legend beside it and paragraphs below; all lengths in inches."""

    def __init__(
        self, picture: Picture, rows: int, columns: int, size: tuple[float, float], *, legend: bool, shared_y: bool, gap_y: float = 0.85
    ) -> None:
        from matplotlib.figure import Figure

        labels = list(dict.fromkeys(s.label for series in picture.panels.values() for s in series))
        self.styles = styles(labels, picture.baseline)
        left, gap_x = 0.62 if shared_y else 0.74, 0.3 if shared_y else 0.58
        names = {label: _fold(label, LABEL) for label in labels} if legend else {}
        side = max(_width(line, LABEL) for name in names.values() for line in name) + 0.84 if legend else 0.16
        width = max(left + columns * size[0] + (columns - 1) * gap_x + side, 5.2)
        title = _wrap(picture.headline, width - 0.5, TITLE)
        lines = [line for note in picture.notes for line in _wrap(note, width - 0.5, SMALL)]
        head, foot = 0.16 * len(title) + 0.5, 0.145 * len(lines) + 0.68
        tall = sum(0.06 + 0.16 * len(name) for name in names.values())
        height = head + max(rows * size[1] + (rows - 1) * gap_y, tall) + foot
        self.figure = Figure(figsize=(width, height))
        self._extent, self._size, self._gaps, self._head, self._left = (width, height), size, (gap_x, gap_y), head, left
        self._text(0.15, 0.12, title, TITLE, 0.16, weight="bold")
        self._text(0.15, height - foot + 0.6, lines, SMALL, 0.145, color="#555555")
        if legend:
            self._legend(width - side + 0.14, head + 0.05, names)

    def axes(self, row: int, column: int) -> Axes:
        """The panel at a place of the grid."""
        (width, height), (w, h) = self._extent, self._size
        x = self._left + column * (w + self._gaps[0])
        top = self._head + row * (h + self._gaps[1])
        axes: Axes = self.figure.add_axes((x / width, 1 - (top + h) / height, w / width, h / height))
        axes.tick_params(labelsize=SMALL, length=2.5)
        return axes

    def _text(self, x: float, top: float, lines: Sequence[str], size: float, step: float, **style: Any) -> None:
        width, height = self._extent
        for number, line in enumerate(lines):
            self.figure.text(x / width, 1 - (top + number * step) / height, line, fontsize=size, va="top", **style)

    def _legend(self, x: float, top: float, names: Mapping[str, Sequence[str]]) -> None:
        from matplotlib.lines import Line2D

        width, height = self._extent
        for label, lines in names.items():
            own = self.styles[label]
            y = 1 - (top + 0.08) / height
            ends, middle = [x / width, (x + 0.42) / width], [(x + 0.21) / width]
            self.figure.add_artist(Line2D(ends, [y, y], color=own.color, linestyle=own.dash, linewidth=1.6))
            if own.marker:
                self.figure.add_artist(Line2D(middle, [y], color=own.color, **_marker(own)))
            for number, line in enumerate(lines):
                self.figure.text((x + 0.52) / width, y - 0.16 * number / height, line, fontsize=LABEL, va="center_baseline")
            top += 0.06 + 0.16 * len(lines)


def _marker(style: Style) -> dict[str, Any]:
    size = 7.0 if style.marker == "*" else 5.0
    return {"marker": style.marker, "markersize": size, "markeredgecolor": "white", "markeredgewidth": 0.5, "linestyle": "none"}


def _columns(panels: int) -> int:
    return panels if panels <= 3 else 2 if panels == 4 else 3


def _curves(picture: Picture) -> Figure:
    columns = _columns(len(picture.panels))
    size = (2.45, 2.75) if columns > 1 else (4.4, 3.2)
    sheet = _Sheet(picture, -(-len(picture.panels) // columns), columns, size, legend=True, shared_y=True)
    for number, (sigma, series) in enumerate(picture.panels.items()):
        axes = sheet.axes(*divmod(number, columns))
        end = 1.03 * max(_last_radius(one) for one in series) or 1.0
        for one in series:
            if one.points:
                _draw_points(axes, one.points, sheet.styles[one.label])
                continue
            _draw_steps(axes, over_seeds([seed.steps for seed in one.seeds]), end, sheet.styles[one.label])
        axes.set(xlim=(0, end), ylim=(0, 101), title=f"sigma = {sigma:g}", xlabel="radius r (L2, pixels in [0, 1])")
        if number % columns:
            axes.tick_params(labelleft=False)
        else:
            axes.set_ylabel("certified accuracy (%)")
    return sheet.figure


def draw_curves(picture: Picture, axes: Axes | None = None) -> Axes:
    """The curves of a picture in one panel, for a notebook; the look around them is that of the user's settings.

    Args:
        axes: where to draw; a new figure of pyplot, which notebooks show, if None.
    """
    if axes is None:
        from matplotlib import pyplot

        axes = pyplot.subplots(layout="constrained")[1]
    found = {
        (f"{_show(one.label)}, sigma {sigma:g}" if len(picture.panels) > 1 else _show(one.label)): (sigma, one)
        for sigma, series in picture.panels.items()
        for one in series
    }
    looks = styles(list(found), picture.baseline)
    end = 1.03 * max(_last_radius(one) for _, one in found.values()) or 1.0
    for label, (_, one) in found.items():
        axes.plot([], [], label=label, color=looks[label].color, linestyle=looks[label].dash, **_marker_of_line(looks[label]))
        _draw_steps(axes, over_seeds([seed.steps for seed in one.seeds]), end, looks[label])
    axes.set(xlim=(0, end), ylim=(0, 101), xlabel="radius r (L2, pixels in [0, 1])", ylabel="certified accuracy (%)")
    title = picture.headline if len(picture.panels) > 1 else f"{picture.headline}, sigma {next(iter(picture.panels)):g}"
    axes.set_title("\n".join(_wrap(title, 4.6, TITLE)), fontsize=TITLE)
    axes.legend(fontsize=SMALL)
    notes = [line for note in picture.notes for line in _wrap(note, 5.4, SMALL)]
    axes.annotate(
        "\n".join(notes), (0, 0), (0, -38), xycoords="axes fraction", textcoords="offset points", va="top", fontsize=SMALL, color="#555555"
    )
    return axes


def _marker_of_line(style: Style) -> dict[str, Any]:
    return {name: value for name, value in _marker(style).items() if name != "linestyle"} if style.marker else {}


def _draw_steps(axes: Axes, band: Band, end: float, style: Style) -> None:
    x, mean = np.append(band.x, end), np.append(band.mean, band.mean[-1])
    # Steps closer than a 500th of the panel look like one; the last of them is kept, so every drawn value is exact.
    keep = np.append(np.diff(np.floor(x / end * 500)) > 0, True)
    keep[0] = True
    order = 2 + 0.01 * style.place
    axes.plot(x[keep], mean[keep], drawstyle="steps-post", color=style.color, linestyle=style.dash, linewidth=1.5, zorder=order)
    if band.std is not None:
        std = np.append(band.std, band.std[-1])[keep]
        low, high = mean[keep] - std, mean[keep] + std
        axes.fill_between(x[keep], low, high, step="post", color=style.color, alpha=0.22, linewidth=0, zorder=order - 1)
    if style.marker:
        # Markers of different rows stand at different radii, so that they never hide each other where curves meet.
        places = end * (np.arange(5) + 0.25 + (style.place % 10) / 10) / 5.5
        y = mean[np.searchsorted(x, places, side="right") - 1]
        axes.plot(places[y > 0], y[y > 0], color=style.color, zorder=order + 1, **_marker(style))


def _last_radius(one: Series) -> float:
    return max(one.points.accuracy) if one.points else max(float(seed.steps.x[-1]) for seed in one.seeds)


def _draw_points(axes: Axes, points: Points, style: Style) -> None:
    """Printed values with their deviations as bars; the line between them is thin, since nothing is known there."""
    x = list(points.accuracy)
    y, bars = (np.array(values) for values in zip(*points.accuracy.values(), strict=True))
    marker = {**_marker(style), "marker": style.marker or "o", "markersize": 4.0}
    order = 2 + 0.01 * style.place
    axes.plot(x, y, color=style.color, linestyle=style.dash, linewidth=0.8, zorder=order)
    axes.errorbar(x, y, yerr=bars if bars.any() else None, color=style.color, elinewidth=1.0, capsize=2.0, zorder=order + 1, **marker)


def _tradeoff(picture: Picture) -> Figure:
    columns = _columns(len(picture.panels))
    size = (3.6, 3.3) if columns > 1 else (5.2, 3.8)
    sheet = _Sheet(picture, -(-len(picture.panels) // columns), columns, size, legend=False, shared_y=False)
    for number, (sigma, series) in enumerate(picture.panels.items()):
        axes = sheet.axes(*divmod(number, columns))
        points = []
        for one in series:
            if one.points:
                (x, dx), (y, dy) = one.points.accuracy[0.0], one.points.acr or (0.0, 0.0)
            else:
                pairs = [(float(seed.steps.y[0]), seed.acr) for seed in one.seeds]
                (x, dx), (y, dy) = (_spread([pair[axis] for pair in pairs]) for axis in (0, 1))
            style = sheet.styles[one.label]
            if dx or dy:
                axes.errorbar([x], [y], xerr=[dx], yerr=[dy], fmt="none", ecolor=style.color, elinewidth=1.1, capsize=2.5, zorder=2)
            marker = {**_marker(style), "marker": style.marker or "o", "markersize": 9.0 if style.marker == "*" else 7.0}
            axes.plot([x], [y], color=style.color, zorder=3, **marker)
            points.append((x, y, dx, dy, "\n".join(_fold(one.label, SMALL))))
        axes.set(title=f"sigma = {sigma:g}", xlabel="certified accuracy at r = 0 (%)", ylabel="" if number % columns else "ACR")
        _write_labels(axes, points, size)
    return sheet.figure


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _write_labels(axes: Axes, points: Sequence[tuple[float, float, float, float, str]], size: tuple[float, float]) -> None:
    """Sets the limits and writes a label beside each point; what stands further off has a thin line to its point."""
    span = []
    for value, error in ((0, 2), (1, 3)):
        low = min(float(p[value]) - float(p[error]) for p in points)
        high = max(float(p[value]) + float(p[error]) for p in points)
        room = 0.16 * (high - low) or 0.02 * abs(high) or 1.0
        span.append((low - room, high + room))
    (x0, x1), (y0, y1) = span
    axes.set(xlim=(x0, x1), ylim=(y0, y1))
    width, height = size[0] * PT, size[1] * PT
    at = [((p[0] - x0) / (x1 - x0) * width, (p[1] - y0) / (y1 - y0) * height) for p in points]
    bars = [(p[2] / (x1 - x0) * width, p[3] / (y1 - y0) * height) for p in points]
    blocked = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in at]
    blocked += [Box(x - dx - 3, y - 3, x + dx + 3, y + 3) for (x, y), (dx, _) in zip(at, bars, strict=True)]
    blocked += [Box(x - 3, y - dy - 3, x + 3, y + dy + 3) for (x, y), (_, dy) in zip(at, bars, strict=True)]
    sizes = [(max(_width(line, SMALL) for line in p[4].split("\n")) * PT, 10.0 * len(p[4].split("\n")) - 1) for p in points]
    boxes = place_labels(at, sizes, blocked, (width, height))
    for number, ((x, y), box, point) in enumerate(zip(at, boxes, points, strict=True)):
        if needs_line(number, at, box):
            near = box.nearest((x, y))
            axes.plot(
                [x / width, near[0] / width], [y / height, near[1] / height], color="#999999", linewidth=0.6, transform=axes.transAxes
            )
        middle = (box.bottom + box.top) / 2 / height
        axes.text(box.left / width, middle, point[4], fontsize=SMALL, va="center", linespacing=1.1, transform=axes.transAxes, zorder=4)


def _training(picture: Picture) -> Figure:
    found = dict.fromkeys(term for series in picture.panels.values() for s in series for seed in s.seeds for term in seed.terms)
    terms = sorted(found, key=lambda term: term != "loss")
    many = len(picture.panels) > 1
    columns = len(picture.panels) if many else _columns(len(terms))
    rows = len(terms) if many else -(-len(terms) // columns)
    last = max(float(seed.terms["loss"].x[-1]) for series in picture.panels.values() for s in series for seed in s.seeds) or 1.0
    sheet = _Sheet(picture, rows, columns, (2.45, 1.35 if many else 2.1), legend=True, shared_y=False, gap_y=0.55 if many else 0.85)
    for (row, term), (column, (sigma, series)) in itertools.product(enumerate(terms), enumerate(picture.panels.items())):
        place = (row, column) if many else divmod(row, columns)
        axes = sheet.axes(*place)
        for one in series:
            if all(term in seed.terms for seed in one.seeds):
                style = sheet.styles[one.label]
                band = over_seeds([seed.terms[term] for seed in one.seeds])
                often = max(1, len(band.x) // 5)
                marks = {**_marker(style), "markevery": (often * (style.place % 10) // 10, often), "linestyle": style.dash}
                axes.plot(band.x, band.mean, color=style.color, linewidth=1.4, zorder=2 + 0.01 * style.place, **marks)
                if band.std is not None:
                    axes.fill_between(band.x, band.mean - band.std, band.mean + band.std, color=style.color, alpha=0.22, linewidth=0)
        name = _show("loss (sum of terms)" if term == "loss" else term)
        axes.set_title(f"{name}, sigma = {sigma:g}")
        axes.set_xlim(-0.02 * last, 1.02 * last)
        if place[0] == rows - 1 or not many:
            axes.set_xlabel("epoch")
    return sheet.figure
