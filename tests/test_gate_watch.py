"""The gate of the SMTP server, from the first octet to a listed client, on connections in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.names import dns
from twisted.names.error import DNSNameError, DNSServerError

from mailsvc.gate.blocklists import Blocklist
from mailsvc.gate.lookup import Blocklists
from mailsvc.gate.manners import Actions
from mailsvc.gate.places import Trusted
from mailsvc.gate.watch import Policy, Watch
from mailsvc.mail.event import Noted, Refused
from mailsvc.smtp.modes import SUBMISSION, SUBMISSIONS, lmtp
from mailsvc.smtp.seams import Client as Who
from tests.memory import HOSTNAME, MX_OPTIONAL, Client, MailCase, MailHost, Wire
from tests.test_events_of_servers import EventCase

GREETING = b"220 mail.example.org ESMTP\r\n"
LISTS = [Blocklist("a.example", 2), Blocklist("b.example", 1)]


class FakeResolver:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.asked: dict[str, Deferred[Any]] = {}
        self.count = 0

    def lookupAddress(self, name: str) -> Deferred[Any]:
        self.count += 1
        self.asked[name] = Deferred()
        return self.asked[name]

    def answer(self, name: str, *addresses: str, ttl: int = 600) -> None:
        records = [dns.RRHeader(name, dns.A, ttl=ttl, payload=dns.Record_A(each, ttl)) for each in addresses]
        self.asked.pop(name).callback((records, [], []))

    def fail(self, name: str, error: type[Exception] = DNSNameError) -> None:
        self.asked.pop(name).errback(error("no"))


class WatchCase(MailCase):
    """Hosts with a gate."""

    def watched(self, resolver: FakeResolver | None = None, **choices: Any) -> MailHost:
        host = self.host()
        self.notes: list[str] = []
        lists = None if resolver is None else Blocklists(LISTS, resolver, host.reactor, seconds=5.0)
        policy = Policy(HOSTNAME, **choices)
        host.helpers = replace(host.helpers, gate=Watch(policy, host.reactor, self.note, lists))
        return host

    def note(self, client: Who, text: str) -> None:
        self.notes.append(text)

    def early(self, host: MailHost, data: bytes, mode: Any = MX_OPTIONAL) -> Client:
        """A client whose first octets are in the socket before the server's first word."""
        protocol = host.smtp_factory(mode).buildProtocol(IPv4Address("TCP", "192.0.2.7", 40000))
        assert protocol is not None
        wire = Wire(host.reactor)
        client = Client(host.reactor, wire)
        host.clients.append(client)
        wire.arrive(data)
        wire.begin(protocol)
        client.settle()
        return client


