"""Roles that start on a disk that is full, read-only or not theirs: they say so, and no more."""

import os
import re
import shutil
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.model.node import KahunaSection, NodeConfig, Role
from appliance.model.node_status import RoleState
from tests.support.faults import What, Where, breaks
from tests.support.needs import need
from tests.support.role_run import RoleRun, run_role
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.wait import until_now

pytestmark = pytest.mark.timeout(600)
NOBODY = 65534
# Root that file modes hold for, as for any other user.
OBEYING = ("--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all", "--")


@dataclass(frozen=True, slots=True)
class Node:
    """A node whose agent has a disk of its own below that of the Kahuna."""

    directory: Path
    state: SmallDisk
    agent: SmallDisk

    def run(self, stack: ExitStack, role: Role) -> RoleRun:
        node = NodeConfig(
            roles=(Role.KAHUNA, Role.KIWI),
            name="n1",
            state=str(self.state.path),
            kahuna=KahunaSection(listen="127.0.0.1:0"),
        )
        under = (str(need("setpriv")), *OBEYING)
        return stack.enter_context(run_role(role, node, self.directory, under=under))

    def disk_of(self, role: Role) -> SmallDisk:
        return self.state if role is Role.KAHUNA else self.agent


@contextmanager
def empty_node(directory: Path) -> Generator[Node]:
    state = directory / "state"
    with small_disk(state, "24m") as disk, small_disk(state / "agent", "8m") as agent:
        yield Node(directory, disk, agent)


@pytest.fixture
def node(tmp_path: Path) -> Generator[Node]:
    with empty_node(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what a node's roles leave in its state directory."""
    directory = tmp_path_factory.mktemp("founded")
    with empty_node(directory) as made, ExitStack() as stack:
        made.run(stack, Role.KAHUNA).until_running()
        made.run(stack, Role.KIWI).until_running()
        stack.close()
        shutil.rmtree(made.state.path / "run")
        return shutil.copytree(made.state.path, directory / "copy")


def fill(disk: SmallDisk) -> None:
    disk.fill()


def make_read_only(disk: SmallDisk) -> None:
    disk.remount("ro")


def make_writable(disk: SmallDisk) -> None:
    disk.remount("rw")


def fill_inodes(disk: SmallDisk) -> None:
    disk.remount("nr_inodes=100")
    disk.fill_inodes()


def take_away(disk: SmallDisk) -> None:
    for path in (disk.path, *disk.path.rglob("*")):
        if path.lstat().st_dev == disk.path.stat().st_dev:
            os.chown(path, NOBODY, NOBODY)


def give_back(disk: SmallDisk) -> None:
    for path in (disk.path, *disk.path.rglob("*")):
        os.chown(path, 0, 0)


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is done to a disk, how it is mended, and what has to be told of it."""

    spoil: Callable[[SmallDisk], None]
    mend: Callable[[SmallDisk], None]
    told: str
    step: str

    def __str__(self) -> str:
        return self.spoil.__name__


TROUBLES = [
    Trouble(fill, SmallDisk.relieve, "[Nn]o space left|disk is full", "free some"),
    Trouble(fill_inodes, SmallDisk.relieve, "[Nn]o space left", "free some"),
    Trouble(make_read_only, make_writable, "Read-only file system", "mount it for writing"),
    Trouble(take_away, give_back, "Permission denied", "give it back"),
]
STARTS = breaks(
    What.DISK,
    "state directory full, out of inodes, read-only or not permitted at a start",
    expected="the role tells the file and the next step, leaves nothing behind, and starts once"
    " that is mended; or it runs all the same, if it has nothing to write",
    where=Where.HOST,
)


@STARTS
@pytest.mark.parametrize("role", [Role.KAHUNA, Role.KIWI])
@pytest.mark.parametrize("trouble", TROUBLES, ids=str)
def test_a_role_that_ran_here_tells_what_is_wrong(
    node: Node, founded: Path, role: Role, trouble: Trouble
) -> None:
    shutil.copytree(founded, node.state.path, dirs_exist_ok=True)
    disk = node.disk_of(role)
    before = disk.names()
    with ExitStack() as stack:
        if role is Role.KIWI:
            node.run(stack, Role.KAHUNA).until_running()
        trouble.spoil(disk)
        with ExitStack() as tried:
            ran = tell_or_run(node.run(tried, role), str(disk.path), trouble)
        trouble.mend(disk)
        assert ran or not set(disk.names()) - set(before) - {"run"}
        node.run(stack, role).until_running()


@STARTS
def test_a_kahuna_is_not_founded_on_a_full_disk(node: Node) -> None:
    node.state.fill()
    with ExitStack() as stack:
        assert not tell_or_run(node.run(stack, Role.KAHUNA), str(node.state.path), TROUBLES[0])
    node.state.relieve()
    with ExitStack() as stack:
        node.run(stack, Role.KAHUNA).until_running()


def tell_or_run(run: RoleRun, place: str, trouble: Trouble) -> bool:
    """Return whether it runs; else it has told what is wrong, where, and the next step."""
    until_now(
        lambda: run.process.poll() is not None or run.is_running, "it runs or ends", timeout_s=120
    )
    if run.is_running:
        return True
    last = run.told()[-1]
    assert last.state is RoleState.FAILED
    assert "unexpected" not in last.detail
    assert "Traceback" not in run.log.read_text()
    assert place in last.detail
    assert re.search(trouble.told, last.detail), last.detail
    assert trouble.step in last.detail
    return False
