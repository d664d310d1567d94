"""`mailsvc user app-password|grant|revoke-grant`, `user set --check-sender`, and verifiers at `add` and `passwd`."""

from __future__ import annotations

import json

import click

from mailsvc.accounts.app_passwords import digest
from mailsvc.errors import AlreadyExists, MailsvcError, NotFound
from mailsvc.mail.address import parse_address
from mailsvc.sasl.scram import ITERATIONS, make_verifier, parse_verifier
from mailsvc.storage.credentials import LoginFacts, login_facts
from mailsvc.storage.database import offline
from mailsvc.storage.senders import foreign_sender, grants
from tests.test_cli_user import ALICE, UserCase


class AccessCase(UserCase):
    """The account alice."""

    def setUp(self) -> None:
        super().setUp()
        self.add()

    def facts(self) -> LoginFacts:
        with offline(self.path, create=False) as txn:
            facts = login_facts(txn, ALICE)
        assert facts is not None
        return facts

    def assert_verifier(self, password: str) -> None:
        verifier = parse_verifier(self.facts().verifier or "")
        assert verifier is not None
        self.assertEqual(verifier, make_verifier(password, verifier.salting))
        self.assertEqual(verifier.salting.iterations, ITERATIONS)


class VerifierTests(AccessCase):
    """SCRAM verifiers."""

    def test_add_and_passwd(self) -> None:
        """Both keep the verifier of the password, under one salt."""
        self.assert_verifier("opensesame")
        before = parse_verifier(self.facts().verifier or "")
        self.succeed("user", "passwd", ALICE, "--password-stdin", input="another\n")
        self.assert_verifier("another")
        after = parse_verifier(self.facts().verifier or "")
        assert before is not None and after is not None
        self.assertEqual(before.salting, after.salting)

    def test_a_password_without_one(self) -> None:
        """What only PLAIN can carry has none, and the old one's goes."""
        self.succeed("user", "passwd", ALICE, "--password-stdin", input="tab\there\n")
        self.assertIsNone(self.facts().verifier)
        self.assert_password("tab\there")


class AppPasswordTests(AccessCase):
    """`user app-password`."""

    def made(self, *options: str) -> str:
        return self.succeed("user", "app-password", "add", ALICE, *options).strip()

    def test_add(self) -> None:
        """The password is on standard output alone, and only its digest and verifier are kept."""
        password = self.made("--label", "phone", "--only", "pop3")
        self.assertRegex(password, r"\A[a-z2-7]{6}(-[a-z2-7]{6}){3}\Z")
        [row] = self.facts().app_passwords
        self.assertEqual((row.label, row.only, row.digest), ("phone", "pop3", digest(password.encode())))
        verifier = parse_verifier(row.verifier)
        assert verifier is not None
        self.assertEqual(verifier, make_verifier(password, verifier.salting))
        self.assertNotEqual(password, self.made("--label", "laptop"))

    def test_list_and_revoke(self) -> None:
        """They are listed without a secret, and revoked by label.

        Rule: App passwords: label, last use, one protocol
        """
        self.assertIn("has no app passwords", self.succeed("user", "app-password", "list", ALICE))
        password = self.made("-l", "phone")
        listed = self.succeed("user", "app-password", "list", ALICE)
        self.assertIn("phone", listed)
        self.assertIn("never", listed)
        self.assertNotIn(password, listed)
        [facts] = json.loads(self.succeed("user", "app-password", "list", ALICE, "--json"))
        self.assertEqual((facts["label"], facts["only"], facts["last_used"]), ("phone", None, None))
        self.assertIn("was revoked", self.succeed("user", "app-password", "revoke", ALICE, "-l", "phone"))
        self.assertEqual(self.facts().app_passwords, ())

    def test_refused(self) -> None:
        """A label twice, a label that cannot be shown, one that is not there, nobody."""
        self.made("-l", "phone")
        add, revoke = ["user", "app-password", "add"], ["user", "app-password", "revoke"]
        self.refused(AlreadyExists, [*add, ALICE, "-l", "phone"])
        for label in ("", " ", "a\nb", "x" * 65):
            self.refused(MailsvcError, [*add, ALICE, "-l", label])
        self.refused(NotFound, [*add, "nobody@example.org", "-l", "phone"])
        self.refused(NotFound, [*revoke, ALICE, "-l", "tablet"])


class GrantTests(AccessCase):
    """`user grant`, `user revoke-grant`, `user set --check-sender`."""

    def test_grant_and_revoke(self) -> None:
        """An address, a domain, anybody; the list says all."""
        self.assertIn("as itself only", self.succeed("user", "grant", ALICE))
        for arguments in (["Boss@Example.NET"], ["@Example.COM"], ["--any"]):
            self.succeed("user", "grant", ALICE, *arguments)
        with offline(self.path, create=False) as txn:
            self.assertEqual(grants(txn, ALICE), ["*", "@example.com", "boss@example.net"])
        self.refused(AlreadyExists, ["user", "grant", ALICE, "--any"])
        for arguments in (["boss@example.net"], ["@example.com"], ["--any"]):
            self.succeed("user", "revoke-grant", ALICE, *arguments)
        self.refused(NotFound, ["user", "revoke-grant", ALICE, "--any"])
        self.assertEqual(json.loads(self.succeed("user", "grant", ALICE, "--json"))["grants"], [])

    def test_usage(self) -> None:
        """A sender or --any, not both, and not neither where something must be named."""
        for arguments in (["grant", ALICE, "x@y.example", "--any"], ["revoke-grant", ALICE]):
            self.assertEqual(self.run_command("user", *arguments).exit_code, click.UsageError.exit_code)
        self.refused(MailsvcError, ["user", "grant", ALICE, "no address"])
        self.refused(NotFound, ["user", "grant", "nobody@example.org", "--any"])

    def test_check_sender(self) -> None:
        """Off lets an account send as anybody, on ends it, and the answer says so.

        Rule: The login owns the sender: grants, and switched off
        """
        for state, foreign in (("off", None), ("on", "x@y.example")):
            output = self.succeed("user", "set", ALICE, "--check-sender", state)
            self.assertEqual("may send as anybody" in output, state == "off")
            number = self.facts().account.id
            with offline(self.path, create=False) as txn:
                found = foreign_sender(txn, number, [parse_address("x@y.example")])
            self.assertEqual(None if found is None else str(found), foreign)
