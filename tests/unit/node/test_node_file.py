"""The node file is right as a whole, or refused with the place and the reason."""

import os
from pathlib import Path

import pytest

from appliance.core.config import SIZE_LIMIT_BYTES, load, parse
from appliance.core.errors import Invalid
from appliance.model.node import NodeConfig, Role
from appliance.model.reference import example, reference_page

_DOCS = Path(__file__).resolve().parents[3] / "docs"


def refuse(content: str | bytes) -> Invalid:
    data = content.encode() if isinstance(content, str) else content
    with pytest.raises(Invalid) as refused:
        parse(data, NodeConfig, source="node.yaml")
    return refused.value


def read(content: str) -> NodeConfig:
    return parse(content.encode(), NodeConfig, source="node.yaml")


def test_a_small_file_gets_the_defaults() -> None:
    node = read("roles: [kahuna, kaktus]\n")
    assert node.roles == (Role.KAHUNA, Role.KAKTUS)
    assert node.kahuna.listen == "0.0.0.0:8443"
    assert not node.kahuna.plain_http


@pytest.mark.parametrize("empty", ["", "# nothing yet\n", "---\n"])
def test_an_empty_file_is_a_node_without_roles(empty: str) -> None:
    assert read(empty) == NodeConfig()


def test_words_that_older_yaml_takes_for_numbers_and_booleans_stay_words() -> None:
    node = read("name: 'on'\nkahuna: {names: [no, off, 0x10, 012, 1e400x]}\n")
    assert node.kahuna.names == ("no", "off", "0x10", "012", "1e400x")


# What is wrong, where, which field, what the message says, what the hint says.
_REFUSED = [
    ("roles: [kahuma]\n", "1:9", "roles[0]", "Invalid enum value 'kahuma'", "kahuna, kaktus"),
    ("roles: kahuna\n", "1:1", "roles", "Expected `array`, got `str`", ""),
    ("\nrolls: []\n", "2:1", "rolls", "no such field", "did you mean roles?"),
    ("zzz: 1\n", "1:1", "zzz", "no such field", "known fields: kahuna"),
    ("kahuna:\n  listen: 1\n", "2:3", "kahuna.listen", "Expected `str`, got `int`", ""),
    ("kahuna:\n  lisen: x\n", "2:3", "kahuna.lisen", "no such field", "did you mean listen?"),
    ("kahuna:\n  tls: {key: /k}\n", "2:3", "kahuna.tls", "`certificate`", ""),
    ("kahuna:\n  tls: {cert: /k}\n", "2:9", "kahuna.tls.cert", "no such field", "certificate"),
    ("kahuna:\n", "1:1", "kahuna", "Expected `object`, got `null`", ""),
    ("- kahuna\n", "1:1", "", "Expected `object`, got `array`", ""),
    ("log_level: loud\n", "1:1", "log_level", "Invalid enum value 'loud'", "debug, info"),
    ("state: relative\n", "1:1", "state", "matching regex", ""),
    ("name: Node.Example\n", "1:1", "name", "matching regex", ""),
    ("roles: [kiwi, kahuna,\n kiwi]\n", "2:2", "roles[2]", "kiwi stands here twice", ""),
    ("name: a\nroles: []\nname: b\n", "3:1", "name", "stands here twice", ""),
    ("roles: &r [kahuna]\n", "1:8", "", "anchors", ""),
    ("roles: *r\n", "1:8", "", "aliases", ""),
    ("roles: !!python/object:os.system [x]\n", "1:8", "", "tags", ""),
    ("%YAML 1.1\n---\nroles: []\n", "1:1", "", "directives", ""),
    ("roles:\n\t- kahuna\n", "2:1", "", "cannot start any token", "not with tabs"),
    ("roles: [\n", "2:1", "", "expected the node content", ""),
    ("roles: []\n---\nroles: []\n", "2:1", "", "but found another document", ""),
    ("? [a]\n: b\n", "1:3", "", "a key must be a word", ""),
    ("kahuna: {listen: 0.0.0.0}\n", "1:10", "kahuna.listen", "not ADDRESS:PORT", "0.0.0.0:8443"),
    ("kahuna: {listen: '::1:80'}\n", "1:10", "kahuna.listen", "not ADDRESS:PORT", "[::]:8443"),
    ("kahuna: {listen: '1.2.3.4:65536'}\n", "1:10", "kahuna.listen", "not ADDRESS:PORT", ""),
    ("kahuna: {listen: 'host:1'}\n", "1:10", "kahuna.listen", "not ADDRESS:PORT", ""),
    (
        "kahuna:\n  plain_http: true\n", "2:3", "kahuna.plain_http",
        "for loopback addresses only, and 0.0.0.0 is none", "listen on 127.0.0.1",
    ),
    ("kahuna: {names: [a, 'b c']}\n", "1:21", "kahuna.names[1]", "no host name", ""),
    ("roles: [kaktus]\n", "1:1", "kaktus.kahunas", "no Kahuna runs on this node", "list the"),
    (
        "roles: [kaktus]\nkaktus:\n  kahunas: [wss://k:8443/ws]\n", "2:1",
        "kaktus.credential_file", "only the Kahuna of the same node", "kowabunga agent credential",
    ),
    ("kaktus:\n  pool_roots: [/srv/a, /]\n", "2:24", "kaktus.pool_roots[1]", "no directory", ""),
    ("kaktus: {pool_roots: [/a/../b]}\n", "1:23", "kaktus.pool_roots[0]", "no directory of", ""),
    ("kaktus: {libvirt_uri: 'qemu+tcp://x/system'}\n", "1:10", "kaktus.libvirt_uri", "of this", ""),
    ("kaktus: {acceleration: fast}\n", "1:10", "kaktus.acceleration", "Invalid enum", "auto, kvm"),
    ("kaktus: {uplink: br/0}\n", "1:10", "kaktus.uplink", "matching regex", ""),
    ("kiwi: {uplink: eth1}\n", "1:8", "kiwi.uplink", "no such field", ""),
    ("kiwi: {kahunas: ['ws://k/ws']}\n", "1:18", "kiwi.kahunas[0]", "not wss://HOST:PORT/ws", ""),
    ("kiwi: {kahunas: ['wss://u@k/ws']}\n", "1:18", "kiwi.kahunas[0]", "not wss://", ""),
    ("kiwi: {kahunas: ['wss://k:x/ws']}\n", "1:18", "kiwi.kahunas[0]", "not wss://", ""),
]  # fmt: skip


