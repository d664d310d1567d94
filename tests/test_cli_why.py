"""`mailsvc why` as a user and as a script meet it, and beside a real service."""

from __future__ import annotations

import json
import poplib
import re
import smtplib
import ssl
import time

import click

from mailsvc.cli.playground import playground
from mailsvc.cli.why import Since
from mailsvc.errors import MailsvcError, NotFound, StartRefused
from mailsvc.mail.event import CertificateNews, Connected, Refused
from mailsvc.storage import events
from mailsvc.storage.database import offline
from mailsvc.storage.events import Entry
from tests.test_cli_user import UserCase

PEER = "192.0.2.7"


class WhyTests(UserCase):
    def record(self, *moments: float) -> None:
        with offline(self.path, create=True) as txn:
            for moment in moments:
                events.record(txn, [Entry(moment, Connected("smtp"), int(moment), PEER)])
                events.record(txn, [Entry(moment, Refused("MAIL", "530 \x1b[2J"), int(moment), PEER)])

    def test_story(self) -> None:
        """People get paragraphs; nothing that a client chose acts on the terminal.

        Rule: mailsvc why
        """
        self.record(1_795_176_000.0)
        self.assertEqual(
            self.succeed("why", PEER),
            "2026-11-20 12:00:00 UTC  192.0.2.7 on smtp\n  12:00:00  connected to smtp\n"
            "  12:00:00  MAIL was refused: 530 \\x1b[2J\n",
        )

    def test_certificates(self) -> None:
        """What happened to all certificates, or to one."""
        news = CertificateNews("mail.example.org", "refused", "its key does not fit")
        with offline(self.path, create=True) as txn:
            events.record(txn, [Entry(1.0, news)])
        for word in ("certificates", "Mail.example.org"):
            self.assertIn("certificate refused: its key does not fit", self.succeed("why", word))

    def test_json(self) -> None:
        """Programs get a list of objects."""
        self.record(1.0)
        facts = json.loads(self.succeed("why", PEER, "--json"))
        self.assertEqual([fact["kind"] for fact in facts], ["connected", "refused"])

    def test_since(self) -> None:
        """Only what happened since: by age, or by a date."""
        self.record(time.time() - 3 * 3600, time.time() - 60)
        for since, kept in {"2h": 2, "240m": 4, "1d": 4, "2020-01-01": 4, "2020-01-01T10:00:00Z": 4}.items():
            self.assertEqual(len(json.loads(self.succeed("why", PEER, "--since", since, "--json"))), kept, since)
        self.assertIn("since then", self.refused(NotFound, ["why", PEER, "--since", "1s"]))

    def test_times(self) -> None:
        """A date is the beginning of its day in UTC; what is no time is a usage error with the forms."""
        self.assertEqual(Since().convert("2026-11-20", None, None), 1_795_132_800.0)
        self.assertEqual(Since().convert("2026-11-20 12:00", None, None), 1_795_176_000.0)
        for text in ("yesterday", "2026-13-01", "-2h", "", "2\x1b"):
            with self.assertRaises(click.BadParameter) as caught:
                Since().convert(text, None, None)
            self.assertIn("say 90s, 30m", str(caught.exception))

    def test_unknown(self) -> None:
        """What nothing is known of is a sentence (and exit status 1), whatever was typed."""
        self.record(1.0)
        for word in ("192.0.2.8", "nobody@example.org", "TRACE", "\x1b[2J", "a\x00b", "'; DROP TABLE event", "\udcff"):
            sentence = self.refused(NotFound, ["why", word])
            self.assertTrue(sentence.isprintable(), sentence)
            self.assertIsInstance(NotFound(), MailsvcError)

    def test_no_database(self) -> None:
        """Without a database the sentence says so, and none is made."""
        self.refused(StartRefused, ["why", PEER])
        self.refused(StartRefused, ["why", PEER])

    def test_beside_a_writer(self) -> None:
        """A transaction that writes does not hold it up, and is not seen before its end."""
        self.record(1.0)
        with offline(self.path, create=False) as txn:
            events.record(txn, [Entry(2.0, Connected("smtp"), 2, PEER)])
            self.assertEqual(len(json.loads(self.succeed("why", PEER, "--json"))), 2)
        self.assertEqual(len(json.loads(self.succeed("why", PEER, "--json"))), 3)


