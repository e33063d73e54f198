"""Decompress a file, within bounds: a few kilobytes can stand for petabytes."""

import gzip
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import BinaryIO, Final

from appliance.core.errors import InsufficientResource, Invalid
from appliance.drivers.local_pool.recognise import Content
from appliance.drivers.local_pool.sparse import SparseWriter

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_CHUNK_BYTES: Final = 2**20
_XZ_MEMORY_BYTES: Final = 2**28  # xz -9 needs 65 MiB
_BAD: Final = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstd.ZstdError)


def unpack(
    stop: Event,
    content: Content,
    source: Path,
    target: Path,
    *,
    length_bytes: int,
    room: Callable[[], int],
) -> None:
    """Write what `source` holds to `target`, with holes for zeros.

    Args:
        stop: set to end early.
        content: what `source` is.
        source: the compressed file.
        target: an empty file.
        length_bytes: how long the result may be, holes included.
        room: how much of the disk may be taken now; others take of it at the same time.

    Raises:
        Invalid: it is damaged.
        InsufficientResource: it is larger than allowed.
    """
    with source.open("rb") as packed:
        handle = os.open(target, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            writer = SparseWriter(handle)
            for chunk in _chunks(content, packed):
                if stop.is_set():
                    return
                if writer.offset + len(chunk) > length_bytes or len(chunk) > room():
                    raise InsufficientResource(
                        f"the image is larger than the pool once it is decompressed by {content}",
                        hint="delete templates that are no longer used, or add storage",
                    )
                writer.write(chunk)
            writer.finish()
        finally:
            os.close(handle)


def _chunks(content: Content, packed: BinaryIO) -> Iterator[bytes]:
    try:
        yield from _CODECS[content](packed)
    except _BAD as bad:
        raise Invalid(f"the image is damaged: {content} says: {bad}", field="url") from bad


def _gzip(packed: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=packed) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _zstd(packed: BinaryIO) -> Iterator[bytes]:
    with zstd.ZstdFile(packed) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _xz(packed: BinaryIO) -> Iterator[bytes]:
    """Not by LZMAFile, which has no limit of memory."""
    rest = packed.read(_CHUNK_BYTES)
    while rest:
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)
        while not stream.eof:
            if stream.needs_input:
                rest = rest or packed.read(_CHUNK_BYTES)
                if not rest:
                    raise EOFError("it ends too early")
            yield stream.decompress(rest, _CHUNK_BYTES)
            rest = b""
        # Another stream may follow, after padding of four zeros or more.
        rest = (stream.unused_data + packed.read(_CHUNK_BYTES)).lstrip(b"\0")


_CODECS: Final = {Content.GZIP: _gzip, Content.XZ: _xz, Content.ZSTD: _zstd}
