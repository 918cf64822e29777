"""The matrix of `bench run`: which cells are to be done, and how they are announced, handed out and waited for."""

from __future__ import annotations

import contextlib
import math
import shlex
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import rules
from bench.api.progress import Show
from bench.api.request import RunRequest
from bench.api.words import COLUMNS, clock, cost_columns, cost_total, plain
from bench.datasets import DATASETS
from bench.datasets.check import folder_of
from bench.errors import BenchError, Interrupted, counted
from bench.executors import Executor
from bench.executors.engine import Engine
from bench.files.claims import forget_dead, holder, present
from bench.matrix.cost import Estimate, estimate
from bench.matrix.plan import Cell, Plan
from bench.matrix.report import Planned, announced, handed_over, line, withdraw
from bench.matrix.status import in_hand
from bench.matrix.task import Options, Outcome, Task
from bench.spec import scalar_word
from bench.store.listing import INDEXED_RUNS, Listing, command, names
from bench.store.runs import Store
from bench.store.subject import State
from bench.store.work import seal, set_aside
from bench.system.guards import settings_kept
from bench.system.signals import StopSignals
from leaderboard.aggregate import Group
from leaderboard.formats.columns import listed, paragraph
from leaderboard.frame.load import read
from leaderboard.frame.memory import groups_of
from leaderboard.metrics import DEFAULT, average_certified_radius, outcomes

AWAIT_SECONDS = 0.5
OVER = ("done", "diverged")


