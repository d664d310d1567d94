"""Mail from the service itself to its postmaster."""

from __future__ import annotations

from email import message_from_bytes
from email.policy import default

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.directory.lookup import TableDirectory
from mailsvc.errors import StorageFailure
from mailsvc.mail.address import parse_address
from mailsvc.smtp.intake import Intake
from mailsvc.smtp.postmaster import ToPostmaster
from mailsvc.storage import accounts, mailboxes
from tests.memory import HOSTNAME, MemoryStore


class PostmasterTests(SynchronousTestCase):
    """By the way that all mail takes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_795_176_000)
        self.store = MemoryStore(self.clock)
        self.addCleanup(self.store.connection.close)
        directory = TableDirectory(self.store, self.clock, HOSTNAME, programs=False)
        self.to = ToPostmaster(Intake(self.store, self.clock, HOSTNAME), directory, HOSTNAME)

    def test_nobody(self) -> None:
        """Without any account there is nobody, and nothing is stored."""
        self.assertFalse(self.successResultOf(self.to.tell("x", "y")))
        self.assertEqual(self.store.connection.execute("SELECT COUNT(*) FROM message").fetchone(), (0,))

    def test_the_message(self) -> None:
        """With the null sender, marked as a machine's, whole lines, and whatever text there is."""
        self.store.now(accounts.add_account, parse_address("alice@example.org"), "$argon2id$hash", 1.0)
        text = "first\n.\n" + "long " * 500 + "\n\u00fc \udcff end"
        self.assertTrue(self.successResultOf(self.to.tell("A certificate ends soon", text)))
        [(number, sender)] = self.store.connection.execute("SELECT id, reverse_path FROM message").fetchall()
        octets = self.store.now(mailboxes.content_part, number, 0) or b""
        message = message_from_bytes(octets, policy=default)
        self.assertEqual(sender, "")
        self.assertEqual(message["Subject"], f"A certificate ends soon ({HOSTNAME})")
        self.assertEqual(message["Auto-Submitted"], "auto-generated")
        self.assertEqual(message["To"], f"postmaster@{HOSTNAME}")
        body = self.store.now(mailboxes.content_part, number, 1) or b""
        self.assertTrue(all(len(line) < 999 for line in body.split(b"\r\n")))
        self.assertEqual(body.replace(b"\r\n", b"").count(b"\n"), 0)
        self.assertIn("\u00fc ? end".encode(), body)

    def test_a_database_that_cannot(self) -> None:
        """It fails as such, so that it can be tried again."""
        self.store.failure = StorageFailure("the disk is full")
        self.failureResultOf(self.to.tell("x", "y"), StorageFailure)
