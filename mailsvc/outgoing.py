"""How mail goes out, put together: DNS, policies, attempts and the queue, from a configuration.

Part of the composition root (`mailsvc.service`), and a page of its own because so many parts meet here; whoever embeds
the queue alone can read here how they fit.  What each does is told in its own module.

The hardest idea is the order of stopping: the queue first, which waits for the attempts that run; then what they have
left behind, which is kept connections and policies that are being fetched.
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from random import SystemRandom
from typing import Any

from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from mailsvc.certkit.passphrase import passphrase_source
from mailsvc.config import Configuration
from mailsvc.mtasts.cache import StsCache
from mailsvc.mtasts.fetch import fetch_policy
from mailsvc.mtasts.record import StsPolicy
from mailsvc.relay.answers import RememberedAnswers
from mailsvc.relay.attempt import Deliveries, Tried
from mailsvc.relay.means import Means, Places
from mailsvc.relay.mx import Exchangers
from mailsvc.relay.policies import Policies
from mailsvc.relay.queue import Queue, QueueRules
from mailsvc.relay.schedule import Schedule
from mailsvc.relay.seams import Bounces
from mailsvc.relay.telling import counted
from mailsvc.resolver import Resolver, SystemResolver
from mailsvc.storage.store import HeldStore
from mailsvc.tls import https
from mailsvc.tls.sealing import sealing_key
from mailsvc.tlsrpt.counting import SessionCounter
from mailsvc.tlsrpt.sending import Reporter

_DAY = 86400.0

_POST_SECONDS = 60.0


class Outgoing:
    """Everything that mail needs on its way out; `queue` is the part that others talk to.

    `means` makes what servers are checked with, and our own certificates that are shown to them.
    """

    _log = Logger()

    def __init__(
        self,
        configuration: Configuration,
        reactor: Any,
        store: HeldStore,
        bounces: Bounces,
        *,
        environ: Mapping[str, str] = os.environ,
        resolver: Resolver | None = None,
    ) -> None:
        self._store = store
        self._resolver = resolver or SystemResolver(reactor)
        self.means = Means(
            store,
            reactor,
            _places(configuration, environ),
            lambda work: deferToThreadPool(reactor, reactor.getThreadPool(), work),
        )
        remembered = RememberedAnswers(self._resolver, reactor)

        random = SystemRandom()

        async def fetch(domain: str) -> StsPolicy:
            return await fetch_policy(domain, await self.means.web(), reactor)

        self._sts = StsCache(store, reactor, remembered, fetch)

        async def post(url: str, octets: bytes) -> None:
            tls = await self.means.web()
            await https.post(url, octets, tls, reactor, kind="application/tlsrpt+gzip", seconds=_POST_SECONDS)

        hostname = configuration.hostname
        reports = configuration.relay.tls_reports
        self._counter = SessionCounter(store, reactor, random.random())
        self._reporter = (
            Reporter(store, reactor, remembered, post, hostname, new_trace_id, lambda: self.queue.wake())
            if reports
            else None
        )
        self._deliveries = Deliveries(
            store,
            reactor,
            hostname,
            Exchangers(remembered, {hostname.lower()}, random, private=configuration.relay.private_networks),
            Policies(remembered, store, reactor, self._sts.facts, seconds=configuration.downgrade.memory_days * _DAY),
            self.means,
            random=random,
            heard=self._count if reports else lambda _: None,
        )
        self.queue = Queue(store, reactor, self._deliveries, bounces, rules=queue_rules(configuration))

    def start(self) -> None:
        """The database is open: begin."""
        self.queue.start(self._store.instance)
        self._sts.start()
        if self._reporter is not None:
            self._reporter.start()
        if self._resolver.doubt:
            self._log.info("mail goes out without DANE: {doubt}", doubt=self._resolver.doubt)

    def hurry(self) -> None:
        """While stopping: break off what runs."""
        self._deliveries.hurry()
        self.queue.hurry()

    async def stop(self) -> None:
        """Begin nothing more; returns when what ran has ended and is written."""
        self._deliveries.hurry()
        await self.queue.stop()
        await self._deliveries.stop()
        await self._sts.stop()
        if self._reporter is not None:
            await self._reporter.stop()
        await self._counter.stop()

    def _count(self, tried: Tried) -> None:
        session = counted(tried)
        if session is not None:
            self._counter.add(tried.domain, session)


def new_trace_id() -> str:
    """A name for a message that is made here: unique, unguessable, safe in a header."""
    return base64.b32encode(secrets.token_bytes(10)).decode("ascii")


def queue_rules(configuration: Configuration) -> QueueRules:
    """What the queue may do."""
    settings = configuration.queue
    return QueueRules(
        Schedule(
            first=settings.first_retry,
            longest=max(settings.first_retry, settings.longest_retry),
            delayed=settings.delayed_after,
            keep=settings.give_up_after,
        ),
        at_once=settings.connections,
        per_destination=settings.per_destination,
        recipients=settings.recipients,
        rows=settings.in_memory,
        shutdown=configuration.timeouts.shutdown,
    )


def _places(configuration: Configuration, environ: Mapping[str, str]) -> Places:
    named = configuration.relay.credentials_file
    return Places(
        configuration.certs,
        passphrase_source(environ),
        lambda: sealing_key(configuration.certificates.key_file, environ),
        Path(named) if named else None,
    )
