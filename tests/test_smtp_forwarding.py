"""Mail that goes on to other servers: who may send it there, what is queued, under which sender."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from mailsvc.mail.address import parse_address
from mailsvc.smtp.forwarding import Daily
from mailsvc.smtp.modes import SUBMISSION
from mailsvc.storage.aliases import add_alias
from mailsvc.storage.forwarding import led
from tests.memory import ALICE, BOB, PASSWORD, Client, MailCase, MailHost

TEAM = "team@example.org"
CAROL = "carol@example.net"


class ForwardCase(MailCase):
    def a_host(self) -> MailHost:
        """A host with an alias that leads to alice and to carol, elsewhere."""
        host = self.host()
        host.store.now(add_alias, parse_address(TEAM), [parse_address(ALICE), parse_address(CAROL)], 0.0)
        return host

    def user(self, host: MailHost) -> Client:
        """alice, who has logged in."""
        client = host.secured_smtp(SUBMISSION)
        self.assertEqual(client.ask(b"AUTH PLAIN " + b64encode(f"\0{ALICE}\0{PASSWORD}".encode()))[:3], b"235")
        return client

    def send(self, client: Client, sender: str, *recipients: str, header: str = "Subject: x\r\n") -> bytes:
        """The reply to the end of the data."""
        self.assertEqual(client.ask(f"MAIL FROM:<{sender}>".encode())[:3], b"250")
        for recipient in recipients:
            reply = client.ask(f"RCPT TO:<{recipient}>".encode() if " " not in recipient else recipient.encode())
            self.assertEqual(reply[:3], b"250", reply)
        client.ask(b"DATA")
        return client.ask(f"{header}\r\nbody\r\n.".encode())

    def rows(self, host: MailHost) -> list[tuple[Any, ...]]:
        """recipient, reverse_path, account, prefix, notify, original of what is queued."""
        return host.store.connection.execute(
            "SELECT recipient, reverse_path, account, prefix, notify, original FROM outbound ORDER BY id"
        ).fetchall()


class ToTheWorldTests(ForwardCase):
    def test_a_user(self) -> None:
        """Who has logged in may write to anybody: what RCPT said is queued, in the transaction of the message.

        Rule: Submission: to recipients elsewhere
        """
        host = self.a_host()
        self.assertEqual(
            self.send(self.user(host), ALICE, CAROL, BOB, "RCPT TO:<x@a.example> NOTIFY=NEVER")[:3], b"250"
        )
        self.assertEqual(
            self.rows(host),
            [(CAROL, ALICE, ALICE, b"", None, None), ("x@a.example", ALICE, ALICE, b"", "NEVER", None)],
        )
        self.assertEqual(len(host.mail_of(BOB)), 1)
        self.assertEqual(host.count("message"), 1)
        notes = host.store.connection.execute("SELECT detail FROM event WHERE kind = 'noted'").fetchall()
        self.assertTrue(any(f"goes out to {CAROL}" in detail for (detail,) in notes), notes)

    def test_nobody_here(self) -> None:
        """A message whose recipients are all elsewhere is stored, in nobody's maildrop."""
        host = self.a_host()
        self.assertEqual(self.send(self.user(host), ALICE, CAROL)[:3], b"250")
        self.assertEqual((host.count("message"), host.count("mailbox_item"), host.count("outbound")), (1, 0, 1))

    def test_a_stranger(self) -> None:
        """Others are refused, whatever they have put into MAIL.

        Rule: Relaying for strangers is refused
        """
        client = self.a_host().mx_client()
        client.ask(b"MAIL FROM:<alice@example.org>")
        self.assertEqual(client.ask(f"RCPT TO:<{CAROL}>".encode())[:9], b"550 5.7.1")

    def test_each_once(self) -> None:
        """On two ways to one recipient the one that was named counts, and the sender stays."""
        host = self.a_host()
        self.send(self.user(host), ALICE, TEAM, CAROL)
        self.assertEqual([row[:2] for row in self.rows(host)], [(CAROL, ALICE)])
        self.assertEqual(self.rows(host)[0][3], b"")

    def test_the_day_is_full(self) -> None:
        """Past the limit of a day nothing of the message is stored, and it may come again.

        Rule: A limit of recipients elsewhere a day
        """
        host = self.a_host()
        host.intake._daily = Daily(2)
        client = self.user(host)
        self.assertEqual(self.send(client, ALICE, CAROL, "x@a.example")[:3], b"250")
        self.assertEqual(self.send(client, ALICE, CAROL)[:9], b"450 4.7.1")
        self.assertEqual((host.count("message"), host.count("outbound")), (1, 2))
        self.assertEqual(self.send(client, ALICE, BOB)[:3], b"250")


