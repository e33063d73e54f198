"""Template: the operating system image that volumes are cloned from."""

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import UNSET

from appliance.core.errors import Invalid
from appliance.model.compute import Architecture, Firmware, Tpm
from appliance.model.setting import TEMPLATE_SOURCES, parse_setting
from appliance.model.storage import ObservedImage, TemplateSource
from appliance.model.target import target
from appliance.operations.step import OnFailure, OperationKind, Outputs, Step, StepContext
from appliance.resources.fields import Maybe, about, given
from appliance.resources.names import check_name, check_text
from appliance.resources.table import Children, Table, as_json, flat
from appliance.resources.work import CHANGE_BUDGET_S, PoolPlace, Work, read_rows
from appliance.rpc.method import TimeoutClass
from appliance.rpc.storage import (
    STORAGE_ENSURE_IMAGE_ABSENT,
    STORAGE_IMPORT_TEMPLATE,
    ImageRef,
    TemplateImport,
)
from appliance.store.base import Statement

MAX_SOURCE_LENGTH: Final = 2048

# The characters of RFC 3986. A backslash, which browsers read as a slash, is not among them.
_URL: Final = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")


class OperatingSystem(StrEnum):
    LINUX = "linux"
    WINDOWS = "windows"


class Template(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A bootable image with cloud-init, downloaded once into a pool."""

    id: Annotated[Maybe[str], about("Id, made by the server", read_only=True)] = UNSET
    name: Annotated[str, about("Name, unique in its pool")]
    description: Annotated[Maybe[str], about("Free text", implied="")] = UNSET
    os: Annotated[
        Maybe[OperatingSystem],
        about("Operating system; decides how a guest is set up", default=OperatingSystem.LINUX),
    ] = UNSET
    source: Annotated[str, about("HTTP or HTTPS address of the qcow2 or raw image")]


def check_template(template: Template) -> None:
    """Accept a template by itself; whether its host may be asked is decided at the download.

    Raises:
        Invalid: a field breaks a rule.
    """
    check_name(template.name)
    check_text(given(template.description, ""))
    problem = _problem_of_source(template.source)
    if problem:
        # The text is not shown: it may hold a password.
        raise Invalid(
            f"source {problem}", field="source", hint="the form is https://host/path/image.qcow2"
        )


def check_template_change(stored: Template, wanted: Template) -> None:
    """Accept an update.

    Raises:
        Invalid: another image or system; volumes were cloned from what is there.
    """
    if wanted.source != stored.source:
        raise Invalid(
            f"the source of template {stored.name} cannot change",
            field="source",
            hint="make another template from the new source",
        )
    if given(wanted.os, OperatingSystem.LINUX) != given(stored.os, OperatingSystem.LINUX):
        raise Invalid(f"the os of template {stored.name} cannot change", field="os")


class TemplatePlatform(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What machines from a template are, besides what its image tells."""

    firmware: Annotated[
        Firmware, about("auto: uefi for Windows and aarch64, bios for Linux on x86_64")
    ]
    tpm: Annotated[Tpm, about("auto: a TPM 2.0 for Windows, where the host can")]


def platform_of(template_id: str) -> Statement:
    """Select one row: its `TemplatePlatform` and its `architecture`."""
    return Statement(
        "SELECT firmware, tpm, architecture FROM template WHERE id = ?", (template_id,)
    )


def set_platform(template_id: str, platform: TemplatePlatform) -> Statement:
    return Statement(
        "UPDATE template SET firmware = ?, tpm = ? WHERE id = ?",
        (platform.firmware.value, platform.tpm.value, template_id),
    )


def _problem_of_source(source: str) -> str | None:
    if len(source) > MAX_SOURCE_LENGTH:
        return f"has {len(source)} characters, {MAX_SOURCE_LENGTH} are allowed"
    if not _URL.fullmatch(source):
        return "is empty or has a character that does not belong into a URL"
    try:
        url = urlsplit(source)
        port = url.port
    except ValueError:  # a bracket too few, a port that is no number
        return "is not a URL"
    return _problem_of_parts(url, port)


def _problem_of_parts(url: SplitResult, port: int | None) -> str | None:
    if url.scheme not in {"http", "https"}:
        return "is neither http nor https"
    if "@" in url.netloc:
        return "has a user name or a password, which would be stored and shown in clear"
    if not url.hostname or port == 0:
        return "names no host and port to ask"
    return None


class TemplatePlace(msgspec.Struct, frozen=True):
    storage_pool_id: str


class _Place(PoolPlace, frozen=True):
    source: str


def architecture_of(source: str) -> Architecture:
    """Tell what a disk image runs on: the contract does not, but every publisher's file name does.

    A name that says nothing means x86_64.
    """
    path = urlsplit(source).path.lower()
    is_arm = any(word in path for word in ("aarch64", "arm64"))
    return Architecture.AARCH64 if is_arm else Architecture.X86_64


def _insert(template_id: str, pool_id: str, template: Template, now_ms: int) -> Sequence[Statement]:
    return [
        Statement(
            "INSERT INTO template (id, storage_pool_id, name, description, os, source,"
            " architecture, phase, created_at_ms, updated_at_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 'creating', ?, ?)",
            (
                template_id,
                pool_id,
                template.name,
                given(template.description, ""),
                given(template.os, OperatingSystem.LINUX).value,
                template.source,
                architecture_of(template.source).value,
                now_ms,
                now_ms,
            ),
        )
    ]


def _update(template_id: str, template: Template, now_ms: int) -> Sequence[Statement]:
    return [
        Statement(
            "UPDATE template SET name = ?, description = ?, generation = generation + 1,"
            " updated_at_ms = ? WHERE id = ?",
            (template.name, given(template.description, ""), now_ms, template_id),
        )
    ]


TEMPLATES: Final = Table(
    kind="template",
    title="template",
    struct=Template,
    list_ids=Statement("SELECT id FROM template WHERE phase <> 'creating' ORDER BY id"),
    list_children_ids=lambda pool_id: Statement(
        "SELECT id FROM template WHERE storage_pool_id = ? AND phase <> 'creating' ORDER BY id",
        (pool_id,),
    ),
    find_named=lambda pool_id, name: Statement(
        "SELECT id FROM template WHERE storage_pool_id = ? AND name = ?", (pool_id, name)
    ),
    read=lambda template_id: Statement(
        "SELECT id, name, description, os, source, generation FROM template"
        " WHERE id = ? AND phase <> 'creating'",
        (template_id,),
    ),
    decode=flat(Template),
    guard=lambda template_id, generation: Statement(
        "SELECT EXISTS (SELECT 1 FROM template WHERE id = ? AND generation = ?)",
        (template_id, generation),
    ),
    check=check_template,
    check_change=check_template_change,
    insert=_insert,
    update=_update,
    delete=lambda template_id: [Statement("DELETE FROM template WHERE id = ?", (template_id,))],
    set_default=lambda pool_id, template_id: [
        Statement(
            "UPDATE template SET is_default = 0 WHERE storage_pool_id = ? AND is_default = 1"
            " AND EXISTS (SELECT 1 FROM template AS next"
            " WHERE next.id = ? AND next.storage_pool_id = ? AND next.phase = 'ready')",
            (pool_id, template_id, pool_id),
        ),
        Statement(
            "UPDATE template SET is_default = 1"
            " WHERE id = ? AND storage_pool_id = ? AND phase = 'ready'",
            (template_id, pool_id),
        ),
    ],
    children=(
        Children(
            "volumes",
            lambda template_id: Statement(
                "SELECT COUNT(*) AS children FROM volume WHERE template_id = ?", (template_id,)
            ),
        ),
    ),
)


def volumes_of_template(template_id: str) -> Statement:
    """Select the volumes that are clones of a template."""
    return Statement("SELECT id FROM volume WHERE template_id = ? ORDER BY id", (template_id,))


def begin_delete_template(template_id: str) -> Statement:
    """From now on nobody is given the template."""
    return Statement(
        "UPDATE template SET phase = 'deleting', is_default = 0 WHERE id = ?", (template_id,)
    )


def template_pool(template_id: str) -> Statement:
    """Select the `TemplatePlace`, of a hidden template too."""
    return Statement("SELECT storage_pool_id FROM template WHERE id = ?", (template_id,))


async def _place(context: StepContext[Work]) -> _Place:
    (place,) = await read_rows(
        context,
        _Place,
        Statement(
            "SELECT storage_pool_id, pool, ceph_address, ceph_port, source"
            " FROM template JOIN storage_pool ON storage_pool.id = storage_pool_id"
            " WHERE template.id = ?",
            (context.arguments.id,),
        ),
    )
    return place


async def _import(context: StepContext[Work]) -> ObservedImage:
    place = await _place(context)
    template_id = context.arguments.id
    source = TemplateSource(
        template_id=template_id,
        url=place.source,
        allowed_sources=await _allowed_sources(context),
        refused_networks=await _networks_of_the_cluster(context),
    )
    try:
        return await context.call(
            context.arguments.storage_agents[place.storage_pool_id],
            STORAGE_IMPORT_TEMPLATE,
            TemplateImport(place.ref, source),
            target=target("template", template_id),
        )
    except Invalid as bad:
        raise _of_source(bad) from bad


def _of_source(bad: Invalid) -> Invalid:
    """Name the field as people know it; to an agent it is a URL."""
    if bad.context.get("field") != "url":
        return bad
    hint = bad.hint or "look at what is there, and name a sound image"
    return Invalid(f"source: {bad.detail}", hint=hint, field="source")


async def _allowed_sources(context: StepContext[Work]) -> tuple[str, ...]:
    rows = await context.query(
        Statement("SELECT value FROM setting WHERE name = ?", (TEMPLATE_SOURCES.name,))
    )
    if not rows:
        return TEMPLATE_SOURCES.default
    return parse_setting(TEMPLATE_SOURCES, msgspec.json.decode(str(rows[0]["value"])))


async def _networks_of_the_cluster(context: StepContext[Work]) -> tuple[str, ...]:
    """Return what a template must not come from: a node would be a way into it."""
    rows = await context.query(Statement("SELECT DISTINCT cidr FROM subnet ORDER BY cidr"))
    return tuple(str(row["cidr"]) for row in rows)


async def _remove(context: StepContext[Work]) -> None:
    place = await _place(context)
    template_id = context.arguments.id
    await context.call(
        context.arguments.storage_agents[place.storage_pool_id],
        STORAGE_ENSURE_IMAGE_ABSENT,
        ImageRef(place.ref, template_id),
        target=target("template", template_id),
    )


def _imported(work: Work, outputs: Outputs) -> Sequence[Statement]:
    """The first template of a pool becomes its default."""
    image = outputs.get("image", ObservedImage)
    return [
        Statement(
            "UPDATE template SET phase = 'ready', size_bytes = ?, is_default = NOT EXISTS"
            " (SELECT 1 FROM template AS other WHERE other.is_default = 1"
            " AND other.storage_pool_id = template.storage_pool_id) WHERE id = ?",
            (image.size_bytes, work.id),
        )
    ]


TEMPLATE_CREATE: Final = OperationKind(
    name="template_create",
    arguments=Work,
    steps=(Step("image", _import, _remove),),
    on_failure=OnFailure.UNDO,
    budget_s=TimeoutClass.DOWNLOAD,
    finish=_imported,
    withdraw=lambda work: TEMPLATES.delete(work.id),
)
TEMPLATE_DELETE: Final = OperationKind(
    name="template_delete",
    arguments=Work,
    steps=(Step("image", _remove),),
    on_failure=OnFailure.LEAVE,
    budget_s=CHANGE_BUDGET_S,
    finish=lambda work, _: TEMPLATES.delete(work.id),
    mark_failed=lambda work, problem: [
        Statement("UPDATE template SET problem = ? WHERE id = ?", (as_json(problem), work.id))
    ],
)
