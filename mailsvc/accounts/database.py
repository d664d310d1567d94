"""What the logins need of a database: the two verbs of `mailsvc.storage.database.Database`, and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred

from mailsvc.storage.rows import Cursor

P = ParamSpec("P")
T = TypeVar("T")


class Database(Protocol):
    """Runs functions of a cursor in transactions; both fail with `mailsvc.errors.StorageFailure`."""

    def read(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `fn(txn, ...)` on a snapshot."""

    def write(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `fn(txn, ...)` in a transaction; fires after COMMIT."""
