"""STARTTLS, STLS and implicit TLS with real handshakes in memory: what comes before, what comes after, how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from mailsvc.smtp.modes import SUBMISSION, SUBMISSIONS
from mailsvc.wire.implicit import ImplicitTLSFactory
from tests.memory import (
    ALICE,
    MX,
    MX_OPTIONAL,
    Client,
    MailCase,
    MailHost,
    Silent,
    byte_by_byte,
    log_lines,
    server_tls,
)

INJECTED = b"554 5.5.0 Data was sent before the TLS handshake; closing\r\n"
READY = b"220 2.0.0 Ready to start TLS\r\n"


class InjectionTests(MailCase):
    """What stands in clear behind STARTTLS never has an effect (RFC 3207 section 4, CVE-2011-0411, CVE-2021-38371)."""

    BEHIND = (
        b"NOOP\r\n",
        b"MAIL FROM:<eve@example.net>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\nSubject: x\r\n\r\n.\r\n",
        b"QUIT\r\n",
        b"STARTTLS\r\n",
        b"X",
        b"\r\n",
        b"\0" * 3000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    )

    def test_smtp(self) -> None:
        """In the same segment: 554, the end, and nothing of it is executed; the beginning of a handshake, too."""
        for mode in (MX, MX_OPTIONAL, SUBMISSION):
            for behind in self.BEHIND:
                host = self.host()
                client = host.smtp(mode)
                client.ask(b"EHLO client.example.net")
                client.send(b"STARTTLS\r\n" + behind)
                self.assertEqual((client.take(), client.is_closed), (INJECTED, True), behind)
                self.assertEqual((host.store.calls, host.mail_of(ALICE)), ([], []))

    def test_pop3(self) -> None:
        """The same for STLS."""
        for behind in self.BEHIND:
            host = self.host()
            client = host.pop3()
            client.take()
            client.send(b"STLS\r\n" + behind)
            self.assertEqual(client.take(), b"-ERR data was sent before the TLS handshake; closing\r\n", behind)
            self.assertEqual((client.is_closed, host.store.calls), (True, []))

    def test_it_is_logged(self) -> None:
        """The postmaster can see that somebody tries, or that a client is broken; the octets are not in the log."""
        host = self.host()
        lines = log_lines(lambda: host.smtp(MX).send(b"STARTTLS\r\nMAIL FROM:<eve@example.net>\r\n"))
        [line] = [line for line in lines if "STARTTLS" in line]
        self.assertEqual(
            line,
            "smtp: 192.0.2.7 sent 29 octets in clear behind STARTTLS; dropped, and the connection closed",
        )

    def test_in_the_next_segment(self) -> None:
        """What comes behind our 220 is taken for TLS, is none, and ends the connection."""
        host = self.host()
        client = host.smtp(MX_OPTIONAL)
        client.ask(b"EHLO client.example.net")
        client.put(b"STARTTLS\r\n")
        client.put(b"MAIL FROM:<eve@example.net>\r\nRCPT TO:<alice@example.org>\r\n")
        client.settle()
        self.assertTrue(client.take().startswith(READY))
        self.assertTrue(client.is_closed)
        self.assertEqual(host.store.calls, [])

    def test_behind_a_slow_command(self) -> None:
        """Pipelined behind a command that waits for the database, with octets that are still in the socket."""
        host = self.host()
        client = host.mx_client()
        client.ask(b"MAIL FROM:<eve@example.net>")
        host.store.held = True
        client.put(b"RCPT TO:<alice@example.org>\r\nSTARTTLS\r\n")
        client.put(b"RCPT TO:<bob@example.org>\r\n")
        client.settle()
        host.store.release()
        client.settle()
        self.assertTrue(client.take().startswith(b"250 2.1.5 Recipient ok\r\n" + READY))
        self.assertEqual((client.is_closed, host.store.calls), (True, ["led"]))

    def test_pipelined_before(self) -> None:
        """Commands before STARTTLS in the same segment are fine, when nothing stands behind it."""
        host = self.host(late=True)
        client = host.smtp(MX)
        client.take()
        client.send(b"NOOP\r\nEHLO client.example.net\r\nSTARTTLS\r\n")
        self.assertTrue(client.take().endswith(READY))
        client.handshake()
        self.assertEqual(client.ask(b"NOOP"), b"250 2.0.0 Ok\r\n")

    def test_inside_the_first_record(self) -> None:
        """Commands inside TLS may come with the client's last handshake octets: those were said inside TLS."""
        host = self.host()
        client = host.smtp(MX)
        client.ask(b"STARTTLS")
        client.begin_handshake()
        client.settle()  # the server's flight has come, and our answer to it waits to be delivered
        client.put(b"EHLO client.example.net\r\nNOOP\r\n")
        client.settle()
        self.assertTrue(client.take().endswith(b"250 2.0.0 Ok\r\n"))


