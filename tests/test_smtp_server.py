"""The SMTP server beyond its dialogues: when it says 250, what it stores, how it fails, how it ends."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import replace
from hashlib import sha256

from twisted.internet.address import IPv6Address, UNIXAddress
from twisted.mail import smtp

from mailsvc.mail.address import parse_address
from mailsvc.smtp.modes import SUBMISSION, SUBMISSIONS
from mailsvc.smtp.server import SMTPFactory, SMTPServer
from mailsvc.smtp.session import VERBS
from mailsvc.storage import accounts
from tests.memory import ALICE, BOB, MX, MX_OPTIONAL, PASSWORD, Client, MailCase, MailHost, log_lines

ENVELOPE = b"MAIL FROM:<eve@example.net>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\n"
PLAIN = b"AUTH PLAIN " + base64.b64encode(b"\0" + ALICE.encode() + b"\0" + PASSWORD.encode())


def server(client: Client) -> SMTPServer:
    """The session at the other end."""
    protocol = client.wire.protocol
    while not isinstance(protocol, SMTPServer):
        protocol = protocol.wrappedProtocol  # type: ignore[attr-defined]
    return protocol


def begun(host: MailHost, *, body: bytes = b"Subject: x\r\n\r\nbody\r\n") -> Client:
    """A client in the middle of a message."""
    client = host.mx_client()
    client.send(ENVELOPE + body)
    client.take()
    return client


class DurableTests(MailCase):
    """Promise A: 250 after the end of data means that all is committed, in one transaction."""

    def test_not_before_the_commit(self) -> None:
        """While the transaction runs there is no reply; it comes with the commit."""
        host = self.host()
        client = begun(host)
        host.store.held = True
        client.send(b".\r\n")
        client.wait(1000)
        self.assertEqual((client.take(), host.count("message")), (b"", 0))
        host.store.release()
        client.settle()
        self.assertEqual(client.take(), b"250 2.0.0 Ok: stored as ID1\r\n")

    def test_one_transaction(self) -> None:
        """Message, content, items and event are written by one function in one transaction."""
        host = self.host()
        client = begun(host)
        host.store.calls.clear()
        client.send(b".\r\n")
        self.assertEqual(host.store.calls, ["_store"])
        self.assertEqual([host.count(table) for table in ("message", "mailbox_item")], [1, 1])
        kinds = [kind for (kind,) in host.store.connection.execute("SELECT kind FROM event ORDER BY id")]
        self.assertEqual(kinds, ["accepted", "delivered"])

    def test_nothing_half(self) -> None:
        """A recipient that was removed since RCPT fails the whole message with 451; nothing is stored for anyone."""
        host = self.host()
        client = host.mx_client()
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<bob@example.org>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\n")
        host.store.now(accounts.remove_account, ALICE)
        client.take()
        client.send(b"Subject: x\r\n.\r\n")
        self.assertEqual(client.take(), b"451 4.3.0 Local trouble; try again later\r\n")
        self.assertEqual([host.count(table) for table in ("message", "mailbox_item", "event")], [0, 0, 0])

    def test_lost_while_storing(self) -> None:
        """A client that goes away while its message is stored changes nothing for the message."""
        host = self.host()
        client = begun(host)
        host.store.held = True
        client.send(b".\r\nNOOP\r\n")
        client.hang_up()
        host.store.release()
        self.assertEqual(host.bodies_of(), [b"Subject: x\r\n\r\nbody\r\n"])

    def test_rows(self) -> None:
        """The columns, the content in its parts, and the events that tell what was decided."""
        host = self.host()
        client = host.secured_smtp(SUBMISSION)
        client.ask(PLAIN)
        message = b"Subject: a\r\n b\r\nFrom: A <a@x>\r\nDate: today\r\nMessage-ID: <m@x>\r\n\r\nbody\r\n"
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<Bob@Example.org>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\n")
        client.send(message + b".\r\n")
        [row] = host.store.connection.execute("SELECT * FROM message").fetchall()
        _, trace_id, reverse_path, received_at, size, header_size, digest, subject, from_, date, message_id = row[:11]
        trace_size = size - len(message)
        self.assertEqual((trace_id, reverse_path, received_at), ("ID1", "", 0.0))
        self.assertEqual((header_size - trace_size, digest), (len(message) - 6, sha256(message).hexdigest()))
        self.assertEqual((subject, from_, date, message_id), ("a b", "A <a@x>", "today", "<m@x>"))
        parts = host.store.connection.execute("SELECT part, data FROM message_content ORDER BY part").fetchall()
        self.assertEqual([part for part, _ in parts], [0, 1])
        self.assertEqual((parts[0][1][trace_size:], parts[1][1]), (message[:-6], b"body\r\n"))
        told = host.store.connection.execute("SELECT kind, trace_id, peer, detail FROM event ORDER BY id").fetchall()
        self.assertEqual([(kind, trace, peer) for kind, trace, peer, _ in told[:1]], [("accepted", "ID1", "192.0.2.7")])
        delivered = [("delivered", {"mailbox": BOB, "recipient": "Bob@example.org"}), ("delivered", {"mailbox": ALICE})]
        self.assertEqual([(kind, json.loads(detail)) for kind, _, _, detail in told[1:]], delivered)
        self.assertEqual(
            json.loads(told[0][3]),
            {
                "helo": "client.example.net",
                "protocol": "ESMTPSA",
                "tls": "TLSv1.3 TLS_AES_256_GCM_SHA384",
                "login": "alice@example.org",
                "recipients": ["Bob@example.org", "alice@example.org"],
                "recipient_count": 2,
                "message_id_header": "<m@x>",
                "size": len(message),
            },
        )

    def test_trace_header(self) -> None:
        """Return-Path, Delivered-To and Received stand in front; behind them is what came, to the byte."""
        host = self.host()
        client = begun(host)
        client.send(b".\r\n")
        self.assertEqual(
            host.mail_of(),
            [
                b"Return-Path: <eve@example.net>\r\n"
                b"Delivered-To: alice@example.org\r\n"
                b"Received: from client.example.net ([192.0.2.7])\r\n"
                b"\tby mail.example.org with ESMTP\r\n"
                b"\tid ID1\r\n"
                b"\tfor <alice@example.org>;\r\n"
                b"\tThu, 01 Jan 1970 00:00:00 +0000\r\n"
                b"Subject: x\r\n\r\nbody\r\n"
            ],
        )


class RecipientTests(MailCase):
    """Recipients that the dialogues cannot make."""

    def test_disabled(self) -> None:
        """A disabled account takes no mail, and says so."""
        host = self.host()
        host.store.connection.execute("UPDATE account SET disabled = 1 WHERE key = ?", (ALICE,))
        client = host.mx_client()
        client.ask(b"MAIL FROM:<>")
        self.assertEqual(client.ask(b"RCPT TO:<alice@example.org>"), b"550 5.2.1 The account is disabled\r\n")

    def test_postmaster(self) -> None:
        """<Postmaster> without a domain is this host's (RFC 5321 section 4.5.1), with and without such an account."""
        host = self.host()
        client = host.mx_client()
        client.ask(b"MAIL FROM:<>")
        self.assertEqual(client.ask(b"RCPT TO:<Postmaster>"), b"250 2.1.5 Recipient ok\r\n")
        host.add_user("postmaster@mail.example.org")
        self.assertEqual(client.ask(b"RCPT TO:<Postmaster>"), b"250 2.1.5 Recipient ok\r\n")

    def test_added_while_connected(self) -> None:
        """An account that was added a moment ago takes mail in a session that is older."""
        host = self.host()
        client = host.mx_client()
        client.ask(b"MAIL FROM:<>")
        self.assertEqual(client.ask(b"RCPT TO:<carol@example.org>")[:9], b"550 5.1.1")
        host.add_user("carol@example.org")
        self.assertEqual(client.ask(b"RCPT TO:<carol@example.org>")[:9], b"250 2.1.5")

    def test_many(self) -> None:
        """A thousand recipients in one transaction, one message, one item each; number 1001 is put off."""
        host = self.host(late=True)
        for number in range(1001):
            host.add_user(f"user{number}@example.org")
        client = host.mx_client()
        lines = b"".join(b"RCPT TO:<user%d@example.org>\r\n" % number for number in range(1001))
        client.send(b"MAIL FROM:<>\r\n" + lines + b"DATA\r\nSubject: all\r\n.\r\n")
        replies = client.take().split(b"\r\n")
        self.assertEqual(
            replies[1001:1004], [b"250 2.1.5 Recipient ok"[:0] or replies[1001], replies[1002], replies[1003]]
        )
        self.assertEqual(sum(reply.startswith(b"250 2.1.5") for reply in replies), 1000)
        self.assertEqual(replies[1001], b"452 4.5.3 Too many recipients")
        self.assertEqual((host.count("message"), host.count("mailbox_item")), (1, 1000))


