"""A node made by the executable: from nothing to connected, changed, broken, stopped."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from appliance.model.node import Role
from tests.e2e.node.conftest import RealNode
from tests.support.needs import need, need_root
from tests.support.wait import until_now

pytestmark = pytest.mark.timeout(600)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def processes(node: RealNode) -> list[int]:
    status = node.status()
    assert status is not None
    return [status.pid, *(told.pid for told in status.roles.values() if told.pid is not None)]


def test_one_command_makes_a_connected_node_and_again_changes_nothing(node: RealNode) -> None:
    done = node.role("set", "kahuna,kiwi")
    assert "roles are kahuna, kiwi" in done.stderr
    assert "kiwi: running" in done.stderr
    assert done.stdout == ""
    assert "# a node of the tests\n" in node.files.config.read_text()
    (agent,) = node.agents()
    assert (agent["type"], agent["credential"]) == ("Kiwi", "ed25519")
    assert agent["sessions"]

    before = processes(node)
    again = node.role("set", "kahuna,kiwi")
    assert again.stderr == "nothing to do\n"
    assert processes(node) == before

    shown = node.role("show").stdout
    assert shown.splitlines()[0].split() == ["ROLE", "STATE", "SINCE", "DETAIL"]
    assert [line.split()[:2] for line in shown.splitlines()[1:]] == [
        ["kahuna", "running"],
        ["kiwi", "running"],
    ]

    node.role("stop")
    until_now(lambda: not any(map(runs, before)), "all are gone")
    assert node.role("stop").stderr == "nothing to do: nothing runs\n"


def test_a_change_by_hand_is_applied_and_a_broken_one_refused(node: RealNode) -> None:
    node.role("set", "kahuna")
    good = node.files.config.read_text()
    _, before = processes(node)

    node.files.config.write_text(good.replace("listen:", "lisen:"))
    until_now(lambda: (status := node.status()) is not None and status.error is not None, "refused")
    shown = node.role("show", code=11)
    assert f"{node.files.config}:5:3: kahuna.lisen: there is no such field" in shown.stderr
    assert "did you mean listen?" in shown.stderr
    assert "kahuna  running" in shown.stdout
    assert processes(node)[1] == before
    assert '"node_file_refused"' in node.files.log.read_text()
    refused = node.role("set", "kahuna,kiwi", code=2)
    assert "kahuna.lisen" in refused.stderr
    assert "lisen:" in node.files.config.read_text()

    node.files.config.write_text(good + "  names: [kahuna.example]\n")
    until_now(
        lambda: (
            (status := node.status()) is not None
            and status.healthy
            and status.roles[Role.KAHUNA].pid not in {None, before}
        ),
        "kahuna was restarted",
    )
    assert not runs(before)


def test_roles_die_with_their_supervisor_and_the_next_command_starts_it_again(
    node: RealNode,
) -> None:
    node.role("set", "kahuna,kiwi")
    supervisor, *children = processes(node)
    os.kill(supervisor, signal.SIGKILL)
    until_now(lambda: not any(map(runs, children)), "the roles died")
    assert "nothing supervises this node" in node.role("show", code=11).stderr
    assert "started the node's supervisor" in node.role("set", "kahuna,kiwi").stderr
    assert len(node.agents()) == 1


def test_commands_at_the_same_time_end_in_one_of_their_wishes(node: RealNode) -> None:
    wishes = ["kahuna", "kahuna,kiwi", "kiwi,kahuna"]
    started = [node.start("role", "set", wish, *node.options) for wish in wishes]
    for command in started:
        with command:
            _, error = command.communicate(timeout=180)
            assert command.returncode == 0, error
    roles = node.files.parse(node.files.config.read_bytes()).roles
    assert list(roles) in [wish.split(",") for wish in wishes]
    status = node.status()
    assert status is not None
    assert set(status.roles) == set(roles)
    assert status.healthy


def test_a_role_that_is_not_built_is_degraded(node: RealNode) -> None:
    done = node.role("set", "konvey", code=11)
    assert "konvey: degraded: not built yet" in done.stderr
    node.role("set", "")
    assert node.role("show").stdout.splitlines()[1:] == []


def test_kaktus_without_libvirt(node: RealNode) -> None:
    socket = node.directory / "no-libvirt"
    with node.files.config.open("a") as file:
        file.write(f"kaktus: {{libvirt_uri: 'qemu+unix:///system?socket={socket}'}}\n")
    done = node.role("set", "kahuna,kaktus", code=11)
    assert "kaktus: degraded: libvirt" in done.stderr
    (agent,) = node.agents()
    assert (agent["type"], bool(agent["sessions"])) == ("Kaktus", True)


def test_an_address_that_is_taken_is_named(node: RealNode) -> None:
    node.role("set", "kahuna")
    status = node.status()
    assert status is not None
    taken = status.roles[Role.KAHUNA].detail.removeprefix("https://")
    other = node.another("other", listen=taken)
    try:
        told = ""
        for timeout in ("3", "10", "30", "90"):  # a busy machine may not come so far
            told += other.role("set", "kahuna", "--timeout", timeout, code=9).stderr
            if taken in told:
                break
        assert taken in told
    finally:
        other.role("stop")


def test_serve_in_the_foreground_ends_cleanly_when_asked(node: RealNode) -> None:
    with node.start("serve", *node.options) as serving:
        until_now(lambda: (status := node.status()) is not None and status.settled, "it is up")
        refused = node.run("serve", *node.options, code=5)
        assert "the node's supervisor" in refused.stderr
        serving.terminate()
        _, log = serving.communicate(timeout=120)
    assert serving.returncode == 0, log
    assert node.status() is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--simulate", "--listen", "0.0.0.0:0", "--state", "s"], "loopback addresses only"),
        (["--simulate", "--listen", "nowhere", "--state", "s"], "not ADDRESS:PORT"),
        (["--simulate", "--state", "s"], "needs --listen"),
        (["--listen", "127.0.0.1:0"], "--listen needs --simulate"),
        (["--simulate", "--config", "c"], "--config does not go with --simulate"),
    ],
)
def test_serve_refuses_what_does_not_fit(node: RealNode, arguments: list[str], said: str) -> None:
    assert said in node.run("serve", *arguments, code=2).stderr


@pytest.mark.parametrize("roles", ["kahuma", "kahuna,kahuna", "kaktus"])
def test_roles_that_cannot_be_are_refused(node: RealNode, roles: str) -> None:
    before = node.files.config.read_text()
    node.role("set", roles, code=2)
    assert node.files.config.read_text() == before


_ON_THE_REAL_PATHS = """
set -eu
ip link set lo up
for place in /run /var/lib /etc/kowabunga; do
  mkdir -p "$place" && mount -t tmpfs -o mode=755 tmpfs "$place"
done
"$1" role set kahuna,kiwi
test "$(cat /etc/kowabunga/node.yaml)" = "roles: [kahuna, kiwi]"
test "$(stat -c %a /var/lib/kowabunga)" = 700
"$1" agent list
"$1" role set kahuna,kiwi
"$1" role stop
"""


def test_a_fresh_machine_needs_no_option_at_all(executable: Path, unpacked: Path) -> None:
    need_root()
    created = [path for path in (Path("/etc/kowabunga"),) if not path.exists()]
    try:
        done = subprocess.run(
            [need("unshare"), "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child",
             "sh", "-c", _ON_THE_REAL_PATHS, "sh", executable],
            env={"SHIV_ROOT": str(unpacked), "PATH": os.environ["PATH"]},
            capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
    finally:
        for path in created:
            path.rmdir()  # the mount point
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.splitlines()[1].split()[-2:] == ["ed25519", "yes"]
    assert done.stderr.splitlines()[-2:] == ["nothing to do", "stopped"]
