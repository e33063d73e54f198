"""Trouble for simulated nodes, from the command line to the session of the agent."""

import json

from appliance.cli.exit_code import ExitCode
from appliance.roles.kahuna import Ready
from tests.support.wait import until_now
from tests.unit.cli.conftest import Cli


def connected(cli: Cli, agent_id: str) -> bool:
    return bool(json.loads(cli("agent", "show", agent_id, "-o", "json").out)["sessions"])


def test_a_cut_node_leaves_and_a_mended_one_comes_back(cli: Cli, cloud: Ready) -> None:
    assert cloud.url
    agent_id = cli("agent", "enrol", "k1", "--type", "Kaktus", "-o", "name").out.strip()
    until_now(lambda: connected(cli, agent_id), "the agent is played")
    cut = cli("sim", "cut", "k1")
    assert cut.code == 0, cut.err
    until_now(lambda: not connected(cli, agent_id), "the node is off the network")
    assert "yes" in cli("sim", "list").out
    assert cli("sim", "mend", agent_id).code == 0
    until_now(lambda: connected(cli, agent_id), "the node is back")


def test_faults_are_put_upon_a_node_and_listed(cli: Cli, cloud: Ready) -> None:
    assert cloud.url
    agent_id = cli("agent", "enrol", "k1", "--type", "Kaktus", "-o", "name").out.strip()
    until_now(lambda: agent_id in cli("sim", "list", "-o", "name").out, "the agent is played")
    failed = cli(
        "sim", "fail", "k1", "--method", "storage.ensure_image", "--always", "--after-effect"
    )
    assert "storage.ensure_image always after" in failed.out
    slow = json.loads(cli("sim", "slow", "k1", "2.5", "-o", "json").out)
    assert slow["slowness"] == 2.5
    assert slow["failures"][0]["left"] is None
    assert cli("sim", "fail", "k1", "--method", "nonsense").code == ExitCode.USAGE
    assert cli("sim", "slow", "k1", "0").code == ExitCode.USAGE
    assert cli("sim", "cut", "nobody").code == ExitCode.NOT_FOUND
    assert "2.5x" in cli("sim", "list").out


def test_nodes_are_simulated_only_by_a_simulation(cli: Cli) -> None:
    refused = cli("serve", "--simulate-nodes", "3")
    assert refused.code == ExitCode.USAGE
    assert "--simulate-nodes needs --simulate" in refused.err
