"""Asks blocklists about clients, by the DNS: all lists at once, bounded in time and number, remembered for a while.

What the answers mean is `mailsvc.gate.blocklists`.

The hardest idea is what happens when the DNS is slow or an attack asks for ten thousand clients at once: nothing.  A
list that does not answer in time says nothing about the client; past `_AT_ONCE` questions no more are asked.  Mail does
not wait for somebody else's server, and a blocklist that is down blocks nobody.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.names import client, dns
from twisted.names.error import DNSNameError
from twisted.python.failure import Failure

from mailsvc.gate.blocklists import Blocklist, Standing, is_listing, question, standing

_AT_ONCE = 200
"""Questions under way: each takes a socket, and those must be left for mail."""

_REMEMBERED = 10_000
_SHORTEST, _LONGEST, _UNLISTED, _UNKNOWN = 60.0, 3600.0, 300.0, 30.0
"""Seconds that an answer is remembered: as the list says, but within bounds; that there is none; that nobody knows."""


class Resolver(Protocol):
    """What is needed of ``twisted.names``."""

    def lookupAddress(self, name: str) -> Deferred[Any]:
        """The A records of ``name``, as (answers, authority, additional)."""


def system_resolver(reactor: Any) -> Resolver:
    """The resolver that /etc/resolv.conf names; a list wants to be asked by an own one, not a public one."""
    resolver: Resolver = client.Resolver(resolv="/etc/resolv.conf", reactor=reactor, timeout=(2, 4))
    return resolver


@dataclass(frozen=True, slots=True)
class _Answer:
    listed: bool | None
    until: float


class Blocklists:
    """The lists of a service; ``seconds`` is how long an answer may take."""

    def __init__(
        self, lists: Sequence[Blocklist], resolver: Resolver, clock: IReactorTime, *, seconds: float = 5.0
    ) -> None:
        self._lists = tuple(lists)
        self._resolver = resolver
        self._clock = clock
        self._seconds = seconds
        self._known: OrderedDict[str, _Answer] = OrderedDict()
        self._asked: dict[str, list[Deferred[bool | None]]] = {}

    @property
    def asked(self) -> int:
        """Questions under way."""
        return len(self._asked)

    async def standing(self, peer: str) -> Standing:
        """What the lists say of ``peer``; never fails, and takes so many seconds at most."""
        questions = {each.zone: name for each in self._lists if (name := question(peer, each.zone)) is not None}
        if not questions:
            return Standing()
        answers = await gatherResults([self._ask(name) for name in questions.values()])
        return standing(self._lists, dict(zip(questions, answers, strict=True)))

    def _ask(self, name: str) -> Deferred[bool | None]:
        answer: Deferred[bool | None] = Deferred()
        known = self._known.get(name)
        if known is not None and known.until > self._clock.seconds():
            answer.callback(known.listed)
        elif name in self._asked:
            # The connections of one client that come together share one question.
            self._asked[name].append(answer)
        elif len(self._asked) >= _AT_ONCE:
            answer.callback(None)
        else:
            self._asked[name] = [answer]
            asked = self._resolver.lookupAddress(name)
            asked.addTimeout(self._seconds, self._clock)
            asked.addCallbacks(self._answered, self._failed)
            asked.addErrback(lambda _: _Answer(None, self._clock.seconds() + _UNKNOWN))
            asked.addCallback(self._tell, name)
        return answer

    def _answered(self, result: Any) -> _Answer:
        records = [record for record in result[0] if record.type == dns.A]
        listed = is_listing(record.payload.dottedQuad() for record in records)
        seconds = min((float(record.ttl) for record in records), default=_UNLISTED)
        return _Answer(listed, self._clock.seconds() + min(max(seconds, _SHORTEST), _LONGEST))

    def _failed(self, failure: Failure) -> _Answer:
        # "There is no such name" is how a list says that the client is not in it.
        if failure.check(DNSNameError):
            return _Answer(False, self._clock.seconds() + _UNLISTED)
        return _Answer(None, self._clock.seconds() + _UNKNOWN)

    def _tell(self, answer: _Answer, name: str) -> None:
        self._known[name] = answer
        self._known.move_to_end(name)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        for waiting in self._asked.pop(name):
            if not waiting.called:
                waiting.callback(answer.listed)
