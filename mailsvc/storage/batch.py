"""Group commit: many small jobs in one transaction, so that they share one wait for the disk.

Runs in the writer's thread, on a plain DB-API connection; queueing and answering is left to `database`.

Each job has a SAVEPOINT of its own: what it raises undoes its work and nobody else's.  An error of the
transaction itself (BEGIN, COMMIT, or one that made the database roll everything back) fails *every* job
that has run in it, also those that had looked good, because nothing of them is kept.

The hardest idea: a job's own error counts only once the transaction is committed.  "This account exists
already" may be true only because of an earlier job in the same batch; when that is undone the sentence
would be a lie, so then all of them get the transaction's error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mailsvc.errors import StorageFailure
from mailsvc.storage.dialect import Dialect
from mailsvc.storage.rows import Cursor


@dataclass(slots=True)
class Job:
    """Something to do in a transaction; when `abandoned` before its turn it is not done at all."""

    run: Callable[[Cursor], Any]
    abandoned: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job: the value that it returned, committed, or the error that undid it."""

    value: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """The outcomes of the first `len(outcomes)` jobs, the others were not begun.

    `failure` is the error of the transaction, None when it was committed; `spoiled` says that the
    connection should be opened anew.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    failure: StorageFailure | None = None
    spoiled: bool = False


class _TransactionLost(Exception):
    """The database has rolled back all of the transaction; `__cause__` is why."""


def commit_together(
    dialect: Dialect, connection: Any, jobs: Sequence[Job], *, seconds: float, clock: Callable[[], float]
) -> Batch:
    """Run `jobs` in order in one transaction and commit it; raises nothing.

    No job is begun when `seconds` have gone by, except the first.
    """
    cursor = dialect.cursor(connection)
    outcomes: list[Outcome] = []
    begun = 0
    try:
        dialect.begin_write(cursor)
        deadline = clock() + seconds
        for job in jobs:
            if begun and clock() >= deadline:
                break
            begun += 1
            outcomes.append(_run(dialect, connection, cursor, job))
        cursor.execute("COMMIT")
    except (dialect.errors, _TransactionLost) as error:
        cause = error.__cause__ if isinstance(error, _TransactionLost) else error
        failure = dialect.failure(cause or error)
        clean = _rolled_back(dialect, connection, cursor)
        # When not even BEGIN went through all of them have failed: each alone would wait as long again for
        # the lock. One exception object for each, as each gets a traceback of its own on its way.
        failed = [Outcome(error=StorageFailure(str(failure))) for _ in range(begun or len(jobs))]
        return Batch(failed, failure, not clean or dialect.spoils(cause or error))
    finally:
        cursor.close()
    return Batch(outcomes, None, any(_spoils(dialect, outcome.error) for outcome in outcomes))


def _run(dialect: Dialect, connection: Any, cursor: Cursor, job: Job) -> Outcome:
    if job.abandoned:
        return Outcome()
    cursor.execute("SAVEPOINT job")
    try:
        value = job.run(cursor)
        if not dialect.in_transaction(connection):
            raise dialect.errors("the transaction was lost")
    except BaseException as error:
        if not dialect.in_transaction(connection):
            raise _TransactionLost from error
        cursor.execute("ROLLBACK TO job")
        cursor.execute("RELEASE job")
        return Outcome(error=_translated(dialect, error))
    cursor.execute("RELEASE job")
    return Outcome(value)


def _translated(dialect: Dialect, error: BaseException) -> BaseException:
    if not isinstance(error, dialect.errors):
        return error
    failure = dialect.failure(error)
    failure.__cause__ = error
    return failure


def _spoils(dialect: Dialect, error: BaseException | None) -> bool:
    cause = error.__cause__ if isinstance(error, StorageFailure) else None
    return isinstance(cause, dialect.errors) and dialect.spoils(cause)


def _rolled_back(dialect: Dialect, connection: Any, cursor: Cursor) -> bool:
    try:
        if dialect.in_transaction(connection):
            cursor.execute("ROLLBACK")
    except dialect.errors:
        return False
    return not dialect.in_transaction(connection)
