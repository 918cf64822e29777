"""`bench import` and `bench export`: the field's certification logs in, and ours out in the same form; weights too."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import bench.cli.options as options
from bench.cli.command import OUTPUT, option, switch
from bench.cli.common import check_alpha, check_folder, check_out, existing_folder, print_json, refuse, say_some, stop, write_file
from bench.errors import BenchError, counted, nearest, unknown

if TYPE_CHECKING:
    from bench.evidence.certificate import Certificate
    from bench.logs import Report
    from bench.spec import CertifySpec
    from bench.store.runs import Run
    from bench.store.subject import Certification

EXPORTS = ("tsv", "checkpoint")
SHOWN = 5
"""Files and lines of a kind that are named; --json names all."""


def import_(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder of logs, or one log.")],
    manifest: Annotated[
        str | None,
        option(
            "--manifest",
            "FILE",
            "CSV that says what each log is, or the name of a known collection. Default: the known collection that fits best.",
        ),
    ] = None,
    draft: Annotated[Path | None, option("--draft", "FILE", "Import nothing; write a first manifest for you to edit.")] = None,
    results: options.Results = Path("results/runs"),
    strict: Annotated[bool, switch("--strict", "Write nothing if any file is refused or not in the manifest.")] = False,
    as_json: options.Json = False,
) -> None:
    """Import published certification logs, so that tables can show them beside your runs.

    A log that does not fit is refused with the reason. Running the command again changes nothing. Hidden files are left out.

    Exit codes: 0 done; 1 nothing could be imported, or --strict was given and something was refused or not in the manifest; 2 usage.
    """
    from bench.logs import import_logs, load_manifest, write_draft

    problems: list[str] = []
    if draft and (manifest or strict or as_json):
        stop(["--draft writes a manifest and imports nothing; leave out --manifest, --strict and --json"])
    check_out(draft, "manifest.csv", problems, "--draft") if draft else check_folder(results, problems)
    refuse(problems)
    if draft:
        drafted = write_draft(path, draft)
        say_some("no log: ", drafted.others, SHOWN)
        typer.echo(f"wrote {draft}: {counted(drafted.lines, 'log')}")
        left = ", ".join(f"{title} ({count})" for title, count in drafted.blank.items())
        typer.echo(f"left to fill in: {left or 'nothing'}; look over the rest, then `bench import {path} --manifest {draft}`")
        return
    from bench.api.progress import counting

    with counting("reading logs", "log") as progress:
        report = import_logs(path, results, load_manifest(manifest) if manifest else None, strict=strict, progress=progress)
    if as_json:
        print_json(_as_json(report))
    else:
        _print(report, results)
    if report.fruitless or not report.written:
        raise typer.Exit(1)


def _as_json(report: Report) -> dict[str, Any]:
    from bench.spec import to_json

    return {
        "manifest": report.manifest,
        "written": report.written,
        "read": [{"file": file, "key": spec.key, "row": spec.row, **to_json(spec)} for file, spec in report.read.items()],
        "already": [{"file": file, "key": key} for file, key in report.already.items()],
        "same": [{"file": file, "as": other} for file, other in report.same.items()],
        "skipped": [{"file": file, "reason": reason} for file, reason in report.skipped.items()],
        "unnamed": report.unnamed,
        "absent": [{"line": line.number, "path": line.path} for line in report.absent],
        "refused": [{"file": e.file, "line": e.line, "kind": e.kind, "reason": e.reason} for e in report.refused],
    }


def _print(report: Report, results: Path) -> None:
    for error in report.refused:
        typer.echo(f"refused: {error}")
    for file, other in report.same.items():
        typer.echo(f"same content as {other}: {file}")
    say_some("not named: ", report.unnamed, SHOWN)
    say_some("not here: ", [f"{line.path} (line {line.number})" for line in report.absent], SHOWN)
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(e.kind for e in report.refused).most_common())
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(report.skipped.values()).most_common())
    typer.echo(f"by the manifest {report.manifest}:")
    for found, told in (
        (report.read, "read"),
        (report.already, "already there"),
        (report.same, "same content as another"),
        (report.skipped, f"left out by the manifest{': ' if reasons else ''}{reasons}"),
        (report.unnamed, "not named by a line"),
        (report.absent, "named by a line but not here"),
        (report.refused, f"refused{': ' if kinds else ''}{kinds}"),
    ):
        typer.echo(f"{len(found):6} {told}")
    if not report.written:
        typer.echo("nothing was written, since --strict allows no refusal and no file without a line")
    elif report.read:
        typer.echo(f"they are in {results / 'imported'}; their radii are as printed, rounded, and without counts")


def export(
    run: options.Run,
    out: Annotated[Path, option("--out", "FILE", "File to write.", OUTPUT)],
    format_: Annotated[
        str, option("--format", "NAME", "tsv: the certification, one line per image. checkpoint: the weights, for torch.load.", OUTPUT)
    ] = "tsv",
    certification: options.Certification = None,
    alpha: options.Alpha = None,
    results: options.Results = Path("results/runs"),
) -> None:
    """Export a certification as a log of the field, or a run's weights as a checkpoint.

    tsv: idx, label, predict (-1: abstained), radius, correct and time, then our count and n. Radii are rounded down to 4 decimals, so
    that the log never claims more than was certified.

    checkpoint: a dict of epoch, arch and state_dict, whose names begin with 1. as usual. It does not hold the normalisation.
    """
    problems = unknown("--format", format_, EXPORTS)
    check_alpha(alpha, problems)
    if format_ == "checkpoint" and (alpha is not None or certification):
        problems.append("--format checkpoint writes weights; leave out --alpha and --certification")
    check_out(out, "log.tsv", problems)
    refuse(problems)
    existing_folder(results)
    content, told = _weights(run, results) if format_ == "checkpoint" else _log(run, results, certification, alpha or 0.001)
    write_file(out, "--out", content)
    typer.echo(f"wrote {out}: {told}")


def _log(word: str, results: Path, certification: str | None, alpha: float) -> tuple[bytes, str]:
    """A certification as a log of the field, and what it is."""
    from bench.store.runs import Store

    found, rows = finished_certification(Store(results).find(word), certification)
    subject = found.subject
    return log_of(found, rows, alpha), f"{counted(len(rows), 'image')} of {subject.row}, sigma {subject.sigma:g}, seed {subject.seed}"


def log_of(certification: Certification, rows: list[Certificate], alpha: float) -> bytes:
    """Rows of a certification as a log of the field, with the seconds that each took."""
    from bench.evidence import certification_log
    from bench.evidence.rows import seconds_of

    check_log(certification.spec)
    seconds = seconds_of(certification.path / "times.csv")
    return certification_log.write(rows, alpha=alpha, sigma=certification.subject.sigma, seconds=seconds)


def check_log(spec: CertifySpec) -> None:
    """BenchError for a certification that a log of the field cannot tell: such a log is of as many samples of every image."""
    from bench import rules

    if (stops := rules.named(spec.rule).stops) or spec.skip_misclassified:
        how = f"rule {spec.rule}" if stops else "skip_misclassified"
        raise BenchError(
            f"logs of the field hold the same number of samples for every image, which {how} does not draw; see evidence.jsonl"
        )


def _weights(word: str, results: Path) -> tuple[bytes, str]:
    """A run's weights as a checkpoint of the field, and what it is."""
    from bench.checkpoints.export import field_checkpoint
    from bench.checkpoints.load import Wanted, load

    base = load(Wanted(word=word, results=results))
    if base.run is None:
        raise BenchError(f"{word} is a weights file; name the run that it is of")
    told = f"{base.arch} of {base.name}, sigma {base.sigma:g}; normalisation {base.normalization} is not in the file"
    return field_checkpoint(base, base.run.spec), told


