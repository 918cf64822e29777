"""Draws a picture with matplotlib, without a display; only a notebook's axes come from pyplot.

Source of the colours: Okabe and Ito, "Color Universal Design", 2008.
"""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench.errors import BenchError, nearest
from leaderboard import layouts
from leaderboard.plots.picture import Band, Kind, Picture, Points, Series, over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

GREY, INK = "#7f7f7f", "#262626"
# Okabe and Ito without yellow, which is too light for a thin line on white.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (6, 2, 1.2, 2)), (0, (1.4, 1.6)))
MARKERS = "os^DvP*<X>"
TITLE, LABEL, SMALL = 10.0, 9.0, 8.0  # font sizes
PER_INCH = {TITLE: 12, SMALL: 16.5}  # characters of a font size
SETTINGS: dict[str, Any] = {
    "text.parse_math": False, "text.usetex": False, "font.family": ["DejaVu Sans"], "font.size": LABEL, "axes.titlesize": TITLE,
    "svg.hashsalt": "certbench", "svg.fonttype": "path", "pdf.fonttype": 42, "path.simplify": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK, "axes.linewidth": 0.7, "text.color": INK,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.6, "figure.facecolor": "white",
    "xtick.color": INK, "ytick.color": INK, "axes.labelcolor": INK, "xtick.major.width": 0.7, "ytick.major.width": 0.7,
    "xtick.labelsize": SMALL, "ytick.labelsize": SMALL, "xtick.major.size": 2.5, "ytick.major.size": 2.5, "legend.frameon": False,
}  # fmt: skip


class Style(NamedTuple):
    """How a row looks in every panel: colour, dash and marker, so that no two rows need the colour to be told apart."""

    color: str
    dash: Any
    marker: str
    place: int

    @property
    def points(self) -> dict[str, Any]:
        """Keywords of its markers."""
        size = 7.0 if self.marker == "*" else 5.0
        return {"marker": self.marker, "markersize": size, "markeredgecolor": "white", "markeredgewidth": 0.5}

    @property
    def order(self) -> float:
        """Above which rows it is drawn."""
        return 2 + 0.01 * self.place


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


def render(picture: Picture, suffix: str) -> bytes:
    """The picture as a file: .svg, .pdf or .png; the same picture gives the same bytes.

    Raises:
        BenchError: another suffix.
    """
    from matplotlib.style import context

    dates: dict[str, dict[str, Any]] = {
        ".svg": {"Date": None, "Creator": "certbench", "Title": _show(picture.headline)},
        ".pdf": {"CreationDate": None, "Creator": "certbench", "Producer": None, "Title": _show(picture.headline)},
        ".png": {"Software": None, "Title": "certbench"},
    }
    if suffix not in dates:
        raise BenchError(f"pictures are {', '.join(dates)}, not {suffix!r}{nearest(suffix, dates)}")
    draw = {"tradeoff": _tradeoff, "training": _training}.get(picture.kind, _curves)
    file = io.BytesIO()
    with context(["default", SETTINGS]):
        draw(picture).savefig(file, format=suffix[1:], dpi=150, metadata=dates[suffix])
    return file.getvalue()


