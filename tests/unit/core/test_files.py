import stat
from pathlib import Path

import pytest

from appliance.core.errors import Forbidden
from appliance.core.files import ensure_private_directory, keep_written, let_pass
from tests.support.synced import watch_syncs


def test_a_directory_is_made_or_tightened_for_its_owner_alone(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "state"
    ensure_private_directory(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    directory.chmod(0o755)
    ensure_private_directory(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_directory_that_all_users_share_is_not_taken_from_them(tmp_path: Path) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(Forbidden, match="shared by all users"):
        ensure_private_directory(shared)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777


def test_a_directory_of_what_others_may_use_is_not_closed_to_them(tmp_path: Path) -> None:
    library = tmp_path / "lib"
    (library / "dpkg").mkdir(parents=True)
    library.chmod(0o755)
    (library / "dpkg").chmod(0o755)
    with pytest.raises(Forbidden, match=rf"{library} would be closed .*chmod 700 {library}"):
        ensure_private_directory(library)
    assert stat.S_IMODE(library.stat().st_mode) == 0o755
    library.chmod(0o700)
    ensure_private_directory(library)


@pytest.mark.parametrize(("name", "mode"), [("state.db", 0o644), ("agent.key", 0o600)])
def test_a_loosened_directory_of_ours_is_tightened_again(
    tmp_path: Path, name: str, mode: int
) -> None:
    state = tmp_path / "state"
    state.mkdir(0o755)
    (state / name).touch(mode)
    ensure_private_directory(state)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_a_state_that_others_may_go_through_stays_so_and_cannot_be_listed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    ensure_private_directory(state)
    let_pass(state)
    ensure_private_directory(state)
    assert stat.S_IMODE(state.stat().st_mode) == 0o711


def test_what_is_written_already_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    keep_written(file, b"one")
    before = file.stat().st_ino
    keep_written(file, b"one")
    assert file.stat().st_ino == before
    keep_written(file, b"two")
    assert file.read_bytes() == b"two"


def test_what_is_in_a_private_directory_is_there_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = watch_syncs(monkeypatch)
    ensure_private_directory(tmp_path / "state")
    assert synced == {tmp_path, tmp_path / "state"}
    synced.clear()
    ensure_private_directory(tmp_path / "state")
    assert synced == {tmp_path / "state"}
