"""Instance: a virtual machine."""

from typing import Annotated

import msgspec
from msgspec import UNSET

from appliance.resources.fields import Maybe, about, given
from appliance.resources.host_name import check_host_name
from appliance.resources.names import check_references, check_text
from appliance.resources.sizes import check_memory, check_vcpus


class Instance(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A virtual machine, put together from adapters and volumes."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Host name, unique among instances")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    memory: Annotated[int, about("Memory in bytes", json_format="int64")]
    vcpus: Annotated[int, about("Number of vCPUs", json_format="int64")]
    adapters: Annotated[
        Maybe[list[str]], about("Ids of its adapters, in the order of its cards", implied=[])
    ] = UNSET
    volumes: Annotated[
        Maybe[list[str]], about("Ids of its volumes, one of type os among them", implied=[])
    ] = UNSET


class InstanceState(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a virtual machine does, as its host last saw it."""

    state: Annotated[str, about("State, such as Running or Shutoff")]
    reason: Annotated[str, about("How it came to that")]


class InstanceRemoteAccess(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where the screen of a virtual machine is."""

    url: Annotated[str, about("Address of the console")]


def check_instance(instance: Instance) -> None:
    """Accept an instance by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_host_name(instance.name)
    check_text(given(instance.description, ""))
    check_memory(instance.memory)
    check_vcpus(instance.vcpus)
    check_references(given(instance.adapters, []), "adapters")
    check_references(given(instance.volumes, []), "volumes")