class AliasTests(ForwardCase):
    def test_a_stranger_writes_to_an_alias(self) -> None:
        """The copy that goes on has a sender of ours and a Delivered-To, and is reported under the alias' name.

        Rule: Aliases: to remote addresses
        """
        host = self.a_host()
        self.assertEqual(self.send(host.mx_client(), "eve@example.com", TEAM)[:3], b"250")
        [(recipient, sender, account, prefix, notify, original)] = self.rows(host)
        self.assertEqual((recipient, account, notify), (CAROL, "", None))
        self.assertRegex(sender, r"^SRS0=\w{6}=\w\w=example\.com=eve@example\.org$")
        self.assertEqual((prefix, original), (b"Delivered-To: team@example.org\r\n", f"rfc822;{TEAM}"))
        self.assertEqual(len(host.mail_of(ALICE)), 1)
        self.assertIn(b"Return-Path: <eve@example.com>", host.mail_of(ALICE)[0])

    def test_senders_that_stay(self) -> None:
        """One of ours, the null sender, and one that has no room."""
        host = self.a_host()
        long = "e" * 60 + "@example.com"
        for sender in (BOB, "", long):
            self.send(host.mx_client(), sender, TEAM)
        self.assertEqual([row[1] for row in self.rows(host)], [BOB, "", long])

    def test_a_bounce_goes_back(self) -> None:
        """To the sender of the message that was forwarded, in spite of a catch-all; a forged one does not.

        Rule: SRS: bounces are forwarded
        """
        host = self.a_host()
        self.send(host.mx_client(), "eve@example.com", TEAM)
        rewritten = self.rows(host)[0][1]
        self.assertEqual(self.send(host.mx_client(), "", rewritten)[:3], b"250")
        self.assertEqual(self.rows(host)[1][:2], ("eve@example.com", ""))
        client = host.mx_client()
        client.ask(b"MAIL FROM:<>")
        forged = rewritten.replace("=eve@", "=victim@")
        self.assertEqual(client.ask(f"RCPT TO:<{forged}>".encode())[:9], b"550 5.1.1")
        host.reactor.advance(40 * 86400)
        client = host.mx_client()
        client.ask(b"MAIL FROM:<>")
        self.assertEqual(client.ask(f"RCPT TO:<{rewritten}>".encode())[:9], b"550 5.1.1")

    def test_nothing_but_bounces_goes_back(self) -> None:
        """Whoever has seen a rewritten sender cannot send other mail through us to the address in it."""
        host = self.a_host()
        self.send(host.mx_client(), "eve@example.com", TEAM)
        rewritten = self.rows(host)[0][1]
        for client, sender in ((host.mx_client(), "mallory@example.com"), (self.user(host), ALICE)):
            client.ask(f"MAIL FROM:<{sender}>".encode())
            self.assertEqual(client.ask(f"RCPT TO:<{rewritten}>".encode())[:9], b"550 5.7.1")
        self.assertEqual(host.count("outbound"), 1)

    def test_of_a_sender_that_is_ours_meanwhile(self) -> None:
        """A rewritten sender of a domain that has become ours leads to the account there."""
        host = self.a_host()
        self.send(host.mx_client(), "eve@example.com", TEAM)
        host.add_user("eve@example.com")
        found = host.store.now(led, parse_address(self.rows(host)[0][1]), now=0.0)
        self.assertEqual([str(account.address) for account in found.accounts], ["eve@example.com"])

    def test_it_comes_round(self) -> None:
        """What has been through the alias before is refused, and stored nowhere.

        Rule: Loop detection of forwarded mail
        """
        host = self.a_host()
        reply = self.send(host.mx_client(), "eve@example.com", TEAM, header=f"Delivered-To: {TEAM}\r\n")
        self.assertEqual(reply[:9], b"554 5.4.6")
        self.assertEqual((host.count("message"), host.count("outbound")), (0, 0))

    def test_the_postmaster_may_be_elsewhere(self) -> None:
        """Then that is who gets the mail, and nobody is put in instead."""
        host = self.host()
        host.store.now(add_alias, parse_address("postmaster@example.org"), [parse_address(CAROL)], 0.0)
        self.assertEqual(self.send(host.mx_client(), "eve@example.com", "postmaster@example.org")[:3], b"250")
        self.assertEqual((host.count("mailbox_item"), [row[0] for row in self.rows(host)]), (0, [CAROL]))