class ForgottenTests(MailCase):
    """The handshake wipes the slate (RFC 3207 section 4.2, RFC 2595 section 4)."""

    def test_smtp(self) -> None:
        """Greeting, sender and recipients are gone; the trace tells the name that was said inside TLS."""
        host = self.host()
        client = host.mx_client()
        client.ask(b"MAIL FROM:<eve@example.net>")
        client.ask(b"RCPT TO:<alice@example.org>")
        client.ask(b"STARTTLS")
        client.handshake()
        for command in (b"DATA", b"RCPT TO:<alice@example.org>", b"MAIL FROM:<>"):
            self.assertEqual(client.ask(command), b"503 5.5.1 Send EHLO first\r\n")
        client.send(b"EHLO inside.example.net\r\nMAIL FROM:<>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n.\r\n")
        self.assertIn(b"stored as ID1", client.take())
        self.assertEqual(host.mail_of(ALICE), [])
        [message] = host.mail_of("bob@example.org")
        self.assertIn(b"from inside.example.net", message)
        self.assertIn(b"with ESMTPS\r\n\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256 bits)", message)

    def test_submission_login_needs_tls(self) -> None:
        """Nobody can have logged in before TLS, and the AUTH that was tried then has left nothing."""
        host = self.host()
        client = host.smtp(SUBMISSION)
        client.ask(b"EHLO client.example.net")
        client.ask(b"AUTH LOGIN")
        client.ask(b"STARTTLS")
        client.handshake()
        self.assertEqual(client.ask(b"EHLO x")[-30:], b"-REQUIRETLS\r\n250 AUTH PLAIN LOGIN\r\n"[-30:])
        self.assertEqual(host.checker.logins, [])


class ImplicitTests(MailCase):
    """TLS from the first octet (RFC 8314)."""

    def clients(self) -> Iterator[tuple[Client, bytes]]:
        host = self.host()
        yield host.smtp(SUBMISSIONS), b"220 mail.example.org ESMTP\r\n"
        yield host.pop3(implicit_tls=True), b"+OK mail.example.org POP3 ready\r\n"

    def test_greeting(self) -> None:
        """The greeting comes after the handshake; before it not an octet is sent."""
        for client, greeting in self.clients():
            self.assertEqual(client.wire.writes, [])
            client.handshake()
            self.assertEqual(client.take(), greeting)
            self.assertNotIn(b"mail.example.org ESMTP", b"".join(client.wire.writes))

    def test_clear_text(self) -> None:
        """A client that talks in clear is not understood, and closed."""
        for client, _ in self.clients():
            client.send(b"EHLO client.example.net\r\n")
            self.assertTrue(client.is_closed)
            self.assertNotIn(b"mail.example.org", client.take())

    def test_lost_in_the_handshake(self) -> None:
        """A client that goes away in the middle of the handshake leaves nothing (see `MailCase.check_end`)."""
        for client, _ in self.clients():
            client.begin_handshake()
            client.wire.deliver()
            client.hang_up()

    def test_no_delay(self) -> None:
        """Nagle's algorithm is off inside TLS, too."""
        for client, _ in self.clients():
            client.handshake()
            self.assertTrue(client.wire.no_delay)


