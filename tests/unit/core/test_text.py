import pytest

from appliance.core.text import escape_controls


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain ~ text", "plain ~ text"),
        ("Zürich 東京 🏄", "Zürich 東京 🏄"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("\x9b31m\x7f\x00", "\\x9b31m\\x7f\\x00"),
        ("abc\u202edcba\u200b", "abc\\u202edcba\\u200b"),
        ("one\u2028two", "one\\u2028two"),
        ("\ud800", "\\ud800"),
        ("a\ufffe\U0010ffff\u0378", "a\\ufffe\\U0010ffff\\u0378"),
    ],
)
def test_only_what_moves_a_cursor_or_hides_is_escaped(text: str, safe: str) -> None:
    assert escape_controls(text) == safe


def test_what_is_kept_stays() -> None:
    assert escape_controls("a\nb\x1b", keep="\n") == "a\nb\\x1b"
