"""Secrets on their way in and out of commands: files that only their owner reads, or a prompt."""

from pathlib import Path

import click

from appliance.core.errors import Conflict, Invalid, NotFound
from appliance.core.files import create_private, read_private


def write_new(path: Path, content: bytes) -> None:
    """Write a secret into a file (0600) that must not exist yet.

    Raises:
        Conflict: it exists: a secret never replaces another by accident.
    """
    if not create_private(path, content):
        raise exists(path)


def exists(path: Path) -> Conflict:
    return Conflict(
        f"{path} exists already", hint="choose another file, or remove it", field="output"
    )


def require_absent(path: Path) -> None:
    """Refuse before a secret is made that could not be written.

    Raises:
        Conflict: the file exists.
        NotFound: its directory does not.
    """
    if path.exists():
        raise exists(path)
    if not path.resolve().parent.is_dir():
        raise NotFound(f"there is no directory {path.resolve().parent}", field="output")


def passphrase(file: Path | None, *, confirm: bool) -> str:
    """Return the passphrase from a file (0600), or ask for it.

    Raises:
        Invalid: the file does not hold one line.
        Forbidden: others may read the file.
    """
    if file is None:
        return str(
            click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
        )
    try:
        text = read_private(file).decode("utf-8").removesuffix("\n")
    except FileNotFoundError as missing:
        raise NotFound(f"there is no file {file}", field="passphrase-file") from missing
    except UnicodeDecodeError as odd:
        raise Invalid(f"{file} is not text", field="passphrase-file") from odd
    if not text or "\n" in text:
        raise Invalid(f"{file} must hold one line", field="passphrase-file")
    return text