class EndTests(MailCase):
    """How TLS connections end: with close_notify, and by force when the peer does not answer."""

    def clients(self) -> Iterator[tuple[MailHost, Client]]:
        host = self.host()
        yield host, host.secured_smtp(MX)
        yield host, host.secured_smtp(SUBMISSIONS)
        yield host, host.secured_pop3()
        yield host, host.reader()
        pop3s = host.pop3(implicit_tls=True)
        pop3s.handshake()
        yield host, pop3s

    def test_quit(self) -> None:
        """QUIT is answered, then comes close_notify; when the client answers that, the connection is closed."""
        for _, client in self.clients():
            self.assertIn(client.ask(b"QUIT")[:3], (b"221", b"+OK"))
            self.assertTrue(client.saw_close_notify)
            client.close_tls()
            self.assertEqual((client.is_closed, client.wire.aborted), (True, False))

    def test_silent_after_quit(self) -> None:
        """A client that does not answer our close_notify is cut off after `closing` seconds."""
        for _, client in self.clients():
            client.ask(b"QUIT")
            client.wait(9.5)
            self.assertFalse(client.is_closed)
            client.wait(1)
            self.assertEqual((client.is_closed, client.wire.aborted), (True, True))

    def test_talks_after_quit(self) -> None:
        """Nor does it help to go on talking, and nothing of it is kept."""
        for _host, client in self.clients():
            client.ask(b"QUIT")
            for _ in range(10):
                client.send(b"NOOP\r\n")
                self.assertEqual(self.pending(client), 0)
                client.wait(1)
            self.assertEqual((client.is_closed, client.wire.aborted, client.take()), (True, True, b""))

    def pending(self, client: Client) -> int:
        protocol: Any = client.wire.protocol
        while not hasattr(protocol, "conversation"):
            protocol = protocol.wrappedProtocol
        return int(protocol.conversation.reader.pending)

    def test_client_closes_first(self) -> None:
        """A client that sends close_notify without QUIT is let go at once."""
        for _, client in self.clients():
            client.close_tls()
            self.assertEqual((client.is_closed, client.wire.aborted), (True, False))

    def test_silent(self) -> None:
        """A client that says nothing inside TLS is closed when its time is up, and cut when it does not close."""
        for _, client in self.clients():
            client.take()
            client.wait(300)
            self.assertTrue(client.saw_close_notify)
            client.wait(10)
            self.assertTrue(client.wire.aborted)

    def test_silent_in_the_handshake(self) -> None:
        """Four clients that never finish a handshake: none lives longer than `handshake` seconds."""
        host = self.host()
        clients = [host.smtp(MX), host.smtp(SUBMISSIONS), host.pop3(), host.pop3(implicit_tls=True)]
        clients[0].ask(b"STARTTLS")
        clients[2].ask(b"STLS")
        for client in clients:
            client.begin_handshake()
            client.wire.deliver()
        host.reactor.pass_time(29)
        self.assertEqual([client.is_closed for client in clients], [False] * 4)
        host.reactor.pass_time(1)
        self.assertEqual([client.wire.aborted for client in clients], [True] * 4)

    def test_octet_by_octet(self) -> None:
        """A handshake that arrives octet by octet works."""
        host = self.host()
        client = host.smtp(SUBMISSIONS)
        client.begin_handshake()
        for _ in range(3):
            waiting = list(client.wire._arrived)
            client.wire._arrived.clear()
            for octet in byte_by_byte(b"".join(waiting)):
                client.wire.arrive(octet)
            client.settle()
        self.assertEqual(client.take(), b"220 mail.example.org ESMTP\r\n")

    def test_shut_down_in_the_handshake(self) -> None:
        """The service can stop while handshakes stand still."""
        host = self.host()
        for client in (host.smtp(SUBMISSIONS), host.smtp(MX)):
            client.ask(b"STARTTLS") if client.take() else None
            client.begin_handshake()
            client.wire.deliver()
        done = host.sessions.shut_down()
        host.reactor.pass_time(10)
        self.successResultOf(done)


class Watched(Factory):
    """Keeps the protocols that another factory builds."""

    noisy = False

    def __init__(self, factory: Any) -> None:
        self.factory = factory
        self.protocols: list[Any] = []

    def buildProtocol(self, addr: IAddress | None) -> Any:
        self.protocols.append(self.factory.buildProtocol(addr))
        return self.protocols[-1]


class LoopbackTests(TestCase):
    """Once with Twisted's real TCP transport, because `tests.memory.Wire` only stands in for it."""

    async def test_no_delay(self) -> None:
        """TCP_NODELAY is set on the socket of every listener, in clear and inside TLS."""
        host = MailHost()
        for factory in (
            host.smtp_factory(MX),
            ImplicitTLSFactory(server_tls(), False, host.smtp_factory(SUBMISSIONS), host.reactor),
            host.pop3_factory(),
            ImplicitTLSFactory(server_tls(), False, host.pop3_factory(implicit_tls=True), host.reactor),
        ):
            watched = Watched(factory)
            port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(watched)
            number = cast(IPv4Address, port.getHost()).port
            client = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", number), Silent())
            while not watched.protocols or watched.protocols[0].transport is None:
                await deferLater(cast(Any, reactor), 0)
            transport = watched.protocols[0].transport
            self.assertTrue(transport.getTcpNoDelay(), factory)
            transport.abortConnection()
            while transport.connected:
                await deferLater(cast(Any, reactor), 0)
            assert client.transport is not None
            client.transport.loseConnection()
            await port.stopListening()
