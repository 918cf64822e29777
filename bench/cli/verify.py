"""`bench verify`: whether stored results can be believed."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import bench.cli.options as options
from bench.cli.command import option, switch
from bench.cli.common import check_alpha, check_value, existing_folder, print_json, refuse, say, say_some, use_plugins
from bench.errors import BenchError, counted, nearest_folder
from bench.spec import check_sigma, select_images

if TYPE_CHECKING:
    from bench.verify import Failure, Report
    from bench.verify.recertify import Recertification

AGAIN, LOG = "Certify again", "Only if WHAT is a log"
SHOWN = 20  # failures of one file on the terminal; --json has all of them


def verify(
    what: Annotated[
        Path | None,
        typer.Argument(metavar="WHAT", help="A results folder, a run's folder or key, or a certification log. Default: that of --results."),
    ] = None,
    alpha: Annotated[float, option("--alpha", "A", "Failure probability at which radii are recomputed.")] = 0.001,
    complete: Annotated[bool, switch("--complete", "Also fail if anything is unfinished, unbound or unexpected.")] = False,
    recertify: Annotated[
        int | None, option("--recertify", "K", "Certify K random images again with the stored weights, for example 66.", AGAIN)
    ] = None,
    seed: Annotated[int | None, option("--seed", "N", "Seed that draws these images. Default: a new one each time.", AGAIN)] = None,
    device: Annotated[str | None, option("--device", "NAME", "auto, cpu or cuda. Default: auto.", AGAIN)] = None,
    dataset: Annotated[str | None, option("--dataset", "NAME", "Data set of the log.", LOG)] = None,
    sigma: Annotated[float | None, option("--sigma", "S", "Noise level of the log.", LOG)] = None,
    n: Annotated[int | None, option("--n", "N", "Samples per image. Default: the log's column n, or 100000.", LOG)] = None,
    images: Annotated[str | None, option("--images", "WHICH", "Images that the log must cover. Default: all, or every k-th.", LOG)] = None,
    results: options.Results = Path("results/runs"),
    plugin: Annotated[
        list[str] | None, options.plugin("a method of yours, to hold its rows against its presets; of a network, for --recertify")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Verify stored results: check every file and recompute every radius from its counts.

    No method's code is run. Of a plug-in, only data sets are imported, and with --recertify networks.

    Exit codes: 0 all holds, 1 something fails, 2 usage.
    """
    problems: list[str] = []
    what = what or existing_folder(results)
    check_alpha(alpha, problems)
    if recertify is not None and recertify < 1:
        problems.append(f"--recertify {recertify} must be at least 1; 66 rows find a forged tenth with probability .999")
    if recertify is None:
        problems += [f"{flag} goes with --recertify" for flag, value in (("--seed", seed), ("--device", device)) if value is not None]
    if seed is not None and seed < 0:
        problems.append(f"--seed {seed} must be a whole number from 0 up")
    is_log = os.path.isfile(what)  # noqa: PTH113 - any text may come
    of_a_log = {"--dataset": dataset, "--sigma": sigma, "--n": n, "--images": images}
    if is_log:
        problems += [
            f"{what}: a log does not say its {flag[2:]}; add {flag}" for flag in ("--dataset", "--sigma") if of_a_log[flag] is None
        ]
        problems += [
            f"{flag} goes with results, not with a log" for flag, value in (("--complete", complete), ("--recertify", recertify)) if value
        ]
    else:
        problems += [f"{flag} goes with a log, and {what} is no file" for flag, value in of_a_log.items() if value is not None]
    check_value(sigma, check_sigma, problems)
    check_value(images, lambda text: select_images(text, 1), problems)
    if n is not None and n < 1:
        problems.append(f"--n {n} must be at least 1")
    refuse(problems)

    use_plugins(plugin, "method", "data set", *(["network"] if recertify else []))

    from bench import verify as engine

    again = None
    if is_log:
        facts = engine.LogFacts(dataset=dataset or "", sigma=sigma or 0.0, alpha=alpha, n=n, images=images)
        report = engine.verify_log(what, facts)
    else:
        what = what if what.is_dir() else _folder_of(str(what), results)
        report = engine.verify(what, alpha=alpha, complete=complete)
        again = _recertify(report, recertify, seed, device or "auto") if recertify else None
        try:
            _remember(report, again)
        except BenchError as error:
            report.unchecked.append(str(error))
    if as_json:
        print_json(_as_json(what, report, again))
    else:
        _print(what, report, again, log=is_log)
    raise typer.Exit(int(bool(report.failures)))


def _folder_of(word: str, results: Path) -> Path:
    """The folder of the one run whose key begins with a word; a damaged run is found by its folder's name.

    Raises:
        BenchError: none, or several.
    """
    from bench.store.runs import Store, results_flag, several

    if near := nearest_folder(Path(word)):
        raise BenchError(f"{word}: there is no such folder or file{near}")
    if not results.is_dir():
        raise BenchError(f"{word}: there is no such folder or file, nor a folder {results} that might hold a run of such a key")
    entries = list(Store(results).scan("runs"))
    found = [entry.path for entry in entries if entry.path.name.rpartition("-")[2].startswith(word)]
    if len(found) == 1:
        return found[0]
    if found:
        raise several(word, found, results)
    told = f"nor is it the key of one of {counted(len(entries), 'run')} in {results}"
    raise BenchError(f"{word}: there is no such folder or file, {told}; `bench list runs{results_flag(results)}` names them")


