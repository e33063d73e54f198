"""Wait for a condition of the real world: never for a time."""

import asyncio
import time
from collections.abc import Callable


async def until(
    condition: Callable[[], object], what: str = "the condition", *, timeout_s: float = 60.0
) -> None:
    """Look again and again; fail with `what` did not come true."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.001)


def until_now(condition: Callable[[], bool], what: str, *, timeout_s: float = 60.0) -> None:
    """Do the same outside of asyncio."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)
