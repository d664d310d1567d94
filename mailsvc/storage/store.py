"""What the rest of mailsvc needs of a database: two verbs (DESIGN section 6).

`mailsvc.storage.database.Database` fits it; so does anything that runs the same functions of a cursor elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred

from mailsvc.storage.rows import Cursor

P = ParamSpec("P")
T = TypeVar("T")


class Reader(Protocol):
    """Runs functions of a cursor that only read; fails with `mailsvc.errors.StorageFailure`."""

    def read(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `fn(txn, ...)` on a snapshot."""


class Store(Reader, Protocol):
    """Runs functions of a cursor in transactions; both verbs fail with `mailsvc.errors.StorageFailure`."""

    def write(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `fn(txn, ...)` in a transaction; fires after COMMIT, which waits for the disk."""


class HeldStore(Store, Protocol):
    """A store that a lock may keep for one service."""

    @property
    def instance(self) -> str:
        """The name of the lock that this process holds, "" for none; without a dot, which ends it in other names.

        Whoever has said that name before, in this database, is dead: the kernel gives a lock to one process at a time,
        and another lock has another name.
        """
