"""The supervisor brings the node to what its file says, and keeps it there."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from appliance.core.aio import Backoff
from appliance.core.clock import SystemClock
from appliance.core.errors import Conflict, DriverError, Unavailable
from appliance.core.files import write_atomic
from appliance.core.watch import Watch
from appliance.model.node import Role
from appliance.model.node_status import NodeStatus, RoleState, RoleStatus
from appliance.roles.node_file import NodeFiles, digest_of, read_status
from appliance.roles.supervisor import Launch, Supervisor
from tests.support.wait import until

# A role's process that says it is up, unless its assignment asks for something else, and waits.
_STAND_IN = """\
#!/bin/sh
read -r assignment
case $assignment in
  *'"name":"crash"'*) exit 3 ;;
  *'"name":"refuse"'*) echo '{"state":"failed","detail":"no disk"}'; exit 1 ;;
  *'"name":"babble"'*) echo 'not a report' ;;
  *'"name":"crash-kaktus"'*) [ "$1" != kaktus ] || exit 3 ;;
  *'"name":"told"'*)
    pid=${assignment##*'"supervisor":'}
    echo '{"state":"running","detail":"up for '"${pid%%\\}*}"'"}'
    exec cat ;;
esac
echo '{"state":"running","detail":"up"}'
exec cat
"""


class Node:
    """A node's files, and what its supervisor tells."""

    def __init__(self, directory: Path) -> None:
        self.files = NodeFiles(directory / "etc" / "node.yaml", directory / "run")
        self.files.config.parent.mkdir()
        stand_in = directory / "stand-in"
        stand_in.write_text(_STAND_IN)
        stand_in.chmod(0o755)
        self._launch = Launch([stand_in], {})
        self.watches_left = True

    @contextmanager
    def watch(self, path: Path) -> Generator[Watch]:
        """Watch as the kernel would, while it grants watches."""
        self.refuse_watch()
        with closing(_Watch(path, self)) as watching:
            yield watching

    def refuse_watch(self) -> None:
        if not self.watches_left:
            raise DriverError("no watch left", hint="raise the limit")

    def write(self, text: str) -> None:
        write_atomic(self.files.config, text.encode())

    def supervisor(self) -> Supervisor:
        return Supervisor(
            self.files,
            self._launch,
            clock=SystemClock(),
            backoff=Backoff(first_s=0.01, max_s=0.02),
            watch=self.watch,
            look_every_s=0.01,
        )

    @asynccontextmanager
    async def supervised(self) -> AsyncGenerator[None]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.supervisor().run())
            try:
                await self.settled()
                yield
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def settled(self) -> NodeStatus:
        """Wait until the file as it is now was dealt with and nothing moves any more."""
        return await self.told(
            lambda status: status.digest == digest_of(self._content()) and status.settled
        )

    async def told(self, wanted: Callable[[NodeStatus], bool]) -> NodeStatus:
        found: list[NodeStatus] = []

        def look() -> bool:
            status = read_status(self.files)
            if status is not None and wanted(status):
                found.append(status)
            return bool(found)

        await until(look, "the supervisor tells it")
        return found[0]

    def _content(self) -> bytes | None:
        return self.files.config.read_bytes() if self.files.config.exists() else None


class _Watch(Watch):
    def __init__(self, path: Path, node: Node) -> None:
        super().__init__(path)
        self._node = node

    async def changed(self) -> None:
        await super().changed()
        self._node.refuse_watch()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def pid(status: NodeStatus, role: Role) -> int:
    found = status.roles[role].pid
    assert found is not None
    return found


