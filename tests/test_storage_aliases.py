"""Aliases, the rules of domains, and quota, as rows."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from mailsvc.directory.tables import DomainRules, Program
from mailsvc.errors import AlreadyExists, MailsvcError, NotFound
from mailsvc.mail.address import parse_address
from mailsvc.storage import accounts, mailboxes, migrate, rules
from mailsvc.storage.aliases import add_alias, addresses_leading_to, aliases, leads_to, remove_alias, resolution
from mailsvc.storage.rows import Cursor, many, one
from tests.memory import MemoryStore
from tests.storage_cases import ALICE, BOB, OfflineCase, add, deliver

TEAM = parse_address("Team@example.org")
SORTER = Program(("/usr/bin/sorter", "--to", "a b"))


class AliasRows(OfflineCase):
    def test_add_and_list(self) -> None:
        """An alias is listed with each target on a line, as both were written, and the targets are what they were."""
        with self.transaction() as txn:
            add(txn)
            self.assertEqual(add_alias(txn, TEAM, [ALICE, SORTER], 5.0), [ALICE, SORTER])
            elsewhere = parse_address("Jörg@bücher.example")
            add_alias(txn, parse_address("team@example.org"), [elsewhere], 6.0)
            self.assertEqual([row.target for row in aliases(txn, "example.org")], [ALICE, elsewhere, SORTER])
            self.assertEqual(aliases(txn)[0].address, TEAM)
            self.assertEqual(aliases(txn, "example.net"), [])

    def test_twice(self) -> None:
        """A target in another spelling is the same target."""
        with self.transaction() as txn:
            add(txn)
            add_alias(txn, TEAM, [ALICE], 5.0)
            self.assertEqual(add_alias(txn, TEAM, [parse_address("ALICE@EXAMPLE.org"), BOB], 5.0), [BOB])
            self.assertRaises(AlreadyExists, add_alias, txn, TEAM, [ALICE], 5.0)

    def test_not_our_domain(self) -> None:
        """An alias in a domain that is not ours is refused with the cure."""
        with self.transaction() as txn:
            error = self.assertRaises(NotFound, add_alias, txn, TEAM, [ALICE], 5.0)
        self.assertIn("mailsvc domain add example.org", str(error))

    def test_remove(self) -> None:
        """One target, or all; what is not there is an error."""
        with self.transaction() as txn:
            add(txn)
            add_alias(txn, TEAM, [ALICE, BOB, SORTER], 5.0)
            self.assertEqual(remove_alias(txn, TEAM, [SORTER]), 1)
            self.assertRaises(NotFound, remove_alias, txn, TEAM, [SORTER])
            self.assertEqual(remove_alias(txn, TEAM), 2)
            self.assertRaises(NotFound, remove_alias, txn, TEAM)

    def test_domain_with_aliases_stays(self) -> None:
        """A domain is removed only when nothing leads from it."""
        with self.transaction() as txn:
            accounts.add_domain(txn, "example.org", 1.0)
            add_alias(txn, TEAM, [ALICE, BOB], 5.0)
            error = self.assertRaises(MailsvcError, accounts.remove_domain, txn, "example.org")
            self.assertIn("still has 1 alias;", str(error))
            remove_alias(txn, TEAM)
            accounts.remove_domain(txn, "example.org")

    def test_who_is_reached(self) -> None:
        """`leads_to` knows the own address, details, aliases and the catch-all, and nobody else's."""
        with self.transaction() as txn:
            alice, bob = add(txn), add(txn, BOB)
            add_alias(txn, TEAM, [ALICE, BOB, parse_address("x@example.net")], 5.0)
            add_alias(txn, parse_address("one@example.org"), [TEAM], 5.0)
            for text in ("Alice@example.org", "alice+x@example.org", "team@example.org", "one@example.org"):
                self.assertTrue(leads_to(txn, parse_address(text), alice), text)
            self.assertFalse(leads_to(txn, ALICE, bob))
            self.assertFalse(leads_to(txn, parse_address("alice@example.net"), alice))
            self.assertFalse(leads_to(txn, parse_address("new@example.org"), alice))
            self.assertEqual([str(a) for a in addresses_leading_to(txn, bob)], ["one@example.org", "Team@example.org"])
            present = rules.domain_rules(txn, "example.org")
            assert present is not None
            rules.set_domain_rules(txn, replace(present, catch_all=ALICE))
            self.assertTrue(leads_to(txn, parse_address("new@example.org"), alice))


