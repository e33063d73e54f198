"""What holds for every command: codes, errors, tables, and where a key may go."""

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from appliance.cli import exit_code, failure
from appliance.cli.client import ApiClient, Connection, segment
from appliance.cli.exit_code import ExitCode, of_error, of_status
from appliance.cli.failure import Failed, NoAnswer, Refused, tell
from appliance.cli.main import root, run
from appliance.cli.output import Format, Item, field, moment, show_list
from appliance.core import errors
from appliance.core.errors import Invalid, KowabungaError, NotFound
from tests.unit.cli.conftest import Cli


def test_exit_codes_are_those_that_are_documented() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "DONE": 0,
        "BUG": 1,
        "USAGE": 2,
        "NOT_FOUND": 3,
        "NOT_ALLOWED": 4,
        "CONFLICT": 5,
        "UNREACHABLE": 6,
        "PRECONDITION": 7,
        "PLAN_HAS_CHANGES": 8,
        "TIMED_OUT": 9,
        "REVERTED": 10,
        "DEGRADED": 11,
        "UNSUPPORTED": 12,
        "INTERRUPTED": 130,
    }
    page = (Path(__file__).parents[3] / "docs" / "command-line.md").read_text()
    documented = [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)]
    assert documented == [code.value for code in ExitCode]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, 2), (401, 4), (403, 4), (404, 3), (405, 12), (409, 5), (412, 5), (413, 2), (415, 2),
        (422, 2), (500, 1), (503, 6), (504, 9), (507, 7), (418, 1),
    ],
)  # fmt: skip
def test_a_refusal_of_the_server_has_its_code(status: int, code: int) -> None:
    assert of_status(status) == code
    assert tell(Refused(status, "no"), debug=False) == code