def runs(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


async def test_the_roles_of_the_file_run_and_end_with_the_supervisor(node: Node) -> None:
    node.write("roles: [kahuna, kaktus]\n")
    async with node.supervised():
        status = await node.settled()
        assert {role: told.state for role, told in status.roles.items()} == {
            Role.KAHUNA: RoleState.RUNNING,
            Role.KAKTUS: RoleState.RUNNING,
        }
        assert status.healthy
        processes = [pid(status, role) for role in status.roles]
        assert all(map(runs, processes))
    assert not any(map(runs, processes))
    assert not node.files.status.exists()


async def test_without_a_file_nothing_runs_until_there_is_one(node: Node) -> None:
    async with node.supervised():
        assert (await node.settled()).roles == {}
        node.write("roles: [kahuna]\n")
        assert (await node.settled()).healthy
        assert Role.KAHUNA in (await node.settled()).roles


async def test_an_added_role_starts_and_a_removed_one_stops_and_the_rest_stays(node: Node) -> None:
    node.write("roles: [kahuna, kaktus]\n")
    async with node.supervised():
        first = await node.settled()
        node.write("roles: [kahuna, kiwi]\n")
        second = await node.settled()
        assert set(second.roles) == {Role.KAHUNA, Role.KIWI}
        assert pid(second, Role.KAHUNA) == pid(first, Role.KAHUNA)
        assert not runs(pid(first, Role.KAKTUS))


async def test_a_changed_section_restarts_its_role_only(node: Node) -> None:
    node.write("roles: [kahuna, kaktus]\n")
    async with node.supervised():
        first = await node.settled()
        node.write("roles: [kahuna, kaktus]\nkahuna: {names: [k.example]}\n")
        second = await node.settled()
        assert pid(second, Role.KAHUNA) != pid(first, Role.KAHUNA)
        assert pid(second, Role.KAKTUS) == pid(first, Role.KAKTUS)


async def test_what_concerns_every_role_restarts_every_role(node: Node) -> None:
    node.write("roles: [kahuna, kaktus]\n")
    async with node.supervised():
        first = await node.settled()
        node.write("roles: [kahuna, kaktus]\nlog_level: debug\n")
        second = await node.settled()
        assert {pid(first, role) for role in first.roles}.isdisjoint(
            pid(second, role) for role in second.roles
        )


async def test_another_comment_or_order_restarts_nothing(node: Node) -> None:
    node.write("roles: [kahuna, kaktus]\n")
    async with node.supervised():
        first = await node.settled()
        node.write("# all the same\nroles: [kaktus, kahuna]\n")
        second = await node.settled()
        assert {role: pid(second, role) for role in Role if role in second.roles} == {
            role: pid(first, role) for role in Role if role in first.roles
        }


@pytest.mark.parametrize("broken", ["roles: [kahuna\n", "rolls: []\n", "roles: [kiwi]\n"])
async def test_a_broken_file_is_refused_and_the_old_one_stays_in_force(
    node: Node, broken: str
) -> None:
    node.write("roles: [kahuna]\n")
    async with node.supervised():
        first = await node.settled()
        node.write(broken)
        refused = await node.settled()
        assert refused.error is not None
        assert str(node.files.config) in refused.error.detail
        assert "line" in refused.error.context
        assert not refused.healthy
        assert refused.roles == first.roles
        node.write("roles: [kahuna]\n")
        mended = await node.settled()
        assert mended.error is None
        assert mended.roles == first.roles


async def test_a_removed_file_is_refused_and_the_old_one_stays_in_force(node: Node) -> None:
    node.write("roles: [kahuna]\n")
    async with node.supervised():
        first = await node.settled()
        node.files.config.unlink()
        refused = await node.told(lambda status: status.error is not None)
        assert refused.error is not None
        assert "is missing" in refused.error.detail
        assert refused.roles == first.roles


async def test_an_unreadable_file_is_refused(node: Node) -> None:
    node.write("roles: [kahuna]\n")
    async with node.supervised():
        node.files.config.unlink()
        node.files.config.mkdir()
        refused = await node.told(lambda status: status.error is not None)
        assert refused.error is not None
        assert Role.KAHUNA in refused.roles


async def test_what_was_in_force_survives_a_restart_with_a_broken_file(node: Node) -> None:
    node.write("roles: [kahuna]\n")
    async with node.supervised():
        await node.settled()
    node.write("roles: [kahuna\n")
    async with node.supervised():
        status = await node.told(
            lambda status: status.roles.get(Role.KAHUNA, _NOTHING).state is RoleState.RUNNING
        )
        assert status.error is not None


async def test_a_role_that_ends_is_started_again_and_others_do_not_notice(node: Node) -> None:
    node.write("roles: [kahuna, kaktus]\nname: crash-kaktus\n")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(node.supervisor().run())
        failed = await node.told(
            lambda status: (
                status.roles.get(Role.KAKTUS, _NOTHING).failures > 2
                and status.roles[Role.KAHUNA].state is RoleState.RUNNING
            )
        )
        assert failed.roles[Role.KAHUNA].failures == 0
        await node.told(lambda status: "exit status 3" in status.roles[Role.KAKTUS].detail)
        task.cancel()


async def test_a_killed_role_is_started_again(node: Node) -> None:
    node.write("roles: [kahuna]\n")
    async with node.supervised():
        first = await node.settled()
        os.kill(pid(first, Role.KAHUNA), signal.SIGKILL)
        second = await node.told(
            lambda status: (
                status.roles[Role.KAHUNA].state is RoleState.RUNNING
                and status.roles[Role.KAHUNA].pid != pid(first, Role.KAHUNA)
            )
        )
        assert second.roles[Role.KAHUNA].failures == 1


@pytest.mark.parametrize(
    ("name", "detail"), [("refuse", "no disk"), ("crash", "exit status 3"), ("babble", "malformed")]
)
async def test_a_role_that_does_not_come_up_says_why(node: Node, name: str, detail: str) -> None:
    node.write(f"roles: [kahuna]\nname: {name}\n")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(node.supervisor().run())
        await node.told(
            lambda status: (
                status.roles.get(Role.KAHUNA, _NOTHING).state is RoleState.FAILED
                and detail in status.roles[Role.KAHUNA].detail
            )
        )
        task.cancel()


async def test_a_role_that_is_not_built_says_so(node: Node) -> None:
    node.write("roles: [konvey]\n")
    async with node.supervised():
        status = await node.settled()
        assert status.roles[Role.KONVEY].state is RoleState.DEGRADED
        assert status.roles[Role.KONVEY].detail == "not built yet"
        assert not status.healthy


async def test_a_lost_run_directory_ends_no_role(node: Node) -> None:
    node.write("roles: [kahuna]\n")
    async with node.supervised():
        process = pid(await node.settled(), Role.KAHUNA)
        shutil.rmtree(node.files.runtime)
        node.write("roles: [kahuna]\nkahuna: {names: [k.example]}\n")
        await until(lambda: not runs(process), "the change is applied all the same")
        node.files.runtime.mkdir()
        node.write("roles: [kahuna]\n")
        await until(node.files.status.exists, "the status is told again")


async def test_a_second_supervisor_is_refused(node: Node) -> None:
    async with node.supervised():
        with pytest.raises(Conflict, match="supervisor"):
            await node.supervisor().run()


async def test_the_status_names_nothing_but_what_it_should(node: Node) -> None:
    node.write("roles: [kahuna]\n")
    async with node.supervised():
        await node.settled()
        told = msgspec.json.decode(node.files.status.read_bytes())
        assert set(told) == {"pid", "version", "digest", "error", "unwatched", "roles"}


async def test_a_copy_of_the_node_file_that_cannot_be_used_ends_no_role(node: Node) -> None:
    node.files.applied.mkdir()
    node.write("roles: [kahuna]\n")
    async with node.supervised():
        pid(await node.settled(), Role.KAHUNA)
    node.write("roles: [\n")
    async with node.supervised():
        assert (await node.settled()).error is not None


async def test_a_role_is_told_whom_it_must_not_outlive(node: Node) -> None:
    node.write("roles: [kahuna]\nname: told\n")
    async with node.supervised():
        detail = (await node.settled()).roles[Role.KAHUNA].detail
        assert detail == f"up for {os.getpid()}"


_NOTHING = RoleStatus(state=RoleState.STOPPING, since_ms=0)


async def test_a_supervisor_of_another_release_is_told_as_an_unknown_state(node: Node) -> None:
    async with node.supervised():
        told = msgspec.json.decode(node.files.status.read_bytes())
        kinds: list[object] = [told | {"novelty": 1}, {"pid": 1}, []]
        for foreign in kinds:
            write_atomic(node.files.status, msgspec.json.encode(foreign))
            with pytest.raises(Unavailable, match=r"is unknown: .*another release.*role stop"):
                read_status(node.files)


async def test_without_a_watch_the_file_is_looked_at_and_no_role_ends(node: Node) -> None:
    node.write("roles: [kahuna]\n")
    async with node.supervised():
        process = pid(await node.settled(), Role.KAHUNA)
        node.watches_left = False
        for roles in ("kahuna, kaktus", "kahuna"):  # the watch is lost, then there is none
            node.write(f"roles: [{roles}]\n")
            status = await node.settled()
            assert ", ".join(status.roles) == roles
            assert pid(status, Role.KAHUNA) == process
            await node.told(lambda told: told.unwatched == "no watch left (raise the limit)")
        node.watches_left = True
        assert (await node.told(lambda told: told.unwatched == "")).healthy


async def test_a_node_starts_without_a_watch(node: Node) -> None:
    node.watches_left = False
    node.write("roles: [kahuna]\n")
    async with node.supervised():
        assert (await node.settled()).healthy
