"""Storage pool: where volumes and templates lie, on Ceph or in a directory of one Kaktus."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Final

import msgspec
from msgspec import UNSET

from appliance.core.errors import Invalid
from appliance.resources.cost import Cost, check_cost, free
from appliance.resources.fields import Maybe, about, given
from appliance.resources.host_name import check_domain
from appliance.resources.ipv4 import parse_address
from appliance.resources.names import check_name, check_references, check_text, quoted
from appliance.resources.sizes import check_between

# What is used where nothing, or nothing to the point (port 0), is stored.
DEFAULT_CEPH_ADDRESS: Final = "localhost"
DEFAULT_CEPH_PORT: Final = 3300

MAX_PORT: Final = 65_535
MAX_DIRECTORY_LENGTH: Final = 1024
MAX_MONITORS: Final = 32
_LOCAL: Final = "local://"

# "/" and "@" divide the parts of an image's name (rbd(8)); names with a leading dot are Ceph's own.
_CEPH_POOL: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIRECTORY: Final = re.compile(r"(?:/[A-Za-z0-9_.-]+)+")
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_DIGITS_AND_DOTS: Final = re.compile(r"[0-9.]+")


class StoragePool(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A Ceph pool, or a directory of one Kaktus, that holds volumes and templates of a region."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique among storage pools")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    pool: Annotated[str, about("Name of the pool in Ceph; any name for a local one")]
    # An address that was left out stays empty: Terraform would take another text for a change.
    ceph_address: Annotated[
        Maybe[str],
        about(
            "Addresses of the Ceph monitors, joined by commas, or local://<absolute directory>",
            default=DEFAULT_CEPH_ADDRESS,
            implied="",
        ),
    ] = UNSET
    ceph_port: Annotated[
        Maybe[int],
        about("Port of the Ceph monitors", default=DEFAULT_CEPH_PORT, json_format="int64"),
    ] = UNSET
    ceph_secret_uuid: Annotated[
        Maybe[str], about("UUID of libvirt's secret with the Ceph key", implied="")
    ] = UNSET
    cost: Annotated[Maybe[Cost], about("What the whole pool costs in a month", implied=free())] = (
        UNSET
    )
    agents: Annotated[list[str], about("Ids of the Kaktus agents that reach it")]


def local_directory(pool: StoragePool) -> PurePosixPath | None:
    """Return the directory of a local pool that was accepted, None for one on Ceph."""
    address = given(pool.ceph_address, "")
    return PurePosixPath(address.removeprefix(_LOCAL)) if address.startswith(_LOCAL) else None


def check_storage_pool(pool: StoragePool) -> None:
    """Accept a storage pool by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(pool.name)
    check_text(given(pool.description, ""))
    if not _CEPH_POOL.fullmatch(pool.pool):
        raise Invalid(
            f"pool {quoted(pool.pool)} cannot be the name of a Ceph pool",
            field="pool",
            hint="1 to 128 letters, digits, dots, hyphens and underscores, no dot in front",
        )
    address = given(pool.ceph_address, "")
    if address.startswith(_LOCAL):
        _check_local(address.removeprefix(_LOCAL), pool.agents)
    elif address:
        _check_monitors(address)
    check_between(given(pool.ceph_port, DEFAULT_CEPH_PORT), "ceph_port", 0, MAX_PORT)
    secret = given(pool.ceph_secret_uuid, "")
    if secret and not _UUID.fullmatch(secret):
        # The text is not shown: it could be the key itself.
        raise Invalid(
            "ceph_secret_uuid is not a UUID",
            field="ceph_secret_uuid",
            hint="libvirt knows the Ceph key by a UUID, often the cluster's FSID",
        )
    check_cost(given(pool.cost, free()), "cost")
    check_references(pool.agents, "agents")


def check_storage_pool_change(stored: StoragePool, wanted: StoragePool) -> None:
    """Accept an update.

    Raises:
        Invalid: images would be left behind, in another directory or on the other kind of storage.
    """
    old, new = local_directory(stored), local_directory(wanted)
    if old != new:
        raise Invalid(
            f"storage pool {stored.name} is {_place(old)} and cannot become {_place(new)}",
            field="ceph_address",
            hint="make another pool",
        )


def _place(directory: PurePosixPath | None) -> str:
    return "on Ceph" if directory is None else f"in {directory}"


def _check_local(directory: str, agents: list[str]) -> None:
    if (
        len(directory) > MAX_DIRECTORY_LENGTH
        or not _DIRECTORY.fullmatch(directory)
        or not {".", ".."}.isdisjoint(directory.split("/"))
    ):
        raise Invalid(
            f"ceph_address {quoted(_LOCAL + directory)} does not name an absolute directory",
            field="ceph_address",
            hint="the form is local:///var/lib/kowabunga/pool: letters, digits, dots, hyphens and "
            "underscores, no part . or .., no slash at the end",
        )
    if len(agents) != 1:
        raise Invalid(
            f"a local pool lies on one Kaktus and has one agent, not {len(agents)}", field="agents"
        )


def _check_monitors(addresses: str) -> None:
    monitors = addresses.split(",")
    if len(monitors) > MAX_MONITORS:
        raise Invalid(
            f"ceph_address has {len(monitors)} monitors, {MAX_MONITORS} are allowed",
            field="ceph_address",
        )
    for monitor in monitors:
        if _DIGITS_AND_DOTS.fullmatch(monitor):
            parse_address(monitor, "ceph_address")
        else:
            check_domain(monitor, "ceph_address", min_labels=1)
