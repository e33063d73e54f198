"""Texts that people and programs send: refused as Invalid, or carried as they are everywhere."""

import json
import re
import sqlite3
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import closing
from typing import Final

import msgspec
import yaml
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.errors import Invalid
from appliance.core.secret import Secret
from appliance.core.text import escape_controls
from appliance.drivers.libvirt.definition import read_existing
from appliance.drivers.libvirt.record import serialise
from appliance.model.setting import SETTINGS, Setting, parse_secret, parse_setting
from appliance.resources.guest_linux import linux_documents
from appliance.resources.guest_windows import windows_documents
from appliance.resources.host_name import check_domain, check_host_name
from appliance.resources.ipv4 import format_address, parse_address, parse_network
from appliance.resources.names import MAX_TEXT_LENGTH, check_line, check_name, check_text
from appliance.resources.ssh_key import check_public_key
from tests.support.domains import make_spec, render
from tests.support.faults import What, Where, breaks
from tests.support.fuzz import JSON, TEXTS, budget
from tests.unit.resources.guests import KEY, guest

ANY: Final = TEXTS | st.text(st.characters(), max_size=40)  # halves of surrogate pairs, too
PAIRS: Final = st.tuples(ANY, ANY).map("".join)
# Where PowerShell gets all that differs: in base64, no word of a script.
_DATA: Final = re.compile(r".*FromBase64String\('[A-Za-z0-9+/=]*'\).*")
LINES: Final = PAIRS.filter(lambda text: is_accepted(lambda: check_line(text, "x", max_length=300)))
OCTETS: Final = st.sampled_from(
    ["0", "1", "255", "256", "-1", "01", "٣", "1e1", "0x1", "", "9" * 50]
)
ADDRESSES: Final = st.lists(OCTETS, min_size=3, max_size=5).map(".".join) | ANY
NETWORKS: Final = st.tuples(
    ADDRESSES, st.sampled_from(["/", "//", ""]), st.sampled_from(["0", "24", "32", "33", "٨", "-1"])
).map("".join)
KEYS: Final = st.lists(
    st.sampled_from(["ssh-ed25519", "ssh-rsa", "ssh-dss", " ", "\n", KEY, KEY.split()[1], "="])
    | ANY,
    max_size=4,
).map("".join)  # fmt: skip
NAMES: Final = st.lists(st.sampled_from(["a", "-", "_", ".", "1", "é"]) | ANY, max_size=5).map(
    "".join
)


def is_accepted(check: Callable[[], object]) -> bool:
    """Tell whether a text is; a refusal names its field, in a message that anybody may read."""
    try:
        check()
    except Invalid as error:
        refused = error
    else:
        return True
    assert refused.context["field"]
    assert len(str(refused)) < 1000
    assert str(refused).isprintable(), ascii(refused)
    return False


@breaks(
    What.INPUT,
    "any text as a name, a description, a host, a domain, an SSH key, an address or a network",
    expected="refused with its field in one printable line, or carried through every format",
    where=Where.HOST,
)
@budget(300)
@given(PAIRS, NAMES, KEYS, ADDRESSES, NETWORKS)
def test_a_text_is_refused_or_carried(
    text: str, name: str, key: str, address: str, network: str
) -> None:
    for one in (text, name):
        is_accepted(lambda one=one: check_name(one))  # type: ignore[misc]
        if is_accepted(lambda one=one: check_text(one)):  # type: ignore[misc]
            carried(one)
        if is_accepted(lambda one=one: check_host_name(one)):  # type: ignore[misc]
            assert one.isascii()
        if is_accepted(lambda one=one: check_domain(one, min_labels=1)):  # type: ignore[misc]
            assert one.isascii()
    if is_accepted(lambda: check_public_key(key, "key")):
        assert key.removesuffix("\n").removesuffix("\r").isprintable()
        assert len(key.split()) >= 2
    if is_accepted(lambda: parse_address(address, "address")):
        assert format_address(parse_address(address, "address")) == address
    if is_accepted(lambda: parse_network(network, "network")):
        assert str(parse_network(network, "network")) == network


