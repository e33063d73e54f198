"""Project: a tenant with networks, quotas and machines of its own."""

import re
from typing import Annotated, Final, NamedTuple, NoReturn

import msgspec
from msgspec import UNSET

from appliance.core.errors import InsufficientResource, Invalid
from appliance.model.target import target
from appliance.resources.allocation import assign_subnets
from appliance.resources.fields import Maybe, about, given
from appliance.resources.host_name import MAX_DOMAIN_LENGTH, check_domain, longest_host_name
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
from appliance.resources.subnet import MAX_PREFIX_LENGTH, MIN_PREFIX_LENGTH
from appliance.resources.table import Children, Part, Rule, View, as_json, flat
from appliance.store.base import Row, Statement, guard_none

DEFAULT_SUBNET_SIZE: Final = 26  # a prefix length
ROOT_PASSWORD: Final = "root_password"  # noqa: S105 - the secret's name
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


def check_subnet_size(prefix_length: int) -> None:
    """Accept the prefix length of the smallest subnet that a project has room in.

    Raises:
        Invalid: no subnet can have it.
    """
    check_between(prefix_length, "subnetSize", MIN_PREFIX_LENGTH, MAX_PREFIX_LENGTH)


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


def domain_of(project_id: str) -> Statement:
    return Statement("SELECT domain FROM project WHERE id = ?", (project_id,))


def domain_guard(project_id: str, domain: str) -> Statement:
    """Select 1 while a project has this domain."""
    return Statement(
        "SELECT EXISTS (SELECT 1 FROM project WHERE id = ? AND domain = ?)", (project_id, domain)
    )


def secret_owner(project_id: str) -> str:
    """Return the owner of a project's secrets: its `ROOT_PASSWORD`, which its row does not have."""
    return target("project", project_id)


def _numbers(project: Project) -> tuple[int, int, int, int]:
    quotas = given(project.quotas, _NO_LIMITS)
    return (
        given(quotas.vcpus, 0),
        given(quotas.memory, 0),
        given(quotas.storage, 0),
        given(quotas.instances, 0),
    )


def _insert_teams(project_id: str, project: Project) -> Statement:
    return Statement(
        "INSERT INTO project_team (project_id, team_id) SELECT ?, value FROM json_each(?)",
        (project_id, as_json(project.teams)),
    )


def insert_project(
    project_id: str, project: Project, prefix_length: int, now_ms: int
) -> list[Statement]:
    """Make a project and give it a subnet in each of its regions; see `allocation.assign_subnets`.

    Refused with a conflict of `project_region.subnet_id` when a region has none left.
    """
    return [
        Statement(
            "INSERT INTO project (id, name, description, domain, bootstrap_user, bootstrap_pubkey,"
            " tags, metadatas, prefix_length, quota_vcpus, quota_memory, quota_storage,"
            " quota_instances, created_at_ms, updated_at_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                project_id,
                project.name,
                given(project.description, ""),
                given(project.domain, ""),
                given(project.bootstrap_user, ""),
                given(project.bootstrap_pubkey, ""),
                as_json(given(project.tags, [])),
                as_json(given(project.metadatas, [])),
                prefix_length,
                *_numbers(project),
                now_ms,
                now_ms,
            ),
        ),
        _insert_teams(project_id, project),
        assign_subnets(project_id, as_json(project.regions)),
    ]


def update_project(project_id: str, project: Project, now_ms: int) -> list[Statement]:
    """Write all of a project: regions that are new give a subnet, those left out get theirs back.

    Refused like `insert_project`.
    """
    regions = as_json(project.regions)
    return [
        Statement(
            "UPDATE project SET name = ?, description = ?, domain = ?, bootstrap_user = ?,"
            " bootstrap_pubkey = ?, tags = ?, metadatas = ?, quota_vcpus = ?, quota_memory = ?,"
            " quota_storage = ?, quota_instances = ?, generation = generation + 1,"
            " updated_at_ms = ? WHERE id = ?",
            (
                project.name,
                given(project.description, ""),
                given(project.domain, ""),
                given(project.bootstrap_user, ""),
                given(project.bootstrap_pubkey, ""),
                as_json(given(project.tags, [])),
                as_json(given(project.metadatas, [])),
                *_numbers(project),
                now_ms,
                project_id,
            ),
        ),
        Statement("DELETE FROM project_team WHERE project_id = ?", (project_id,)),
        _insert_teams(project_id, project),
        Statement(
            "DELETE FROM project_region WHERE project_id = ?"
            " AND region_id NOT IN (SELECT value FROM json_each(?))",
            (project_id, regions),
        ),
        assign_subnets(project_id, regions),
    ]


