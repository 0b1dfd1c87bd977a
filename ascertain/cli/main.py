"""From arguments to an exit code; the one place where errors become words."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import MISSING, fields
from inspect import Parameter, Signature
from typing import Annotated, Any, get_type_hints

import typer

from ascertain import __version__
from ascertain.cli.analyze import Analyze
from ascertain.cli.analyzers import Explain, List
from ascertain.cli.bound import Bound
from ascertain.cli.certify import Certify
from ascertain.cli.exits import Exit
from ascertain.cli.info import Info
from ascertain.cli.lipschitz import Lipschitz
from ascertain.cli.options import Command
from ascertain.cli.results import Diff, Show
from ascertain.cli.selftest import Selftest
from ascertain.cli.standard import Supports, Verify
from ascertain.cli.suite import Run
from ascertain.cli.train import Train
from ascertain.errors import InputError, ResourceError

__all__ = ["run"]

NAME = "ascertain"
COMMANDS: tuple[type[Command], ...] = (
    Certify,
    Analyze,
    Verify,
    Supports,
    Bound,
    Lipschitz,
    Info,
    Run,
    Show,
    Diff,
    List,
    Explain,
    Train,
    Selftest,
)


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns the exit code."""
    # Accepted anywhere, because it is typed after something went wrong.
    debug, arguments = "--debug" in arguments, [a for a in arguments if a != "--debug"]
    command = typer.main.get_command(_app())
    try:
        return int(command.main(arguments, prog_name=NAME, standalone_mode=False) or 0)
    except InputError as error:
        return _fail(str(error), Exit.BAD_INPUT, debug)
    except ResourceError as error:
        return _fail(str(error), Exit.UNKNOWN, debug)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted.", Exit.INTERRUPTED, debug)
    # The outermost boundary: whatever else goes wrong is a bug here, and must not look like an answer.
    except Exception as error:
        if hasattr(error, "format_message"):
            return _fail(f"{error.format_message()} See '{NAME} --help'.", Exit.BAD_INPUT, debug)
        words = f"internal error ({type(error).__name__}: {error}). Please report it as an issue with what --debug prints."
        return _fail(words, Exit.BUG, debug)


def _fail(message: str, code: Exit, debug: bool) -> Exit:
    if debug:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return code


def _app() -> typer.Typer:
    app = typer.Typer(
        name=NAME,
        no_args_is_help=True,
        add_completion=False,
        # Plain help: rich takes longer to import than everything else together.
        rich_markup_mode=None,
        help="Certify, probe and analyse trained neural networks.",
        epilog="Exit codes: 0 holds, 1 violated, 2 bad input, 3 unknown, 130 interrupted (verify: 0 for every answer).",
    )
    app.callback()(_globals)
    for command in COMMANDS:
        app.command(command.__name__.lower(), help=command.__doc__)(_function(command))
    return app


def _say(words: str) -> Any:
    def show(wanted: bool) -> None:
        if wanted:
            print(words)
            raise typer.Exit

    return show


def _globals(
    name: Annotated[bool, typer.Option("--name", callback=_say("Ascertain"), is_eager=True, help="Print the full name.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_say(__version__), is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error was raised.")] = False,
) -> None:
    pass


def _function(command: type[Command]) -> Any:
    """The function that the command line parser wants: one parameter for each field of an option dataclass."""
    hints = get_type_hints(command, include_extras=True)

    def call(**values: Any) -> None:
        try:
            code = command(**values).run()
        except KeyboardInterrupt:
            # typer would leave without a word
            raise typer.Abort from None
        raise typer.Exit(code)

    parameters = []
    for f in fields(command):
        default = Parameter.empty if f.default is MISSING else f.default
        parameters.append(Parameter(f.name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[f.name]))
    call.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {f.name: hints[f.name] for f in fields(command)}
    return call
