"""Servers that behave badly, in memory: a script of what is sent, awaited, encrypted and broken off.

A script is a sequence of steps: bytes are sent; `HEAR` waits for a line of the client; `TLS` begins a handshake as a
server; `CLOSE` ends the connection, `RESET` breaks it; at the end of the script the server is silent for ever.  The
client's side is Twisted's own transport with the real ``startTLS`` (`tests.memory.Wire`), and time passes only when
the test says so: whatever a server does, a test of it takes no time and ends the same way each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from mailsvc.certkit.keys import PrivateKey
from mailsvc.tls.policy import ClientCertificatePolicy
from mailsvc.tls.roots import OnlyThese, Trust
from tests.bad_certificates import HOST, Made, make, root, san
from tests.memory import Cut, MemoryReactor, Wire, whole
from tests.tls_pair import PlainServer


class Step:
    """Something other than sending octets."""


HEAR, CLOSE, RESET = Step(), Step(), Step()


@dataclass(frozen=True)
class TLS(Step):
    """A handshake with this chain, which may ask for a client certificate, or show an OCSP response."""

    chain: tuple[x509.Certificate, ...]
    key: PrivateKey
    asking: ClientCertificatePolicy | None = None
    staple: bytes = b""

    def context(self) -> SSL.Context:
        made = PlainServer(self.chain, self.key, self.asking).context
        if self.staple:
            made.set_ocsp_server_callback(lambda connection, data: self.staple)
        return made


Script = Sequence[bytes | Step]


@cache
def good() -> Made:
    """A certificate that is in order."""
    return make(root(), HOST, names=san(HOST), usage=ExtendedKeyUsageOID.SERVER_AUTH)


def good_tls(**more: object) -> TLS:
    """A handshake that is in order."""
    return TLS((good().certificate, root().certificate), good().key, **more)  # type: ignore[arg-type]


def trust() -> Trust:
    """What a client must trust for it."""
    return Trust(OnlyThese((root().certificate,)))


class _ClientWire(Wire):
    _tlsClientDefault = True


@implementer(IStreamClientEndpoint)
class HostileServer:
    """The other end of one connection; also the endpoint that leads to it."""

    def __init__(self, script: Script, cut: Cut = whole) -> None:
        self.reactor = MemoryReactor()
        self.heard: list[bytes] = []
        self.wire = _ClientWire(self.reactor)
        self._steps: Iterator[bytes | Step] = iter(script)
        self._waiting: Step | None = None
        self._cut = cut
        self._lines = bytearray()
        self._tls: SSL.Connection | None = None
        self._shaken = False

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        made = factory.buildProtocol(self.wire.getPeer())
        assert made is not None
        self.wire.begin(made)
        return succeed(made)

    def run(self) -> None:
        """Until nothing moves any more."""
        moved = True
        while moved:
            self.reactor.settle()
            moved = self._take() | self._go_on()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.run()
        self.reactor.pass_time(seconds)
        self.run()

    def _take(self) -> bool:
        raw = bytes(self.wire.sent)
        self.wire.sent.clear()
        if self._tls is None:
            self._lines += raw
            return bool(raw)
        if raw:
            self._tls.bio_write(raw)
        moved = bool(raw)
        try:
            self._tls.do_handshake()
            self._shaken = True
            while True:
                self._lines += self._tls.recv(1 << 15)
                moved = True
        except (SSL.WantReadError, SSL.ZeroReturnError):
            pass
        except SSL.Error:
            pass  # the alert is among what is flushed
        return self._flush() | moved

    def _go_on(self) -> bool:
        moved = False
        while self.wire.end is None:
            if self._waiting is HEAR:
                line, end, rest = bytes(self._lines).partition(b"\r\n")
                if not end:
                    return moved
                self.heard.append(line)
                self._lines[:] = rest
            elif isinstance(self._waiting, TLS) and self._tls is None:
                self._tls = SSL.Connection(self._waiting.context(), None)
                self._tls.set_accept_state()
                if self._lines:
                    self._tls.bio_write(bytes(self._lines))
                    self._lines.clear()
                return True
            elif isinstance(self._waiting, TLS) and not self._shaken:
                return moved
            self._waiting = None
            step = next(self._steps, None)
            if step is None:
                return moved
            moved = True
            self._do(step)
        return moved

    def _do(self, step: bytes | Step) -> None:
        if isinstance(step, bytes):
            self._send(step)
        elif step in (CLOSE, RESET):
            # What was sent arrives before the end does.
            self.reactor.settle()
            if self.wire.end is None:
                self.wire.connectionLost(Failure(ConnectionDone() if step is CLOSE else ConnectionLost()))
        else:
            self._waiting = step

    def _send(self, octets: bytes) -> None:
        for segment in filter(None, self._cut(octets)):
            if self._tls is None:
                self.wire.arrive(segment)
            else:
                self._tls.send(segment)
                self._flush()

    def _flush(self) -> bool:
        assert self._tls is not None
        octets = b""
        while True:
            try:
                octets += self._tls.bio_read(1 << 15)
            except SSL.WantReadError:
                break
        if octets and self.wire.end is None:
            self.wire.arrive(octets)
        return bool(octets)
