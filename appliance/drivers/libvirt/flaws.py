"""What of a domain is on its host beside libvirt, and fits no domain there. Only looks."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import libvirt

from appliance.core.ids import ID_PATTERN
from appliance.drivers.libvirt.definition import socket_directory
from appliance.drivers.libvirt.look import find_handle
from appliance.model.compute import Flaw
from appliance.model.network import PortSpec

_ID: Final = re.compile(ID_PATTERN)
_TOLD: Final = 1000  # more would not fit into an answer, and help nobody


def list_lost_files(connection: libvirt.virConnect, directory: Path) -> list[Flaw]:
    """Return the files of consoles whose domain is gone."""
    files = sorted(_console_files(directory))  # before the domains: one may come meanwhile
    lost = {each for each in dict(files) if find_handle(connection, each) is None}
    return [
        Flaw(domain_id=domain_id, detail=f"{path} is left of a domain that is gone")
        for domain_id, path in files
        if domain_id in lost
    ][:_TOLD]


def compare_ports(
    wanted: Mapping[str, Sequence[PortSpec]], seen: Sequence[PortSpec]
) -> Iterator[Flaw]:
    """Yield what differs between what domains need of the filter, and what it lets pass."""
    in_force = {port.name: port for port in seen}
    for domain_id, ports in sorted(wanted.items()):
        for port in ports:
            if in_force.pop(port.name, None) != _in_order(port):
                detail = f"its port {port.name} may not send what it should, or more"
                yield Flaw(domain_id=domain_id, detail=detail)
    for name in sorted(in_force):
        yield Flaw(domain_id=None, detail=f"port {name} may send, and no domain has it")


def _in_order(port: PortSpec) -> PortSpec:
    addresses = None if port.addresses is None else tuple(sorted(port.addresses))
    return PortSpec(name=port.name, mac=port.mac, addresses=addresses)


def _console_files(directory: Path) -> Iterator[tuple[str, str]]:
    for place in (directory, socket_directory(directory)):
        for path in place.iterdir() if place.is_dir() else ():
            domain_id = path.name.partition(".")[0]
            if _ID.match(domain_id):
                yield domain_id, str(path)
