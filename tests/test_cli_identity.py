"""`mailsvc user certificate` and `mailsvc relay-client`, and the rows behind them."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from mailsvc.errors import AlreadyExists, MailsvcError, NotFound
from mailsvc.mail.address import parse_address
from mailsvc.storage import identities
from mailsvc.storage.opening import offline
from tests.bad_certificates import Made, root
from tests.client_certificates import expired, key_of, person
from tests.test_cli_access import AccessCase
from tests.test_cli_user import ALICE

BOB = "bob@example.org"


class IdentityCase(AccessCase):
    def file(self, made: Made, name: str = "cert.pem") -> str:
        """The certificate in a file."""
        path = Path(self.mktemp()).with_name(name)
        path.write_bytes(made.certificate.public_bytes(Encoding.PEM))
        return str(path)

    def owner(self, spki: str, *addresses: str) -> identities.Owner | None:
        with offline(self.path, create=False) as txn:
            return identities.owner_of(txn, spki, addresses, time.time())


class CertificateCommands(IdentityCase):
    """`mailsvc user certificate`."""

    def command(self, verb: str, *arguments: str) -> str:
        return self.succeed("user", "certificate", verb, ALICE, *arguments)

    def test_add_list_revoke(self) -> None:
        """From a file or a fingerprint in any writing; the list shows what is good and what was revoked."""
        laptop, phone = person("laptop"), person("phone")
        said = self.command("add", "--certificate", self.file(laptop), "--label", "laptop")
        self.assertIn(key_of(laptop), said)
        digits = key_of(phone).upper()
        spaced = ":".join(digits[at : at + 2] for at in range(0, 64, 2))
        self.command("add", "--spki", spaced, "--label", "phone")
        for made in (laptop, phone):
            owner = self.owner(key_of(made))
            assert owner is not None
            self.assertEqual(owner.address, ALICE)
        self.assertIn("CN=laptop", self.command("list"))
        self.command("revoke", "--label", "phone")
        self.assertIsNone(self.owner(key_of(phone)))
        first, second = json.loads(self.command("list", "--json"))
        self.assertEqual((first["label"], first["revoked"], first["last_used"]), ("laptop", None, None))
        self.assertEqual((second["label"], second["spki_sha256"]), ("phone", key_of(phone)))
        self.assertRegex(second["revoked"], r"\A20\d\d-")

    def test_until(self) -> None:
        """The registration ends when it was said to, whatever the certificate says, and whoever vouches for its
        address; the list tells.

        Rule: EXTERNAL: a registration may have an end of its own
        """
        laptop = person("laptop", ALICE)
        said = self.command("add", "--certificate", self.file(laptop), "--label", "laptop", "--until", "2999-12-31")
        self.assertIn(" until 2999-12-31 ", said)
        self.assertIn("good until 3000-01-01 00:00", self.command("list"))
        [facts] = json.loads(self.command("list", "--json"))
        self.assertEqual(facts["until"], "3000-01-01T00:00:00Z")
        end = datetime(3000, 1, 1, tzinfo=UTC).timestamp()
        with offline(self.path, create=False) as txn:
            for now, holds in ((end - 1, True), (end, False)):
                owner = identities.owner_of(txn, key_of(laptop), (ALICE,), now)
                self.assertEqual(owner is not None, holds)
                self.assertEqual(identities.certificate_holds(txn, 1, key_of(laptop), now), holds)
            txn.execute("UPDATE account_certificate SET until = 1.0")
        self.assertIn("over since 1970-01-01", self.command("list"))
        old = ["user", "certificate", "add", ALICE, "--spki", "a" * 64, "-l", "x", "--until", "2020-01-01"]
        refused = self.refused(MailsvcError, old)
        self.assertIn("2020-01-01 is over already", refused)

    def test_revoked_stays_revoked(self) -> None:
        """A revoked key is not added again by accident, and not good again by the word of a CA or for a new account."""
        spki = key_of(person())
        self.command("add", "--spki", spki, "--label", "a")
        self.command("revoke", "--label", "a")
        self.assertIsNone(self.owner(spki, ALICE))
        again = ("user", "certificate", "add", ALICE, "--spki", spki, "--label", "b")
        self.assertIn("was revoked on", self.refused(MailsvcError, again))
        self.succeed("user", "remove", ALICE, "--yes")
        self.add()
        self.assertIsNone(self.owner(spki, ALICE))
        self.succeed(*again, "--again")
        self.assertIsNotNone(self.owner(spki))

    def test_revoke_what_a_ca_vouches_for(self) -> None:
        """By file or fingerprint, without a row: the key is refused from then on."""
        made = person("a", ALICE)
        self.assertIsNotNone(self.owner(key_of(made), ALICE))
        self.command("revoke", "--certificate", self.file(made))
        self.assertIsNone(self.owner(key_of(made), ALICE))

    def test_refusals(self) -> None:
        """Sentences: no such account, label or key; a key that is somebody else's; a CA; no certificate at all."""
        spki = key_of(person())
        self.command("add", "--spki", spki, "--label", "a")
        self.succeed("user", "add", BOB, "--password-stdin", input="opensesame\n")
        self.assertIn("has no certificates", self.succeed("user", "certificate", "list", BOB))
        text = Path(self.mktemp())
        text.write_text("nothing")
        other = key_of(person())
        for error, arguments in (
            (AlreadyExists, ("add", BOB, "--spki", spki, "--label", "a")),
            (AlreadyExists, ("add", ALICE, "--spki", other, "--label", "a")),
            (MailsvcError, ("add", ALICE, "--spki", "ab", "--label", "b")),
            (MailsvcError, ("add", ALICE, "--spki", other, "--label", "b\n")),
            (MailsvcError, ("add", ALICE, "--certificate", self.file(root()), "--label", "b")),
            (MailsvcError, ("add", ALICE, "--certificate", str(text), "--label", "b")),
            (NotFound, ("add", "x@example.org", "--spki", other, "--label", "b")),
            (NotFound, ("revoke", ALICE, "--label", "b")),
            (MailsvcError, ("revoke", BOB, "--spki", spki)),
            (SystemExit, ("add", ALICE, "--label", "b")),
            (SystemExit, ("revoke", ALICE)),
            (SystemExit, ("revoke", ALICE, "--label", "a", "--spki", spki)),
        ):
            self.refused(error, ("user", "certificate", *arguments))

    def test_a_certificate_that_will_be_refused(self) -> None:
        """It is added, since a renewed one has the same key, and what is wrong is said on standard error."""
        done = self.run_command(
            "user", "certificate", "add", ALICE, "--label", "old", "--certificate", self.file(expired())
        )
        self.assertEqual(done.exit_code, 0)
        self.assertIn("As it is now, it will be refused: CN=alice expired on", done.stderr)

    def test_limit(self) -> None:
        """Of one account there are fifty."""
        with offline(self.path, create=False) as txn:
            for number in range(identities.MOST_CERTIFICATES):
                identities.add_certificate(txn, ALICE, f"n{number}", f"{number:064x}", "", 0.0)
            with self.assertRaisesRegex(MailsvcError, "already"):
                identities.add_certificate(txn, ALICE, "more", "f" * 64, "", 0.0)