class MessageTests(MailCase):
    """What is refused at the end of data."""

    def test_a_hundred_received(self) -> None:
        """100 Received fields are taken, 101 are a loop (RFC 5321 section 6.3)."""
        for number, expected in ((100, b"250 2.0.0"), (101, b"554 5.4.6")):
            client = begun(self.host(), body=b"Received: x\r\n" * number + b"\r\n")
            client.send(b".\r\n")
            self.assertEqual(client.take()[:9], expected)

    def test_what_is_refused_is_not_kept(self) -> None:
        """Of a message that is too large nothing more is written to the spool."""
        host = self.host()
        host.body = replace(host.body, message_size=1000)
        client = begun(host, body=b"")
        for _ in range(100):
            client.send(b"x" * 1000)
        reception = server(client)._receiving
        assert reception is not None
        self.assertTrue(reception.spool.closed)
        client.send(b"\r\n.\r\n")
        self.assertEqual(client.take(), b"552 5.3.4 The message is larger than 1000 octets\r\n")

    def test_the_spool_goes_to_a_file_without_a_name(self) -> None:
        """A large body goes to the folder that was given, as a file that nobody can find, and is gone afterwards."""
        folder = self.mktemp()
        os.makedirs(folder)
        host = self.host()
        host.body = replace(host.body, in_memory=1000, folder=folder)
        client = begun(host, body=b"x" * 5000)
        reception = server(client)._receiving
        assert reception is not None
        self.assertTrue(reception.spool._rolled)  # type: ignore[attr-defined]
        self.assertEqual(os.listdir(folder), [])
        client.send(b"\r\n.\r\n")
        self.assertTrue(reception.spool.closed)
        self.assertEqual(host.bodies_of(), [b"x" * 5000 + b"\r\n"])

    def test_spool_cannot_be_written(self) -> None:
        """When the disk for the spool fails the message is put off with 452, at its end; the session lives.

        Rule: ENOSPC
        """
        host = self.host()
        host.body = replace(host.body, in_memory=1000, folder="/nonexistent/folder")
        client = begun(host, body=b"x" * 5000)
        client.send(b"\r\n.\r\nNOOP\r\n")
        self.assertEqual(client.take(), b"452 4.3.1 Insufficient system storage; try again later\r\n250 2.0.0 Ok\r\n")
        self.assertEqual(host.count("message"), 0)

    def test_no_room(self) -> None:
        """A full disk is said at MAIL already, and forgotten when there is room again.

        Rule: SIZE: no room on the disk is 452 4.3.1
        Rule: ENOSPC
        """
        host = self.host()
        host.store.room = 500
        client = host.mx_client()
        self.assertEqual(
            client.ask(b"MAIL FROM:<> SIZE=501"), b"452 4.3.1 Insufficient system storage; try again later\r\n"
        )
        self.assertEqual(client.ask(b"RCPT TO:<alice@example.org>"), b"503 5.5.1 Send MAIL first\r\n")
        self.assertEqual(client.ask(b"MAIL FROM:<> SIZE=500"), b"250 2.1.0 Sender ok\r\n")

    def test_discarded_spools(self) -> None:
        """The spool of a message is closed when it was stored, refused, interrupted by RSET's relatives or lost."""
        for end in (b".\r\n", b"\n\r\n.\r\n", None):
            host = self.host()
            client = begun(host)
            reception = server(client)._receiving
            assert reception is not None
            if end is None:
                client.hang_up()
            else:
                client.send(end)
            self.assertTrue(reception.spool.closed)


