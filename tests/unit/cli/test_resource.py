"""Commands of resources against a running simulated cloud."""

import json
import threading
from pathlib import Path

import pytest

from appliance.cli import progress
from appliance.cli.exit_code import ExitCode
from tests.support.wait import until_now
from tests.unit.cli.conftest import Cli
from tests.unit.cli.world import ask, build_cloud, build_host, build_region, new, ok

pytestmark = pytest.mark.usefixtures("cloud")

WEB = "kompute web --project shop --zone eu-a --vcpus 1 --memory 1GiB --disk 5GiB"
MACHINE = tuple(WEB.replace("kompute web", "kompute create web").split())


def test_an_object_is_made_shown_changed_and_deleted_by_its_name(cli: Cli) -> None:
    made = ask(cli, "region", "create", "eu", "--domain", "eu.example.org")
    assert ask(cli, "region", "show", "eu") == made
    assert ask(cli, "region", "list") == [made]
    changed = ask(cli, "region", "set", "eu", "--name", "eu-west", "--description", "Paris")
    assert changed == made | {"name": "eu-west", "description": "Paris"}
    assert ask(cli, "region", "set", "eu-west", "--description", "")["description"] == ""
    assert ok(cli("region", "list", "-o", "name")).out == "eu-west\n"
    assert ok(cli("region", "list", "-q")).out == f"{made['id']}\n"
    deleted = ok(cli("region", "delete", "eu-west"))
    assert (deleted.out, deleted.err) == ("", f"deleted region eu-west ({made['id']})\n")
    assert cli("region", "show", made["id"]).code == ExitCode.NOT_FOUND


def test_ids_and_names_are_accepted_for_objects_parents_and_references(cli: Cli) -> None:
    region_id = new(cli, "region eu --domain eu.example.org")
    zone_id = new(cli, f"zone eu-a --region {region_id}")
    agent_id = new(cli, "agent k1 --type Kaktus")
    by_names = ask(cli, "kaktus", "create", "h1", "--zone", "eu-a", "--agent", "k1")
    assert by_names["agents"] == [agent_id]
    ok(cli("kaktus", "delete", by_names["id"]))
    by_ids = ask(cli, "kaktus", "create", "h1", "--zone", zone_id, "--agent", agent_id)
    assert by_ids["agents"] == [agent_id]
    assert ask(cli, "zone", "list", "--region", "eu")[0]["id"] == zone_id
    assert ask(cli, "agent", "show", "k1")["id"] == agent_id
    for words in (("agent", "list", "-q"), ("agent", "show", "k1", "-q")):
        assert ok(cli(*words)).out.strip() == agent_id


def test_an_unknown_name_exits_3_and_names_candidates(cli: Cli) -> None:
    none = cli("region", "show", "eu")
    assert (none.code, none.out) == (ExitCode.NOT_FOUND, "")
    assert "there are no regions yet" in none.err
    build_region(cli)
    close = cli("zone", "show", "eu-b")
    assert close.code == ExitCode.NOT_FOUND
    assert "did you mean eu-a?" in close.err
    far = cli("vnet", "create", "v", "--region", "mars", "--interface", "br0")
    assert far.code == ExitCode.NOT_FOUND
    assert "there are: eu" in far.err
    assert ask(cli, "vnet", "list") == []


def test_an_ambiguous_name_exits_3_with_the_ids_until_its_place_is_told(cli: Cli) -> None:
    build_cloud(cli)
    new(cli, "pool hdd --region eu --pool rbd2 --agent k1")
    other = new(cli, "template debian --pool hdd --source https://images.example.org/d.raw")
    told = cli("template", "show", "debian")
    assert told.code == ExitCode.NOT_FOUND
    assert "ambiguous" in told.err
    assert other in told.err
    assert ask(cli, "template", "show", "debian", "--pool", "hdd")["id"] == other
    ok(cli("template", "delete", "debian", "--pool", "hdd"))
    assert [each["name"] for each in ask(cli, "template", "list")] == ["debian"]


def test_a_plan_of_a_create_tells_the_body_and_writes_nothing(cli: Cli) -> None:
    build_region(cli)
    words = ("vnet", "create", "v1", "--region", "eu", "--interface", "br0", "--vlan", "7")
    planned = cli(*words, "--plan")
    assert planned.code == ExitCode.PLAN_HAS_CHANGES
    assert planned.out == "create vnet v1\n  + name: v1\n  + vlan: 7\n  + interface: br0\n"
    assert ask(cli, "vnet", "list") == []
    ok(cli(*words))
    taken = cli(*words, "--plan")
    assert taken.code == ExitCode.CONFLICT
    assert "exists already" in taken.err


