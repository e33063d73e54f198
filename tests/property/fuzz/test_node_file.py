"""Whatever a node file holds, it is used as a whole or refused with its place, within a moment."""

import random
import time
from collections.abc import Callable
from typing import Final

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.config import SIZE_LIMIT_BYTES, parse
from appliance.core.errors import Invalid
from appliance.model.node import NodeConfig
from tests.support.faults import What, Where, breaks
from tests.support.fuzz import JSON, NASTY, TEXTS, budget

NAME: Final = "/etc/kowabunga/node.yaml"
GOOD: Final = """\
roles: [kahuna, kaktus] # both
name: node-1
state: /var/lib/kowabunga
log_level: info
kahuna:
  listen: "[::]:8443"
  names: [kowabunga.example, 192.0.2.1]
  tls: {certificate: /etc/ssl/x.pem, key: /etc/ssl/x.key}
kaktus:
  uplink: eth0
  pool_roots:
  - /srv/pools
  libvirt_uri: qemu:///system
  acceleration: auto
  kahunas: ["wss://[2001:db8::1]:8443/ws"]
  credential_file: /etc/kowabunga/key
"""
KEYS: Final = st.sampled_from(
    ["roles", "name", "state", "log_level", "kahuna", "kaktus", "kiwi", "listen", "names", "tls",
     "certificate", "uplink", "pool_roots", "libvirt_uri", "kahunas", "credential_file", "<<"]
)  # fmt: skip
PIECES: Final = st.sampled_from(
    [":", ": ", "- ", "? ", "[", "]", "{", "}", ",", "\n", "\n  ", "\n\t", "&a ", "*a", "!!int ",
     "!!python/name:os.system ", "<<: *a\n", "|\n", ">9\n", "'", '"', '"\\ud800"', '"\\U00110000"',
     "---\n", "...\n", "%YAML 1.1\n", "#", "~", "0x1", "1:1:1", "9" * 5000, "\x00", "\x1b", "\r",
     "\u2028", "\ud7ff", "] - at `$[0]`", "] - at `$.roles`", "`", "[0]", "."]
)  # fmt: skip
VALUES: Final = st.recursive(
    JSON, lambda inner: st.dictionaries(KEYS | TEXTS, inner, max_size=4), max_leaves=8
)


def dumped(value: object, flow: bool) -> bytes:
    # Bare numbers and words stay so; what cannot be written is written as an escape.
    return yaml.safe_dump(value, default_flow_style=flow).encode()


def mutated(seed: int, pieces: list[str]) -> bytes:
    """Put pieces anywhere into a good file, or in the place of something."""
    chance = random.Random(seed)
    text = GOOD
    for piece in pieces:
        at = chance.randrange(len(text))
        text = text[:at] + piece + text[at + chance.choice((0, 0, 1, 5, 20)) :]
    return text.encode()


FILES: Final = st.one_of(
    st.binary(max_size=100),
    st.lists(PIECES | KEYS | TEXTS, max_size=12).map(lambda parts: "".join(parts).encode()),
    st.builds(dumped, st.dictionaries(KEYS | TEXTS, VALUES, max_size=5), st.booleans()),
    st.builds(mutated, st.integers(0, 2**32), st.lists(PIECES | TEXTS, min_size=1, max_size=3)),
)

fuzzed: Final = breaks(
    What.INPUT,
    "any bytes, and any YAML with any values, as a node file",
    expected="it is used, or refused with line and column",
    where=Where.HOST,
)


def refusal(content: bytes) -> Invalid | None:
    """Return how a file is refused, after a look at the refusal; None: it is not."""
    try:
        parse(content, NodeConfig, source=NAME)
    except Invalid as error:
        refused = error
    else:
        return None
    told = str(refused)
    assert told.startswith(f"{NAME}:{refused.context['line']}:{refused.context['column']}: ")
    assert len(told.encode()) < 4000
    return refused


@fuzzed
@budget(250)
@given(FILES)
def test_a_file_is_used_or_refused_with_its_place(content: bytes) -> None:
    refusal(content)


def test_the_file_that_is_mutated_is_good() -> None:
    assert refusal(GOOD.encode()) is None


def filled(make: Callable[[int], str]) -> bytes:
    """Return the longest document of this form that is read at all."""
    size = SIZE_LIMIT_BYTES
    while len(content := make(size).encode()) > SIZE_LIMIT_BYTES:
        size = size * 9 // 10
    return content


@breaks(
    What.INPUT,
    "a node file of the largest size that is nested, full of aliases, keys or numbers",
    expected="refused with its place, in seconds at the worst",
    where=Where.HOST,
)
@pytest.mark.parametrize(
    "make",
    [
        lambda size: "[" * size,
        lambda size: "{a: " * size,
        lambda size: "- " * size,
        lambda size: "? " * size,
        lambda size: "a: [" + "1," * size + "]",
        lambda size: "roles: " + "9" * size,
        lambda size: "roles: [" + "x" * size + "]",
        lambda size: "? " + "k" * size + "\n: x",
        lambda size: "kahuna: {? '" + "[1]" * size + "': x}",
        lambda size: "".join(f"k{index}: 1\n" for index in range(size)),
        lambda size: "kahuna: {names: [" + "a," * size + "'%']}",
        lambda size: '"' * size + "x",
        lambda size: "a: &a [" + "*a," * size + "]",
        lambda size: "a: |\n" + " x\n" * size,
    ],
)  # fmt: skip
def test_the_largest_file_is_refused_in_time(make: Callable[[int], str]) -> None:
    begin = time.process_time()
    assert refusal(filled(make)) is not None
    assert time.process_time() - begin < 30  # a second or less; without a bound it is for ever


@breaks(
    What.INPUT,
    "a node file with anchors, tags, merge keys, duplicate keys, two documents, directives",
    expected="refused with the place of the first of them",
    where=Where.HOST,
)
@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: &a [1]\nb: *a\n", "1:4"),
        ("name: !!python/object/apply:os.system [id]\n", "1:7"),
        ("name: !x y\n", "1:7"),
        ("<<: {name: a}\n", "1:1"),
        ("name: a\nname: b\n", "2:1"),
        ("name: a\n--- \nname: b\n", "2:1"),
        ("%YAML 1.1\n---\nname: a\n", "1:1"),
        ("roles:\n\t- kahuna\n", "2:1"),
        ("roles: []\nname: a\x1b[2J\n", "2:8"),
        ('roles: []\nname: "\\U00110000"\n', "2:10"),
        ('state: "/var/\\ud800"\n', "1:8"),
        ("name: " + "9" * 5000, "1:7"),
        ("kahuna:\n  '] - at `$[0]`': x\n", "2:3"),
        ("roles: ['x - at `$.name`']\n", "1:9"),
    ],
)
def test_what_has_no_place_in_a_file_is_refused_where_it_stands(text: str, place: str) -> None:
    refused = refusal(text.encode())
    assert refused is not None
    assert f"{refused.context['line']}:{refused.context['column']}" == place


@pytest.mark.parametrize("text", NASTY)
def test_a_nasty_text_is_carried_or_refused_and_nothing_else(text: str) -> None:
    """In a field that takes almost anything, and back out of it."""
    content = yaml.safe_dump({"state": f"/{text}"}).encode()
    if (refused := refusal(content)) is None:
        assert parse(content, NodeConfig, source=NAME).state == f"/{text}"
    else:
        assert refused.context["field"] == "state"
