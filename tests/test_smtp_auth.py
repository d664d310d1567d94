"""AUTH over SMTP with the real engine (RFC 4954), and nobody sending in the name of others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mailsvc.mail.address import parse_address
from mailsvc.smtp.modes import SUBMISSION
from mailsvc.smtp.ownership import OwnSenders
from mailsvc.storage import senders
from mailsvc.storage.aliases import add_alias
from tests.auth_case import AuthCase, b64
from tests.memory import ALICE, BOB, MX, PASSWORD, Client, MailHost, storage_failure
from tests.scram_client import ScramClient

REFUSED = b"535 5.7.8 Authentication credentials invalid\r\n"
WELCOME = b"235 2.7.0 Authentication succeeded\r\n"


class SubmissionCase(AuthCase):
    """A session of submission, in which users send as themselves."""

    def auth_host(self, **settings: Any) -> MailHost:
        host = super().auth_host(**settings)
        host.helpers = replace(host.helpers, senders=OwnSenders(host.store, host.reactor))
        return host

    def client(self, host: MailHost | None = None) -> Client:
        return (host or self.auth_host()).secured_smtp(SUBMISSION)

    def logged_in(self, host: MailHost | None = None) -> Client:
        client = self.client(host)
        self.assertEqual(client.ask(b"AUTH PLAIN " + b64(f"\0{ALICE}\0{PASSWORD}".encode())), WELCOME)
        return client


class AuthTests(SubmissionCase):
    """The dialogue."""

    def test_offer(self) -> None:
        """Inside TLS 1.3 everything is offered, the strongest first; for MX and before TLS nothing.

        Rule: AUTH: nothing outside TLS, so that 538 and 534 do not occur
        """
        host = self.auth_host()
        client = host.smtp(SUBMISSION)
        self.assertNotIn(b"AUTH", client.ask(b"EHLO client.example.net"))
        self.assertTrue(client.ask(b"AUTH PLAIN AGEAYg==").startswith(b"530 5.7.0 "))
        client.ask(b"STARTTLS")
        client.handshake()
        self.assertIn(b"AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN\r\n", client.ask(b"EHLO client.example.net"))
        self.assertNotIn(b"AUTH", host.secured_smtp(MX).ask(b"EHLO client.example.net"))

    def test_every_mechanism(self) -> None:
        """Each lets the owner in, with and without an initial response.

        Rule: SCRAM-SHA-256
        Rule: SCRAM-SHA-256-PLUS with tls-exporter
        """
        host = self.auth_host()
        self.logged_in(host)
        client = self.client(host)
        self.assertEqual(client.ask(b"AUTH PLAIN"), b"334 \r\n")
        self.assertEqual(client.ask(b64(f"\0{ALICE}\0{PASSWORD}".encode())), WELCOME)
        client = self.client(host)
        self.assertEqual(self.challenge(client.ask(b"AUTH login")), b"Username:")
        self.assertEqual(self.challenge(client.ask(b64(ALICE.encode()))), b"Password:")
        self.assertEqual(client.ask(b64(PASSWORD.encode())), WELCOME)
        client = self.client(host)
        self.assertEqual(self.scram(client, ScramClient(ALICE, PASSWORD)), WELCOME)
        client = self.client(host)
        self.assertEqual(client.ask(b"AUTH SCRAM-SHA-256"), b"334 \r\n")
        client.ask(b"*")
        bound = ScramClient(ALICE, PASSWORD, flag=b"p=tls-exporter", binding=self.binding(client))
        self.assertEqual(self.scram(client, bound, b"SCRAM-SHA-256-PLUS"), WELCOME)

    def test_another_channel(self) -> None:
        """A proof that was made for another TLS session, as one in the middle would pass it on, is refused.

        Rule: SCRAM-SHA-256-PLUS with tls-exporter
        """
        host = self.auth_host()
        client, elsewhere = self.client(host), self.client(host)
        self.assertNotEqual(self.binding(client), self.binding(elsewhere))
        passed_on = ScramClient(ALICE, PASSWORD, flag=b"p=tls-exporter", binding=self.binding(elsewhere))
        server_first = self.challenge(client.ask(b"AUTH SCRAM-SHA-256-PLUS " + b64(passed_on.first)))
        client.put(b64(passed_on.final(server_first)) + b"\r\n")
        client.wait(2)
        self.assertEqual(client.take(), REFUSED)

    def test_downgrade(self) -> None:
        """A client that was told of no PLUS, and could have used it, is warned.

        Rule: SCRAM-SHA-256-PLUS with tls-exporter
        """
        answer = self.client().ask(b"AUTH SCRAM-SHA-256 " + b64(ScramClient(ALICE, PASSWORD, flag=b"y").first))
        self.assertTrue(answer.startswith(b"535 5.7.8 "), answer)
        self.assertIn(b"channel binding", answer)

    def test_wrong(self) -> None:
        """A wrong proof is refused like a wrong password, after the wait, and the session goes on.

        Rule: AUTH: 535 5.7.8, 454 4.7.0
        """
        client = self.client()
        who = ScramClient("nobody@example.org", PASSWORD)
        server_first = self.challenge(client.ask(b"AUTH SCRAM-SHA-256 " + b64(who.first)))
        self.assertEqual(client.ask(b64(who.final(server_first))), b"")
        client.wait(2)
        self.assertEqual(client.take(), REFUSED)
        self.assertEqual(client.ask(b"AUTH PLAIN " + b64(f"\0{ALICE}\0wrong".encode())), REFUSED)
        self.assertEqual(self.scram(client, ScramClient(ALICE, PASSWORD)), WELCOME)

    def test_malformed(self) -> None:
        """Bad base64, ``=`` where it does not belong, and messages that a mechanism does not know are 501.

        Rule: AUTH: with and without initial response, = and *
        """
        client = self.client()
        for line in (
            b"AUTH PLAIN AGEAYg",
            b"AUTH PLAIN AGEAYh==",
            b"AUTH PLAIN =",
            b"AUTH PLAIN ====",
            b"AUTH SCRAM-SHA-256 AA==",
        ):
            self.assertTrue(client.ask(line).startswith(b"501 5.5.2 "), line)
        for line in (b"AUTH PLAIN", b"AUTH LOGIN", b"AUTH SCRAM-SHA-256"):
            self.challenge(client.ask(line))
            self.assertTrue(client.ask(b"=").startswith(b"501 5.5.2 "), line)
        self.assertTrue(client.ask(b"AUTH CRAM-MD5").startswith(b"504 5.5.4 "))
        self.assertTrue(client.ask(b"AUTH EXTERNAL =").startswith(b"504 5.5.4 "))

    def test_cancelled(self) -> None:
        """``*`` ends an exchange at any step, also when the proof was right already.

        Rule: AUTH: with and without initial response, = and *
        """
        client = self.client()
        who = ScramClient(ALICE, PASSWORD)
        server_first = self.challenge(client.ask(b"AUTH SCRAM-SHA-256 " + b64(who.first)))
        self.assertTrue(client.ask(b64(who.final(server_first))).startswith(b"334 "))
        self.assertEqual(client.ask(b"*"), b"501 5.7.0 Authentication cancelled\r\n")
        self.assertTrue(client.ask(b"MAIL FROM:<alice@example.org>").startswith(b"530 5.7.0 "))

    def test_authzid(self) -> None:
        """Its own address is respected, another's is refused, and neither is ignored.

        Rule: AUTH: authzid respected or refused
        """
        host = self.auth_host()
        refused = b"535 5.7.8 Acting as another identity is not permitted\r\n"
        for authzid, answer in ((ALICE, WELCOME), ("Alice@EXAMPLE.org", WELCOME), (BOB, refused), ("root", refused)):
            plain = b"AUTH PLAIN " + b64(f"{authzid}\0{ALICE}\0{PASSWORD}".encode())
            self.assertEqual(self.client(host).ask(plain), answer)
            self.assertEqual(self.scram(self.client(host), ScramClient(ALICE, PASSWORD, authzid=authzid)), answer)

    def test_once_and_between_messages(self) -> None:
        """One success a session, and none inside a transaction.

        Rule: AUTH: one success a session, not inside a transaction
        """
        client = self.logged_in()
        again = b"AUTH PLAIN " + b64(f"\0{ALICE}\0{PASSWORD}".encode())
        self.assertTrue(client.ask(again).startswith(b"503 5.5.1 "))
        self.assertNotIn(b"AUTH", client.ask(b"EHLO client.example.net"))
        client.ask(b"MAIL FROM:<alice@example.org>")
        self.assertTrue(client.ask(again).startswith(b"503 5.5.1 "))

    def test_trouble(self) -> None:
        """A database that fails is 454, and the session goes on.

        Rule: AUTH: 535 5.7.8, 454 4.7.0
        """
        host = self.auth_host()
        client = self.client(host)
        host.store.failure = storage_failure()
        first = b64(ScramClient(ALICE, PASSWORD).first)
        self.assertTrue(client.ask(b"AUTH SCRAM-SHA-256 " + first).startswith(b"454 4.7.0 "))
        host.store.failure = None
        self.assertEqual(self.scram(client, ScramClient(ALICE, PASSWORD)), WELCOME)

    def test_hanging_up(self) -> None:
        """A client that goes while its proof is held back leaves nothing behind."""
        host = self.auth_host()
        client = self.client(host)
        who = ScramClient(ALICE, "wrong")
        server_first = self.challenge(client.ask(b"AUTH SCRAM-SHA-256 " + b64(who.first)))
        client.put(b64(who.final(server_first)) + b"\r\n")
        client.settle()
        client.hang_up()
        host.reactor.pass_time(5)

    def test_late_answers(self) -> None:
        """Pipelined behind an exchange, commands wait for its end; also when the database is slow."""
        host = self.auth_host(late=True)
        client = self.client(host)
        client.put(b"AUTH PLAIN " + b64(f"\0{ALICE}\0{PASSWORD}".encode()) + b"\r\nMAIL FROM:<alice@example.org>\r\n")
        client.settle()
        self.assertEqual(client.take(), WELCOME + b"250 2.1.0 Sender ok\r\n")


class OwnershipTests(SubmissionCase):
    """RFC 6409 section 6.1."""

    def send(self, client: Client, header: bytes, sender: bytes = b"alice@example.org") -> bytes:
        """The reply to the end of a message."""
        client.ask(b"MAIL FROM:<" + sender + b">")
        client.ask(b"RCPT TO:<bob@example.org>")
        client.ask(b"DATA")
        return client.ask(header + b"\r\nhello\r\n.")

    def test_mail_from(self) -> None:
        """Its own names and the null sender pass, others are 553, and the session goes on.

        Rule: The login owns the sender: MAIL FROM
        """
        host = self.auth_host()
        host.store.now(add_alias, parse_address("team@example.org"), [parse_address(ALICE)], 1.0)
        client = self.logged_in(host)
        for sender, passes in (
            (b"bob@example.org", False), (b"alice@example.org", True), (b"alice+x@example.org", True),
            (b"x@example.net", False), (b"team@example.org", True), (b"", True),
        ):  # fmt: skip
            answer = client.ask(b"MAIL FROM:<" + sender + b">")
            wanted = b"250 2.1.0 Sender ok\r\n" if passes else b"553 5.7.1 Sender address not owned by the login\r\n"
            self.assertEqual(answer, wanted, sender)
            client.ask(b"RSET")

    def test_header(self) -> None:
        """Each address of From and Sender must be owned; what cannot be read is refused; what names nobody passes.

        Rule: The login owns the sender: From and Sender
        """
        client = self.logged_in()
        for header, passes in (
            (b"From: Alice <alice@example.org>\r\n", True),
            (b"Subject: x\r\n", True),
            (b"From: bob@example.org\r\n", False),
            (b"From: alice@example.org, Bob <bob@example.org>\r\n", False),
            (b"From: Team: alice@example.org, bob@example.org;\r\n", False),
            (b"From: alice@example.org\r\nSender: bob@example.org\r\n", False),
            (b"From: bob@example.org\r\nSender: alice@example.org\r\n", False),
            (b"From: alice@example.org\r\nFROM : bob@example.org\r\n", False),
            (b"From: bob@example.org <alice@example.org>\r\n", False),
            (b"From: bob@example.org\r\nResent-From: alice@example.org\r\n", False),
            (b"From:\r\n", False),
        ):
            answer = self.send(client, header)
            self.assertEqual(answer[:9], b"250 2.0.0" if passes else b"550 5.7.1", (header, answer))
        self.assertEqual(len(self.hosts[0].mail_of(BOB)), 2)

    def test_null_sender_is_no_way_around(self) -> None:
        """From is looked at also when the envelope names nobody."""
        self.assertEqual(self.send(self.logged_in(), b"From: bob@example.org\r\n", b"")[:9], b"550 5.7.1")

    def test_granted_or_not_checked(self) -> None:
        """A grant holds for the envelope and the header, and so does it when an account is not checked.

        Rule: The login owns the sender: grants, and switched off
        """
        host = self.auth_host()
        client = self.logged_in(host)
        host.store.now(senders.grant, ALICE, BOB, 1.0)
        self.assertEqual(self.send(client, b"From: bob@example.org\r\n", b"bob@example.org")[:9], b"250 2.0.0")
        host.store.now(senders.revoke_grant, ALICE, BOB)
        self.assertEqual(client.ask(b"MAIL FROM:<bob@example.org>")[:9], b"553 5.7.1")
        host.store.now(senders.set_check_sender, ALICE, False)
        self.assertEqual(self.send(client, b"From: <<nobody\r\n", b"x@example.net")[:9], b"250 2.0.0")

    def test_strangers_are_not_asked(self) -> None:
        """Mail from elsewhere has no login and no owner."""
        client = self.auth_host().secured_smtp(MX)
        self.assertEqual(self.send(client, b"From: bob@example.org\r\n", b"x@example.net")[:9], b"250 2.0.0")

    def test_trouble(self) -> None:
        """A database that fails is a temporary failure, and nothing is let through meanwhile."""
        host = self.auth_host()
        client = self.logged_in(host)
        host.store.failure = storage_failure()
        self.assertEqual(client.ask(b"MAIL FROM:<alice@example.org>")[:3], b"451")
        host.store.failure = None
        client.ask(b"MAIL FROM:<alice@example.org>")
        client.ask(b"RCPT TO:<bob@example.org>")
        client.ask(b"DATA")
        host.store.failure = storage_failure()
        self.assertEqual(client.ask(b"From: bob@example.org\r\n\r\nhello\r\n.")[:3], b"451")
        host.store.failure = None
        self.assertEqual(host.mail_of(BOB), [])
