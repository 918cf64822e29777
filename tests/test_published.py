"""The published tables against sums that an independent script added up from the paper's text."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter, defaultdict

import pytest

from bench.errors import BenchError
from leaderboard import layouts

# Table -> row by row in order of reading: sum of the means, sum of the deviations (as printed).
ROW_SUMS: dict[int, list[tuple[float, float]]] = {
    4: [
        (196.00, 0.15), (196.46, 0.16), (197.56, 0.07), (196.68, 0.11), (197.35, 0.12), (197.53, 0.09), (197.56, 0.08), (197.62, 0.10),
        (197.57, 0.05), (353.68, 0.31), (356.43, 0.60), (370.39, 0.29), (357.23, 1.21), (367.81, 0.43), (369.67, 0.22), (370.20, 0.20),
        (370.10, 0.23), (367.21, 0.24), (370.47, 0.58), (373.44, 0.59), (397.56, 0.92), (360.56, 2.24), (389.91, 0.68), (397.76, 0.63),
        (399.79, 0.56), (396.19, 0.60), (394.56, 0.57),
    ],
    5: [
        (4.0873, 0.0040), (4.1212, 0.0053), (4.3980, 0.0029), (4.1050, 0.0126), (4.3204, 0.0031), (4.3939, 0.0030), (4.4431, 0.0024),
        (4.4434, 0.0025), (4.4395, 0.0018),
    ],
    6: [(231.142, 0), (225.126, 0), (276.660, 0), (279.344, 0), (290.956, 0), (282.025, 0), (291.073, 0)],
    7: [(169.733, 0), (183.822, 0), (183.825, 0), (186.846, 0), (196.875, 0), (214.982, 0), (229.040, 0), (229.047, 0)],
    8: [(690.620, 0), (740.689, 0), (740.610, 0), (736.620, 0), (730.417, 0), (725.512, 0)],
    9: [(690.620, 0), (738.785, 0), (739.188, 0), (740.690, 0), (740.689, 0)],
    10: [(690.620, 0), (725.823, 0), (733.451, 0), (739.178, 0), (740.088, 0), (740.689, 0)],
    11: [(690.620, 0), (720.844, 0), (733.976, 0), (740.689, 0), (742.488, 0)],
}  # fmt: skip
# Table -> column by column: sum of the means.
COLUMN_SUMS = {
    4: [2636.49, 2555.26, 1533.32, 1250.35, 367.17, 194.70],
    5: [8.3337, 14.8111, 15.6070],
    6: [4.726, 321.4, 287.7, 254.1, 221.7, 191.4, 164.5, 139.8, 116.9, 96.5, 77.6],
    7: [7.170, 386, 344, 300, 252, 96, 85, 69, 55],
    8: [10.668, 567.1, 553.8, 534.2, 507.0, 472.4, 428.6, 374.7, 313.3, 254.3, 199.3, 149.1],
    9: [8.772, 478.3, 468.4, 453.5, 431.3, 402.3, 365.0, 315.8, 261.0, 205.3, 153.2, 107.1],
    10: [10.449, 575.0, 563.5, 545.4, 519.7, 484.1, 439.2, 380.3, 312.9, 242.9, 178.1, 118.3],
    11: [8.717, 477.6, 467.1, 451.6, 429.4, 399.5, 362.2, 313.7, 259.0, 203.2, 151.2, 105.4],
}
STD_COLUMN_SUMS = {4: [1.14, 2.19, 2.10, 3.15, 1.26, 2.19], 5: [0.0035, 0.0157, 0.0184]}


def column_of(number: int, value: layouts.Published) -> str:
    return value.sigma if layouts.load(number).columns == "sigmas" else value.metric


def row_of(number: int, value: layouts.Published) -> tuple[str, str]:
    return ("" if layouts.load(number).columns == "sigmas" else value.sigma, value.row)


@pytest.mark.parametrize("number", range(4, 12))
def test_rows_and_columns_add_up(number: int) -> None:
    rows: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    columns: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for value in layouts.values(number):
        pair = float(value.mean), float(value.std or 0)
        rows[row_of(number, value)].append(pair)
        columns[column_of(number, value)].append(pair)
    sums = [(math.fsum(m for m, _ in pairs), math.fsum(s for _, s in pairs)) for pairs in rows.values()]
    assert sums == [pytest.approx(expected, abs=1e-9) for expected in ROW_SUMS[number]]
    assert [math.fsum(m for m, _ in pairs) for pairs in columns.values()] == pytest.approx(COLUMN_SUMS[number], abs=1e-9)
    stds = STD_COLUMN_SUMS.get(number, [0.0] * len(columns))
    assert [math.fsum(s for _, s in pairs) for pairs in columns.values()] == pytest.approx(stds, abs=1e-9)


@pytest.mark.parametrize("number", range(4, 12))
def test_values_and_layout_fit_each_other(number: int) -> None:
    layout = layouts.load(number)
    values = layouts.values(number)
    outer = [(row, sigma) for row in layout.rows for sigma in layout.sigmas]
    if layout.columns == "metrics":
        outer = [(row, sigma) for sigma in layout.sigmas for row in layout.rows]
    assert [(v.row, v.sigma, v.metric) for v in values] == [(row, sigma, metric) for row, sigma in outer for metric in layout.metrics]
    assert all(v.label == layout.labels[v.row] for v in values)
    assert all(bool(v.std) == (layout.seeds > 1) for v in values)
    assert layout.baseline == layout.rows[0] == "gaussian"
    assert set(layout.breaks) <= set(layout.rows)
    decimals = {4: 2, 5: 4, 6: 1, 7: 0}.get(number, 1)
    for v in values:
        expected = 3 if v.metric == "ACR" and number != 5 else decimals
        assert len(v.mean.partition(".")[2]) == expected, v


def test_table_4_is_the_list_of_the_nine_rows() -> None:
    assert layouts.load(4).rows == (
        "gaussian",
        "stability",
        "smoothadv",
        "macer",
        "consistency",
        "smoothmix.eta1",
        "smoothmix.eta1-onestep",
        "smoothmix.eta5",
        "smoothmix.eta5-onestep",
    )
    assert layouts.load(4).radii == ("0.00", "0.50", "1.00", "1.50", "2.00", "2.50")


def test_some_values_as_printed() -> None:
    found = {(number, v.sigma, v.row, v.metric): (v.mean, v.std) for number in layouts.numbers() for v in layouts.values(number)}
    assert found[4, "1.00", "smoothmix.eta5-onestep", "2.50"] == ("29.66", "0.15")
    assert found[5, "0.25", "consistency", "ACR"] == ("0.9279", "0.0003")
    assert found[6, "1.00", "macer", "2.25"] == ("14.5", "")
    assert found[7, "1.00", "smoothadv", "ACR"] == ("1.040", "")
    assert found[9, "1.00", "smoothmix.eta1[step_size=8.0,steps=1]", "0.75"] == ("86.0", "")
    assert found[10, "1.00", "smoothmix.eta1-norm2", "2.50"] == ("16.6", "")
    assert Counter(number for number, *_ in found) == {4: 162, 5: 27, 6: 77, 7: 72, 8: 72, 9: 60, 10: 72, 11: 60}


def test_bold_belongs_to_smoothmix_in_tables_4_and_5() -> None:
    for number in (4, 5):
        assert [row for row in layouts.load(number).rows if layouts.load(number).may_be_bold(row)] == list(layouts.load(number).rows[5:])
    assert layouts.load(8).may_be_bold("smoothmix.eta1[strength=2.0]")
    assert [layouts.load(number).underline for number in range(4, 12)] == [True] * 4 + [False] * 4


def test_unknown_table() -> None:
    with pytest.raises(BenchError, match="no published table 12; "):
        layouts.load(12)


def test_layouts_load_without_heavy_imports() -> None:
    heavy = ("torch", "pandas", "numpy", "scipy")
    code = f"import sys; from leaderboard import layouts; layouts.load(4); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
