"""Clients behind a proxy: the PROXY header in both forms, cut anywhere, wrong, or never coming."""

from __future__ import annotations

import struct
from typing import Any

from twisted.internet import endpoints, reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from mailsvc.smtp.modes import SUBMISSIONS, lmtp
from mailsvc.wire.proxied import ProxiedFactory
from tests.memory import MX_OPTIONAL, Client, MailCase, MailHost, byte_by_byte, whole

PROXY = IPv4Address("TCP", "10.0.0.1", 50000)
V1 = b"PROXY TCP4 198.51.100.9 192.0.2.1 40000 25\r\n"
V2 = (
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11"
    + struct.pack("!H", 12)
    + bytes([198, 51, 100, 9, 192, 0, 2, 1])
    + struct.pack("!HH", 40000, 25)
)
GREETED = b"250-mail.example.org greets [198.51.100.9]\r\n"


class ProxiedTests(MailCase):
    def client(self, host: MailHost) -> Client:
        factory = ProxiedFactory(host.smtp_factory(MX_OPTIONAL), host.reactor, 30.0)
        return host.connect(factory, peer=PROXY)

    def test_nothing_is_said_before_the_header(self) -> None:
        """The greeting waits for the header; then the client is who the header says.

        Rule: PROXY protocol
        """
        for header in (V1, V2):
            client = self.client(self.host())
            self.assertEqual(client.take(), b"")
            client.send(header)
            self.assertEqual(client.take(), b"220 mail.example.org ESMTP\r\n")
            self.assertTrue(client.ask(b"EHLO client.example.net").startswith(GREETED))

    def test_unknown_without_addresses(self) -> None:
        """The shortest header there is, a proxy's own health check: the client is the proxy."""
        for cut in (whole, byte_by_byte):
            client = self.client(self.host(cut=cut))
            client.send(b"PROXY UNKNOWN\r\n")
            self.assertEqual(client.take(), b"220 mail.example.org ESMTP\r\n")
            self.assertTrue(client.ask(b"EHLO x").startswith(b"250-mail.example.org greets [10.0.0.1]\r\n"))

    def test_octet_by_octet(self) -> None:
        """A header may come in any segments, and with commands behind it."""
        for header in (V1, V2):
            host = self.host(cut=byte_by_byte)
            client = self.client(host)
            client.send(header + b"EHLO client.example.net\r\n")
            self.assertTrue(client.take().startswith(b"220 mail.example.org ESMTP\r\n" + GREETED))

    def test_received_and_starttls(self) -> None:
        """Behind STARTTLS the session is the same client's, and Received names it.

        Rule: PROXY protocol
        """
        host = self.host()
        client = self.client(host)
        client.send(V1)
        client.ask(b"STARTTLS")
        client.handshake()
        client.take()
        for line in (b"EHLO x", b"MAIL FROM:<>", b"RCPT TO:<alice@example.org>", b"DATA", b"Subject: x\r\n\r\n."):
            answer = client.ask(line)
        self.assertEqual(answer[:3], b"250")
        self.assertIn(b"Received: from x ([198.51.100.9])\r\n\tby mail.example.org with ESMTPS\r\n", host.mail_of()[0])

    def test_inside_tls(self) -> None:
        """On a listener inside TLS the header stands in front of the handshake."""
        from mailsvc.wire.implicit import ImplicitTLSFactory
        from tests.memory import server_tls

        host = self.host()
        inner = ImplicitTLSFactory(server_tls(), False, host.smtp_factory(SUBMISSIONS), host.reactor)
        client = host.connect(ProxiedFactory(inner, host.reactor, 30.0), peer=PROXY)
        client.send(V2)
        client.handshake()
        self.assertEqual(client.take(), b"220 mail.example.org ESMTP\r\n")
        self.assertTrue(client.ask(b"EHLO x").startswith(GREETED))

    def test_no_header(self) -> None:
        """What is no header gets no session, and no word."""
        client = self.client(self.host())
        client.send(b"EHLO client.example.net\r\n")
        self.assertEqual((client.take(), client.is_closed), (b"", True))

    def test_no_address(self) -> None:
        """Words that are no address, of the other family, or no port: no session, no word, no exception.

        Rule: PROXY protocol
        """
        for words in (
            b"TCP4 198.51.100.9;evil 192.0.2.1 40000 25", b"TCP4 \xff 192.0.2.1 40000 25", b"TCP4 ::1 ::1 40000 25",
            b"TCP6 fe80::1%lo ::1 40000 25", b"TCP4 198.51.100.9 192.0.2.1 x 25", b"TCP4 198.51.100.9 x 40000 25",
            b"UNKNOWN " + b"x" * 92, b"TCP4 198.51.100.9 192.0.2.1 65536 25",
            b"TCP4 198.51.100.9 192.0.2.1 40000 -1", b"TCP4    ", b"TCP5 ",
        ):  # fmt: skip
            for cut in (whole, byte_by_byte):
                client = self.client(self.host(cut=cut))
                client.send(b"PROXY " + words + b"\r\nEHLO x\r\n")
                self.assertEqual((client.take(), client.is_closed), (b"", True), words)

    def test_silence(self) -> None:
        """A proxy that says nothing is cut off, and no session was counted."""
        host = self.host()
        client = self.client(host)
        client.send(V1[:20])
        client.wait(30)
        self.assertTrue(client.wire.aborted)
        self.assertEqual(len(host.sessions), 0)

    def test_too_many(self) -> None:
        """The limit of connections holds for clients, not for the proxy."""
        host = self.host(limit=1)
        first, second = self.client(host), self.client(host)
        first.send(V1)
        second.send(V1)
        self.assertEqual(first.take()[:3], b"220")
        self.assertEqual(second.take()[:3], b"421")


