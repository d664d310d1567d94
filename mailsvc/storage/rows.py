"""How many rows a query gives, said where it is asked.

A query by key that silently gave two rows, or none, would make the code behind it wrong in a quiet way.  So
the row functions of this package never call `fetchone` themselves; they say `one`, `maybe` or `many` and a
surprise is an error at the place of the surprise.

`Cursor` is the whole of the DB-API (PEP 249) that the row functions may use.  Two rules keep them free of any
database product: parameters are written `?` (`dialect` gives a driver that wants another mark a cursor that
translates), and a new row's key is asked for with `RETURNING`, never with `lastrowid`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from mailsvc.errors import MailsvcError

Row = tuple[Any, ...]


class Cursor(Protocol):
    """The part of a DB-API cursor that row functions use; calls chain as in `one(txn.execute(...))`."""

    @property
    def rowcount(self) -> int:
        """Rows that the last INSERT, UPDATE or DELETE changed."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Cursor:
        """Run one statement; `sql` is a constant text, every value is a parameter."""

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> Cursor:
        """Run one statement once for each row of `parameters`."""

    def fetchmany(self, size: int = ...) -> list[Any]:
        """The next `size` rows."""

    def fetchall(self) -> list[Any]:
        """The rows that are left."""

    def close(self) -> None:
        """Let go of the last statement; for whoever made the cursor.

        An error's traceback keeps the cursor, and a cursor with a statement keeps a closed connection's
        files open.
        """

    def __iter__(self) -> Iterator[Any]:
        """The rows that are left, one by one."""


class UnexpectedRows(MailsvcError):
    """A query gave another number of rows than it can; the database or our code is wrong."""


def one(txn: Cursor) -> Row:
    """The only row of the last query; `UnexpectedRows` when there is none or another."""
    row = maybe(txn)
    if row is None:
        raise UnexpectedRows("the database gave no row where there must be one")
    return row


def maybe(txn: Cursor) -> Row | None:
    """The only row of the last query, or None; `UnexpectedRows` when there are more."""
    # Two are asked for although one is wanted: it also runs the statement to its end, without which sqlite
    # would leave an `INSERT ... RETURNING` unfinished.
    rows = txn.fetchmany(2)
    if len(rows) > 1:
        raise UnexpectedRows("the database gave several rows where there can be one at most")
    return tuple(rows[0]) if rows else None


def many(txn: Cursor) -> list[Row]:
    """All rows of the last query, perhaps none."""
    return txn.fetchall()


_IN_SIZES = (1, 10, 100)


def in_slices(values: Iterable[Any]) -> Iterator[tuple[str, list[Any]]]:
    """For `... IN (marks)`: the marks and the values, some at a time, so that many rows are one statement.

    Each statement gives the interpreter away to other threads and has to get it back, which costs more than its
    work. The last value may stand there again: texts of three lengths are all that the driver has to prepare.
    """
    every = list(values)
    for start in range(0, len(every), _IN_SIZES[-1]):
        some = every[start : start + _IN_SIZES[-1]]
        size = next(size for size in _IN_SIZES if size >= len(some))
        yield ", ".join("?" * size), some + some[-1:] * (size - len(some))
