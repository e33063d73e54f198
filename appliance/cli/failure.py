"""How a command fails: what, on which field, by which rule, and what to do, on standard error."""

import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

import click

from appliance.cli.exit_code import ExitCode, of_error, of_status
from appliance.core.errors import KowabungaError
from appliance.core.text import escape_controls

_TOLD: Final = ("field", "rule")


class Failed(Exception):
    """The work was tried and did not end well; `code` tells how."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


class Refused(Exception):
    """The server answered, with a refusal."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class NoAnswer(Exception):
    """The request was sent, but no answer came in time; what it asked for may go on."""


# An error of ours that is none of the taxonomy -> the code that tells it.
_CODES: Final[Mapping[type[Exception], Callable[[Any], ExitCode]]] = {
    Refused: lambda error: of_status(error.status),
    NoAnswer: lambda _error: ExitCode.TIMED_OUT,
    Failed: lambda error: error.code,
}


def tell(error: Exception, *, debug: bool) -> ExitCode:
    """Print the error and return the exit code for it."""
    if isinstance(error, click.exceptions.Exit):
        return ExitCode(error.exit_code)
    if isinstance(error, click.Abort):
        _say("aborted")
        return ExitCode.INTERRUPTED
    if isinstance(error, click.ClickException):
        return _tell_usage(error)
    if isinstance(error, KowabungaError):
        return _tell_ours(error)
    for kind, code_of in _CODES.items():
        if isinstance(error, kind):
            _say(f"error: {error}")
            return code_of(error)
    if debug:
        _say("".join(traceback.format_exception(error)), keep="\n")
    _say(f"error: unexpected {type(error).__name__}: {error}")
    _say("  hint: this is a bug; run it again with --debug and report what it prints")
    return ExitCode.BUG


def _tell_ours(error: KowabungaError) -> ExitCode:
    _say(f"error: {error.detail}")
    for name in _TOLD:
        if name in error.context:
            _say(f"  {name}: {error.context[name]}")
    if error.hint:
        _say(f"  hint: {error.hint}")
    return of_error(error.code)


def _tell_usage(error: click.ClickException) -> ExitCode:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return ExitCode.USAGE
    _say(f"error: {error.format_message()}")
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        _say(f"  hint: {context.command_path} --help")
    return ExitCode.USAGE


def _say(line: str, *, keep: str = "") -> None:
    click.echo(escape_controls(line, keep=keep), err=True)
