"""Verifiers, app passwords and grants as rows."""

from __future__ import annotations

from mailsvc.errors import AlreadyExists, MailsvcError, NotFound
from mailsvc.mail.address import parse_address
from mailsvc.storage import accounts, credentials, senders
from mailsvc.storage.aliases import add_alias
from mailsvc.storage.rows import Cursor
from tests.storage_cases import ALICE, BOB, OfflineCase, add

KEY = ALICE.key
HASH = "$argon2id$hash"


class VerifierTests(OfflineCase):
    """A verifier stands beside the hash of the same password, never beside another's."""

    def verifier(self, txn: Cursor) -> str | None:
        facts = credentials.login_facts(txn, KEY)
        assert facts is not None
        return facts.verifier

    def test_added_and_replaced(self) -> None:
        """It is added, and replaced by one with other iterations."""
        with self.transaction() as txn:
            add(txn)
            self.assertIsNone(self.verifier(txn))
            for text in ("one", "two"):
                credentials.add_verifier(txn, KEY, HASH, text, 2.0)
                self.assertEqual(self.verifier(txn), text)

    def test_of_another_password(self) -> None:
        """One that was made while the password was changed is not added."""
        with self.transaction() as txn:
            add(txn)
            credentials.add_verifier(txn, KEY, "$argon2id$before", "late", 2.0)
            self.assertIsNone(self.verifier(txn))

    def test_goes_with_its_password(self) -> None:
        """A new password takes the old one's verifier away; a new hash of the same password does not."""
        with self.transaction() as txn:
            add(txn)
            credentials.add_verifier(txn, KEY, HASH, "one", 2.0)
            credentials.renew_hash(txn, KEY, HASH, "$argon2id$dearer")
            self.assertEqual(self.verifier(txn), "one")
            accounts.set_password(txn, KEY, "$argon2id$new", 4.0)
            self.assertIsNone(self.verifier(txn))

    def test_secrets_are_not_shown(self) -> None:
        """No repr holds a hash, a verifier or a digest."""
        with self.transaction() as txn:
            add(txn)
            credentials.add_verifier(txn, KEY, HASH, "hunter22", 2.0)
            credentials.add_app_password(txn, KEY, "phone", "", "hunter22", "hunter22", 2.0)
            self.assertNotIn("hunter22", repr(credentials.login_facts(txn, KEY)))

    def test_nobody(self) -> None:
        """A name without an account has no facts."""
        with self.transaction() as txn:
            self.assertIsNone(credentials.login_facts(txn, KEY))

    def test_salt_key_is_made_once(self) -> None:
        """The first key stays, whoever comes with another."""
        with self.transaction() as txn:
            self.assertEqual(credentials.salt_key(txn, b"a" * 32), b"a" * 32)
            self.assertEqual(credentials.salt_key(txn, b"b" * 32), b"a" * 32)


class AppPasswordTests(OfflineCase):
    """App passwords."""

    def put(self, txn: Cursor, label: str) -> int:
        return credentials.add_app_password(txn, KEY, label, "pop3", "digest", "verifier", 5.0)

    def test_life(self) -> None:
        """It is added, listed, used, and revoked."""
        with self.transaction() as txn:
            add(txn)
            number = self.put(txn, "phone")
            self.put(txn, "laptop")
            credentials.note_use(txn, number, 7.0)
            phone, laptop = credentials.app_passwords(txn, KEY)
            self.assertEqual((phone.label, phone.only, phone.created, phone.last_used), ("phone", "pop3", 5.0, 7.0))
            self.assertIsNone(laptop.last_used)
            credentials.revoke_app_password(txn, KEY, "phone")
            self.assertEqual([row.label for row in credentials.app_passwords(txn, KEY)], ["laptop"])
            self.assertGreater(self.put(txn, "phone"), laptop.id)

    def test_refused(self) -> None:
        """No account, a label twice, nothing to revoke, one too many."""
        with self.transaction() as txn:
            with self.assertRaises(NotFound):
                self.put(txn, "phone")
            add(txn)
            self.put(txn, "phone")
            with self.assertRaises(AlreadyExists):
                self.put(txn, "phone")
            with self.assertRaises(NotFound):
                credentials.revoke_app_password(txn, KEY, "tablet")
            for number in range(credentials.MOST_APP_PASSWORDS - 1):
                self.put(txn, str(number))
            with self.assertRaises(MailsvcError):
                self.put(txn, "one too many")

    def test_goes_with_its_account(self) -> None:
        """An account that is removed takes everything along."""
        with self.transaction() as txn:
            add(txn)
            self.put(txn, "phone")
            senders.grant(txn, KEY, "*", 1.0)
            accounts.remove_account(txn, KEY)
            add(txn)
            self.assertEqual((credentials.app_passwords(txn, KEY), senders.grants(txn, KEY)), ([], []))


