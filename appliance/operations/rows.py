"""The rows that the engine reads, and the JSON in them."""

import msgspec

from appliance.core.errors import Problem
from appliance.operations.operation import Operation, Origin, State
from appliance.store.base import Row


class Unfinished(msgspec.Struct, frozen=True):
    """What observers watch: who claims an operation, and whether that one is alive."""

    id: str
    kind: str
    state: State
    claimed_by: str | None
    claim: int
    beat: int
    needs_agent: str | None
    elapsed_ms: int
    budget_ms: int
    cancel_requested: bool
    nudges: int


class Claimed(msgspec.Struct, frozen=True):
    """What a worker needs to begin, read under its claim; one row per target."""

    kind: str
    state: State
    arguments: str
    cancel_requested: bool
    nudges: int
    budget_ms: int
    attempts: int
    problem: str | None
    failure: str | None
    target: str
    fence: int
    epoch: int


class StepRow(msgspec.Struct, frozen=True):
    name: str
    output: str


class Holder(msgspec.Struct, frozen=True):
    target: str
    operation_id: str
    origin: Origin


class Template(msgspec.Struct, frozen=True):
    """What it takes to submit a finished operation again."""

    kind: str
    arguments: str
    targets: str


def encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


def decode_problem(text: str | None) -> Problem | None:
    return None if text is None else msgspec.json.decode(text, type=Problem)


def decode_operation(row: Row) -> Operation:
    """Turn a row of `_OPERATION` into a Struct; its JSON columns are decoded first."""
    decoded = {
        name: msgspec.json.decode(value)
        if name in ("targets", "steps", "problem") and isinstance(value, str)
        else value
        for name, value in row.items()
    }
    return msgspec.convert(decoded, Operation, strict=False)