def test_a_plan_of_a_change_is_a_diff_and_writes_nothing(cli: Cli) -> None:
    build_region(cli)
    before = ask(cli, "region", "show", "eu")
    words = ("region", "set", "eu", "--domain", "new.example.org", "--plan")
    planned = cli(*words)
    assert planned.code == ExitCode.PLAN_HAS_CHANGES
    assert "  ~ domain: eu.example.org -> new.example.org\n" in planned.out
    (step,) = json.loads(cli(*words, "-o", "json").out)
    assert step["changes"] == [
        {"field": "domain", "before": "eu.example.org", "after": "new.example.org"}
    ]
    assert ask(cli, "region", "show", "eu") == before
    same = cli("region", "set", "eu", "--domain", "eu.example.org", "--plan")
    assert (same.code, same.out) == (0, "Nothing would change.\n")


def test_a_change_without_a_difference_is_done_already(cli: Cli) -> None:
    build_region(cli)
    before = ask(cli, "region", "show", "eu")
    assert ask(cli, "region", "set", "eu", "--domain", "eu.example.org") == before
    assert ask(cli, "region", "set", "eu") == before
    words = ("region", "set", "eu", "--debug", "--domain")
    assert "debug: PUT" not in cli(*words, "eu.example.org").err
    assert "debug: PUT" in cli(*words, "new.example.org").err


def test_every_other_mutation_has_a_plan_that_writes_nothing(cli: Cli) -> None:
    build_cloud(cli)
    ok(cli(*MACHINE))
    before = ask(cli, "operation", "list"), ask(cli, "agent", "show", "k1")["credential"]
    for words in (
        "kompute delete web", "pool default ssd --region eu", "template default debian --pool ssd",
        "subnet default net-1 --vnet tenants", "kompute stop web", "kompute reset web",
        "agent token k1", "instance suspend web", "volume delete web-os",
    ):  # fmt: skip
        planned = cli(*words.split(), "--plan")
        assert planned.code == ExitCode.PLAN_HAS_CHANGES, words
        noun, verb, name, *_ = words.split()
        assert planned.out.startswith(f"{verb} {noun} {name} ("), words
    idle = cli("kompute", "start", "web", "--plan")
    assert (idle.code, idle.out) == (0, "Nothing would change.\n")
    after = ask(cli, "operation", "list"), ask(cli, "agent", "show", "k1")["credential"]
    assert after == before


def test_several_are_deleted_and_a_refused_one_does_not_keep_the_others(cli: Cli) -> None:
    build_region(cli)
    for name in ("b", "c"):
        new(cli, f"region {name} --domain x.example.org")
    unknown = cli("region", "delete", "b", "nope", "c")
    assert unknown.code == ExitCode.NOT_FOUND
    assert len(ask(cli, "region", "list")) == 3, "none goes before all are found"
    result = cli("region", "delete", "b", "eu", "c", "c")
    assert result.code == ExitCode.CONFLICT
    assert "in use by zones (1)" in result.err
    assert result.err.count("deleted region") == 2
    assert ok(cli("region", "list", "-o", "name")).out == "eu\n"


def test_a_machine_is_made_worked_with_and_removed_by_names_only(cli: Cli) -> None:
    build_cloud(cli)
    made = ask(cli, *MACHINE, "--template", "debian", "--pool", "ssd")
    assert (made["memory"], made["disk"], made["ip"]) == (2**30, 5 * 2**30, "10.1.0.6")
    assert "1GiB" in cli("kompute", "list").out
    assert ask(cli, "kompute", "list", "--project", "shop", "--zone", "eu-a") == [made]
    assert ask(cli, "volume", "list", "--pool", "ssd")[0]["name"] == "web-os"
    assert ask(cli, "instance", "list", "--kaktus", "host-1")[0]["name"] == "web"
    half = cli("kompute", "list", "--project", "shop")
    assert half.code == ExitCode.USAGE
    assert "--project with --zone" in half.err
    states = {"stop": "Shutoff", "start": "Running", "suspend": "Paused", "resume": "Running"}
    for verb, state in states.items():
        ok(cli("kompute", verb, "web"))
        assert ask(cli, "kompute", "state", "web")["state"] == state
    assert ask(cli, "kompute", "set", "web", "--memory", "2G")["memory"] == 2**31
    assert ask(cli, "project", "usage", "shop")["memory"] == 2**31
    assert ask(cli, "project", "cost", "shop")["price"] > 0
    assert "/console/kwb_" in ask(cli, "instance", "connect", "web")["url"]
    ok(cli("kompute", "delete", "web"))
    assert ask(cli, "volume", "list") == []


