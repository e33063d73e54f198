"""What the suite of bridges needs: a driver, and a hand in the host that it works on."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from appliance.drivers.netlink.bridges import LinuxBridges
from appliance.model.domain_state import Power
from appliance.model.network import HostNetworkDriver, port_name
from tests.contract.drivers.rig import BRIDGE, Rig
from tests.support.netns import private_network
from tests.support.tap import Tap, ip

_FOREIGN: Final = "foreign0"


@dataclass(frozen=True, kw_only=True)
class HostNetworkRig:
    """One implementation on a host without any bridge of ours.

    Attributes:
        foreign_interface: an interface of the host that we did not make.
        reopen: return a driver made anew over the same host, as after a restart of the agent.
        plug: plug a running domain into `BRIDGE`, which is there.
        unplug: undo that.
    """

    driver: HostNetworkDriver
    foreign_interface: str
    reopen: Callable[[], HostNetworkDriver]
    plug: Callable[[], Awaitable[None]]
    unplug: Callable[[], Awaitable[None]]


def simulated_host(rig: Rig) -> HostNetworkRig:
    plugged: list[str] = []

    async def plug() -> None:
        spec = await rig.spec()
        await rig.compute.ensure_domain(spec)
        await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)
        plugged.append(spec.domain_id)

    async def unplug() -> None:
        await rig.compute.ensure_domain_absent(plugged.pop())

    return HostNetworkRig(
        driver=rig.host_network,
        foreign_interface=rig.foreign_interface,
        reopen=lambda: rig.reopen().host_network,
        plug=plug,
        unplug=unplug,
    )


@contextmanager
def linux_host() -> Generator[HostNetworkRig]:
    """Yield the bridges of this kernel, in a network of their own, without an uplink."""
    with private_network(), ExitStack() as stack:
        plugged: list[Tap] = []

        def reopen() -> LinuxBridges:
            driver = LinuxBridges(None)
            stack.callback(driver.close)
            return driver

        async def plug() -> None:
            plugged.append(Tap(port_name("52:54:00:00:00:01"), bridge=BRIDGE.name))

        async def unplug() -> None:
            plugged.pop().close()

        ip(f"link add {_FOREIGN} type bridge")
        yield HostNetworkRig(
            driver=reopen(), foreign_interface=_FOREIGN, reopen=reopen, plug=plug, unplug=unplug
        )