class EarlyTalkerTests(WatchCase):
    """Who speaks before the greeting."""

    def test_dropped(self) -> None:
        """554 instead of the greeting, and the end; what it said has no effect.

        Rule: Early talkers are dropped with 554
        """
        client = self.early(self.watched(), b"EHLO client.example.net\r\n")
        self.assertEqual(client.take(), b"554 5.5.1 Wait for the greeting before you speak\r\n")
        self.assertTrue(client.is_closed)

    def test_one_octet_is_enough(self) -> None:
        """A line need not be complete."""
        self.assertEqual(self.early(self.watched(), b"E").take()[:3], b"554")

    def test_off(self) -> None:
        """Switched off, or from a trusted network: the greeting, and then the answer."""
        trusted = Trusted(["192.0.2.0/24"])
        for choices in ({"early_talkers": False}, {"trusted": trusted}):
            client = self.early(self.watched(**choices), b"NOOP\r\n")
            self.assertEqual(client.take(), GREETING + b"250 2.0.0 Ok\r\n")

    def test_only_other_servers(self) -> None:
        """Users and a mail server of ours are not watched, and inside implicit TLS the client always speaks first."""
        for mode in (SUBMISSION, lmtp(requires_tls=False)):
            self.assertEqual(self.early(self.watched(), b"NOOP\r\n", mode).take()[:3], b"220")
        client = self.watched().smtp(SUBMISSIONS)
        client.handshake()
        self.assertEqual(client.take(), GREETING)

    def test_who_waits_is_greeted(self) -> None:
        """Without a delay the greeting needs no time, with one it comes then and not before.

        Rule: Greeting delay
        """
        self.assertEqual(self.watched().smtp(MX_OPTIONAL).take(), GREETING)
        client = self.watched(greeting_delay=3.0).smtp(MX_OPTIONAL)
        client.wait(2.9)
        self.assertEqual(client.take(), b"")
        client.wait(0.2)
        self.assertEqual(client.take(), GREETING)

    def test_speaks_during_the_delay(self) -> None:
        """A delay catches who speaks a little later.

        Rule: Greeting delay
        """
        client = self.watched(greeting_delay=3.0).smtp(MX_OPTIONAL)
        client.wait(1)
        client.send(b"EHLO client.example.net\r\n")
        client.wait(3)
        self.assertEqual(client.take()[:3], b"554")

    def test_gone_during_the_delay(self) -> None:
        """A client that leaves meanwhile leaves no timer (which `MailCase` checks)."""
        self.watched(greeting_delay=3.0).smtp(MX_OPTIONAL).hang_up()

    def test_shutdown_during_the_delay(self) -> None:
        """A service that stops meanwhile says so instead of the greeting."""
        host = self.watched(greeting_delay=3.0)
        client = host.smtp(MX_OPTIONAL)
        host.sessions.shut_down()
        client.wait(3)
        self.assertEqual(client.take(), b"421 4.3.2 mail.example.org is shutting down\r\n")

    def test_web_client(self) -> None:
        """The first word of HTTP ends the session, so that nothing behind it is taken for commands."""
        client = self.watched().smtp(MX_OPTIONAL)
        client.take()
        client.send(b"POST / HTTP/1.1\r\nHost: mail.example.org\r\n\r\nMAIL FROM:<>\r\n")
        self.assertEqual(
            client.take(), b"500 5.5.1 Command not recognised\r\n421 4.7.0 This is a mail server; closing\r\n"
        )
        self.assertTrue(client.is_closed)


class EventTests(EventCase):
    """What the gate finds out and does can be asked for afterwards (`mailsvc why IP`)."""

    def test_told(self) -> None:
        """The result of the blocklists is an event whether or not it refuses, and so is each end of a session."""
        resolver = FakeResolver()
        host = self.told_host()
        lists = Blocklists(LISTS, resolver, host.reactor, seconds=5.0)
        policy = Policy(HOSTNAME, helo=Actions(syntax="note"), unknown_recipients=1)
        host.helpers = replace(host.helpers, gate=Watch(policy, host.reactor, host.smtp_journal.noted, lists))
        client = host.smtp(MX_OPTIONAL)
        for name in list(resolver.asked):
            resolver.fail(name)
        for line in (b"EHLO localhost", b"MAIL FROM:<>", b"RCPT TO:<nobody@example.org>"):
            client.ask(line)
        told = host.told()
        self.assertEqual(
            [event.text for event in told if isinstance(event, Noted)],
            ["DNS blocklists: not listed (score 0)", "EHLO localhost: no full name"],
        )
        refused = [(event.what, event.reply.split()[0]) for event in told if isinstance(event, Refused)]
        self.assertEqual(refused, [("recipient", "550"), ("session", "421")])


class HeloTests(WatchCase):
    """What follows from a finding in EHLO."""

    def ehlo(self, helo: Actions, argument: bytes) -> bytes:
        client = self.watched(helo=helo).smtp(MX_OPTIONAL)
        client.take()
        return client.ask(b"EHLO " + argument)

    def test_refuse(self) -> None:
        """Each check has its reply, and the client may try again.

        Rule: HELO checks
        """
        actions = Actions("refuse", "refuse", "refuse")
        for argument, answer in {
            b"localhost": b"550 5.7.1 Say your full host name, or an address literal\r\n",
            b"mail.example.org": b"550 5.7.1 That is our own name, not yours\r\n",
            b"[192.0.2.8]": b"550 5.7.1 That is not the address that you come from\r\n",
        }.items():
            self.assertEqual(self.ehlo(actions, argument), answer)
        self.assertEqual(self.ehlo(actions, b"[192.0.2.7]")[:3], b"250")
        self.assertEqual(self.ehlo(actions, b"")[:9], b"501 5.5.4")

    def test_note(self) -> None:
        """What is only noted refuses nothing."""
        self.assertEqual(self.ehlo(Actions(syntax="note"), b"localhost")[:3], b"250")
        self.assertEqual(self.notes, ["EHLO localhost: no full name"])

    def test_off(self) -> None:
        """By default nothing is looked at.

        Rule: HELO checks
        """
        self.assertEqual(self.ehlo(Actions(), b"localhost")[:3], b"250")
        self.assertEqual(self.notes, [])


