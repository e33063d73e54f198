"""What we write into a domain's definition: whose it is, and from which spec it was made. Pure.

libvirt keeps one copy with the definition and one with what runs, so nothing of ours has to
remember either. Records outlive the program that wrote them: a field that is added to a spec
needs a default.
"""

import functools
import json
import re
import uuid
import xml.etree.ElementTree as ET
from typing import Final

import msgspec
import structlog

from appliance.core.errors import DriverError
from appliance.model.compute import DomainSpec, InterfaceSpec
from appliance.model.fields import ObjectId

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)

RECORD_KEY: Final = "kowabunga"
RECORD_URI: Final = "https://kowabunga.cloud/xmlns/domain/1"
ET.register_namespace(RECORD_KEY, RECORD_URI)
_RECORD_TAG: Final = f"{{{RECORD_URI}}}domain"
_UUIDS: Final = uuid.uuid5(uuid.NAMESPACE_URL, RECORD_URI)
# XML 1.0, production 2 (Char): everything else may not appear, not even escaped.
_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def domain_uuid(domain_id: str) -> str:
    """Return the UUID of a domain: always the same for an id, so that a redefinition finds it."""
    return str(uuid.uuid5(_UUIDS, domain_id))


def clean_text(text: str) -> str:
    """Return `text` with what XML cannot carry replaced; for people only, the record is exact."""
    return _NOT_XML.sub("\ufffd", text)


def clean_line(text: str) -> str:
    """Return `text` as one line: libvirt refuses a title with line breaks."""
    return " ".join(clean_text(text).split())


def render_record(spec: DomainSpec, *, bare: bool = False) -> ET.Element:
    """Return the element with the whole spec, as JSON in ASCII, which any text survives.

    A bare one lacks its namespace, for `virDomainSetMetadata`, which adds it.
    """
    record = ET.Element("domain" if bare else _RECORD_TAG)
    record.text = json.dumps(msgspec.to_builtins(spec), ensure_ascii=True)
    return record


class Wiring(msgspec.Struct, frozen=True, kw_only=True):
    """What the ports of a domain need of its record, should the rest not be readable."""

    domain_id: ObjectId
    interfaces: tuple[InterfaceSpec, ...] = ()


class UnreadableRecord(DriverError):
    """A domain is ours, and another version of this program, or nobody, can say what it is."""


def parse_record(record: ET.Element, name: str) -> DomainSpec:
    """Return the spec in the record of the domain that libvirt calls `name`.

    Raises:
        UnreadableRecord: no spec that this program knows.
    """
    try:
        return msgspec.json.decode(record.text or "", type=DomainSpec)
    except msgspec.MsgspecError as broken:
        raise UnreadableRecord(
            f"what is written in domain {name} about it cannot be read: {broken}",
            hint="apply its definition again, or run the version that wrote it",
            id=name,
        ) from broken


def parse_wiring(record: ET.Element) -> Wiring | None:
    """Return the cards in a record; None: nothing that we can read."""
    try:
        return msgspec.json.decode(record.text or "", type=Wiring)
    except msgspec.MsgspecError:
        return None


@functools.cache
def complain(name: str, error: str) -> None:
    """Log once that a record is not readable."""
    _log.error("domain_record_unreadable", domain=name, error=error)


def find_record(domain: ET.Element) -> DomainSpec | None:
    """Return the spec that a `<domain>` element was made from; None: it is not ours.

    Raises:
        UnreadableRecord: it is ours, made from what this program does not know.
    """
    record = domain.find(f"metadata/{_RECORD_TAG}")
    return None if record is None else parse_record(record, domain.findtext("name", ""))


def parse(text: str) -> ET.Element:
    """Parse a document that libvirtd wrote."""
    return ET.fromstring(text)  # noqa: S314 - libvirtd's own output, which it has parsed itself


def serialise(element: ET.Element) -> str:
    return ET.tostring(element, encoding="unicode")
