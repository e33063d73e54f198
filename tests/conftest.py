"""Rules that hold for every test: nothing that a test started may survive it.

And what `--faults` does.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.faults import LONG, Fault, faults_of, is_whole, page

_CHILDREN = Path("/proc/thread-self/children")
_SECONDS = pytest.StashKey[dict[Fault, float]]()


def _children() -> set[str]:
    return set(_CHILDREN.read_text().split()) if _CHILDREN.exists() else set()


@pytest_asyncio.fixture(autouse=True)
async def _no_task_survives() -> AsyncGenerator[None]:
    """Requested before a test's own async fixtures, so torn down after them."""
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)
    # The teardown runs in a task of its own.
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"tasks left running: {left}"


@pytest.fixture(autouse=True)
def _no_child_survives() -> Generator[None]:
    before = _children()
    yield
    left = _children() - before
    assert not left, f"child processes left: {left}"


@pytest.fixture(autouse=True)
def _no_thread_survives() -> Generator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=60)
        assert not thread.is_alive(), f"thread left running: {thread.name}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", type=Path, help="write the page of the faults that were tried")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason="long: ./build.sh test --long")
    for item in items:
        if not LONG and any(row.long for row in faults_of(item)):
            item.add_marker(skip)
    if config.getoption("--faults") is not None:
        config.hook.pytest_deselected(items=[item for item in items if not faults_of(item)])
        items[:] = [item for item in items if faults_of(item)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    begin = time.monotonic()
    done = yield
    for row in faults_of(item):
        seconds = item.config.stash.setdefault(_SECONDS, {})
        seconds[row] = seconds.get(row, 0.0) + time.monotonic() - begin
    return done


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    path: Path | None = session.config.getoption("--faults")
    if path is not None and exitstatus == pytest.ExitCode.OK:
        seconds = session.config.stash.setdefault(_SECONDS, {})
        kept = "" if is_whole(session.config) else path.read_text(encoding="utf-8")
        path.write_text(page(seconds, kept), encoding="utf-8")
