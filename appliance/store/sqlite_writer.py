"""The one thread that writes: it gathers the batches that wait and commits them together.

An outcome is told only after the COMMIT that carries it. A batch that fails takes nothing from
its neighbours: it is undone alone, and if it ends the shared transaction, each of the others is
sent again by itself.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from appliance.core.errors import DeadlineExceeded, KowabungaError, Unavailable
from appliance.store.base import Statement
from appliance.store.sqlite_file import TimeLimit
from appliance.store.statements import shape

MAX_WAITING: Final = 4096  # batches; beyond that the caller hears it at once
_MAX_STATEMENTS_TOGETHER: Final = 2048  # bounds how long the first of a group waits

Batch = tuple[Statement, ...]
Outcome = list[int] | Exception
T = TypeVar("T")
_UNTRIED: Final = KowabungaError("a batch was never tried")  # rather an error than no answer ever


@dataclass(slots=True, eq=False)
class _Job:
    batch: Batch
    answer: asyncio.Future[list[int]]
    outcome: Outcome = _UNTRIED


class Writer:
    """Owns the writing connection and its thread, from the constructor to `close`.

    Its coroutines belong to the event loop that made it.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        limit: TimeLimit,
        translate: Callable[[sqlite3.Error], KowabungaError],
    ) -> None:
        self._connection = connection
        self._limit = limit
        self._translate = translate
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._commits = 0
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        # A daemon: a store that nobody closed must not keep the process from ending. Dying at any
        # point is what the database is made for.
        threading.Thread(target=self._run, name="sqlite-writer", daemon=True).start()

    @property
    def commits(self) -> int:
        """How many transactions were committed: fewer than batches, when those come together."""
        return self._commits

    async def submit(self, batch: Batch) -> list[int]:
        """Queue a batch and wait for its commit; a caller that leaves does not stop it."""
        if self._closing:
            raise Unavailable("the store is closed")
        if self._queue.qsize() >= MAX_WAITING:
            raise Unavailable(f"{MAX_WAITING} changes are waiting to be written already")
        job = _Job(batch, self._loop.create_future())
        self._queue.put(job)
        return await job.answer

    async def close(self) -> None:
        """Write what waits, then close the connection; safe to repeat."""
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        await asyncio.shield(self._ended)

    def _run(self) -> None:
        go_on = True
        while go_on:
            jobs, go_on = self._gather()
            if jobs:
                self._write(jobs)
                self._call_loop(_answer, jobs)
        self._connection.close()
        self._call_loop(self._ended.set_result, None)

    def _call_loop(self, function: Callable[[T], None], argument: T) -> None:
        with suppress(RuntimeError):  # the loop was closed without us: nobody waits any more
            self._loop.call_soon_threadsafe(function, argument)

    def _gather(self) -> tuple[list[_Job], bool]:
        """Wait for a batch, then take those that queued up behind it; False: it was the end."""
        jobs: list[_Job] = []
        statements = 0
        job = self._queue.get()
        while job is not None:
            jobs.append(job)
            statements += len(job.batch)
            if statements >= _MAX_STATEMENTS_TOGETHER:
                return jobs, True
            try:
                job = self._queue.get_nowait()
            except Empty:
                return jobs, True
        return jobs, False

    def _write(self, jobs: list[_Job]) -> None:
        """Give each job its outcome, in as few transactions as that takes."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self._roll_back()  # should an earlier one have failed
            for job in jobs:
                job.outcome = self._translate(error)
            return
        alone = len(jobs) == 1
        try:
            for job in jobs:
                job.outcome = self._apply(job.batch) if alone else self._apply_undoably(job.batch)
            self._connection.execute("COMMIT")
            self._commits += 1
        except Exception as error:  # whatever it is: it fails its caller, never the thread
            self._roll_back()
            if alone or isinstance(self._meaning(error), DeadlineExceeded):
                for job in jobs:  # an exception each: raising one writes into it
                    job.outcome = self._meaning(error)
            else:
                for job in jobs:
                    self._write([job])

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):  # the transaction is over, even if the disk says no more
                self._connection.execute("ROLLBACK")

    def _apply(self, batch: Batch) -> list[int]:
        self._limit.restart()
        return [self._execute(statement) for statement in batch]

    def _apply_undoably(self, batch: Batch) -> Outcome:
        """Apply a batch among others; raises only if its failure undid the others too.

        Source: SQLite manual, "Response To Errors Within A Transaction": a full disk, say, may
        end the whole transaction; then no savepoint is left, and ROLLBACK TO itself fails.
        """
        self._connection.execute("SAVEPOINT batch")
        try:
            outcome: Outcome = self._apply(batch)
        except Exception as error:
            self._connection.execute("ROLLBACK TO batch")
            outcome = self._meaning(error)
        self._connection.execute("RELEASE batch")
        return outcome

    def _execute(self, statement: Statement) -> int:
        changed = self._connection.execute(statement.sql, statement.parameters).rowcount
        if shape(statement.sql).begins_with == "WITH":
            # The sqlite3 module counts only for what begins with the verb itself.
            (changed,) = self._connection.execute("SELECT changes()").fetchone()
        return max(changed, 0)  # -1 where rows do not count: CREATE, ALTER, DROP

    def _meaning(self, error: Exception) -> Exception:
        return self._translate(error) if isinstance(error, sqlite3.Error) else error


def _answer(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.answer.done():  # its caller left
            continue
        if isinstance(job.outcome, list):
            job.answer.set_result(job.outcome)
        else:
            job.answer.set_exception(job.outcome)