class DefectTests(MailCase):
    """Our own mistakes (promise I): an answer, a line in the log, and the session lives."""

    def test_in_a_command(self) -> None:
        """An error that nobody foresaw is 451, is logged with its traceback, and ends nothing."""
        host = self.host()
        client = host.mx_client()
        client.ask(b"MAIL FROM:<>")
        host.store.failure = ZeroDivisionError()
        self.assertEqual(client.ask(b"RCPT TO:<alice@example.org>"), b"451 4.3.0 Local trouble; try again later\r\n")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        host.store.failure = None
        self.assertEqual(client.ask(b"NOOP"), b"250 2.0.0 Ok\r\n")

    def test_at_the_end_of_data(self) -> None:
        """The same when a message is stored: 451, nothing stored, and the next message is taken."""
        host = self.host()
        client = begun(host)
        host.store.failure = ZeroDivisionError()
        self.assertEqual(client.ask(b"."), b"451 4.3.0 Local trouble; try again later\r\n")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        host.store.failure = None
        client.send(ENVELOPE + b"again\r\n.\r\n")
        self.assertIn(b"stored as", client.take())
        self.assertEqual(host.bodies_of(), [b"again\r\n"])

    def test_within_the_body(self) -> None:
        """An error while a body is taken is told at its end, once, and the body is never read as commands."""
        host = self.host()
        client = begun(host)
        reception = server(client)._receiving
        assert reception is not None
        reception.scanner = None  # type: ignore[assignment]
        client.send(b"NOOP\r\nQUIT\r\n")
        self.assertEqual(client.take(), b"")
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)
        client.send(b"NOOP\r\n.\r\n")
        self.assertEqual(client.take()[:3], b"451")
        self.flushLoggedErrors(AttributeError)
        self.assertEqual(client.ask(b"NOOP"), b"250 2.0.0 Ok\r\n")

    def test_in_a_login(self) -> None:
        """The same in AUTH: 451, and nobody is logged in."""
        host = self.host()
        client = host.secured_smtp(SUBMISSION)
        host.store.failure = ZeroDivisionError()
        self.assertEqual(client.ask(PLAIN)[:3], b"451")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(client.ask(b"MAIL FROM:<>")[:9], b"530 5.7.0")