def _recertify(report: Report, rows: int, seed: int | None, device: str) -> Recertification:
    import secrets

    from bench.api.progress import counting
    from bench.matrix.task import pick_device
    from bench.verify.recertify import recertify

    chosen = pick_device(device)
    seed = secrets.randbits(32) if seed is None else seed
    with counting("certifying again", "row") as progress:
        return recertify(report, rows, seed, chosen, progress)


def _remember(report: Report, again: Recertification | None) -> None:
    """Keeps, for this user's tables, which certifications hold, with whose weights and how many rows counted again."""
    from bench.store.verified import key_of, remember

    failing = {failure.file for failure in report.failures}
    failed = {path for file in failing for path in (file, *file.parents)}
    images: dict[Path, set[int]] = defaultdict(set)
    for certification, image in again.rows if again else ():
        images[certification.path].add(image)
    found: dict[str, set[int] | None] = {}
    for evidence in report.finished:
        certification = evidence.certification
        # What fails for all rows together is a failure of the folder that was verified.
        fails = {certification.path, certification.subject.path} & failed or (certification.path in images and report.top in failing)
        if fails or evidence.weights:
            found[key_of(certification.binding(), evidence.sha256)] = None if fails else images[certification.path]
    if found:
        remember(found)


def _as_json(what: Path, report: Report, again: Recertification | None) -> dict[str, Any]:
    return {
        "checked": str(what),
        "alpha": report.alpha,
        "runs": report.runs,
        "checkpoints": report.subjects,
        "weights": report.weights,
        "certifications": report.certifications,
        "finished": len(report.finished),
        "rows": report.rows,
        "distinct_radii": report.distinct,
        "imports": report.imports,
        "imported_rows": report.imported_rows,
        "log_rows": report.log_rows,
        "listed": report.listed,
        "unchecked": report.unchecked,
        "unexpected": [{"file": str(f.file), "reason": f.reason} for f in report.unexpected],
        "unfinished": [{"path": str(item.path), "reason": item.reason} for item in report.unfinished],
        "unbound": [str(evidence.certification.path) for evidence in report.finished if not evidence.bound],
        "without_weights": [str(evidence.certification.path) for evidence in report.finished if not evidence.weights],
        "recertified": again.as_json() if again else None,
        "failures": [{"file": str(f.file), "line": f.line, "reason": f.reason} for f in report.failures],
    }


def _print(what: Path, report: Report, again: Recertification | None, *, log: bool) -> None:
    by_file: dict[Path, list[Failure]] = defaultdict(list)
    for failure in report.failures:
        by_file[failure.file].append(failure)
    for file, failures in by_file.items():
        say_some("fails: ", failures, SHOWN, f"{file}: ", "; --json lists all")
    say_some("unexpected: ", report.unexpected, SHOWN, after="; --json lists all")
    for reason in report.unchecked:
        say(f"not checked: {reason}")
    for item in report.unfinished:
        say(f"unfinished: {item.path}: {item.reason}")
    say(f"{what}:")
    if log:
        entirely = " (a log is read entirely or not at all)" if report.failures else ", without counts to recompute radii from"
        say(f"{counted(report.log_rows, 'row', '8,')} of a log{'' if report.distinct else entirely}")
    else:
        foreign = f" and {counted(report.subjects, 'checkpoint', ',')} from outside" if report.subjects else ""
        say(f"{counted(report.runs, 'run', '8,')}{foreign}, {report.weights:,} of them with weights")
        whole = f"{len(report.finished):,} of them finished and whole"
        say(f"{counted(report.certifications, 'certification', '8,')}, {whole}, {counted(report.rows, 'row', ',')}")
    if unbound := sum(not evidence.bound for evidence in report.finished):
        say(f"{unbound:8,} of these unbound: no record says of which weights and specs their rows are")
    if report.distinct:
        radii = "radius" if report.distinct == 1 else "radii"
        say(f"{report.distinct:8,} {radii}, one per distinct count, recomputed in two ways at alpha {report.alpha:g}")
    if report.listed:
        say(f"{counted(report.listed, 'file', '8,')} compared with the list of their submission")
    if report.imports:
        logs = f"{counted(report.imports, 'imported log', '8,')}, {counted(report.imported_rows, 'row', ',')}"
        say(f"{logs}; their radii are bounded, but without counts not recomputed")
    if again:
        drawn = f"{counted(again.drawn, 'row', '8,')} certified again of {again.total:,} with weights (seed {again.seed})"
        say(f"{drawn}: {again.equal:,} with equal counts")
        for line in again.remarks:
            say(f"         {line}")
        if without := [evidence for evidence in report.finished if not evidence.weights]:
            rows = counted(sum(evidence.rows for evidence in without), "row", "8,")
            say(f"{rows} of {counted(len(without), 'certification', ',')} without weights, which cannot be certified again:")
            say_some("         ", [evidence.certification.path for evidence in without], SHOWN, after="; --json lists all")
    say(counted(len(report.failures), "failure", "8,") if report.failures else "everything that was checked holds")
