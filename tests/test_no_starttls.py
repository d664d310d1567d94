"""The attacks on STARTTLS of "Why TLS Is Better Without STARTTLS" (USENIX Security 2021), in one place, for both sides.

Server side: command injection (by the same segment, by the next one, octet by octet, into a message that swallows the
victim's login), what was said in clear is forgotten (session fixation), nothing secret is taken in clear, no way back
into clear text, and no cross-protocol request (a web client that was led to a mail port).

Client side, with `mailsvc.probe.session.observe` in front of servers that lie: stripping, refused STARTTLS, response
injection, capabilities of the clear text, PREAUTH, mailbox data, alerts and referrals in clear, and clear text where
TLS was promised. The same channel is under everything that connects to servers.

More about single steps: ``tests/test_wire_tls.py``, ``tests/test_pitfalls.py``, ``tests/test_relay_replies.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet import reactor as imported_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from mailsvc.gate.watch import Policy, Watch
from mailsvc.probe.observation import Observation, Outcome, Talk, Target
from mailsvc.probe.session import Limits, observe
from mailsvc.smtp.modes import SUBMISSION, SUBMISSIONS, lmtp
from mailsvc.tls.client import ClientTLS
from mailsvc.tls.levels import Level
from mailsvc.tls.policy import ServerPolicy
from tests.memory import ALICE, HOSTNAME, MX, MX_OPTIONAL, Client, MailCase, MailHost, byte_by_byte, server_tls, whole

reactor: Any = imported_reactor

INJECTED_SMTP = (
    b"NOOP\r\n",
    b"EHLO eve.example.net\r\nMAIL FROM:<eve@example.net>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\n",
    b"AUTH PLAIN\r\n",
    b"STARTTLS\r\n",
    b"RSET",
)
INJECTED_POP3 = (b"NOOP\r\n", b"USER eve@example.net\r\nPASS eve\r\n", b"CAPA\r\n", b"STLS\r\n", b"UTF8")
HTTP = (
    b"GET / HTTP/1.1\r\nHost: mail.example.org\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: mail.example.org\r\nContent-Length: 60\r\n\r\n",
    b"HEAD / HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n\r\n",
    b"CONNECT mail.example.org:25 HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)
SMTP_END = b"500 5.5.1 Command not recognised\r\n421 4.7.0 This is a mail server; closing\r\n"
SMTP_END_IN_CLEAR = b"530 5.7.0 Must issue a STARTTLS command first\r\n421 4.7.0 This is a mail server; closing\r\n"
POP3_END = b"-ERR unknown command\r\n"
BEHIND_HTTP = b"NOOP\r\nEHLO x\r\nMAIL FROM:<eve@example.net>\r\nCAPA\r\nSTARTTLS\r\nSTLS\r\n"
"""What a form of the Web would have as its body."""


class ServerCase(MailCase):
    """Hosts as the service has them, with the gate in front."""

    def host(self, **settings: Any) -> MailHost:
        host = super().host(**settings)
        gate = Watch(Policy(HOSTNAME), host.reactor, lambda client, text: None)
        host.helpers = replace(host.helpers, gate=gate)
        return host

    def starttls_clients(self) -> list[tuple[MailHost, Client, bytes, Sequence[bytes]]]:
        """A fresh client, in clear, of each listener with STARTTLS: its command for it, and what may be injected."""
        made: list[tuple[MailHost, Client, bytes, Sequence[bytes]]] = []
        for mode in (MX, MX_OPTIONAL, SUBMISSION, lmtp(requires_tls=True)):
            host = self.host()
            client = host.smtp(mode)
            client.ask(b"LHLO client.example.net" if mode.lmtp else b"EHLO client.example.net")
            made.append((host, client, b"STARTTLS\r\n", INJECTED_SMTP))
        host = self.host()
        client = host.pop3()
        client.take()
        made.append((host, client, b"STLS\r\n", INJECTED_POP3))
        return made

    def assert_untouched(self, host: MailHost, client: Client) -> None:
        """Nothing was executed, and the connection is at its end."""
        self.assertEqual((client.is_closed, host.store.calls, host.mail_of(ALICE)), (True, [], []))
        self.assertEqual(host.checker.logins, [])


class CommandInjection(ServerCase):
    """What an attacker adds in clear behind STARTTLS must not be executed inside TLS (CVE-2011-0411)."""

    def test_in_the_same_segment(self) -> None:
        """Refused in clear, and the connection ends; it does not come to a handshake.

        Rule: Commands behind STARTTLS are not executed
        """
        for number in range(len(INJECTED_SMTP)):
            for host, client, starttls, injected in self.starttls_clients():
                client.send(starttls + injected[number])
                said = client.take()
                self.assertIn(said[:5], (b"554 5", b"-ERR "), injected[number])
                self.assertEqual(said.count(b"\r\n"), 1, injected[number])
                self.assert_untouched(host, client)

    def test_in_the_next_segment_and_octet_by_octet(self) -> None:
        """What comes behind our consent is taken for TLS, is none, and ends the connection."""
        for cut in (whole, byte_by_byte):
            for host, client, starttls, injected in self.starttls_clients():
                client.cut = cut
                client.put(starttls)
                client.put(injected[1])
                client.settle()
                self.assertEqual(client.take().count(b"\r\n"), 1)
                self.assert_untouched(host, client)

    def test_a_message_that_would_swallow_the_login(self) -> None:
        """The injected DATA is not open when the victim says AUTH: the victim's connection is at its end."""
        host = self.host()
        client = host.smtp(SUBMISSION)
        client.ask(b"EHLO victim.example.org")
        client.send(b"STARTTLS\r\n" + INJECTED_SMTP[1])
        client.send(b"EHLO victim.example.org\r\nAUTH PLAIN AGFsaWNlAHBhc3N3b3Jk\r\n.\r\n")
        self.assert_untouched(host, client)


