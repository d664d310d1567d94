"""`mailsvc route add|list|remove|credentials`, and what `explain` says of mail that goes out."""

from __future__ import annotations

import json
import os
from pathlib import Path

from mailsvc.errors import AlreadyExists, MailsvcError, NotFound
from mailsvc.relay.url import RelayError
from mailsvc.storage.database import offline
from mailsvc.storage.routes import login_row, opened
from mailsvc.tls.sealing import sealing_key
from tests.test_cli_directory import TEAM, DirectoryCase
from tests.test_cli_user import ALICE


class TableTests(DirectoryCase):
    def test_add_list_remove(self) -> None:
        """What was added is told in words, listed as it was written, and removed by what it goes by."""
        told = self.succeed("route", "add", "--to", "Example.NET", "tls://a.example:587")
        self.assertIn("The route to example.net was added", told)
        self.assertIn("a.example port 587, with STARTTLS, or not at all", told)
        self.succeed("route", "add", "--to", "*.example.net", "--weight", "3", "--weight", "1", "tls://a", "ssl://b")
        self.succeed("route", "add", "--from", ALICE, "tls://c")
        self.succeed("route", "add", "--default", "tls://c", "tls://")
        listed = self.succeed("route", "list")
        for words in ("to *.example.net", "weight 3", f"from {ALICE}", "default", "ssl://b"):
            self.assertIn(words, listed)
        self.assertEqual(len(json.loads(self.succeed("route", "list", "--json"))), 4)
        self.assertIn("was removed", self.succeed("route", "remove", "--to", "example.net"))
        self.refused(NotFound, ["route", "remove", "--to", "example.net"])

    def test_a_limit_of_conversations(self) -> None:
        """It is told, listed and explained; with MX hosts it is one for each domain."""
        told = self.succeed("route", "add", "--default", "tls://a.example", "--at-once", "1")
        self.assertIn("at most one conversation at a time\n", told)
        told = self.succeed("route", "add", "--to", "example.net", "tls://", "--at-once", "5")
        self.assertIn("at most 5 conversations at a time for each domain\n", told)
        self.succeed("route", "add", "--to", "free.example", "tls://b.example")
        self.assertIn("at once", self.succeed("route", "list").splitlines()[0])
        listed = json.loads(self.succeed("route", "list", "--json"))
        self.assertEqual([each["at_once"] for each in listed], [5, None, 1])
        self.assertIn("  at most one conversation at a time", self.succeed("route", "explain", "x@y.example"))
        facts = json.loads(self.succeed("route", "explain", "x@example.net", "--json"))
        self.assertEqual(facts["out"][0]["at_once"], 5)
        for number in ("0", "10001"):
            self.refused(RelayError, ["route", "add", "--to", "z.example", "tls://a", "--at-once", number])

    def test_replace(self) -> None:
        """Only when it is said."""
        self.succeed("route", "add", "--account", ALICE, "tls://a")
        self.refused(AlreadyExists, ["route", "add", "--account", ALICE, "tls://b"])
        self.assertIn("was replaced", self.succeed("route", "add", "--account", ALICE, "tls://b", "--replace"))

    def test_one_thing_to_go_by(self) -> None:
        """Exactly one of the options."""
        for options in ([], ["--default", "--to", "example.net"]):
            self.assertEqual(self.run_command("route", "add", "tls://a", *options).exit_code, 2)
        self.refused(RelayError, ["route", "add", "--default", "smtp://isp@a"])
        self.refused(RelayError, ["route", "add", "--default", "tls://a", "--weight", "0"])

    def test_warnings(self) -> None:
        """What is possible and perhaps not meant."""
        for arguments, words in (
            (["--default", "smtp+tls://a"], "OpenSMTPD since 6.4"),
            (["--to", "a.example", "smtp://a"], "plain text"),
            (["--to", "b.example", "tls://isp@a"], "no credentials isp yet"),
            (["--to", "c.example", "tls://isp@a?verify=none"], "whoever answers there gets the password"),
            (["--to", "d.example", "tls://a?ca=/nonexistent"], "cannot be read"),
            (["--to", "example.org", "tls://a"], "domain of ours"),
        ):
            self.assertIn(words, self.warned("route", "add", *arguments), arguments)
        self.assertEqual(self.warned("route", "add", "--to", "e.example", "smtp://127.0.0.1", "lmtp:///run/x"), "")


