import stat
from pathlib import Path

import pytest

from appliance.core.errors import Forbidden
from appliance.core.files import ensure_private_directory


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
