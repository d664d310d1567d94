"""`mailsvc send`: what contradicts itself is wrong usage, and is said before anything is read or sent."""

from __future__ import annotations

from pathlib import Path

from mailsvc.errors import MailsvcError
from mailsvc.mail.address import AddressError
from mailsvc.relay.url import RelayError
from mailsvc.sending.header import MessageError
from tests.test_cli_user import UserCase

NOBODY = "smtp://127.0.0.1:1"
"""Nobody listens there."""


class UsageTests(UserCase):
    def wrong(self, *words: str) -> str:
        """What is said of wrong usage."""
        result = self.run_command("send", *words, input=b"")
        self.assertEqual(result.exit_code, 2, result.output)
        return result.output

    def test_contradictions(self) -> None:
        """A place and a recipient are needed; one source of the message; one way to log in."""
        self.assertIn("say where to", self.wrong("bob@example.org"))
        self.assertIn("say where to", self.wrong("--mx", "--local", "bob@example.org"))
        self.assertIn("name a recipient", self.wrong("--mx"))
        via = ("--via", "tls://h.example", "bob@example.org")
        whole = Path(self.mktemp())
        whole.write_bytes(b"Subject: x\n\n")
        for more, words in (
            (("--file", str(whole), "--subject", "x"), "is a whole message"),
            (("--subject", "x", "-t"), "a whole message"),
            (("--cc", "a@b.example"), "go with --subject"),
            (("--password-stdin",), "goes with --user"),
            (("--mechanism", "PLAIN"), "--mechanism goes with --user"),
            (("--user", "me", "--label", "x"), "a login belongs to one relay"),
            (("--user", "me", "--password-stdin"), "standard input is the message already"),
            (("--user", "me", "--password-stdin", "--body", "-"), "standard input is the message already"),
        ):
            self.assertIn(words, self.wrong(*via, *more))
        self.assertIn("a login belongs", self.wrong("--mx", "--user", "me", "bob@example.org"))
        self.assertIn("--label goes with", self.wrong("--mx", "--label", "x", "bob@example.org"))

    def test_mistakes(self) -> None:
        """Each is one sentence, and nothing is sent."""
        for kind, words in (
            (RelayError, ["--via", "gopher://h.example", "--subject", "x", "bob@example.org"]),
            (AddressError, ["--via", NOBODY, "--subject", "x", "bob"]),
            (AddressError, ["--via", NOBODY, "--subject", "x", "--from", "me", "bob@example.org"]),
            (MessageError, ["--via", NOBODY, "--subject", "x\nBcc: eve@example.com", "bob@example.org"]),
            (MessageError, ["--via", NOBODY, "--subject", "x", "--notify", "always", "bob@example.org"]),
            (MessageError, ["--via", NOBODY, "bob@example.org"]),
        ):
            self.refused(kind, ["send", *words], b"")

    def test_no_password_in_clear(self) -> None:
        """The URL is judged with the login, whose secret does not appear."""
        words = ["send", "--via", NOBODY, "--user", "me", "--password-stdin", "--subject", "x", "bob@example.org"]
        said = self.refused(MailsvcError, words, b"secret\n")
        self.assertIn("no password goes over it", said)
        self.assertNotIn("secret", said)
