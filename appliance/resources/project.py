"""Project: a tenant with networks, quotas and machines of its own."""

import re
from typing import Annotated, Final, NamedTuple, NoReturn

import msgspec
from msgspec import UNSET

from appliance.core.errors import InsufficientResource, Invalid
from appliance.resources.fields import Maybe, about, given
from appliance.resources.host_name import check_domain
from appliance.resources.names import (
    check_count,
    check_line,
    check_name,
    check_references,
    check_text,
    check_unique,
    quoted,
)
from appliance.resources.sizes import MAX_INT32, MAX_INT64, check_between
from appliance.resources.ssh_key import check_public_key
from appliance.store.base import Row, Statement, guard_none

MAX_TAGS: Final = 128
MAX_TAG_LENGTH: Final = 255
MAX_METADATAS: Final = 128
MAX_PASSWORD_LENGTH: Final = 255

# POSIX (3.426 User Name, portable file name characters), as long as useradd(8) takes.
_USER_NAME: Final = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,31}")


class ProjectResources(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Amounts of a project, as a limit (0 is none) or as what is in use."""

    vcpus: Annotated[
        Maybe[int], about("vCPUs of all instances", implied=0, json_format="int32")
    ] = UNSET
    memory: Annotated[
        Maybe[int], about("Memory of all instances in bytes", implied=0, json_format="int64")
    ] = UNSET
    storage: Annotated[
        Maybe[int], about("Size of all volumes in bytes", implied=0, json_format="int64")
    ] = UNSET
    instances: Annotated[
        Maybe[int], about("Number of instances", implied=0, json_format="int32")
    ] = UNSET


class RegionSubnet(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The subnet that a project has in a region."""

    key: Annotated[Maybe[str], about("Name of the region")] = UNSET
    value: Annotated[Maybe[str], about("Id of the subnet")] = UNSET


class Metadata(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A named text of the project's owner."""

    key: Annotated[str, about("Name, once in a project")]
    value: Annotated[str, about("Text")]


_NO_LIMITS: Final = ProjectResources(vcpus=0, memory=0, storage=0, instances=0)


class Project(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A tenant: networks, quotas and virtual machines apart from all others."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique among projects")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    domain: Annotated[
        Maybe[str], about("DNS domain of its machines; without one they have no name", implied="")
    ] = UNSET
    root_password: Annotated[
        Maybe[str], about("Password of root in new machines; a random one if empty", implied="")
    ] = UNSET
    bootstrap_user: Annotated[
        Maybe[str], about("User made in new machines; the cluster's if empty", implied="")
    ] = UNSET
    bootstrap_pubkey: Annotated[
        Maybe[str], about("SSH public key of that user; the cluster's if empty", implied="")
    ] = UNSET
    tags: Annotated[Maybe[list[str]], about("Words to find it by", implied=[])] = UNSET
    metadatas: Annotated[Maybe[list[Metadata]], about("Named texts", implied=[])] = UNSET
    quotas: Annotated[Maybe[ProjectResources], about("Limits; 0 is none", implied=_NO_LIMITS)] = (
        UNSET
    )
    private_subnets: Annotated[
        Maybe[list[RegionSubnet]], about("Its subnet in each region", read_only=True)
    ] = UNSET
    reserved_vrrp_ids: Annotated[
        Maybe[list[int]],
        about("VRRP ids that its services use; your own machines need others", read_only=True),
    ] = UNSET
    teams: Annotated[list[str], about("Ids of the teams that administer it")]
    regions: Annotated[list[str], about("Ids of the regions that it has a subnet in")]


def check_project(project: Project) -> None:
    """Accept a project by itself.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(project.name)
    check_text(given(project.description, ""))
    if domain := given(project.domain, ""):
        check_domain(domain, min_labels=2)
    _check_bootstrap(project)
    tags = given(project.tags, [])
    check_count(tags, "tags", maximum=MAX_TAGS)
    for index, tag in enumerate(tags):
        _check_key(tag, f"tags[{index}]")
    metadatas = given(project.metadatas, [])
    check_count(metadatas, "metadatas", maximum=MAX_METADATAS)
    for index, metadata in enumerate(metadatas):
        _check_key(metadata.key, f"metadatas[{index}].key")
        check_text(metadata.value, f"metadatas[{index}].value")
    check_unique([metadata.key for metadata in metadatas], "metadatas")
    check_quotas(given(project.quotas, _NO_LIMITS))
    check_references(project.teams, "teams")
    check_references(project.regions, "regions")


def check_quotas(quotas: ProjectResources) -> None:
    """Accept limits.

    Raises:
        Invalid: a negative one, or one beyond the contract's integers.
    """
    check_between(given(quotas.vcpus, 0), "quotas.vcpus", 0, MAX_INT32)
    check_between(given(quotas.memory, 0), "quotas.memory", 0, MAX_INT64)
    check_between(given(quotas.storage, 0), "quotas.storage", 0, MAX_INT64)
    check_between(given(quotas.instances, 0), "quotas.instances", 0, MAX_INT32)


def _check_bootstrap(project: Project) -> None:
    check_line(
        given(project.root_password, ""),
        "root_password",
        max_length=MAX_PASSWORD_LENGTH,
        secret=True,
    )
    user = given(project.bootstrap_user, "")
    if user and (not _USER_NAME.fullmatch(user) or user.isdigit() or user.strip(".") == ""):
        raise Invalid(
            f"bootstrap_user {quoted(user)} cannot be the name of a user",
            field="bootstrap_user",
            hint="1 to 32 letters, digits, dots, hyphens and underscores, not a number",
        )
    if pubkey := given(project.bootstrap_pubkey, ""):
        check_public_key(pubkey, "bootstrap_pubkey")


def _check_key(text: str, field: str) -> None:
    check_line(text, field, max_length=MAX_TAG_LENGTH)
    if not text:
        raise Invalid(f"{field} is empty", field=field)


class Demand(NamedTuple):
    """What a change takes more of a project's quotas; nothing of what it takes less of."""

    instances: int = 0
    vcpus: int = 0
    memory_bytes: int = 0
    storage_bytes: int = 0


def over_quota(project_id: str, demand: Demand) -> Statement:
    """Select each resource of which a project would have more than its quota, and how much.

    All its rows count, those too that are not visible yet. What is not demanded is not looked at,
    so a project that is over a lowered quota may still shrink.
    """
    return Statement(
        "SELECT resource, quota, used, demand FROM (SELECT 'instances' AS resource,"
        " quota_instances AS quota, ? AS demand,"
        " (SELECT COUNT(*) FROM instance WHERE project_id = project.id) AS used"
        " FROM project WHERE id = ?"
        " UNION ALL SELECT 'vcpus', quota_vcpus, ?,"
        " (SELECT coalesce(SUM(vcpus), 0) FROM instance WHERE project_id = project.id)"
        " FROM project WHERE id = ?"
        " UNION ALL SELECT 'memory', quota_memory, ?,"
        " (SELECT coalesce(SUM(memory_bytes), 0) FROM instance WHERE project_id = project.id)"
        " FROM project WHERE id = ?"
        " UNION ALL SELECT 'storage', quota_storage, ?,"
        " (SELECT coalesce(SUM(size_bytes), 0) FROM volume WHERE project_id = project.id)"
        " FROM project WHERE id = ?"
        ") WHERE demand > 0 AND quota > 0 AND used + demand > quota",
        tuple(value for amount in demand for value in (amount, project_id)),
    )


def quota_guard(project_id: str, demand: Demand) -> tuple[Statement, Statement]:
    """Return the statements that let a batch apply only within the project's quotas.

    The first goes before the rows that count, see `store.base.guard`. When the batch is `Stale`,
    query `over_quota`: its first row, if any, is for `refuse_over_quota`.
    """
    return guard_none(over_quota(project_id, demand))


def refuse_over_quota(project_id: str, row: Row) -> NoReturn:
    resource, quota, used, demand = (row[name] for name in ("resource", "quota", "used", "demand"))
    raise InsufficientResource(
        f"project {project_id} uses {used} of its quota of {quota} for {resource};"
        f" {demand} more would exceed it",
        hint="remove something, ask for less, or have the quota raised",
    )


def subnet_in_region(project_id: str, region_id: str) -> Statement:
    """Select the `subnet_id` of a project in a region, if it has one there."""
    return Statement(
        "SELECT subnet_id FROM project_region WHERE project_id = ? AND region_id = ?",
        (project_id, region_id),
    )


def has_subnet(project_id: str, subnet_id: str) -> Statement:
    """Select 1 while a subnet is the project's: guards a batch that puts machines in it."""
    return Statement(
        "SELECT EXISTS (SELECT 1 FROM project_region WHERE project_id = ? AND subnet_id = ?)",
        (project_id, subnet_id),
    )
