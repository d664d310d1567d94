"""`mailsvc why` as a user and as a script meet it."""

from __future__ import annotations

import json
import time

import click

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
