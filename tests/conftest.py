"""Rules that hold for every test: nothing that a test started may survive it."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
import pytest_asyncio

_CHILDREN = Path("/proc/thread-self/children")


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
