"""What the operating system refuses of a pool's files, in our own words."""

from collections.abc import Generator
from contextlib import contextmanager

from appliance.core.errors import DriverError, InsufficientResource, Unavailable
from appliance.core.os_errors import FULL, GONE, hint_for


@contextmanager
def told_as_ours() -> Generator[None]:
    """Turn an OSError of the block into an error of ours."""
    try:
        yield
    except OSError as failed:
        detail = f"{failed.filename or 'a file of the pool'}: {failed.strerror}"
        if failed.errno in FULL:
            raise InsufficientResource(
                f"the pool is full: {detail}",
                hint="delete templates that are no longer used, or add storage",
            ) from failed
        hint = hint_for(failed)
        if failed.errno in GONE:
            raise Unavailable(f"the pool cannot be reached: {detail}", hint=hint) from failed
        raise DriverError(f"the pool refuses: {detail}", hint=hint) from failed
