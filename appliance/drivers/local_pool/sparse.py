"""Write a file from its beginning to its end, leaving holes where there is nothing but zeros."""

import os
from typing import Final

_BLOCK_BYTES: Final = 65536
_ZEROS: Final = bytes(_BLOCK_BYTES)


class SparseWriter:
    """Appends to an open file. Holes become part of it by `finish` only."""

    def __init__(self, handle: int, offset: int = 0) -> None:
        self._handle = handle
        self.offset = offset

    def write(self, content: bytes) -> None:
        begin = 0  # of what is not written yet
        for at in range(0, len(content), _BLOCK_BYTES):
            block = content[at : at + _BLOCK_BYTES]
            if block == _ZEROS[: len(block)]:
                self._write(content, begin, at)
                begin = at + len(block)
        self._write(content, begin, len(content))
        self.offset += len(content)

    def finish(self) -> None:
        """Make the file as long as what was written, holes at its end included, and durable."""
        os.ftruncate(self._handle, self.offset)
        os.fsync(self._handle)

    def _write(self, content: bytes, begin: int, end: int) -> None:
        view = memoryview(content)[begin:end]
        at = self.offset + begin
        while view:
            count = os.pwrite(self._handle, view, at)
            view, at = view[count:], at + count
