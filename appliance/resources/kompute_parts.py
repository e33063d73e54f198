"""The parts of a Kompute as rows: all of a new one, and what a change adds to them. Pure."""

from dataclasses import dataclass

from appliance.core.ids import new_id
from appliance.model.target import target
from appliance.resources.adapter import insert_adapter
from appliance.resources.fields import given
from appliance.resources.instance import Instance, insert_instance
from appliance.resources.kompute import Kompute, KomputeFacts, Part, insert_kompute, part_name
from appliance.resources.project import Demand
from appliance.resources.volume import Volume, VolumeType, insert_volume, resize_volume
from appliance.store.base import Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class PartIds:
    """Chosen once for all tries of one request."""

    kompute: str
    instance: str
    system: str
    data: str
    private: str
    public: str

    @classmethod
    def new(cls) -> "PartIds":
        return cls(
            kompute=new_id(),
            instance=new_id(),
            system=new_id(),
            data=new_id(),
            private=new_id(),
            public=new_id(),
        )

    def targets(self, *, with_data: bool) -> tuple[str, ...]:
        """Return all that the operation locks; adapters are nobody's work."""
        return (
            target("kompute", self.kompute),
            target("instance", self.instance),
            target("volume", self.system),
            *((target("volume", self.data),) if with_data else ()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Where the parts of a new Kompute come from and go to."""

    project_id: str
    zone_id: str
    kaktus_id: str

    storage_pool_id: str
    template_id: str
    private_subnet: str
    public_subnet: str | None


def insert_parts(ids: PartIds, wanted: Kompute, parts: Parts, now_ms: int) -> list[Statement]:
    """Return all rows of a new Kompute: its public card is the first, its system disk too."""
    name = wanted.name
    public = [] if parts.public_subnet is None else [(ids.public, parts.public_subnet, Part.PUBLIC)]
    cards = [*public, (ids.private, parts.private_subnet, Part.PRIVATE)]
    disks = [(ids.system, wanted.disk, parts.template_id)]
    if data_disk := given(wanted.data_disk, 0):
        disks.append((ids.data, data_disk, ""))
    return [
        insert_kompute(
            ids.kompute,
            wanted,
            project_id=parts.project_id,
            zone_id=parts.zone_id,
            now_ms=now_ms,
        ),
        insert_instance(
            ids.instance,
            Instance(
                name=name,
                description=wanted.description,
                memory=wanted.memory,
                vcpus=wanted.vcpus,
            ),
            project_id=parts.project_id,
            kaktus_id=parts.kaktus_id,
            seed_pool_id=parts.storage_pool_id,
            kompute_id=ids.kompute,
            now_ms=now_ms,
        ),
        *(
            insert_volume(
                volume_id,
                _volume(name, size_bytes, is_system=bool(template_id)),
                project_id=parts.project_id,
                storage_pool_id=parts.storage_pool_id,
                template_id=template_id or None,
                kompute_id=ids.kompute,
                instance_id=ids.instance,
                position=position,
                now_ms=now_ms,
            )
            for position, (volume_id, size_bytes, template_id) in enumerate(disks)
        ),
        *(
            statement
            for position, (adapter_id, subnet_id, part) in enumerate(cards)
            for statement in insert_adapter(
                adapter_id,
                subnet_id,
                part_name(name, part),
                now_ms,
                automatic=True,
                kompute_id=ids.kompute,
                attached=(ids.instance, position),
            )
        ),
    ]


def change_disks(
    facts: KomputeFacts, stored: Kompute, wanted: Kompute, *, data_id: str, now_ms: int
) -> list[Statement]:
    """Return what grows the disks, or adds the data disk beside the one with the system."""
    system, *data = facts.list_disks()
    changes: list[Statement] = []
    if wanted.disk > stored.disk:
        changes.append(resize_volume(system.id, wanted.disk, now_ms))
    data_disk = given(wanted.data_disk, 0)
    if data and data_disk > given(stored.data_disk, 0):
        changes.append(resize_volume(data[0].id, data_disk, now_ms))
    if data_disk and not data:
        changes.append(
            insert_volume(
                data_id,
                _volume(wanted.name, data_disk, is_system=False),
                project_id=facts.project_id,
                storage_pool_id=system.storage_pool_id,
                template_id=None,
                kompute_id=facts.id,
                instance_id=facts.instance_id,
                position=1,
                now_ms=now_ms,
            )
        )
    return changes


def _volume(name: str, size_bytes: int, *, is_system: bool) -> Volume:
    return Volume(
        name=part_name(name, Part.SYSTEM if is_system else Part.DATA),
        type=VolumeType.OS if is_system else VolumeType.RAW,
        size=size_bytes,
    )


def growth(stored: Kompute, wanted: Kompute) -> Demand:
    """Return what a change takes more of the project's quotas."""
    return Demand(
        vcpus=wanted.vcpus - stored.vcpus,
        memory_bytes=wanted.memory - stored.memory,
        storage_bytes=wanted.disk
        - stored.disk
        + given(wanted.data_disk, 0)
        - given(stored.data_disk, 0),
    )
