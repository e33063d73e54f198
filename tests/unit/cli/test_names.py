"""What a Tab offers where a name is due."""

import os
import time
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from appliance.cli.main import root
from appliance.cli.names import Patience, _load, _save, names_of
from appliance.roles.kahuna import Ready
from tests.unit.cli.conftest import Cli
from tests.unit.cli.world import new, ok


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kowabunga"


def offered(*words: str) -> list[str]:
    """Return what a Tab after the last word offers."""
    *before, begun = words
    patient = {"obj": Patience(budget_s=120)}
    found = ShellComplete(root, patient, "kowabunga", "_UNUSED").get_completions(before, begun)
    return [item.value for item in found]


def build(cli: Cli) -> None:
    for name in ("east", "eden", "west"):
        new(cli, f"region {name} --domain {name}.example")
    new(cli, "agent kiwi-1 --type Kiwi")


@pytest.mark.usefixtures("cloud")
def test_names_are_offered_for_arguments_and_references(cli: Cli) -> None:
    build(cli)
    assert offered("region", "show", "e") == ["east", "eden"]
    assert offered("region", "delete", "east", "w") == ["west"]
    assert offered("zone", "create", "z1", "--region", "e") == ["east", "eden"]
    assert offered("kiwi", "create", "k", "--agent", "") == ["kiwi-1"]
    assert offered("agent", "log", "") == ["kiwi-1"]
    assert offered("region", "show", "x") == []


@pytest.mark.usefixtures("cloud")
def test_names_once_read_are_kept_for_ten_minutes_and_for_their_owner_alone(
    cli: Cli, cache: Path
) -> None:
    build(cli)
    assert offered("region", "show", "e") == ["east", "eden"]
    (file,) = cache.iterdir()
    assert (file.stat().st_mode & 0o777, cache.stat().st_mode & 0o777) == (0o600, 0o700)
    ok(cli("region", "set", "east", "--name", "elsewhere"))
    ok(cli("region", "delete", "eden"))
    assert offered("region", "show", "e") == ["east"]  # gone at once, renamed later
    # Too old, or written before a clock was put right.
    for written in (time.time() - 601, time.time() + 3600):
        _save(file, dict.fromkeys(_load(file), "east"))
        os.utime(file, (written, written))
        assert offered("region", "show", "e") == ["elsewhere"]
    file.write_text("damaged")
    assert offered("region", "show", "e") == ["elsewhere"]


def test_what_was_not_read_in_time_is_read_by_the_next_tab(cloud: Ready, cli: Cli) -> None:
    build(cli)
    moments = iter([0.0, 0.0, 60.0, 60.0])  # the beginning, then before each of three reads
    argument = click.Argument(["text"])
    context = click.Context(root, obj=Patience(120, monotonic=lambda: next(moments)))
    context.params["socket"] = cloud.local_socket
    assert names_of("region")(context, argument, "") == ["east"]
    assert offered("region", "show", "") == ["east", "eden", "west"]


def test_a_tab_that_cannot_be_answered_offers_nothing_and_says_nothing(
    cloud: Ready, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    del cloud
    monkeypatch.setenv("KOWABUNGA_SOCKET", str(tmp_path / "none.sock"))
    assert offered("region", "show", "") == []
    assert offered("region", "show", "--url", "http://kahuna.example", "") == []
    assert capfd.readouterr() == ("", "")
