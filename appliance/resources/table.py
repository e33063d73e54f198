"""How one kind of object is kept in rows: declared in the kind's own file, used by `services`.

The SQL is written by hand; a test writes, reads and changes every field of every
kind through these declarations, so that Struct and SQL cannot drift apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import msgspec

from appliance.store.base import Row, Statement

S = TypeVar("S", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Children:
    """What keeps an object from being deleted: `count` selects one number, named `children`."""

    plural: str
    count: Callable[[str], Statement]


@dataclass(frozen=True, slots=True)
class Rule(Generic[S]):
    """A rule that needs other rows: `offenders` selects those by which the object breaks it.

    The query guards the batch of the change itself, so nothing can come in between; it runs a
    second time only to explain a refusal.

    Attributes:
        offenders: id, parent's id (or "" in an update), the whole object wanted.
        refuse: the object wanted, the first offender; raises Invalid.
    """

    offenders: Callable[[str, str, S], Statement]
    refuse: Callable[[S, Row], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class View(Generic[S]):
    """How the objects of one kind are found and read.

    Attributes:
        kind: snake case, as in targets; `title` is how people call it.
        list_ids: all visible ids, in order of creation; the column is named `id`.
        list_children_ids: those of one parent; None for a kind without one.
        find_named: parent's id (or "") and name; selects the `id` of the object that has the name.
        read: one visible object; its columns are what `decode` takes, and `generation`.
    """

    kind: str
    title: str
    struct: type[S]
    list_ids: Statement
    list_children_ids: Callable[[str], Statement] | None = None
    find_named: Callable[[str, str], Statement]
    read: Callable[[str], Statement]
    decode: Callable[[Row], S]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(View[S]):
    """The rows of one kind whose objects are rows and nothing else.

    Attributes:
        guard: selects 1 while the object still has this generation (see `store.base.guard`).
        insert: id, parent's id (or ""), the object with defaults, now in ms.
        update: id, the whole object wanted, now in ms; raises `generation` by one.
        delete: removes the object and the rows that only describe it.
        set_default: parent's id and id; the last statement changes one row, or none when the one is
            not the other's parent. None for a kind of which no parent has a default.
        check, check_change: rules about the object alone; `rules` are about others too.
    """

    guard: Callable[[str, int], Statement]
    check: Callable[[S], None]
    check_change: Callable[[S, S], None] = lambda _stored, _wanted: None
    insert: Callable[[str, str, S, int], Sequence[Statement]]
    update: Callable[[str, S, int], Sequence[Statement]]
    delete: Callable[[str], Sequence[Statement]]
    set_default: Callable[[str, str], Sequence[Statement]] | None = None
    children: tuple[Children, ...] = ()
    rules: tuple[Rule[S], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Part(Generic[S]):
    """What else the row of an object tells: read by its id, never written by a request."""

    struct: type[S]
    read: Callable[[str], Statement]
    decode: Callable[[Row], S]


def flat(struct: type[S]) -> Callable[[Row], S]:
    """Return the `decode` of a kind whose columns are named like its fields."""

    def decode(row: Row) -> S:
        return msgspec.convert(row, struct, strict=False)

    return decode


def as_json(value: object) -> str:
    """Return JSON for a parameter: a problem, or a list for `json_each`, whose `key` counts."""
    return msgspec.json.encode(value).decode()


GENERATION: Final = "generation"