class Matrix:
    """The cells of one `bench run`, where each of them stands, and what is said of them.

    Args:
        plan, options: those that the request was found to mean.
    """

    def __init__(self, request: RunRequest, plan: Plan, options: Options, console: Console) -> None:
        self.request, self.plan, self.options, self.console = request, plan, options, console
        self.engine, self.store = request.engine, Store(request.results)
        self.estimates: dict[tuple[str, str], Estimate] = {}
        self.first: dict[tuple[str, str], Estimate] = {}  # of the trainings in `priors`
        self._listing = Listing(self.store)
        self.sources: dict[tuple[str, str], str | None] = {}
        self.states = {cell.id: self._state(cell) for cell in plan.cells}
        self._listing.save()
        self.reasons: dict[tuple[str, str], str] = {}
        rerun = request.rerun
        self.again = {c.id for c in plan.cells if rerun == "all" or (rerun == "diverged" and self.states[c.id] == "diverged")}
        self.todo = [c for c in plan.cells if c.id in self.again or self.states[c.id] not in OVER]
        self.priors = self._priors()

    def _state(self, cell: Cell) -> State:
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

    def _priors(self) -> dict[str, Cell]:
        """By key, the cells that those to do will have trained first, for they ask their models; not those that are to do themselves."""
        own = {cell.spec.key for cell in self.todo}
        asked = {c.prior.spec.key: c.prior for c in self.todo if c.prior and (c.id in self.again or self.states[c.id] != "certifying")}
        return {key: cell for key, cell in asked.items() if key not in own and self._state(cell) in ("missing", "training", "failed")}

    def check_data(self, *, read: bool) -> list[str]:
        """What is wrong with the data sets of the cells to be done.

        Args:
            read: reads them, so that nothing is begun on a damaged one; else they are only looked for.
        """
        problems = []
        for name in dict.fromkeys(cell.spec.dataset for cell in self.todo):
            trained = all(self.states[c.id] == "certifying" and c.id not in self.again for c in self.todo if c.spec.dataset == name)
            try:
                folder_of(DATASETS[name], self.options.data_dir)
                for split in (("test",) if trained else ("train", "test")) if read else ():
                    self.options.images(name, split)
            except BenchError as error:
                problems.append(str(error))
        return problems

    def say(self, text: str) -> None:
        self.console.print(plain(text), markup=False)

    def _say_long(self, text: str) -> None:
        """A sentence with nothing in it to be copied, broken between words."""
        self.console.print(paragraph(plain(text), self._width()), markup=False)

    def _width(self) -> int:
        return self.console.width if self.console.is_terminal else shutil.get_terminal_size((160, 24)).columns

    def announce(self, *, detail: bool = False) -> None:
        """Says what will be done. How long it takes is said once that was measured, or as an estimate with the plan.

        An estimate runs the method's loss once. Where cells are isolated, a plug-in's is not run here, so its cells have none.

        Args:
            detail: the plan, a line per row, change and noise level, or more where seeds differ.
        """
        cells, options = self.plan.cells, self.options
        here = [cell for cell in self.todo if not (self.engine.isolated and self._plugin(cell))]
        with settings_kept():
            self.estimates = estimate(here, self.store, options.device, options.micro_batch, self.again, graph=options.graph)
            first = estimate(list(self.priors.values()), self.store, options.device, options.micro_batch, graph=options.graph)
        self.first = {number: found.training_alone for number, found in first.items()}
        for note in self.plan.notes:
            self._say_long(f"note: {note}")
        for method, count in Counter(c.spec.method for c in cells if self._other_source(c)).items():
            self._say_long(
                f"note: another version of the file of {method} trained {counted(count, 'cell')}, kept unless you say --rerun all"
            )
        rows = len({tuple(_row(c).items()) for c in cells})
        sigmas, seed_count = len({c.spec.sigma for c in cells}), len({c.spec.seed for c in cells})
        self._say_long(
            f"{counted(len(cells), 'cell')}: rows {rows}, noise levels {sigmas}, seeds {seed_count}; "
            f"protocol {', '.join(self.request.protocols)}, recipe {', '.join(self.request.recipes)}, device {options.device}"
        )
        tally = Counter(self.states.values())
        times = [found.seconds for found in (*self.estimates.values(), *self.first.values())]
        sooner = self.engine.side_by_side(self.todo, options.device, len(cells)) if detail else 1.0
        seconds = max(sum(times) / sooner, *times, 0.0)
        about = f"; about {clock(seconds)} if nothing else is at work, from timed passes" if self.estimates else ""
        for cell in self.priors.values():
            asking = sum(other.prior is not None and other.prior.spec.key == cell.spec.key for other in self.todo)
            self._say_long(
                f"first: {cell.name} is trained, since its model is asked for by {counted(asking, 'cell')}; it is not certified for that"
            )
        self._say_long(f"{tally['done']} done, {tally['diverged']} diverged, {len(self.todo)} to do{about if detail else ''}")
        self.say(f"results in {self.store.root}")
        if detail:
            self._print_cells()
            for sentence in cost_total([*self.first.values(), *self.estimates.values()], len(self.priors) + len(self.todo)):
                self._say_long(sentence)

    def _other_source(self, cell: Cell) -> bool:
        """Whether a trained cell comes from another source of its method than the one at hand."""
        if self.states[cell.id] not in ("done", "certifying") or cell.id in self.again:
            return False
        return self.sources.get(cell.id) not in (None, cell.sources["method_sha256"], cell.sources["method_code_sha256"])

    def _print_cells(self) -> None:
        listed_cells = [(cell, "first", self.first.get(cell.id)) for cell in self.priors.values()]
        listed_cells += [(cell, self.states[cell.id], self.estimates.get(cell.id)) for cell in self.plan.cells]
        shown = {"row", "data set"} | _telling(cell for cell, *_ in listed_cells)
        shown |= {"changes"} if any(_row(cell)["changes"] for cell in self.plan.cells) else set()
        seeds: dict[tuple[tuple[str, str], ...], list[int]] = {}  # of the cells that are alike but for their seed
        for cell, state, found in listed_cells:
            told = {name: text for name, text in _row(cell).items() if name in shown}
            told |= {"sigma": str(cell.spec.sigma), "seed": "", "state": state, "estimate": clock(found.seconds) if found else ""}
            told |= dict(zip(COLUMNS, cost_columns(found), strict=True))
            seeds.setdefault(tuple((name, plain(text)) for name, text in told.items()), []).append(cell.spec.seed)
        rows = [{**dict(texts), "seed": ",".join(map(str, some))} for texts, some in seeds.items()]
        self.console.print(listed(rows, self._width()), markup=False)
        if any(len(some) > 1 for some in seeds.values()):
            self.say("estimate, device-hours and memory are those of one seed")

    def run(self, signals: StopSignals | None = None, resume: str = "Run the same command again to resume.") -> int:
        """Runs what is to do and waits for it; returns the exit code.

        Args:
            signals: what hears Ctrl-C meanwhile; None: as on a command line.
            resume: lines on how to go on after an interruption.
        """
        for cell in self.plan.cells:
            if self.states[cell.id] == "done" and cell.id not in self.again:
                seal(self.store.run(cell.spec).certification(cell.certify))
        cells = self._longest_first() if self.engine.isolated else self.todo
        cells = self._set_aside(cells) if self.engine.cluster else cells
        executor, room = self.engine.executor({cell.id: cell for cell in cells}, self.options.device, len(self.plan.cells), self.say)
        tasks = [self._task(cell) for cell in cells]
        show = Show(self.console, self._short_names(cells), [self._weights(cell) for cell in cells], room)
        planned = [self._planned(cell) for cell in cells]
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
            if announcement and not interrupted and all(self.states[cell.id] in OVER for cell in cells):
                withdraw(announcement)
        for cell in cells:
            if interrupted and self.states[cell.id] not in (*OVER, "failed"):
                self.states[cell.id] = self._state(cell)
        if len(cells) >= INDEXED_RUNS:
            Listing(self.store).rows()  # keeps an index, for whoever lists the folder next
        tally = Counter(self.states.values())
        told = Counter(map(self._interrupted, self.plan.cells)) if interrupted else tally
        counts = ", ".join(f"{count} {state}" for state, count in sorted(told.items())) + f" of {counted(len(self.plan.cells), 'cell')}"
        if interrupted:
            kept = "finished cells, finished images and the last checkpoint of each training are kept"
            for text in f"interrupted ({counts}); {kept}. {resume}".splitlines():
                self.say(text)
            return 128 + interrupted
        self.say(counts)
        if tally["diverged"]:
            self.say("diverged cells are not tried again, unless you say --rerun diverged")
        return int(tally["done"] != len(self.plan.cells))

    def _short_names(self, cells: Sequence[Cell]) -> list[str]:
        """What tells these cells apart: the row and sigma, and whatever else there are several of."""
        apart, seeds = _telling(cells) - {"row"}, {cell.spec.seed for cell in cells}
        return [
            " ".join(
                (
                    cell.spec.row,
                    *(text for name, text in _row(cell).items() if name in apart and text),
                    f"sigma {cell.spec.sigma:g}",
                    *([f"seed {cell.spec.seed}"] if len(seeds) > 1 else []),
                )
            )
            for cell in cells
        ]

    def _weights(self, cell: Cell) -> dict[str, float]:
        """Seconds of the phases of a cell as they were estimated; nothing where they were not."""
        found = self.estimates.get(cell.id)
        return {"training": found.seconds - found.certifying_seconds, "certifying": found.certifying_seconds} if found else {}

    def acr(self, cell: Cell) -> float | None:
        """The average certified radius of a cell that is done, in pixels of [0, 1]; None where there is none, or it cannot be read."""
        rule = rules.of(cell.certify)
        if self.states[cell.id] != "done" or rule.acr == "none":
            return None
        try:
            columns = self.store.run(cell.spec).certification(cell.certify).columns()
            return average_certified_radius(outcomes(columns, rule.alpha, cell.spec.sigma, cell.certify))
        except (BenchError, OSError):
            return None

    def groups(self) -> tuple[Group, ...]:
        """The cells of this run that are on disk, as `bench table` shows them."""
        found = read(self.store, only={cell.id for cell in self.plan.cells})
        return groups_of(found.frame(), DEFAULT) if found.parts else ()

    def _told(self, cell: Cell, outcome: Outcome) -> str:
        """How a cell ended, in a few words."""
        if (acr := self.acr(cell)) is not None:
            return f"ACR {acr:.4f}"
        return f"failed ({outcome.kind})" if outcome.kind not in ("", "error") else outcome.state

    def _interrupted(self, cell: Cell) -> str:
        """What to call the state of a cell after an interruption: one that was begun is no longer at work here."""
        if self.states[cell.id] not in ("training", "certifying"):
            return {"missing": "not begun"}.get(self.states[cell.id], self.states[cell.id])
        other = holder(self.store.run(cell.spec).path, present(self.store.root))
        return "running elsewhere" if other and not other.stale else "interrupted"

    def check_slurm(self) -> None:
        """UsageError if what is to do cannot be handed over to Slurm so."""
        self.engine.slurm(self.store.root).check([self._task(cell) for cell in self._without_job(self.todo)])

    def _without_job(self, cells: Sequence[Cell]) -> list[Cell]:
        """Those that no job of Slurm has, as far as that can be told."""
        has = {folder for folder, (cell, alive) in in_hand(self.store).items() if cell.job and alive != "no"}
        return [cell for cell in cells if self._folder(cell) not in has]

    def submit(self) -> int:
        """Hands what is to do over to Slurm, but for cells that its jobs have already; returns the exit code."""
        cells = self._without_job(self._longest_first())
        if len(cells) < len(self.todo):
            self.say(f"in jobs that were submitted before: {counted(len(self.todo) - len(cells), 'cell')}")
        if not cells:
            return 0
        cells = self._set_aside(cells)
        planned = {cell.id: self._planned(cell) for cell in cells}
        slurm = self.engine.slurm(self.store.root)
        finished = self._finished([planned[cell.id] for cell in cells])
        mine: list[Planned] = []
        path = None
        for jobs in slurm.submit([self._task(cell) for cell in cells]):  # what Slurm has is told at once: it may refuse the next array
            mine += [replace(planned[cells[place].id], job=job) for place, job in sorted(jobs.items())]
            path = handed_over(self.store.root, mine, finished, path)
        self.say(
            f"submitted {counted(len(cells), 'cell')} as {counted(len({cell.job for cell in mine}), 'job')}; logs are in {slurm.folder}"
        )
        self.say(f"next: {line('status', (), self.store.root)}")
        self.say("Run the same command again to submit what is unfinished then.")
        return 0

    def lines(self) -> Iterator[str]:
        """A shell line for each cell to be done on one machine, the long ones first."""
        alone = replace(self.engine, name=None, address=None, resources=())
        for cell in self._longest_first():
            rerun = f" --rerun {self.request.rerun}" if cell.id in self.again else ""
            planned = self._planned(cell, alone)
            yield line(f"run {planned.words}", planned.plugins, self.store.root.absolute()) + rerun

    def _set_aside(self, cells: Sequence[Cell]) -> list[Cell]:
        """Moves what is to be computed anew away here and now, for a cluster may deliver a cell twice; returns those that can be run."""
        ready = []
        for cell in cells:
            try:
                if cell.id in self.again and (moved := set_aside(self.store.run(cell.spec), self.store)):
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
                    tasks[place] = replace(tasks[place], anew=False)
                    continue
                ended.add(place)
                self.states[cell.id] = outcome.state
                if outcome.reason:
                    self.reasons[cell.id] = outcome.reason
                show.end(number, self._told(cell, outcome), done=outcome.state == "done")
                if outcome.kind in ("crash", "timeout"):
                    self.say(f"{cell.name}: failed: {outcome.reason}; what it printed last is in {self._folder(cell)}/failure.json")
            waiting = [place for place in dict.fromkeys(elsewhere) if place not in ended]
            if waiting and not told:
                self.say(f"waiting for other processes, which compute {len(waiting)} of these cells; Ctrl-C stops the waiting, not them")
                told = True
            if waiting:
                self._await([cells[place] for place in waiting], signals)

    def _await(self, cells: Sequence[Cell], signals: StopSignals) -> None:
        """Waits until one of the cells is free: finished, given up, or its claim expired."""
        occupied = True
        while occupied:
            signals.check()
            time.sleep(AWAIT_SECONDS)
            now = present(self.store.root)
            occupied = all((found := holder(self.store.run(cell.spec).path, now)) and not found.stale for cell in cells)

    def _folder(self, cell: Cell) -> str:
        return self.store.run(cell.spec).path.relative_to(self.store.root).as_posix()

    def _plugin(self, cell: Cell) -> tuple[Path, ...]:
        wanted = (cell.spec.method, cell.spec.dataset, cell.spec.train.arch, *([cell.prior.spec.method] if cell.prior else []))
        return tuple(path.absolute() for path in self.request.plugins if path.stem in wanted)

    def _planned(self, cell: Cell, engine: Engine | None = None) -> Planned:
        """A cell in words that continue it in the way that it was begun. engine: None: that of the request."""
        found, options, engine = self.estimates.get(cell.id), self.options, engine or self.engine
        given = {
            "--device": None if engine.device == "auto" else engine.device,
            "--batch": options.batch,
            "--micro-batch": options.micro_batch,
            "--no-graph": not options.graph,
            "--data-dir": options.data_dir and options.data_dir.absolute(),
            "--allow-changed-source": options.allow_changed_source,
            "--allow-other-data": options.allow_other_data,
        }
        flags = [word for flag, value in given.items() if value for word in ((flag,) if value is True else (flag, str(value)))]
        return Planned(
            folder=self._folder(cell),
            certification=cell.certify.key,
            names=names(cell.spec),
            words=f"{command(cell.spec, cell.certify)} {shlex.join(flags + engine.flags(cell.spec.row))}".rstrip(),
            plugins=tuple(map(str, self._plugin(cell))),
            seconds=None if found is None else found.seconds,
        )

    def _task(self, cell: Cell) -> Task:
        options = replace(self.options, device=self.engine.device_of(cell, self.options.device))
        return Task.of(cell, self.store.root, options, self._plugin(cell), anew=cell.id in self.again)

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
            "acr": self.acr(cell),
            **{name: _row(cell)[name] for name in ("changes", "protocol", "recipe")},
            "path": str(run.path),
            "reason": self.reasons.get(cell.id) or (record["reason"] if record else None),
        }


def _row(cell: Cell) -> dict[str, str]:
    """What cells share that differ in noise level and seed alone, as a plan shows it."""
    spec = cell.spec
    changes = {name: value for name, value in spec.changes.items() if "." in name}  # the others stand in the row's name
    changes |= {f"certify.{name}": value for name, value in cell.certify.changes.items()}
    told = ", ".join(f"{name}={scalar_word(value)}" for name, value in sorted(changes.items()))
    return {"row": spec.row, "changes": told, "data set": spec.dataset, "protocol": spec.protocol, "recipe": spec.recipe}


def _telling(cells: Iterable[Cell]) -> set[str]:
    """The names of what these cells differ in."""
    rows = [_row(cell) for cell in cells]
    return {name for name in (rows[0] if rows else ()) if len({row[name] for row in rows}) > 1}
