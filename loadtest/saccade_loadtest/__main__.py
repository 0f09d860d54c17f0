"""The ``saccade-loadtest`` command: run, judge, report and compare. Each command is a module of its own."""

from __future__ import annotations

import os
import sys

import typer

from saccade_loadtest.commands import capacity_command, example_command, judging_commands, run_command, trace_command

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Load tests of Saccade: open-loop arrivals, and a verdict on a p99 objective that one can trust.",
)
run_command.add_to(app)
example_command.add_to(app)
capacity_command.add_to(app)
trace_command.add_to(app)
judging_commands.add_to(app)


def main() -> None:
    """Run the command line. What nobody foresaw ends with 2, as a run that says nothing: 1 is a service's fail."""
    try:
        app()
    except Exception as error:
        sys.stderr.write(f"error: {type(error).__name__}: {error}\n")
        if os.environ.get("SACCADE_DEBUG"):
            raise
        sys.exit(2)


if __name__ == "__main__":
    main()
