"""One question to a web server over HTTPS, as a client that believes little: what policies and lists are fetched with.

The server has proved what the `ClientTLS` demands before it sees the question; no redirect is followed (it would lend
the answer to another host); the answer has a limit in octets and in seconds.  What an answer means is the caller's.

The hardest idea: in TLS only a proper end is an end.  Without a length the end of the connection ends the body, and
whoever can cut the connection could shorten it; so that counts as a failure unless the server has said goodbye.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionDone, DNSLookupError
from twisted.internet.error import TimeoutError as NoConnection
from twisted.internet.interfaces import IConsumer, IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from mailsvc.errors import TemporaryFailure
from mailsvc.mail.channel import safe_text
from mailsvc.tls.client import ClientTLS
from mailsvc.tls.verify import HandshakeRefused

_AROUND = 128 * 1024
"""Octets that an answer may have besides its body: the header, and what HTTP puts around the pieces of a body."""

Connect = Callable[[str, int], IStreamClientEndpoint]
"""Gives the endpoint for a host and port, without TLS."""


class FetchFailed(TemporaryFailure):
    """The answer is not to be had now; the message says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said: its status, the ETag ("" for none), and the body of a 200."""

    code: int
    tag: str = ""
    body: bytes = field(default=b"", repr=False)


def by_name(reactor: Any) -> Connect:
    """Connects to where the host's name leads."""
    return lambda host, port: HostnameEndpoint(reactor, host.encode("ascii"), port)


async def get(
    url: str,
    tls: ClientTLS,
    reactor: Any,
    *,
    kind: str,
    limit: int,
    seconds: float,
    also: Sequence[int] = (),
    headers: Mapping[str, str] | None = None,
    connect: Connect | None = None,
) -> Answer:
    """Ask for ``url``.  The answer is 200 with a body of the media type ``kind``, or one of the statuses ``also``.

    ``limit``: octets of the body; ``seconds``: for everything.  Raises `FetchFailed` for anything else.
    """
    agent = Agent.usingEndpointFactory(reactor, _Endpoints(tls, connect or by_name(reactor), 2 * limit + _AROUND))
    fetching = Deferred.fromCoroutine(_ask(agent, url, kind, limit, also, headers or {}))
    fetching.addTimeout(seconds, reactor, onTimeoutCancel=lambda _, given: _too_slow(given))
    try:
        return await fetching
    except FetchFailed as why:
        raise FetchFailed(f"{url}: {why}") from None
    except Exception as error:  # an HTTP client has many ways to fail, all of them the other side's
        raise FetchFailed(f"{url}: {_why(error)}") from error


async def post(
    url: str,
    body: bytes,
    tls: ClientTLS,
    reactor: Any,
    *,
    kind: str,
    seconds: float,
    connect: Connect | None = None,
) -> None:
    """Give ``body``, of the media type ``kind``, to ``url``.  Raises `FetchFailed` unless the answer is 2xx."""
    agent = Agent.usingEndpointFactory(reactor, _Endpoints(tls, connect or by_name(reactor), _AROUND))
    wanted = Headers({"User-Agent": ["mailsvc"], "Content-Type": [kind]})
    posting = Deferred.fromCoroutine(_awaited(agent.request(b"POST", url.encode("ascii"), wanted, _Whole(body))))
    posting.addTimeout(seconds, reactor, onTimeoutCancel=lambda _, given: _too_slow(given))
    try:
        response = await posting
    except FetchFailed as why:
        raise FetchFailed(f"{url}: {why}") from None
    except Exception as error:
        raise FetchFailed(f"{url}: {_why(error)}") from error
    response.deliverBody(_Body(0))
    if not 200 <= response.code < 300:
        raise FetchFailed(f"{url}: the server answers {response.code}")


async def _awaited(response: Deferred[IResponse]) -> IResponse:
    return await response


