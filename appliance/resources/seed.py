"""Seeds: what steps do to the cloud-init medium of an instance, and what it is made from.

A seed follows from rows, settings and secrets alone, so that anybody can tell at any time whether
the one on a node is right. It lies in the storage pool that the instance's row names for good.
"""

import base64
import hashlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from appliance.core.crypto import generate_guest_secret
from appliance.core.errors import DriverError
from appliance.core.secret import Secret
from appliance.core.unix_password import hash_unix_password
from appliance.model.cloud_config import CloudConfig, parse_cloud_config
from appliance.model.compute import OsFamily
from appliance.model.setting import (
    BOOTSTRAP_PUBLIC_KEY,
    BOOTSTRAP_USER,
    CLOUD_INIT_LINUX,
    CLOUD_INIT_PACKAGES,
    CLOUD_INIT_WINDOWS,
    PUBLIC_URL,
    Setting,
    parse_setting,
)
from appliance.model.storage import SeedSpec
from appliance.model.target import target
from appliance.operations.step import StepContext
from appliance.operations.vault import Vault
from appliance.resources.allocation import zone_gateways
from appliance.resources.guest import Card, Guest
from appliance.resources.guest_linux import linux_documents
from appliance.resources.guest_windows import windows_documents
from appliance.resources.ipv4 import Range, format_address
from appliance.resources.project import ROOT_PASSWORD, secret_owner
from appliance.resources.table import as_json
from appliance.resources.work import PoolPlace, Work, read_rows
from appliance.rpc.storage import (
    STORAGE_ENSURE_IMAGE_ABSENT,
    STORAGE_ENSURE_SEED,
    ImageRef,
    SeedEnsure,
)
from appliance.store.base import Row, Statement

SEED: Final = "seed"  # the name of the step

_SALT_CHARACTERS: Final = 16
_SETTINGS: Final[tuple[Setting[object], ...]] = (
    BOOTSTRAP_USER, BOOTSTRAP_PUBLIC_KEY, CLOUD_INIT_LINUX, CLOUD_INIT_WINDOWS,
    CLOUD_INIT_PACKAGES, PUBLIC_URL,
)  # fmt: skip

T = TypeVar("T")
Query = Callable[[Statement], Awaitable[list[Row]]]


class SeedCard(msgspec.Struct, frozen=True):
    """An adapter with what its guest must know of the subnet."""

    mac: str
    private: bool
    addresses: list[int]
    prefix_length: int
    gateway: str
    dns: str
    routes: list[str]
    gw_pool: list[Range]


class SeedRow(PoolPlace, frozen=True):
    """An instance as its seed tells it; the pool is the seed's."""

    id: str
    name: str
    project_id: str
    domain: str
    bootstrap_user: str
    bootstrap_pubkey: str
    region: str
    zone: str
    zones: str  # JSON; names, of the region
    os: OsFamily
    system_id: str
    cards: str  # JSON
    agents: str  # JSON; of its host

    @property
    def secret_name(self) -> str:
        """Another system disk is another guest: it gets a secret of its own."""
        return f"guest/{self.system_id}"

    def list_agents(self) -> list[str]:
        return msgspec.json.decode(self.agents, type=list[str])

    def list_cards(self) -> tuple[Card, ...]:
        cards = msgspec.json.decode(self.cards, type=list[SeedCard], strict=False)
        zones = msgspec.json.decode(self.zones, type=list[str])
        return tuple(_card(card, self.zone, zones) for card in cards)


def _card(card: SeedCard, zone: str, zones: list[str]) -> Card:
    if card.private and card.gw_pool:
        # The project's own gateway in this zone; where the subnet has none, its router.
        address = zone_gateways(zones, card.gw_pool).get(zone)
        next_hop = None if address is None else format_address(address)
    else:
        next_hop = card.gateway
    return Card(
        mac=card.mac,
        private=card.private,
        addresses=tuple(
            f"{format_address(address)}/{card.prefix_length}" for address in card.addresses
        ),
        gateway=card.gateway,
        next_hop=next_hop,
        routes=tuple(card.routes),
        dns=card.dns or card.gateway,
    )


