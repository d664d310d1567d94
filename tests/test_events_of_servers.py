"""What the real servers tell the journal: every connection, handshake, refusal, login, delivery; and never a secret."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

from mailsvc.journal import Journal, Pace
from mailsvc.mail.event import Accepted, Event, HandshakeFailed, LoginFailed, MaildropClosed, Refused
from mailsvc.pop3.server import POP3Factory
from mailsvc.smtp.journal import SMTPJournal
from mailsvc.smtp.modes import SUBMISSION, SUBMISSIONS
from mailsvc.storage.devices import LoginEnded
from mailsvc.storage.events import Entry, by_peer, record
from mailsvc.storage.stories import story_of
from tests.memory import ALICE, MX, MX_OPTIONAL, PASSWORD, MailCase, MailHost, MemoryStore, storage_failure

PEER = "192.0.2.7"


class ToldHost(MailHost):
    """A host whose servers tell a journal; its store answers at once, whatever the host's own does."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.events = MemoryStore(self.reactor)
        self.events.connection.close()
        self.events.connection = self.store.connection
        self.journal = Journal(self.events, self.reactor, pace=Pace(prune=1e9))
        self.smtp_journal = SMTPJournal(self.journal)
        self.helpers = replace(self.helpers, journal=self.smtp_journal)
        self.journal.start()

    def pop3_factory(self, *, implicit_tls: bool = False, **rules: Any) -> POP3Factory:
        factory = super().pop3_factory(implicit_tls=implicit_tls, **rules)
        factory._journal = self.journal
        return factory

    def end(self) -> None:
        super().end()
        self.journal.stop()

    def told(self) -> list[Event]:
        """All events of the client, in their order."""
        self.reactor.pass_time(2)
        return [entry.event for entry in self.store.now(by_peer, PEER, since=-1, limit=10_000)[::-1]]

    def refusals(self) -> list[tuple[str, str]]:
        """What was refused, and the first word of the reply."""
        return [(event.what, event.reply.split()[0]) for event in self.told() if isinstance(event, Refused)]


class EventCase(MailCase):
    def told_host(self, **settings: Any) -> ToldHost:
        host = ToldHost(**settings)
        self.hosts.append(host)
        return host