class LoginTests(MailCase):
    """AUTH and time."""

    def test_lost_while_the_login_waits(self) -> None:
        """A client that goes away while its password is checked: it is cancelled, the late answer goes nowhere."""
        host = self.host()
        client = host.secured_smtp(SUBMISSION)
        host.store.held = True
        client.send(PLAIN + b"\r\n")
        client.hang_up()
        self.assertEqual(host.store.cancelled, ["account"])
        host.store.release()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_no_secret_in_the_log(self) -> None:
        """Promise H: neither a right nor a wrong password, nor its base64, is written to the log."""
        host = self.host()

        def dialogue() -> None:
            client = host.secured_smtp(SUBMISSION)
            wrong = base64.b64encode(b"\0" + ALICE.encode() + b"\0xyzzy")
            client.ask(b"AUTH PLAIN " + wrong)
            client.ask(b"AUTH PLAIN xyzzy")
            client.ask(b"AUTH LOGIN")
            client.ask(b"xyzzy")
            client.ask(PLAIN)
            client.ask(b"QUIT")

        lines = log_lines(dialogue)
        self.assertTrue(any("login refused for alice@example.org" in line for line in lines))
        self.assertTrue(any("alice@example.org logged in" in line for line in lines))
        for line in lines:
            self.assertNotIn("xyzzy", line)
            self.assertNotIn("sesame", line)

    def test_peer_and_protocol_are_told(self) -> None:
        """The checker learns from where and by which protocol somebody logs in: throttling needs it."""
        host = self.host()
        host.secured_smtp(SUBMISSION).ask(PLAIN)
        [login] = host.checker.logins
        self.assertEqual((login.peer, login.protocol, login.username), ("192.0.2.7", "smtp", b"alice@example.org"))


