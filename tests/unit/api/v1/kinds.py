"""The kinds of objects that are rows and nothing else, as the API serves them."""

from dataclasses import dataclass
from typing import Any, Final

import httpx
import msgspec

from appliance.store.base import Statement, Store
from tests.unit.api.v1.answers import PREFIX
from tests.unit.resources.samples import SAMPLES, Sample, World

Json = dict[str, Any]  # a decoded body


@dataclass(frozen=True, eq=False)
class Kind:
    name: str
    sample: Sample
    parent: str = ""  # "/region", where objects are made below one
    below: str = ""  # the last part of the list below the parent

    @property
    def path(self) -> str:
        return f"{PREFIX}/{self.name}"

    def place(self, world: World) -> str:
        """Return the path that takes the POST."""
        if not self.parent:
            return self.path
        return f"{PREFIX}{self.parent}/{self.sample.parent(world)}/{self.name}"

    def list_below(self, world: World) -> str:
        return f"{PREFIX}{self.parent}/{self.sample.parent(world)}/{self.below}"

    def full(self, world: World) -> Json:
        return as_json(self.sample.full(world))

    def changed(self, world: World) -> Json:
        return as_json(self.sample.changed(world))

    def minimal(self, world: World) -> Json:
        """Return the required fields alone."""
        return {
            field.encode_name: value
            for field in msgspec.structs.fields(self.sample.table.struct)
            if field.required
            for value in (self.full(world)[field.encode_name],)
        }


def as_json(struct: msgspec.Struct) -> Json:
    decoded: Json = msgspec.json.decode(msgspec.json.encode(struct))
    return decoded


_SAMPLES: Final = {sample.table.kind: sample for sample in SAMPLES}

REGION: Final = Kind("region", _SAMPLES["region"])
ZONE: Final = Kind("zone", _SAMPLES["zone"], "/region", "zones")
KIWI: Final = Kind("kiwi", _SAMPLES["kiwi"], "/region", "kiwis")
KAKTUS: Final = Kind("kaktus", _SAMPLES["kaktus"], "/zone", "kaktuses")
VNET: Final = Kind("vnet", _SAMPLES["vnet"], "/region", "vnets")
SUBNET: Final = Kind("subnet", _SAMPLES["subnet"], "/vnet", "subnets")
POOL: Final = Kind("pool", _SAMPLES["storage_pool"], "/region", "pools")
TEAM: Final = Kind("team", _SAMPLES["team"])
USER: Final = Kind("user", _SAMPLES["user"])
AGENT: Final = Kind("agent", _SAMPLES["agent"])

KINDS: Final = (REGION, ZONE, KIWI, KAKTUS, VNET, SUBNET, POOL, TEAM, USER, AGENT)


@dataclass(frozen=True)
class Api:
    """A client with the master key, in a world that has what objects are made below."""

    client: httpx.AsyncClient
    store: Store
    world: World

    async def ask(self, status: int, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401  # JSON
        """Send a request that must be answered so, and return the decoded body, if there is one."""
        path = path if path.startswith("/api/") else PREFIX + path
        answer = await self.client.request(method, path, json=body)
        assert answer.status_code == status, f"{method} {path}: {answer.text}"
        return answer.json() if answer.content else None

    async def create(self, kind: Kind, **fields: object) -> Json:
        """Make an object: the full sample, with some fields replaced."""
        body = kind.full(self.world) | fields
        made: Json = await self.ask(201, "POST", kind.place(self.world), body)
        return made

    async def get(self, kind: Kind, made: Json) -> Json:
        read: Json = await self.ask(200, "GET", f"{kind.path}/{made['id']}")
        return read

    async def put(self, kind: Kind, made: Json, body: Json, status: int = 200) -> Json:
        answer: Json = await self.ask(status, "PUT", f"{kind.path}/{made['id']}", body)
        return answer

    async def delete(self, kind: Kind, made: Json) -> None:
        await self.ask(200, "DELETE", f"{kind.path}/{made['id']}")

    async def dump(self) -> dict[str, list[dict[str, Any]]]:
        """Return all rows of all tables of objects."""
        tables = await self.store.query(
            Statement("SELECT name FROM sqlite_schema WHERE type = 'table'")
        )
        names = [str(row["name"]) for row in tables]
        return {name: await self.store.query(Statement(f"SELECT * FROM {name}")) for name in names}