class RelayClientCommands(IdentityCase):
    """`mailsvc relay-client`."""

    def test_add_list_remove(self) -> None:
        """With the senders that it was granted, in every form."""
        printer = person("printer")
        self.assertIn("There are no relay clients", self.succeed("relay-client", "list"))
        senders = ("--sender", "Printer@example.org", "--sender", "@Example.NET")
        self.succeed("relay-client", "add", "printer", "--certificate", self.file(printer), *senders)
        self.succeed("relay-client", "add", "host", "--spki", "0" * 64, "--any")
        self.assertIn("anybody of example.net", self.succeed("relay-client", "list"))
        host, found = json.loads(self.succeed("relay-client", "list", "--json"))
        self.assertEqual((host["senders"], found["spki_sha256"]), (["*"], key_of(printer)))
        with offline(self.path, create=False) as txn:
            row = identities.relay_client(txn, key_of(printer))
            assert row is not None
            for text, allowed in (
                ("printer@example.org", True),
                ("any@example.net", True),
                ("alice@example.org", False),
                ("any@sub.example.net", False),
            ):
                found = identities.sender_not_granted(txn, row.id, [parse_address(text)])
                self.assertEqual(found is None, allowed, text)
        self.succeed("relay-client", "remove", "printer")
        with offline(self.path, create=False) as txn:
            self.assertIsNone(identities.relay_client(txn, key_of(printer)))
            self.assertIsNone(identities.relay_client(txn, "%"))

    def test_refusals(self) -> None:
        """Nothing is granted by default; a label and a key are one of a kind; a user's revoked key is refused."""
        spki = "1" * 64
        self.succeed("relay-client", "add", "a", "--spki", spki, "--any")
        self.succeed("user", "certificate", "revoke", ALICE, "--spki", "2" * 64)
        for error, arguments in (
            (SystemExit, ("add", "b", "--spki", "3" * 64)),
            (SystemExit, ("add", "b", "--spki", "3" * 64, "--any", "--sender", "@example.org")),
            (MailsvcError, ("add", "b", "--spki", "3" * 64, "--sender", "nobody")),
            (AlreadyExists, ("add", "b", "--spki", spki, "--any")),
            (AlreadyExists, ("add", "a", "--spki", "3" * 64, "--any")),
            (MailsvcError, ("add", "b", "--spki", "2" * 64, "--any")),
            (NotFound, ("remove", "b")),
        ):
            self.refused(error, ("relay-client", *arguments))


class OwnerRules(IdentityCase):
    """`owner_of` (what EXTERNAL asks)."""

    def test_the_key_before_the_address(self) -> None:
        """A key of alice is alice's, whatever address a CA vouches for; malformed addresses are passed over."""
        self.succeed("user", "add", BOB, "--password-stdin", input="opensesame\n")
        spki = "4" * 64
        self.succeed("user", "certificate", "add", ALICE, "--spki", spki, "--label", "a")
        owner = self.owner(spki, BOB)
        assert owner is not None
        self.assertEqual((owner.address, owner.certificate is None), (ALICE, False))
        vouched = self.owner("5" * 64, "not an address", "x@y@z", "Bob@EXAMPLE.org", "bob@example.org")
        assert vouched is not None
        self.assertEqual((vouched.address, vouched.certificate), (BOB, None))
        self.assertIsNone(self.owner("", BOB))
        self.assertIsNone(self.owner("5" * 64, "nobody@example.org"))