def delete_project(project_id: str) -> list[Statement]:
    """Remove a project and its secrets, and free its subnets; the last statement is the row's."""
    return [
        Statement("DELETE FROM secret WHERE owner = ?", (secret_owner(project_id),)),
        Statement("DELETE FROM project WHERE id = ?", (project_id,)),
    ]


def unchanged(project_id: str, generation: int) -> Statement:
    """Select 1 while nobody changed a project."""
    return Statement(
        "SELECT EXISTS (SELECT 1 FROM project WHERE id = ? AND generation = ?)",
        (project_id, generation),
    )


def _decode(row: Row) -> Project:
    """Decode all but the password, which is no part of the row."""
    lists = ("tags", "metadatas", "teams", "regions", "private_subnets", "reserved_vrrp_ids")
    fields: dict[str, object] = {
        name: value for name, value in row.items() if not name.startswith("quota_")
    }
    fields |= {name: msgspec.json.decode(str(row[name])) for name in lists}
    fields["quotas"] = {
        name.removeprefix("quota_"): value
        for name, value in row.items()
        if name.startswith("quota_")
    }
    return msgspec.convert(fields | {"root_password": ""}, Project)


def _unknown_teams(project: Project) -> Statement:
    return Statement(
        "SELECT wanted.key AS position, wanted.value AS id FROM json_each(?) AS wanted"
        " WHERE NOT EXISTS (SELECT 1 FROM team WHERE team.id = wanted.value) ORDER BY wanted.key",
        (as_json(project.teams),),
    )


def _unknown_regions(project: Project) -> Statement:
    return Statement(
        "SELECT wanted.key AS position, wanted.value AS id FROM json_each(?) AS wanted WHERE"
        " NOT EXISTS (SELECT 1 FROM region WHERE region.id = wanted.value) ORDER BY wanted.key",
        (as_json(project.regions),),
    )


def _refuse_unknown(field: str, kind: str, row: Row) -> NoReturn:
    where = f"{field}[{row['position']}]"
    raise Invalid(
        f"{where} names {kind} {quoted(str(row['id']))}, which does not exist", field=where
    )


def _machines_left_behind(project_id: str, _: str, project: Project) -> Statement:
    """Select what of a project is in the subnets that it would give back."""
    return Statement(
        "SELECT region.name AS region, adapter.name AS what FROM project_region AS own"
        " JOIN region ON region.id = own.region_id"
        " JOIN adapter ON adapter.subnet_id = own.subnet_id"
        " WHERE own.project_id = ? AND own.region_id NOT IN (SELECT value FROM json_each(?))"
        " AND (adapter.instance_id IS NOT NULL OR adapter.kompute_id IS NOT NULL)"
        " UNION ALL SELECT region.name, 'VRRP id ' || vrrp_id.vrrp_id"
        " FROM project_region AS own JOIN region ON region.id = own.region_id"
        " JOIN subnet ON subnet.id = own.subnet_id JOIN vrrp_id"
        " ON vrrp_id.vnet_id = subnet.vnet_id AND vrrp_id.project_id = own.project_id"
        " WHERE own.project_id = ? AND own.region_id NOT IN (SELECT value FROM json_each(?))",
        (project_id, as_json(project.regions)) * 2,
    )


def _refuse_to_leave(project: Project, row: Row) -> None:
    raise Invalid(
        f"project {quoted(project.name)} cannot leave region {quoted(str(row['region']))}:"
        f" {row['what']} is in its subnet there",
        field="regions",
        hint="remove its machines in that region first",
    )