class ExplainTests(DirectoryCase):
    def test_the_way_out(self) -> None:
        """For an alias that leads elsewhere: whose maildrop, and by which route the rest goes."""
        self.succeed("alias", "add", TEAM, ALICE, "carol@example.net")
        self.succeed("route", "add", "--to", "example.net", "tls://isp@a.example")
        lines = self.succeed("route", "explain", TEAM).splitlines()
        self.assertIn("Mail for carol@example.net goes out:", lines)
        self.assertEqual(
            lines[-3:],
            [
                "  there is a route to example.net",
                "  to a.example port 25, with STARTTLS, or not at all; its certificate must name it and lead to the"
                " system's roots; logs in with the credentials isp",
                "  but there are no credentials isp: mail waits until there are",
            ],
        )

    def test_elsewhere(self) -> None:
        """Strangers are refused, users are not; sender and account may choose the route."""
        self.succeed("route", "add", "--account", ALICE, "tls://a.example")
        self.succeed("route", "add", "--from", "example.com", "tls://b.example")
        said = self.succeed("route", "explain", "x@example.net")
        self.assertIn("550 5.7.1", said)
        self.assertIn("From users who have logged in", said)
        self.assertIn("to the MX hosts of example.net, port 25", said)
        for option, value, words in (
            ("--account", ALICE, "to a.example port 25"),
            ("--from", "x@example.com", "to b.example port 25"),
        ):
            self.assertIn(words, self.succeed("route", "explain", "x@example.net", option, value))
        facts = json.loads(self.succeed("route", "explain", "x@example.net", "--account", ALICE, "--json"))
        self.assertEqual(facts["out"][0]["route"], f"account {ALICE}")
        self.assertEqual(facts["out"][0]["relays"], [{"url": "tls://a.example", "at_least": "name"}])


class CredentialTests(DirectoryCase):
    def setUp(self) -> None:
        super().setUp()
        self.key_file = Path(self.mktemp()).absolute()
        self.use_configuration(f'[certificates]\nkey_file = "{self.key_file}"\n')

    def test_add(self) -> None:
        """The password goes sealed into the database; the key file is made when it is missing."""
        said = self.succeed(
            "route", "credentials", "add", "isp", "--user", "alice", "--password-stdin", input="geheim\n"
        )
        self.assertIn("Keep a copy", said)
        self.assertEqual(os.stat(self.key_file).st_mode & 0o777, 0o600)
        with offline(self.path, create=False) as txn:
            row = login_row(txn, "isp")
        assert row is not None
        self.assertEqual(opened(row, sealing_key(self.key_file, {})).secret, "geheim")
        self.assertNotIn(b"geheim", Path(self.path).read_bytes())
        listed = self.succeed("route", "credentials", "list")
        self.assertIn("alice", listed)
        self.assertNotIn("geheim", listed)
        arguments = ["route", "credentials", "add", "isp", "--user", "bob", "--password-stdin"]
        self.refused(AlreadyExists, arguments, input="x\n")
        self.assertIn("replaced", self.succeed(*arguments, "--replace", input="x\n"))
        self.succeed(*arguments, "--replace", "--mechanism", "plain", "--mechanism", "LOGIN", input="geheim\n")
        self.assertIn("PLAIN LOGIN", self.succeed("route", "credentials", "list"))
        self.succeed("route", "credentials", "remove", "isp")
        self.refused(NotFound, ["route", "credentials", "remove", "isp"])

    def test_without_a_key(self) -> None:
        """The cure is named."""
        self.use_configuration("")
        arguments = ["route", "credentials", "add", "isp", "--user", "alice", "--password-stdin"]
        self.assertIn("key_file", self.refused(MailsvcError, arguments, input="geheim\n"))

    def test_kinds(self) -> None:
        """A certificate has no password; a password needs a user."""
        self.succeed("route", "credentials", "add", "cert", "--kind", "certificate")
        result = self.run_command("route", "credentials", "add", "c", "--kind", "certificate", "--password-stdin")
        self.assertEqual(result.exit_code, 2)
        self.refused(MailsvcError, ["route", "credentials", "add", "isp", "--password-stdin"], input="geheim\n")
        self.refused(MailsvcError, ["route", "credentials", "add", "a b", "--user", "x"], input="geheim\n")

    def test_of_the_file(self) -> None:
        """A file of credentials is listed too, and what it has is not missing."""
        file = Path(self.mktemp()).absolute()
        file.write_text('[isp]\nuser = "alice"\npassword = "geheim"\n')
        os.chmod(file, 0o600)
        self.use_configuration(f'[relay]\ncredentials_file = "{file}"\n')
        self.assertEqual(self.warned("route", "add", "--default", "tls://isp@a"), "")
        self.assertNotIn("no credentials", self.succeed("route", "explain", "x@example.net"))
        listed = self.succeed("route", "credentials", "list")
        self.assertIn(str(file), listed)
        self.assertNotIn("geheim", listed)
