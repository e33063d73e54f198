"""What an owner adds to the cloud-config of guests: refused when it is set, or carried exactly."""

import math
from typing import Final

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.errors import Invalid
from appliance.core.secret import Secret
from appliance.model.cloud_config import parse_cloud_config
from appliance.model.setting import CLOUD_INIT_LINUX, parse_setting
from appliance.resources.guest import Guest
from appliance.resources.guest_linux import linux_documents
from tests.support.faults import What, Where, breaks
from tests.support.fuzz import JSON, NASTY, TEXTS, budget

GUEST: Final = Guest(
    instance_id="a" * 24, host_name="web", domain="", region="eu", zone="eu-a", cards=(),
    local_ip=None, user="root", public_key=None, password=None, secret=Secret("kws_x"),
    metadata_uri=None, packages=(),
)  # fmt: skip
PIECES: Final = st.sampled_from(
    ["a: ", "b: ", "- ", "? ", "[", "]", "{", "}", ", ", "\n", "\n  ", "!!bool ", "!!int ", '""',
     "!!float ", "!!timestamp ", "!!binary ", "!!set ", "!!omap ", "!!python/name:os.system ", "=",
     "<<: ", "2001-01-01", "2001-99-99", "1:60", "1" + ":00" * 300 + ".5", "0x_", "0b_", "0o8",
     ".inf", "yes", "~", "|\n ", ">\n ", '"\\ud800"', '"\\U00110000"', "&a ", "*a", "---\n", "%x\n"]
)  # fmt: skip
DOCUMENTS: Final = st.one_of(
    st.text(max_size=60),
    st.lists(PIECES | TEXTS, max_size=10).map("".join),
    st.dictionaries(TEXTS, JSON, max_size=4).map(yaml.safe_dump),
)


def same(one: object, other: object) -> bool:
    """Compare what YAML has read, of the same types, .nan with itself."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return type(one) is type(other) and one == other


def check(text: str) -> None:
    try:
        config = parse_cloud_config(parse_setting(CLOUD_INIT_LINUX, text) or "")
    except Invalid:
        return
    added = {f"x_{key}": value for key, value in config.items()}
    documents = linux_documents(GUEST, added)
    ours = yaml.safe_load(linux_documents(GUEST, {}).user_data)
    theirs = {f"x_{key}": value for key, value in (yaml.safe_load(text) or {}).items()}
    assert same(yaml.safe_load(documents.user_data), ours | theirs)
    assert documents.user_data.startswith("#cloud-config\n")


@breaks(
    What.INPUT,
    "any text, and any YAML with any values, as cloud-config for all guests",
    expected="refused when it is set, or the guest reads just this beside what is ours",
    where=Where.HOST,
)
@budget(250)
@given(DOCUMENTS)
def test_a_cloud_config_is_refused_or_carried_exactly(text: str) -> None:
    check(text)


@breaks(
    What.INPUT,
    "cloud-config with tags, bad dates, endless numbers, halves of characters",
    expected="refused when it is set",
    where=Where.HOST,
)
@pytest.mark.parametrize(
    "text",
    [
        "a: !!bool maybe",
        'a: !!int ""',
        "a: !!timestamp x",
        "a: !!binary YQ==",
        "a: !!set {b}",
        "a: 1" + ":00" * 300 + ".5",
        "a: 2001-99-99",
        "a: 0x_",
        'a: "\\ud800"',
        'a: "\\U00110000"',
        "a: " + "9" * 5000,
        "? [a]\n: x",
        "2001-01-01: x",
    ],
)
def test_what_the_library_stumbles_over_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_setting(CLOUD_INIT_LINUX, text)


@pytest.mark.parametrize("text", NASTY)
def test_nasty_texts_are_carried(text: str) -> None:
    check(yaml.safe_dump({"a": text, "b": [{text: text}]}))


def test_dates_stay_dates() -> None:
    check("a: 2001-01-01\nb: [2001-12-14t21:59:43.10-05:00]\nc: {2001-01-01: x, 1: y}\n")
