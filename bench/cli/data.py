"""`bench data`: get data sets, and say what is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import bench.cli.options as options
from bench.cli.command import Command, Group, option, switch
from bench.cli.common import plain, plugins, print_json, refuse, stop
from bench.errors import BenchError, counted

if TYPE_CHECKING:
    from bench.datasets import DatasetInfo

data = typer.Typer(cls=Group, no_args_is_help=True, help="Download data sets and check what is there; no other command downloads.")

DataDir = Annotated[Path | None, option("--data-dir", "DIR", "Folder of the data sets. Default: BENCH_DATA_DIR, then your cache folder.")]


@data.command("get", cls=Command)
def get(
    name: Annotated[list[str], typer.Argument(metavar="NAME", help="Data sets to download.")],
    data_dir: DataDir = None,
) -> None:
    """Download data sets with torchvision and check their MD5 sums."""
    from bench.datasets.source import roots

    infos = _infos(name, None)
    root = roots(data_dir)[0]
    from bench.data.get import get as download

    for info in infos:
        download(info, root)
        report = _report(info, root, every_image=False)
        if not report["good"]:
            stop([f"{info.name}: {problem}" for problem in report["problems"]], code=1)
        typer.echo(f"{info.name} is in {report['folder']}")


@data.command("check", cls=Command)
def check(
    name: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Data sets to look for. Default: all.")] = None,
    data_dir: DataDir = None,
    every_image: Annotated[bool, switch("--every-image", "Decode every image file; takes hours for large data sets.")] = False,
    plugin: Annotated[list[str] | None, options.plugin("a data set of yours")] = None,
    as_json: options.Json = False,
) -> None:
    """Check which data sets are there, where, and whether they are the published files.

    Exit codes: 0 all is well, 1 something is missing or differs, 2 usage.
    """
    problems: list[str] = []
    check_data_dir(data_dir, problems)
    refuse(problems)
    reports = [_report(info, data_dir, every_image=every_image) for info in _infos(name, plugin)]
    if as_json:
        print_json(reports)
    else:
        for report in reports:
            typer.echo(plain(f"{report['name']}: {'good' if report['good'] else 'not good'}"))
            typer.echo(plain(f"  {'found in ' + report['folder'] if report['folder'] else 'looked in ' + ', '.join(report['looked'])}"))
            for line in [*report["found"], *report["problems"]]:
                typer.echo(plain(f"  {line}"))
    raise typer.Exit(int(not all(report["good"] for report in reports)))


def check_data_dir(data_dir: Path | None, problems: list[str]) -> None:
    """A folder of data that a flag names must be there, also for what ships with the package and is not looked for."""
    if data_dir is not None and not os.path.isdir(data_dir):  # noqa: PTH112 - a path too long for the system is no folder, and no error
        problems.append(f"--data-dir {data_dir}: there is no such folder")


def _infos(names: list[str] | None, plugin: list[str] | None) -> list[DatasetInfo]:
    from bench.datasets import BUILT_IN
    from bench.registry import Registry

    problems: list[str] = []
    registry = Registry(plugins(plugin, problems))
    infos = []
    for name in names or sorted(BUILT_IN):
        try:
            infos.append(registry.load_dataset(name))
        except BenchError as error:
            problems.append(str(error))
    refuse(problems)
    return infos


def _report(info: DatasetInfo, data_dir: Path | None, *, every_image: bool) -> dict[str, Any]:
    """What is there of a data set: `problems` is empty if it is whole and the published one."""
    from bench.datasets.check import folder_of, read_checked
    from bench.datasets.source import SPLITS, roots

    report: dict[str, Any] = {"name": info.name, "folder": None, "found": [], "problems": []}
    report["looked"] = [str(root) for root in roots(data_dir)]
    try:
        report["folder"] = str(folder_of(info, data_dir))
        for split in SPLITS:
            checked = read_checked(info, split, data_dir, allow_other=True)
            sums = ", ".join(f"{name} {md5}" for name, md5 in checked.split.checksums.items())
            report["found"].append(f"{split}: {counted(len(checked.split.labels), 'image', ',')}; MD5 {sums}")
            report["problems"] += checked.differences
            if every_image and info.source is not None and info.source.streamed:
                from bench.data import Stream, of

                images = of(info, checked)
                assert isinstance(images, Stream)
                report["problems"] += images.damaged()
    except BenchError as error:
        report["problems"].append(str(error))
    report["good"] = not report["problems"]
    return report
