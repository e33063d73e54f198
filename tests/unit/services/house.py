"""A Kahuna's services on a real store, as the Kahuna role joins them."""

from dataclasses import dataclass
from pathlib import Path

from appliance.core.clock import Clock
from appliance.services.agents import Agents
from appliance.services.authority import Authority
from appliance.services.cluster import ensure_cluster
from appliance.services.key_files import KeyFiles
from appliance.services.keyring import Keyring
from appliance.services.node_identity import NodeIdentity, ensure_node_identity
from appliance.services.rotation import Rotation
from appliance.services.secrets import Secrets
from appliance.services.settings import Settings
from appliance.store.base import Store


@dataclass(frozen=True)
class House:
    directory: Path
    store: Store
    clock: Clock
    node: NodeIdentity
    keyring: Keyring
    secrets: Secrets
    rotation: Rotation
    authority: Authority
    agents: Agents
    settings: Settings

    @property
    def key_files(self) -> list[Path]:
        return sorted((self.directory / "keys/data").iterdir())


def build_house(
    store: Store, directory: Path, clock: Clock, *, files: KeyFiles | None = None
) -> House:
    """Join the services; `keyring.open` is the caller's."""
    node = ensure_node_identity(directory / "keys")
    keyring = Keyring(store, files or KeyFiles(directory / "keys/data"), node, clock)
    secrets = Secrets(store, keyring)
    return House(
        directory=directory,
        store=store,
        clock=clock,
        node=node,
        keyring=keyring,
        secrets=secrets,
        rotation=Rotation(keyring, secrets),
        authority=Authority(store, secrets, clock),
        agents=Agents(store, secrets, clock),
        settings=Settings(store, secrets, clock),
    )


async def open_house(store: Store, directory: Path, clock: Clock, name: str = "one") -> House:
    house = build_house(store, directory, clock)
    await ensure_cluster(store, clock)
    await house.keyring.open(name)
    return house
