"""DNS answers that are remembered for as long as they may be, so that a thousand messages ask once.

`RememberedAnswers` is a `mailsvc.resolver.Resolver` in front of another.  A question that is under way is not asked a
second time: who wants the same waits for the same answer.

The hardest idea is what to do with silence.  A resolver that does not answer costs seconds each time, and every message
of a destination would pay them; so that nobody could say is remembered too, for a moment, and stays what it is: a
reason to wait, never "there is none" (RFC 5321 section 5.1).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from mailsvc.resolver import Answer, MailHost, Resolver, Unanswered
from mailsvc.tls.dane import TLSARecord

T = TypeVar("T")

MOST = 20_000
"""Answers that are kept; past that the oldest go."""

LONGEST = 3600.0
"""Seconds: what was changed is noticed after that, whatever its TTL was."""

NONE = 60.0
"""Seconds for which "there is none" is remembered; `Answer` does not say how long it may be (RFC 2308)."""

SILENCE = 20.0
"""Seconds for which it is remembered that nobody could say."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """``what``: an answer, or why there is none; from ``since`` on for ``seconds``."""

    what: Answer[Any] | Unanswered
    since: float
    seconds: float

    def holds(self, now: float) -> bool:
        # A clock that was set back must not make it live longer.
        return 0 <= now - self.since < self.seconds


class RememberedAnswers:
    """Asks ``resolver``, and remembers what it said."""

    def __init__(self, resolver: Resolver, clock: IReactorTime, *, most: int = MOST) -> None:
        self._resolver = resolver
        self._clock = clock
        self._most = most
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._asked: dict[tuple[str, str], list[Deferred[Any]]] = {}

    @property
    def doubt(self) -> str:
        """See `Resolver`."""
        return self._resolver.doubt

    async def addresses(self, name: str) -> Answer[str]:
        """See `Resolver`."""
        return await self._ask("addresses", name, self._resolver.addresses)

    async def mail_hosts(self, domain: str) -> Answer[MailHost]:
        """See `Resolver`."""
        return await self._ask("mail hosts", domain, self._resolver.mail_hosts)

    async def texts(self, name: str) -> Answer[str]:
        """See `Resolver`."""
        return await self._ask("texts", name, self._resolver.texts)

    async def tlsa(self, name: str) -> Answer[TLSARecord]:
        """See `Resolver`."""
        return await self._ask("tlsa", name, self._resolver.tlsa)

    async def _ask(self, kind: str, name: str, ask: Callable[[str], Awaitable[Answer[T]]]) -> Answer[T]:
        key = (kind, name)
        kept = self._kept.get(key)
        if kept is not None and kept.holds(self._clock.seconds()):
            if isinstance(kept.what, Unanswered):
                raise Unanswered(str(kept.what))
            return kept.what
        answer: Deferred[Answer[T]] = Deferred(lambda given_up: _forget(self._asked.get(key), given_up))
        waiting = self._asked.get(key)
        if waiting is not None:
            waiting.append(answer)
        else:
            self._asked[key] = [answer]
            # On its own: that one who waits gives up must not take the answer from the others.
            Deferred.fromCoroutine(_awaited(ask(name))).addBoth(self._answered, key)
        return await answer

    def _answered(self, result: Answer[Any] | Failure, key: tuple[str, str]) -> None:
        now = self._clock.seconds()
        if not isinstance(result, Failure):
            seconds = min(float(result.seconds), LONGEST) if result.records else NONE
            self._keep(key, _Kept(result, now, seconds))
        elif isinstance(result.value, Unanswered):
            self._keep(key, _Kept(result.value, now, SILENCE))
        for waiting in self._asked.pop(key, []):
            waiting.callback(result)

    def _keep(self, key: tuple[str, str], kept: _Kept) -> None:
        self._kept.pop(key, None)
        self._kept[key] = kept
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)


async def _awaited(answer: Awaitable[T]) -> T:
    return await answer


def _forget(waiting: list[Deferred[Any]] | None, given_up: Deferred[Any]) -> None:
    if waiting is not None and given_up in waiting:
        waiting.remove(given_up)