def carried(text: str) -> None:
    assert msgspec.json.decode(msgspec.json.encode(text)) == text
    with closing(sqlite3.connect(":memory:")) as base:
        assert base.execute("SELECT ? || ''", (text,)).fetchone() == (text,)
    # Not isprintable(): private characters and odd blanks are shown, and do nothing.
    shown = {unicodedata.category(character) for character in escape_controls(text)}
    assert shown.isdisjoint({"Cc", "Cf", "Cn", "Cs", "Zl", "Zp"})


def test_a_text_is_not_longer_than_what_is_allowed() -> None:
    assert is_accepted(lambda: check_text("\u202e" * MAX_TEXT_LENGTH))
    assert not is_accepted(lambda: check_text("x" * (MAX_TEXT_LENGTH + 1)))


@breaks(
    What.INPUT,
    "any text as the name or the description of a domain",
    expected="its definition is well-formed, has no element more, and its record is exact",
    where=Where.HOST,
)
@budget(150)
@given(st.text(min_size=1, max_size=255), TEXTS)
def test_a_definition_is_well_formed_whatever_the_texts(name: str, description: str) -> None:
    spec = msgspec.structs.replace(make_spec(), name=name, description=description)
    plain = render(msgspec.structs.replace(spec, name="x", description="x"))
    read = ET.fromstring(serialise(render(spec)).encode())
    without = [each.tag for each in plain.iter() if each.tag not in ("title", "description")]
    assert [each.tag for each in read.iter() if each.tag not in ("title", "description")] == without
    existing = read_existing(read)
    assert existing is not None
    assert (existing.spec.name, existing.spec.description) == (name, description)


@breaks(
    What.INPUT,
    "any line as a region, a zone, a password or the comment of a key in a guest's seed",
    expected="PyYAML reads the very text back, and not a key more; PowerShell has it as data",
    where=Where.HOST,
)
@budget(150)
@given(LINES, LINES)
def test_a_seed_has_the_very_texts(line: str, other: str) -> None:
    made = guest(region=line, zone=other, public_key=f"{KEY} {line}", password=Secret(other))
    plain = linux_documents(guest(password=Secret("x")), {})
    documents = linux_documents(made, {})
    user, meta = yaml.safe_load(documents.user_data), yaml.safe_load(documents.meta_data)
    assert (meta["region"], meta["availability-zone"]) == (line, other)
    assert user["users"][0]["hashed_passwd"] == other
    assert user["users"][1]["ssh_authorized_keys"] == [f"{KEY} {line}"]
    assert user.keys() == yaml.safe_load(plain.user_data).keys()
    assert meta.keys() == yaml.safe_load(plain.meta_data).keys()
    windows = windows_documents(made, None).user_data.splitlines()
    others = windows_documents(guest(password=Secret("x")), None).user_data.splitlines()
    changed = [one for one, before in zip(windows, others, strict=True) if one != before]
    assert all(_DATA.fullmatch(one) for one in changed)


@breaks(
    What.INPUT,
    "any JSON as the value of a setting",
    expected="refused in one line, or read the same whenever it is read again",
    where=Where.HOST,
)
@budget(300)
@given(st.sampled_from(sorted(SETTINGS)), JSON | ANY | NETWORKS | KEYS)
def test_a_setting_is_refused_or_read_the_same_again(name: str, value: object) -> None:
    setting = SETTINGS[name]
    if not isinstance(setting, Setting):
        is_accepted(lambda: parse_secret(setting, value))
        return
    if is_accepted(lambda: parse_setting(setting, value)):
        parsed = parse_setting(setting, value)
        stored = json.loads(msgspec.json.encode(parsed))
        assert parse_setting(setting, stored) == parsed