class _Collector(Protocol):
    def __init__(self) -> None:
        self.data = b""
        self.ended: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(self.data)


class RealSocketTests(TestCase):
    """The same over the kernel's sockets."""

    async def _spoken(self, server: str, client: str, factory: Any, words: bytes) -> bytes:
        port = await endpoints.serverFromString(reactor, server).listen(factory)
        where = client.format(port=getattr(port.getHost(), "port", 0))
        collector = _Collector()
        await endpoints.connectProtocol(endpoints.clientFromString(reactor, where), collector)
        assert collector.transport is not None
        collector.transport.write(words)
        answer = await collector.ended
        await port.stopListening()
        return answer

    async def test_proxy(self) -> None:
        """PROXY on TCP.

        Rule: PROXY protocol
        """
        host = MailHost()
        factory = ProxiedFactory(host.smtp_factory(MX_OPTIONAL), host.reactor, 30.0)
        words = V1 + b"EHLO x\r\nQUIT\r\n"
        answer = await self._spoken("tcp:0:interface=127.0.0.1", "tcp:127.0.0.1:{port}", factory, words)
        self.assertIn(GREETED, answer)
        host.end()

    async def test_lmtp_on_a_unix_socket(self) -> None:
        """LMTP on a UNIX socket, without TLS; the peer has no address, and the trace says LMTP.

        Rule: LMTP: on a UNIX socket
        """
        host = MailHost()
        path = self.mktemp()[-80:].replace("/", "_")
        factory = host.smtp_factory(lmtp(requires_tls=False))
        words = (
            b"LHLO front.example.org\r\nMAIL FROM:<eve@example.net>\r\nRCPT TO:<alice@example.org>\r\n"
            b"BDAT 14 LAST\r\nSubject: x\r\n\r\nQUIT\r\n"
        )
        answer = await self._spoken(f"unix:{path}", f"unix:{path}", factory, words)
        self.assertIn(b"250-mail.example.org greets local\r\n", answer)
        self.assertIn(b"\r\n250 2.0.0 <alice@example.org> Ok: stored as ID1\r\n221 ", answer)
        self.assertIn(
            b"Received: from front.example.org (local)\r\n\tby mail.example.org with LMTP\r\n", host.mail_of()[0]
        )
        host.end()