class SMTP(EventCase):
    def test_a_message(self) -> None:
        """A connection that brings a message: what is told stands in order, in one session, under the trace id too.

        Rule: An event for connection, refusal, acceptance, delivery
        """
        host = self.told_host()
        client = host.secured_smtp(MX)
        client.send(
            b"MAIL FROM:<s@example.net>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\nSubject: x\r\n\r\ny\r\n.\r\nQUIT\r\n"
        )
        client.hang_up()
        self.assertCountEqual(
            [event.kind for event in host.told()], ["connected", "secured", "accepted", "delivered", "disconnected"]
        )
        story = host.store.now(story_of, "ID1", since=-1)
        self.assertEqual(
            [entry.event.kind for entry in story.entries],
            ["connected", "secured", "accepted", "delivered", "disconnected"],
        )
        self.assertEqual(len({entry.session for entry in story.entries}), 1)
        self.assertEqual(host.smtp_journal._open, {}, "a connection's journal was left behind")

    def test_every_refusal_once(self) -> None:
        """Each command that is refused is told once, with its reply, whoever refused it.

        Rule: An event for connection, refusal, acceptance, delivery
        """
        host = self.told_host()
        client = host.smtp(MX)
        for line in (b"MAIL FROM:<s@example.net>", b"NONSENSE", b"x" * 3000):
            client.ask(line)
        client = host.mx_client()
        for line in (
            b"MAIL",
            b"MAIL FROM:<s@example.net>",
            b"RCPT TO:<nobody@example.org>",
            b"RCPT TO:<a@example.com>",
        ):
            client.ask(line)
        client.send(b"RCPT TO:<alice@example.org>\r\nDATA\r\nbare\nline\r\n.\r\n")
        self.assertEqual(
            host.refusals(),
            [
                ("MAIL", "530"),
                ("command", "530"),
                ("command", "500"),
                ("MAIL", "501"),
                ("recipient", "550"),
                ("recipient", "550"),
                ("message", "550"),
            ],
        )

    def test_who_was_refused(self) -> None:
        """A recipient that was refused is found under its address, with the sender and the code."""
        host = self.told_host()
        client = host.mx_client()
        client.send(b"MAIL FROM:<s@example.net>\r\nRCPT TO:<Nobody@example.org>\r\n")
        host.told()
        found = [entry.event for entry in host.store.now(story_of, "nobody@EXAMPLE.org", since=-1).entries]
        (refused,) = [event for event in found if isinstance(event, Refused)]
        self.assertEqual((refused.sender, refused.recipients), ("s@example.net", ("Nobody@example.org",)))
        self.assertTrue(refused.reply.startswith("550 5.1.1 "), refused.reply)

    def test_handshakes(self) -> None:
        """A handshake that comes to nothing is told, by STARTTLS or implicit; one that was never begun is not."""
        host = self.told_host()
        client = host.smtp(MX)
        client.ask(b"STARTTLS")
        client.send(b"this is no ClientHello\r\n")
        client.hang_up()
        client = host.smtp(SUBMISSIONS)
        client.send(b"EHLO client.example.net\r\n")
        client.hang_up()
        host.smtp(MX).hang_up()
        failed = [event for event in host.told() if isinstance(event, HandshakeFailed)]
        self.assertEqual(len(failed), 2)

    def test_injection(self) -> None:
        """What stands in clear behind STARTTLS is told with its size."""
        host = self.told_host()
        host.smtp(MX).send(b"STARTTLS\r\nEHLO evil\r\n")
        self.assertEqual([event.kind for event in host.told()][:2], ["connected", "injected"])

    def test_logins(self) -> None:
        """Logins that succeed and that fail are told with name and mechanism, once.

        Rule: Failed logins are seen by mailsvc why
        """
        host = self.told_host()
        client = host.secured_smtp(SUBMISSION)
        for password in ("wrong", PASSWORD):
            client.ask(b"AUTH PLAIN " + base64.b64encode(f"\0{ALICE}\0{password}".encode()))
        told = [event for event in host.told() if event.kind in ("login failed", "logged in", "refused")]
        self.assertEqual([event.kind for event in told], ["login failed", "logged in"])
        failed = told[0]
        assert isinstance(failed, LoginFailed)
        self.assertEqual((failed.name, failed.mechanism, failed.reply[:9]), (ALICE, "PLAIN", "535 5.7.8"))

    def test_trouble(self) -> None:
        """What a failing database keeps us from is told as that, once."""
        host = self.told_host()
        client = host.mx_client()
        client.ask(b"MAIL FROM:<s@example.net>")
        host.store.failure = storage_failure()
        client.ask(b"RCPT TO:<alice@example.org>")
        host.store.failure = None
        self.assertEqual([event.kind for event in host.told()], ["connected", "unavailable"])

    def test_too_many_connections(self) -> None:
        """A client too many is told of under its address."""
        host = self.told_host(limit=1)
        host.mx_client()
        host.smtp(MX_OPTIONAL)
        self.assertIn("turned away", [event.kind for event in host.told()])

    def test_no_secret(self) -> None:
        """Passwords, also in the wrong place, and message text are in no event (promise H)."""
        host = self.told_host()
        client = host.secured_smtp(SUBMISSION)
        secret = b"ToPsEcReT"
        encoded = base64.b64encode(secret)
        client.ask(b"AUTH PLAIN " + base64.b64encode(b"\0alice@example.org\0" + secret))
        for line in (b"AUTH LOGIN", encoded, encoded, encoded, secret, b"AUTH " + secret, b"NOOP " + secret):
            client.ask(line)
        client.ask(b"AUTH PLAIN " + base64.b64encode(f"\0{ALICE}\0{PASSWORD}".encode()))
        client.send(b"MAIL FROM:<alice@example.org>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\n")
        client.send(b"Subject: " + secret + b"\r\n\r\n" + secret + b"\r\n.\r\n")
        reader = host.secured_pop3()
        for line in (b"USER " + secret, b"PASS " + secret, secret, b"RETR " + secret):
            reader.ask(line)
        everything = json.dumps([(event.kind, event.detail()) for event in host.told()])
        for part in (secret.decode(), encoded.decode(), secret.decode().upper(), encoded.decode().upper()):
            self.assertNotIn(part, everything)
        self.assertIn("accepted", everything)


