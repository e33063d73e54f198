"""Each role is told what concerns it, and nothing else."""

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from appliance.core.config import parse
from appliance.model.agent import AgentType
from appliance.model.node import NodeConfig, Role
from appliance.roles.kahuna import TlsFiles
from appliance.roles.node import Assignment, agent_config, assignments, kahuna_config, node_name

_FILE = b"""\
roles: [kahuna, kiwi, konvey]
name: node-1
state: /srv/kowabunga
kahuna:
  listen: '[::1]:8443'
  names: [kahuna.example]
  api_key_file: /srv/key
  tls: {certificate: /srv/cert.pem, key: /srv/key.pem}
kiwi:
  kahunas: [wss://kahuna.example:8443/ws]
  ca_file: /srv/ca.pem
  credential_file: /srv/kiwi.json
"""


@pytest.fixture
def node() -> NodeConfig:
    return parse(_FILE, NodeConfig, source="node.yaml")


def test_a_kahuna_is_configured_from_its_section(node: NodeConfig) -> None:
    config = kahuna_config(node)
    assert (config.host, config.port, config.plain) == ("::1", 8443, False)
    assert config.state == Path("/srv/kowabunga")
    assert config.node_name == "node-1"
    assert config.names == ("kahuna.example",)
    assert config.tls == TlsFiles(certificate=Path("/srv/cert.pem"), key=Path("/srv/key.pem"))
    assert config.api_key_file == Path("/srv/key")


def test_an_agent_is_configured_from_the_section_of_its_role(node: NodeConfig) -> None:
    config = agent_config(Role.KIWI, node)
    assert config.type is AgentType.KIWI
    assert config.kahunas == ("wss://kahuna.example:8443/ws",)
    assert config.ca_file == Path("/srv/ca.pem")
    assert config.credential_file == Path("/srv/kiwi.json")


def test_roles_that_are_built_get_an_assignment_without_the_others_sections(
    node: NodeConfig,
) -> None:
    found = assignments(node)
    assert set(found) == {Role.KAHUNA, Role.KIWI}
    assert found[Role.KIWI].node.kahuna == NodeConfig().kahuna
    assert found[Role.KAHUNA].node.kiwi == NodeConfig().kiwi


def test_an_assignment_survives_the_way_to_its_process(node: NodeConfig) -> None:
    sent = assignments(node)[Role.KIWI]
    assert msgspec.json.decode(msgspec.json.encode(sent), type=Assignment) == sent


def test_a_node_without_a_name_takes_the_machines() -> None:
    assert "." not in node_name(NodeConfig())
    assert node_name(NodeConfig()) != ""


def test_a_role_whose_supervisor_died_before_it_looked_ends(node: NodeConfig) -> None:
    sent = msgspec.structs.replace(assignments(node)[Role.KIWI], supervisor=1)
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "role", "run", "kiwi"],
        input=msgspec.json.encode(sent) + b"\n",
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, b"")
