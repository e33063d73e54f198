"""What the API is made of: handed to `create_app` once, to handlers as the argument `services`."""

import asyncio
from dataclasses import dataclass

from appliance.core.clock import Clock
from appliance.operations.engine import Engine
from appliance.rpc.hub import Hub
from appliance.services.agents import Agents
from appliance.services.alarms import Alarms
from appliance.services.authority import Authority
from appliance.services.master_key import MasterKey
from appliance.services.recovery import Recovery
from appliance.services.rotation import Rotation
from appliance.services.settings import Settings
from appliance.store.base import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """`stopping` is set when the process begins to stop: endless answers end then."""

    clock: Clock
    store: Store
    engine: Engine
    hub: Hub
    agents: Agents
    alarms: Alarms
    authority: Authority
    settings: Settings
    master_key: MasterKey
    rotation: Rotation
    recovery: Recovery
    stopping: asyncio.Event
