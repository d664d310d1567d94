"""Clients behind a proxy: nothing is said before the PROXY header has told who the client is.

Twisted parses the header (its ``haproxy:`` endpoints), but connects the protocol before the header is there: a greeting
would leave at once, and limits, log and Received would name the proxy.  Here the session is built when the header is
complete, for the address that it gives.  Twisted's parsers take any word for an address, and stumble over some; what
`ipaddress` cannot read gets no session, because it would stand in Received and in the log.

The hardest idea: whoever can connect can claim to be anybody.  A ``haproxy:`` endpoint must be reachable by the proxy
only; that is the postmaster's to see to, and docs/smtp says so.

What is wrong with it: it is built on a private module of Twisted, because nothing public gives the parsers.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IDelayedCall, IHandshakeListener, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer, providedBy

_SHORTEST = 16
"""With fewer octets Twisted would already give up; a header may come octet by octet."""

_LONGEST_TEXT = 107
"""Octets of a header of version 1 with its CRLF."""

_TEXT, _BINARY = b"PROXY ", b"\r\n\r\n\x00\r\nQUIT\n"
_UNKNOWN = b"PROXY UNKNOWN\r\n"


class _Early(Protocol):
    """Stands where the session will be, and keeps what came behind the header."""

    def __init__(self) -> None:
        self.data = b""

    def dataReceived(self, data: bytes) -> None:
        self.data += data


@implementer(IHandshakeListener)
class Proxied(HAProxyProtocolWrapper):
    """One connection of a proxy."""

    factory: ProxiedFactory

    def __init__(self, factory: ProxiedFactory, early: _Early) -> None:
        super().__init__(factory, early)  # type: ignore[arg-type]
        self._early = early
        self._head = b""
        self._timer: IDelayedCall | None = None
        self._refused = False

    def makeConnection(self, transport: Any) -> None:
        """The proxy has connected; the client is not known yet."""
        directlyProvides(self, providedBy(transport))
        Protocol.makeConnection(self, transport)
        self.factory.registerProtocol(self)
        self._timer = self.factory.clock.callLater(self.factory.patience, transport.abortConnection)

    def dataReceived(self, data: bytes) -> None:
        """The header, and then what the client sends."""
        if self._refused:
            return
        if self._is_known():
            self.wrappedProtocol.dataReceived(data)
            return
        if self._parser is None:
            self._head += data
            if not _may_be_header(self._head):
                self._refuse()
                return
            if not _is_begun(self._head):
                return
            data, self._head = self._head, b""
            if data.startswith(_UNKNOWN):
                # Valid as it is (a proxy's own health check), and Twisted wants addresses behind it.
                data = _UNKNOWN.replace(b"\r\n", b" - - 0 0\r\n") + data.removeprefix(_UNKNOWN)
        try:
            super().dataReceived(data)
        except ValueError:  # a port that is no number, an address that is no text: the parser forgets to expect them
            self._refuse()
            return
        if self._is_known():
            if _is_address(self.getPeer()) and _is_address(self.getHost()):
                self._begin()
            else:
                self._refuse()

    def handshakeCompleted(self) -> None:
        """STARTTLS is done: TLS finds us where it looks for the session."""
        listener: Any = self.wrappedProtocol
        listener.handshakeCompleted()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone, perhaps before there was a session."""
        self._stop_timer()
        super().connectionLost(reason)

    def _is_known(self) -> bool:
        return self._proxyInfo is not None

    def _begin(self) -> None:
        self._stop_timer()
        session = self.factory.wrappedFactory.buildProtocol(self.getPeer())
        if session is None:
            transport: Any = self.transport
            transport.abortConnection()
            return
        self.wrappedProtocol = session
        session.makeConnection(self)
        if self._early.data:
            session.dataReceived(self._early.data)

    def _refuse(self) -> None:
        self._refused = True
        self.loseConnection()

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


def _is_address(told: IAddress) -> bool:
    """Whether an address is one, of the family it says; what is no IP address was not told, or is a UNIX socket's."""
    try:
        match told:
            case IPv4Address():
                ipaddress.IPv4Address(told.host)
            case IPv6Address():
                ipaddress.IPv6Address(told.host)
            case _:
                return True
    except ValueError:
        return False
    return "%" not in told.host and 0 <= told.port <= 65535


def _may_be_header(head: bytes) -> bool:
    """Whether these first octets can still become a header of one of the two forms."""
    if _BINARY.startswith(head[: len(_BINARY)]):
        return True
    in_time = len(head) < _LONGEST_TEXT or b"\r\n" in head[:_LONGEST_TEXT]
    return _TEXT.startswith(head[: len(_TEXT)]) and in_time


def _is_begun(head: bytes) -> bool:
    """Whether Twisted's parsers have enough: all of a text, whose end they look for in any length, or 16 octets."""
    return b"\r\n" in head if head.startswith(_TEXT) else len(head) >= _SHORTEST


class ProxiedFactory(WrappingFactory):
    """Builds the sessions of ``factory`` for the clients that a proxy tells of; ``patience`` seconds for its header."""

    noisy = False

    def __init__(self, factory: IProtocolFactory, clock: IReactorTime, patience: float) -> None:
        super().__init__(factory)
        self.clock = clock
        self.patience = patience

    def buildProtocol(self, addr: IAddress | None) -> Proxied:
        """For a connection of the proxy; how many there may be is asked when the client is known."""
        return Proxied(self, _Early())
