"""Kaktus: a node that computes and stores."""

from typing import Annotated, Final

import msgspec
from msgspec import UNSET

from appliance.resources.cost import Cost, check_cost, free
from appliance.resources.fields import Maybe, about, given
from appliance.resources.names import check_name, check_references, check_text
from appliance.resources.sizes import check_between

DEFAULT_OVERCOMMIT_CPU_RATIO: Final = 3
DEFAULT_OVERCOMMIT_MEMORY_RATIO: Final = 2
# Of threads or bytes to as many virtual ones; with the bounds of a machine, far within 64 bits.
MAX_OVERCOMMIT_RATIO: Final = 1000


class Kaktus(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A bare-metal node of a zone that runs virtual machines and holds storage."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique among Kaktus nodes")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    cpu_cost: Annotated[
        Maybe[Cost], about("What all its processors cost in a month", implied=free())
    ] = UNSET
    memory_cost: Annotated[
        Maybe[Cost], about("What all its memory costs in a month", implied=free())
    ] = UNSET
    overcommit_cpu_ratio: Annotated[
        Maybe[int],
        about(
            "How many vCPUs are handed out for each processor thread",
            default=DEFAULT_OVERCOMMIT_CPU_RATIO,
            json_format="int64",
        ),
    ] = UNSET
    overcommit_memory_ratio: Annotated[
        Maybe[int],
        about(
            "How many bytes of guest memory are handed out for each byte",
            default=DEFAULT_OVERCOMMIT_MEMORY_RATIO,
            json_format="int64",
        ),
    ] = UNSET
    agents: Annotated[list[str], about("Ids of the Kaktus agents that act for it")]


class KaktusCPU(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The processors of a Kaktus, as its agent found them."""

    arch: Annotated[str, about("Architecture, such as x86_64")]
    model: Annotated[str, about("Model")]
    vendor: Annotated[str, about("Maker")]
    sockets: Annotated[int, about("Number of sockets", json_format="int64")]
    cores: Annotated[int, about("Number of cores", json_format="int64")]
    threads: Annotated[int, about("Number of threads", json_format="int64")]


class KaktusCaps(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a Kaktus has to offer; zeroes and empty texts until its agent reported."""

    cpu: Annotated[KaktusCPU, about("Processors")]
    memory: Annotated[int, about("Memory in bytes", json_format="int64")]


def check_kaktus(kaktus: Kaktus) -> None:
    """Accept a Kaktus by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(kaktus.name)
    check_text(given(kaktus.description, ""))
    check_cost(given(kaktus.cpu_cost, free()), "cpu_cost")
    check_cost(given(kaktus.memory_cost, free()), "memory_cost")
    check_between(
        given(kaktus.overcommit_cpu_ratio, DEFAULT_OVERCOMMIT_CPU_RATIO),
        "overcommit_cpu_ratio",
        1,
        MAX_OVERCOMMIT_RATIO,
    )
    check_between(
        given(kaktus.overcommit_memory_ratio, DEFAULT_OVERCOMMIT_MEMORY_RATIO),
        "overcommit_memory_ratio",
        1,
        MAX_OVERCOMMIT_RATIO,
    )
    check_references(kaktus.agents, "agents")
