import asyncio
import sqlite3
import stat
from pathlib import Path

import pytest
import structlog

from appliance.core import crypto
from appliance.core.errors import Conflict, Forbidden, Invalid
from appliance.core.secret import Secret
from appliance.model.principal import MASTER
from appliance.services.master_key import ApiKeys, KeyFile, MasterKey, MasterKeyState
from appliance.store.base import Consistency, Row, Statement
from appliance.store.sqlite import SqliteStore
from tests.support.clock import ManualClock


@pytest.fixture
def master_key(store: SqliteStore, clock: ManualClock) -> MasterKey:
    return MasterKey(store, clock)


@pytest.fixture
def api_keys(store: SqliteStore) -> ApiKeys:
    return ApiKeys(store, ManualClock())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "master.key"


async def test_the_first_start_makes_a_key_that_authenticates(
    master_key: MasterKey, api_keys: ApiKeys, file: Path
) -> None:
    assert await master_key.state() is MasterKeyState.NONE
    assert await master_key.ensure(file) is KeyFile.MADE
    assert _mode(file) == 0o600
    text = _text(file)
    assert text.startswith("kwb_")
    assert text.endswith("\n")
    assert await api_keys.authenticate(text.strip()) == MASTER
    assert await master_key.state() is MasterKeyState.ENABLED


async def test_a_restart_changes_nothing(
    master_key: MasterKey, api_keys: ApiKeys, file: Path
) -> None:
    await master_key.ensure(file)
    key = _text(file)
    assert await master_key.ensure(file) is KeyFile.CURRENT
    assert _text(file) == key
    assert await api_keys.authenticate(key.strip()) == MASTER


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
async def test_a_key_that_the_owner_put_there_is_adopted(
    master_key: MasterKey, api_keys: ApiKeys, file: Path, ending: str
) -> None:
    """Also what remains of a start that died between the file and the row."""
    key = crypto.generate_api_key().reveal_text()
    _write(file, key + ending)
    assert await master_key.ensure(file) is KeyFile.ADOPTED
    assert await api_keys.authenticate(key) == MASTER
    assert _text(file) == (key + ending).replace("\r\n", "\n")


@pytest.mark.parametrize(
    "content", ["", "\n", "short", "a" * 42, "k" * 43 + "\n" + "k" * 43, "kwb_ " + "a" * 43]
)
async def test_a_malformed_file_is_refused_and_its_content_not_shown(
    master_key: MasterKey, file: Path, content: str
) -> None:
    _write(file, content)
    with pytest.raises(Invalid, match="does not hold an API key") as raised:
        await master_key.ensure(file)
    assert str(file) in str(raised.value)
    assert not content.strip() or content.strip() not in f"{raised.value!r}{raised.value}"
    assert await master_key.state() is MasterKeyState.NONE


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
async def test_a_file_that_others_can_reach_is_refused(
    master_key: MasterKey, file: Path, mode: int
) -> None:
    _write(file, crypto.generate_api_key().reveal_text(), mode)
    with pytest.raises(Forbidden, match="chmod 600"):
        await master_key.ensure(file)
    assert await master_key.state() is MasterKeyState.NONE


async def test_a_key_file_that_cannot_be_made_or_read_is_named(
    master_key: MasterKey, tmp_path: Path
) -> None:
    for file in (tmp_path / "missing" / "master.key", tmp_path):
        with pytest.raises(Invalid, match=f"{file} cannot be used"):
            await master_key.ensure(file)
    assert await master_key.state() is MasterKeyState.NONE