class Forgotten(ServerCase):
    """The handshake wipes the slate: an attacker cannot prepare the session of a victim (session fixation)."""

    def test_smtp_transaction(self) -> None:
        """Sender and recipients that were named in clear are gone, and so is the greeting."""
        host = self.host()
        client = host.smtp(MX_OPTIONAL)
        client.ask(b"EHLO eve.example.net\r\nMAIL FROM:<eve@example.net>\r\nRCPT TO:<alice@example.org>")
        client.ask(b"STARTTLS")
        client.handshake()
        self.assertEqual(client.ask(b"DATA")[:4], b"503 ")
        self.assertEqual(client.ask(b"MAIL FROM:<victim@example.net>")[:4], b"503 ")

    def test_pop3_name_and_modes(self) -> None:
        """A name that was given in clear is not the one to which the victim's password is taken."""
        client = self.host().pop3()
        client.take()
        for command in (b"USER eve@example.net", b"UTF8", b"LANG de", b"AUTH PLAIN"):
            self.assertEqual(client.ask(command)[:5], b"-ERR ", command)
        client.ask(b"STLS")
        client.handshake()
        self.assertEqual(client.ask(b"PASS open sesame"), b"-ERR send USER first\r\n")

    def test_no_secret_is_taken_or_offered_in_clear(self) -> None:
        """Before TLS there is no AUTH, no USER and no PASS, and nobody is told of them."""
        for mode in (MX, MX_OPTIONAL, SUBMISSION):
            client = self.host().smtp(mode)
            self.assertNotIn(b"AUTH", client.ask(b"EHLO victim.example.org"))
            self.assertEqual(client.ask(b"AUTH PLAIN AGFsaWNlAHBhc3N3b3Jk")[:1], b"5")
        client = self.host().pop3()
        client.take()
        self.assertEqual({b"USER", b"SASL"} & set(client.ask(b"CAPA").split()), set())
        self.assertEqual(client.ask(b"PASS open sesame")[:5], b"-ERR ")


