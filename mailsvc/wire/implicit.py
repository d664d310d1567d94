"""TLS from the first octet (RFC 8314): Twisted's TLS protocol, with the parts done over that cost more than they do.

`ImplicitTLSFactory` stands between a port and a listener's factory.  STARTTLS goes another way (``transport.startTLS``)
and gets Twisted's own class.  Certificates are for `mailsvc.tls.server`, time limits for the session inside.

Why not Twisted's class as it is: beside OpenSSL's work a handshake costs the time that Python takes, and a profile of
`bench/tls.py` showed three places where most of that goes, none of which does anything for a server:

* ``makeConnection`` tells the interfaces of the transport one by one, each time in place of the one before (25 us), and
  lets OpenSSL look for a ClientHello that has not come;
* each small write waits for the reactor's next round in a timer of its own.  Most of what a server says is the answer
  to what it has just read, so here it waits until the read is over, and only what is said at other times has a timer;
* what a handshake has to send goes by the transport's buffer: epoll is told to look for room, asked, and told to stop.
  A socket that was never written to has room, so here it is written to at once (`_send`), the tickets and the greeting
  in one piece.

The hardest idea is the order of what is sent.  Octets go to the socket directly only while a handshake runs, and only
until the first of them did not fit: then the rest is in the transport's buffer, and everything later goes behind it.

This class needs names that Twisted does not promise, so it serves with the release that it was written beside
(`KNOWN`); any other gets Twisted's own class, which is slower and as safe.
"""

from __future__ import annotations

from typing import Any

from OpenSSL.SSL import WantReadError
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import providedBy

from twisted import __version__ as twisted_version

KNOWN = "26.10"
"""The release of Twisted whose methods were read: year and month."""

_GATHERED = 64_000
"""So many octets are gathered before they become TLS records; as in Twisted's class."""

_AT_ONCE = 1 << 16
"""Octets that are taken from OpenSSL at once."""


class ImplicitTLS(TLSMemoryBIOProtocol):
    """One connection; the session inside has it as its transport."""

    factory: Any
    _in_read = False
    _in_handshake = False
    _direct = False
    _later: IDelayedCall | None = None

    def __init__(self, factory: ImplicitTLSFactory, wrapped: IProtocol, _connectWrapped: bool = True) -> None:
        super().__init__(factory, wrapped, _connectWrapped)
        self._said: list[bytes] = []
        self._size = 0

    def makeConnection(self, transport: Any) -> None:
        """The connection is there, and nothing has come yet."""
        self._tlsConnection = self.factory._creatorCallable(self)
        self._appSendBuffer: list[bytes] = []
        self._direct = isinstance(transport, FileDescriptor)
        ProtocolWrapper.makeConnection(self, transport)
        # What zope makes of the transport's interfaces lives as long as somebody holds it, and costs 15 us to make.
        self.factory.provided = providedBy(self)

    def dataReceived(self, data: bytes) -> None:
        """Octets of the client: what is said to them is sent when all are read."""
        self._in_read = True
        self._in_handshake = not self._handshakeDone
        try:
            super().dataReceived(data)
        finally:
            self._in_read = False
            if self._said:
                self._say()
            if self._in_handshake:
                self._in_handshake = False
                self._send()

    def write(self, data: bytes) -> None:
        """Send ``data`` with what else is said meanwhile."""
        self._said.append(bytes(data))
        self._size += len(data)
        if self._size > _GATHERED:
            self._say()
        elif not self._in_read and self._later is None:
            self._later = self.factory._clock.callLater(0, self._say_later)

    def loseConnection(self) -> None:
        """Send what was said, then close_notify."""
        self._say()
        super().loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone; what was not sent is of no use to anybody."""
        self._in_handshake = False
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._said, self._size = [], 0
        super().connectionLost(reason)

    def _say_later(self) -> None:
        self._later = None
        self._say()

    def _say(self) -> None:
        if self._said:
            said, self._said, self._size = b"".join(self._said), [], 0
            super().write(said)
            if self._in_handshake and len(said) > _GATHERED:
                # So much is not gathered in OpenSSL, too: whoever says it must hear when the client does not read.
                self._send()

    # -- what a handshake sends, gathered in OpenSSL until the read is over -------------------------------------------

    def _flushSendBIO(self) -> None:
        if not self._in_handshake:
            self._direct = False
            super()._flushSendBIO()

    def _shutdownTLS(self) -> None:
        self._gather_no_more()
        super()._shutdownTLS()

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        self._gather_no_more()
        super()._tlsShutdownFinished(reason)

    def _gather_no_more(self) -> None:
        """The connection is about to be closed: what was gathered goes first, by the transport's buffer."""
        if self._in_handshake:
            self._in_handshake = self._direct = False
            self._send()

    def _send(self) -> None:
        """Send all that OpenSSL has; to the socket itself, as long as nothing waits in the transport's buffer."""
        transport: Any = self.transport
        while True:
            try:
                data = self._tlsConnection.bio_read(_AT_ONCE)
            except WantReadError:
                return
            if self._direct and transport.connected and not transport.disconnecting:
                sent = transport.writeSomeData(data)
                if sent == len(data):
                    continue
                # Anything but a number: the connection is lost, which the reactor will find, too.
                data = data[sent:] if isinstance(sent, int) else data
            self._direct = False
            transport.write(data)


def is_known() -> bool:
    """Whether this is the Twisted that `ImplicitTLS` was written beside."""
    return twisted_version.startswith(KNOWN + ".")


class ImplicitTLSFactory(TLSMemoryBIOFactory):
    """TLS around a factory that may turn a connection away, which the stock wrapper does not foresee.

    ``limit``: of connections, None for a factory that has its own.
    """

    if is_known():
        protocol = ImplicitTLS
    limit: int | None = None
    provided: object = None

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A protocol for one connection; None when there are too many."""
        if self.limit is not None and len(self.protocols) >= self.limit:
            return None
        protocol: IProtocol | None = self.wrappedFactory.buildProtocol(addr)
        return None if protocol is None else self.protocol(self, protocol)
