"""`mailsvc domain`: the domains for which mail is taken."""

from __future__ import annotations

import json

from mailsvc.errors import AlreadyExists, MailsvcError, NotFound, StartRefused
from mailsvc.mail.address import AddressError
from tests.test_cli_user import UserCase


class DomainTests(UserCase):
    """Adding, listing and removing."""

    def names(self) -> list[str]:
        """The domains that there are."""
        return [row["domain"] for row in json.loads(self.succeed("domain", "list", "--json"))]

    def test_add(self) -> None:
        """A domain is kept in lower case and in its ASCII form."""
        self.assertEqual(self.succeed("domain", "add", "Example.ORG"), "The domain example.org was added.\n")
        output = self.succeed("domain", "add", "bücher.example", "--json")
        self.assertEqual(json.loads(output), {"domain": "xn--bcher-kva.example"})
        self.assertEqual(self.names(), ["example.org", "xn--bcher-kva.example"])

    def test_add_twice(self) -> None:
        """A domain that exists is refused."""
        self.succeed("domain", "add", "example.org")
        self.refused(AlreadyExists, ["domain", "add", "EXAMPLE.org"])

    def test_not_a_domain(self) -> None:
        """What is no domain name is refused."""
        for text in ("", "exa mple", "x-.example", "[192.0.2.1]", "alice@example.org"):
            self.refused(AddressError, ["domain", "add", text])

    def test_list(self) -> None:
        """People see a table, programs get objects, both with the number of accounts."""
        self.succeed("domain", "add", "example.net")
        self.add()
        lines = self.succeed("domain", "list").splitlines()
        self.assertEqual(lines[0].split(), ["domain", "accounts", "created", "(UTC)"])
        self.assertEqual([line.split()[:2] for line in lines[1:]], [["example.net", "0"], ["example.org", "1"]])
        rows = json.loads(self.succeed("domain", "list", "--json"))
        self.assertEqual([set(row) for row in rows], [{"domain", "accounts", "created"}] * 2)
        self.assertEqual([row["accounts"] for row in rows], [0, 1])

    def test_nothing_yet(self) -> None:
        """Without a database the list is an error; without a domain it says what to do."""
        self.refused(StartRefused, ["domain", "list"])
        self.succeed("domain", "add", "example.org")
        self.succeed("domain", "remove", "example.org")
        self.assertIn("mailsvc domain add", self.succeed("domain", "list"))

    def test_remove(self) -> None:
        """A domain goes when it has no accounts."""
        self.add()
        sentence = self.refused(MailsvcError, ["domain", "remove", "example.org"])
        self.assertIn("1 account", sentence)
        self.succeed("user", "remove", "alice@example.org", "--yes")
        self.assertEqual(self.succeed("domain", "remove", "Example.ORG"), "The domain example.org was removed.\n")
        self.assertEqual(self.names(), [])

    def test_remove_unknown(self) -> None:
        """An unknown domain is an error."""
        self.succeed("domain", "add", "example.org")
        self.refused(NotFound, ["domain", "remove", "example.net"])
