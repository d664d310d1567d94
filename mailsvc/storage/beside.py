"""The store of a process that stands beside the service: each call is a transaction of its own, done at once.

For the command line and for programs that hand mail in while no reactor runs: `Beside` is a
`mailsvc.storage.store.Store` whose Deferreds have fired when they are returned, so that the coroutines of the service
(`mailsvc.smtp.intake.Intake.accept`, `mailsvc.directory.lookup.TableDirectory.resolve`) run to their end without
waiting.  Whatever they promise in the service they promise here, because it is the same code on the same rows.

The hardest idea is who may do it.  There is no login: the rights of the database's file decide (its owner and its
group), and whoever has them may do anything to the mail anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from mailsvc.storage.database import RESERVE
from mailsvc.storage.dialect import dialect_of
from mailsvc.storage.opening import looking, offline
from mailsvc.storage.rows import Cursor

P = ParamSpec("P")
T = TypeVar("T")


class Beside:
    """The database of a service that may be running; it is never made here."""

    def __init__(self, url_or_path: str) -> None:
        self._url_or_path = url_or_path

    def read(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """See `mailsvc.storage.store.Store`; fails with StartRefused, too."""
        try:
            with looking(self._url_or_path) as txn:
                return succeed(fn(txn, *args, **kwargs))
        except Exception:
            return fail(Failure())

    def write(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """See `mailsvc.storage.store.Store`; fails with StartRefused, too."""
        try:
            with offline(self._url_or_path, create=False) as txn:
                result = fn(txn, *args, **kwargs)
        except Exception:
            return fail(Failure())
        return succeed(result)

    def has_room_for(self, octets: int) -> bool:
        """Whether the disk takes so much more and keeps the reserve of the service."""
        free = dialect_of(self._url_or_path).free_octets()
        return free is None or free >= 2 * octets + RESERVE
