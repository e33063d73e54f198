"""The guide works as it stands: its commands are run in one shell, its outputs compared."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support.simulation import simulation

_GUIDE: Final = Path(__file__).parents[3] / "docs" / "admin-guide.md"
_BLOCK: Final = re.compile(r"^```(?P<kind>[^\n]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK: Final = "@@ end of block"
_ADDRESS: Final = "127.0.0.1:8080"
_OUTPUT: Final = ("text", "json")


@dataclass(slots=True)
class _Step:
    line: int
    commands: str
    output: str | None = None  # "..." stands for any text


def _steps(page: str) -> list[_Step]:
    steps: list[_Step] = []
    for block in _BLOCK.finditer(page):
        kind, text = block["kind"], block["text"]
        if kind == "sh":
            steps.append(_Step(page.count("\n", 0, block.start()) + 2, text))
        elif kind in _OUTPUT:
            assert steps[-1].output is None, "an output without commands"
            steps[-1].output = text
        else:
            assert kind == "sh server", f"what is to be done with a block of {kind}?"
    return steps


def _matches(wanted: str, found: str) -> bool:
    """Compare; "..." is any text, and blanks are as good as others of the same line."""
    pattern = ".*".join(re.escape(part) for part in _spaced(wanted).split("..."))
    return re.fullmatch(pattern, _spaced(found)) is not None


def _spaced(text: str) -> str:
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def _shim(directory: Path) -> Path:
    """Return a directory with `kowabunga` as it is in this checkout."""
    program = directory / "bin" / "kowabunga"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m appliance "$@"\n')
    program.chmod(0o755)
    return program.parent


@pytest.mark.timeout(600)
def test_every_command_of_the_guide_works_and_prints_what_it_says(tmp_path: Path) -> None:
    page = _GUIDE.read_text(encoding="utf-8")
    assert f"kowabunga serve --simulate --listen {_ADDRESS} --state cloud" in page
    steps = _steps(page)
    with simulation(tmp_path) as server:
        script = "".join(f"{step.commands}echo; echo '{_MARK}'\n" for step in steps)
        script = script.replace("--state cloud", "--state state")
        done = subprocess.run(
            ["bash", "-eu", "-c", script.replace(f"http://{_ADDRESS}", server.url)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
            env={
                **os.environ,
                "PATH": f"{_shim(tmp_path)}:{os.environ['PATH']}",
                "PYTHONPATH": str(_GUIDE.parents[1]),
                "COLUMNS": "80",
            },
        )
    outputs = done.stdout.split(f"\n{_MARK}\n")
    *told, last = outputs
    for step, found in zip(steps, told, strict=False):
        if step.output is not None:
            assert _matches(step.output, found), f"line {step.line} printed:\n{found}"
    reached = steps[min(len(told), len(steps) - 1)].line
    assert done.returncode == 0, f"the block of line {reached}:\n{last}\n{done.stderr}"
    assert len(told) == len(steps)


def test_the_reader_of_the_guide_finds_what_differs() -> None:
    steps = _steps("```sh\nls\n```\ntext\n```text\na...\n```\n```sh\npwd\n```\n")
    assert [(step.line, step.commands, step.output) for step in steps] == [
        (2, "ls\n", "a...\n"),
        (9, "pwd\n", None),
    ]
    assert _matches("a...\n", "abc\n")
    assert not _matches("a...\n", "bc\n")
    assert not _matches("a\n", "ab\n")