class PeerTests(MailCase):
    """Who is at the other end."""

    def test_ipv6_and_unix(self) -> None:
        """An IPv6 client is a literal in the trace; one behind a UNIX socket is "local"."""
        for address, word in (
            (IPv6Address("TCP", "2001:db8::7", 1), b"[IPv6:2001:db8::7]"),
            (UNIXAddress(b"/x"), b"local"),
        ):
            host = self.host()
            client = host.connect(host.smtp_factory(MX_OPTIONAL), peer=address)
            self.assertIn(b"greets " + word, client.ask(b"EHLO client.example.net"))
            client.send(ENVELOPE + b".\r\n")
            self.assertIn(b"(" + word + b")", host.mail_of()[0])


class ManyTests(MailCase):
    """More clients than there may be."""

    def test_one_too_many(self) -> None:
        """In clear: one line and the end, whatever it says; a place that becomes free is given again.

        Rule: Limit: connections in all
        Rule: 421 on overload
        """
        host = self.host(limit=1)
        first = host.smtp(MX)
        second = host.smtp(MX)
        self.assertEqual(second.take(), b"421 4.7.0 Too many connections; try again later\r\n")
        self.assertTrue(second.is_closed)
        first.ask(b"QUIT")
        self.assertEqual(host.smtp(MX).take(), b"220 mail.example.org ESMTP\r\n")

    def test_inside_tls(self) -> None:
        """With implicit TLS there is not even a handshake."""
        host = self.host(limit=1)
        host.smtp(MX)
        self.assertIsNone(host.smtp_factory(SUBMISSIONS).buildProtocol(None))

    def test_smtp_and_pop3_share(self) -> None:
        """The limit is for the service, not for each listener."""
        host = self.host(limit=1)
        host.smtp(MX)
        refused = host.pop3()
        self.assertEqual(refused.take(), b"-ERR [SYS/TEMP] too many connections; try again later\r\n")
        self.assertTrue(refused.is_closed)
        self.assertIsNone(host.pop3_factory(implicit_tls=True).buildProtocol(None))