@lru_cache(maxsize=4096)
def _show(text: str) -> str:
    """Text that the font can draw: one line, other characters spelled out."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    return "".join(c if c.isprintable() and font.get_char_index(ord(c)) else f"U+{ord(c):04X}" for c in text)


def _wrap(text: str, inches: float, size: float) -> str:
    return textwrap.fill(_show(text), int(inches * PER_INCH[size]))


def _wrap_parts(text: str, inches: float, size: float) -> str:
    """Lines that end after a comma, where every part between commas fits a line."""
    width = int(inches * PER_INCH[size])
    parts = _show(text).split(", ")
    if max(map(len, parts)) >= width:
        return _wrap(text, inches, size)
    joined = ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)
    return textwrap.fill(joined, width, break_on_hyphens=False).replace("\N{NO-BREAK SPACE}", " ")


def _sheet(
    picture: Picture, panels: int, columns: int, size: tuple[float, float], **share: Any
) -> tuple[Figure, list[Axes], dict[str, Style]]:
    """Panels of a size in inches in a figure with a headline, a legend beside them and notes below, and label -> style."""
    from matplotlib.figure import Figure

    rows = -(-panels // columns)
    labels = list(dict.fromkeys(s.label for series in picture.panels.values() for s in series))
    looks = styles(labels, picture.baseline)
    names = [textwrap.fill(_show(label), 30) for label in labels]
    width = max(columns * (size[0] + 0.5) + 0.6 + 0.07 * max(len(line) for name in names for line in name.split("\n")), 6)
    title = _wrap(picture.headline, width - 0.3, TITLE)
    notes = "\n".join(_wrap(note, width - 0.3, SMALL) for note in picture.notes)
    tall = 0.5 + 0.16 * sum(1 + name.count("\n") for name in names)
    height = max(rows * (size[1] + 0.55), tall) + 0.17 * (1 + title.count("\n")) + 0.135 * (2 + notes.count("\n"))
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **share).flatten().tolist()
    figure.suptitle(title, x=0.01, ha="left", fontsize=TITLE, weight="bold")
    figure.supxlabel(notes, x=0.01, ha="left", fontsize=SMALL, color="#555555")
    samples = [_sample(looks[label], picture.kind != "tradeoff") for label in labels]
    figure.legend(samples, names, loc="outside right upper", fontsize=LABEL)
    for unused in axes[panels:]:
        unused.set_visible(False)
    return figure, axes[:panels], looks


def _sample(style: Style, line: bool = True) -> Line2D:
    """What a legend shows of a row: its line, its marker."""
    from matplotlib.lines import Line2D

    look = {**style.points, "linestyle": style.dash} if line else {**style.points, "linestyle": "none", "marker": style.marker or "o"}
    return Line2D([], [], color=style.color, linewidth=1.6, **look)


def _columns(panels: int) -> int:
    return panels if panels <= 3 else 2 if panels == 4 else 3


def _curves(picture: Picture) -> Figure:
    columns = _columns(len(picture.panels))
    size = (2.45, 2.75) if columns > 1 else (4.4, 3.2)
    figure, panels, looks = _sheet(picture, len(picture.panels), columns, size, sharey=True)
    for number, (axes, (sigma, series)) in enumerate(zip(panels, picture.panels.items(), strict=True)):
        _draw_curves(axes, {one.label: one for one in series}, looks, picture.kind)
        axes.set_title(f"best of sigma = {', '.join(f'{s:g}' for s in picture.best_of)}" if picture.best_of else f"sigma = {sigma:g}")
        if number % columns:
            axes.set_ylabel("")
    return figure


def draw_curves(picture: Picture, axes: Axes | None = None) -> Axes:
    """The curves of a picture in one panel, for a notebook; the look around them is that of the user's settings.

    Args:
        axes: where to draw; a new figure of pyplot, which notebooks show, if None.
    """
    if axes is None:
        from matplotlib import pyplot

        axes = pyplot.subplots(layout="constrained")[1]
    several = len(picture.panels) > 1
    found = {
        _show(one.label) + (f", sigma {sigma:g}" if several else ""): one for sigma, series in picture.panels.items() for one in series
    }
    looks = styles(list(found), picture.baseline)
    _draw_curves(axes, found, looks)
    title = picture.headline if several else f"{picture.headline}, sigma {next(iter(picture.panels)):g}"
    axes.set_title(_wrap_parts(title, 5, TITLE), fontsize=TITLE)
    for label, look in looks.items():
        axes.add_line(_sample(look)).set_label(label)
    axes.legend(fontsize=SMALL)
    notes = "\n".join(_wrap(note, 5.4, SMALL) for note in picture.notes)
    axes.annotate(notes, (0, 0), (0, -38), xycoords="axes fraction", textcoords="offset points", va="top", fontsize=SMALL, color="#555555")
    return axes


def _draw_curves(axes: Axes, series: Mapping[str, Series], looks: Mapping[str, Style], kind: Kind = "curves") -> None:
    """Certified accuracy against radius, or against a threshold of pA: a line per row."""
    start, end = (0.5, 1.0) if kind == "pa" else (0.0, 1.03 * max(map(_last_radius, series.values())) or 1.0)
    below = "threshold of the lower bound on pA" if kind == "pa" else "radius r (L2, pixels in [0, 1])"
    for label, one in series.items():
        if one.points:
            _draw_points(axes, one.points, looks[label])
        else:
            _draw_steps(axes, over_seeds([seed.steps for seed in one.seeds]), start, end, looks[label])
    axes.set(xlim=(start, end), ylim=(0, 101), xlabel=below, ylabel="certified accuracy (%)")


def _draw_steps(axes: Axes, band: Band, start: float, end: float, style: Style) -> None:
    x, mean = np.append(band.x, end), np.append(band.mean, band.mean[-1])
    # Steps closer than a 500th of the panel look like one; the last of them is kept, so every drawn value is exact.
    keep = np.append(np.diff(np.floor(x / (end - start) * 500)) > 0, True)
    keep[0] = True
    axes.plot(x[keep], mean[keep], drawstyle="steps-post", color=style.color, linestyle=style.dash, linewidth=1.5, zorder=style.order)
    if band.std is not None:
        std = np.append(band.std, band.std[-1])[keep]
        low, high = mean[keep] - std, mean[keep] + std
        axes.fill_between(x[keep], low, high, step="post", color=style.color, alpha=0.22, linewidth=0, zorder=style.order - 1)
    if style.marker:
        # Markers of different rows stand at different radii, so that they never hide each other where curves meet.
        places = start + (end - start) * (np.arange(5) + 0.25 + (style.place % 10) / 10) / 5.5
        y = mean[np.searchsorted(x, places, side="right") - 1]
        axes.plot(places[y > 0], y[y > 0], color=style.color, zorder=style.order + 1, linestyle="none", **style.points)


def _last_radius(one: Series) -> float:
    return max(one.points.accuracy) if one.points else max(float(seed.steps.x[-1]) for seed in one.seeds)


def _draw_points(axes: Axes, points: Points, style: Style) -> None:
    """Printed values with their deviations as bars; the line between them is thin, since nothing is known there."""
    x = list(points.accuracy)
    y, bars = (np.array(values) for values in zip(*points.accuracy.values(), strict=True))
    look = {**style.points, "marker": style.marker or "o", "markersize": 4.0, "linestyle": style.dash, "linewidth": 0.8}
    axes.errorbar(x, y, yerr=bars if bars.any() else None, color=style.color, elinewidth=1.0, capsize=2.0, zorder=style.order, **look)


def _tradeoff(picture: Picture) -> Figure:
    columns = _columns(len(picture.panels))
    size = (3.3, 3.1) if columns > 1 else (5.2, 3.8)
    figure, panels, looks = _sheet(picture, len(picture.panels), columns, size)
    for axes, (sigma, series) in zip(panels, picture.panels.items(), strict=True):
        for one in series:
            if one.points:
                (x, dx), (y, dy) = one.points.accuracy[0.0], one.points.acr or (0.0, 0.0)
            else:
                (x, dx), (y, dy) = _spread([float(s.steps.y[0]) for s in one.seeds]), _spread([s.acr for s in one.seeds])
            style = looks[one.label]
            bars: dict[str, Any] = {"xerr": dx or None, "yerr": dy or None, "elinewidth": 1.1, "capsize": 2.5}
            look = {**style.points, "marker": style.marker or "o", "markersize": 1.4 * style.points["markersize"]}
            axes.errorbar([x], [y], color=style.color, linestyle="none", zorder=style.order, **bars, **look)
        axes.margins(0.1)
        axes.set(title=f"sigma = {sigma:g}", xlabel="certified accuracy at r = 0 (%)", ylabel="ACR")
    return figure


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _training(picture: Picture) -> Figure:
    """A panel per term; of several noise levels a row of panels per term."""
    found = dict.fromkeys(term for series in picture.panels.values() for s in series for seed in s.seeds for term in seed.terms)
    terms = sorted(found, key=lambda term: term != "loss")
    many = len(picture.panels) > 1
    columns = len(picture.panels) if many else _columns(len(terms))
    contents = list(itertools.product(terms, picture.panels.items()))
    figure, panels, looks = _sheet(picture, len(contents), columns, (2.45, 1.5), sharex=many)
    for axes, (term, (sigma, series)) in zip(panels, contents, strict=True):
        for one in series:
            if all(term in seed.terms for seed in one.seeds):
                style = looks[one.label]
                band = over_seeds([seed.terms[term] for seed in one.seeds])
                often = max(1, len(band.x) // 5)
                marks = {**style.points, "markevery": (often * (style.place % 10) // 10, often), "linestyle": style.dash}
                axes.plot(band.x, band.mean, color=style.color, linewidth=1.4, zorder=style.order, **marks)
                if band.std is not None:
                    axes.fill_between(band.x, band.mean - band.std, band.mean + band.std, color=style.color, alpha=0.22, linewidth=0)
        axes.set_title(_show(f"{'loss (sum of terms)' if term == 'loss' else term}, sigma = {sigma:g}"))
    for axes in panels[-columns:] if many else panels:
        axes.set_xlabel("epoch")
    return figure