class _ReadTogether:
    """Answers two queries only when both were read."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._both = asyncio.Barrier(2)
        self.batch = store.batch
        self.close = store.close

    async def query(
        self, statement: Statement, consistency: Consistency = Consistency.WEAK
    ) -> list[Row]:
        rows = await self._store.query(statement, consistency)
        await self._both.wait()
        return rows


async def test_of_two_rotations_at_once_none_returns_a_key_that_does_not_work(
    master_key: MasterKey, api_keys: ApiKeys, file: Path, store: SqliteStore, clock: ManualClock
) -> None:
    await master_key.ensure(file)
    racing = MasterKey(_ReadTogether(store), clock)
    ends = await asyncio.gather(racing.rotate(), racing.rotate(), return_exceptions=True)
    [key] = [end for end in ends if isinstance(end, Secret)]
    assert [type(end) for end in ends if end is not key] == [Conflict]
    assert await api_keys.authenticate(key.reveal_text()) == MASTER


async def test_an_old_file_does_not_bring_a_rotated_key_back(
    master_key: MasterKey, api_keys: ApiKeys, file: Path
) -> None:
    await master_key.ensure(file)
    leaked = _key(file)
    new = await master_key.rotate()
    assert await api_keys.authenticate(leaked) is None
    assert await master_key.ensure(file) is KeyFile.OUTDATED
    assert await api_keys.authenticate(leaked) is None
    assert await api_keys.authenticate(new.reveal_text()) == MASTER


async def test_a_deleted_file_does_not_replace_the_key(
    master_key: MasterKey, api_keys: ApiKeys, file: Path
) -> None:
    await master_key.ensure(file)
    key = _key(file)
    _remove(file)
    assert await master_key.ensure(file) is KeyFile.ABSENT
    assert not _exists(file)
    assert await api_keys.authenticate(key) == MASTER


async def test_once_a_key_exists_not_even_the_directory_of_the_file_is_needed(
    master_key: MasterKey, file: Path
) -> None:
    await master_key.ensure(file)
    assert await master_key.ensure(file.parent / "gone" / "master.key") is KeyFile.ABSENT


async def test_disabled_stays_disabled_over_restarts_until_it_is_rotated(
    master_key: MasterKey, api_keys: ApiKeys, file: Path
) -> None:
    await master_key.ensure(file)
    key = _key(file)
    await master_key.disable()
    await master_key.disable()
    assert await master_key.state() is MasterKeyState.DISABLED
    assert await api_keys.authenticate(key) is None
    assert await master_key.ensure(file) is KeyFile.OUTDATED
    _remove(file)
    assert await master_key.ensure(file) is KeyFile.ABSENT
    assert await api_keys.authenticate(key) is None
    new = (await master_key.rotate()).reveal_text()
    assert await master_key.state() is MasterKeyState.ENABLED
    assert await api_keys.authenticate(new) == MASTER
    assert await api_keys.authenticate(key) is None


async def test_two_first_starts_end_with_one_key_and_no_false_file(
    store: SqliteStore, clock: ManualClock, api_keys: ApiKeys, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in "abcd"]
    async with asyncio.TaskGroup() as group:
        starts = [group.create_task(MasterKey(store, clock).ensure(file)) for file in files]
    outcomes = sorted(start.result() for start in starts)
    assert outcomes == [KeyFile.ABSENT, KeyFile.ABSENT, KeyFile.ABSENT, KeyFile.MADE]
    [left] = [file for file in files if _exists(file)]
    assert await api_keys.authenticate(left.read_text().strip()) == MASTER


async def test_two_first_starts_with_one_file_agree(
    store: SqliteStore, clock: ManualClock, api_keys: ApiKeys, file: Path
) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(MasterKey(store, clock).ensure(file))
    assert await api_keys.authenticate(_key(file)) == MASTER


async def test_only_the_hash_is_stored_and_nothing_is_logged(
    master_key: MasterKey, store: SqliteStore, file: Path
) -> None:
    with structlog.testing.capture_logs() as logs:
        await master_key.ensure(file)
        old = _key(file)
        new = (await master_key.rotate()).reveal_text()
        await master_key.ensure(file)
    rows = await store.query(Statement("SELECT sha256 FROM api_key"))
    assert rows == [{"sha256": crypto.hash_api_key(new)}]
    stored = b"".join(path.read_bytes() for path in (file.parent / "state").glob("state.db*"))
    for key in (old, new):
        assert key.encode() not in stored
        assert key not in str(logs)


@pytest.mark.parametrize(
    "text", ["", "kwb_", "x" * 47, "kwb_" + "a" * 43, "' OR 1=1 --" + "a" * 43]
)
async def test_what_is_no_valid_key_authenticates_nobody(
    master_key: MasterKey, api_keys: ApiKeys, file: Path, text: str
) -> None:
    await master_key.ensure(file)
    assert await api_keys.authenticate(text) is None


async def test_the_look_up_uses_the_index(store: SqliteStore) -> None:
    """The cost of a request does not grow with the number of keys."""
    database = sqlite3.connect(store._path)
    plan = database.execute(
        "EXPLAIN QUERY PLAN SELECT principal, sha256 FROM api_key WHERE sha256 = 'x'"
    ).fetchall()
    database.close()
    assert "USING INDEX" in str(plan)


def _write(file: Path, content: str, mode: int = 0o600) -> None:
    file.write_text(content)
    file.chmod(mode)


def _text(file: Path) -> str:
    return file.read_text()


def _key(file: Path) -> str:
    return file.read_text().strip()


def _mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def _exists(file: Path) -> bool:
    return file.exists()


def _remove(file: Path) -> None:
    file.unlink()
