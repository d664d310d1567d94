"""Conversations that are kept for some seconds after a message, for the next one to the same server.

A handshake and a greeting cost more than most messages.  Which messages may share a conversation is said by a `Key`:
the same server, under the same demand, checked against the same records, with the same login.  Nothing is weakened by
sharing, because a kept conversation was judged by exactly what the next message demands.

The hardest idea: a kept connection may be dead and nobody knows.  A server ends an idle session when it likes, and its
421 or the end arrives while we begin to speak.  Then nothing has been said about the message, and it is given to a new
connection as if the old one had never been (`is_stale`); RFC 5321 section 3.8 lets a server close only so.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from mailsvc.relay.client import Conversation
from mailsvc.relay.outcome import Kind, Outcome, Phase
from mailsvc.tls.dane import TLSARecord
from mailsvc.tls.levels import Level

IDLE = 5.0
"""Seconds for which a conversation is kept without work."""

MOST = 50
"""Conversations that are kept; each is a descriptor here and a process there."""

MESSAGES = 100
"""Transactions of one conversation; many servers end it then."""

OLDEST = 300.0
"""Seconds after which a conversation is not kept any more, so that what changed in DNS is seen."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a conversation is good for.  ``place``: the host's name, or the path of a socket; ``relay``: the URL."""

    place: str
    relay: str
    demanded: Level
    tlsa: tuple[TLSARecord, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class _Kept:
    key: Key
    conversation: Conversation
    timer: IDelayedCall


class Connections:
    """The conversations that nobody uses now."""

    def __init__(self, clock: IReactorTime, *, idle: float = IDLE, most: int = MOST) -> None:
        self._clock = clock
        self._idle = idle
        self._most = most
        self._kept: OrderedDict[_Kept, None] = OrderedDict()
        self._began: dict[Conversation, float] = {}
        self._ending: set[Deferred[Any]] = set()
        self._stopping = False

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, key: Key) -> Conversation | None:
        """A conversation that can be used at once, which is thereby the caller's; None when there is none."""
        for kept in [each for each in reversed(self._kept) if each.key == key]:
            self._remove(kept)
            if kept.conversation.usable:
                return kept.conversation
            self._end(kept.conversation)
        return None

    def begun(self, conversation: Conversation) -> Conversation:
        """It is new; to be called once for each."""
        self._began[conversation] = self._clock.seconds()
        return conversation

    def give(self, key: Key, conversation: Conversation) -> None:
        """The caller is done with it: keep it, or end it."""
        age = self._clock.seconds() - self._began.get(conversation, 0.0)
        young = conversation.transactions < MESSAGES and 0 <= age < OLDEST
        if not (conversation.usable and young) or self._stopping or self._idle <= 0:
            self._end(conversation)
            return
        while len(self._kept) >= self._most:
            oldest = next(iter(self._kept))
            self._remove(oldest)
            self._end(oldest.conversation)
        kept = _Kept(key, conversation, self._clock.callLater(self._idle, lambda: self._expire(kept)))
        self._kept[kept] = None

    def stop(self) -> Deferred[Any]:
        """End all of them; fires when they have ended."""
        self._stopping = True
        for kept in list(self._kept):
            self._remove(kept)
            self._end(kept.conversation)
        return gatherResults(list(self._ending))

    def _expire(self, kept: _Kept) -> None:
        self._kept.pop(kept, None)
        self._end(kept.conversation)

    def _remove(self, kept: _Kept) -> None:
        self._kept.pop(kept, None)
        if kept.timer.active():
            kept.timer.cancel()

    def _end(self, conversation: Conversation) -> None:
        self._began.pop(conversation, None)
        ending: Deferred[None] = Deferred.fromCoroutine(conversation.quit())
        self._ending.add(ending)
        ending.addBoth(lambda _: self._ending.discard(ending))


def is_stale(outcomes: Iterable[Outcome]) -> bool:
    """Whether a kept conversation turned out to be over before it heard of the message."""
    found = list(outcomes)
    return bool(found) and all(
        each.kind is Kind.DEFERRED
        and not each.duplicate_possible
        and each.phase in (Phase.RESET, Phase.MAIL)
        and each.code in (0, 421)
        for each in found
    )
