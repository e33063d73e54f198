"""What there is to say about a noun of the command line: the classes of the table in `nouns.py`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_RESOURCE: Final = "appliance.cli.resource:noun_group"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query parameter; with a `noun` the user gives a name, and the API gets its id."""

    name: str
    option: str
    about: str
    kind: type[str] | type[int] | type[bool] = str
    noun: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Something that can be read of an object besides itself: `GET /noun/{id}/verb`."""

    verb: str
    about: str
    struct: str
    sizes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something that an object can be told to do: `PATCH /noun/{id}/verb`.

    Attributes:
        settled: the state of a machine in which there is nothing to do.
        struct: of the answer, if there is one.
    """

    verb: str
    about: str
    settled: str = ""
    queries: tuple[Query, ...] = ()
    struct: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noun:
    """One kind of object.

    Attributes:
        struct: "module:class".
        below: the nouns of the objects that a new one is made below, in the order of the path.
        scoped: names are unique below a parent only.
        listed_below: further nouns that have a list of these.
        default_of: the noun that can have one of these as its default.
        index: a route that answers with all objects at once; else each is read by itself.
        references: a field that holds ids -> their noun.
        sizes: fields in bytes; a nested one with a dot.
        secrets: fields that come from files, and are never shown to people.
        has_console: one can sit before it.
        columns: what a table shows after id and name.
        example: of a create: a name, and options.
        where: "module:attribute" of a command made by hand, which derives the rest itself.
    """

    name: str
    about: str
    struct: str
    plural: str = ""
    below: tuple[str, ...] = ()
    scoped: bool = False
    listed_below: tuple[str, ...] = ()
    default_of: str = ""
    index: str = ""
    references: Mapping[str, str] = field(default_factory=dict[str, str])
    queries: tuple[Query, ...] = ()
    sizes: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = ()
    actions: tuple[Action, ...] = ()
    has_console: bool = False
    example: str
    where: str = _RESOURCE

    @property
    def is_made_by_hand(self) -> bool:
        return self.where != _RESOURCE

    @property
    def plural_name(self) -> str:
        return self.plural or f"{self.name}s"

    @property
    def lists(self) -> tuple[tuple[str, ...], ...]:
        """The nouns that lists can be asked below of: each of these together."""
        own = (self.below,) if self.below else ()
        return (*own, *((noun,) for noun in self.listed_below))

    @property
    def example_name(self) -> str:
        return self.example.split(maxsplit=1)[0]
