"""Hashing passwords away from the reactor thread: a few threads, a bounded queue, no work done twice.

What is hashed and how is `mailsvc.accounts.passwords`; who may ask is `mailsvc.accounts.throttle`.

The hardest idea: a verification takes 25 ms of a core, more than everything else that a session of a mail client
costs, and anybody may ask for it without being known.  So it has threads of its own (neither name lookups nor the
database wait behind a flood of logins), a queue whose end is a temporary failure rather than a long wait, and
mail clients that open five connections at once with one password are served by one verification.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from mailsvc.accounts.passwords import Hasher
from mailsvc.errors import TemporaryFailure

P = ParamSpec("P")
T = TypeVar("T")

_STOPPED = "no passwords are checked while mailsvc is stopping; log in again in a moment"
_BUSY = "too many passwords are being checked; log in again in a moment"


class HashingPool:
    """`threads` threads for `hasher`; `queue_limit` jobs more may wait.

    Works between `start` and `stop`; all methods are called in the reactor thread, none of them blocks but `stop`.
    The Deferreds fail with `TemporaryFailure` when a job cannot be done now.
    """

    def __init__(self, reactor: IReactorFromThreads, hasher: Hasher, threads: int, queue_limit: int) -> None:
        self._reactor = reactor
        self._hasher = hasher
        self._threads = threads
        self._limit = threads + queue_limit
        self._pending = 0
        self._accepting = False
        self._pool: ThreadPool | None = None
        self._nobody: str | None = None
        self._joined: dict[bytes, list[Deferred[Any]]] = {}

    def start(self) -> None:
        """Make the threads."""
        self._pool = ThreadPool(0, self._threads, "hashing")
        self._pool.start()
        self._accepting = True

    def refuse(self) -> None:
        """Do nothing any more but what a thread has begun."""
        self._accepting = False

    def stop(self) -> None:
        """`refuse`, wait for what a thread has begun (some 25 ms), end the threads."""
        self.refuse()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()

    def hash(self, password: bytes) -> Deferred[str]:
        """A fresh hash of a password."""
        return self._run(self._hasher.hash, password)

    def work(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Anything else that takes milliseconds of a core, in the same threads and the same line."""
        return self._run(work, *args, **kwargs)

    def verify(self, stored: str, password: bytes, joined_by: bytes) -> Deferred[bool]:
        """Whether `password` is the one behind `stored`.

        Calls with an equal `joined_by` (a fingerprint of both) while one is being worked on share its result.
        """
        return self._join(joined_by, lambda: self._run(self._hasher.verify, stored, password))

    async def nobody(self) -> str:
        """The hash of a password that nobody knows, with the costs of every other; made once."""
        if self._nobody is None:
            password = secrets.token_hex(32).encode()
            self._nobody = await self._join(b"nobody", lambda: self.hash(password))
        return self._nobody

    def _run(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        if self._pool is None or not self._accepting:
            return fail(TemporaryFailure(_STOPPED))
        if self._pending >= self._limit:
            return fail(TemporaryFailure(_BUSY))
        self._pending += 1

        def in_thread() -> T:
            if not self._accepting:
                raise TemporaryFailure(_STOPPED)
            return work(*args, **kwargs)

        def finished(result: T) -> T:
            self._pending -= 1
            return result

        return deferToThreadPool(self._reactor, self._pool, in_thread).addBoth(finished)

    def _join(self, key: bytes, work: Callable[[], Deferred[T]]) -> Deferred[T]:
        mine: Deferred[T] = Deferred()
        waiting = self._joined.setdefault(key, [])
        waiting.append(mine)
        if len(waiting) == 1:

            def done(result: Any) -> None:
                for each in self._joined.pop(key):
                    each.callback(result)

            work().addBoth(done)
        return mine
