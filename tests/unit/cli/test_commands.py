"""Commands of every noun, against a running cloud."""

import json
import stat
from pathlib import Path

import pytest
import yaml

from appliance.cli.exit_code import ExitCode
from appliance.roles.kahuna import Ready
from tests.support.wait import until_now
from tests.unit.cli.conftest import Cli

pytestmark = pytest.mark.usefixtures("cloud")


def enrol(cli: Cli, name: str = "k1") -> str:
    made = cli("agent", "enrol", name, "--type", "Kaktus", "-o", "name")
    assert made.code == 0, made.err
    return made.out.strip()


def test_an_agent_is_made_played_shown_and_revoked(cli: Cli) -> None:
    agent_id = enrol(cli)
    until_now(lambda: "yes" in cli("agent", "list").out, "the agent is played")
    shown = json.loads(cli("agent", "show", agent_id, "-o", "json").out)
    assert shown["sessions"][0]["version"].endswith("simulated")
    assert "simulated_agent_connected" in cli("agent", "log", agent_id).out
    assert cli("agent", "revoke", agent_id).code == 0
    listed = yaml.safe_load(cli("agent", "list", "-o", "yaml").out)
    assert listed[0]["sessions"] == []
    assert listed[0]["credential"] == "none"


def test_a_credential_is_fetched_once_into_a_private_file(cli: Cli, tmp_path: Path) -> None:
    agent_id = enrol(cli)
    file, second = tmp_path / "k.json", tmp_path / "k2.json"
    first = cli("agent", "credential", agent_id, "--output", file)
    assert first.code == 0
    key = json.loads(file.read_text())["key"]
    assert key not in first.out + first.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    late = cli("agent", "credential", agent_id, "--output", second)
    assert late.code == ExitCode.CONFLICT
    assert "handed over already" in late.err
    assert not second.exists()
    anew = cli("agent", "credential", agent_id, "--output", second, "--new")
    assert anew.code == 0
    assert json.loads(second.read_text())["key"] != key


def test_a_secret_never_replaces_a_file(cli: Cli, tmp_path: Path) -> None:
    agent_id = enrol(cli)
    file = tmp_path / "k.json"
    file.write_text("mine")
    refused = cli("agent", "credential", agent_id, "--output", file)
    assert refused.code == ExitCode.CONFLICT
    assert file.read_text() == "mine"
    assert cli("agent", "credential", agent_id, "--output", tmp_path / "new").code == 0


def test_settings_are_set_shown_and_unset(cli: Cli) -> None:
    assert cli("settings", "set", "smtp.port", "25").code == 0
    assert json.loads(cli("settings", "get", "smtp.port", "-o", "json").out)["value"] == 25
    assert "25" in cli("settings", "list").out
    assert cli("settings", "unset", "smtp.port").code == 0
    bad = cli("settings", "set", "smtp.port", "99999999")
    assert bad.code == ExitCode.USAGE
    assert "smtp.port" in bad.err
    assert "1 to 65535" in bad.err
    assert cli("settings", "get", "nope").code == ExitCode.NOT_FOUND


def test_a_secret_setting_is_refused_on_the_command_line(cli: Cli, tmp_path: Path) -> None:
    refused = cli("settings", "set", "smtp.password", "hunter2")
    assert refused.code == ExitCode.USAGE
    assert "hunter2" not in refused.err
    file = tmp_path / "password"
    file.write_text("hunter2\n")
    file.chmod(0o644)
    assert cli("settings", "set", "smtp.password", "--from-file", file).code == ExitCode.NOT_ALLOWED
    file.chmod(0o600)
    done = cli("settings", "set", "smtp.password", "--from-file", file)
    assert done.code == 0
    assert "hunter2" not in done.out + done.err


def test_the_data_key_is_rotated_and_the_operation_followed(cli: Cli) -> None:
    rotated = cli("secret", "rotate", "--wait", "-o", "json")
    assert rotated.code == 0, rotated.err
    states = [json.loads(line)["state"] for line in rotated.out.splitlines()]
    assert states[-1] == "done"
    operation_id = cli("operation", "list", "-o", "name").out.strip()
    assert cli("operation", "show", operation_id).code == 0
    assert cli("operation", "watch", operation_id).out.startswith(operation_id)
    assert cli("operation", "abandon", operation_id, "--yes").code == ExitCode.CONFLICT
    assert cli("operation", "show", "f" * 24).code == ExitCode.NOT_FOUND


def test_a_recovery_export_is_written_under_a_passphrase(cli: Cli, tmp_path: Path) -> None:
    phrase, file = tmp_path / "phrase", tmp_path / "recovery.json"
    phrase.write_text("correct horse battery staple\n")
    phrase.chmod(0o600)
    done = cli("secret", "export", "--output", file, "--passphrase-file", phrase)
    assert done.code == 0, done.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "correct horse" not in file.read_text()


def test_the_master_key_is_rotated_into_a_file_and_disabled(
    cli: Cli, cloud: Ready, tmp_path: Path
) -> None:
    file = tmp_path / "new.key"
    by_key = ("--url", cloud.url, "--api-key-file")
    assert cli("agent", "list", *by_key, cloud.api_key_file).code == 0
    done = cli("master-key", "rotate", "--output", file)
    assert done.code == 0
    assert file.read_text().strip() not in done.out + done.err
    assert cli("agent", "list", *by_key, cloud.api_key_file).code == ExitCode.NOT_ALLOWED
    assert cli("agent", "list", *by_key, file).code == 0
    assert cli("master-key", "disable", "--yes").code == 0
    assert cli("agent", "list", *by_key, file).code == ExitCode.NOT_ALLOWED
    assert "disabled" in cli("master-key", "show").out


def test_the_state_is_verified_and_alarms_are_listed(cli: Cli) -> None:
    verified = cli("state", "verify")
    assert (verified.code, verified.err.strip()) == (
        0, "The database is sound, and the nodes have what is in it.",
    )  # fmt: skip
    assert cli("alarm", "list", "-o", "json").out.strip() == "[]"
    assert cli("alarm", "clear", "none", "agent/1").code == ExitCode.NOT_FOUND


def test_debug_prints_the_request_id_of_the_server(cli: Cli) -> None:
    assert "request 0" in cli("agent", "list", "--debug").err


def test_the_state_of_a_running_kahuna_is_not_touched(cli: Cli, cloud: Ready) -> None:
    directory = cloud.local_socket.parent.parent
    assert cli("state", "verify", "--state", directory).code == ExitCode.CONFLICT