class POP3(EventCase):
    def test_a_session(self) -> None:
        """Connection, handshake, login, what was fetched and removed; and the message's own story knows of it."""
        host = self.told_host()
        number = host.put_message(b"Subject: x\r\n\r\ny\r\n")
        host.put_message(b"Subject: z\r\n\r\ny\r\n")
        client = host.reader()
        client.ask(b"RETR 1")
        client.ask(b"TOP 2 0")
        client.ask(b"DELE 1")
        client.ask(b"QUIT")
        client.hang_up()
        told = host.told()
        self.assertEqual(
            [event.kind for event in told], ["connected", "secured", "logged in", "maildrop closed", "disconnected"]
        )
        self.assertEqual(told[3], MaildropClosed(ALICE, 1, 1, True, (number,), (number,), "password", left=1))

    def test_without_quit(self) -> None:
        """A session that only breaks off tells what was fetched, and that nothing was removed."""
        host = self.told_host()
        number = host.put_message(b"Subject: x\r\n\r\ny\r\n")
        client = host.reader()
        client.ask(b"RETR 1")
        client.ask(b"DELE 1")
        client.hang_up()
        self.assertEqual(host.told()[-2], MaildropClosed(ALICE, 1, 0, False, (number,), (), "password"))

    def test_a_maildrop_that_is_left_half(self) -> None:
        """What QUIT has done and what was fetched is told, also when the database or the login ends meanwhile."""
        for failure in (storage_failure(), LoginEnded("revoked")):
            for slices, deleted in ((0, 0), (1, 500)):
                host = self.told_host()
                for _ in range(600):
                    host.put_message(b"A: b\r\n\r\n")
                client = host.reader()
                client.ask(b"RETR 1")
                client.send(b"".join(b"DELE %d\r\n" % number for number in range(1, 601)))
                client.take()
                host.store.held = True
                client.ask(b"QUIT")
                host.store.release(slices)
                host.store.failure = failure
                host.store.held = False
                host.store.release()
                client.settle()
                self.assertEqual(client.take()[:5], b"-ERR ")
                host.store.failure = None
                [closed] = [event for event in host.told() if isinstance(event, MaildropClosed)]
                self.assertEqual(
                    (closed.retrieved, closed.fetched, closed.deleted, closed.left), (1, (1,), deleted, deleted)
                )
                self.assertEqual(closed.removed, tuple(range(1, len(closed.removed) + 1)))
                self.assertEqual((closed.orderly, bool(closed.removed)), (deleted > 0, deleted > 0))

    def test_refusals(self) -> None:
        """What is refused is told once: a wrong login as that, a maildrop in use with its account."""
        host = self.told_host()
        host.reader()
        client = host.secured_pop3()
        for line in (b"STAT", b"USER alice@example.org", b"PASS wrong", b"USER alice@example.org", b"PASS open sesame"):
            client.ask(line)
        kinds = [event.kind for event in host.told()]
        self.assertEqual((kinds.count("login failed"), kinds.count("refused")), (1, 2))
        self.assertEqual(host.refusals(), [("command", "-ERR"), ("maildrop", "-ERR")])

    def test_handshake_that_fails(self) -> None:
        """A handshake that comes to nothing is told."""
        host = self.told_host()
        client = host.pop3()
        client.ask(b"STLS")
        client.send(b"this is no ClientHello\r\n")
        client.hang_up()
        self.assertIn("handshake failed", [event.kind for event in host.told()])


class Failing(EventCase):
    def test_the_journal_breaks_no_session(self) -> None:
        """While the events cannot be written mail goes on; they are written later."""
        host = self.told_host()
        host.events.failure = storage_failure()
        client = host.mx_client()
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\n\r\ny\r\n.\r\n")
        client.wait(10)
        self.assertTrue(client.take().endswith(b"250 2.0.0 Ok: stored as ID1\r\n"))
        host.events.failure = None
        client.wait(10)
        self.assertCountEqual([event.kind for event in host.told()], ["accepted", "delivered", "connected"])

    def test_a_failed_delivery_leaves_no_event(self) -> None:
        """The events of a message are in its transaction: undone with it.

        Rule: Events of a message in its transaction
        """
        host = self.told_host()
        client = host.mx_client()
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\n\r\ny\r\n")
        host.store.failure = storage_failure()
        client.send(b".\r\n")
        host.store.failure = None
        self.assertEqual([event.kind for event in host.told()], ["connected", "unavailable"])
        self.assertEqual(host.count("event_key"), 0)

    def test_a_failure_within_the_transaction(self) -> None:
        """Also when it fails after the rows were written, not one of them stays."""
        host = self.told_host()

        def half(txn: Any) -> None:
            record(txn, [Entry(1.0, Accepted("a@x.org", (ALICE,), 1), 1, PEER, "T", 1)])
            raise storage_failure()

        host.store.write(half).addErrback(lambda _: None)
        self.assertEqual((host.told(), host.count("event_key")), ([], 0))