def test_every_error_of_ours_has_a_code_of_its_own() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, KowabungaError)
    ]
    kinds.remove(KowabungaError)
    assert all(of_error(kind.code) is not ExitCode.BUG for kind in kinds)
    assert exit_code.of_error("never heard of") is ExitCode.BUG


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (NoAnswer("late"), 9, "error: late\n"),
        (Failed("half done", ExitCode.DEGRADED), 11, "error: half done\n"),
        (click.UsageError("what?"), 2, "error: what?\n"),
        (click.Abort(), 130, "aborted\n"),
        (ZeroDivisionError("oops"), 1, "error: unexpected ZeroDivisionError: oops\n"),
        (
            Invalid("the port is wrong", hint="try 25", field="port", rule="1 to 65535"),
            2,
            "error: the port is wrong\n  field: port\n  rule: 1 to 65535\n  hint: try 25\n",
        ),
        (NotFound("agent \x1b[2Jx\nerror: forged"), 3, "error: agent \\x1b[2Jx\\nerror: forged\n"),
    ],
)
def test_a_failure_is_told_with_field_rule_and_hint(
    error: Exception, code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failure.tell(error, debug=False) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(told)


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        return [(" ".join(path), command)]
    context = click.Context(command)
    found: list[tuple[str, click.Command]] = []
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        found += leaves(child, (*path, name))
    return found


def test_the_help_of_each_command_has_an_example() -> None:
    commands = leaves(root)
    assert len(commands) > 25
    for path, command in commands:
        text = command.get_help(click.Context(command, info_name=path))
        example = "eval" if path == "completion" else f"kowabunga {path.split()[0]}"
        assert command.hidden or f"Example: {example}" in text, path


def test_no_command_takes_a_secret_as_a_value() -> None:
    for path, command in leaves(root):
        names = {name for option in command.params for name in option.opts}
        assert not names & {"--api-key", "--key", "--password", "--passphrase", "--token"}, path


def test_help_and_version_import_no_heavy_library() -> None:
    program = (
        "import sys; from appliance.cli.main import run\n"
        "for words in (['--version'], ['--help']): assert run(words) == 0\n"
        "heavy = {'litestar', 'uvicorn', 'httpx', 'cryptography', 'msgspec', 'structlog', 'yaml'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_unknown_words_are_usage_errors(cli: Cli) -> None:
    for words in ([], ["nope"], ["agent", "nope"], ["agent", "show"], ["agent", "list", "-o", "x"]):
        result = cli(*words)
        assert result.code == ExitCode.USAGE, words
        assert result.out == ""


def test_an_unreachable_kahuna_is_told_with_what_to_do(cli: Cli, tmp_path: Path) -> None:
    result = cli("agent", "list", "--socket", tmp_path / "none.sock")
    assert result.code == ExitCode.UNREACHABLE
    assert "hint: is a Kahuna running on this node?" in result.err


@pytest.mark.parametrize(
    "url",
    [
        "http://kahuna.example",
        "http://10.0.0.1:8080",
        "http://127.0.0.1.evil.example",
        "ftp://x",
        "x",
        "https://h/path",
    ],
)
def test_a_key_is_never_sent_in_clear_text_or_to_no_kahuna(tmp_path: Path, url: str) -> None:
    key = tmp_path / "key"
    key.write_text("kwb_x")
    key.chmod(0o600)
    with pytest.raises(Invalid):
        ApiClient(Connection(url=url, api_key_file=key))


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("kwb_x")
    key.chmod(0o644)
    with pytest.raises(errors.Forbidden):
        ApiClient(Connection(url="http://127.0.0.1:1", api_key_file=key))


def test_an_id_cannot_walk_the_path() -> None:
    assert segment("a/../b?c#d") == "a%2F..%2Fb%3Fc%23d"
    for bad in ("", ".", ".."):
        with pytest.raises(Invalid):
            segment(bad)


_ITEMS: list[Item] = [
    {"id": "0" * 24, "name": "n" * 60, "about": "x" * 90, "made_at_ms": 1_700_000_000_000},
    {"id": "1" * 24, "name": "\x1b[31mred\u202e", "about": None, "made_at_ms": None},
]
_COLUMNS = (
    field("ID", "id"),
    field("NAME", "name"),
    field("ABOUT", "about"),
    moment("MADE", "made_at_ms", wide=True),
)


def test_a_table_fits_80_columns_and_cannot_move_the_cursor(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    show_list(_ITEMS, _COLUMNS, Format.TABLE, "id")
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "\\x1b[31mred" in out
    assert "0" * 24 in out  # ids stay whole: they are what one copies


def test_wide_shows_everything_and_times_with_their_zone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_list(_ITEMS, _COLUMNS, Format.WIDE, "id")
    out = capsys.readouterr().out
    assert "x" * 90 in out
    assert "2023-11-14T22:13:20Z" in out


def test_json_and_yaml_are_the_objects_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    show_list(_ITEMS, _COLUMNS, Format.JSON, "id")
    out = capsys.readouterr().out
    assert json.loads(out) == _ITEMS
    assert out.isascii()
    show_list(_ITEMS, _COLUMNS, Format.NAME, "id")
    assert capsys.readouterr().out.split() == ["0" * 24, "1" * 24]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(cli: Cli, shell: str) -> None:
    result = cli("completion", shell)
    assert result.code == 0
    assert "_KOWABUNGA_COMPLETE" in result.out


def test_completion_offers_nouns_and_verbs() -> None:
    for words, expected in (("kowabunga age", "agent"), ("kowabunga agent enr", "enrol")):
        done = subprocess.run(
            [sys.executable, "-m", "appliance"],
            capture_output=True,
            text=True,
            check=False,
            env={
                "_KOWABUNGA_COMPLETE": "bash_complete",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split()) - 1),
            },
        )
        assert expected in done.stdout


def test_an_interrupt_has_its_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(root, "main", interrupt)
    assert run([]) == ExitCode.INTERRUPTED


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        [
            "bash", "-c", 'set -o pipefail; "$0" -m appliance completion bash | true; echo $?',
            sys.executable,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "0"
    assert done.stderr == ""