@pytest.mark.parametrize(("content", "place", "field", "rule", "hint"), _REFUSED)
def test_what_is_wrong_is_named_with_its_place(
    content: str, place: str, field: str, rule: str, hint: str
) -> None:
    error = refuse(content)
    assert error.detail.startswith(f"node.yaml:{place}: {field}")
    assert rule in error.detail
    assert hint in (error.hint or "")
    assert error.context.get("field", "") == field
    assert (error.context["line"], error.context["column"]) == tuple(map(int, place.split(":")))


def test_bytes_that_are_not_utf8_are_named_with_their_place() -> None:
    assert "node.yaml:2:7: byte 0xff is not UTF-8" in str(refuse(b"roles: []\nname: \xff\n"))


def test_a_byte_order_mark_does_no_harm() -> None:
    assert read("\ufeffroles: [kahuna]\n").roles == (Role.KAHUNA,)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_bytes(b"#" * (SIZE_LIMIT_BYTES + 1))
    with pytest.raises(Invalid, match="larger than 64 KiB"):
        load(path, NodeConfig)


def test_deep_nesting_is_refused() -> None:
    assert "node.yaml:1:53: is nested too deeply" in str(refuse("x: " + "[" * 50_000))


def test_a_file_that_cannot_be_read_is_refused_and_a_missing_one_is_told_apart(
    tmp_path: Path,
) -> None:
    with pytest.raises(Invalid, match="not a regular file"):
        load(tmp_path, NodeConfig)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing.yaml", NodeConfig)


@pytest.mark.parametrize("listen", ["127.0.0.1:8080", "127.9.9.9:1", "[::1]:8080"])
def test_plain_http_is_for_loopback(listen: str) -> None:
    assert read(f"kahuna: {{listen: '{listen}', plain_http: true}}\n").kahuna.plain_http


@pytest.mark.parametrize("uri", ["qemu:///system", "qemu+unix:///system?socket=/run/x/sock"])
def test_the_libvirt_of_a_kaktus_is_on_the_same_node(uri: str) -> None:
    assert read(f"kaktus: {{libvirt_uri: '{uri}'}}\n").kaktus.libvirt_uri == uri


def test_an_agent_of_the_local_kahuna_needs_nothing_more() -> None:
    assert read("roles: [kahuna, kaktus]\n").agent(Role.KAKTUS).kahunas == ()


def test_the_example_is_a_node_file_of_nothing_but_defaults() -> None:
    assert read(example()) == NodeConfig()


def test_the_generated_pages_are_up_to_date() -> None:
    hint = "run: ./build.sh docs"
    assert (_DOCS / "node.md").read_text() == reference_page(), hint
    assert (_DOCS / "node.example.yaml").read_text() == example(), hint


def test_a_named_pipe_in_the_place_of_the_file_is_refused_and_not_waited_for(
    tmp_path: Path,
) -> None:
    pipe = tmp_path / "node.yaml"
    os.mkfifo(pipe)
    with pytest.raises(Invalid, match="not a regular file"):
        load(pipe, NodeConfig)
