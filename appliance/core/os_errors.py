"""What the operating system refuses of files, in words for whoever can mend it."""

import errno
from typing import Final

from appliance.core.errors import Forbidden, KowabungaError, Unavailable

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
GONE: Final = frozenset({errno.EIO, errno.ESTALE, errno.ENOTCONN})
DENIED: Final = frozenset({errno.EACCES, errno.EPERM})


def hint_for(failed: OSError) -> str | None:
    """Return the next step, if the trouble is one of disks and permissions."""
    if failed.errno in FULL:
        return "free some space there (df -h), or some files (df -i)"
    if failed.errno in GONE:
        return "check the disk and its mount: the kernel's log tells more"
    if failed.errno == errno.EROFS:
        return "mount it for writing; the kernel's log tells why it is not"
    if failed.errno in DENIED:
        return "give it back to the user that runs this"
    return None


def trouble_with_disk(failed: OSError) -> KowabungaError | None:
    """Return an error of ours for what is no fault of the program; None for anything else."""
    hint = hint_for(failed)
    is_denied = failed.errno in DENIED
    if hint is None or (is_denied and not failed.filename):  # a socket, a device
        return None
    kind = Forbidden if is_denied else Unavailable
    return kind(f"{failed.filename or 'the state directory'}: {failed.strerror}", hint=hint)