def finished_certification(run: Run, key: str | None) -> tuple[Certification, list[Certificate]]:
    """The one that was asked for and its rows, if it is finished.

    Raises:
        BenchError: none, several to choose from, or one that is not finished.
    """
    from bench.store.subject import Certification, Damaged

    begun = list(run.begun())
    there = {c.spec.key: c for c in begun if isinstance(c, Certification)}
    if not there:
        none = BenchError(f"{run.path} has no certification; `bench run` continues it")
        raise next((c.fault for c in begun if isinstance(c, Damaged)), none)
    chosen = [c for k, c in there.items() if k.startswith(key or "")]
    if key is not None and len(chosen) != 1:
        count = counted(len(chosen), "certification") if chosen else "no certification"
        raise BenchError(f"{run.path} has {count} with key {key!r}{nearest(key, there)}")
    if len(chosen) > 1:
        told = ", ".join(f"{k} (n={c.spec.n}, images={c.spec.images})" for k, c in there.items())
        raise BenchError(f"{run.path} was certified {len(there)} times; name one by --certification: {told}")
    (found,) = chosen
    if faults := run.faults():
        raise faults[0]
    standing = found.status().sound()
    if standing.state != "done":
        done = f"{standing.state}, {len(standing.columns)} of {counted(len(found.expected()), 'image')}"
        raise BenchError(f"{found.path} is not finished ({done}); `bench run` continues it")
    return found, found.rows()
