"""The time left that a run shows."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from bench.api.progress import Show


class Clocked:
    """A Show whose clock and whose lines the test has in hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, estimates: list[float], slots: int = 1, certifying: tuple[float, ...] = ()) -> None:
        self.now, self.text = 0.0, io.StringIO()
        monkeypatch.setattr("bench.api.progress.time.monotonic", lambda: self.now)
        self.show = Show(Console(file=self.text, width=200), [f"cell {n}" for n in range(len(estimates))], estimates, slots, certifying)

    def left(self, at: float, number: int, phase: str, done: int, total: int) -> float:
        """Seconds that the line says which a report at this time prints."""
        self.now, self.show.last_line = at, -1e9
        self.show.progress(number, phase, done, total)
        found = re.search(rf"{phase} {done}/{total}, about (?:(\d+) min|(\d+) s) left", self.text.getvalue().splitlines()[-1])
        assert found
        return 60.0 * int(found[1]) if found[1] else float(found[2])


def test_before_anything_is_measured_the_estimate_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Clocked(monkeypatch, [40.0, 12.0]).left(0.0, 0, "training", 1, 1000) == pytest.approx(52, abs=1)


def test_a_slow_machine_shows_in_what_is_left_of_the_only_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as slow as estimated: at no time does it say that nothing is left of what has still to be done."""
    one = Clocked(monkeypatch, [20.0], certifying=(8.0,))
    one.left(5.0, 0, "training", 0, 10)
    assert one.left(5.0 + 2.4 * 8, 0, "training", 8, 10) == pytest.approx(2 * (12.0 * 0.2 + 8.0), abs=1)
    one.left(5.0 + 24.0, 0, "training", 10, 10)
    assert one.left(29.0, 0, "certifying", 0, 4) == pytest.approx(16.0, abs=1)
    assert one.left(29.0 + 12.0, 0, "certifying", 3, 4) == pytest.approx(4.0, abs=1)


def test_cells_to_come_are_taken_at_the_pace_of_those_in_the_works(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Clocked(monkeypatch, [10.0, 20.0], slots=2, certifying=(4.0, 8.0))
    two.left(0.0, 0, "training", 0, 6)
    assert two.left(9.0, 0, "training", 3, 6) == pytest.approx(3 * (3.0 + 4.0 + 20.0) / 2, abs=1)


def test_a_certification_that_goes_on_was_estimated_for_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ninety images were there before; the estimate of 10 s is that of ten."""
    one = Clocked(monkeypatch, [10.0])
    one.left(0.0, 0, "certifying", 91, 100)
    assert one.left(16.0, 0, "certifying", 95, 100) == pytest.approx(16.0 / 4 * 5, abs=1)


def test_a_cell_without_an_estimate_has_its_own_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Clocked(monkeypatch, [0.0])
    one.left(0.0, 0, "training", 1, 101)
    assert one.left(10.0, 0, "training", 51, 101) == pytest.approx(10.0, abs=1)


def test_the_pace_of_what_ended_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Clocked(monkeypatch, [10.0, 10.0], certifying=(0.0, 0.0))
    two.left(0.0, 0, "training", 0, 5)
    two.left(30.0, 0, "training", 5, 5)
    two.show.end(0, "done")
    assert two.left(30.0, 1, "training", 0, 5) == pytest.approx(30.0, abs=1)
