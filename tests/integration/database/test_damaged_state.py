"""A real Kahuna on a state that was damaged while it was away, and on one that others lock.

Each damage is either told, with the file and the next step, and changes nothing more; or everything
that was acknowledged is there.
"""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import pytest

from appliance.cli.exit_code import ExitCode
from appliance.model.node import KahunaSection, NodeConfig, Role
from tests.support.faults import What, Where, breaks
from tests.support.role_run import RoleRun, run_role
from tests.support.wait import until_now

pytestmark = pytest.mark.timeout(600)
REGIONS: Final = [f"region-{number}" for number in range(20)]
_LIMIT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Kahuna:
    run: RoleRun
    state: Path

    def client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(self.state / "run" / "api.sock"))
        return httpx.Client(
            transport=transport, base_url="http://localhost/api/v1", timeout=120, trust_env=False
        )

    def add_region(self, name: str) -> httpx.Response:
        with self.client() as client:
            return client.post("/region", json={"name": name, "domain": f"{name}.example"})

    def regions(self) -> list[str]:
        with self.client() as client:
            ids = client.get("/region").json()
            return [client.get(f"/region/{each}").json()["name"] for each in ids]

    def told(self) -> str:
        return self.run.log.read_text(errors="replace")


@contextmanager
def kahuna(state: Path) -> Generator[Kahuna]:
    """Start one on a state directory; it runs when this returns, or has ended."""
    node = NodeConfig(
        roles=(Role.KAHUNA,),
        name="n1",
        state=str(state),
        kahuna=KahunaSection(listen="127.0.0.1:0"),
    )
    with tempfile.TemporaryDirectory() as logs, run_role(Role.KAHUNA, node, Path(logs)) as run:
        until_now(
            lambda: run.is_running or run.process.poll() is not None,
            "it starts",
            timeout_s=_LIMIT_S,
        )
        yield Kahuna(run, state)


@pytest.fixture
def place() -> Generator[Path]:
    """Return where a state directory may be: its socket has room for a short path only."""
    with tempfile.TemporaryDirectory(prefix="kwdb") as directory:
        yield Path(directory)


@dataclass(frozen=True, slots=True)
class States:
    """What one Kahuna left when it was stopped, and when it was killed; both with `REGIONS`."""

    stopped: Path
    killed: Path
    other: Path  # of a cluster of its own, killed


@pytest.fixture(scope="module")
def states() -> Generator[States]:
    with tempfile.TemporaryDirectory(prefix="kwdb") as directory:
        top = Path(directory)
        with kahuna(top / "state") as first:
            for name in REGIONS[:-10]:
                assert first.add_region(name).is_success
            first.run.process.terminate()
            assert first.run.process.wait(_LIMIT_S) == 0
        with kahuna(top / "state") as again:
            for name in REGIONS[-10:]:
                assert again.add_region(name).is_success
            again.run.kill()
        killed = Path(shutil.copytree(top / "state", top / "killed", ignore=_SOCKETS))
        with kahuna(top / "state") as last:
            last.run.process.terminate()
            assert last.run.process.wait(_LIMIT_S) == 0
        with kahuna(top / "other") as other:
            other.run.kill()
        yield States(top / "state", killed, top / "other")


_SOCKETS: Final = shutil.ignore_patterns("run", "probe*")


def contents(state: Path) -> dict[str, bytes]:
    """Return the files of the database, but for what every look makes anew."""
    return {
        file.name: file.read_bytes()
        for file in state.glob("state.db*")
        if file.suffix not in (".lock", ".db-shm") and (file.stat().st_size or file.suffix == ".db")
    }


def overwrite(database: Path, start: int, content: bytes) -> None:
    with database.open("r+b") as file:
        file.seek(start)
        file.write(content)


def damage_page(state: Path) -> None:
    overwrite(state / "state.db", 5 * 4096, b"\xa5" * 4096)


def damage_index(state: Path) -> None:
    """Change one key in the index of regions' names: the structure stays as it should be."""
    database = state / "state.db"
    name = REGIONS[7].encode()
    content = database.read_bytes()
    with closing(sqlite3.connect(database)) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_region_2'"
        ).fetchone()
    start, end = (root - 1) * 4096, root * 4096
    at = content.index(name, start, end)
    overwrite(database, at, b"rogion-7")


def empty(state: Path) -> None:
    os.truncate(state / "state.db", 0)


def rename(state: Path) -> None:
    with closing(sqlite3.connect(state / "state.db")) as connection:
        connection.execute("PRAGMA application_id = 42")


