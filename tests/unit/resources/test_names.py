import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.errors import Invalid
from appliance.resources.names import check_line, check_name, check_references, check_text, quoted
from tests.unit.resources.expect import refused


@pytest.mark.parametrize(
    "name",
    [
        "eu-west", "John Doe", "ACME Office", "ubuntu-cloudimg-generic-24.04", "a", "x" * 255,
        "Café", "日本", "10.50.102.0/24", "0123456789abcdef", "_x",
        "0123456789abcdef0123456", "0123456789ABCDEF01234567",
        # Letters like others, since nothing splices a name into another language.
        "Robert'); DROP TABLE region;--", "<domain>&amp;</domain>", "${IFS}`id`$(id)",
        "a: {b: !!c}", '"x"', "a%s%n", "../../x", "x\\y", "#1", "{{ x }}",
    ],
)  # fmt: skip
def test_name_is_accepted(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "name is empty"),
        ("x" * 256, "name has 256 characters, 255 are allowed"),
        (" a", "begins or ends with a blank"),
        ("a ", "begins or ends with a blank"),
        ("   ", "begins or ends with a blank"),
        ("--force", "begins with a hyphen, like an option"),
        ("..", "has no letter and no digit"),
        ("/", "has no letter and no digit"),
        ("Cafe\u0301", "not in Unicode normal form C"),
        ("0123456789abcdef01234567", "has the form of an id"),
        ("a\nb", "name 'a\\nb' has a character that is not printable"),
        ("a\x00b", "not printable"),
        ("\x1b[2Ja", "not printable"),
        ("a\x7f", "not printable"),
        ("a\x9b", "not printable"),
        ("a\u202eb", "not printable"),  # right-to-left override
        ("a\u200bb", "not printable"),  # zero-width space
        ("a\u2028b", "not printable"),  # line separator
        ("a\u00a0b", "not printable"),  # no-break space looks like a blank
        ("a\ufffeb", "not printable"),  # no character of XML
        ("a\ud800", "not printable"),  # half a surrogate pair cannot be encoded
    ],
)
def test_name_is_refused(name: str, message: str) -> None:
    refused(lambda: check_name(name), "name", message)


@pytest.mark.parametrize(
    "text", ["", "two\nlines\r\n\tand a tab", "x" * 4096, "a\u200cb", "<&>'\""]
)
def test_text_is_accepted(text: str) -> None:
    check_text(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x" * 4097, "description has 4097 characters, 4096 are allowed"),
        ("a\x00", "has a control character"),
        ("\x1b]0;title\x07", "has a control character"),
        ("a\x85b", "has a control character"),
    ],
)
def test_text_is_refused(text: str, message: str) -> None:
    refused(lambda: check_text(text), "description", message)


def test_message_about_a_secret_line_does_not_show_it() -> None:
    with pytest.raises(Invalid) as caught:
        check_line("hunter2\n", "root_password", max_length=255, secret=True)
    assert "hunter2" not in str(caught.value)


def test_references_are_unique_and_not_too_many() -> None:
    check_references(["b", "a"], "agents")
    refused(lambda: check_references(["b", "a", "b"], "agents"), "agents[2]", "has 'b' twice")
    many = [str(number) for number in range(1025)]
    refused(lambda: check_references(many, "agents"), "agents", "has 1025 entries, 1024 are")


@given(st.text(max_size=300))
def test_whatever_is_accepted_as_a_name_is_one_visible_line(name: str) -> None:
    try:
        check_name(name)
    except Invalid:
        return
    assert name.encode("utf-8").decode("utf-8") == name.strip()
    assert name.splitlines() == [name]
    categories = {unicodedata.category(character) for character in name}
    assert categories.isdisjoint({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


@given(st.text())
def test_quoted_text_is_short_and_printable(text: str) -> None:
    assert quoted(text).isprintable()
    assert len(quoted(text)) <= 64 * 10 + 2
