import stat
from pathlib import Path

import pytest

from appliance.core.errors import Corrupt, Forbidden
from appliance.services.node_identity import ensure_node_identity


def test_the_identity_is_born_once_and_stays(tmp_path: Path) -> None:
    first = ensure_node_identity(tmp_path / "keys")
    assert ensure_node_identity(tmp_path / "keys") == first
    assert ensure_node_identity(tmp_path / "other") != first


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    ensure_node_identity(tmp_path / "keys")
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "keys/node.key").stat().st_mode) == 0o600


def test_a_key_that_the_group_can_read_is_refused(tmp_path: Path) -> None:
    ensure_node_identity(tmp_path)
    (tmp_path / "node.key").chmod(0o640)
    with pytest.raises(Forbidden, match="0640") as raised:
        ensure_node_identity(tmp_path)
    assert "chmod 600" in str(raised.value.hint)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"id":"a","signing_key":"YQ==","sealing_key":"YQ=="}']
)
def test_a_damaged_file_is_refused_not_replaced(tmp_path: Path, content: bytes) -> None:
    ensure_node_identity(tmp_path)
    (tmp_path / "node.key").write_bytes(content)
    with pytest.raises(Corrupt, match="not a node key"):
        ensure_node_identity(tmp_path)
    assert (tmp_path / "node.key").read_bytes() == content


def test_what_it_shows_has_no_private_key(tmp_path: Path) -> None:
    identity = ensure_node_identity(tmp_path)
    file = (tmp_path / "node.key").read_text()
    for shown in (repr(identity), repr(identity.public())):
        assert identity.signing_key.reveal().hex() not in shown
        for private in (part for part in file.split('"') if len(part) == 44):
            assert private not in shown
