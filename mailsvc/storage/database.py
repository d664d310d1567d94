"""The door to the database: transactions for the service, and one for the command line.

`Database` is one service's database: one connection writes, a few read, each in a thread of adbapi's pools.
`write` gathers jobs into group commits (`batch`), `read` gives a snapshot; both take a plain function of a
cursor and answer with a Deferred.  Which SQL the functions speak is theirs; what the files are is
`dialect`'s.

Three promises:

- a Deferred of `write` fires with a value only after COMMIT, and COMMIT waits for the disk;
- whatever the database could not do is a `StorageFailure`; what the function raised comes as it was;
- after a full disk, a lock or an I/O error the next transaction tries anew, so that it works again by itself
  as soon as the cause is gone.

The hardest idea is the end of life: adbapi's Deferreds never fire once its pool is stopped, and stopping
waits for running threads while the reactor stands still.  So `close` refuses new work at once, lets the
queue and the readers finish while the reactor runs, and only then stops pools that are idle.

Cancelling a Deferred of `write` takes a queued job out of the queue.  A job that is running by then is
committed or not, as if nobody had asked.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailsvc.errors import StartRefused, StorageFailure
from mailsvc.storage import migrate
from mailsvc.storage.batch import Batch, Job, Outcome, commit_together
from mailsvc.storage.dialect import dialect_of
from mailsvc.storage.files import InstanceLock
from mailsvc.storage.migrate import Upgrade
from mailsvc.storage.opening import offline, prepare, problems_of
from mailsvc.storage.pool import Pool
from mailsvc.storage.rows import Cursor

__all__ = ["Database", "offline", "problems_of"]

P = ParamSpec("P")
T = TypeVar("T")

BATCH_JOBS = 256
"""The most jobs of one transaction."""

BATCH_SECONDS = 0.05
"""A transaction that has worked so long begins no further job: huge messages must not hold up everybody."""

RESERVE = 32 * 1024 * 1024
"""Octets of the disk that are not for new mail, so that the log can still grow when mail is removed."""

LOCK_SECONDS = 5.0
"""How long a transaction waits while another process (the command line) writes."""


class Database:
    """The database of one service; `open` before use, `close` at the end.

    `url_or_path` is what `--database` says, `readers` the most reads that run at once, `upgrades` the
    schema (the one that is shipped unless a test brings its own).
    """

    _log = Logger()

    def __init__(
        self,
        url_or_path: str,
        reactor: Any,
        *,
        readers: int = 4,
        upgrades: Sequence[Upgrade] | None = None,
        lock_timeout: float = LOCK_SECONDS,
    ) -> None:
        self._url_or_path = url_or_path
        self._reactor = reactor
        self._reader_count = readers
        self._upgrades = upgrades
        self._lock_timeout = lock_timeout
        self._is_open = False
        self._queue: deque[tuple[Job, Deferred[Any]]] = deque()
        self._writing = False
        self._reading = 0
        self._spoiled = False
        self._log_identity: object = None
        self._failing = False
        self._reusable = 0
        self._idle: Deferred[None] | None = None
        self._closed: Deferred[None] | None = None

    @property
    def name(self) -> str:
        """Where the mail is kept, for people: the real path of the file."""
        return dialect_of(self._url_or_path).name

    @property
    def instance(self) -> str:
        """The name of the lock that is held; see `mailsvc.storage.store.HeldStore`."""
        return self._lock.name if self._is_open else ""

    def open(self) -> None:
        """Make the database when there is none, lock it for this process, upgrade it; synchronous.

        Raises `StartRefused` with everything that is in the way.
        """
        problems = problems_of(self._url_or_path, self._upgrades)
        if problems:
            raise StartRefused(problems)
        self._dialect = dialect = dialect_of(self._url_or_path)
        self._lock = InstanceLock(dialect.name)
        try:
            for told in prepare(dialect, self._upgrades or migrate.shipped_upgrades()):
                self._log.warn("{told}", told=told)
        except BaseException:
            self._lock.release()
            raise
        self._identity = dialect.identity()
        self._log_identity = None
        with suppress(dialect.errors), closing(dialect.look()) as connection:
            self._reusable = dialect.reusable_octets(connection)
        arguments = dialect.arguments(self._lock_timeout)
        self._writer = Pool(self._reactor, dialect.driver, arguments, dialect.prepare_writer, 1)
        self._readers = Pool(self._reactor, dialect.driver, arguments, dialect.prepare_reader, self._reader_count)
        self._closed = None
        self._is_open = True

    def write(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `fn(txn, *args, **kwargs)` in the next group commit; fires with what it returned, after COMMIT.

        Fails with what `fn` raised (its work is then undone) or with `StorageFailure`.
        """
        if not self._is_open:
            return fail(self._refusal())
        job = Job(lambda txn: fn(txn, *args, **kwargs))
        done: Deferred[T] = Deferred(lambda _: setattr(job, "abandoned", True))
        self._queue.append((job, done))
        self._start_writing()
        return done

    def read(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `fn(txn, *args, **kwargs)` on a snapshot of what is committed; fires with what it returned.

        Fails with what `fn` raised or with `StorageFailure`.
        """
        if not self._is_open:
            return fail(self._refusal())
        job = Job(lambda txn: fn(txn, *args, **kwargs))
        done: Deferred[T] = Deferred(lambda _: setattr(job, "abandoned", True))
        self._reading += 1
        self._readers.run(self._read_in_thread, job).addBoth(self._read_done, done)
        return done

    def close(self) -> Deferred[None]:
        """Finish what was asked for, stop the threads, release the lock; new calls fail at once.

        May be called any number of times; each Deferred fires when all is done.
        """
        if self._closed is None:
            if not self._is_open:
                return succeed(None)
            self._is_open = False
            self._closed = Deferred.fromCoroutine(self._close())
        return _branch(self._closed)

    def has_room_for(self, octets: int) -> bool:
        """Whether the disk takes `octets` of mail more and keeps `RESERVE`; to be asked before mail is taken.

        Removing mail never asks: on a disk without any room left the database cannot even remove.
        """
        if not self._is_open:
            return False
        free = self._dialect.free_octets()
        if free is None:
            return True
        # What is committed lies in the log first, which grows on the disk only, and in the file later.
        return free >= octets + RESERVE // 2 and free + self._reusable >= 2 * octets + RESERVE

    def removing_helps(self) -> bool:
        """Whether mail is put off because the database is nearly full, so that what is removed makes room for mail.

        False where the rest of the disk is full: the file never becomes smaller.
        """
        if not self._is_open:
            return False
        free = self._dialect.free_octets()
        return free is not None and free >= RESERVE // 2 and free + self._reusable < RESERVE

    # The writer.

    def _start_writing(self) -> None:
        if self._writing or not self._queue:
            return
        self._writing = True
        taken = [self._queue.popleft() for _ in range(min(BATCH_JOBS, len(self._queue)))]
        running = self._writer.run(self._write_in_thread, [job for job, _ in taken])
        running.addBoth(self._written, taken)

    def _write_in_thread(self, connection: Any, jobs: list[Job]) -> Batch:
        dialect = self._dialect
        if self._spoiled:
            connection.reconnect()
            self._spoiled = False
            self._log_identity = None
        if dialect.identity() != self._identity:
            # sqlite would go on writing into a file that has no name any more, and every 250 would be a lie.
            return _all_failed(
                jobs,
                f"the database {dialect.name} was moved, removed or replaced while mailsvc runs;"
                " put it back, or start mailsvc anew",
            )
        if self._log_identity is not None and dialect.log_identity() != self._log_identity:
            # sqlite would go on here too. What the lost file held is written back when its last connection is closed
            # in order, so this one must live on until then.
            return _all_failed(
                jobs,
                f"the log of the database {dialect.name} (-wal) was removed or replaced while mailsvc runs;"
                " nothing is lost yet: stop mailsvc in order (SIGTERM), and start it again",
            )
        self._spoiled = True  # until proved otherwise
        batch = commit_together(dialect, connection, jobs, seconds=BATCH_SECONDS, clock=time.monotonic)
        self._spoiled = batch.spoiled
        if batch.failure is None:
            self._log_identity = self._log_identity or dialect.log_identity()
            with suppress(dialect.errors):
                self._reusable = dialect.reusable_octets(connection)
        return batch

    def _written(self, result: Batch | Failure, taken: list[tuple[Job, Deferred[Any]]]) -> None:
        if isinstance(result, Failure):
            # The connection could not be opened, so no job was begun.
            result = _all_failed(taken, str(self._failure(result)))
        self._tell(result.failure)
        begun = len(result.outcomes)
        self._queue.extendleft(reversed(taken[begun:]))
        # What the callbacks want to write gathers in the queue meanwhile, and becomes one batch.
        for (_, done), outcome in zip(taken, result.outcomes, strict=False):
            if done.called:
                continue
            if outcome.error is None:
                done.callback(outcome.value)
            else:
                done.errback(outcome.error)
        self._writing = False
        self._start_writing()
        self._look_whether_idle()

    # The readers.

    def _read_in_thread(self, connection: Any, job: Job) -> Any:
        dialect = self._dialect
        if job.abandoned:
            return None
        cursor = dialect.cursor(connection)
        try:
            dialect.begin_read(cursor)
            try:
                return job.run(cursor)
            finally:
                if dialect.in_transaction(connection):
                    cursor.execute("ROLLBACK")
        except dialect.errors as error:
            if dialect.spoils(error):
                # When that fails as well, adbapi tries again before the next read.
                with suppress(dialect.errors):
                    connection.reconnect()
            raise dialect.failure(error) from error
        finally:
            cursor.close()

    def _read_done(self, result: Any, done: Deferred[Any]) -> None:
        self._reading -= 1
        if not done.called:
            if not isinstance(result, Failure):
                done.callback(result)
            elif isinstance(result.value, self._dialect.errors):
                # The connection could not be opened.
                done.errback(self._failure(result))
            else:
                done.errback(result)
        self._look_whether_idle()

    # Beginning and end.

    async def _close(self) -> None:
        try:
            if self._writer.ended:
                # Closed after the reactor's end: no thread will ever take these.
                while self._queue:
                    _, done = self._queue.popleft()
                    if not done.called:
                        done.errback(self._refusal())
            else:
                await self._finish()
        finally:
            self._writer.close()
            self._readers.close()
            self._lock.release()

    async def _finish(self) -> None:
        if self._queue or self._writing or self._reading:
            self._idle = Deferred()
            await self._idle
        if not self._writer.running:
            return
        try:
            await self._writer.run(self._dialect.checkpoint)
        except self._dialect.errors as error:
            # Nothing is lost: the log is read at the next start.
            self._log.warn("{sentence}", sentence=str(self._dialect.failure(error)))

    def _look_whether_idle(self) -> None:
        if self._idle is not None and not (self._queue or self._writing or self._reading):
            idle, self._idle = self._idle, None
            idle.callback(None)

    def _failure(self, failure: Failure) -> StorageFailure:
        if isinstance(failure.value, self._dialect.errors):
            return self._dialect.failure(failure.value)
        self._log.failure("a defect in the storage of {name}", failure, name=self._dialect.name)
        return StorageFailure(f"the database {self._dialect.name} could not do it")

    def _refusal(self) -> StorageFailure:
        return StorageFailure(f"the database {self._url_or_path} is not open: mailsvc is starting or stopping")

    def _tell(self, failure: StorageFailure | None) -> None:
        """Log when writing begins to fail, and when it works again; the jobs' owners answer for the rest."""
        if failure is not None and not self._failing:
            self._log.error("{sentence}", sentence=str(failure))
        elif failure is None and self._failing:
            self._log.info("the database {name} works again", name=self._dialect.name)
        self._failing = failure is not None


def _all_failed(jobs: Sequence[object], sentence: str) -> Batch:
    return Batch([Outcome(error=StorageFailure(sentence)) for _ in jobs], StorageFailure(sentence))


def _branch(trunk: Deferred[None]) -> Deferred[None]:
    """A Deferred that fires when `trunk` does, and leaves it alone otherwise."""
    branch: Deferred[None] = Deferred()

    def both(result: Any) -> Any:
        if not branch.called:
            branch.callback(None)
        return result

    trunk.addBoth(both)
    return branch
