"""What the API is made of: handed to `create_app` once, to handlers as the argument `services`."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from appliance.core.clock import Clock
from appliance.operations.engine import Engine
from appliance.rpc.hub import Hub
from appliance.services.access import Access
from appliance.services.adapters import Adapters
from appliance.services.agents import Agents
from appliance.services.alarms import Alarms
from appliance.services.authority import Authority
from appliance.services.catalog import Catalog
from appliance.services.compute import Compute
from appliance.services.master_key import ApiKeys, MasterKey
from appliance.services.projects import Projects
from appliance.services.recovery import Recovery
from appliance.services.rotation import Rotation
from appliance.services.sessions import Sessions
from appliance.services.settings import Settings
from appliance.services.simulation import Simulation
from appliance.services.users import Users
from appliance.store.base import Store


@dataclass(frozen=True, slots=True)
class Reach:
    """How agents of this node reach this Kahuna.

    Attributes:
        agent_url: ws:// or wss://, on this machine.
        owner_certificate: the owner's certificate, which nothing else would vouch for.
    """

    agent_url: str
    owner_certificate: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """`stopping` is set when the process begins to stop: endless answers end then.

    `simulation` is None unless the nodes are simulated.
    """

    clock: Clock
    reach: Reach
    store: Store
    engine: Engine
    hub: Hub
    access: Access
    api_keys: ApiKeys
    sessions: Sessions
    users: Users
    agents: Agents
    alarms: Alarms
    authority: Authority
    catalog: Catalog
    projects: Projects
    adapters: Adapters
    compute: Compute
    settings: Settings
    master_key: MasterKey
    rotation: Rotation
    recovery: Recovery
    stopping: asyncio.Event
    simulation: Simulation | None = None
