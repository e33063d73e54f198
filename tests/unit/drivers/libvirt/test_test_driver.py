"""The driver on libvirt's own simulation of a host."""

import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path

import pytest

from appliance.core.clock import SystemClock
from appliance.core.errors import Conflict, DriverError, Invalid, NotFound
from appliance.drivers.libvirt.compute import LibvirtCompute
from appliance.drivers.libvirt.console import LOG_LIMIT_BYTES
from appliance.drivers.libvirt.definition import console_log
from appliance.model.compute import Change, ConsoleKind
from appliance.model.domain_state import DomainState, Power
from appliance.model.network import PortSpec
from appliance.model.storage import FileLocation, ImageLocation, StoragePoolRef
from tests.support.domains import make_id, make_spec, render_host
from tests.support.wait import until


async def locate(_pool: StoragePoolRef, image_id: str) -> ImageLocation:
    return FileLocation(path=f"/pool/{image_id}", format="raw")


class Ports:
    def __init__(self) -> None:
        self.set: Mapping[str, tuple[PortSpec, ...]] = {}

    async def ensure_ports(self, domain_id: str, ports: tuple[PortSpec, ...]) -> None:
        self.set = {**self.set, domain_id: ports}

    async def ensure_ports_absent(self, domain_id: str) -> None:
        raise NotImplementedError

    async def replace_all(self, ports: Mapping[str, tuple[PortSpec, ...]]) -> None:
        self.set = ports

    async def list_ports(self) -> tuple[PortSpec, ...]:
        return tuple(sorted(port for domain in self.set.values() for port in domain))


@pytest.fixture
def sockets() -> Generator[Path]:
    """A directory of a short name: sockets have no room for more."""
    with tempfile.TemporaryDirectory(prefix="kw") as directory:
        yield Path(directory)


def driver(
    tmp_path: Path, sockets: Path, ports: Ports, *, lost_field: str | None = None
) -> LibvirtCompute:
    """Return the driver of a host with two domains; the first one's record may lack a field."""
    host = tmp_path / "host.xml"
    text = render_host([make_spec(number) for number in (1, 2)])
    if lost_field is not None:
        text = text.replace(f'"{lost_field}":', '"other":', 1)
    host.write_text(text)
    return LibvirtCompute(
        f"test://{host}",
        locate=locate,
        ports=ports,
        directory=sockets,
        accelerated=False,
        clock=SystemClock(),
        has_bridge=lambda _: True,
    )


async def test_domains_are_known_by_what_is_written_in_them(tmp_path: Path, sockets: Path) -> None:
    ports = Ports()
    async with driver(tmp_path, sockets, ports) as compute:
        listed = await compute.list_domains()
        assert [domain.domain_id for domain in listed] == [make_id(1), make_id(2)]
        assert {domain.state for domain in listed} == {DomainState.RUNNING}
        assert [counted.domain_id for counted in await compute.list_statistics()] == [
            make_id(1),
            make_id(2),
        ]
    assert {name: [port.name for port in ports.set[name]] for name in ports.set} == {
        make_id(1): ["kwda1e70000001"],
        make_id(2): ["kwda1e70000002"],
    }


async def test_power_leads_where_it_says(tmp_path: Path, sockets: Path) -> None:
    async with driver(tmp_path, sockets, Ports()) as compute:
        for power, state in (
            (Power.PAUSED, DomainState.PAUSED),
            (Power.STOPPED, DomainState.SHUTOFF),
            (Power.RUNNING, DomainState.RUNNING),
        ):
            observed = await compute.ensure_power(make_id(1), power)
            assert observed.state is state


async def test_an_unreadable_record_hides_a_domain_and_hurts_no_other(
    tmp_path: Path, sockets: Path
) -> None:
    ports = Ports()
    async with driver(tmp_path, sockets, ports, lost_field="vcpus") as compute:
        assert [domain.domain_id for domain in await compute.list_domains()] == [make_id(2)]
        assert [counted.domain_id for counted in await compute.list_statistics()] == [make_id(2)]
        for ask in (
            compute.get_domain(make_id(1)),
            compute.ensure_power(make_id(1), Power.STOPPED),
            compute.reset(make_id(1)),
        ):
            with pytest.raises(DriverError, match="apply its definition again"):
                await ask
    assert set(ports.set) == {make_id(1), make_id(2)}  # what can be read keeps its ports open


async def test_cards_that_cannot_be_read_stay_closed(tmp_path: Path, sockets: Path) -> None:
    ports = Ports()
    async with driver(tmp_path, sockets, ports, lost_field="mac"):
        assert set(ports.set) == {make_id(2)}


@pytest.mark.parametrize("lost_field", ["vcpus", "mac"])
async def test_a_new_definition_repairs_an_unreadable_record(
    tmp_path: Path, sockets: Path, lost_field: str
) -> None:
    ports = Ports()
    async with driver(tmp_path, sockets, ports, lost_field=lost_field) as compute:
        applied = await compute.ensure_domain(make_spec(1))
        assert applied.change is Change.LIVE
        assert applied.observed.running_generation == 1
        observed = await compute.get_domain(make_id(1))
        assert observed.state is DomainState.RUNNING
        assert (await compute.ensure_domain(make_spec(1))).change is Change.NONE
    assert [port.name for port in ports.set[make_id(1)]] == ["kwda1e70000001"]


async def test_an_error_inside_passes_as_it_is(tmp_path: Path, sockets: Path) -> None:
    with pytest.raises(NotFound):
        async with driver(tmp_path, sockets, Ports()) as compute:
            await compute.get_domain(make_id(9))


async def test_logs_of_consoles_are_kept_small(tmp_path: Path, sockets: Path) -> None:
    log = console_log(sockets, make_id(1))
    log.write_bytes(b"x" * (LOG_LIMIT_BYTES + 1))
    async with driver(tmp_path, sockets, Ports()):
        await until(lambda: log.stat().st_size == 0, "the log is cut")


async def test_what_is_simulated_has_no_console(tmp_path: Path, sockets: Path) -> None:
    async with driver(tmp_path, sockets, Ports()) as compute:
        with pytest.raises(Conflict):
            await compute.open_console(make_id(1), ConsoleKind.VNC)


def test_a_directory_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        LibvirtCompute(
            "test:///default",
            locate=locate,
            ports=Ports(),
            directory=tmp_path / ("x" * 100),
            accelerated=False,
            clock=SystemClock(),
        )
