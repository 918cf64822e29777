"""The command line. Modules of the engine are imported inside the commands, so that help answers at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from bench.cli import attack, certify, comparisons, data, exchange, make, plots, runs, show, site, status, submit, tables, theory, verify
from bench.cli.command import Command, Group
from bench.cli.list import list_

app = typer.Typer(
    name="bench",
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compare training methods for certified robustness by randomized smoothing.",
    epilog="Start with: bench run --protocol smoke --method gaussian,smoothmix --sigma 0.5",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"certbench {version('certbench')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.", metavar="")
    ] = False,
) -> None:
    pass


COMMON, CERTIFY, EXTEND, SHARE = "Run and read", "Certify any model", "Methods and data", "Share results"
_PANELS: dict[str, dict[str, Callable[..., None]]] = {
    COMMON: {
        "run": runs.run,
        "status": status.status,
        "table": tables.table,
        "compare": comparisons.compare,
        "plot": plots.plot,
        "site": site.site,
        "show": show.show,
        "list": list_,
    },
    CERTIFY: {"certify": certify.certify, "predict": certify.predict, "attack": attack.attack},
    EXTEND: {"new-method": make.new_method, "check": make.check, "theory": theory.theory},
    SHARE: {"verify": verify.verify, "import": exchange.import_, "export": exchange.export, "submit": submit.submit, "pull": submit.pull},
}
for _panel, _commands in _PANELS.items():
    for _name, _function in _commands.items():
        app.command(_name, cls=Command, rich_help_panel=_panel)(_function)
app.add_typer(data.data, name="data", rich_help_panel=EXTEND)