_ROWS: Final = """
SELECT instance.id, instance.name, instance.project_id, project.domain, project.bootstrap_user,
    project.bootstrap_pubkey, region.name AS region, zone.name AS zone,
    (SELECT json_group_array(name) FROM zone AS other WHERE other.region_id = region.id) AS zones,
    template.os, system.id AS system_id,
    storage_pool.id AS storage_pool_id, storage_pool.pool, ceph_address, ceph_port,
    (SELECT json_group_array(json_object('mac', mac, 'private', private,
        'addresses', json(addresses), 'prefix_length', prefix_length, 'gateway', gateway,
        'dns', dns, 'routes', json(extra_routes), 'gw_pool', json(gw_pool))) FROM
        (SELECT lower(adapter.mac) AS mac, vnet.private, subnet.prefix_length, subnet.gateway,
            subnet.dns, subnet.extra_routes,
            (SELECT json_group_array(address) FROM (SELECT address FROM adapter_address
                WHERE adapter_id = adapter.id ORDER BY position)) AS addresses,
            (SELECT json_group_array(json_array(first, last)) FROM (SELECT first, last
                FROM subnet_range WHERE subnet_id = subnet.id AND purpose = 'gw_pool'
                ORDER BY position)) AS gw_pool
        FROM adapter JOIN subnet ON subnet.id = adapter.subnet_id
        JOIN vnet ON vnet.id = subnet.vnet_id
        WHERE adapter.instance_id = instance.id ORDER BY vnet.private, adapter.position)) AS cards,
    (SELECT json_group_array(agent_id) FROM kaktus_agent
        WHERE kaktus_agent.kaktus_id = kaktus.id) AS agents
FROM instance
JOIN project ON project.id = instance.project_id
JOIN kaktus ON kaktus.id = instance.kaktus_id
JOIN zone ON zone.id = kaktus.zone_id
JOIN region ON region.id = zone.region_id
JOIN volume AS system ON system.instance_id = instance.id AND system.type = 'os'
JOIN template ON template.id = system.template_id
JOIN storage_pool ON storage_pool.id = instance.seed_pool_id
"""


def seed_row(instance_id: str) -> Statement:
    """Select the `SeedRow` of an instance."""
    return Statement(_ROWS + "WHERE instance.id = ?", (instance_id,))


def seed_rows_of_pool(pool_id: str) -> Statement:
    """Select each `SeedRow` in a storage pool."""
    return Statement(_ROWS + "WHERE instance.seed_pool_id = ? ORDER BY instance.id", (pool_id,))


def _place(instance_id: str) -> Statement:
    return Statement(
        "SELECT storage_pool.id AS storage_pool_id, pool, ceph_address, ceph_port"
        " FROM instance JOIN storage_pool ON storage_pool.id = seed_pool_id WHERE instance.id = ?",
        (instance_id,),
    )


def guest_owner(instance_id: str) -> str:
    """Return the owner of a guest's secrets."""
    return target("instance", instance_id)


