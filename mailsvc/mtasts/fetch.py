"""Asks a domain for its MTA-STS policy: the TXT record, then the policy over verified HTTPS (RFC 8461 section 3.3).

What the texts mean is `mailsvc.mtasts.record`; keeping a policy for its max_age is the caller's.

The hardest idea is how little may be believed on the way.  The record needs no DNSSEC, because it only says *that*
there is a policy; the policy's truth is the certificate of ``mta-sts.DOMAIN`` alone.  So the fetch demands a verified
name, follows no redirect (it would lend the policy to another host), takes no other status than 200 and no other type
than text/plain (who may upload files to a web server must not make policies by it), and reads so many octets in so many
seconds.
"""

from __future__ import annotations

from typing import Any

<<<<<<< ours
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionDone, DNSLookupError
from twisted.internet.error import TimeoutError as NoConnection
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from zope.interface import implementer

from mailsvc.errors import TemporaryFailure
from mailsvc.mail.channel import safe_text
=======
>>>>>>> theirs
from mailsvc.mtasts.record import POLICY_LIMIT, PolicyError, StsPolicy, parse_policy, record_id
from mailsvc.relay.demands import StsFacts
from mailsvc.resolver import Resolver, Unanswered
from mailsvc.tls.client import ClientTLS
from mailsvc.wire.https import Connect, FetchFailed, get

__all__ = ["SECONDS", "Connect", "FetchFailed", "fetch_policy", "sts_facts"]

SECONDS = 60.0
"""How long a fetch may take in all (section 3.3)."""

<<<<<<< ours
_WHOLE_LIMIT = 4 * POLICY_LIMIT
"""Octets of a whole answer, with its header and what HTTP puts around the policy."""

Connect = Callable[[str, int], IStreamClientEndpoint]
"""Gives the endpoint for a host and port, without TLS."""


class FetchFailed(TemporaryFailure):
    """There is no policy to be had now; the message says why."""


def by_name(reactor: Any) -> Connect:
    """Connects to where the host's name leads."""
    return lambda host, port: HostnameEndpoint(reactor, host.encode("ascii"), port)

=======
>>>>>>> theirs

async def sts_facts(
    domain: str,
    resolver: Resolver,
    tls: ClientTLS,
    reactor: Any,
    *,
    connect: Connect | None = None,
    seconds: float = SECONDS,
) -> StsFacts:
    """What MTA-STS says of ``domain`` (A-labels) now.  Never raises: what could not be had is in `StsFacts.remark`.

    ``tls`` must demand `Level.NAME`.
    """
    place = f"_mta-sts.{domain}"
    try:
        found = record_id((await resolver.texts(place)).records)
    except Unanswered as why:
        return StsFacts(domain, remark=str(why))
    except PolicyError as why:
        return StsFacts(domain, remark=f"{place}: {why}, so it counts as none")
    if found is None:
        return StsFacts(domain, remark=f"{domain} has no MTA-STS (there is no record at {place})")
    try:
        policy = await fetch_policy(domain, tls, reactor, connect=connect, seconds=seconds)
    except FetchFailed as why:
        return StsFacts(domain, found, remark=str(why))
    return StsFacts(domain, found, policy)


async def fetch_policy(
    domain: str, tls: ClientTLS, reactor: Any, *, connect: Connect | None = None, seconds: float = SECONDS
) -> StsPolicy:
    """The policy of ``domain`` from its web server.  Raises `FetchFailed`."""
    url = f"https://mta-sts.{domain}/.well-known/mta-sts.txt"
    answer = await get(url, tls, reactor, kind="text/plain", limit=POLICY_LIMIT, seconds=seconds, connect=connect)
    try:
        return parse_policy(answer.body)
    except PolicyError as why:
        raise FetchFailed(f"{url}: {why}") from None
<<<<<<< ours
    except Exception as error:  # an HTTP client has many ways to fail, all of them the other side's
        raise FetchFailed(f"{url}: {_why(error)}") from error


