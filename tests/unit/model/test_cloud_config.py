"""What an owner may add to the cloud-config of guests."""

import pytest

from appliance.core.errors import Invalid
from appliance.model.cloud_config import merge_cloud_config, parse_cloud_config
from appliance.model.setting import CLOUD_INIT_LINUX, CLOUD_INIT_WINDOWS, parse_setting


def test_it_is_read_as_cloud_init_reads_it() -> None:
    text = "#cloud-config\nssh_pwauth: yes\npackages: [htop]\nntp: {enabled: off}\n"
    assert parse_cloud_config(text) == {
        "ssh_pwauth": True,
        "packages": ["htop"],
        "ntp": {"enabled": False},
    }


@pytest.mark.parametrize(
    "text",
    [
        "- a list\n",
        "just words",
        "a: [",
        "a: b: c",
        "a: &x [1]\nb: *x\n",
        "a: !!python/object/apply:os.system [id]\n",
        "1: number\n",
        "a: {? [list] : as key}\n",
        "a: " + "[" * 200_000,
        "a: \x00",
    ],
)
def test_what_could_not_be_used_is_refused_when_it_is_set(text: str) -> None:
    with pytest.raises(Invalid, match=r"^cloud_init\.linux must be"):
        parse_setting(CLOUD_INIT_LINUX, text)


def test_nothing_but_comments_adds_nothing() -> None:
    assert parse_cloud_config("#cloud-config\n# soon\n") == {}


def test_a_script_for_windows_says_that_it_is_one() -> None:
    assert parse_setting(CLOUD_INIT_WINDOWS, "#ps1\nexit\n")
    with pytest.raises(Invalid):
        parse_setting(CLOUD_INIT_WINDOWS, "packages: [htop]\n")


def test_lists_are_joined_mappings_merged_and_the_rest_replaced() -> None:
    base = {"list": [1], "map": {"a": 1, "b": {"c": 1}}, "word": "x", "kept": True, "other": [1]}
    more = {"list": [2], "map": {"b": {"d": 2}, "a": 3}, "word": "y", "new": 1, "other": "z"}
    before = repr((base, more))
    assert merge_cloud_config(base, more) == {
        "list": [1, 2],
        "map": {"a": 3, "b": {"c": 1, "d": 2}},
        "word": "y",
        "kept": True,
        "other": "z",
        "new": 1,
    }
    assert repr((base, more)) == before
