"""The row functions: accounts, maildrops and messages."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.errors import AlreadyExists, MailsvcError, NotFound, StorageFailure
from mailsvc.mail.address import parse_address
from mailsvc.storage import accounts, mailboxes
from mailsvc.storage.rows import UnexpectedRows, many, maybe, one
from tests.storage_cases import (
    ALICE,
    BOB,
    HEADER,
    TRACE,
    OfflineCase,
    add,
    content,
    count,
    deliver,
    new_message,
)


class RowCount(OfflineCase):
    def test_one(self) -> None:
        """`one` gives the only row and refuses none and two."""
        with self.transaction() as txn:
            self.assertEqual(one(txn.execute("SELECT 1, 'a'")), (1, "a"))
            self.assertRaises(UnexpectedRows, one, txn.execute("SELECT 1 WHERE 0"))
            self.assertRaises(UnexpectedRows, one, txn.execute("SELECT 1 UNION SELECT 2"))

    def test_maybe_and_many(self) -> None:
        """`maybe` gives a row or None and refuses two; `many` gives whatever there is."""
        with self.transaction() as txn:
            self.assertEqual(maybe(txn.execute("SELECT 1")), (1,))
            self.assertIsNone(maybe(txn.execute("SELECT 1 WHERE 0")))
            self.assertRaises(UnexpectedRows, maybe, txn.execute("SELECT 1 UNION SELECT 2"))
            self.assertEqual(many(txn.execute("SELECT 1 UNION SELECT 2")), [(1,), (2,)])
            self.assertEqual(many(txn.execute("SELECT 1 WHERE 0")), [])


class Domains(OfflineCase):
    def test_add_list_remove(self) -> None:
        """A domain exists from its adding to its removal, and the list counts its accounts."""
        with self.transaction() as txn:
            self.assertFalse(accounts.domain_exists(txn, "example.org"))
            domain_id = accounts.add_domain(txn, "example.org", 5.0)
            self.assertTrue(accounts.domain_exists(txn, "example.org"))
            add(txn)
            accounts.add_domain(txn, "a.example", 6.0)
            listed = accounts.domains(txn)
            self.assertEqual([row.name for row in listed], ["a.example", "example.org"])
            self.assertEqual(listed[1], accounts.DomainRow(domain_id, "example.org", 5.0, 1))
            accounts.remove_domain(txn, "a.example")
            self.assertFalse(accounts.domain_exists(txn, "a.example"))

    def test_refusals(self) -> None:
        """A second adding, an unknown domain and a domain with accounts are refused by name."""
        with self.transaction() as txn:
            add(txn)
            error = self.assertRaises(AlreadyExists, accounts.add_domain, txn, "example.org", 0.0)
            self.assertIn("example.org", str(error))
            self.assertRaises(NotFound, accounts.remove_domain, txn, "example.net")
            error = self.assertRaises(MailsvcError, accounts.remove_domain, txn, "example.org")
            self.assertIn("still has 1 account;", str(error))


class Accounts(OfflineCase):
    def test_look_up(self) -> None:
        """An account is found by its key only, with its hash, which does not show in its repr."""
        with self.transaction() as txn:
            account_id = accounts.add_account(txn, parse_address("Alice@Example.ORG"), "s3cret-hash", 7.0)
            row = accounts.account(txn, "alice@example.org")
            self.assertEqual(row, accounts.AccountRow(account_id, "Alice@example.org", "s3cret-hash", False, 7.0))
            self.assertNotIn("s3cret", repr(row))
            self.assertIsNone(accounts.account(txn, "bob@example.org"))

    def test_already_exists(self) -> None:
        """A second spelling of the same mailbox is the same account."""
        with self.transaction() as txn:
            add(txn)
            self.assertRaises(AlreadyExists, add, txn, parse_address("ALICE@example.org"))

    def test_without_password(self) -> None:
        """An account can be without a password until it is given one."""
        with self.transaction() as txn:
            accounts.add_account(txn, ALICE, None, 1.0)
            before = accounts.account(txn, ALICE.key)
            accounts.set_password(txn, ALICE.key, "new", 2.0)
            accounts.set_password(txn, ALICE.key, "newer", 3.0)
            after = accounts.account(txn, ALICE.key)
        assert before is not None and after is not None
        self.assertEqual((before.password_hash, after.password_hash), (None, "newer"))

    def test_unknown(self) -> None:
        """A password or a removal for an account that does not exist is refused."""
        with self.transaction() as txn:
            self.assertRaises(NotFound, accounts.set_password, txn, ALICE.key, "x", 1.0)
            self.assertRaises(NotFound, accounts.remove_account, txn, ALICE.key)

    def test_list(self) -> None:
        """The list shows messages and octets of each account, also an empty one, and can be of one domain."""
        with self.transaction() as txn:
            alice, carol = add(txn), add(txn, parse_address("carol@a.example"))
            add(txn, BOB)
            deliver(txn, b"12345", alice, carol)
            deliver(txn, b"", alice)
            one_size = len(TRACE + HEADER)
            self.assertEqual(
                accounts.accounts(txn),
                [
                    accounts.AccountListing("carol@a.example", 1.0, 1, one_size + 5),
                    accounts.AccountListing("alice@example.org", 1.0, 2, 2 * one_size + 5),
                    accounts.AccountListing("bob@example.org", 1.0, 0, 0),
                ],
            )
            self.assertEqual([row.address for row in accounts.accounts(txn, "a.example")], ["carol@a.example"])

    def test_remove_takes_only_own_mail(self) -> None:
        """Removing an account removes its messages, but not one that another account holds too."""
        with self.transaction() as txn:
            alice, bob = add(txn), add(txn, BOB)
            deliver(txn, b"alone", alice)
            shared = deliver(txn, b"shared", alice, bob)
            self.assertEqual(accounts.remove_account(txn, ALICE.key), 2)
            self.assertIsNone(accounts.account(txn, ALICE.key))
            self.assertEqual(content(txn, shared), TRACE + HEADER + b"shared")
            self.assertEqual([count(txn, table) for table in ("message", "credential")], [1, 1])
            self.assertEqual(accounts.remove_account(txn, BOB.key), 1)
            self.assertEqual(count(txn, "message_content"), 0)

    def test_values_are_never_sql(self) -> None:
        """Quotes, semicolons and comment marks in a name are letters like any other."""
        plain = parse_address("o'brien@example.org")
        quoted = parse_address('"x\'); drop table account; --"@example.org')
        with self.transaction() as txn:
            for address in (plain, quoted):
                account_id = add(txn, address)
                deliver(txn, b"'; --", account_id, trace_id="'\"; --")
                row = accounts.account(txn, address.key)
                assert row is not None
                self.assertEqual(row.address, str(address))
            self.assertEqual(count(txn, "account"), 2)


class Messages(OfflineCase):
    def test_life(self) -> None:
        """What was delivered is listed, is read part by part as it came, and is gone when deleted."""
        with self.transaction() as txn:
            alice = add(txn)
            body = b"one\r\n.two\r\n" * 5
            message_id = deliver(txn, body, alice)
            (item,) = mailboxes.snapshot(txn, alice)
            self.assertEqual((item.uid, item.message_id), (1, message_id))
            self.assertEqual(item.size, len(TRACE + HEADER + body))
            self.assertEqual(mailboxes.content_part(txn, message_id, 0), TRACE + HEADER)
            self.assertEqual(content(txn, message_id), TRACE + HEADER + body)
            self.assertEqual(mailboxes.delete_items(txn, alice, [item.uid, 99]), 1)
            self.assertEqual(list(mailboxes.snapshot(txn, alice)), [])
            self.assertIsNone(mailboxes.content_part(txn, message_id, 0))
            self.assertEqual([count(txn, table) for table in ("message", "message_content")], [0, 0])

    def test_openings(self) -> None:
        """Several items are read at once, each with its own prefix, whole or in part; those that are gone are not."""
        with self.transaction() as txn:
            alice, bob = add(txn), add(txn, BOB)
            first = deliver(txn, b"1234567890", alice, bob)
            mailboxes.deliver(txn, new_message(b"b"), HEADER, [b"b"], [alice], prefixes={alice: b"To: alice\r\n"})
            head = TRACE + HEADER
            self.assertEqual(
                mailboxes.openings(txn, alice, [2, 7, 1]),
                {2: [b"To: alice\r\n" + head, b"b"], 1: [head, b"1234567", b"890"]},
            )
            self.assertEqual(mailboxes.openings(txn, alice, [1], 1), {1: [head]})
            self.assertEqual(mailboxes.openings(txn, bob, [2]), {})
            txn.execute("DELETE FROM message_content WHERE message_id = ? AND part = 1", (first,))
            self.assertEqual(mailboxes.openings(txn, bob, [1]), {1: [head]}, "a gap was passed over")

    def test_columns(self) -> None:
        """The facts of a message stand in its row; a NUL that PostgreSQL could not take is replaced."""
        with self.transaction() as txn:
            deliver(txn, b"body", add(txn))
            new = new_message(b"")
            odd = mailboxes.NewMessage("t2", "", 1.5, b"", new.summary.__class__(0, 0, "ff", "a\0b", "f", "d", "<i>"))
            mailboxes.deliver(txn, odd, b"", [], [])
            rows = many(
                txn.execute(
                    "SELECT trace_id, reverse_path, received_at, size, header_size, subject, from_header,"
                    " date_header, message_id_header FROM message ORDER BY id"
                )
            )
        own = len(TRACE + HEADER)
        self.assertEqual(rows[0], ("trace-1", "sender@example.net", 1000.0, own + 4, own, "hello", None, None, None))
        self.assertEqual(rows[1], ("t2", "", 1.5, 0, 0, "a\ufffdb", "f", "d", "<i>"))

    def test_one_copy_each(self) -> None:
        """An account that is named twice gets a message once; two accounts share one content."""
        with self.transaction() as txn:
            alice, bob = add(txn), add(txn, BOB)
            message_id = deliver(txn, b"x", alice, bob, alice)
            self.assertEqual(len(mailboxes.snapshot(txn, alice)), 1)
            self.assertEqual(count(txn, "message"), 1)
            mailboxes.delete_items(txn, alice, [1])
            self.assertEqual(content(txn, message_id), TRACE + HEADER + b"x")

    def test_account_gone(self) -> None:
        """A delivery to an account that was removed meanwhile is refused."""
        with self.transaction() as txn:
            self.assertRaises(NotFound, deliver, txn, b"x", 12345)

    def test_spool_too_short_or_long(self) -> None:
        """A body that is not as long as what arrived is a temporary failure, never a message."""
        for body in ([b"123"], [b"1234", b"56"], []):
            with self.transaction() as txn:
                self.assertRaises(StorageFailure, mailboxes.deliver, txn, new_message(b"12345"), HEADER, body, [])

    def test_part_limit(self) -> None:
        """A piece larger than readers are promised is refused; empty pieces make no part."""
        with self.transaction() as txn:
            alice = add(txn)
            large = b"x" * (mailboxes.PART_LIMIT + 1)
            self.assertRaises(ValueError, mailboxes.deliver, txn, new_message(large), HEADER, [large], [alice])
            message_id = mailboxes.deliver(txn, new_message(b"ab"), HEADER, [b"", b"a", b"", b"b"], [alice])
            self.assertEqual(mailboxes.content_part(txn, message_id, 2), b"b")
            self.assertIsNone(mailboxes.content_part(txn, message_id, 3))

    def test_uid_never_comes_back(self) -> None:
        """Uids only grow, also when all items were deleted."""
        with self.transaction() as txn:
            alice = add(txn)
            deliver(txn, b"1", alice)
            deliver(txn, b"2", alice)
            mailboxes.delete_items(txn, alice, [1, 2])
            deliver(txn, b"3", alice)
            self.assertEqual([item.uid for item in mailboxes.snapshot(txn, alice)], [3])

    def test_ids_never_come_back(self) -> None:
        """A removed message's or account's id is not used again: a session may still hold it."""
        with self.transaction() as txn:
            alice = add(txn)
            message_id = deliver(txn, b"1", alice)
            uidl = mailboxes.snapshot(txn, alice)[0].uidl
            accounts.remove_account(txn, ALICE.key)
            again = add(txn)
            self.assertGreater(again, alice)
            self.assertGreater(deliver(txn, b"2", again), message_id)
            self.assertNotEqual(mailboxes.snapshot(txn, again)[0].uidl, uidl)

    def test_restored_copy_gives_other_uidls(self) -> None:
        """After the database went back to an older state, new mail has a uidl that no client has seen."""
        seen = set()
        with self.transaction() as txn:
            alice = add(txn)
        for _ in range(2):
            with self.transaction() as txn:
                txn.execute("SAVEPOINT copy")
                deliver(txn, b"x", alice)
                (item,) = mailboxes.snapshot(txn, alice)
                self.assertEqual(item.uid, 1)
                seen.add(item.uidl)
                txn.execute("ROLLBACK TO copy")
        self.assertEqual(len(seen), 2)

    def test_plan(self) -> None:
        """Opening a maildrop is one range of the primary key, without a sort; orphans are found by index."""
        with self.transaction() as txn:
            plan = many(
                txn.execute(
                    "EXPLAIN QUERY PLAN SELECT uid, message_id, size, uidl FROM mailbox_item"
                    " WHERE account_id = ? ORDER BY uid",
                    (1,),
                )
            )
            self.assertEqual([row[3] for row in plan], ["SEARCH mailbox_item USING PRIMARY KEY (account_id=?)"])
            plan = many(txn.execute("EXPLAIN QUERY PLAN " + accounts.DELETE_ORPHAN, (1,)))
            self.assertIn("mailbox_item_by_message", str(plan))
            self.assertNotIn("SCAN", str(plan))


class UniqueIds(SynchronousTestCase):
    @settings(deadline=None)
    @given(st.integers(min_value=1, max_value=2**63 - 1), st.binary(min_size=8, max_size=8))
    def test_form(self, uid: int, random: bytes) -> None:
        """A UIDL is 1 to 70 characters of 0x21 to 0x7e (RFC 1939 section 7)."""
        self.assertTrue(re.fullmatch(r"[\x21-\x7e]{1,70}", mailboxes.uidl(uid, random.hex())))
