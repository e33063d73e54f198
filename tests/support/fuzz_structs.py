"""JSON that fits the declaration of a Struct, at the edges of what it allows; and almost fits."""

import base64
import random
from typing import Any, Final

import msgspec.inspect as m
from hypothesis import strategies as st

from tests.support.fuzz import NASTY, TEXTS

Json = Any  # what a JSON text may hold

_HUGE: Final = (2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, 10**400)
_JUNK: Final[tuple[Json, ...]] = (None, True, -1, 0.5, [], {}, [[]], "", *NASTY[:20], *_HUGE)


def fitting(kind: type) -> st.SearchStrategy[Json]:
    """Return plain data that decodes to this type, extreme values and odd texts included."""
    return _of(m.type_info(kind))


def almost(data: Json, chance: random.Random) -> Json:
    """Return the data with one place changed: other data, a key more or less, its list repeated."""
    if isinstance(data, dict) and data and chance.random() < 0.8:
        key = chance.choice(list(data))
        match chance.randrange(5):
            case 0:
                return {name: value for name, value in data.items() if name != key}
            case 1:
                return {**data, chance.choice(NASTY): chance.choice(_JUNK)}
            case _:
                return {**data, key: almost(data[key], chance)}
    if isinstance(data, list) and data and chance.random() < 0.8:
        at = chance.randrange(len(data))
        if chance.random() < 0.2:
            return data * chance.choice((2, 100))
        return [*data[:at], almost(data[at], chance), *data[at + 1 :]]
    return chance.choice(_JUNK)


def _of(kind: m.Type) -> st.SearchStrategy[Json]:  # noqa: PLR0911, PLR0912 - a case for each
    match kind:
        case m.Metadata():
            return _of(kind.type)
        case m.StructType():
            return _struct(kind)
        case m.UnionType():
            return st.one_of([_of(each) for each in kind.types])
        case m.VarTupleType() | m.ListType():
            return st.lists(_of(kind.item_type), min_size=kind.min_length or 0, max_size=3)
        case m.DictType():
            return st.dictionaries(_of(kind.key_type), _of(kind.value_type), max_size=3)
        case m.StrType():
            return _text(kind)
        case m.IntType():
            return _whole(kind)
        case m.FloatType():
            lowest = 0 if kind.ge is None else kind.ge
            return st.sampled_from([lowest, lowest + 0.5, 1e9 if kind.le is None else kind.le])
        case m.BytesType():
            size = kind.min_length or 0
            return st.binary(min_size=size, max_size=size).map(
                lambda raw: base64.b64encode(raw).decode()
            )
        case m.EnumType():
            return st.sampled_from([each.value for each in kind.cls])
        case m.LiteralType():
            return st.sampled_from(list(kind.values))
        case m.BoolType():
            return st.booleans()
        case m.NoneType():
            return st.none()
        case _:
            raise AssertionError(f"no data for {kind}")


def _struct(kind: m.StructType) -> st.SearchStrategy[Json]:
    tag = {} if kind.tag_field is None else {kind.tag_field: st.just(kind.tag)}
    required = {field.encode_name: _of(field.type) for field in kind.fields if field.required}
    optional = {field.encode_name: _of(field.type) for field in kind.fields if not field.required}
    return st.fixed_dictionaries({**tag, **required}, optional=optional)


def _text(kind: m.StrType) -> st.SearchStrategy[Json]:
    if kind.pattern is None:
        lowest, highest = kind.min_length or 0, kind.max_length or 2**20
        return TEXTS.filter(lambda text: lowest <= len(text) <= highest)
    # Few, so that one call finds what another has made.
    some = st.sampled_from([digit * 24 for digit in "abc"])
    if kind.pattern == "^[0-9a-f]{24}$":
        return some
    if kind.pattern == "^/":
        return st.sampled_from(NASTY).map(lambda text: f"/{text}")
    return st.from_regex(kind.pattern).filter(lambda text: not text.endswith("\n"))


def _whole(kind: m.IntType) -> st.SearchStrategy[Json]:
    edges = [kind.ge, kind.le, 0, 1, 2**31, 2**63 - 1, *([] if kind.le else _HUGE)]
    allowed = [
        edge
        for edge in edges
        if edge is not None
        and (kind.ge is None or edge >= kind.ge)
        and (kind.le is None or edge <= kind.le)
    ]
    return st.sampled_from(allowed)