class UnknownRecipientTests(WatchCase):
    """A client that guesses recipients."""

    def test_ends_the_session(self) -> None:
        """After so many the session ends with 421, also when each is in a transaction of its own.

        Rule: Limit: unknown recipients per session
        """
        client = self.watched(unknown_recipients=3).smtp(MX_OPTIONAL)
        client.ask(b"EHLO client.example.net")
        for name in (b"a", b"b"):
            client.ask(b"MAIL FROM:<>")
            client.ask(b"RCPT TO:<alice@example.org>")
            self.assertEqual(client.ask(b"RCPT TO:<" + name + b"@example.org>"), b"550 5.1.1 No such user here\r\n")
            client.ask(b"RSET")
        client.ask(b"MAIL FROM:<>")
        self.assertEqual(
            client.ask(b"RCPT TO:<c@example.org>"),
            b"550 5.1.1 No such user here\r\n421 4.7.0 Too many recipients that do not exist; closing\r\n",
        )
        self.assertTrue(client.is_closed)

    def test_trusted(self) -> None:
        """A trusted relay in front of us may bring mail for as many as it likes."""
        client = self.watched(unknown_recipients=1, trusted=Trusted(["192.0.2.0/24"])).smtp(MX_OPTIONAL)
        client.ask(b"EHLO client.example.net")
        client.ask(b"MAIL FROM:<>")
        self.assertEqual(client.ask(b"RCPT TO:<c@example.org>"), b"550 5.1.1 No such user here\r\n")


