"""`mailsvc user`: accounts and their passwords from the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.accounts.passwords import hash_password, verify
from mailsvc.cli.main import mailsvc as command
from mailsvc.errors import AlreadyExists, MailsvcError, NotFound, StartRefused
from mailsvc.mail.address import AddressError, parse_address
from mailsvc.storage.accounts import AccountRow, account, add_account, domains
from mailsvc.storage.database import offline
from tests.storage_cases import make_database

ALICE = "alice@example.org"


@cache
def _hashed() -> str:
    return hash_password("opensesame")


class UserCase(SynchronousTestCase):
    """The command on a database file of its own."""

    def setUp(self) -> None:
        self.path = str(Path(self.mktemp()).absolute())

    def run_command(self, *arguments: str, input: str | bytes | None = None) -> Result:
        """`mailsvc --database FILE ...`; exceptions stay in the result, `mailsvc.cli.main` tells them."""
        return CliRunner(env={"MAILSVC_DATABASE": None, "MAILSVC_CONFIG": None}).invoke(
            command, ["--database", self.path, *arguments], input=input
        )

    def succeed(self, *arguments: str, input: str | bytes | None = None) -> str:
        """What the command prints when it succeeds."""
        result = self.run_command(*arguments, input=input)
        self.assertEqual(result.exit_code, 0, result.output)
        return result.stdout

    def refused(self, kind: type[BaseException], arguments: Sequence[str], input: str | bytes | None = None) -> str:
        """The sentence of the error that the command ends with."""
        result = self.run_command(*arguments, input=input)
        self.assertIsInstance(result.exception, kind, result.output)
        return str(result.exception)

    def add(self, address: str = ALICE, password: str = "opensesame") -> str:
        """Add an account."""
        return self.succeed("user", "add", address, "--password-stdin", input=password + "\n")

    def have(self, *addresses: str) -> None:
        """Accounts as `add` makes them, for tests that are about something else: all have one hash, and no verifier."""
        make_database(self.path)
        with offline(self.path, create=False) as txn:
            for address in addresses:
                add_account(txn, parse_address(address), _hashed(), 0.0)

    def row(self, key: str = ALICE) -> AccountRow | None:
        """The account's row."""
        with offline(self.path, create=False) as txn:
            return account(txn, key)

    def assert_password(self, password: str, key: str = ALICE) -> None:
        """The account has this password."""
        row = self.row(key)
        assert row is not None and row.password_hash is not None
        self.assertTrue(verify(row.password_hash, password), f"not the password {password!r}")


class AddTests(UserCase):
    """`user add`."""

    def test_account_and_new_domain(self) -> None:
        """The account is made, its domain too, and the output says both."""
        self.assertEqual(self.add(), "The domain example.org was added.\nThe account alice@example.org was added.\n")
        self.assert_password("opensesame")

    def test_known_domain(self) -> None:
        """Nothing is said of a domain that is there already."""
        self.succeed("domain", "add", "example.org")
        self.assertEqual(self.add(), "The account alice@example.org was added.\n")

    def test_json(self) -> None:
        """`--json` says the same to programs."""
        for address, new in [(ALICE, True), ("bob@example.org", False)]:
            output = self.succeed("user", "add", address, "--password-stdin", "--json", input="x\n")
            facts = {"address": address, "domain": "example.org", "domain_added": new}
            self.assertEqual(json.loads(output), facts)

    def test_exists(self) -> None:
        """An account that exists, in whatever spelling, is left as it is."""
        self.add()
        sentence = self.refused(
            AlreadyExists, ["user", "add", "Alice@EXAMPLE.org", "--password-stdin"], input="other\n"
        )
        self.assertIn("exists already", sentence)
        self.assert_password("opensesame")

    def test_not_an_address(self) -> None:
        """What is no address is refused before a password is asked for, and makes no database."""
        for text in ("alice", "alice@", "@example.org", "a b@example.org", "alice@[192.0.2.1]"):
            self.refused(AddressError, ["user", "add", text])
        self.assertFalse(Path(self.path).exists())