async def _body(agent: Agent, url: str) -> bytes:
    headers = Headers({"User-Agent": ["mailsvc"], "Accept": ["text/plain"]})
    response: IResponse = await agent.request(b"GET", url.encode("ascii"), headers)
    try:
        if 300 <= response.code < 400:
            raise FetchFailed(f"the server answers {response.code}, and redirects must not be followed")
        if response.code != 200:
            raise FetchFailed(f"the server answers {response.code}")
        kinds = response.headers.getRawHeaders("content-type") or [""]
        if kinds[-1].partition(";")[0].strip().lower() != "text/plain":
            raise FetchFailed(f"the answer is of type {safe_text(kinds[-1], 60)!r}, not text/plain")
    except FetchFailed:
        # Nobody wants the body, and the connection would wait for a reader of it.
        response.deliverBody(_Unwanted())
        raise
    body = _Body(POLICY_LIMIT)
    response.deliverBody(body)
    return await body.whole


class _Unwanted(Protocol):
    """Cuts the connection instead of reading a body."""

    def connectionMade(self) -> None:
        _cut(self)


class _Body(Protocol):
    """Takes a body of at most ``limit`` octets; with more the connection is cut at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._octets = bytearray()
        self._refused = False
        self.whole: Deferred[bytes] = Deferred(self._give_up)

    def dataReceived(self, data: bytes) -> None:
        if len(self._octets) + len(data) > self._limit:
            self._refused = True
            _cut(self)
            if not self.whole.called:
                self.whole.errback(FetchFailed(f"the policy has more than {self._limit} octets"))
        elif not self._refused:
            self._octets += data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        if self.whole.called:
            return
        # Without a length the end of the connection ends the body, and in TLS only a proper end is one.
        if reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(bytes(self._octets))
        else:
            self.whole.errback(FetchFailed("the connection ended in the middle of the policy"))

    def _give_up(self, _: Deferred[bytes]) -> None:
        self._refused = True
        _cut(self)


def _cut(reader: Protocol) -> None:
    abort = getattr(reader.transport, "abortConnection", None) or getattr(reader.transport, "loseConnection", None)
    if abort is not None:
        abort()


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """Connections that are refused before the request unless the server's name is verified."""

    def __init__(self, tls: ClientTLS, connect: Connect) -> None:
        self._tls = tls
        self._connect = connect

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        host = uri.host.decode("ascii")
        made: IStreamClientEndpoint = wrapClientTLS(self._tls.to(host, uri.port), self._connect(host, uri.port))
        return _Bounded(made)


@implementer(IStreamClientEndpoint)
class _Bounded:
    """An endpoint whose connections take so many octets: twisted.web keeps any number of header fields."""

    def __init__(self, inner: IStreamClientEndpoint) -> None:
        self._inner = inner

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        wrapping = WrappingFactory(protocolFactory)
        wrapping.noisy = False
        wrapping.protocol = _Counted
        connecting: Deferred[Any] = self._inner.connect(wrapping)
        return connecting.addCallback(lambda made: made.wrappedProtocol)


class _Counted(ProtocolWrapper):
    """Cuts a connection that brings more than `_WHOLE_LIMIT` octets."""

    _octets = 0

    def dataReceived(self, data: bytes) -> None:
        self._octets += len(data)
        if self._octets <= _WHOLE_LIMIT:
            super().dataReceived(data)
        else:
            _cut(self)


def _too_slow(seconds: float) -> bytes:
    raise FetchFailed(f"the server did not send the policy within {seconds:g} seconds")


def _why(error: Exception) -> str:
    if isinstance(error, ResponseFailed):
        refused = [each.value for each in error.reasons if each.check(HandshakeRefused)]
        return str(refused[0]) if refused else "the server does not answer in HTTP, or not to the end"
    if isinstance(error, HandshakeRefused):
        return str(error)
    if isinstance(error, DNSLookupError):
        return "there is no such host"
    if isinstance(error, (ConnectError, NoConnection)):
        return f"nobody answers ({type(error).__name__})"
    if isinstance(error, CancelledError):
        return "the fetch was given up"
    return f"it could not be fetched ({type(error).__name__})"
=======
>>>>>>> theirs
