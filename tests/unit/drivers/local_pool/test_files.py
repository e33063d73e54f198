"""Sparse writing, files kept between tries, and threads that are waited for."""

import asyncio
import hashlib
import os
from pathlib import Path
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.drivers.local_pool.kept_file import KeptFile, note_name
from appliance.drivers.local_pool.sparse import SparseWriter
from appliance.drivers.local_pool.threads import Threads
from tests.support.wait import until

URL = "https://images.example/a"
BLOCK = 65536
pieces = st.lists(
    st.one_of(
        st.integers(0, 3 * BLOCK).map(bytes),
        st.tuples(st.binary(min_size=1, max_size=3), st.integers(1, BLOCK)).map(
            lambda part: part[0] * part[1]
        ),
    ),
    max_size=6,
)


@given(pieces)
def test_what_is_written_sparsely_reads_the_same(parts: list[bytes]) -> None:
    handle = os.memfd_create("sparse")
    try:
        writer = SparseWriter(handle)
        for part in parts:
            writer.write(part)
        writer.finish()
        content = b"".join(parts)
        assert os.fstat(handle).st_size == writer.offset == len(content)
        assert os.pread(handle, len(content) + 1, 0) == content
    finally:
        os.close(handle)


def test_zeros_take_no_room(tmp_path: Path) -> None:
    handle = os.open(tmp_path / "sparse", os.O_RDWR | os.O_CREAT)
    try:
        writer = SparseWriter(handle)
        writer.write(bytes(16 * BLOCK) + b"x" + bytes(16 * BLOCK))
        writer.finish()
        assert os.fstat(handle).st_blocks * 512 <= 2 * BLOCK
    finally:
        os.close(handle)


class TestKeptFile:
    def test_goes_on_with_the_digest_of_the_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        first = KeptFile(path, URL)
        first.begin(0, '"one"')
        first.take(b"a" * 100 + bytes(2 * BLOCK))
        first.keep()
        first.take(b"lost")
        first.close()

        second = KeptFile(path, URL)
        assert (second.note.done_bytes, second.note.validator) == (100 + 2 * BLOCK, '"one"')
        second.rehash(Event())
        second.begin(second.note.done_bytes, '"one"')
        second.take(b"b")
        content = b"a" * 100 + bytes(2 * BLOCK) + b"b"
        assert second.finish() == hashlib.sha256(content).hexdigest()
        second.close()
        assert path.read_bytes() == content

        third = KeptFile(path, URL)
        assert third.note.sha256 == hashlib.sha256(content).hexdigest()
        third.close()

    def test_forgets_what_is_there_when_it_begins_anew(self, tmp_path: Path) -> None:
        file = KeptFile(tmp_path / "file", URL)
        file.begin(0, '"one"')
        file.take(b"old and long")
        file.keep()
        file.rehash(Event())
        file.begin(0, '"two"')
        file.take(b"new")
        assert file.finish() == hashlib.sha256(b"new").hexdigest()
        file.close()
        assert (tmp_path / "file").read_bytes() == b"new"

    @pytest.mark.parametrize("harm", ["file lost", "file cut", "note cut", "url", "no validator"])
    def test_trusts_only_a_note_that_fits(self, tmp_path: Path, harm: str) -> None:
        path, note = tmp_path / "file", tmp_path / note_name("file")
        file = KeptFile(path, URL)
        file.begin(0, None if harm == "no validator" else '"one"')
        file.take(b"content")
        file.keep()
        file.close()
        if harm == "file lost":
            path.unlink()
        elif harm == "file cut":
            path.write_bytes(b"conten")
        elif harm == "note cut":
            note.write_bytes(note.read_bytes()[:-1])
        again = KeptFile(path, URL + "?" if harm == "url" else URL)
        assert again.note.done_bytes == 0
        again.close()


class TestThreads:
    async def test_are_waited_for_when_their_caller_is_cancelled(self) -> None:
        threads = Threads("test", 1)
        begun, go_on = Event(), Event()
        ended: list[str] = []

        def work() -> None:
            begun.set()
            go_on.wait()
            ended.append("work")

        caller = asyncio.get_running_loop().create_task(threads.run(work))
        await until(begun.is_set, "the thread to begin", timeout_s=60)
        for _ in range(2):  # also one that is cancelled twice
            caller.cancel()
            await asyncio.sleep(0)
        assert not caller.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert ended == ["work"]
        threads.close()

    async def test_are_told_to_stop(self) -> None:
        threads = Threads("test", 1)
        begun = Event()

        def work(stop: Event) -> None:
            begun.set()
            stop.wait()

        caller = asyncio.get_running_loop().create_task(threads.run_until(work))
        await until(begun.is_set, "the thread to begin", timeout_s=60)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        threads.close()

    async def test_hand_on_what_is_raised(self) -> None:
        threads = Threads("test", 1)

        def work() -> None:
            raise KeyError("a")

        with pytest.raises(KeyError):
            await threads.run(work)
        threads.close()