class Rules(OfflineCase):
    def test_round_trip(self) -> None:
        """What is set is what holds; a domain that is not there cannot have rules."""
        wanted = DomainRules("example.org", "-", True, True, ALICE, BOB, 1000)
        with self.transaction() as txn:
            self.assertEqual(rules.domain_rules(txn, "example.org"), None)
            self.assertRaises(NotFound, rules.set_domain_rules, txn, wanted)
            add(txn)
            self.assertEqual(rules.domain_rules(txn, "example.org"), DomainRules("example.org"))
            rules.set_domain_rules(txn, wanted)
            self.assertEqual(rules.domain_rules(txn, "example.org"), wanted)

    def test_dots(self) -> None:
        """The database finds names without regard to dots, in the one domain only."""
        with self.transaction() as txn:
            add(txn, parse_address("a.lice@example.org"))
            add(txn, parse_address("alice@exam.ple.org"))
            rules.set_domain_rules(txn, DomainRules("example.org", ignore_dots=True))
            found = resolution(txn, parse_address("al.ice@example.org"))
            self.assertEqual([str(mailbox.address) for mailbox in found.accounts], ["a.lice@example.org"])

    def test_quota_in_force(self) -> None:
        """An account's own quota, else its domain's; 0 is none; another quota lets the warning be given again.

        Rule: Defaults per domain
        """
        with self.transaction() as txn:
            alice = add(txn)
            rules.set_warned(txn, alice, True)
            for own, default, in_force in [
                (None, None, None),
                (None, 500, 500),
                (100, 500, 100),
                (0, 500, None),
                (7, None, 7),
            ]:
                rules.set_domain_rules(txn, DomainRules("example.org", default_quota=default))
                rules.set_quota(txn, ALICE.key, own)
                found = rules.usage(txn, alice)
                assert found is not None
                self.assertEqual((found.quota, found.own_quota, found.warned), (in_force, own, False))
                (mailbox,) = resolution(txn, ALICE).accounts
                self.assertEqual(mailbox.quota, in_force)
            self.assertRaises(NotFound, rules.set_quota, txn, BOB.key, 5)
            self.assertRaises(NotFound, rules.set_disabled, txn, BOB.key, True)

    def test_over_quota(self) -> None:
        """Exactly full is allowed, one octet more is not."""
        with self.transaction() as txn:
            alice, bob = add(txn), add(txn, BOB)
            rules.set_quota(txn, ALICE.key, 100)
            self.assertEqual(rules.over_quota(txn, [alice, bob], 100), [])
            self.assertEqual(rules.over_quota(txn, [alice, bob], 101), ["alice@example.org"])

    def test_upgrade_counts_what_is_there(self) -> None:
        """The upgrade adds up what lies in the maildrops of a database from before."""
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            for upgrade in migrate.shipped_upgrades():
                if upgrade.number == 3:
                    connection.executescript(
                        "INSERT INTO domain VALUES (1, 'example.org', 1.0);"
                        "INSERT INTO account (id, domain_id, address, key, created)"
                        " VALUES (1, 1, 'a@example.org', 'a@example.org', 1.0), (2, 1, 'b', 'b', 1.0);"
                        "INSERT INTO message (id, trace_id, reverse_path, received_at, size, header_size, sha256)"
                        " VALUES (1, 't', '', 1.0, 10, 1, '');"
                        "INSERT INTO mailbox_item (account_id, uid, message_id, size, uidl)"
                        " VALUES (1, 1, 1, 10, 'x'), (1, 2, 1, 32, 'y');"
                    )
                connection.executescript(upgrade.sql)
            found = many(connection.execute("SELECT id, used_octets FROM account ORDER BY id"))
            self.assertEqual(found, [(1, 42), (2, 0)])


def _used(txn: Cursor, account_id: int) -> tuple[int, int]:
    """The counter, and what it should be."""
    (counter,) = one(txn.execute("SELECT used_octets FROM account WHERE id = ?", (account_id,)))
    (octets,) = one(txn.execute("SELECT COALESCE(SUM(size), 0) FROM mailbox_item WHERE account_id = ?", (account_id,)))
    return counter, octets


class Counter(OfflineCase):
    @settings(deadline=None, max_examples=30)
    @given(
        st.lists(
            st.tuples(st.just("deliver"), st.binary(max_size=40), st.sets(st.integers(0, 2), min_size=1))
            | st.tuples(st.just("delete"), st.sets(st.integers(1, 12)), st.integers(0, 2))
        )
    )
    def test_equals_the_sum(self, actions: list[tuple[str, object, object]]) -> None:
        """After any deliveries and deletions the counter is the sum of the sizes."""
        store = MemoryStore(Clock())
        txn = store.connection.cursor()
        ids = [add(txn, parse_address(f"{name}@example.org")) for name in "abc"]
        for action in actions:
            match action:
                case ("deliver", bytes(body), set(whose)):
                    deliver(txn, body, *(ids[who] for who in whose))
                case ("delete", set(uids), int(who)):
                    mailboxes.delete_items(txn, ids[who], sorted(uids))
            for account_id in ids:
                counter, octets = _used(txn, account_id)
                self.assertEqual(counter, octets)
        store.connection.close()