def _machines_that_do_not_fit(project_id: str, _: str, project: Project) -> Statement:
    """Select the machines whose names would be too long under the domain."""
    longest = longest_host_name(given(project.domain, ""))
    return Statement(
        "SELECT name FROM instance WHERE project_id = ? AND length(name) > ? ORDER BY id",
        (project_id, longest),
    )


def _refuse_domain(project: Project, row: Row) -> None:
    raise Invalid(
        f"domain {quoted(given(project.domain, ''))} is too long for machine"
        f" {quoted(str(row['name']))}: together they have more than {MAX_DOMAIN_LENGTH} characters",
        field="domain",
        hint="rename the machine first, or choose a shorter domain",
    )


PROJECTS: Final = View(
    kind="project",
    title="project",
    struct=Project,
    list_ids=Statement("SELECT id FROM project ORDER BY id"),
    find_named=lambda _, name: Statement("SELECT id FROM project WHERE name = ?", (name,)),
    read=lambda project_id: Statement(
        "SELECT id, name, description, domain, bootstrap_user, bootstrap_pubkey, tags, metadatas,"
        " quota_vcpus, quota_memory, quota_storage, quota_instances, generation,"
        " (SELECT json_group_array(team_id) FROM (SELECT team_id FROM project_team"
        " WHERE project_id = project.id ORDER BY team_id)) AS teams,"
        " (SELECT json_group_array(region_id) FROM (SELECT region_id FROM project_region"
        " WHERE project_id = project.id ORDER BY region_id)) AS regions,"
        " (SELECT json_group_array(json_object('key', name, 'value', subnet_id)) FROM"
        " (SELECT region.name, own.subnet_id FROM project_region AS own"
        " JOIN region ON region.id = own.region_id"
        " WHERE own.project_id = project.id ORDER BY region.id)) AS private_subnets,"
        " (SELECT json_group_array(vrrp_id) FROM (SELECT DISTINCT vrrp_id FROM vrrp_id"
        " WHERE project_id = project.id ORDER BY vrrp_id)) AS reserved_vrrp_ids"
        " FROM project WHERE id = ?",
        (project_id,),
    ),
    decode=_decode,
)

# What keeps a project from being deleted.
PROJECT_CHILDREN: Final[tuple[Children, ...]] = (
    Children(
        "Komputes",
        lambda project_id: Statement(
            "SELECT COUNT(*) AS children FROM kompute WHERE project_id = ?", (project_id,)
        ),
    ),
    Children(
        "instances",
        lambda project_id: Statement(
            "SELECT COUNT(*) AS children FROM instance WHERE project_id = ?", (project_id,)
        ),
    ),
    Children(
        "volumes",
        lambda project_id: Statement(
            "SELECT COUNT(*) AS children FROM volume WHERE project_id = ?", (project_id,)
        ),
    ),
    Children(
        "VRRP ids",
        lambda project_id: Statement(
            "SELECT COUNT(*) AS children FROM vrrp_id WHERE project_id = ?", (project_id,)
        ),
    ),
)

PROJECT_RULES: Final[tuple[Rule[Project], ...]] = (
    Rule(
        lambda _, __, project: _unknown_teams(project),
        lambda _, row: _refuse_unknown("teams", "team", row),
    ),
    Rule(
        lambda _, __, project: _unknown_regions(project),
        lambda _, row: _refuse_unknown("regions", "region", row),
    ),
    Rule(_machines_left_behind, _refuse_to_leave),
    Rule(_machines_that_do_not_fit, _refuse_domain),
)

PROJECT_USAGE: Final = Part(
    struct=ProjectResources,
    read=lambda project_id: Statement(
        "SELECT count(instance.id) AS instances, coalesce(sum(instance.vcpus), 0) AS vcpus,"
        " coalesce(sum(instance.memory_bytes), 0) AS memory,"
        " (SELECT coalesce(sum(size_bytes), 0) FROM volume WHERE project_id = project.id)"
        " AS storage FROM project LEFT JOIN instance ON instance.project_id = project.id"
        " WHERE project.id = ? GROUP BY project.id",
        (project_id,),
    ),
    decode=flat(ProjectResources),
)
