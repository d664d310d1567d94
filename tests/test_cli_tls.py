"""`mailsvc tls policy`: what it prints, and what it changes."""

from __future__ import annotations

import json
import time

from mailsvc.errors import MailsvcError, NotFound
from mailsvc.storage.database import offline
from mailsvc.storage.tls_policies import demanded, note_shown
from mailsvc.tls.levels import Level
from tests.test_cli_user import UserCase

DAYS = 3 * 86400.0


class PolicyTests(UserCase):
    """`list`, `show`, `override` and `forget`."""

    def setUp(self) -> None:
        super().setUp()
        self.succeed("domain", "add", "example.org")
        with offline(self.path, create=False) as txn:
            note_shown(txn, "in", "sender.example", "192.0.2.1", Level.ENCRYPTED, time.time(), DAYS)

    def wanted(self) -> Level:
        """What the host of sender.example must show."""
        with offline(self.path, create=False) as txn:
            return demanded(txn, "in", "sender.example", "192.0.2.1", time.time(), DAYS).level

    def test_list_and_show(self) -> None:
        """People see who must show what, and until when; programs get the same."""
        listed = self.succeed("tls", "policy", "list")
        self.assertIn("sender.example", listed)
        self.assertIn("brings mail from 192.0.2.1", listed)
        (row,) = json.loads(self.succeed("tls", "policy", "show", "Sender.Example", "--json"))["remembered"]
        self.assertEqual((row["domain"], row["direction"], row["level"]), ("sender.example", "in", "encrypted"))
        self.assertEqual(
            self.succeed("tls", "policy", "show", "other.example"), "Nothing is remembered of other.example.\n"
        )

    def test_override(self) -> None:
        """An override holds at once; it always has an end."""
        said = self.succeed(
            *("tls", "policy", "override", "sender.example", "--direction", "in", "--level", "plain", "--days", "2")
        )
        self.assertIn("must be: not encrypted; until ", said)
        self.assertIs(self.wanted(), Level.PLAIN)
        self.assertIn("override until", self.succeed("tls", "policy", "list"))
        endless = ["tls", "policy", "override", "sender.example", "--direction", "in", "--level", "plain"]
        self.assertEqual(self.run_command(*endless).exit_code, 2)

    def test_what_nobody_can_show(self) -> None:
        """A level that a client cannot have is refused for mail that comes in."""
        sentence = self.refused(
            MailsvcError,
            ["tls", "policy", "override", "sender.example", "--direction", "in", "--level", "dane", "--days", "2"],
        )
        self.assertIn("the most is chain", sentence)

    def test_forget(self) -> None:
        """A domain that is forgotten may come in clear again."""
        self.assertEqual(
            self.succeed("tls", "policy", "forget", "sender.example"), "1 line about sender.example is forgotten.\n"
        )
        self.assertIs(self.wanted(), Level.PLAIN)
        self.refused(NotFound, ["tls", "policy", "forget", "sender.example"])
