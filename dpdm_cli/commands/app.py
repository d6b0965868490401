"""The Typer application: one file a command, none of which imports torch before it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from dpdm_cli import __version__
from dpdm_cli.commands.audit import audit
from dpdm_cli.commands.calibrate import calibrate
from dpdm_cli.commands.classify import classify
from dpdm_cli.commands.console import reports_errors
from dpdm_cli.commands.fid import fid
from dpdm_cli.commands.options import Command
from dpdm_cli.commands.prepare import prepare
from dpdm_cli.commands.release import release
from dpdm_cli.commands.reports.compare import compare
from dpdm_cli.commands.reports.report import report
from dpdm_cli.commands.sample import sample
from dpdm_cli.commands.train import train
from dpdm_cli.commands.verify import verify

app = typer.Typer(
    name="dpdm",
    help="Turn images you may not share into synthetic images you may publish, "
    "with a diffusion model trained under differential privacy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    *(calibrate, prepare, train, sample, fid, classify),
    *(verify, audit, release, report, compare),
)
for command in COMMANDS:
    app.command(cls=Command)(reports_errors(command))


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dpdm {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Turn images you may not share into synthetic images you may publish, with differential privacy."""
