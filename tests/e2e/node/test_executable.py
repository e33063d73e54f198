"""The built executable: reproducible, quick to answer, and not to be changed unnoticed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.executable import build
from tests.support.needs import need_root

pytestmark = pytest.mark.timeout(600)

_TOP: Final = Path(__file__).resolve().parents[3]
_INPUTS: Final = (
    ".git", ".gitignore", "pyproject.toml", "README.md", "LICENSE", "appliance", "bundle",
    "requirements",
)  # fmt: skip


def run(executable: Path, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [executable, *arguments],
        env={"SHIV_ROOT": str(root), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def tree_of(root: Path) -> Path:
    (tree,) = (path for path in root.iterdir() if path.is_dir())
    return tree / "site-packages"


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def copy_checkout(source: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    for name in _INPUTS:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, copy_function=shutil.copy)
        else:
            shutil.copy(source / name, target / name)  # and with new times
    return target


def test_two_builds_in_different_places_are_identical(tmp_path: Path) -> None:
    one = copy_checkout(_TOP, tmp_path / "one")
    two = copy_checkout(one, tmp_path / "another" / "place")
    first, second = (
        build(checkout, checkout / "dist" / "kowabunga", python=Path(sys.executable))
        for checkout in (one, two)
    )
    assert first.read_bytes() == second.read_bytes()


def test_is_at_most_25_megabytes(executable: Path) -> None:
    assert executable.stat().st_size <= 25_000_000


def test_version_names_the_commit_and_unpacks_nothing(executable: Path, memory: Path) -> None:
    head = subprocess.run(
        ["git", "-C", _TOP, "log", "-1", "--abbrev=12", "--format=%h"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    done = run(executable, memory / "root", "--version")
    assert done.returncode == 0
    assert head in done.stdout
    assert not (memory / "root").exists()


def test_second_start_unpacks_nothing_and_leaves_the_tree_as_it_was(
    executable: Path, memory: Path
) -> None:
    assert run(executable, memory, "role", "--help").returncode == 0
    before = {path: path.stat().st_mtime_ns for path in tree_of(memory).rglob("*")}
    assert run(executable, memory, "role", "--help").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in tree_of(memory).rglob("*")} == before


@pytest.mark.parametrize(
    "pattern",
    [
        "click/__pycache__/core.*.pyc",
        "msgspec/_core.*.so",
        # A source file counts as well, though its byte code is what runs: `serve` finds it below.
        "appliance/__pycache__/__main__.*.pyc",
    ],
)
def test_a_changed_byte_of_what_is_imported_ends_the_start(
    executable: Path, memory: Path, pattern: str
) -> None:
    assert run(executable, memory, "role", "show", "--help").returncode == 0
    (victim,) = tree_of(memory).glob(pattern)
    flip_a_byte(victim)
    done = run(executable, memory, "role", "show", "--config", str(memory / "none.yaml"))
    assert done.returncode == 6
    assert f"{victim} is not what was built" in done.stderr


def test_a_module_that_was_not_built_is_not_imported(executable: Path, memory: Path) -> None:
    assert run(executable, memory, "role", "--help").returncode == 0
    planted = tree_of(memory) / "click.py"
    shutil.rmtree(tree_of(memory) / "click")
    planted.write_text("raise SystemExit(0)\n")
    done = run(executable, memory, "role", "--help")
    assert done.returncode == 6
    assert f"{planted} is not what was built" in done.stderr


@pytest.mark.parametrize("change", ["flip", "remove", "add"])
def test_serve_finds_any_damage_of_the_tree_and_unpacks_again(
    executable: Path, memory: Path, change: str
) -> None:
    assert run(executable, memory, "serve", "--help").returncode == 0
    victim = next(tree_of(memory).glob("appliance/store/migrations/*.sql"))
    good = victim.read_bytes()
    match change:
        case "flip":
            flip_a_byte(victim)
        case "remove":
            victim.unlink()
        case _:
            victim.with_name("9999_planted.sql").write_text("DROP TABLE agent;")
    done = run(executable, memory, "serve", "--help")
    assert done.returncode == 0
    assert "unpacking again" in done.stderr
    assert victim.read_bytes() == good
    assert not victim.with_name("9999_planted.sql").exists()
    assert "unpacking again" not in run(executable, memory, "serve", "--help").stderr


@pytest.mark.parametrize("unpacked_before", [True, False])
def test_a_changed_byte_of_the_archive_is_found_by_serve(
    executable: Path, memory: Path, *, unpacked_before: bool
) -> None:
    damaged, root = memory / "kowabunga", memory / "root"
    shutil.copy(executable, damaged)
    if unpacked_before:
        assert run(damaged, root, "serve", "--help").returncode == 0
    flip_a_byte(damaged)
    done = run(damaged, root, "serve", "--help")
    assert done.returncode == 6
    assert f"{damaged} is damaged" in done.stderr


def test_what_a_crashed_start_with_the_same_process_id_left_is_no_obstacle(
    executable: Path, memory: Path
) -> None:
    assert run(executable, memory, "role", "list").returncode == 0
    tree = tree_of(memory).parent
    shutil.rmtree(tree)
    script = 'mkdir "$1.$$.tmp"; touch "$1.$$.tmp/part"; shift; exec "$@"'
    done = run(
        Path("/bin/sh"), memory, "-c", script, "sh", str(tree), str(executable), "role", "list"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(memory.iterdir()) == [tree]


def test_a_place_that_others_may_write_is_refused(executable: Path, memory: Path) -> None:
    root = memory / "root"
    root.mkdir()
    root.chmod(0o777)
    done = run(executable, root, "role", "--help")
    assert done.returncode == 6
    assert "can be written by others" in done.stderr
    assert not list(root.iterdir())


def test_a_place_that_another_user_owns_is_refused(executable: Path, memory: Path) -> None:
    need_root()
    root = memory / "root"
    root.mkdir()
    os.chown(root, 65534, 65534)
    done = run(executable, root, "role", "--help")
    assert done.returncode == 6
    assert "owner 65534" in done.stderr


def test_another_build_is_removed_once_nothing_runs_from_it(executable: Path, memory: Path) -> None:
    idle, busy = memory / "kowabunga_idle", memory / "kowabunga_busy"
    idle.mkdir(mode=0o700)
    busy.mkdir(mode=0o700)
    with subprocess.Popen(["flock", "--shared", busy, "cat"], stdin=subprocess.PIPE) as holder:
        while subprocess.run(["flock", "-n", "-x", busy, "true"], check=False).returncode == 0:
            assert holder.poll() is None
        assert run(executable, memory, "role", "--help").returncode == 0
        assert holder.stdin is not None
        holder.stdin.close()
    assert not idle.exists()
    assert busy.exists()
