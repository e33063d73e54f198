"""The mark of tests that break something, and the page that is made from them: docs/faults.md."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import pytest

LONG: Final = "KOWABUNGA_LONG_TESTS" in os.environ


class What(StrEnum):
    """What is broken: a section of the page, in its order."""

    INPUT = "Bad input"
    TEMPLATE = "Bad templates"
    DISK = "Disk full, read-only, not permitted"
    PROCESS = "Processes that die"
    DATABASE = "The state database"
    CLOCK = "Clocks"
    NETWORK = "The network between agent and Kahuna"
    CROWD = "Many nodes, much time"


class Where(StrEnum):
    """Where it is tried."""

    HOST = "host"  # real daemons and processes of the machine that runs the tests
    NAMESPACE = "namespace"  # the same, in network or mount namespaces of their own
    GUEST = "guest"  # inside a virtual machine, with a kernel of its own
    SIMULATED = "simulated"  # fake drivers, a clock or a network in memory


@dataclass(frozen=True, slots=True)
class Fault:
    what: What
    fault: str
    expected: str
    where: Where
    long: bool


def breaks(
    what: What, fault: str, *, expected: str, where: Where, long: bool = False
) -> pytest.MarkDecorator:
    """Mark a test, or one `pytest.param`, as the trial of a fault: a row of the page.

    Several tests with the same row are one row; one test may carry several marks. With `long`, it
    runs only in `./build.sh test --long`.
    """
    return pytest.mark.breaks(Fault(what, fault, expected, where, long))


def faults_of(item: pytest.Item) -> list[Fault]:
    return [mark.args[0] for mark in item.iter_markers("breaks")]


def is_whole(config: pytest.Config) -> bool:
    """Tell whether all tests were collected, not some that somebody named."""
    chosen = [config.getoption(name) for name in ("keyword", "markexpr", "deselect", "ignore")]
    return config.args == config.getini("testpaths") and not any(chosen)


_TOP: Final = """\
# Faults

What was broken on purpose, and what has to happen then. Each row is a test, or several, and comes
from them: `./build.sh faults` runs them all, or those that it is given, and writes their rows if
all passed; a test of every run fails if a row is missing or has no test any more. After each of
them the state is sound: every row has its thing, every thing its row (`kowabunga state verify`).

Where: *host* and *namespace* are real daemons and processes (libvirtd, QEMU, Kahuna, agents);
*guest* is a virtual machine with a kernel of its own; *simulated* are fake drivers, or a clock or
network in memory. Seconds are those of the run that wrote the row, all its tests together, on two
cores and mostly beside other work.
Rows with *long* run by `./build.sh test --long` only.
"""


def page(seconds: Mapping[Fault, float], kept: str = "") -> str:
    """Return the page of these faults, and of those that only the page `kept` has."""
    rows = _rows(kept)
    for fault, duration in seconds.items():
        rows.setdefault(fault.what, {})[row_start(fault)] = f" {_rounded(duration)} |"
    lines = [_TOP]
    for what in filter(rows.get, What):
        lines += [f"## {what}", "", "| Fault | Expected | Where | Seconds |", "|---|---|---|---:|"]
        lines += [start + end for start, end in sorted(rows[what].items())] + [""]
    return "\n".join(lines)


def _rows(text: str) -> dict[str, dict[str, str]]:
    """Return the rows of a page by section: how each begins, and its duration."""
    found: dict[str, dict[str, str]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("| ") and not line.startswith("| Fault |"):
            start, duration, _ = line.rsplit("|", 2)
            found.setdefault(section, {})[start + "|"] = duration + "|"
    return found


def row_start(row: Fault) -> str:
    """Return a row without its duration, which differs from run to run."""
    where = f"{row.where}, long" if row.long else row.where
    return f"| {row.fault} | {row.expected} | {where} |"


def missing_and_stale(written: str, rows: Iterable[Fault]) -> tuple[list[str], list[str]]:
    """Return the rows that the page lacks, and those of the page that no test has."""
    there = {start for section in _rows(written).values() for start in section}
    wanted = {row_start(row) for row in rows}
    return sorted(wanted - there), sorted(there - wanted)


def _rounded(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}"
