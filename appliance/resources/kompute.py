"""Kompute: a virtual machine with its disks and adapters, made and removed as one."""

from typing import Annotated

import msgspec
from msgspec import UNSET

from appliance.core.errors import Invalid
from appliance.resources.fields import Maybe, about, given
from appliance.resources.host_name import check_host_name
from appliance.resources.names import check_text
from appliance.resources.sizes import check_disk, check_memory, check_not_smaller, check_vcpus


class Kompute(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A virtual machine of a project with a system disk, maybe a data disk, and its addresses."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Host name, unique among instances")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    memory: Annotated[int, about("Memory in bytes", json_format="int64")]
    vcpus: Annotated[int, about("Number of vCPUs", json_format="int64")]
    disk: Annotated[int, about("Size of the system disk in bytes; can grow", json_format="int64")]
    data_disk: Annotated[
        Maybe[int],
        about("Size of the data disk in bytes; 0 is none", default=0, json_format="int64"),
    ] = UNSET
    ip: Annotated[Maybe[str], about("Address in the project's subnet", read_only=True)] = UNSET


def check_kompute(kompute: Kompute) -> None:
    """Accept a Kompute by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_host_name(kompute.name)
    check_text(given(kompute.description, ""))
    check_memory(kompute.memory)
    check_vcpus(kompute.vcpus)
    check_disk(kompute.disk, "disk")
    if data_disk := given(kompute.data_disk, 0):
        check_disk(data_disk, "data_disk")


def check_kompute_change(stored: Kompute, wanted: Kompute) -> None:
    """Accept an update.

    Raises:
        Invalid: a disk would shrink or go away.
    """
    check_not_smaller(wanted.disk, stored.disk, "disk")
    old, new = given(stored.data_disk, 0), given(wanted.data_disk, 0)
    if old and not new:
        raise Invalid(
            f"the data disk of kompute {stored.name} cannot be removed", field="data_disk"
        )
    check_not_smaller(new, old, "data_disk")
