"""Opening a database without a reactor: the checks, the making of it, and the command line's door.

The service opens its database with `Database.open` before the reactor runs, the command line has no reactor
at all; both need the same things here.  What a transaction does is left to the row functions, what a
database is to `dialect`.

The hardest idea: the command line works on the database of a *running* service, so it takes no instance
lock and relies on the database's own.  With one exception: it must not upgrade the tables under a service
of an older mailsvc.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from mailsvc.errors import StartRefused
from mailsvc.storage import migrate
from mailsvc.storage.dialect import Dialect, dialect_of
from mailsvc.storage.files import InstanceLock
from mailsvc.storage.migrate import Upgrade
from mailsvc.storage.rows import Cursor


def problems_of(url_or_path: str, upgrades: Sequence[Upgrade] | None = None) -> list[str]:
    """What would make `Database.open` fail, as sentences (but not another mailsvc); looks only."""
    try:
        dialect = dialect_of(url_or_path)
    except StartRefused as refused:
        return list(refused.problems)
    try:
        problems = dialect.obstacles()
        if problems or not dialect.exists():
            return problems
        pending(dialect, upgrades or migrate.shipped_upgrades())
    except StartRefused as refused:
        return list(refused.problems)
    except dialect.errors as error:
        return [str(dialect.failure(error))]
    return []


def pending(dialect: Dialect, upgrades: Sequence[Upgrade]) -> list[Upgrade]:
    """The upgrades that have not run on a database that exists; looks only.

    Raises `StartRefused` when it is newer than this mailsvc, or the driver's errors.
    """
    for more_tries in (2, 1, 0):
        try:
            with closing(dialect.look()) as connection, closing(dialect.cursor(connection)) as cursor:
                return migrate.pending(dialect, cursor, upgrades)
        except dialect.errors:
            # Somebody who begins to write just now makes the file seem damaged, for this one look.
            if not more_tries:
                raise
    raise AssertionError


@contextmanager
def offline(url_or_path: str, *, create: bool) -> Iterator[Cursor]:
    """One transaction for the command line, also while a service runs on the same database.

    `create` says whether a database that does not exist is made; otherwise that is `StartRefused`.
    Committed when the block ends, undone when it raises.  Raises `StartRefused` or `StorageFailure`.
    """
    dialect = _dialect_without_problems(url_or_path, create=create)
    try:
        _prepare_offline(dialect)
        with (
            closing(dialect.connect(lock_timeout=10)) as connection,
            closing(dialect.cursor(connection)) as cursor,
        ):
            dialect.begin_write(cursor)
            try:
                yield cursor
                cursor.execute("COMMIT")
            finally:
                if dialect.in_transaction(connection):
                    cursor.execute("ROLLBACK")
    except dialect.errors as error:
        raise dialect.failure(error) from error


@contextmanager
def looking(url_or_path: str) -> Iterator[Cursor]:
    """One snapshot for the command line, beside a service that may be running: nobody is held up by it.

    Raises `StartRefused` (also when there is no database) or `StorageFailure`.
    """
    dialect = _dialect_without_problems(url_or_path, create=False)
    try:
        _prepare_offline(dialect)
        # Not `look`: an export takes a while, and whoever writes meanwhile would change what it reads.
        with (
            closing(dialect.connect(lock_timeout=10)) as connection,
            closing(dialect.cursor(connection)) as cursor,
        ):
            dialect.prepare_reader(connection)
            dialect.begin_read(cursor)
            yield cursor
    except dialect.errors as error:
        raise dialect.failure(error) from error


@contextmanager
def glancing(url_or_path: str, version: int) -> Iterator[Cursor | None]:
    """One snapshot as in `looking`, which makes and upgrades nothing: None without a database of schema `version`.

    For what wants to know before the service opens its database, and in a thread beside it.
    Raises `StartRefused` or `StorageFailure`.
    """
    dialect = dialect_of(url_or_path)
    try:
        if dialect.obstacles() or not dialect.exists():
            yield None
            return
        with closing(dialect.look()) as connection, closing(dialect.cursor(connection)) as cursor:
            dialect.begin_read(cursor)
            yield cursor if migrate.version(dialect, cursor) >= version else None
    except dialect.errors as error:
        raise dialect.failure(error) from error


def prepare(dialect: Dialect, upgrades: Sequence[Upgrade]) -> list[str]:
    """Make the database when there is none, run the pending upgrades; return sentences that tell of them.

    Raises `StartRefused`.
    """
    try:
        dialect.create()
        return migrate.bring_up_to_date(dialect, upgrades, time.time())
    except dialect.errors as error:
        raise StartRefused([str(dialect.failure(error))]) from error
    except OSError as error:
        raise StartRefused([f"the database {dialect.name} cannot be made ({error.strerror})"]) from error


def _dialect_without_problems(url_or_path: str, *, create: bool) -> Dialect:
    problems = problems_of(url_or_path)
    if not problems:
        dialect = dialect_of(url_or_path)
        if create or dialect.exists():
            return dialect
        problems = [f"there is no database {dialect.name} yet; say --database FILE, or add a user or domain first"]
    raise StartRefused(problems)


def _prepare_offline(dialect: Dialect) -> None:
    upgrades = migrate.shipped_upgrades()
    if dialect.exists():
        missing = pending(dialect, upgrades)
        if not missing:
            return
        if missing[0].number > 1:
            # Not under a running service of an older mailsvc, which would meet tables that it does not know.
            lock = InstanceLock(dialect.name)
            try:
                prepare(dialect, upgrades)
            finally:
                lock.release()
            return
    prepare(dialect, upgrades)
