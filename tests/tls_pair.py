"""Real TLS handshakes in memory between any two ends, through Twisted's own TLS protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from OpenSSL import SSL
from twisted.internet import protocol, task
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.test import iosim
from zope.interface import implementer

from mailsvc.certkit.keys import PrivateKey
from mailsvc.tls.policy import ClientCertificatePolicy
from mailsvc.tls.verify import CheckedConnection, ask_clients


@implementer(IHandshakeListener)
class End(protocol.Protocol):
    """One end of the conversation: says `first` as soon as it may, and keeps what it hears."""

    def __init__(self, first: bytes = b"") -> None:
        self.first = first
        self.received = b""
        self.handshakes = 0
        self.reason: BaseException | None = None

    def connectionMade(self) -> None:
        if self.first and self.transport is not None:
            self.transport.write(self.first)

    def handshakeCompleted(self) -> None:
        self.handshakes += 1

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        self.reason = reason.value


@implementer(IOpenSSLServerConnectionCreator)
class PlainServer:
    """A server that shows this chain, however bad, and may ask for client certificates."""

    def __init__(
        self,
        chain: Sequence[x509.Certificate],
        key: PrivateKey,
        policy: ClientCertificatePolicy | None = None,
        *,
        newest: int = SSL.TLS1_3_VERSION,
    ) -> None:
        self.context = present(SSL.Context(SSL.TLS_SERVER_METHOD), chain, key)
        self.context.set_max_proto_version(newest)
        self.context.set_session_id(b"test")
        self.context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        if policy is not None:
            ask_clients(self.context, policy)

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return CheckedConnection(self.context, None)


@implementer(IOpenSSLClientConnectionCreator)
class PlainClient:
    """A client that checks nothing and shows this chain, if any."""

    def __init__(self, chain: Sequence[x509.Certificate] = (), key: PrivateKey | None = None) -> None:
        self.context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self.session: SSL.Session | None = None
        if key is not None:
            present(self.context, chain, key)

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = SSL.Connection(self.context, None)
        if self.session is not None:
            connection.set_session(self.session)
        return connection


def present(context: SSL.Context, chain: Sequence[x509.Certificate], key: PrivateKey) -> SSL.Context:
    """Make a context show a chain that OpenSSL might find too weak to show."""
    context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
    context.use_certificate(chain[0])
    for certificate in chain[1:]:
        context.add_extra_chain_cert(certificate)
    context.use_privatekey(key)
    return context


@dataclass
class Pair:
    """Both ends of one connection, whose handshake has gone as far as it goes."""

    server: TLSMemoryBIOProtocol
    client: TLSMemoryBIOProtocol
    server_end: End
    client_end: End
    clock: task.Clock
    pump: iosim.IOPump

    def settle(self) -> None:
        for _ in range(3):
            self.clock.advance(1)
            self.pump.flush()

    def exchange(self) -> tuple[bytes, bytes]:
        """Each end says a word; what the client and the server have heard in all."""
        for end, word in ((self.server_end, b"220 hi"), (self.client_end, b"NOOP")):
            assert end.transport is not None
            end.transport.write(word)
        self.settle()
        return self.client_end.received, self.server_end.received


def handshake(
    server: IOpenSSLServerConnectionCreator, client: IOpenSSLClientConnectionCreator, *, first: bytes = b""
) -> Pair:
    """Connect the two. `first` is what the client's application writes at once, before any check is done."""
    clock = task.Clock()
    ends = End(), End(first)
    made: list[TLSMemoryBIOProtocol] = []
    creators: tuple[IOpenSSLServerConnectionCreator | IOpenSSLClientConnectionCreator, ...] = (server, client)
    for creator, end in zip(creators, ends, strict=True):
        factory = protocol.Factory()
        factory.buildProtocol = lambda addr, end=end: end  # type: ignore[method-assign, misc]
        made.append(TLSMemoryBIOFactory(creator, creator is client, factory, clock).buildProtocol(None))
    transports = iosim.FakeTransport(made[0], True), iosim.FakeTransport(made[1], False)
    pump = iosim.connect(made[0], transports[0], made[1], transports[1])
    pair = Pair(made[0], made[1], *ends, clock, pump)
    pair.settle()
    return pair