class ARealService(UserCase):
    def test_from_connection_to_mailbox(self) -> None:
        """A real service: refused, accepted, delivered, fetched; and `mailsvc why` tells it while the service runs.

        Rule: mailsvc why
        """
        with playground() as place:
            place.command(["certs", "init", "certs/", "--hostname", "mail.example.org"])
            place.command(["user", "add", "alice@example.org", "--password-stdin"], stdin="open sesame\n")
            listeners = ("smtp", "submission", "submissions", "pop3", "pop3s")
            ports = [text for name in listeners for text in (f"--{name}", "tcp:0:interface=127.0.0.1")]
            names = ["--hostname", "mail.example.org", "--certs", "certs/"]
            service = place.start(["-n", "--pidfile=", "mailsvc", *names, *ports])
            trust = ssl.create_default_context()
            trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
            with smtplib.SMTP("127.0.0.1", service.ports["smtp"], timeout=20) as client:
                client.ehlo("client.example.net")
                self.assertEqual(client.docmd("MAIL", "FROM:<s@example.net>")[0], 530)
                client.starttls(context=trust)
                client.ehlo("client.example.net")
                refused = client.sendmail(
                    "s@example.net",
                    ["nobody@example.org", "alice@example.org"],
                    "Message-ID: <1@example.net>\r\nSubject: secret\r\n\r\nvery secret\r\n",
                )
                self.assertEqual(list(refused), ["nobody@example.org"])
            reader = poplib.POP3_SSL("127.0.0.1", service.ports["pop3s"], timeout=20, context=trust)
            reader.user("alice@example.org")
            self.assertRaises(poplib.error_proto, reader.pass_, "very wrong")
            reader.user("alice@example.org")
            reader.pass_("open sesame")
            reader.retr(1)
            reader.dele(1)
            reader.quit()
            told = _when_told(lambda: place.command(["why", "1@example.net"]), "removed")
            wanted = [
                r"UTC  127\.0\.0\.1 on \S+$",
                r"connected to \S+$",
                r"TLS handshake completed: TLSv1\.3, ",
                r"[A-Z0-9]+: accepted \(250\) from <s@example\.net> to <alice@example\.org>, .* <1@example.net>$",
                r"[A-Z0-9]+: delivered to the mailbox of alice@example\.org$",
                r"disconnected after ",
                r"",
                r"UTC  127\.0\.0\.1 on pop3s$",
                r"connected to pop3s$",
                r"TLS handshake completed: ",
                r"logged in as alice@example\.org",
                r"mailbox of alice@example\.org: 1 message fetched, 1 removed$",
                r"disconnected after ",
            ]
            lines = told.splitlines()
            self.assertEqual(len(lines), len(wanted), told)
            for line, pattern in zip(lines, wanted, strict=True):
                self.assertTrue(re.search(pattern, line), (line, pattern))
            everything = place.command(["why", "127.0.0.1"])
            for part in ("MAIL was refused: 530 5.7.0", "recipient <nobody@example.org>", "login as alice@example.org"):
                self.assertIn(part, everything)
            self.assertIn("550", place.command(["why", "nobody@example.org"]))
            as_json = place.command(["why", "127.0.0.1", "--json"])
            for secret in ("secret", "sesame", "wrong "):
                self.assertNotIn(secret, everything + as_json)
            self.assertTrue(service.stop())
            # Stopping wrote what was still waiting.
            self.assertIn("disconnected", place.command(["why", "127.0.0.1"]))


def _when_told(ask: object, word: str) -> str:
    """The command's answer once ``word`` stands in it: events that are batched take a second."""
    assert callable(ask)
    for _ in range(50):
        told = str(ask())
        if word in told and told.splitlines()[-1].lstrip()[10:].startswith("disconnected"):
            return told
    raise AssertionError(told)