class NoWayBack(ServerCase):
    """Once TLS was promised, clear text is never listened to again."""

    def test_a_handshake_that_fails(self) -> None:
        """Without a version in common the connection ends, and what is then said in clear has no effect."""
        for host, client, starttls, injected in self.starttls_clients():
            client.send(starttls)
            client.take()
            client.send(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00")
            client.send(injected[0])
            self.assert_untouched(host, client)
            self.assertNotIn(b"250", client.take())

    def test_clear_text_inside_tls(self) -> None:
        """A segment in clear between two records is no record: the connection ends and nothing is executed."""
        host = self.host()
        for client in (host.secured_smtp(MX), host.secured_smtp(SUBMISSIONS), host.secured_pop3()):
            client.take()
            client.wire.arrive(b"NOOP\r\n")
            client.wire.deliver()
            self.assertNotIn(b"250", bytes(client.wire.sent))
            client.hang_up()
        self.assertEqual(host.store.calls, [])

    def test_starttls_inside_tls(self) -> None:
        """TLS is not begun twice."""
        host = self.host()
        for client, command in (
            (host.secured_smtp(MX), b"STARTTLS"),
            (host.secured_smtp(SUBMISSIONS), b"STARTTLS"),
            (host.secured_pop3(), b"STLS"),
        ):
            client.take()
            self.assertIn(client.ask(command)[:4], (b"503 ", b"-ERR"))
            self.assertFalse(client.is_closed)


class CrossProtocol(ServerCase):
    """A web client that somebody has led to a mail port is cut off at its first line."""

    def clients(self) -> list[Client]:
        """One of each listener, in clear and inside TLS, greeted."""
        host = self.host()
        made = [client for _, client, _, _ in self.starttls_clients()]
        for secured in (host.secured_smtp(MX), host.secured_smtp(SUBMISSIONS), host.secured_pop3()):
            secured.take()
            made.append(secured)
        pop3s = host.pop3(implicit_tls=True)
        pop3s.handshake()
        return [*made, pop3s]

    def test_every_method_on_every_listener(self) -> None:
        """One error, the end, and nothing behind the request's first line is taken for commands.

        Rule: A web client is cut off at its first line
        """
        for request in HTTP:
            for client in self.clients():
                client.take()
                client.send(request + BEHIND_HTTP)
                said = client.take()
                self.assertIn(said, (SMTP_END, SMTP_END_IN_CLEAR, POP3_END), request)
                if client.tls is not None:
                    self.assertTrue(client.saw_close_notify, request)
                    client.close_tls()
                self.assertTrue(client.is_closed, request)

    def test_alpn_of_the_web(self) -> None:
        """A client that offers only http/1.1 gets TLS without a protocol chosen, and is cut off at its request.

        RFC 7301 section 3.2 would have an alert here. But a mail program that offers a name of its own must get
        through, because none is registered for SMTP; so the first line decides, not ALPN.
        """
        for number in range(2):
            host = self.host()
            client = host.pop3(implicit_tls=True) if number else host.smtp(SUBMISSIONS)
            context = SSL.Context(SSL.TLS_CLIENT_METHOD)
            context.set_alpn_protos([b"h2", b"http/1.1"])
            client.begin_handshake(context)
            for _ in range(3):
                client.settle()
            assert client.tls is not None
            self.assertEqual(client.tls.get_alpn_proto_negotiated(), b"")
            client.take()
            client.send(HTTP[0])
            self.assertTrue(client.saw_close_notify)
            client.close_tls()


BEGIN_TLS = b"<tls>"
"""In a script: the handshake begins behind what was said."""


class Liar(Protocol):
    """A server that says the next piece of its script for each line that it hears."""

    def __init__(self, script: Sequence[bytes]) -> None:
        self.script = list(script)
        self.in_clear: list[bytes] = []
        self.inside: list[bytes] = []
        self.ended: Deferred[None] = Deferred()
        self._secured = False
        self._buffer = b""

    def connectionMade(self) -> None:
        self._next()

    def dataReceived(self, data: bytes) -> None:
        if not self._secured and data.startswith(b"\x16\x03"):  # a ClientHello, where the script has no TLS
            self._next()
            return
        *lines, self._buffer = (self._buffer + data).split(b"\r\n")
        for line in lines:
            (self.inside if self._secured else self.in_clear).append(line)
            self._next()

    def _next(self) -> None:
        piece = self.script.pop(0) if self.script else b""
        said, begin, _ = piece.partition(BEGIN_TLS)
        transport = cast(Any, self.transport)
        transport.write(said)
        if begin:
            self._secured = True
            transport.startTLS(server_tls())
        elif not piece:
            transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(None)


EHLO = b"250-mail.example.org\r\n250-STARTTLS\r\n250 HELP\r\n"
CAPA = b"+OK\r\nSTLS\r\n.\r\n"
IMAP = b"* CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED\r\na1 OK\r\n"
GREETINGS = {
    Talk.SMTP: b"220 mail.example.org ESMTP\r\n",
    Talk.LMTP: b"220 mail.example.org LMTP\r\n",
    Talk.POP3: b"+OK ready\r\n",
    Talk.IMAP: b"* OK ready\r\n",
}
OFFERS = {Talk.SMTP: EHLO, Talk.LMTP: EHLO, Talk.POP3: CAPA, Talk.IMAP: IMAP}
CONSENTS = {Talk.SMTP: b"220 Go\r\n", Talk.LMTP: b"220 Go\r\n", Talk.POP3: b"+OK Go\r\n", Talk.IMAP: b"a2 OK Go\r\n"}
TALKS = tuple(GREETINGS)
LIMITS = Limits(closing=0.1)
"""A server of ours that does not close is not waited for; that is no fact of any test."""


class ClientCase(TestCase):
    async def probed(self, talk: Talk, *script: bytes, at_once: bool = False) -> tuple[Observation, Liar]:
        """What a probe makes of a server with this script, and what that has heard."""
        liar = Liar(script)
        factory = Factory.forProtocol(lambda: liar)
        factory.noisy = False
        served = TLSMemoryBIOFactory(server_tls(), False, factory) if at_once else factory
        port = reactor.listenTCP(0, served, interface="127.0.0.1")
        try:
            number = port.getHost().port
            target = Target("127.0.0.1", number, talk, at_once, HOSTNAME)
            destination = ClientTLS(ServerPolicy(Level.ENCRYPTED)).to(HOSTNAME, number)
            seen = await observe(target, TCP4ClientEndpoint(reactor, "127.0.0.1", number), destination, reactor, LIMITS)
            await liar.ended
        finally:
            await port.stopListening()
        return seen, liar

    def assert_stopped(self, seen: Observation, outcome: Outcome, *words: str) -> None:
        """It ended so, with these words in its sentence."""
        assert seen.stop is not None
        self.assertEqual(seen.stop.outcome, outcome, seen.stop)
        for word in words:
            self.assertIn(word, seen.stop.text)


class Stripping(ClientCase):
    """Nothing but the question for TLS is ever said in clear."""

    async def test_the_offer_is_gone(self) -> None:
        """Without the word in the list of extensions there is no TLS, and no going on without."""
        stripped = {
            Talk.SMTP: b"250-mail.example.org\r\n250-XXXXXXXA\r\n250 AUTH PLAIN\r\n",
            Talk.LMTP: b"250 mail.example.org\r\n",
            Talk.POP3: b"+OK\r\nUSER\r\n.\r\n",
            Talk.IMAP: b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\na1 OK\r\n",
        }
        for talk in TALKS:
            seen, liar = await self.probed(talk, GREETINGS[talk], stripped[talk])
            self.assert_stopped(seen, Outcome.NO_TLS, "somebody on the way")
            self.assertEqual((len(liar.in_clear), liar.inside, seen.identity), (1, [], None))

    async def test_the_command_is_refused(self) -> None:
        """A refusal of STARTTLS is no permission to go on in clear, for now (454) or for ever."""
        for talk, refusals in (
            (Talk.SMTP, (b"454 TLS not available\r\n", b"500 what?\r\n", b"503 no\r\n")),
            (Talk.POP3, (b"-ERR no\r\n",)),
            (Talk.IMAP, (b"a2 NO no\r\n", b"a2 BAD what?\r\n")),
        ):
            for refused in refusals:
                seen, liar = await self.probed(talk, GREETINGS[talk], OFFERS[talk], refused)
                self.assert_stopped(seen, Outcome.NO_TLS)
                self.assertEqual((len(liar.in_clear), seen.identity), (2, None))

    async def test_the_greeting_is_of_an_old_server(self) -> None:
        """A server that knows no EHLO is not asked again by HELO, where there is no TLS."""
        seen, liar = await self.probed(Talk.SMTP, GREETINGS[Talk.SMTP], b"502 what?\r\n")
        self.assert_stopped(seen, Outcome.NO_TLS)
        self.assertEqual(len(liar.in_clear), 1)


class ResponseInjection(ClientCase):
    """Replies that were sent in clear must not be taken for answers from inside TLS (CVE-2021-33515 and others)."""

    INJECTED = {
        Talk.SMTP: (b"250 evil.example.net\r\n", b"250-evil", b"220 Go\r\n250 x\r\n", b"\r\n"),
        Talk.LMTP: (b"250 evil.example.net\r\n",),
        Talk.POP3: (b"+OK\r\nUSER\r\n.\r\n", b"+OK", b"-ERR no\r\n"),
        Talk.IMAP: (b"* 1 EXISTS\r\n", b"a3 OK x\r\n", b"* OK [ALERT] call 555\r\n", b"*"),
    }

    async def test_behind_the_consent(self) -> None:
        """In the same segment: the connection is cut before the handshake.

        Rule: Nothing behind the 220 of STARTTLS is read, on the client's side
        """
        for talk, pieces in self.INJECTED.items():
            for piece in pieces:
                seen, liar = await self.probed(talk, GREETINGS[talk], OFFERS[talk], CONSENTS[talk] + piece)
                self.assert_stopped(seen, Outcome.BROKEN, "octets in clear behind its consent")
                self.assertEqual((liar.inside, seen.identity), ([], None))

    async def test_behind_earlier_answers(self) -> None:
        """An answer to what was not asked yet: behind the greeting, behind the list of extensions."""
        for talk in (Talk.SMTP, Talk.LMTP, Talk.POP3):
            greeting, offer, consent = GREETINGS[talk], OFFERS[talk], CONSENTS[talk]
            for script in ([greeting + offer], [greeting, offer + consent]):
                seen, _ = await self.probed(talk, *script)
                self.assert_stopped(seen, Outcome.BROKEN, "before it was asked")

    async def test_instead_of_the_handshake(self) -> None:
        """Clear text where TLS was promised is no TLS; nothing more is said."""
        for talk in TALKS:
            seen, liar = await self.probed(talk, GREETINGS[talk], OFFERS[talk], CONSENTS[talk], OFFERS[talk])
            self.assert_stopped(seen, Outcome.HANDSHAKE)
            self.assertEqual((liar.inside, seen.identity), ([], None))


class WhatIsSaidInClear(ClientCase):
    """What a server says before TLS may come from anybody, and counts for nothing inside."""

    async def test_a_lying_list_in_clear(self) -> None:
        """The list from inside TLS is the one that counts; the other is kept apart, and the difference told."""
        lie = b"250-mail.example.org\r\n250-STARTTLS\r\n250-SIZE 1\r\n250 AUTH PLAIN\r\n"
        truth = b"250-mail.example.org\r\n250 SIZE 1000\r\n"
        seen, liar = await self.probed(
            Talk.SMTP, GREETINGS[Talk.SMTP], lie, CONSENTS[Talk.SMTP] + BEGIN_TLS, truth, b"221 bye\r\n"
        )
        self.assertIsNone(seen.stop)
        self.assertEqual(seen.in_clear, ("STARTTLS", "SIZE 1", "AUTH PLAIN"))
        self.assertEqual(seen.inside, ("SIZE 1000",))
        self.assertEqual([line.split()[0] for line in liar.inside], [b"EHLO", b"QUIT"])

    async def test_a_lying_list_inside(self) -> None:
        """STARTTLS that is offered inside TLS is not taken up, and told."""
        seen, liar = await self.probed(
            Talk.SMTP, GREETINGS[Talk.SMTP], EHLO, CONSENTS[Talk.SMTP] + BEGIN_TLS, EHLO, b"221 bye\r\n"
        )
        self.assertEqual([line.split()[0] for line in liar.inside], [b"EHLO", b"QUIT"])
        self.assertEqual(seen.remarks, ("inside TLS it offers TLS once more, which RFC 3207 section 4.2 forbids",))

    async def test_preauth(self) -> None:
        """PREAUTH in clear would make STARTTLS impossible: nothing more is said."""
        seen, liar = await self.probed(Talk.IMAP, b"* PREAUTH [CAPABILITY IMAP4rev1] welcome back\r\n")
        self.assert_stopped(seen, Outcome.BROKEN, "PREAUTH")
        self.assertEqual((liar.in_clear, liar.inside), ([], []))

    async def test_referrals_are_not_followed(self) -> None:
        """A server that sends us elsewhere in clear ends it; nobody goes there (RFC 2221)."""
        seen, liar = await self.probed(Talk.IMAP, b"* BYE [REFERRAL imap://evil.example.net/] gone there\r\n")
        self.assert_stopped(seen, Outcome.UNREACHED)
        self.assertEqual(liar.in_clear, [])

    async def test_mailbox_data_in_clear(self) -> None:
        """Data and alerts before TLS do not become part of what was said inside."""
        early = b"* 1 EXISTS\r\n* OK [ALERT] call 555\r\n" + IMAP
        inside = b"* CAPABILITY IMAP4rev1\r\na3 OK\r\n"
        seen, _ = await self.probed(
            Talk.IMAP, GREETINGS[Talk.IMAP], early, CONSENTS[Talk.IMAP] + BEGIN_TLS, inside, b"* BYE\r\na4 OK\r\n"
        )
        self.assertEqual(seen.inside, ("IMAP4rev1",))

    async def test_a_web_server(self) -> None:
        """What answers like one is no mail server, with and without TLS."""
        for at_once in (False, True):
            seen, _ = await self.probed(Talk.SMTP, b"HTTP/1.1 400 Bad Request\r\n\r\n", at_once=at_once)
            self.assert_stopped(seen, Outcome.BROKEN, "no SMTP reply")