def test_a_machine_from_parts_refers_to_them_by_name(cli: Cli) -> None:
    build_cloud(cli)
    disk = new(cli, "volume d --project shop --region eu --type os --size 5GiB")
    card = new(cli, "adapter n --subnet net-1 --assign-ip")
    made = ask(
        cli, "instance", "create", "m", "--project", "shop", "--zone", "eu-a", "--vcpus", 1,
        "--memory", "512MiB", "--adapter", "n", "--volume", "d",
    )  # fmt: skip
    assert (made["adapters"], made["volumes"]) == ([card], [disk])


def test_without_waiting_the_operation_is_printed_and_can_be_watched(cli: Cli) -> None:
    build_cloud(cli)
    operation_id = ok(cli(*MACHINE, "--no-wait", "-q")).out.strip()
    ok(cli("operation", "watch", operation_id))
    assert ask(cli, "operation", "show", operation_id)["kind"] == "kompute_create"
    assert ask(cli, "kompute", "show", "web")["name"] == "web"
    shown = ok(cli("kompute", "stop", "web", "--no-wait")).out
    assert shown.startswith("OPERATION  ")
    assert "domain" in ask(cli, "region", "set", "eu", "--description", "x", "--no-wait")


def test_lists_and_flat_options_replace_what_they_name(cli: Cli) -> None:
    build_region(cli)
    new(cli, "team infra")
    made = ask(
        cli, "project", "create", "p", "--team", "infra", "--tag", "a", "--tag", "b",
        "--metadata", "k=v=w", "--quota-memory", "1.5GiB", "--quota-vcpus", 4,
    )  # fmt: skip
    assert made["tags"] == ["a", "b"]
    assert made["metadatas"] == [{"key": "k", "value": "v=w"}]
    assert made["quotas"] == {"vcpus": 4, "memory": 3 * 2**29, "storage": 0, "instances": 0}
    changed = ask(cli, "project", "set", "p", "--quota-vcpus", 5, "--tag", "")
    assert changed["quotas"] == made["quotas"] | {"vcpus": 5}
    assert changed["tags"] == []
    assert changed["metadatas"] == made["metadatas"]
    odd = cli("project", "set", "p", "--metadata", "novalue")
    assert odd.code == ExitCode.USAGE
    assert "KEY=VALUE" in odd.err


def test_a_price_alone_gets_the_usual_currency(cli: Cli) -> None:
    build_region(cli)
    made = ask(cli, "kaktus", "create", "h", "--zone", "eu-a", "--cpu-price", "1.5")
    assert made["cpu_cost"] == {"price": 1.5, "currency": "EUR"}


def test_a_password_comes_from_a_private_file_and_is_not_shown(cli: Cli, tmp_path: Path) -> None:
    new(cli, "team infra")
    file = tmp_path / "password"
    file.write_text("hunter2\n")
    file.chmod(0o644)
    words = ("project", "create", "p", "--team", "infra", "--root-password-file", file)
    assert cli(*words).code == ExitCode.NOT_ALLOWED
    file.chmod(0o600)
    planned = cli(*words, "--plan")
    made = ok(cli(*words))
    assert "hunter2" not in planned.out + made.out + made.err
    assert "hunter2" not in cli(*words[:2], "q", *words[3:], "--plan", "-o", "json").out
    assert ask(cli, "project", "show", "p")["root_password"] == "hunter2"


def test_a_wrong_value_is_refused_before_anything_is_sent(cli: Cli) -> None:
    for words in (
        ("kompute", "create", "web"),
        (*MACHINE[:-1], "5GB"),
        ("agent", "create", "k", "--type", "Rabbit"),
        ("subnet", "create", "s", "--vnet", "v", "--cidr", "x"),
    ):
        result = cli(*words)
        assert (result.code, result.out) == (ExitCode.USAGE, ""), words


def test_what_the_server_refuses_names_the_field_and_exits_2(cli: Cli) -> None:
    build_region(cli)
    bad = cli("region", "set", "eu", "--domain", "not a domain")
    assert bad.code == ExitCode.USAGE
    assert "domain" in bad.err