class ShutDownTests(MailCase):
    """The service stops."""

    def test_idle(self) -> None:
        """An idle client hears 421 4.3.2.

        Rule: 421 on shutdown, sessions drained
        """
        host = self.host()
        client = host.mx_client()
        done = host.sessions.shut_down()
        client.settle()
        self.assertEqual((client.take(), client.is_closed), (b"421 4.3.2 mail.example.org is shutting down\r\n", True))
        self.successResultOf(done)

    def test_in_a_message(self) -> None:
        """A message that is under way may come to its end; then the session ends.

        Rule: 421 on shutdown, sessions drained
        """
        host = self.host()
        client = begun(host)
        done = host.sessions.shut_down()
        client.send(b"more\r\n")
        self.assertEqual(client.take(), b"")
        client.send(b".\r\nNOOP\r\n")
        self.assertEqual(
            client.take(), b"250 2.0.0 Ok: stored as ID1\r\n421 4.3.2 mail.example.org is shutting down\r\n"
        )
        self.successResultOf(done)

    def test_in_flight(self) -> None:
        """A command that is in flight gets its answer first; commands behind it are not taken."""
        host = self.host()
        client = begun(host)
        host.store.held = True
        client.send(b".\r\nNOOP\r\n")
        done = host.sessions.shut_down()
        self.assertNoResult(done)
        host.store.release()
        client.settle()
        self.assertEqual(
            client.take(), b"250 2.0.0 Ok: stored as ID1\r\n421 4.3.2 mail.example.org is shutting down\r\n"
        )
        self.successResultOf(done)

    def test_in_flight_before_data(self) -> None:
        """A session that waits for a recipient does not begin a message any more."""
        host = self.host()
        client = host.mx_client()
        client.ask(b"MAIL FROM:<>")
        host.store.held = True
        client.send(b"RCPT TO:<alice@example.org>\r\nDATA\r\n")
        host.sessions.shut_down()
        host.store.release()
        client.settle()
        self.assertEqual(client.take(), b"250 2.1.5 Recipient ok\r\n421 4.3.2 mail.example.org is shutting down\r\n")

    def test_reading_goes_on(self) -> None:
        """When reading was paused by a client that pipelines, its close_notify is seen nevertheless: no force."""
        host = self.host()
        client = host.secured_smtp(MX)
        client.ask(b"MAIL FROM:<>")
        host.store.held = True
        for _ in range(3):
            client.put(b"RCPT TO:<alice@example.org>\r\n")
        client.settle()
        self.assertGreater(client.wire.undelivered, 0)
        host.sessions.shut_down()
        host.store.release()
        client.settle()
        self.assertTrue(client.saw_close_notify)
        client.close_tls()
        self.assertEqual((client.is_closed, client.wire.aborted), (True, False))

    def test_no_more_time(self) -> None:
        """What does not end in time is cut.

        Rule: 421 on shutdown, sessions drained
        """
        host = self.host()
        client = begun(host)
        done = host.sessions.shut_down()
        host.sessions.abort()
        client.settle()
        self.assertTrue(client.wire.aborted)
        self.successResultOf(done)


class WriteTests(MailCase):
    """One write per reply."""

    def test_one_write_each(self) -> None:
        """Each reply leaves in one piece, the long ones too: several small writes cost 40 ms each with Nagle."""
        client = self.host().smtp(MX_OPTIONAL)
        for command in (b"EHLO client.example.net", b"HELP", b"NOOP", b"MAIL FROM:<>", b"x"):
            client.wire.writes.clear()
            client.ask(command)
            self.assertEqual(len(client.wire.writes), 1, command)


class TypeTests(MailCase):
    """What the design promises of the classes."""

    def test_derived(self) -> None:
        """Protocol and factory are Twisted's, for whoever embeds them."""
        self.assertTrue(issubclass(SMTPServer, smtp.ESMTP))
        self.assertTrue(issubclass(SMTPFactory, smtp.SMTPFactory))

    def test_every_verb_has_a_method(self) -> None:
        """Every verb of the session table is a `do_` or `ext_` method of ours, none is the stock class's."""
        for verb in VERBS:
            method = SMTPServer.__dict__.get(f"do_{verb}") or SMTPServer.__dict__.get(f"ext_{verb}")
            self.assertIsNotNone(method, verb)

    def test_address_of_the_login(self) -> None:
        """The session knows the account by the address that it was added with, not by what the client typed."""
        client = self.host().secured_smtp(SUBMISSION)
        client.ask(b"AUTH PLAIN " + base64.b64encode(b"\0ALICE@EXAMPLE.ORG\0" + PASSWORD.encode()))
        self.assertEqual(server(client)._session.login, parse_address(ALICE))
