"""What a Tab puts on the command line: never anything that a shell would run."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.faults import What, Where, breaks
from tests.support.needs import need
from tests.unit.cli.conftest import Cli

_TAB = """
eval "$SCRIPT"
COMP_WORDS=(kowabunga region show a) COMP_CWORD=3
_kowabunga_completion kowabunga
printf '%s\\n' "${COMPREPLY[@]}"
for word in "${COMPREPLY[@]}"; do eval "printf '<%s>' $word"; done
"""


@breaks(
    What.INPUT,
    "an object whose name is a command, completed by Tab",
    expected="bash has it quoted on its command line, as zsh and fish do by themselves",
    where=Where.HOST,
)
@pytest.mark.parametrize(
    "name",
    ["a; touch owned", "a$(touch owned)", "a`touch owned`", "a*", "a b", "a\\nb", "a'\"", "a>owned",
     "a&", "a,b", "aé🏄"],
)  # fmt: skip
def test_bash_gets_names_quoted(cli: Cli, tmp_path: Path, name: str) -> None:
    made = cli("completion", "bash")
    assert made.code == 0
    (tmp_path / "abc").touch()  # what "a*" would be read as
    fake = tmp_path / "kowabunga"
    fake.write_text('#!/bin/sh\nprintf "plain,%s\\n" "$NAME"\n')
    fake.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        [need("bash"), "--norc", "-c", _TAB],
        env={"SCRIPT": made.out, "NAME": name, "PATH": path, "LC_ALL": "C.UTF-8"},
        cwd=tmp_path, capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.decode().rpartition("\n")[2] == f"<{name}>", done.stderr.decode()
    assert not (tmp_path / "owned").exists()
