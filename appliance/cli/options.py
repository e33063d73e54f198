"""Options that many commands share, as decorators; the decorated function gets typed values."""

import functools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import click

from appliance.cli.client import DEFAULT_SOCKET, ApiClient, Connection
from appliance.cli.output import Format

P = ParamSpec("P")
R = TypeVar("R")

FILE: Final = click.Path(path_type=Path, dir_okay=False)
DIRECTORY: Final = click.Path(path_type=Path, file_okay=False)
DEFAULT_STATE: Final = Path("/var/lib/kowabunga")


def choice(values: Iterable[str]) -> click.Choice[str]:
    """Offer the values of an enum as they are written everywhere; click would take the names."""
    return click.Choice([str(value) for value in values])


def remote(
    command: Callable[Concatenate[ApiClient, P], R], *, timeout_s: float = 300.0
) -> Callable[..., R]:
    """Give a command the connection options, and an `ApiClient` as its first argument."""

    @click.option("--url", envvar="KOWABUNGA_URL", help="Kahuna to ask, https://host[:port].")
    @click.option(
        "--api-key-file", envvar="KOWABUNGA_API_KEY_FILE", type=FILE, help="Key for --url."
    )
    @click.option(
        "--ca-file", envvar="KOWABUNGA_CA_FILE", type=FILE, help="Certificates to trust for --url."
    )
    @click.option(
        "--socket",
        envvar="KOWABUNGA_SOCKET",
        type=FILE,
        default=DEFAULT_SOCKET,
        help="Local socket, used without --url.",
        show_default=True,
    )
    @click.option(
        "--timeout", default=timeout_s, show_default=True, help="Seconds to wait for an answer."
    )
    @click.option("--debug", is_flag=True, help="Print request ids and tracebacks.")
    @functools.wraps(command)
    def with_client(
        *args: Any,  # noqa: ANN401 - the command's own, as click found them
        url: str | None,
        api_key_file: Path | None,
        ca_file: Path | None,
        socket: Path,
        timeout: float,
        debug: bool,
        **kwargs: Any,  # noqa: ANN401
    ) -> R:
        connection = Connection(
            url=url,
            api_key_file=api_key_file,
            ca_file=ca_file,
            socket=socket,
            timeout_s=timeout,
            debug=debug,
        )
        with ApiClient(connection) as client:
            return command(client, *args, **kwargs)

    return with_client


def output(command: Callable[P, R]) -> Callable[P, R]:
    """Add `-o`: the command gets `form`."""
    return click.option(
        "-o",
        "--output",
        "form",
        type=choice(Format),
        callback=_as_format,
        default=str(Format.TABLE),
        show_default=True,
        help="How to print.",
    )(command)


def _as_format(_context: click.Context, _option: click.Parameter, value: str) -> Format:
    return Format(value)


def wait(command: Callable[P, R]) -> Callable[P, R]:
    """Add `--wait/--no-wait`: by default a terminal waits for the end of the work."""
    return click.option(
        "--wait/--no-wait",
        "wait",
        default=sys.stdout.isatty,
        help="Wait for the end of the work (default on a terminal).",
    )(command)


def state_directory(command: Callable[P, R]) -> Callable[P, R]:
    """Add `--state`: for what works on the files of a Kahuna that is stopped."""
    return click.option(
        "--state",
        type=DIRECTORY,
        default=DEFAULT_STATE,
        show_default=True,
        help="State directory of a Kahuna that is stopped.",
    )(command)


def passphrase_file(command: Callable[P, R]) -> Callable[P, R]:
    """Add `--passphrase-file`; without it the passphrase is asked for, never taken from argv."""
    return click.option(
        "--passphrase-file",
        type=FILE,
        help="File (0600) with the passphrase; else it is asked for.",
    )(command)