class BlocklistTests(WatchCase):
    """A client that may be listed."""

    def setUp(self) -> None:
        super().setUp()
        self.resolver = FakeResolver()

    def rcpt(self, client: Client, recipient: bytes = b"alice@example.org") -> bytes:
        client.ask(b"EHLO client.example.net")
        client.ask(b"MAIL FROM:<>")
        return client.ask(b"RCPT TO:<" + recipient + b">")

    def test_refused(self) -> None:
        """At RCPT, with the list that says so; the result is noted."""
        client = self.watched(self.resolver, threshold=2).smtp(MX_OPTIONAL)
        self.resolver.answer("7.2.0.192.a.example", "127.0.0.2")
        self.resolver.fail("7.2.0.192.b.example")
        self.assertEqual(self.rcpt(client), b"550 5.7.1 Your address 192.0.2.7 is listed in a.example\r\n")
        self.assertEqual(self.notes, ["DNS blocklists: listed in a.example (score 2)"])
        self.assertEqual(self.rcpt(client, b"Postmaster@example.org")[:3], b"250", "who is listed can complain")

    def test_threshold(self) -> None:
        """Below the threshold nothing is refused, and the result is noted all the same.

        Rule: DNSBL: asynchronous, weights, the result stored
        """
        client = self.watched(self.resolver, threshold=2).smtp(MX_OPTIONAL)
        self.resolver.fail("7.2.0.192.a.example")
        self.resolver.answer("7.2.0.192.b.example", "127.0.0.2")
        self.assertEqual(self.rcpt(client)[:3], b"250")
        self.assertEqual(self.notes, ["DNS blocklists: listed in b.example (score 1)"])

    def test_note_only(self) -> None:
        """With the action "note" a listed client is not refused."""
        client = self.watched(self.resolver, refuse_listed=False).smtp(MX_OPTIONAL)
        for name in list(self.resolver.asked):
            self.resolver.answer(name, "127.0.0.2")
        self.assertEqual(self.rcpt(client)[:3], b"250")
        self.assertEqual(self.notes, ["DNS blocklists: listed in a.example, b.example (score 3)"])

    def test_rcpt_waits(self) -> None:
        """The greeting does not wait for the answer, RCPT does; a list that is silent says nothing in the end.

        Rule: DNSBL: asynchronous, weights, the result stored
        """
        client = self.watched(self.resolver).smtp(MX_OPTIONAL)
        self.assertEqual(client.take(), GREETING)
        self.assertEqual(self.rcpt(client), b"")
        client.wait(5)
        self.assertEqual(client.take(), b"250 2.1.5 Recipient ok\r\n")
        self.assertEqual(self.notes, ["DNS blocklists: not listed (score 0); no answer from a.example, b.example"])

    def test_broken_list(self) -> None:
        """A failure of the DNS is no listing, and no answer either."""
        client = self.watched(self.resolver).smtp(MX_OPTIONAL)
        for name in list(self.resolver.asked):
            self.resolver.fail(name, DNSServerError)
        self.assertEqual(self.rcpt(client)[:3], b"250")
        self.assertIn("no answer from a.example, b.example", self.notes[0])

    def test_gone_meanwhile(self) -> None:
        """A client that leaves while its RCPT waits harms nobody; the answer is still noted."""
        client = self.watched(self.resolver).smtp(MX_OPTIONAL)
        self.rcpt(client)
        client.hang_up()
        for name in list(self.resolver.asked):
            self.resolver.answer(name, "127.0.0.2")
        self.assertEqual(len(self.notes), 1)

    def test_asked_once(self) -> None:
        """Connections that come together share a question, later ones the answer, until it is too old."""
        host = self.watched(self.resolver)
        for _ in range(5):
            host.smtp(MX_OPTIONAL)
        self.assertEqual(self.resolver.count, 2)
        for name in list(self.resolver.asked):
            self.resolver.answer(name, "127.0.0.2", ttl=100)
        client = host.smtp(MX_OPTIONAL)
        self.assertEqual((self.resolver.count, len(self.notes)), (2, 6))
        client.wait(101)
        host.smtp(MX_OPTIONAL)
        self.assertEqual(self.resolver.count, 4)
        client.wait(5)

    def test_bounded(self) -> None:
        """A flood of new clients is not passed on to the DNS: past a limit nobody is asked, and nobody refused."""
        host = self.watched(self.resolver)
        lists = Blocklists(LISTS, self.resolver, host.reactor, seconds=5.0)
        waiting = [Deferred.fromCoroutine(lists.standing(f"198.51.{n // 250}.{n % 250}")) for n in range(1000)]
        self.assertEqual((lists.asked, self.resolver.count), (200, 200))
        self.assertEqual(self.successResultOf(waiting[-1]).silent, ("a.example", "b.example"))
        host.reactor.advance(5)
        self.assertEqual(lists.asked, 0)
        for each in waiting:
            self.successResultOf(each)

    def test_trusted(self) -> None:
        """A trusted client, and a user, are not asked about."""
        self.watched(self.resolver, trusted=Trusted(["192.0.2.7"])).smtp(MX_OPTIONAL)
        self.watched(self.resolver).smtp(SUBMISSION)
        self.assertEqual(self.resolver.count, 0)


class JunkTests(WatchCase):
    """Commands that bring no mail."""

    def test_ends_the_session(self) -> None:
        """After so many the session ends with 421; a message that was taken starts the count anew."""
        client = self.watched(junk_commands=3).smtp(MX_OPTIONAL)
        client.ask(b"EHLO client.example.net")
        client.send(b"NOOP\r\nNOOP\r\nMAIL FROM:<>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\na: b\r\n\r\n.\r\n")
        client.take()
        self.assertEqual(client.ask(b"RSET\r\nNOOP\r\nHELP").count(b"\r\n250 2.0.0") + 1, 2)
        self.assertEqual(
            client.ask(b"NOOP"), b"250 2.0.0 Ok\r\n421 4.7.0 Too many commands that bring no mail; closing\r\n"
        )
        self.assertTrue(client.is_closed)

    def test_users(self) -> None:
        """A user's program may keep its session open with NOOP as long as it likes."""
        client = self.watched(junk_commands=3).smtp(SUBMISSION)
        client.take()
        self.assertEqual(client.ask(b"NOOP\r\n" * 9).count(b"250 2.0.0 Ok"), 9)

    def test_comes_back(self) -> None:
        """Who is thrown out again and again waits for the greeting; a trusted client never does."""
        host = self.watched(junk_commands=1)
        for _ in range(3):
            client = host.smtp(MX_OPTIONAL)
            client.ask(b"NOOP\r\nNOOP")
            self.assertTrue(client.is_closed)
        client = host.smtp(MX_OPTIONAL)
        self.assertEqual(client.take(), b"")
        client.wait(5)
        self.assertEqual(client.take(), GREETING)