class PasswordSourceTests(UserCase):
    """Where a password comes from, and what of it counts."""

    def test_line_ends(self) -> None:
        """Exactly one line end, LF or CRLF or none, is left away; blanks count."""
        for number, (sent, password) in enumerate(
            [
                (b"secret", "secret"),
                (b"secret\n", "secret"),
                (b"secret\r\n", "secret"),
                (b" secret \n", " secret "),
                (b"secret\nmore\n", "secret"),
                ("schlüssel\n".encode(), "schlüssel"),
            ]
        ):
            key = f"user{number}@example.org"
            self.succeed("user", "add", key, "--password-stdin", input=sent)
            self.assert_password(password, key)

    def test_refused_passwords(self) -> None:
        """Empty, too long, not UTF-8 or unsendable: no account is made, and the sentence repeats nothing."""
        for sent in (b"", b"\n", b"\r\n", b"x" * 1025, b"x" * 100_000, b"caf\xe9\n", b"a\0b\n", b"ab\r\r\n"):
            sentence = self.refused(MailsvcError, ["user", "add", ALICE, "--password-stdin"], input=sent)
            self.assertTrue(sentence.startswith("the password "), sentence)
        self.assertFalse(Path(self.path).exists())

    def test_longest(self) -> None:
        """1024 octets with CRLF behind them are a password."""
        self.succeed("user", "add", ALICE, "--password-stdin", input=b"x" * 1024 + b"\r\n")
        self.assert_password("x" * 1024)

    def test_file(self) -> None:
        """`--password-file` takes the first line of a file."""
        file = Path(self.mktemp())
        file.write_bytes(b"from a file\r\n")
        self.succeed("user", "add", ALICE, "--password-file", str(file))
        self.assert_password("from a file")

    def test_missing_file(self) -> None:
        """A file that is not there is told by name."""
        missing = self.mktemp()
        result = self.run_command("user", "add", ALICE, "--password-file", missing)
        self.assertIsInstance(result.exception, FileNotFoundError)
        self.assertFalse(Path(self.path).exists())

    def test_prompt(self) -> None:
        """Without an option the password is asked for twice, and not shown."""
        result = self.run_command("user", "add", ALICE, input="opensesame\nopensesame\n")
        self.assertEqual(result.exit_code, 0, result.output)
        self.assertNotIn("opensesame", result.output)
        self.assertNotIn("Password", result.stdout)
        self.assert_password("opensesame")

    def test_prompt_asks_until_both_agree(self) -> None:
        """Two that differ are asked for again."""
        self.succeed("user", "add", ALICE, input="one\ntwo\nthree\nthree\n")
        self.assert_password("three")

    def test_prompt_comes_after_the_check(self) -> None:
        """Nobody types a password for an account that exists already."""
        self.add()
        self.refused(AlreadyExists, ["user", "add", ALICE])

    def test_both_sources(self) -> None:
        """Two sources at once are wrong usage."""
        result = self.run_command("user", "add", ALICE, "--password-stdin", "--password-file", "x", input="x\n")
        self.assertEqual(result.exit_code, 2)

    def test_never_an_argument(self) -> None:
        """There is no way to give a password on the command line."""
        for arguments in (["user", "add", ALICE, "opensesame"], ["user", "add", ALICE, "--password", "x"]):
            self.assertEqual(self.run_command(*arguments).exit_code, 2)


class PasswdTests(UserCase):
    """`user passwd`."""

    def test_change(self) -> None:
        """The new password replaces the old one."""
        self.add()
        output = self.succeed("user", "passwd", ALICE, "--password-stdin", input="new\n")
        self.assertEqual(output, "The password of alice@example.org was changed.\n")
        self.assert_password("new")

    def test_json(self) -> None:
        """`--json` names the address."""
        self.add()
        output = self.succeed("user", "passwd", ALICE, "--password-stdin", "--json", input="new\n")
        self.assertEqual(json.loads(output), {"address": ALICE})

    def test_unknown(self) -> None:
        """An unknown account is refused before the password is asked for."""
        self.add()
        self.refused(NotFound, ["user", "passwd", "bob@example.org"])

    def test_refused_password(self) -> None:
        """An empty password changes nothing."""
        self.add()
        self.refused(MailsvcError, ["user", "passwd", ALICE, "--password-stdin"], input="\n")
        self.assert_password("opensesame")


class ListTests(UserCase):
    """`user list`."""

    def test_table(self) -> None:
        """People see each address whole, also in a pipe and with what rich takes for markup."""
        self.add()
        long = "x" * 60 + "@" + ".".join(["sub" * 10] * 5) + ".example"
        marked = '"[bold]x"@example.org'
        for address in (long, marked):
            self.add(address)
        output = self.succeed("user", "list")
        self.assertEqual(output.splitlines()[0].split(), ["address", "messages", "octets", "created", "(UTC)"])
        self.assertIn(ALICE, output)
        self.assertIn(long, output)
        self.assertIn(marked, output)

    def test_json(self) -> None:
        """Programs get a list of objects."""
        self.add()
        (entry,) = json.loads(self.succeed("user", "list", "--json"))
        self.assertRegex(entry.pop("created"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertEqual(entry, {"address": ALICE, "messages": 0, "octets": 0})

    def test_one_domain(self) -> None:
        """A domain narrows the list; one that is unknown is an error."""
        self.add()
        self.add("bob@example.net")
        rows = json.loads(self.succeed("user", "list", "EXAMPLE.net", "--json"))
        self.assertEqual([row["address"] for row in rows], ["bob@example.net"])
        self.refused(NotFound, ["user", "list", "example.com"])

    def test_nothing_yet(self) -> None:
        """An empty database says what to do; one that does not exist is an error that makes none."""
        self.refused(StartRefused, ["user", "list"])
        self.assertFalse(Path(self.path).exists())
        self.succeed("domain", "add", "example.org")
        self.assertIn("mailsvc user add", self.succeed("user", "list"))
        self.assertEqual(json.loads(self.succeed("user", "list", "--json")), [])


class RemoveTests(UserCase):
    """`user remove`."""

    def test_asks(self) -> None:
        """Nothing happens unless the question is answered with yes."""
        self.add()
        for answer in ("n\n", "\n", ""):
            self.assertEqual(self.run_command("user", "remove", ALICE, input=answer).exit_code, 1)
            self.assertIsNotNone(self.row())
        output = self.succeed("user", "remove", ALICE, input="y\n")
        self.assertEqual(output, "The account alice@example.org was removed, with 0 messages.\n")
        self.assertIsNone(self.row())

    def test_yes(self) -> None:
        """`--yes` does not ask; the domain stays."""
        self.add()
        output = self.succeed("user", "remove", ALICE, "--yes", "--json")
        self.assertEqual(json.loads(output), {"address": ALICE, "messages": 0})
        with offline(self.path, create=False) as txn:
            self.assertEqual([row.name for row in domains(txn)], ["example.org"])

    def test_unknown(self) -> None:
        """An unknown account is an error, and is not asked about."""
        self.add()
        self.refused(NotFound, ["user", "remove", "bob@example.org"])
