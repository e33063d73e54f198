"""One role of a node in a process of its own, as the supervisor starts it.

The supervisor writes one line to our standard input, the assignment; we write one line to
standard output for each change of state. Logs go to standard error.
"""

import os
import re
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from appliance.core.errors import Invalid, KowabungaError
from appliance.core.logs import configure_logs
from appliance.core.service import die_with_parent, run_service
from appliance.model.node import AGENT_TYPES, NodeConfig, Role, split_address
from appliance.model.node_status import RoleState

if TYPE_CHECKING:
    from appliance.roles.agent_role import AgentRoleConfig
    from appliance.roles.kahuna import KahunaConfig

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)
BUILT: Final = frozenset({Role.KAHUNA, Role.KAKTUS, Role.KIWI})


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the role needs to know; another one means another process."""

    role: Role
    node: NodeConfig
    supervisor: int = 0  # the process that must not be outlived; known when it is sent


class Report(msgspec.Struct, frozen=True):
    state: RoleState
    detail: str = ""


def assignments(node: NodeConfig) -> dict[Role, Assignment]:
    """Return what each built role of a node gets to know: nothing that is not its business."""
    found: dict[Role, Assignment] = {}
    for role in node.roles:
        if role in BUILT:
            common = NodeConfig(
                roles=(role,), name=node.name, state=node.state, log_level=node.log_level
            )
            section = {str(role): getattr(node, role)}
            found[role] = Assignment(role=role, node=msgspec.structs.replace(common, **section))
    return found


Tell = Callable[[RoleState, str], None]
Play = Callable[[Assignment, Tell], Coroutine[object, object, None]]


class _Reports:
    """Our end of the line to the supervisor; what libraries print goes to the logs instead."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)

    def send(self, state: RoleState, detail: str = "") -> None:
        self._file.write(msgspec.json.encode(Report(state, detail)) + b"\n")


async def play_role(assignment: Assignment, tell: Tell) -> None:
    """Play a role until cancelled, and tell how it is."""
    role, node = assignment.role, assignment.node
    # Imported where used: a Kahuna must not load what only agents need, nor the reverse.
    if role is Role.KAHUNA:
        from appliance.roles.kahuna import run_kahuna  # noqa: PLC0415

        await run_kahuna(
            kahuna_config(node), ready=lambda ready: tell(RoleState.RUNNING, ready.url)
        )
    elif role is Role.KAKTUS:
        from appliance.roles.kaktus import run_kaktus  # noqa: PLC0415

        await run_kaktus(agent_config(role, node), node.kaktus, report=tell)
    else:
        from appliance.roles.agent_role import run_agent  # noqa: PLC0415

        await run_agent(agent_config(role, node), ready=lambda: tell(RoleState.RUNNING, ""))


def serve_assignment(play: Play = play_role) -> None:
    """Play the role that standard input assigns until SIGTERM, or until the supervisor dies.

    Whatever it raises, the supervisor has been told why.
    """
    reports = _Reports()
    line = sys.stdin.buffer.readline()
    if not line:
        raise Invalid("no assignment", hint="kowabunga serve starts this, nobody else")
    assignment = msgspec.json.decode(line, type=Assignment)
    # By its number: if it died before this line, somebody else is our parent already.
    die_with_parent(assignment.supervisor)
    configure_logs(assignment.node.log_level, text=False)
    try:
        run_service(play(assignment, reports.send))
    except KowabungaError as failed:
        reports.send(RoleState.FAILED, str(failed))
        raise
    except Exception as bug:
        _log.exception("role_crashed", role=assignment.role)
        reports.send(RoleState.FAILED, f"unexpected {type(bug).__name__}: {bug}")
        raise


def kahuna_config(node: NodeConfig) -> "KahunaConfig":
    from appliance.roles.kahuna import KahunaConfig, TlsFiles  # noqa: PLC0415

    section = node.kahuna
    host, port = split_address(section.listen)
    tls = section.tls
    return KahunaConfig(
        state=Path(node.state),
        host=host,
        port=port,
        node_name=node_name(node),
        names=section.names,
        plain=section.plain_http,
        tls=TlsFiles(certificate=Path(tls.certificate), key=Path(tls.key)) if tls else None,
        api_key_file=Path(section.api_key_file) if section.api_key_file else None,
    )


def agent_config(role: Role, node: NodeConfig) -> "AgentRoleConfig":
    from appliance.roles.agent_role import AgentRoleConfig  # noqa: PLC0415

    section = node.agent(role)
    return AgentRoleConfig(
        state=Path(node.state),
        type=AGENT_TYPES[role],
        name=node_name(node),
        kahunas=section.kahunas,
        ca_file=Path(section.ca_file) if section.ca_file else None,
        credential_file=Path(section.credential_file) if section.credential_file else None,
    )


def node_name(node: NodeConfig) -> str:
    """Return the configured name, or what of the machine's host name can be one."""
    host = socket.gethostname().partition(".")[0].lower()
    return node.name or re.sub(r"[^a-z0-9]+", "-", host).strip("-") or "node"
