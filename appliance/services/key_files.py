"""The data keys that this node holds, one 0600 file each; knows nothing of the database."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.core import crypto
from appliance.core.errors import Corrupt
from appliance.core.files import (
    create_private,
    ensure_private_directory,
    read_private,
    remove_durably,
    sync_directory,
)
from appliance.core.secret import Secret

_KEY: Final = ".key"
_PENDING: Final = ".new"  # durable, but its row may not be


@dataclass(frozen=True, slots=True)
class DataKey:
    id: str
    key: Secret


def data_key_of(key: bytes) -> DataKey:
    """Name a key by its content, so that one id can never stand for two keys."""
    return DataKey(crypto.identify_key(key), Secret(key))


class KeyFiles:
    """Each change is durable when its method returns."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def prepare(self) -> None:
        """Make the directory, and clear away copies of keys that an interrupted write left."""
        ensure_private_directory(self._directory)
        for copy in self._directory.glob(".*"):
            remove_durably(copy)

    def find(self, key_id: str) -> DataKey | None:
        """Return a key that the database knows, or None when there is no file of it.

        Raises:
            Corrupt: the file holds something else.
            Forbidden: others may read it.
        """
        for path in (self._path(key_id), self._path(key_id, _PENDING)):
            if path.exists():
                return _read(path)
        return None

    def pending(self) -> DataKey:
        """Return the key of an attempt that did not reach the database, or a new one."""
        for path in sorted(self._directory.glob(f"*{_PENDING}")):
            return _read(path)
        fresh = data_key_of(crypto.random_key())
        create_private(self._path(fresh.id, _PENDING), _encode(fresh))
        return fresh

    def promote(self, key_id: str) -> None:
        """Note that the database knows a pending key; idempotent."""
        if self._path(key_id, _PENDING).exists():
            self._path(key_id, _PENDING).replace(self._path(key_id))
            sync_directory(self._directory)

    def add(self, key: DataKey) -> None:
        """Keep a key that came from elsewhere; idempotent.

        Raises:
            Corrupt: there is a file of this name with something else in it.
        """
        if not create_private(self._path(key.id), _encode(key)):
            _read(self._path(key.id))

    def ids(self) -> set[str]:
        """Return the ids of all keys here, pending ones too."""
        suffixes = {_KEY, _PENDING}
        return {path.stem for path in self._directory.iterdir() if path.suffix in suffixes}

    def remove(self, key_id: str) -> None:
        """Delete a key's file; idempotent."""
        for suffix in (_KEY, _PENDING):
            remove_durably(self._path(key_id, suffix))

    def _path(self, key_id: str, suffix: str = _KEY) -> Path:
        return self._directory / f"{key_id}{suffix}"


def _encode(key: DataKey) -> bytes:
    return crypto.to_base64(key.key.reveal()).encode() + b"\n"


def _read(path: Path) -> DataKey:
    content = read_private(path)
    try:
        key = data_key_of(crypto.from_base64(content.decode("ascii").strip()))
    except (Corrupt, UnicodeDecodeError):
        raise Corrupt(f"{path} is not a data key", hint="import the recovery export") from None
    if key.id != path.stem:
        raise Corrupt(f"{path} holds another data key", hint="import the recovery export")
    return key