def test_a_node_that_is_made_after_its_agent_connected_reports_at_once(cli: Cli) -> None:
    build_region(cli)
    agent_id = new(cli, "agent k1 --type Kaktus")
    until_now(lambda: bool(ask(cli, "agent", "show", agent_id)["sessions"]), "the agent is played")
    build_host(cli, "k1")


def test_no_room_exits_7(cli: Cli) -> None:
    build_cloud(cli)
    words = (*MACHINE[:-3], "2TiB", "--disk", "5GiB")
    poor = cli(*words)
    assert poor.code == ExitCode.PRECONDITION
    assert "of its quota" in poor.err
    ok(cli("project", "set", "shop", "--quota-memory", 0))
    refused = cli(*words)
    assert refused.code == ExitCode.PRECONDITION
    assert "host-1: its whole memory is" in refused.err


def test_placement_is_explained_host_by_host_and_promises_nothing(cli: Cli) -> None:
    build_cloud(cli)
    new(cli, "kaktus host-2 --zone eu-a")
    words = ("kompute", "explain", "--project", "shop", "--zone", "eu-a", "--vcpus", 1, "--memory")
    found = ask(cli, *words, "1GiB", "--pool", "ssd", "--template", "debian")
    assert found["host_name"] == "host-1"
    assert [(each["host_name"], each["reason"]) for each in found["refused"]] == [
        ("host-2", "no agent acts for it")
    ]
    assert "it would go here" in ok(cli(*words, "1GiB")).out
    nowhere = cli(*words, "1T")
    assert nowhere.code == ExitCode.PRECONDITION
    assert "host-1" in nowhere.out
    assert cli(*words, "1").code == ExitCode.USAGE
    assert ask(cli, "kompute", "list") == []


def test_machines_of_a_project_keep_apart_as_it_says(cli: Cli) -> None:
    build_cloud(cli)
    assert ok(cli("project", "spread", "shop", "-o", "name")).out == "soft\n"
    assert cli("project", "spread", "shop", "hard", "--plan").code == ExitCode.PLAN_HAS_CHANGES
    assert ask(cli, "project", "spread", "shop") == {"spread": "soft"}
    assert ask(cli, "project", "spread", "shop", "hard") == {"spread": "hard"}
    ok(cli(*MACHINE))
    second = cli("kompute", "create", "web-2", *MACHINE[3:])
    assert second.code == ExitCode.PRECONDITION
    assert "must be apart" in second.err
    assert cli("project", "spread", "f" * 24, "hard").code == ExitCode.NOT_FOUND


def test_a_closed_node_takes_no_new_machine(cli: Cli) -> None:
    build_cloud(cli)
    (node,) = ask(cli, "kaktus", "list")
    closed = ("kaktus", "schedulable", node["name"], "no")
    assert cli(*closed, "--plan").code == ExitCode.PLAN_HAS_CHANGES
    assert ask(cli, *closed[:3]) == {"schedulable": True}
    assert ask(cli, *closed) == {"schedulable": False}
    refused = cli(*MACHINE)
    assert refused.code == ExitCode.PRECONDITION
    assert "closed to new instances" in refused.err
    assert ask(cli, *closed[:3], "yes") == {"schedulable": True}
    ok(cli(*MACHINE))
    assert cli("kaktus", "schedulable", "f" * 24, "no").code == ExitCode.NOT_FOUND


def test_explain_needs_no_server(cli: Cli) -> None:
    told = ok(cli("explain", "kompute.disk")).out
    assert "disk  size" in told
    assert "--disk, needed" in told
    assert "quotas.memory" in ok(cli("explain", "project.quotas")).out
    assert "Made below: project, zone." in ok(cli("explain", "kompute")).out
    assert cli("explain", "rabbit").code == ExitCode.NOT_FOUND
    assert cli("explain", "kompute.dis").code == ExitCode.NOT_FOUND


def test_progress_is_told_on_a_terminal_and_wiped(capsys: pytest.CaptureFixture[str]) -> None:
    class TwoSeconds(threading.Event):
        rounds = 0

        def wait(self, timeout: float | None = None) -> bool:
            del timeout
            self.rounds += 1
            return self.rounds > 2

    progress._tick("create kompute web", TwoSeconds())
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\rcreate kompute web: 0 s") == 2
    assert err.endswith(" \r")
    with progress.progress("quietly"):
        pass
    assert capsys.readouterr() == ("", ""), "not on a terminal"
