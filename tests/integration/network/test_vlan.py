"""Tagged frames of vnets, seen by the switch that a guest with our driver is plugged into."""

import asyncio
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Final

import msgspec
import pyroute2
import pytest
import structlog

import appliance
import tests
from tests.integration.network.vlan_program import (
    FORGED,
    INTO,
    OF_FIRST,
    OF_SECOND,
    SPOOFED,
    UNTAGGED,
)
from tests.support.frames import tagged
from tests.support.python_guest import python_guest

_PROGRAM: Final = "tests.integration.network.vlan_program"
_MODULES: Final = (
    "virtio_pci", "virtio_net", "8021q", "bridge", "tun", "nf_tables", "nft_meta_bridge"
)  # fmt: skip


class Switch:
    """The other end of the guest's network card: whole frames, as they are on the wire."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def close(self) -> None:
        self._writer.close()

    def send(self, frame: bytes) -> None:
        self._writer.write(len(frame).to_bytes(4, "big") + frame)

    async def receive_until(self, last: bytes) -> list[bytes]:
        """Return the frames that came before `last`."""
        frames: list[bytes] = []
        while True:
            length = int.from_bytes(await self._reader.readexactly(4), "big")
            frame = await self._reader.readexactly(length)
            if frame == last:
                return frames
            frames.append(frame)


def packages() -> list[Path]:
    """Return the folders of what the program imports."""
    modules = (appliance, msgspec, pyroute2, structlog, tests)
    return [Path(str(module.__file__)).parent for module in modules]


@pytest.mark.timeout(600)  # a guest without KVM on a busy machine
async def test_vnets_leave_the_node_with_their_tags_and_arrive_by_them(tmp_path: Path) -> None:
    path = tmp_path / "uplink"
    plugged: asyncio.Future[Switch] = asyncio.get_running_loop().create_future()

    async def plug(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plugged.set_result(Switch(reader, writer))

    async with (
        AsyncExitStack() as stack,
        await asyncio.start_unix_server(plug, path),
        python_guest(
            tmp_path,
            program=_PROGRAM,
            packages=packages(),
            commands=("ip", "nft"),
            modules=_MODULES,
            network=f"stream,id=n,server=off,addr.type=unix,addr.path={path}",
        ) as guest,
    ):
        begin = await guest.report()
        switch = stack.enter_context(closing(await plugged))
        assert begin["down"] == "unavailable"
        assert begin["links"]["kowa.201"] == {
            "master": "br201", "over": "eth0", "vlan": 201, "mtu": 1500
        }  # fmt: skip
        assert begin["links"]["kowa.202"]["master"] == "br202"

        sent = await switch.receive_until(tagged(OF_SECOND, 202))
        assert tagged(OF_FIRST, 201) in sent
        for frame in (
            OF_FIRST,
            OF_SECOND,
            FORGED,
            tagged(FORGED, 201),
            SPOOFED,
            tagged(SPOOFED, 201),
        ):
            assert frame not in sent

        for frame in (
            tagged(INTO[203], 203), UNTAGGED, tagged(INTO[201], 201), tagged(INTO[202], 202)
        ):  # fmt: skip
            switch.send(frame)
        heard = await guest.report()
        assert heard == {"to_first": [], "to_second": []}
        await switch.receive_until(tagged(OF_FIRST, 201))

        moved = await guest.report()
        assert tagged(OF_FIRST, 201) not in await switch.receive_until(tagged(OF_FIRST, 301))
        assert "kowa.201" not in moved["links"]
        assert moved["links"]["kowa.301"]["master"] == "br201"
        assert (moved["others_vlan"], moved["own_again"]) == ("conflict", "done")

        mended = await guest.report()
        assert mended["foreign"] == "conflict"
        assert mended["links"]["kowa.202"]["master"] == "br202"
        assert mended["links"]["kowa.202"]["mtu"] == 1500
        assert mended["links"]["kowa.301"] == {
            "master": "br201", "over": "eth0", "vlan": 301, "mtu": 1500
        }  # fmt: skip
        assert mended["sysctl"].strip() == "1"

        end = await guest.report()
        assert set(end["links"]) == {"eth0"}
