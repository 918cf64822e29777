"""What is shown while something runs: how long the rest takes, the lines of a file, and what neither may change."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bench.api.progress import LINE_SECONDS, PACE_SECONDS, Show, TimeLeft, counting

BOTH = {"training": 12.0, "certifying": 8.0}


def about(seconds: float, *, whole: bool = True, abs: float = 1e-6) -> Any:
    """What `TimeLeft.left` returns, but for rounding."""
    return pytest.approx(seconds, abs=abs), whole


class Clocked:
    """A Show whose clock and whose lines the test has in hand."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        weights: Sequence[Mapping[str, float]],
        slots: int = 1,
        *,
        live: bool = False,
        names: Sequence[str] = (),
    ) -> None:
        self.now, self.text = 0.0, io.StringIO()
        monkeypatch.setattr("bench.api.progress.time.monotonic", lambda: self.now)
        console = Console(file=self.text, width=80, force_terminal=live, soft_wrap=True)
        self.show = Show(console, names or [f"cell {n}" for n in range(len(weights))], weights, slots)

    def at(self, now: float, number: int, phase: str, done: int, total: int, note: str = "") -> tuple[float, bool]:
        """Seconds left after a report at this time, and whether they are all of it."""
        self.now = now
        self.show.progress(number, phase, done, total, note)
        return self.show.time.left(now)


def test_nothing_is_said_before_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Clocked(monkeypatch, [BOTH])
    assert one.at(0.0, 0, "training", 1, 1001) == (0.0, False)
    assert one.at(PACE_SECONDS / 2, 0, "training", 100, 1001) == (0.0, False)


def test_a_phase_that_nobody_saw_is_left_out_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """However wrong the weights are: what is said of a training is measured, and until a certification was seen it is not all."""
    one = Clocked(monkeypatch, [{"training": 12.0, "certifying": 1e9}])
    one.at(5.0, 0, "training", 0, 10)
    assert one.at(5.0 + 24.0, 0, "training", 8, 10) == about(6.0, whole=False)
    one.at(35.0, 0, "training", 10, 10)
    assert one.at(35.0, 0, "certifying", 0, 4) == (0.0, False)
    assert one.at(35.0 + 12.0, 0, "certifying", 3, 4) == about(4.0)


def test_cells_to_come_are_taken_at_the_pace_of_those_in_the_works(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Clocked(monkeypatch, [{"training": 6.0}, {"training": 12.0}])
    two.at(0.0, 0, "training", 0, 6)
    assert two.at(9.0, 0, "training", 3, 6) == about(9.0 + 36.0)
    two.at(18.0, 0, "training", 6, 6)
    two.show.end(0, "done")
    assert two.show.time.left(18.0) == about(36.0)


def test_side_by_side_the_longest_cell_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Clocked(monkeypatch, [{"training": 10.0}, {"training": 10.0}], slots=8)
    two.at(0.0, 0, "training", 0, 10)
    assert two.at(10.0, 0, "training", 5, 10) == about(20.0)


def test_a_certification_that_goes_on_was_weighed_for_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ninety images were there before; the weight is that of ten."""
    one = Clocked(monkeypatch, [{"training": 0.0, "certifying": 10.0}])
    one.at(0.0, 0, "certifying", 90, 100)
    assert one.at(16.0, 0, "certifying", 94, 100) == about(24.0)


def test_a_cell_without_weights_has_its_own_pace_and_then_that_of_its_like(monkeypatch: pytest.MonkeyPatch) -> None:
    three = Clocked(monkeypatch, [{}, {}, {}])
    three.at(0.0, 0, "training", 1, 101)
    assert three.at(10.0, 0, "training", 51, 101) == about(10.0, whole=False)
    three.at(20.0, 0, "training", 101, 101)
    three.now = 30.0
    three.show.end(0, "done")
    three.at(30.0, 1, "training", 1, 101)
    assert three.show.time.left(30.0) == about(60.0)
    three.now = 31.0
    three.show.end(1, "failed", done=False)  # which tells nothing of how long the last one takes
    assert three.show.time.left(31.0) == about(30.0)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=5), st.floats(0.01, 100), st.integers(4, 30))
def test_at_an_even_pace_the_rest_is_right_however_fast(weights: list[float], pace: float, steps: int) -> None:
    time_left = TimeLeft([{"training": weight} for weight in weights])
    now, ends = 0.0, sum(weights) * pace
    for place, weight in enumerate(weights):
        time_left.begin(place, now)
        for done in range(steps + 1):
            at = now + weight * pace * done / steps
            time_left.report(place, "training", done, steps, at)
            if "training" in time_left.measured:
                assert time_left.left(at) == about(ends - at, abs=1e-6 * ends)
        now += weight * pace
        time_left.end(place, now)
        assert "training" in time_left.measured
    assert time_left.left(now) == (0.0, True)
    assert time_left.share() == 1.0


def test_a_file_gets_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Clocked(monkeypatch, [BOTH, BOTH])
    steps = 400
    for step in range(steps + 1):
        two.at(step, 0, "training", step, steps, f"step {step}/{steps}, loss 0.5")
    lines = two.text.getvalue().splitlines()
    assert len(lines) == steps // LINE_SECONDS
    assert re.fullmatch(r"2 minutes: cell 0: step 120/400, loss 0\.5 \(30%\); 0 of 2 cells done; over \d+ minutes left", lines[1])


def test_a_terminal_of_80_columns_is_not_overrun(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "smoothmix.eta5-onestep sigma 0.25 seed 4"
    two = Clocked(monkeypatch, [BOTH, BOTH], live=True, names=[name, "macer"])
    with two.show:
        two.at(0.0, 0, "training", 0, 300)
        two.at(250.0, 0, "training", 200, 300, "epoch 2/3, loss 2.302")
        two.show.bars.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", two.text.getvalue()).replace("\r", "\n").splitlines()
    assert any(line.startswith(name) and line.rstrip().endswith("epoch 2/3, loss 2.302") for line in shown)
    assert any(line.startswith("0 of 2 cells done") and "over 8 minutes left" in line for line in shown)
    assert max(map(len, shown)) <= 80


def test_a_report_of_every_step_costs_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks the bars are left alone: of ten thousand steps in a second a few are looked at."""
    one, looks = Clocked(monkeypatch, [BOTH], live=True), 0
    real = one.show.bars.update

    def update(*args: object, **more: object) -> None:
        nonlocal looks
        looks += 1
        real(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(one.show.bars, "update", update)
    for step in range(10_000):
        one.now = step / 10_000
        one.show.progress(0, "training", step, 10_000)
    assert 2 <= looks <= 6


def test_a_count_goes_to_standard_error(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.monotonic()
    with counting("attacking", "image") as progress:
        monkeypatch.setattr("bench.api.progress.time.monotonic", lambda: begun + LINE_SECONDS + 1)
        progress(1, 3)
    out, err = capfd.readouterr()
    assert (out, "image 1/3 (33%)" in err) == ("", True)
