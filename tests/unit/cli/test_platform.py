"""Processor of a zone, firmware and TPM of a template, by the command line and the REST API."""

import pytest

from appliance.cli.exit_code import ExitCode
from tests.unit.cli.conftest import Cli
from tests.unit.cli.test_resource import MACHINE
from tests.unit.cli.world import ask, build_cloud, ok

pytestmark = pytest.mark.usefixtures("cloud")


def test_the_processor_of_a_zone_is_shown_chosen_and_taken_back(cli: Cli) -> None:
    build_cloud(cli)
    words = ("zone", "cpu", "eu-a")
    possible = ["x86-64-v2", "x86-64-v3", "x86-64-v4"]
    assert ask(cli, *words) == {"model": None, "possible": possible}
    planned = cli(*words, "x86-64-v2", "--plan")
    assert planned.code == ExitCode.PLAN_HAS_CHANGES
    assert "~ model: host -> x86-64-v2" in planned.out
    assert ask(cli, *words, "x86-64-v2") == {"model": "x86-64-v2", "possible": possible}
    ok(cli(*MACHINE))
    refused = cli(*words, "Opteron_G1")
    assert refused.code == ExitCode.USAGE
    assert "Kaktus 'host-1'" in refused.err
    assert "all hosts of the zone have: x86-64-v2, x86-64-v3, x86-64-v4" in refused.err
    assert ok(cli(*words, "host", "-o", "name")).out == "host\n"
    assert ask(cli, *words)["model"] is None
    assert cli("zone", "cpu", "f" * 24).code == ExitCode.NOT_FOUND


def test_the_platform_of_a_template_is_shown_and_decided_before_its_first_machine(
    cli: Cli,
) -> None:
    build_cloud(cli)
    words = ("template", "platform", "debian")
    assert ask(cli, *words) == {"firmware": "auto", "tpm": "auto"}
    assert cli(*words, "--tpm", "on", "--plan").code == ExitCode.PLAN_HAS_CHANGES
    assert ask(cli, *words, "--firmware", "uefi") == {"firmware": "uefi", "tpm": "auto"}
    assert ask(cli, *words, "--tpm", "on") == {"firmware": "uefi", "tpm": "on"}
    ok(cli(*MACHINE))
    refused = cli(*words, "--firmware", "bios")
    assert refused.code != 0
    assert "in use by volumes (1)" in refused.err
    assert ask(cli, *words, "--firmware", "uefi") == {"firmware": "uefi", "tpm": "on"}