def make_newer(state: Path) -> None:
    with closing(sqlite3.connect(state / "state.db")) as connection:
        connection.execute("INSERT INTO schema_migration VALUES (999, 'of_tomorrow', 'x', 0)")
        connection.commit()


def cut_log(state: Path) -> None:
    os.truncate(state / "state.db-wal", (state / "state.db-wal").stat().st_size * 2 // 3)


def lose_log(state: Path) -> None:
    (state / "state.db-wal").unlink()
    (state / "state.db-shm").unlink()


def lose_index(state: Path) -> None:
    (state / "state.db-shm").unlink()


def interrupt_restore(state: Path) -> None:
    (state / "restoring").mkdir()


def told(fault: str) -> pytest.MarkDecorator:
    return breaks(
        What.DATABASE,
        fault,
        expected="Kahuna does not start, names the file and the next step, and changes nothing",
        where=Where.HOST,
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(damage_page, "is damaged", marks=told("a page is overwritten")),
        pytest.param(damage_index, "is damaged", marks=told("a bit of an index is flipped")),
        pytest.param(empty, "is empty", marks=told("the file is empty")),
        pytest.param(rename, "of another program", marks=told("it is another program's database")),
        pytest.param(make_newer, "schema 999", marks=told("it was written by a newer release")),
        pytest.param(interrupt_restore, "interrupted", marks=told("a restore was interrupted")),
    ],
)
def test_a_damaged_database_is_told(
    states: States, place: Path, damage: Callable[[Path], None], words: str
) -> None:
    state = Path(shutil.copytree(states.stopped, place / "state", ignore=_SOCKETS))
    damage(state)
    _assert_told(state, words)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(cut_log, marks=told("its log is cut after a kill -9")),
        pytest.param(lose_log, marks=told("its log is deleted after a kill -9")),
    ],
)
def test_a_log_that_lost_what_was_acknowledged_is_told(
    states: States, place: Path, damage: Callable[[Path], None]
) -> None:
    state = Path(shutil.copytree(states.killed, place / "state", ignore=_SOCKETS))
    damage(state)
    _assert_told(state, "the newest changes with it")


@told("beside it lies the log of another database")
def test_the_log_of_another_database_is_told(states: States, place: Path) -> None:
    state = Path(shutil.copytree(states.stopped, place / "state", ignore=_SOCKETS))
    shutil.copy(states.other / "state.db-wal", state / "state.db-wal")
    _assert_told(state, "state.db-wal is the log of another database")


def _assert_told(state: Path, words: str) -> None:
    before = contents(state)
    with kahuna(state) as refusing:
        code = refusing.run.process.wait(_LIMIT_S)
        log = refusing.told()
    assert code in (ExitCode.PRECONDITION, ExitCode.CONFLICT), log
    assert words in log
    assert "hint: " in log
    assert str(state / "state.db") in log or "schema" in words
    assert contents(state) == before


@breaks(
    What.DATABASE,
    "the index of its log is deleted after a kill -9",
    expected="all that was acknowledged is there",
    where=Where.HOST,
)
def test_the_index_of_a_log_is_made_anew(states: States, place: Path) -> None:
    state = Path(shutil.copytree(states.killed, place / "state", ignore=_SOCKETS))
    lose_index(state)
    with kahuna(state) as again:
        assert again.regions() == REGIONS


@breaks(
    What.DATABASE,
    "another program holds a lock for longer than Kahuna waits",
    expected="reads go on, writes are refused with the reason, and go on afterwards",
    where=Where.HOST,
)
def test_a_lock_that_another_program_holds_is_told_and_passes(place: Path) -> None:
    with kahuna(place / "state") as locked:
        assert locked.add_region("before").is_success
        with closing(sqlite3.connect(place / "state/state.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            refused = locked.add_region("refused")
            assert refused.status_code == 503
            assert "locked by another program" in refused.json()["reason"]
            assert locked.regions() == ["before"]
            other.execute("ROLLBACK")
        assert locked.add_region("after").is_success
        assert locked.regions() == ["before", "after"]


@breaks(
    What.DATABASE,
    "a second Kahuna on the same directory",
    expected="it does not start, and names the process that is there; the first goes on",
    where=Where.HOST,
)
def test_a_second_kahuna_on_one_directory_is_refused(place: Path) -> None:
    with kahuna(place / "state") as first:
        with kahuna(place / "state") as second:
            assert second.run.process.wait(_LIMIT_S) == ExitCode.CONFLICT
            assert f"held by process {first.run.process.pid}" in second.told()
        assert first.add_region("still").is_success
