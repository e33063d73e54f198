"""Setting the roles keeps everything else of the node file: settings, comments, form."""

import threading
from pathlib import Path

import pytest

from appliance.core.config import with_list
from appliance.core.errors import Conflict, Invalid
from appliance.core.files import exclusive
from appliance.model.node import Role
from appliance.roles.node_file import (
    NodeFiles,
    digest_of,
    hold,
    read_node_file,
    set_roles,
    supervisor_pid,
)

_EDITS = [
    ("", "roles: [kahuna, kaktus]\n"),
    ("# mine\n", "roles: [kahuna, kaktus]\n# mine\n"),
    ("roles: [kiwi] # why\nname: a\n", "roles: [kahuna, kaktus] # why\nname: a\n"),
    ("name: a\nroles: []\n", "name: a\nroles: [kahuna, kaktus]\n"),
    ("roles:\n- kiwi # why\n- konvey\n# then\nname: a\n",
     "roles: [kahuna, kaktus]\n# then\nname: a\n"),
    ("roles:\n    - kiwi\n\nname: a\n", "roles: [kahuna, kaktus]\n\nname: a\n"),
    ("'roles' : [kiwi,\n  konvey]\nname: a\n", "roles: [kahuna, kaktus]\nname: a\n"),
    ("{roles: [kiwi], name: a}\n", "{roles: [kahuna, kaktus], name: a}\n"),
    ("{name: a}\n", "{roles: [kahuna, kaktus], name: a}\n"),
    ("{}\n", "{roles: [kahuna, kaktus], }\n"),
    ("# head\n---\nname: a # tail\n", "# head\n---\nroles: [kahuna, kaktus]\nname: a # tail\n"),
    ("  name: a\n  state: /s\n", "  roles: [kahuna, kaktus]\n  name: a\n  state: /s\n"),
    ("name: ä\nroles: [kiwi]\n", "name: ä\nroles: [kahuna, kaktus]\n"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), _EDITS)
def test_only_the_list_changes(before: str, after: str) -> None:
    assert with_list(before.encode(), "roles", ["kahuna", "kaktus"]).decode() == after


@pytest.fixture
def files(tmp_path: Path) -> NodeFiles:
    return NodeFiles(tmp_path / "etc" / "node.yaml", tmp_path / "run")


def test_a_missing_file_and_its_directory_are_made(files: NodeFiles) -> None:
    assert set_roles(files, [Role.KAHUNA])
    assert read_node_file(files.config) == b"roles: [kahuna]\n"
    assert files.config.stat().st_mode & 0o777 == 0o644


def test_the_same_roles_again_change_nothing(files: NodeFiles) -> None:
    set_roles(files, [Role.KAHUNA])
    before = files.config.stat()
    assert not set_roles(files, [Role.KAHUNA])
    assert files.config.stat() == before


@pytest.mark.parametrize("broken", ["roles: [kahuna\n", "rolls: []\n", "name: a\nname: b\n"])
def test_a_broken_file_is_refused_and_left_alone(files: NodeFiles, broken: str) -> None:
    files.config.parent.mkdir()
    files.config.write_text(broken)
    with pytest.raises(Invalid):
        set_roles(files, [Role.KAHUNA])
    assert files.config.read_text() == broken


def test_roles_that_contradict_the_rest_are_refused_and_nothing_is_written(
    files: NodeFiles,
) -> None:
    with pytest.raises(Invalid, match="no Kahuna runs on this node"):
        set_roles(files, [Role.KAKTUS])
    assert not files.config.exists()


def test_a_second_writer_waits_for_the_first(files: NodeFiles) -> None:
    files.config.parent.mkdir()
    written = threading.Event()

    def write() -> None:
        set_roles(files, [Role.KAHUNA])
        written.set()

    with exclusive(files.config.with_name(".node.yaml.lock"), "test"):
        thread = threading.Thread(target=write)
        thread.start()
        assert not written.wait(0.2)
        assert not files.config.exists()
    assert written.wait(10)
    thread.join()
    assert files.config.exists()


def test_a_lock_that_stays_held_is_a_conflict(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with (
        exclusive(lock, "first"),
        pytest.raises(Conflict, match="second"),
        hold(lock, "second", wait_s=0.1),
    ):
        pytest.fail("both hold it")


def test_an_error_inside_a_held_lock_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="mine"), hold(tmp_path / "lock", "me"):
        raise Conflict("mine")


def test_whoever_only_looks_is_not_taken_for_the_supervisor(files: NodeFiles) -> None:
    files.runtime.mkdir()
    assert supervisor_pid(files) is None
    with hold(files.lock, "supervisor"):
        pass
    assert supervisor_pid(files) is None


def test_missing_and_empty_files_differ() -> None:
    assert digest_of(None) != digest_of(b"")