@implementer(IBodyProducer)
class _Whole:
    """A body that is sent in one piece."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """It is over at once."""

    def resumeProducing(self) -> None:
        """As above."""

    def stopProducing(self) -> None:
        """As above."""


async def _ask(
    agent: Agent, url: str, kind: str, limit: int, also: Sequence[int], headers: Mapping[str, str]
) -> Answer:
    wanted = {"User-Agent": ["mailsvc"], "Accept": [kind], **{name: [value] for name, value in headers.items()}}
    response: IResponse = await agent.request(b"GET", url.encode("ascii"), Headers(wanted))
    tag = (response.headers.getRawHeaders("etag") or [""])[-1][:200]
    try:
        if response.code in also:
            raise _NoBody
        if 300 <= response.code < 400:
            raise FetchFailed(f"the server answers {response.code}, and redirects must not be followed")
        if response.code != 200:
            raise FetchFailed(f"the server answers {response.code}")
        kinds = response.headers.getRawHeaders("content-type") or [""]
        if kinds[-1].partition(";")[0].strip().lower() != kind:
            raise FetchFailed(f"the answer is of type {safe_text(kinds[-1], 60)!r}, not {kind}")
    except (FetchFailed, _NoBody) as why:
        # Nobody wants the body, and the connection would wait for a reader of it.
        response.deliverBody(_Body(0))
        if isinstance(why, FetchFailed):
            raise
        return Answer(response.code, tag)
    body = _Body(limit)
    response.deliverBody(body)
    return Answer(200, tag, await body.whole)


class _NoBody(Exception):
    """The status says it all."""


class _Body(Protocol):
    """Takes a body of at most ``limit`` octets; with more the connection is cut at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._octets = bytearray()
        self._refused = False
        self.whole: Deferred[bytes] = Deferred(self._give_up)

    def connectionMade(self) -> None:
        if not self._limit:
            self._cut()

    def dataReceived(self, data: bytes) -> None:
        if not self._limit:
            return  # nobody asked for it
        if len(self._octets) + len(data) > self._limit:
            self._refused = True
            self._cut()
            if not self.whole.called:
                self.whole.errback(FetchFailed(f"the answer has more than {self._limit} octets"))
        elif not self._refused:
            self._octets += data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        if self.whole.called or not self._limit:
            return
        # Without a length the end of the connection ends the body, and in TLS only a proper end is one.
        if reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(bytes(self._octets))
        else:
            self.whole.errback(FetchFailed("the connection ended in the middle of the answer"))

    def _give_up(self, _: Deferred[bytes]) -> None:
        self._refused = True
        self._cut()

    def _cut(self) -> None:
        _cut(self)


def _cut(protocol: Protocol) -> None:
    abort = getattr(protocol.transport, "abortConnection", None) or getattr(protocol.transport, "loseConnection", None)
    if abort is not None:
        abort()


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """Connections that are refused before the request unless the server proves what is demanded."""

    def __init__(self, tls: ClientTLS, connect: Connect, limit: int) -> None:
        self._tls = tls
        self._connect = connect
        self._limit = limit

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        host = uri.host.decode("ascii")
        made: IStreamClientEndpoint = wrapClientTLS(self._tls.to(host, uri.port), self._connect(host, uri.port))
        return _Bounded(made, self._limit)


@implementer(IStreamClientEndpoint)
class _Bounded:
    """An endpoint whose connections take so many octets: twisted.web keeps any number of header fields."""

    def __init__(self, inner: IStreamClientEndpoint, limit: int) -> None:
        self._inner = inner
        self._limit = limit

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        wrapping = WrappingFactory(protocolFactory)
        wrapping.noisy = False
        wrapping.protocol = lambda factory, wrapped: _Counted(factory, wrapped, self._limit)
        connecting: Deferred[Any] = self._inner.connect(wrapping)
        return connecting.addCallback(lambda made: made.wrappedProtocol)


class _Counted(ProtocolWrapper):
    """Cuts a connection that brings more than ``limit`` octets."""

    def __init__(self, factory: WrappingFactory, wrapped: Any, limit: int) -> None:
        super().__init__(factory, wrapped)  # type: ignore[arg-type]
        self._left = limit

    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left >= 0:
            super().dataReceived(data)
        else:
            _cut(self)


def _too_slow(seconds: float) -> NoReturn:
    raise FetchFailed(f"the server did not answer in full within {seconds:g} seconds")


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
