"""`mailsvc.smtp.seams.ChannelMemory` on the tables: a sender that had TLS before is put off when it comes without.

Asked at MAIL, of servers that bring mail; users log in, and always inside TLS.  What is remembered, of whom, and for
how long is `mailsvc.tls.memory`'s.

What a session in TLS has to fear is only that a certificate was verified before and is not now.  That is rare and is
asked of the database once in a few seconds for each sender, not once a message.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailsvc.accounts.throttle import network
from mailsvc.mail.address import Address, AddressError, parse_domain
from mailsvc.mail.channel import NotAsked, Verified
from mailsvc.mail.reply import Reply, reply
from mailsvc.smtp.seams import Client
from mailsvc.storage import tls_policies
from mailsvc.storage.store import Store
from mailsvc.tls.levels import Level
from mailsvc.tls.memory import RENEW_SECONDS

_ASK_AGAIN = 5.0
"""For so many seconds an answer that let a session in TLS through is good for the next message."""

_KEPT = 10_000
"""Senders of which something is kept in memory; past that all is forgotten, and asked of the database again."""


class SenderMemory:
    """Remembers for ``seconds`` what TLS the senders of a domain have shown."""

    _log = Logger()

    def __init__(self, store: Store, clock: IReactorTime, seconds: float) -> None:
        self._store = store
        self._clock = clock
        self._seconds = seconds
        self._passed: dict[tuple[str, str, Level], float] = {}
        self._noted: dict[tuple[str, str, Level], float] = {}

    async def at_mail(self, client: Client, reverse_path: Address | None) -> Reply | None:
        """See `mailsvc.smtp.seams.ChannelMemory`."""
        domain, seen, now = sender_domain(client, reverse_path), level_of(client), self._clock.seconds()
        if domain is None or seen is Level.NAME:
            return None
        key = (domain, network(client.peer), seen)
        if seen is not Level.PLAIN and now < self._passed.get(key, 0.0) + _ASK_AGAIN:
            return None
        wanted = await self._store.read(tls_policies.demanded, "in", domain, key[1], now, self._seconds)
        could = wanted.level
        if not wanted.by_postmaster and client.tls is not None and isinstance(client.tls.client, NotAsked):
            # Nobody can show what we do not ask for any more.
            could = min(could, Level.ENCRYPTED)
        if seen >= could:
            if could is wanted.level:  # another listener may ask
                _keep(self._passed, key, now)
            return None
        return reply(
            451,
            "4.7.5",
            f"This sender's mail from your host is {seen.text} now, but {wanted.why}:"
            " somebody on the way may have taken the protection away; try again with it",
        )

    def accepted(self, client: Client, reverse_path: Address | None) -> None:
        """See `mailsvc.smtp.seams.ChannelMemory`."""
        domain, seen, now = sender_domain(client, reverse_path), level_of(client), self._clock.seconds()
        if domain is None or seen is Level.PLAIN:
            return
        key = (domain, network(client.peer), seen)
        if now < self._noted.get(key, -RENEW_SECONDS) + RENEW_SECONDS:
            return
        _keep(self._noted, key, now)
        for less in Level:
            if less < seen:  # what was good enough a moment ago is not any more
                self._passed.pop((domain, key[1], less), None)
        noted = self._store.write(tls_policies.note_shown, "in", domain, key[1], seen, now, self._seconds)
        noted.addErrback(self._not_noted, key)

    def _not_noted(self, failure: Any, key: tuple[str, str, Level]) -> None:
        # The message is in; the next one will teach the same.
        self._noted.pop(key, None)
        self._log.warn("what TLS {domain} has shown was not noted: {why}", domain=key[0], why=failure.getErrorMessage())


def level_of(client: Client) -> Level:
    """What the client's channel proves of the client: `PLAIN`, `ENCRYPTED`, or `CHAIN` with a verified certificate."""
    if client.tls is None:
        return Level.PLAIN
    return Level.CHAIN if isinstance(client.tls.client, Verified) else Level.ENCRYPTED


def sender_domain(client: Client, reverse_path: Address | None) -> str | None:
    """The domain that a message speaks for: its sender's, for a bounce the name in EHLO; None when it is no domain."""
    try:
        return parse_domain(client.helo if reverse_path is None else reverse_path.domain)
    except AddressError:
        return None


def _keep(table: dict[tuple[str, str, Level], float], key: tuple[str, str, Level], now: float) -> None:
    if len(table) >= _KEPT:
        table.clear()
    table[key] = now
