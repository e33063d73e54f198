"""What we write about a domain into libvirt comes back as it was."""

import xml.etree.ElementTree as ET
from typing import Final

import msgspec
import pytest

from appliance.drivers.libvirt.record import (
    UnreadableRecord,
    clean_line,
    clean_text,
    domain_uuid,
    find_record,
    parse_record,
    parse_wiring,
    render_record,
)
from appliance.model.compute import Architecture, DiskSpec, DomainSpec, InterfaceSpec, OsFamily
from appliance.model.storage import LocalPool, RbdPool
from tests.support.domains import make_id, make_spec, render

HOSTILE = "<>&'\"]]> \x00\x07\x1b\x7f\x85 \ud7ff\ufffe\uffff\U0001f995\r\n\t é"


STORED: Final = (
    '{"domain_id": "000000000000000000000001", "name": "web", "description": "of the shop", '
    '"vcpus": 2, "memory_bytes": 1073741824, "os": "linux", "architecture": "x86_64", '
    '"disks": [{"storage_pool": {"kind": "local", "directory": "/pool"}, '
    '"image_id": "000000000000000000000002"}, {"storage_pool": {"kind": "rbd", "pool": "rbd", '
    '"monitor_address": "192.0.2.1", "monitor_port": 3300}, '
    '"image_id": "000000000000000000000003"}], "interfaces": [{"mac": "da:1e:70:00:00:01", '
    '"bridge": "br0", "addresses": ["10.0.0.2"]}, {"mac": "da:1e:70:00:00:02", '
    '"bridge": "br1", "addresses": null}], "seed": {"storage_pool": {"kind": "local", '
    '"directory": "/pool"}, "image_id": "000000000000000000000001"}, '
    '"generation": 7}'
)


def test_every_text_survives_in_the_record() -> None:
    spec = msgspec.structs.replace(make_spec(), name=HOSTILE, description=HOSTILE * 20)
    assert find_record(render(spec)) == spec
    bare = ET.fromstring(ET.tostring(render_record(spec, bare=True)))
    assert parse_record(bare, spec.domain_id) == spec


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
    with pytest.raises(UnreadableRecord):
        parse_record(record, "some")
    assert parse_wiring(record) is None


def test_a_record_that_an_earlier_version_stored_stays_readable() -> None:
    """Frozen: do not change the text, give what you add a default."""
    record = ET.Element("domain")
    record.text = STORED
    assert parse_record(record, make_id(1)) == DomainSpec(
        domain_id=make_id(1),
        name="web",
        description="of the shop",
        vcpus=2,
        memory_bytes=1 << 30,
        os=OsFamily.LINUX,
        architecture=Architecture.X86_64,
        disks=(
            DiskSpec(storage_pool=LocalPool(directory="/pool"), image_id=make_id(2)),
            DiskSpec(
                storage_pool=RbdPool(pool="rbd", monitor_address="192.0.2.1", monitor_port=3300),
                image_id=make_id(3),
            ),
        ),
        interfaces=(
            InterfaceSpec(mac="da:1e:70:00:00:01", bridge="br0", addresses=("10.0.0.2",)),
            InterfaceSpec(mac="da:1e:70:00:00:02", bridge="br1"),
        ),
        seed=DiskSpec(storage_pool=LocalPool(directory="/pool"), image_id=make_id(1)),
        generation=7,
    )


def test_the_uuid_of_a_domain_never_changes() -> None:
    assert domain_uuid(make_id(1)) == "a58d0fc0-e7ab-5d1a-b0d4-01cd28d12524"
    assert domain_uuid(make_id(1)) != domain_uuid(make_id(2))
