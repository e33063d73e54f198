"""Every API Struct equals its schema in the contract; the comparison notices each difference."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Final, cast

import msgspec
import pytest
from msgspec import UNSET, UnsetType

from appliance.resources.adapter import Adapter
from appliance.resources.agent import Agent
from appliance.resources.api_token import ApiToken
from appliance.resources.cost import Cost
from appliance.resources.fields import Maybe, about, with_defaults
from appliance.resources.instance import Instance, InstanceRemoteAccess, InstanceState
from appliance.resources.kaktus import Kaktus, KaktusCaps, KaktusCPU
from appliance.resources.kiwi import Kiwi
from appliance.resources.kompute import Kompute
from appliance.resources.project import Metadata, Project, ProjectResources, RegionSubnet
from appliance.resources.region import Region
from appliance.resources.storage_pool import StoragePool
from appliance.resources.subnet import IpRange, Subnet
from appliance.resources.team import Team
from appliance.resources.template import Template
from appliance.resources.vnet import VNet
from appliance.resources.volume import Volume
from appliance.resources.zone import Zone
from tests.contract.api import contract

STRUCTS: Final[Sequence[type[msgspec.Struct]]] = (
    Adapter, Agent, ApiToken, Cost, Instance, InstanceRemoteAccess, InstanceState, IpRange, Kaktus,
    KaktusCPU, KaktusCaps, Kiwi, Kompute, Metadata, Project, ProjectResources, Region, RegionSubnet,
    StoragePool, Subnet, Team, Template, VNet, Volume, Zone,
)  # fmt: skip

_NAMES: Final = [struct.__name__ for struct in STRUCTS]


@pytest.mark.parametrize("struct", STRUCTS, ids=_NAMES)
def test_struct_equals_the_contract(struct: type[msgspec.Struct]) -> None:
    name = struct.__name__
    assert contract.differences(name, contract.schema(name), struct) == []


def test_every_schema_that_a_struct_refers_to_has_a_struct() -> None:
    referred = {
        reference
        for name in _NAMES
        for member in contract.schema(name)["properties"].values()
        for reference in (member.get("ref"), member.get("items", {}).get("ref"))
        if reference
    }
    assert referred <= set(_NAMES)


@pytest.mark.parametrize("struct", STRUCTS, ids=_NAMES)
def test_every_optional_part_may_be_absent_or_null(struct: type[msgspec.Struct]) -> None:
    required = {name: _example(member) for name, member in _members(struct, required=True)}
    without = msgspec.convert(required, struct)
    nulls = {name: None for name, _ in _members(struct, required=False)}
    assert with_defaults(msgspec.convert(required | nulls, struct)) == with_defaults(without)


def test_the_answer_to_a_minimal_request_has_no_null_and_no_foreign_key() -> None:
    for struct in STRUCTS:
        name = struct.__name__
        required = {key: _example(member) for key, member in _members(struct, required=True)}
        answer = msgspec.to_builtins(with_defaults(msgspec.convert(required, struct)))
        assert answer.keys() <= contract.schema(name)["properties"].keys()
        assert None not in answer.values()


def _members(struct: type[msgspec.Struct], *, required: bool) -> list[tuple[str, Any]]:
    schema = contract.schema(struct.__name__)
    return [
        (name, member)
        for name, member in schema["properties"].items()
        if (name in schema["required"]) == required
    ]


def _example(member: contract.Schema) -> object:
    if "ref" in member:
        inner = contract.schema(member["ref"])
        return {name: _example(inner["properties"][name]) for name in inner["required"]}
    if "enum" in member:
        return member["enum"][0]
    return {"string": "a", "integer": 1, "number": 1.0, "boolean": True, "array": []}[
        member["type"]
    ]


# The comparison itself: one right Struct, and one wrong one for each kind of difference.


class _Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class _FewColours(StrEnum):
    RED = "red"


_SCHEMA: Final[contract.Schema] = {
    "type": "object",
    "required": ["name", "size"],
    "properties": {
        "name": {"type": "string"},
        "size": {"type": "integer", "format": "int64"},
        "colour": {"type": "string", "enum": ["blue", "red"], "default": "red"},
        "cost": {"ref": "Cost"},
        "on": {"type": "boolean", "default": True},
        "words": {"type": "array", "items": {"type": "string"}},
    },
}

_Name = Annotated[str, about("name")]
_Size = Annotated[int, about("size", json_format="int64")]
_Colours = Annotated[Maybe[_Colour], about("colour", default=_Colour.RED)]
_Costs = Annotated[Maybe[Cost], about("cost")]
_On = Annotated[Maybe[bool], about("on", default=True)]
_Words = Annotated[Maybe[list[str]], about("words")]

_RIGHT: Final[dict[str, tuple[Any, ...] | None]] = {
    "name": (_Name,),
    "size": (_Size,),
    "colour": (_Colours, UNSET),
    "cost": (_Costs, UNSET),
    "on": (_On, UNSET),
    "words": (_Words, UNSET),
}


def _thing(*, strict: bool = True, **changed: tuple[Any, ...] | None) -> type[msgspec.Struct]:
    """Return the right Struct with some fields replaced, or left out where None is given."""
    fields = {name: spec for name, spec in (_RIGHT | changed).items() if spec is not None}
    return msgspec.defstruct(
        "Thing",
        cast("Any", [(name, *spec) for name, spec in fields.items()]),
        kw_only=True,
        forbid_unknown_fields=strict,
    )


def _spec(kind: Any, meta: msgspec.Meta) -> Any:  # noqa: ANN401  # a type made at run time
    return cast("Any", Annotated)[kind, meta]


def _maybe(kind: Any, meta: msgspec.Meta) -> Any:  # noqa: ANN401  # a type made at run time
    return _spec(kind | UnsetType | None, meta)


def test_comparison_accepts_the_right_struct() -> None:
    assert contract.differences("Thing", _SCHEMA, _thing()) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"words": None}, "Thing.words: the Struct lacks it"),
        ({"more": (_Name,)}, "Thing.more: the contract lacks it"),
        ({"size": (_spec(str, about("size", json_format="int64")),)},
         "Thing.size: type is string in the Struct, integer in the contract"),
        ({"size": (_spec(float, about("size", json_format="int64")),)},
         "Thing.size: type is number in the Struct, integer in the contract"),
        ({"size": (_spec(int, about("size")),)},
         "Thing.size: format is None in the Struct, int64 in the contract"),
        ({"size": (_spec(int, about("size", json_format="int32")),)},
         "Thing.size: format is int32 in the Struct, int64 in the contract"),
        ({"colour": (_maybe(_FewColours, about("c", default="red")), UNSET)},
         "Thing.colour: enum is ['red'] in the Struct, ['blue', 'red'] in the contract"),
        ({"colour": (_maybe(str, about("c", default="red")), UNSET)},
         "Thing.colour: enum is None in the Struct, ['blue', 'red'] in the contract"),
        ({"colour": (_maybe(_Colour, about("c")), UNSET)},
         "Thing.colour: default is None in the Struct, red in the contract"),
        ({"on": (_maybe(bool, about("on", default=False)), UNSET)},
         "Thing.on: default is False in the Struct, True in the contract"),
        ({"name": (_spec(str, about("name", default="x")),)},
         "Thing.name: default is x in the Struct, None in the contract"),
        ({"name": (_spec(str, about("name")), "x")},
         "Thing.name: required is False in the Struct, True in the contract"),
        ({"on": (_maybe(bool, about("on", default=True)),)},
         "Thing.on: required is True in the Struct, False in the contract"),
        ({"on": (_spec(bool | UnsetType, about("on", default=True)), UNSET)},
         "Thing.on: the Struct refuses null"),
        ({"name": (_spec(str | None, about("name")),)},
         "Thing.name: the Struct takes null"),
        ({"cost": (_maybe(Metadata, about("cost")), UNSET)},
         "Thing.cost: ref is Metadata in the Struct, Cost in the contract"),
        ({"words": (_maybe(list[int], about("words")), UNSET)},
         "Thing.words[]: type is integer in the Struct, string in the contract"),
        ({"words": (_maybe(list[Cost], about("words")), UNSET)},
         "Thing.words[]: ref is Cost in the Struct, None in the contract"),
        ({"name": (str,)}, "Thing.name: the Struct does not describe it"),
        ({"strict": False}, "Thing: the Struct takes unknown fields"),
    ],
)  # fmt: skip
def test_comparison_notices(changed: dict[str, Any], message: str) -> None:
    assert message in contract.differences("Thing", _SCHEMA, _thing(**changed))
