"""What the operating system refuses, in our own words."""

import errno
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from appliance.core.errors import DriverError, InsufficientResource, Unavailable

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_GONE: Final = (errno.EIO, errno.ESTALE, errno.ENOTCONN)


@contextmanager
def told_as_ours() -> Generator[None]:
    """Turn an OSError of the block into an error of ours."""
    try:
        yield
    except OSError as failed:
        detail = f"{failed.filename or 'a file of the pool'}: {failed.strerror}"
        if failed.errno in _FULL:
            raise InsufficientResource(
                f"the pool is full: {detail}",
                hint="delete templates that are no longer used, or add storage",
            ) from failed
        if failed.errno in _GONE:
            raise Unavailable(f"the pool cannot be reached: {detail}") from failed
        raise DriverError(f"the pool refuses: {detail}") from failed
