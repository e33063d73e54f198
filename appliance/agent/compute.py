"""Serve the compute methods with a driver. Decodes nothing and decides nothing."""

from collections.abc import Callable

from appliance.agent.dispatch import Handler
from appliance.model.compute import (
    AppliedDomain,
    ComputeDriver,
    DomainEvent,
    DomainSpec,
    HostFacts,
    ObservedDomain,
)
from appliance.model.target import target
from appliance.rpc.compute import (
    COMPUTE_ENSURE_DOMAIN,
    COMPUTE_ENSURE_DOMAIN_ABSENT,
    COMPUTE_ENSURE_POWER,
    COMPUTE_GET_DOMAIN,
    COMPUTE_GET_HOST,
    COMPUTE_GROW_DISK,
    COMPUTE_LIST_DOMAINS,
    COMPUTE_LIST_FLAWS,
    COMPUTE_LIST_STATISTICS,
    COMPUTE_REBOOT,
    COMPUTE_REQUEST_SHUTDOWN,
    COMPUTE_RESET,
    DomainGrowDisk,
    DomainList,
    DomainPower,
    DomainRef,
    DomainStatisticsList,
    FlawList,
)
from appliance.rpc.method import Nothing
from appliance.rpc.methods import Event

EventSender = Callable[[Event], None]


def compute_handlers(driver: ComputeDriver, send_event: EventSender) -> dict[str, Handler]:
    """Return the handlers by method name; domains' own changes go to `send_event` from now on."""

    async def get_host(_: Nothing) -> HostFacts:
        return await driver.get_host()

    async def ensure_domain(params: DomainSpec) -> AppliedDomain:
        return await driver.ensure_domain(params)

    async def ensure_domain_absent(params: DomainRef) -> Nothing:
        await driver.ensure_domain_absent(params.domain_id)
        return Nothing()

    async def ensure_power(params: DomainPower) -> ObservedDomain:
        return await driver.ensure_power(params.domain_id, params.power, grace_s=params.grace_s)

    async def request_shutdown(params: DomainRef) -> ObservedDomain:
        return await driver.request_shutdown(params.domain_id)

    async def reboot(params: DomainRef) -> ObservedDomain:
        return await driver.reboot(params.domain_id)

    async def reset(params: DomainRef) -> ObservedDomain:
        return await driver.reset(params.domain_id)

    async def grow_disk(params: DomainGrowDisk) -> Nothing:
        await driver.grow_disk(params.domain_id, params.image_id, params.size_bytes)
        return Nothing()

    async def get_domain(params: DomainRef) -> ObservedDomain:
        return await driver.get_domain(params.domain_id)

    async def list_domains(_: Nothing) -> DomainList:
        return DomainList(tuple(await driver.list_domains()))

    async def list_statistics(_: Nothing) -> DomainStatisticsList:
        return DomainStatisticsList(tuple(await driver.list_statistics()))

    async def list_flaws(_: Nothing) -> FlawList:
        return FlawList(tuple(await driver.list_flaws()))

    def on_domain_event(event: DomainEvent) -> None:
        send_event(
            Event(
                target("instance", event.domain_id),
                "domain.state",
                {"state": event.state.value, "reason": event.reason.value},
            )
        )

    driver.on_event(on_domain_event)
    return {
        COMPUTE_GET_HOST.name: get_host,
        COMPUTE_ENSURE_DOMAIN.name: ensure_domain,
        COMPUTE_ENSURE_DOMAIN_ABSENT.name: ensure_domain_absent,
        COMPUTE_ENSURE_POWER.name: ensure_power,
        COMPUTE_REQUEST_SHUTDOWN.name: request_shutdown,
        COMPUTE_REBOOT.name: reboot,
        COMPUTE_RESET.name: reset,
        COMPUTE_GROW_DISK.name: grow_disk,
        COMPUTE_GET_DOMAIN.name: get_domain,
        COMPUTE_LIST_DOMAINS.name: list_domains,
        COMPUTE_LIST_STATISTICS.name: list_statistics,
        COMPUTE_LIST_FLAWS.name: list_flaws,
    }
