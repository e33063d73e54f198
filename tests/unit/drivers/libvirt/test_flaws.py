from pathlib import Path
from typing import Final

import libvirt
import pytest

from appliance.drivers.libvirt.console import make_directory
from appliance.drivers.libvirt.definition import console_log, socket_path
from appliance.drivers.libvirt.flaws import compare_ports, list_lost_files
from appliance.model.compute import ConsoleKind
from appliance.model.network import PortSpec, port_name

MAC: Final = "52:54:00:00:00:01"
ID: Final = "a" * 24


def port(*addresses: str) -> PortSpec:
    return PortSpec(name=port_name(MAC), mac=MAC, addresses=addresses)


@pytest.mark.parametrize(
    ("wanted", "seen", "told"),
    [
        ({ID: [port("10.0.0.2", "10.0.0.1")]}, [port("10.0.0.1", "10.0.0.2")], None),
        ({ID: [port("10.0.0.1")]}, [], ID),
        ({ID: [port("10.0.0.1")]}, [port("10.0.0.9")], ID),
        ({ID: [port("10.0.0.1")]}, [PortSpec(name=port_name(MAC), mac=MAC, addresses=None)], ID),
        ({}, [port("10.0.0.1")], ""),
    ],
)
def test_ports_are_compared_with_what_domains_need(
    wanted: dict[str, list[PortSpec]], seen: list[PortSpec], told: str | None
) -> None:
    flaws = list(compare_ports(wanted, seen))
    assert [flaw.domain_id or "" for flaw in flaws] == ([] if told is None else [told])


def test_files_of_a_domain_that_is_gone_are_found(tmp_path: Path) -> None:
    connection = libvirt.open("test:///default")
    make_directory(tmp_path, None)
    lost = [console_log(tmp_path, ID), socket_path(tmp_path, ID, ConsoleKind.VNC)]
    for path in [*lost, tmp_path / "notes.txt"]:
        path.touch()
    flaws = list_lost_files(connection, tmp_path)
    assert [(flaw.domain_id, flaw.detail.partition(" ")[0]) for flaw in flaws] == [
        (ID, str(path)) for path in sorted(lost)
    ]
    connection.close()
