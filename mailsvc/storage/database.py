"""The door to the database (skeleton: signatures only, the body follows)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

from twisted.internet.defer import Deferred

from mailsvc.storage.rows import Cursor

P = ParamSpec("P")
T = TypeVar("T")


class Database:
    """One database of one service."""

    def __init__(self, url_or_path: str, reactor: Any, *, readers: int = 4) -> None:
        raise NotImplementedError

    def open(self) -> None:
        """Create, lock, upgrade; synchronous; `StartRefused`."""
        raise NotImplementedError

    def write(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `fn` in the next group commit; fires after COMMIT."""
        raise NotImplementedError

    def read(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `fn` on a snapshot."""
        raise NotImplementedError

    def close(self) -> Deferred[None]:
        """Finish what is queued, release the lock."""
        raise NotImplementedError


def problems_of(url_or_path: str) -> list[str]:
    """What would make `open` fail, as sentences."""
    raise NotImplementedError


@contextmanager
def offline(url_or_path: str, *, create: bool) -> Iterator[Cursor]:
    """One transaction for the command line."""
    raise NotImplementedError
    yield