class SenderTests(OfflineCase):
    """As whom an account may send."""

    def foreign(self, txn: Cursor, number: int, *texts: str) -> str | None:
        found = senders.foreign_sender(txn, number, [parse_address(text) for text in texts])
        return None if found is None else str(found)

    def test_own_names(self) -> None:
        """Its own address in any spelling, with a detail, and an alias that leads to it; the first other is told."""
        with self.transaction() as txn:
            number = add(txn)
            add(txn, BOB)
            add_alias(txn, parse_address("team@example.org"), [ALICE, BOB], 1.0)
            own = (
                "alice@example.org",
                "ALICE@Example.ORG",
                '"alice"@example.org',
                "alice+x@example.org",
                "team@example.org",
            )
            self.assertIsNone(self.foreign(txn, number, *own))
            for other in ("bob@example.org", "nobody@example.org", "alice@example.net", "bob+alice@example.org"):
                self.assertEqual(self.foreign(txn, number, *own, other, "x@y.example"), other)

    def test_forwarding_is_no_name(self) -> None:
        """Who gets bob's mail too is not bob; and bob is, also while all of his mail goes to somebody else."""
        with self.transaction() as txn:
            number, bobs = add(txn), add(txn, BOB)
            add_alias(txn, BOB, [ALICE], 1.0)
            add_alias(txn, parse_address("sales@example.org"), [BOB], 1.0)
            for name in ("bob@example.org", "bob+x@example.org", "sales@example.org"):
                self.assertEqual(self.foreign(txn, number, name), name)
                self.assertIsNone(self.foreign(txn, bobs, name))

    def test_grants(self) -> None:
        """An address, a domain, anybody; each until it is taken back."""
        with self.transaction() as txn:
            number = add(txn)
            for granted, sender in (
                ("boss@example.net", "Boss@example.net"), ("@example.net", "x@example.net"), ("*", "x@y.example"),
            ):  # fmt: skip
                self.assertEqual(self.foreign(txn, number, sender), str(parse_address(sender)))
                senders.grant(txn, KEY, granted, 1.0)
                self.assertEqual(senders.grants(txn, KEY), [granted])
                self.assertIsNone(self.foreign(txn, number, sender))
                with self.assertRaises(AlreadyExists):
                    senders.grant(txn, KEY, granted, 1.0)
                senders.revoke_grant(txn, KEY, granted)
                with self.assertRaises(NotFound):
                    senders.revoke_grant(txn, KEY, granted)

    def test_a_domain_is_not_its_subdomains(self) -> None:
        """The grant of a domain is of that domain."""
        with self.transaction() as txn:
            number = add(txn)
            senders.grant(txn, KEY, "@example.net", 1.0)
            self.assertEqual(self.foreign(txn, number, "x@sub.example.net"), "x@sub.example.net")

    def test_not_checked(self) -> None:
        """An account that is not checked may send as anybody; one that is gone may not."""
        with self.transaction() as txn:
            number = add(txn)
            senders.set_check_sender(txn, KEY, False)
            self.assertIsNone(self.foreign(txn, number, "x@y.example"))
            senders.set_check_sender(txn, KEY, True)
            self.assertEqual(self.foreign(txn, number, "x@y.example"), "x@y.example")
            self.assertEqual(self.foreign(txn, 99, "alice@example.org"), "alice@example.org")

    def test_nobody(self) -> None:
        """Without the account there is nothing to grant or set."""
        with self.transaction() as txn:
            for attempt in (
                lambda: senders.grant(txn, KEY, "*", 1.0),
                lambda: senders.grants(txn, KEY),
                lambda: senders.set_check_sender(txn, KEY, True),
            ):
                with self.assertRaises(NotFound):
                    attempt()
