"""The commands by name, and how their failures are told."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from kerasneuro.__about__ import __version__
from kerasneuro.cli.console import say_error, say_warning
from kerasneuro.errors import KerasNeuroError

# Command -> module and what it is called there, help line. A command's module is imported when it is used.
COMMANDS = {
    "list": ("kerasneuro.cli.show:list_command", "List the models and the sample scans."),
    "info": ("kerasneuro.cli.show:info_command", "Show everything that is known about a model."),
    "fetch": ("kerasneuro.cli.fetch:fetch_command", "Bring weight files onto this machine and verify them."),
    "cache": ("kerasneuro.cli.cache:cache_command", "List, verify or delete what has been fetched."),
    "hub": ("kerasneuro.cli.hub:hub_command", "Add models of third parties, or your own saved ones."),
    "run": ("kerasneuro.cli.run:run_command", "Run a model on scans."),
    "register": ("kerasneuro.cli.register:register_command", "Find the transform between two scans."),
    "apply": ("kerasneuro.cli.apply:apply_command", "Move images by a transform that is already known."),
    "train": ("kerasneuro.cli.train:train_command", "Train a network on a cohort of your own."),
    "evaluate": ("kerasneuro.cli.evaluate:evaluate_command", "Let a trained network judge another cohort."),
    "report": ("kerasneuro.cli.report:report_command", "Write a page about a training run."),
    "convert": ("kerasneuro.cli.convert:convert_command", "Convert a weight file, or write the original's."),
}
FAILED, MISUSED, INTERRUPTED = 1, 2, 130
HELP_NAMES = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Commands(click.Group):
    """Import the module of a command only when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in COMMANDS.items()])


@click.group(cls=Commands, invoke_without_command=True, context_settings=HELP_NAMES)
@click.version_option(__version__, prog_name="kerasneuro")
@click.pass_context
def application(ctx: click.Context) -> None:
    """Run the published networks of neuroimaging on your scans.

    For research only; not a medical device, and never a diagnosis.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program name; default those of the process.

    Returns
    -------
    int
        0 only if everything asked for was done; 1 after an error, 2 after a misuse, 130 after an interrupt.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            return run_click(application, arguments)
    except (KeyboardInterrupt, click.Abort):
        say_error("interrupted; nothing more was written")
        return INTERRUPTED
    except click.UsageError as error:
        name = error.ctx.command_path if error.ctx else "kerasneuro"
        say_error(f"{error.format_message()} (see `{name} --help`)")
        return MISUSED
    except Exception as error:
        say_error(explain(error))
        if {"--verbose", "-v"} & set(arguments):
            traceback.print_exc()
        return FAILED


def explain(error: Exception) -> str:
    """Say what went wrong; a fault that was not foreseen is named as one of ours."""
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, KerasNeuroError):
        return str(error)
    hint = "please report this, with the output of the same call and --verbose"
    return f"unexpected {type(error).__name__}: {error}; {hint}"


def show_warning(message: Warning | str, *details: Any, **more: Any) -> None:
    """Show a Python warning on one line, without the line of code that raised it."""
    say_warning(str(message))


def run_click(command: click.Command, arguments: list[str]) -> int:
    """Run a click command; return its exit code and let its errors through."""
    result: Any = command.main(arguments, prog_name="kerasneuro", standalone_mode=False)
    return result if isinstance(result, int) else 0