class SeedMaker:
    """Makes seeds for one look at them: what many have in common is read once."""

    def __init__(self, query: Query, vault: Vault) -> None:
        self._query = query
        self._vault = vault
        self._settings: dict[str, str] | None = None
        self._passwords: dict[tuple[str, OsFamily], Secret | None] = {}
        self._fragment: CloudConfig | None = None

    async def ensure(self, row: SeedRow) -> SeedSpec:
        """Return the seed; a guest that has no secret yet gets one."""
        exists = Statement("SELECT EXISTS (SELECT 1 FROM instance WHERE id = ?)", (row.id,))
        owner = guest_owner(row.id)
        secret = await self._vault.ensure(
            owner, row.secret_name, generate_guest_secret(), while_=exists
        )
        return await self._make(row, secret)

    async def find(self, row: SeedRow) -> SeedSpec | None:
        """Return the seed, or None for a guest that never had one."""
        secret = await self._vault.find(guest_owner(row.id), row.secret_name)
        return None if secret is None else await self._make(row, secret)

    async def _make(self, row: SeedRow, secret: Secret) -> SeedSpec:
        guest = await self._guest(row, secret)
        if row.os is OsFamily.WINDOWS:
            documents = windows_documents(guest, await self._setting(CLOUD_INIT_WINDOWS))
        else:
            documents = linux_documents(guest, await self._linux_fragment())
        return SeedSpec(
            image_id=row.id,
            user_data=documents.user_data,
            meta_data=documents.meta_data,
            network_config=documents.network_config,
        )

    async def _guest(self, row: SeedRow, secret: Secret) -> Guest:
        cards = row.list_cards()
        own = [card.addresses[0] for card in cards if card.private and card.addresses]
        url = await self._setting(PUBLIC_URL)
        key = await self._setting(BOOTSTRAP_PUBLIC_KEY)
        return Guest(
            instance_id=row.id,
            host_name=row.name,
            domain=row.domain.removesuffix("."),
            region=row.region,
            zone=row.zone,
            cards=cards,
            local_ip=own[0].partition("/")[0] if own else None,
            user=row.bootstrap_user or await self._setting(BOOTSTRAP_USER),
            public_key=row.bootstrap_pubkey.strip() or key,
            password=await self._password(row),
            secret=secret,
            metadata_uri=None if url is None else f"{url}/latest/meta-data",
            packages=await self._setting(CLOUD_INIT_PACKAGES),
        )

    async def _password(self, row: SeedRow) -> Secret | None:
        """Return root's password: for Linux as a hash, for Windows, which takes none, as it is."""
        key = (row.project_id, row.os)
        if key not in self._passwords:
            password = await self._vault.find(secret_owner(row.project_id), ROOT_PASSWORD)
            if password is not None and row.os is OsFamily.LINUX:
                password = Secret(hash_unix_password(password, _salt(row.project_id)))
            self._passwords[key] = password
        return self._passwords[key]

    async def _linux_fragment(self) -> CloudConfig:
        if self._fragment is None:
            text = await self._setting(CLOUD_INIT_LINUX)
            self._fragment = {} if text is None else parse_cloud_config(text)
        return self._fragment

    async def _setting(self, setting: Setting[T]) -> T:
        if self._settings is None:
            names = as_json([each.name for each in _SETTINGS])
            rows = await self._query(
                Statement(
                    "SELECT name, value FROM setting"
                    " WHERE name IN (SELECT value FROM json_each(?))",
                    (names,),
                )
            )
            self._settings = {str(row["name"]): str(row["value"]) for row in rows}
        stored = self._settings.get(setting.name)
        if stored is None:
            return setting.default
        return parse_setting(setting, msgspec.json.decode(stored))


def _salt(project_id: str) -> str:
    """Return the same salt for a project each time, so that the same documents come out.

    A salt keeps one table from serving against many; that it can be known takes nothing from it.
    """
    digest = hashlib.sha256(f"kowabunga root password v1 {project_id}".encode()).digest()
    return base64.b64encode(digest, b"./").decode()[:_SALT_CHARACTERS]


async def ensure_seed(context: StepContext[Work]) -> None:
    """Make the medium, or make it anew if anything in it has changed."""
    row = await _read(context)
    seed = await SeedMaker(context.query, context.vault).ensure(row)
    await context.call(
        context.arguments.storage_agents[row.storage_pool_id],
        STORAGE_ENSURE_SEED,
        SeedEnsure(row.ref, seed),
        target=target("instance", row.id),
    )


async def ensure_seed_absent(context: StepContext[Work]) -> None:
    instance_id = context.arguments.instance_id
    (place,) = await read_rows(context, PoolPlace, _place(instance_id))
    await context.call(
        context.arguments.storage_agents[place.storage_pool_id],
        STORAGE_ENSURE_IMAGE_ABSENT,
        ImageRef(place.ref, instance_id),
        target=target("instance", instance_id),
    )


async def _read(context: StepContext[Work]) -> SeedRow:
    instance_id = context.arguments.instance_id
    rows = await read_rows(context, SeedRow, seed_row(instance_id))
    if not rows:
        raise DriverError(f"instance {instance_id} has no volume with a system")
    return rows[0]
