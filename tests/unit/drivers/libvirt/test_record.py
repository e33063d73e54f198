"""What we write about a domain into libvirt comes back as it was."""

import xml.etree.ElementTree as ET

import msgspec
import pytest

from appliance.drivers.libvirt.record import (
    clean_line,
    clean_text,
    domain_uuid,
    find_record,
    parse_record,
    render_record,
)
from tests.support.domains import make_id, make_spec, render

HOSTILE = "<>&'\"]]> \x00\x07\x1b\x7f\x85 \ud7ff\ufffe\uffff\U0001f995\r\n\t é"


def test_every_text_survives_in_the_record() -> None:
    spec = msgspec.structs.replace(make_spec(), name=HOSTILE, description=HOSTILE * 20)
    assert find_record(render(spec)) == spec
    assert parse_record(ET.fromstring(ET.tostring(render_record(spec, bare=True)))) == spec


def test_what_xml_cannot_carry_is_replaced_for_people() -> None:
    assert clean_text("a\x00b\x1b\ufffe\uffff") == "a\ufffdb\ufffd\ufffd\ufffd"
    assert clean_text("tab\t line\n \U0001f995") == "tab\t line\n \U0001f995"
    assert clean_line(" two\r\nlines ") == "two lines"


def test_a_domain_without_a_record_is_not_ours() -> None:
    assert find_record(ET.fromstring("<domain><metadata><other/></metadata></domain>")) is None
    assert find_record(ET.fromstring("<domain><name>x</name></domain>")) is None


@pytest.mark.parametrize("text", ["", "{}", "not json", '{"domain_id": "x"}'])
def test_a_record_that_nobody_can_read_names_no_domain(text: str) -> None:
    record = ET.Element("domain")
    record.text = text
    assert parse_record(record) is None


def test_the_uuid_of_a_domain_never_changes() -> None:
    assert domain_uuid(make_id(1)) == "a58d0fc0-e7ab-5d1a-b0d4-01cd28d12524"
    assert domain_uuid(make_id(1)) != domain_uuid(make_id(2))
