"""The matrix of `bench run`: which cells are to be done, and how they are announced, handed out and waited for."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shlex
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.api.words import COLUMNS, clock, cost_columns, cost_total, plain
from bench.errors import BenchError
from bench.executors.engine import Engine

if TYPE_CHECKING:
    from rich.console import Console

    from bench.api.progress import Show
    from bench.executors import Executor
    from bench.matrix.cells import Options
    from bench.matrix.cost import Estimate
    from bench.matrix.plan import Cell, Plan
    from bench.matrix.report import Planned
    from bench.matrix.task import Task
    from bench.store.runs import Store
    from bench.store.subject import State
    from bench.system.signals import StopSignals

AWAIT_SECONDS = 0.5


def flags(options: Options, engine: Engine, cell: Cell) -> str:
    """What continues a cell in the way that it was begun, beyond what its specs say."""
    words = [] if engine.device == "auto" else ["--device", engine.device]
    words += [] if options.batch is None else ["--batch", str(options.batch)]
    words += [] if options.micro_batch is None else ["--micro-batch", str(options.micro_batch)]
    words += [] if options.graph else ["--no-graph"]
    words += [] if options.data_dir is None else ["--data-dir", str(options.data_dir.absolute())]
    words += ["--allow-changed-source"] if options.allow_changed_source else []
    words += ["--allow-other-data"] if options.allow_other_data else []
    return shlex.join(words + engine.flags(cell.spec.row))


class Matrix:
    """The cells of one `bench run`, where each of them stands, and what is said of them."""

    def __init__(self, plan: Plan, store: Store, console: Console, rerun: str | None, plugins: tuple[Path, ...] = ()) -> None:
        from bench.store.listing import Listing

        self.plan, self.store, self.console, self.rerun, self.plugins = plan, store, console, rerun, plugins
        self.estimates: dict[tuple[str, str], Estimate] = {}
        self._listing = Listing(store)
        self.sources: dict[tuple[str, str], str | None] = {}
        self.states = {cell.id: self._state(cell) for cell in plan.cells}
        self._listing.save()
        self.reasons: dict[tuple[str, str], str] = {}
        self.again = {c.id for c in plan.cells if rerun == "all" or (rerun == "diverged" and self.states[c.id] == "diverged")}
        self.todo = [c for c in plan.cells if c.id in self.again or self.states[c.id] not in ("done", "diverged")]

    def _state(self, cell: Cell) -> State:
        from bench.files.claims import forget_dead

        folder = self.store.run(cell.spec).path
        if not folder.exists():
            return "missing"
        if not (folder / "spec.json").exists():
            return "training"  # claimed, and no more
        row = self._listing.row(folder)
        if row["state"] == "damaged":
            return "failed"  # the attempt to continue it will say why
        self.sources[cell.id] = row["source"]
        state: State = row["certifications"].get(cell.certify.key, [row["own"]])[0]
        if state == "done":
            forget_dead(folder)
        return state

    def check_data(self, data_dir: Path | None, *, allow_other: bool, read: bool) -> list[str]:
        """What is wrong with the data sets of the cells to be done.

        Args:
            read: reads them, so that nothing is begun on a damaged one; else they are only looked for.
        """
        from bench.data import load
        from bench.datasets import DATASETS
        from bench.datasets.check import folder_of

        problems = []
        for name in dict.fromkeys(cell.spec.dataset for cell in self.todo):
            trained = all(self.states[c.id] == "certifying" and c.id not in self.again for c in self.todo if c.spec.dataset == name)
            try:
                folder_of(DATASETS[name], data_dir)
                for split in (("test",) if trained else ("train", "test")) if read else ():
                    load(name, split, data_dir, allow_other=allow_other)
            except BenchError as error:
                problems.append(str(error))
        return problems

    def say(self, text: str) -> None:
        self.console.print(plain(text), markup=False)

    def announce(self, options: Options, protocol: str, recipe: str, *, detail: bool, isolated: bool = False) -> None:
        """Says what will be done and how long it may take.

        An estimate runs the method's loss once. Where cells are isolated, a plug-in's is not run here, so its cells have none.
        """
        from bench.matrix.cost import estimate
        from bench.system.guards import settings_kept

        cells = self.plan.cells
        cells_here = [cell for cell in self.todo if not (isolated and self._plugin(cell))]
        with settings_kept():
            self.estimates = estimate(cells_here, self.store, options.device, options.micro_batch, self.again, graph=options.graph)
        for note in self.plan.notes:
            self.say(f"note: {note}")
        for method, count in Counter(c.spec.method for c in cells if self._other_source(c)).items():
            self.say(
                f"note: {count} cells of {method} were trained from another version of its file; they are kept, unless you say --rerun all"
            )
        rows = len({(c.spec.dataset, c.spec.row) for c in cells})
        sigmas, seed_count = len({c.spec.sigma for c in cells}), len({c.spec.seed for c in cells})
        self.say(
            f"{len(cells)} cells: rows {rows}, noise levels {sigmas}, seeds {seed_count}; "
            f"protocol {protocol}, recipe {recipe}, device {options.device}"
        )
        tally = Counter(self.states.values())
        about = f"; about {clock(sum(found.seconds for found in self.estimates.values()))}, from timed passes" if self.estimates else ""
        self.say(f"{tally['done']} done, {tally['diverged']} diverged, {len(self.todo)} to do{about}")
        self.say(f"results in {self.store.root}")
        if detail:
            self._print_cells()
            for sentence in cost_total(self.estimates.values(), len(self.todo)):
                self.say(sentence)

    def _other_source(self, cell: Cell) -> bool:
        """Whether a trained cell comes from another source of its method than the one at hand."""
        if self.states[cell.id] not in ("done", "certifying") or cell.id in self.again:
            return False
        return self.sources.get(cell.id) not in (None, cell.sources["method_sha256"], cell.sources["method_code_sha256"])

    def _print_cells(self) -> None:
        from rich.markup import escape
        from rich.table import Table

        table = Table("row", "data set", "sigma", "seed", "state", "estimate", *COLUMNS, box=None, pad_edge=False)
        for cell in self.plan.cells:
            spec, found = cell.spec, self.estimates.get(cell.id)
            texts = (spec.row, spec.dataset, spec.sigma, spec.seed, self.states[cell.id], "" if found is None else clock(found.seconds))
            table.add_row(*(escape(plain(text)) for text in (*texts, *cost_columns(found))))
        self.console.print(table)

    def run(self, options: Options, engine: Engine, signals: StopSignals | None = None) -> int:
        """Runs what is to do and waits for it; returns the exit code.

        Args:
            signals: what hears Ctrl-C meanwhile; None: as on a command line.
        """
        from bench.api.progress import Show
        from bench.errors import Interrupted
        from bench.matrix.cells import seal
        from bench.matrix.report import announced, withdraw
        from bench.store.listing import INDEXED_RUNS, Listing
        from bench.system.signals import StopSignals

        for cell in self.plan.cells:
            if self.states[cell.id] == "done" and cell.id not in self.again:
                seal(cell, self.store)
        cells = self._longest_first() if engine.isolated else self.todo
        cells = self._set_aside(cells) if engine.cluster else cells
        executor, room = engine.executor({cell.id: cell for cell in cells}, options, len(self.plan.cells), self.say)
        tasks = [self._task(cell, engine.options_for(cell, options)) for cell in cells]
        show = Show(
            self.console,
            [c.name for c in cells],
            [self._seconds(c) or 0.0 for c in cells],
            room,
            [self.estimates[c.id].certifying_seconds if c.id in self.estimates else 0.0 for c in cells],
        )
        planned = [self._planned(cell, self._seconds(cell), flags(options, engine, cell)) for cell in cells]
        finished = self._finished(planned)
        interrupted = 0
        with contextlib.ExitStack() as stack:
            signals = stack.enter_context((signals or StopSignals()).installed())
            announcement = stack.enter_context(announced(self.store.root, planned, finished)) if cells else None
            stack.enter_context(show)
            try:
                self._carry_out(executor, cells, tasks, show, signals)
            except (Interrupted, KeyboardInterrupt) as error:
                interrupted = error.signal_number if isinstance(error, Interrupted) else signal.SIGINT
            if announcement and not interrupted and all(self.states[cell.id] in ("done", "diverged") for cell in cells):
                withdraw(announcement)
        for cell in cells:
            if interrupted and self.states[cell.id] not in ("done", "diverged", "failed"):
                self.states[cell.id] = self._state(cell)
        if len(cells) >= INDEXED_RUNS:
            Listing(self.store).rows()  # keeps an index, for whoever lists the folder next
        tally = Counter(self.states.values())
        told = Counter(map(self._interrupted, self.plan.cells)) if interrupted else tally
        self.say(", ".join(f"{count} {state}" for state, count in sorted(told.items())) + f" of {len(self.plan.cells)} cells")
        if interrupted:
            without = f" without --rerun {self.rerun}" if self.rerun else ""
            self.say(f"interrupted; the same line again{without} continues")
            return 128 + interrupted
        if tally["diverged"]:
            self.say("diverged cells are not tried again unless you say --rerun diverged")
        return int(tally["done"] != len(self.plan.cells))

    def _interrupted(self, cell: Cell) -> str:
        """What to call the state of a cell after an interruption: one that was begun is no longer at work here."""
        from bench.files.claims import holder, present

        if self.states[cell.id] not in ("training", "certifying"):
            return {"missing": "not begun"}.get(self.states[cell.id], self.states[cell.id])
        other = holder(self.store.run(cell.spec).path, present(self.store.root))
        return "running elsewhere" if other and not other.stale else "interrupted"

    def check_slurm(self, options: Options, engine: Engine) -> None:
        """UsageError if what is to do cannot be handed over to Slurm so."""
        tasks = [self._task(cell, engine.options_for(cell, options)) for cell in self._without_job(self.todo)]
        engine.slurm(self.store.root).check(tasks)

    def _without_job(self, cells: Sequence[Cell]) -> list[Cell]:
        """Those that no job of Slurm has, as far as that can be told."""
        from bench.matrix.status import in_hand

        has = {folder for folder, (cell, alive) in in_hand(self.store).items() if cell.job and alive != "no"}
        return [cell for cell in cells if self._folder(cell) not in has]

    def submit(self, options: Options, engine: Engine) -> int:
        """Hands what is to do over to Slurm, but for cells that its jobs have already; returns the exit code."""
        from bench.matrix.report import handed_over, line

        cells = self._without_job(self._longest_first())
        if len(cells) < len(self.todo):
            self.say(f"{len(self.todo) - len(cells)} cells are with jobs that were submitted before")
        if not cells:
            return 0
        cells = self._set_aside(cells)
        tasks = [self._task(cell, engine.options_for(cell, options)) for cell in cells]
        planned = {cell.id: self._planned(cell, self._seconds(cell), flags(options, engine, cell)) for cell in cells}
        slurm = engine.slurm(self.store.root)
        finished = self._finished([planned[cell.id] for cell in cells])
        mine: list[Planned] = []
        path = None
        for jobs in slurm.submit(tasks):  # what Slurm has is told at once: it may refuse the next array
            mine += [replace(planned[cells[place].id], job=job) for place, job in sorted(jobs.items())]
            path = handed_over(self.store.root, mine, finished, path)
        self.say(f"submitted {len(cells)} cells as {len({cell.job for cell in mine})} jobs; their logs are in {slurm.folder}")
        self.say(f"next: {line('status', (), self.store.root)}; the same line again submits what is then unfinished")
        return 0

    def lines(self, options: Options, engine: Engine) -> Iterator[str]:
        """A shell line for each cell to be done, the long ones first."""
        from bench.matrix.report import line

        for cell in self._longest_first():
            rerun = f" --rerun {self.rerun}" if cell.id in self.again else ""
            planned = self._planned(cell, None, flags(options, engine, cell))
            yield line(f"run {planned.words}", planned.plugins, self.store.root.absolute()) + rerun

    def _set_aside(self, cells: Sequence[Cell]) -> list[Cell]:
        """Moves what is to be computed anew away here and now, for a cluster may deliver a cell twice; returns those that can be run."""
        from bench.matrix.cells import set_aside

        ready = []
        for cell in cells:
            try:
                if cell.id in self.again and (moved := set_aside(cell, self.store)):
                    self.say(f"moved the old run to {moved}")
                self.again.discard(cell.id)
                ready.append(cell)
            except (BenchError, OSError) as error:
                self.say(f"{cell.name}: failed: {error}")
                self.states[cell.id] = "failed"
        return ready

    def _longest_first(self) -> list[Cell]:
        """What is to do, so that side by side no long cell is left alone at the end."""
        return sorted(self.todo, key=lambda cell: -self.estimates[cell.id].seconds if cell.id in self.estimates else -math.inf)

    def _seconds(self, cell: Cell) -> float | None:
        """As estimated; None where it could not be."""
        found = self.estimates.get(cell.id)
        return None if found is None else found.seconds

    def _finished(self, planned: Sequence[Planned]) -> set[str]:
        """Folders of the runs that need nothing more."""
        return {self._folder(cell) for cell in self.plan.cells} - {cell.folder for cell in planned}

    def _carry_out(self, executor: Executor, cells: Sequence[Cell], tasks: list[Task], show: Show, signals: StopSignals) -> None:
        """Hands cells out until each has an outcome; those that another process is at are waited for.

        An engine may deliver a task twice, and so its outcome: the first one counts.
        """
        waiting, ended, told = list(range(len(cells))), set[int](), False
        while waiting:
            elsewhere: list[int] = []
            show.numbers = waiting
            for number, outcome in executor.outcomes([tasks[place] for place in waiting], show, signals):
                place = waiting[number]
                cell = cells[place]
                if place in ended:
                    continue
                if outcome.state == "running":
                    elsewhere.append(place)
                    tasks[place] = dataclasses.replace(tasks[place], anew=False)
                    continue
                ended.add(place)
                self.states[cell.id] = outcome.state
                if outcome.reason:
                    self.reasons[cell.id] = outcome.reason
                show.end(number, f"failed ({outcome.kind})" if outcome.kind not in ("", "error") else outcome.state)
                if outcome.kind in ("crash", "timeout"):
                    self.say(f"{cell.name}: failed: {outcome.reason}; what it printed last is in {self._folder(cell)}/failure.json")
            waiting = [place for place in dict.fromkeys(elsewhere) if place not in ended]
            if waiting and not told:
                self.say(f"waiting for other processes to finish {len(waiting)} cells; Ctrl-C leaves them to it")
                told = True
            if waiting:
                self._await([cells[place] for place in waiting], signals)

    def _await(self, cells: Sequence[Cell], signals: StopSignals) -> None:
        """Waits until one of the cells is free: finished, given up, or its claim expired."""
        from bench.files.claims import holder, present

        occupied = True
        while occupied:
            signals.check()
            time.sleep(AWAIT_SECONDS)
            now = present(self.store.root)
            occupied = all((found := holder(self.store.run(cell.spec).path, now)) and not found.stale for cell in cells)

    def _folder(self, cell: Cell) -> str:
        return self.store.run(cell.spec).path.relative_to(self.store.root).as_posix()

    def _plugin(self, cell: Cell) -> tuple[Path, ...]:
        return tuple(path.absolute() for path in self.plugins if path.stem in (cell.spec.method, cell.spec.dataset, cell.spec.train.arch))

    def _planned(self, cell: Cell, seconds: float | None, flags: str) -> Planned:
        from bench.matrix.report import Planned
        from bench.store.listing import command, names

        plugins = tuple(map(str, self._plugin(cell)))
        words = f"{command(cell.spec, cell.certify)} {flags}".rstrip()
        folder, key = self._folder(cell), cell.certify.key
        return Planned(folder=folder, certification=key, names=names(cell.spec), words=words, plugins=plugins, seconds=seconds)

    def _task(self, cell: Cell, options: Options) -> Task:
        from bench.executors.worker import as_words
        from bench.matrix.task import Task

        return Task(
            spec=cell.spec,
            certify=cell.certify,
            results=self.store.root.absolute(),
            plugins=self._plugin(cell),
            sources=cell.sources,
            options=as_words(options),
            presets_of=cell.presets_of,
            anew=cell.id in self.again,
        )

    def as_json(self, cell: Cell) -> dict[str, Any]:
        """A cell and its state, with the reason where it failed or diverged."""
        run, state = self.store.run(cell.spec), self.states[cell.id]
        try:
            record = run.failure() if state == "failed" else run.training() if state == "diverged" else None
        except BenchError as error:
            record = {"reason": str(error)}
        return {
            "row": cell.spec.row,
            "dataset": cell.spec.dataset,
            "sigma": cell.spec.sigma,
            "seed": cell.spec.seed,
            "key": cell.spec.key,
            "certification": cell.certify.key,
            "state": state,
            "path": str(run.path),
            "reason": self.reasons.get(cell.id) or (record["reason"] if record else None),
        }
