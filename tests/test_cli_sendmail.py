"""`mailsvc sendmail`: mail of programs goes into the database, in one transaction, with statuses of sysexits.h."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.cli import sendmail
from mailsvc.cli.main import Common
from mailsvc.cli.main import mailsvc as command
from mailsvc.storage import accounts, mailboxes
from mailsvc.storage.opening import looking
from mailsvc.storage.rows import many
from tests.test_cli_user import UserCase

CONFIGURATION = """\
hostname = "mail.example.org"
database = "{database}"
[listen]
smtp = ""
[smtp]
message_size = 65536
header_size = 2048
recipients = 20
[sendmail]
domain = "example.org"
{more}
"""


class SendmailCase(UserCase):
    def setUp(self) -> None:
        super().setUp()
        self.have("alice@example.org")
        self.configure()

    def configure(self, more: str = "") -> None:
        self.file = Path(self.mktemp()).absolute()
        self.file.write_text(CONFIGURATION.format(database=self.path, more=more))

    def call(self, *arguments: str, message: bytes = b"Subject: x\n\nhi\n") -> Result:
        environment = {"MAILSVC_DATABASE": None, "MAILSVC_CONFIG": None}
        words = ["sendmail", "-C", str(self.file), *arguments]
        return CliRunner(env=environment).invoke(command, words, input=message, standalone_mode=False)

    def status(self, *arguments: str, message: bytes = b"Subject: x\n\nhi\n") -> int:
        """The exit status."""
        result = self.call(*arguments, message=message)
        self.assertIsNone(result.exception, result.output)
        return int(result.return_value)

    def mail(self, key: str = "alice@example.org") -> list[bytes]:
        """What lies in a maildrop."""
        with looking(self.path) as txn:
            row = accounts.account(txn, key)
            assert row is not None
            items = mailboxes.snapshot(txn, row.id)
            return [b"".join(mailboxes.openings(txn, row.id, [item.uid])[item.uid]) for item in items]

    def queued(self) -> list[tuple[str, str]]:
        """(sender, recipient) of what waits to go out."""
        rows = json.loads(self.succeed("queue", "list", "--json"))
        return [(row["sender"], row["recipient"]) for row in rows]


class Taking(SendmailCase):
    def test_local_and_remote(self) -> None:
        """One message for here and elsewhere: a maildrop and the queue, and 0 because both are safe.

        Rule: Handing in: what sendmail has taken is stored
        """
        text = b"To: alice, bob@example.net\nBcc: eve@example.com\nSubject: php\n\nhello\n.\nmore\n"
        self.assertEqual(self.status("-t", "-i", "-f", "web@example.org", "-FThe Web", message=text), 0)
        [stored] = self.mail()
        self.assertIn(b"Return-Path: <web@example.org>\r\n", stored)
        self.assertIn(b"From: The Web <web@example.org>\r\n", stored)
        self.assertIn(b" with local\r\n", stored)
        self.assertNotIn(b"eve@", stored.replace(b"for <eve", b""))
        self.assertTrue(stored.endswith(b"\r\n\r\nhello\r\n.\r\nmore\r\n"))
        sender = "web@example.org"
        self.assertEqual(sorted(self.queued()), [(sender, "bob@example.net"), (sender, "eve@example.com")])

    def test_cron(self) -> None:
        """A bare name is one of the domain; without -i a dot ends the message."""
        words = ["-FCronDaemon", "-B8BITMIME", "-oem", "alice"]
        self.assertEqual(self.status(*words, message=b"Subject: cron\n\nout\n.\nlost\n"), 0)
        self.assertTrue(self.mail()[0].endswith(b"\r\nout\r\n"))

    def test_nobody_here_is_the_postmaster(self) -> None:
        """Mail for root of a host whose name is no domain here reaches the postmaster, and is not lost."""
        self.configure()
        self.file.write_text(self.file.read_text().replace('domain = "example.org"', ""))
        self.assertEqual(self.status("root"), 0)
        self.assertIn(b"Subject: x\r\n", self.mail()[0])

    def test_null_sender(self) -> None:
        """-f "" and -f "<>" are the null sender."""
        for sender in ("", "<>"):
            self.assertEqual(self.status("-f", sender, "bob@example.net"), 0)
        self.assertEqual(self.queued(), [("", "bob@example.net")] * 2)

    def test_wishes(self) -> None:
        """-N, -R and -V go along."""
        self.assertEqual(self.status("-N", "success,failure", "-R", "hdrs", "-V", "id1", "bob@example.net"), 0)
        with looking(self.path) as txn:
            [row] = many(
                txn.execute(
                    "SELECT notify, dsn_return, envelope_id FROM outbound JOIN message ON message.id = message_id"
                )
            )
        self.assertEqual(tuple(row), ("SUCCESS,FAILURE", "HDRS", "id1"))

    def test_queue_and_aliases(self) -> None:
        """-bp lists the queue; newaliases has nothing to do."""
        self.status("bob@example.net")
        self.assertIn("bob@example.net", self.call("-bp").stdout)
        self.assertEqual(self.status("-bi"), 0)


class Refusing(SendmailCase):
    def refusal(self, status: int, *arguments: str, message: bytes = b"Subject: x\n\nhi\n") -> str:
        """The sentence on standard error."""
        result = self.call(*arguments, message=message)
        self.assertEqual(result.return_value, status, result.output)
        self.assertNotIn("Traceback", result.output)
        return result.stderr

    def test_statuses(self) -> None:
        """64 usage, 65 data, 67 no such user; nothing was stored.

        Rule: Handing in: exit statuses of sysexits.h
        """
        self.assertIn("name a recipient", self.refusal(64))
        self.assertIn("-bd", self.refusal(64, "-bd"))
        self.assertIn("No such user here", self.refusal(67, "nobody@example.org"))
        self.assertIn("nobody is named", self.refusal(65, "-t"))
        self.assertIn("cannot be read", self.refusal(65, "-t", message=b"To: <a@b\n\nx\n"))
        self.assertIn("not a valid part", self.refusal(65, "@@"))
        self.assertIn("not a valid part", self.refusal(65, "-f", "a b@example.org", "alice"))
        self.assertIn("no message", self.refusal(65, "alice", message=b""))
        self.assertIn("NOTIFY", self.refusal(65, "-N", "always", "alice"))
        self.assertEqual((self.mail(), self.queued()), ([], []))

    def test_injection(self) -> None:
        """Line ends in arguments are refused wherever they stand."""
        for words in (
            ["-F", "A\nBcc: eve@example.com", "alice"],
            ["-f", "a@example.org\nBcc: eve@example.com", "alice"],
            ["alice\nBcc: eve@example.com"],
            ["-V", "x\r\nRCPT TO:<eve@example.com>", "alice"],
        ):
            self.refusal(65, *words)
        self.assertEqual((self.mail(), self.queued()), ([], []))

    def test_an_address_is_no_option(self) -> None:
        """Behind -- a hyphen begins an address: no configuration is read by a visitor's word."""
        self.assertIn("not a valid domain", self.refusal(65, "-i", "--", "-C/etc/passwd@"))
        self.assertEqual(self.status("-i", "--", "-fboss@example.net"), 0)
        [(sender, recipient)] = self.queued()
        self.assertNotEqual(sender, "boss@example.net")
        self.assertEqual(recipient, "-fboss@example.net")

    def test_limits(self) -> None:
        """Size, header and recipients are limited as for everybody."""
        self.assertIn("larger than 65536", self.refusal(65, "alice", message=b"a: b\n\n" + b"x" * 70_000))
        self.assertIn("larger than 2048", self.refusal(65, "alice", message=b"a: b\n" * 1000))
        everybody = [f"u{number}@example.net" for number in range(21)]
        self.assertIn("more than 20 recipients", self.refusal(65, *everybody))

    def test_no_database(self) -> None:
        """Without one, and without a service, it is a temporary failure, and no database is made."""
        self.path = str(Path(self.mktemp()).absolute())
        self.configure()
        said = self.call("alice")
        self.assertEqual(said.return_value, 75)
        self.assertIn("there is no database", said.stderr)
        self.assertFalse(Path(self.path).exists())

    def test_programs(self) -> None:
        """Mail for a program is the service's: without it, a temporary failure, and nothing is lost by saying 0."""
        self.succeed("alias", "add", "list@example.org", "--pipe", "/bin/true")
        self.configure("[delivery]\npipes = true")
        self.assertIn("only the running service", self.refusal(75, "list"))


class Places(SynchronousTestCase):
    def test_configuration(self) -> None:
        """It is named, or it lies where it belongs; a wrong one is EX_CONFIG."""
        self.assertEqual(sendmail.face(["-C", "/nonexistent/mailsvc.toml", "bob"], Common()), sendmail.EX_CONFIG)
