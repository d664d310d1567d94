"""adbapi's connection pool, with types and without its own transactions.

adbapi commits after each function and rolls back after each error; all transactions of mailsvc are
explicit, and a rollback on a connection that could not be opened again would end as a traceback in the log.
The threads start when the reactor runs and stop with `close`; after that nothing given to `run` would ever
fire, which `database` prevents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from twisted.enterprise import adbapi
from twisted.internet.defer import Deferred

P = ParamSpec("P")
T = TypeVar("T")


class _Connection(adbapi.Connection):
    def commit(self) -> None:
        """Nothing: see above."""

    def rollback(self) -> None:
        """Nothing: see above."""


class _ConnectionPool(adbapi.ConnectionPool):
    connectionFactory = _Connection


class Pool:
    """Up to `size` threads, each with a connection that `prepare` has set up."""

    def __init__(
        self,
        reactor: Any,
        driver: str,
        arguments: Mapping[str, Any],
        prepare: Callable[[Any], None],
        size: int,
    ) -> None:
        def prepared(connection: Any) -> None:
            try:
                prepare(connection)
            except BaseException:
                # adbapi has not noted the connection yet, nobody else would close it.
                connection.close()
                raise

        self._pool: Any = _ConnectionPool(
            driver, cp_reactor=reactor, cp_min=1, cp_max=size, cp_openfun=prepared, **arguments
        )

    @property
    def running(self) -> bool:
        """Whether there are threads; before the reactor runs there are none yet."""
        return cast(bool, self._pool.running)

    @property
    def ended(self) -> bool:
        """Whether the threads have gone, with the reactor, so that `run` leads to nothing any more."""
        return not self._pool.running and self._pool.startID is None

    def run(self, fn: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `fn(connection, ...)` in a thread; its result or error, or the error of opening the connection.

        `connection` is adbapi's: it passes everything on to the driver's and has `reconnect` in addition.
        """
        return cast("Deferred[T]", self._pool.runWithConnection(fn, *args, **kwargs))

    def close(self) -> None:
        """End the threads and close the connections; blocks until what runs has ended."""
        if not self.ended:
            self._pool.close()
