"""The primary's small HTTPS server: ``GET /recipients/DOMAIN`` for the backup servers that it knows, nothing else.

Off by default (``[listen] recipients``).  A client is known by the key of its certificate, which stands in a table
(`mailsvc.storage.offers`); who shows none, or another, gets 403 before anything is looked up about a domain.  A known
server gets the lists of its own domains only: 404 for all others, whether they exist or not.

The hardest idea is the cost of a list: each name walks through the resolver.  So one list is made at a time, in small
transactions with a rest between them, and a few that wait for their turn are all that there may be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from mailsvc.backup.fetching import KIND
from mailsvc.backup.forms import MOST_NAMES, recipient_list
from mailsvc.backup.keys import Keys
from mailsvc.backup.listing import written
from mailsvc.errors import MailsvcError, TemporaryFailure
from mailsvc.mail.channel import Failed, Verified
from mailsvc.storage import offers
from mailsvc.storage.offers import Offer
from mailsvc.storage.store import Store
from mailsvc.tls.identity import proven_key
from mailsvc.tls.server import tls_facts
from mailsvc.wire.web import quiet_site

CONNECTIONS = 20
"""Of all backup servers together."""

WAITING = 10
"""Questions that wait for their turn."""

SECONDS = 30.0
"""How long a connection may last without a word of the client."""

_REST = 0.005
_PREFIX = b"/recipients/"


class Lists:
    """Makes lists, one at a time.  ``in_thread`` runs what takes a while."""

    def __init__(
        self,
        store: Store,
        clock: IReactorTime,
        keys: Keys,
        in_thread: Callable[[Callable[[], bytes]], Deferred[bytes]],
        *,
        hostname: str,
        programs: bool,
    ) -> None:
        self._store = store
        self._clock = clock
        self._keys = keys
        self._in_thread = in_thread
        self._hostname = hostname
        self._programs = programs
        self._turn = DeferredLock()

    async def offer(self, spki: str) -> Offer | None:
        """What is offered to the client with this key."""
        return await self._store.read(offers.offer_to, spki)

    async def made(self, offer: Offer, domain: str) -> bytes:
        """The list of ``domain`` as it is now.  Raises `TemporaryFailure` when it cannot be made now."""
        if len(self._turn.waiting) >= WAITING:
            raise TemporaryFailure("too many lists are asked for at once")
        await self._turn.acquire()
        try:
            return await self._make(domain, await self._keys.key(offer.key_file))
        finally:
            self._turn.release()

    async def note(self, offer: Offer) -> None:
        """It has been fetched."""
        await self._store.write(offers.note_fetch, offer.id, self._clock.seconds())

    async def _make(self, domain: str, key: bytes) -> bytes:
        head = await self._store.read(offers.head, domain, hostname=self._hostname, programs=self._programs)
        if head is None:
            raise TemporaryFailure(f"{domain} is not a domain of ours any more")
        found: list[tuple[str, bool]] = []
        after = ""
        while True:
            some, after = await self._store.read(
                offers.names, domain, after, hostname=self._hostname, programs=self._programs
            )
            found += some
            if len(found) > MOST_NAMES:
                raise TemporaryFailure(f"{domain} has more than {MOST_NAMES} names, which no list can hold")
            if not after:
                break
            await deferLater(self._clock, _REST, lambda: None)
        return await self._in_thread(lambda: written(recipient_list(domain, head.rules, found, head.reserved, key)))


def site(lists: Lists, clock: IReactorTime) -> Site:
    """The HTTP server; it belongs inside TLS that asks for a certificate."""
    return quiet_site(_Recipients(lists), clock, SECONDS)


class _Recipients(Resource):
    isLeaf = True
    _log = Logger()

    def __init__(self, lists: Lists) -> None:
        super().__init__()
        self._lists = lists

    def render(self, request: Request) -> int:
        """Answers when the answer is there."""
        answering = Deferred.fromCoroutine(self._answer(request))
        gone = request.notifyFinish()
        gone.addErrback(lambda _: answering.cancel())
        answering.addErrback(self._failed, request)
        return NOT_DONE_YET

    async def _answer(self, request: Request) -> None:
        offer = await self._lists.offer(_key_of(request))
        if offer is None:
            _end(request, 403)
            self._log.info("recipients: a client without a known key was refused")
            return
        domain = request.path.removeprefix(_PREFIX).decode("ascii", "replace")
        if not request.path.startswith(_PREFIX) or domain not in offer.domains:
            _end(request, 404)
            return
        if request.method != b"GET":
            request.setHeader(b"allow", b"GET")
            _end(request, 405)
            return
        try:
            octets = await self._lists.made(offer, domain)
        except MailsvcError as why:
            self._log.warn(
                "recipients: no list of {domain} for {label}: {why}", domain=domain, label=offer.label, why=str(why)
            )
            _end(request, 503)
            return
        await self._lists.note(offer)
        tag = f'"{hashlib.sha256(octets).hexdigest()}"'.encode("ascii")
        request.setHeader(b"etag", tag)
        request.setHeader(b"cache-control", b"no-store")
        if request.getHeader(b"if-none-match") == tag:
            _end(request, 304)
            return
        request.setHeader(b"content-type", KIND.encode("ascii"))
        _end(request, 200, octets)

    def _failed(self, failure: Failure, request: Request) -> None:
        if failure.check(CancelledError):
            return  # nobody waits for it any more
        if not failure.check(TemporaryFailure):
            self._log.failure("a defect: a list of recipients could not be offered", failure)
        _end(request, 503)


def _end(request: Request, code: int, body: bytes = b"") -> None:
    request.setResponseCode(code)
    if code != 304:
        request.setHeader(b"content-length", str(len(body)).encode("ascii"))
    if code not in (200, 304):
        request.setHeader(b"connection", b"close")
    if body:
        request.write(body)
    request.finish()


def _key_of(request: Request) -> str:
    """The fingerprint of the key that the client has proved to have, "" for none."""
    facts = tls_facts(request.transport)
    client = None if facts is None else facts.client
    return proven_key(client) if isinstance(client, Verified | Failed) else ""
