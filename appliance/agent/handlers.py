"""What every agent answers, whatever its type: who it is."""

import os
import platform
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from appliance.agent.dispatch import Handler
from appliance.core.errors import DriverError
from appliance.model.agent import AgentType
from appliance.rpc.method import Nothing
from appliance.rpc.methods import AGENT_DESCRIBE, AGENT_PING, AgentDescription

_PROC: Final = Path("/proc")


def base_handlers(
    agent_id: str, agent_type: AgentType, *, version: str, boot_id: str, proc: Path = _PROC
) -> Mapping[str, Handler]:
    """Return the handlers by method name."""

    async def ping(_: Nothing) -> Nothing:
        return Nothing()

    async def describe(_: Nothing) -> AgentDescription:
        memory = _read_memory_bytes(proc)
        return AgentDescription(
            agent_id=agent_id,
            type=agent_type,
            version=version,
            boot_id=boot_id,
            hostname=socket.gethostname(),
            architecture=platform.machine(),
            cpu_count=os.cpu_count() or 1,
            memory_total_bytes=memory["MemTotal"],
            memory_available_bytes=memory["MemAvailable"],
            uptime_s=float((proc / "uptime").read_text(encoding="ascii").split()[0]),
        )

    return {AGENT_PING.name: ping, AGENT_DESCRIBE.name: describe}


def _read_memory_bytes(proc: Path) -> dict[str, int]:
    """Source: proc_meminfo(5): "Name:   value kB", where kB are 1024 bytes."""
    sizes: dict[str, int] = {}
    for line in (proc / "meminfo").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name in {"MemTotal", "MemAvailable"}:
            sizes[name] = int(rest.split()[0]) * 1024
    if len(sizes) != 2:
        raise DriverError(f"{proc}/meminfo does not tell the memory of this node")
    return sizes
