"""What Kahuna may ask a Kaktus about domains: declarations only.

Effectful ones are fenced by the instance ("instance/ID").
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from appliance.model.compute import (
    GRACE_LIMIT_S,
    AppliedDomain,
    DomainSpec,
    DomainStatistics,
    Flaw,
    HostFacts,
    ObservedDomain,
)
from appliance.model.domain_state import Power
from appliance.model.fields import ObjectId, PositiveBytes
from appliance.rpc.method import AnyMethod, Method, Nothing, TimeoutClass


class DomainRef(msgspec.Struct, frozen=True):
    domain_id: ObjectId


class DomainPower(msgspec.Struct, frozen=True):
    """`grace_s`: how long a guest that is to stop may take before the plug is pulled."""

    domain_id: ObjectId
    power: Power
    grace_s: Annotated[float, Meta(ge=0, le=GRACE_LIMIT_S)] = 0


class DomainGrowDisk(msgspec.Struct, frozen=True):
    domain_id: ObjectId
    image_id: ObjectId
    size_bytes: PositiveBytes


class DomainList(msgspec.Struct, frozen=True):
    domains: tuple[ObservedDomain, ...]


class DomainStatisticsList(msgspec.Struct, frozen=True):
    statistics: tuple[DomainStatistics, ...]


class FlawList(msgspec.Struct, frozen=True):
    flaws: tuple[Flaw, ...]


COMPUTE_GET_HOST: Final = Method(
    "compute.get_host", Nothing, HostFacts, TimeoutClass.FAST, effectful=False,
    answered_by="agent", about="Processors, memory, architecture and hypervisor of the host.",
)  # fmt: skip
COMPUTE_ENSURE_DOMAIN: Final = Method(
    "compute.ensure_domain", DomainSpec, AppliedDomain, TimeoutClass.NORMAL, effectful=True,
    answered_by="agent",
    about="Define a domain or change it, live where possible; starts and stops nothing.",
)  # fmt: skip
COMPUTE_ENSURE_DOMAIN_ABSENT: Final = Method(
    "compute.ensure_domain_absent", DomainRef, Nothing, TimeoutClass.NORMAL, effectful=True,
    answered_by="agent", about="Stop a domain hard and forget it; its images stay.",
)  # fmt: skip
COMPUTE_ENSURE_POWER: Final = Method(
    "compute.ensure_power", DomainPower, ObservedDomain, TimeoutClass.SLOW, effectful=True,
    answered_by="agent", about="Bring a domain to running, stopped or paused.",
)  # fmt: skip
COMPUTE_REQUEST_SHUTDOWN: Final = Method(
    "compute.request_shutdown", DomainRef, ObservedDomain, TimeoutClass.NORMAL, effectful=True,
    answered_by="agent", about="Ask the guest to power off, without waiting for it.",
)  # fmt: skip
COMPUTE_REBOOT: Final = Method(
    "compute.reboot", DomainRef, ObservedDomain, TimeoutClass.NORMAL, effectful=True,
    answered_by="agent", about="Ask the guest to reboot.",
)  # fmt: skip
COMPUTE_RESET: Final = Method(
    "compute.reset", DomainRef, ObservedDomain, TimeoutClass.NORMAL, effectful=True,
    answered_by="agent", about="Push the reset button of a domain.",
)  # fmt: skip
COMPUTE_GROW_DISK: Final = Method(
    "compute.grow_disk", DomainGrowDisk, Nothing, TimeoutClass.NORMAL, effectful=True,
    answered_by="agent", about="Grow a disk of an active domain, image and guest's view at once.",
)  # fmt: skip
COMPUTE_GET_DOMAIN: Final = Method(
    "compute.get_domain", DomainRef, ObservedDomain, TimeoutClass.FAST, effectful=False,
    answered_by="agent", about="State and generations of one domain.",
)  # fmt: skip
COMPUTE_LIST_DOMAINS: Final = Method(
    "compute.list_domains", Nothing, DomainList, TimeoutClass.FAST, effectful=False,
    answered_by="agent", about="State and generations of every domain of the host.",
)  # fmt: skip
COMPUTE_LIST_STATISTICS: Final = Method(
    "compute.list_statistics", Nothing, DomainStatisticsList, TimeoutClass.FAST, effectful=False,
    answered_by="agent", about="Counters of every active domain of the host.",
)  # fmt: skip
COMPUTE_LIST_FLAWS: Final = Method(
    "compute.list_flaws", Nothing, FlawList, TimeoutClass.FAST, effectful=False,
    answered_by="agent",
    about="What is left on the host of domains that are gone, and what those there lack.",
)  # fmt: skip

COMPUTE_METHODS: Final[tuple[AnyMethod, ...]] = (
    COMPUTE_GET_HOST, COMPUTE_ENSURE_DOMAIN, COMPUTE_ENSURE_DOMAIN_ABSENT, COMPUTE_ENSURE_POWER,
    COMPUTE_REQUEST_SHUTDOWN, COMPUTE_REBOOT, COMPUTE_RESET, COMPUTE_GROW_DISK,
    COMPUTE_GET_DOMAIN, COMPUTE_LIST_DOMAINS, COMPUTE_LIST_STATISTICS,
    COMPUTE_LIST_FLAWS,
)  # fmt: skip
