"""The command line. Modules of the engine are imported inside the commands, so that help answers at once."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli import attack, certify, compare, data, exchange, make, plots, runs, show, site, status, submit, tables, theory, verify
from bench.cli.list import list_

app = typer.Typer(
    name="bench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compares training methods for certified robustness by randomized smoothing.",
    epilog="Start with: bench run --protocol smoke, then: bench table --protocol smoke",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"certbench {version('certbench')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")] = False,
) -> None:
    pass


app.command("run")(runs.run)
app.command("table")(tables.table)
app.command("certify")(certify.certify)
app.command("predict")(certify.predict)
app.command("compare")(compare.compare)
app.command("plot")(plots.plot)
app.command("site")(site.site)
app.command("status")(status.status)
app.command("list")(list_)
app.command("show")(show.show)
app.command("check")(make.check)
app.command("new-method")(make.new_method)
app.add_typer(data.data, name="data")
app.command("import")(exchange.import_)
app.command("export")(exchange.export)
app.command("verify")(verify.verify)
app.command("submit")(submit.submit)
app.command("pull")(submit.pull)
app.command("attack")(attack.attack)
app.command("theory")(theory.theory)
