"""Names for a shell's Tab: what the server has, as far as it tells within a moment.

Never fails and prints nothing: a Tab that cannot be answered offers nothing. The API gives names
one by one, so those once read are kept for a while, and each Tab gets further.
"""

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from appliance.cli.client import DEFAULT_SOCKET, V1, ApiClient, Connection
from appliance.cli.failure import NoAnswer, Refused
from appliance.cli.lookup import path_of
from appliance.cli.noun import Noun
from appliance.cli.nouns import NOUNS
from appliance.core.errors import KowabungaError
from appliance.core.files import ensure_private_directory, write_atomic
from appliance.core.text import escape_controls

_KEPT_S: Final = 600.0  # an object may have another name by then

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a Tab may take: a request begins in the first half, and ends with the second.

    Who completes may give another one as the context's object.
    """

    budget_s: float = 0.3
    monotonic: Callable[[], float] = time.monotonic


def names_of(noun: str) -> Completer:
    """Return what completes the name of such an object, given as an argument or an option."""

    def complete(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
        patience = context.find_object(Patience) or Patience()
        try:
            names = _names(NOUNS[noun], _connection(context.params, patience), patience)
        except (KowabungaError, Refused, NoAnswer, OSError):
            return []
        # A name that could move a cursor is not put on a command line.
        return sorted(
            name for name in names if name.startswith(begun) and escape_controls(name) == name
        )

    return complete


def _connection(options: Mapping[str, Any], patience: Patience) -> Connection:
    return Connection(
        url=options.get("url"),
        api_key_file=options.get("api_key_file"),
        ca_file=options.get("ca_file"),
        socket=options.get("socket") or DEFAULT_SOCKET,
        timeout_s=patience.budget_s / 2,
    )


def _names(noun: Noun, connection: Connection, patience: Patience) -> set[str]:
    end = patience.monotonic() + patience.budget_s / 2
    with ApiClient(connection) as client:
        listed = client.send("GET", noun.index or f"{V1}/{noun.name}").body
        if noun.index:
            return {str(item["name"]) for item in listed}
        file = _kept_file(noun, connection)
        kept = _load(file)
        known = {object_id: kept[object_id] for object_id in listed if object_id in kept}
        try:
            for object_id in listed:
                if object_id not in known and patience.monotonic() < end:
                    item = client.send("GET", path_of(noun, object_id)).body
                    known[object_id] = str(item["name"])
        finally:
            if known != kept:
                _save(file, known)
    return set(known.values())


def _kept_file(noun: Noun, connection: Connection) -> Path:
    """Return a file of its own for each server and key, since not everybody may see every name."""
    place = f"{connection.url} {connection.api_key_file} {connection.socket}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "kowabunga" / f"{noun.name}-{hashlib.sha256(place.encode()).hexdigest()[:16]}"


def _load(file: Path) -> dict[str, str]:
    try:
        age_s = time.time() - file.stat().st_mtime
        if not 0 <= age_s <= _KEPT_S:  # less than nothing: a clock was put right
            return {}
        return msgspec.json.decode(file.read_bytes(), type=dict[str, str])
    except (OSError, ValueError):
        return {}


def _save(file: Path, known: Mapping[str, str]) -> None:
    ensure_private_directory(file.parent)
    write_atomic(file, msgspec.json.encode(known), mode=0o600)
