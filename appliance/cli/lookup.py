"""From names to ids: people write names, the API takes ids.

24 hex digits always mean an id (no name has that form). A name is found by listing and reading, so
it costs a request for each object of the kind, unless the kind has an index.
"""

import difflib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from appliance.cli.client import V1, ApiClient, segment
from appliance.cli.failure import Refused
from appliance.cli.noun import Noun
from appliance.cli.nouns import NOUNS
from appliance.cli.output import Item
from appliance.cli.progress import progress
from appliance.core.errors import NotFound
from appliance.core.ids import ID_PATTERN

_ID: Final = re.compile(ID_PATTERN)
_READERS: Final = 8
_SHOWN: Final = 10  # candidates in one message


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def path_of(noun: Noun, object_id: str) -> str:
    return f"{V1}/{noun.name}/{segment(object_id)}"


class Lookup:
    """Finds and reads objects for one command; each kind is listed once at most."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._listed: dict[str, list[Item]] = {}

    def resolve(self, noun: Noun, text: str, *, below: str = "") -> str:
        """Return the id of the object that is meant; `below` is the path of a list of candidates.

        Raises:
            NotFound: none or several have the name; the hint names candidates.
        """
        if is_id(text):
            return text
        found = self.find(noun, text, below=below)
        if len(found) == 1:
            return found[0]
        if found:
            raise NotFound(
                f"{noun.name} {text!r} is ambiguous: {len(found)} have this name",
                hint=f"use an id: {_some(found)}",
            )
        raise NotFound(f"there is no {noun.name} {text!r}", hint=self._instead(noun, text, below))

    def find(self, noun: Noun, name: str, *, below: str = "") -> list[str]:
        """Return the ids of the objects that have the name."""
        return [
            str(item["id"]) for item in self._candidates(noun, below) if item.get("name") == name
        ]

    def resolve_all(self, noun_name: str, texts: Sequence[str]) -> list[str]:
        return [self.resolve(NOUNS[noun_name], text) for text in texts]

    def read(self, noun: Noun, object_id: str) -> Item:
        item: Item = self._client.send("GET", path_of(noun, object_id)).body
        return item

    def list_ids(self, path: str) -> list[str]:
        ids: list[str] = self._client.send("GET", path).body
        return ids

    def read_all(self, noun: Noun, ids: Sequence[str]) -> list[Item]:
        """Return the objects that exist; some may have gone since they were listed."""

        def read(object_id: str) -> Item | None:
            try:
                return self.read(noun, object_id)
            except Refused as refusal:
                if refusal.status == 404:
                    return None
                raise

        with (
            progress(f"reading {len(ids)} {noun.plural_name}"),
            ThreadPoolExecutor(_READERS) as readers,
        ):
            return [item for item in readers.map(read, ids) if item is not None]

    def _candidates(self, noun: Noun, below: str) -> list[Item]:
        path = below or noun.index or f"{V1}/{noun.name}"
        if path not in self._listed:
            listed: list[Any] = self._client.send("GET", path).body
            whole = bool(noun.index) and not below
            self._listed[path] = listed if whole else self.read_all(noun, listed)
        return self._listed[path]

    def _instead(self, noun: Noun, text: str, below: str) -> str:
        names = [str(item["name"]) for item in self._candidates(noun, below)]
        if not names:
            return f"there are no {noun.plural_name} yet"
        close = difflib.get_close_matches(text, names, n=3)
        return f"did you mean {_some(close)}?" if close else f"there are: {_some(sorted(names))}"


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more
