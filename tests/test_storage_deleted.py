"""Deleted mail that can come back, mail that goes by its age, and what the background removes: the rows."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from mailsvc.mail.event import Cleared
from mailsvc.storage import accounts, devices, expiry, mailboxes
from mailsvc.storage.deleted import SLICE, Removal, deleted_items, purge, purge_excess, remove, undelete
from mailsvc.storage.events import by_key
from mailsvc.storage.migrate import shipped_upgrades
from mailsvc.storage.rows import Cursor, many, one
from mailsvc.storage.rules import set_quota
from tests.storage_cases import ALICE, BOB, HEADER, TRACE, OfflineCase, add, count, deliver, new_message

DAY = 86_400.0
SIZE = len(TRACE + HEADER)


def uids(txn: Cursor, account_id: int) -> list[int]:
    return list(mailboxes.snapshot(txn, account_id).uids)


class DeletedCase(OfflineCase):
    def check(self, txn: Cursor) -> None:
        """Counters are the sums of what they count; every message is held by somebody; nothing hangs in the air."""
        for used, deleted, sum_used, sum_deleted in many(
            txn.execute(
                "SELECT used_octets, deleted_octets,"
                " (SELECT COALESCE(SUM(size), 0) FROM mailbox_item WHERE account_id = account.id),"
                " (SELECT COALESCE(SUM(size), 0) FROM deleted_item WHERE account_id = account.id) FROM account"
            )
        ):
            self.assertEqual((used, deleted), (sum_used, sum_deleted))
        orphans = (
            "SELECT COUNT(*) FROM message WHERE id NOT IN (SELECT message_id FROM mailbox_item)"
            " AND id NOT IN (SELECT message_id FROM deleted_item)"
        )
        self.assertEqual(one(txn.execute(orphans)), (0,))
        self.assertEqual(many(txn.execute("PRAGMA foreign_key_check")), [])


class ThereAndBack(DeletedCase):
    """Delete, list, bring back, purge."""

    def test_there_and_back(self) -> None:
        """What comes back has a new uid and a new UIDL, its old prefix and size, and is the newest."""
        with self.transaction() as txn:
            alice = add(txn)
            new = new_message(b"one\r\n")
            mailboxes.deliver(txn, new, HEADER, [b"one\r\n"], [alice], prefixes={alice: b"Delivered-To: a\r\n"})
            deliver(txn, b"two\r\n", alice)
            before = list(mailboxes.snapshot(txn, alice))
            self.assertEqual(remove(txn, alice, [1, 1, 99], Removal(50.0, credential="password")), 1)
            self.check(txn)
            [row] = deleted_items(txn, alice)
            facts = (row.uid, row.uidl, row.size, row.why, row.credential, row.subject, row.deleted)
            self.assertEqual(facts, (1, before[0].uidl, before[0].size, "deleted", "password", "hello", 50.0))
            self.assertEqual(undelete(txn, alice, [1, 1, 77], 60.0), [(before[0].message_id, 3)])
            self.assertEqual(undelete(txn, alice, [1], 60.0), [])
            self.check(txn)
            _, after = mailboxes.snapshot(txn, alice)
            self.assertEqual((after.uid, after.size), (3, before[0].size))
            self.assertNotEqual(after.uidl, before[0].uidl)
            self.assertTrue(mailboxes.openings(txn, alice, [3])[3][0].startswith(b"Delivered-To: a\r\n"))

    def test_shared_message(self) -> None:
        """A message stays as long as anybody has it, or may have it back."""
        with self.transaction() as txn:
            alice, bob = add(txn), add(txn, BOB)
            deliver(txn, b"x\r\n", alice, bob)
            remove(txn, alice, [1], Removal(50.0))
            remove(txn, bob, [1], Removal(60.0))
            self.assertEqual((count(txn, "message"), purge(txn, 55.0), purge(txn, 55.0)), (1, 1, 0))
            self.assertEqual(count(txn, "message"), 1)
            self.assertEqual((purge(txn, 61.0), count(txn, "message"), count(txn, "message_content")), (1, 0, 0))
            self.check(txn)

    def test_gone_at_once(self) -> None:
        """Without keeping nothing can come back."""
        with self.transaction() as txn:
            alice = add(txn)
            deliver(txn, b"x\r\n", alice)
            remove(txn, alice, [1], Removal(50.0, keep=False))
            self.assertEqual((deleted_items(txn, alice), count(txn, "message")), ([], 0))
            self.check(txn)

    def test_account_removed(self) -> None:
        """With an account goes what it could have had back, its devices and their marks; what another holds stays."""
        with self.transaction() as txn:
            alice, bob = add(txn), add(txn, BOB)
            deliver(txn, b"x\r\n", alice, bob)
            deliver(txn, b"y\r\n", alice)
            deliver(txn, b"z\r\n", alice)
            device = devices.note_login(txn, devices.Device(alice, "password"), 1.0)
            devices.note_fetched(txn, device, [3, 4], 2.0)
            remove(txn, alice, [1, 2], Removal(50.0))
            self.assertEqual(accounts.remove_account(txn, ALICE.key), 1)
            self.assertEqual([count(txn, name) for name in ("message", "deleted_item", "device_item")], [1, 0, 0])
            self.check(txn)

    def test_purge_in_slices(self) -> None:
        """A purge goes in slices by number and by octets, the oldest first, until there is nothing more."""
        with self.transaction() as txn:
            alice = add(txn)
            for _ in range(SLICE + 5):
                deliver(txn, b"", alice)
            remove(txn, alice, range(1, SLICE + 6), Removal(50.0))
            self.assertEqual([purge(txn, 51.0), purge(txn, None), purge(txn, None)], [SLICE, 5, 0])
            self.check(txn)

    def test_excess_over_the_quota(self) -> None:
        """Deleted mail takes no more room than the quota, the oldest goes; without a quota all of it stays."""
        with self.transaction() as txn:
            alice = add(txn)
            for number in range(1, 11):
                deliver(txn, b"", alice)
                remove(txn, alice, [number], Removal(float(number)))
            self.assertEqual(purge_excess(txn), 0)
            set_quota(txn, ALICE.key, 4 * SIZE)
            self.assertEqual((purge_excess(txn), purge_excess(txn)), (6, 0))
            self.assertEqual([row.uid for row in deleted_items(txn, alice)], [7, 8, 9, 10])
            self.check(txn)

    @given(
        st.lists(
            st.tuples(st.sampled_from(("deliver", "remove", "drop", "undelete", "purge")), st.integers(1, 12)),
            max_size=30,
        )
    )
    @settings(deadline=None, max_examples=40)
    def test_any_order(self, steps: list[tuple[str, int]]) -> None:
        """Whatever happens in whatever order: counters and references hold, and no UIDL is there twice, ever."""
        seen: dict[str, int] = {}
        with self.transaction() as txn:
            account_id = add(txn)
            for step, number in steps:
                match step:
                    case "deliver":
                        deliver(txn, b"x" * number, account_id)
                    case "remove" | "drop":
                        remove(txn, account_id, [number], Removal(float(number), keep=step == "remove"))
                    case "undelete":
                        undelete(txn, account_id, [number], 5.0)
                    case "purge":
                        purge(txn, float(number))
                self.check(txn)
                for item in mailboxes.snapshot(txn, account_id):
                    self.assertEqual(seen.setdefault(item.uidl, item.uid), item.uid)
            accounts.remove_account(txn, ALICE.key)
            self.assertEqual(count(txn, "message"), 0)


class ByAge(DeletedCase):
    """Mail that expires."""

    def arrive(self, txn: Cursor, account_id: int, *days: float) -> None:
        for day in days:
            mailboxes.deliver(txn, new_message(b""), HEADER, [], [account_id], arrived=day * DAY)

    def test_the_old_goes(self) -> None:
        """What is older than so many days goes, and can come back; it is then as young as new mail."""
        with self.transaction() as txn:
            alice = add(txn)
            self.arrive(txn, alice, 1, 5, 50)
            self.assertEqual(expiry.expire(txn, alice, 30, 60 * DAY), 2)
            self.assertEqual(uids(txn, alice), [3])
            self.assertEqual([row.why for row in deleted_items(txn, alice)], ["expired"] * 2)
            [entry] = by_key(txn, str(ALICE), since=0, limit=9)
            self.assertEqual(entry.event, Cleared(str(ALICE), "expired", 2, (1, 2)))
            undelete(txn, alice, [1], 60 * DAY)
            self.assertEqual(expiry.expire(txn, alice, 30, 60 * DAY), 0)
            self.check(txn)

    def test_what_does_not_count(self) -> None:
        """Mail that was held back is as old as it could be seen; what came while the clock was wrong, or nobody knows
        when, stays and keeps nothing behind it from going."""
        with self.transaction() as txn:
            alice = add(txn)
            self.arrive(txn, alice, 1, 999, 1, 1, 50)
            txn.execute("UPDATE mailbox_item SET release_at = ? WHERE uid = 1", (40 * DAY,))
            txn.execute("UPDATE mailbox_item SET arrived = NULL WHERE uid = 3")
            self.assertEqual((expiry.expire(txn, alice, 30, 60 * DAY), uids(txn, alice)), (1, [1, 2, 3, 5]))

    def test_slices(self) -> None:
        """A slice at a time."""
        with self.transaction() as txn:
            alice = add(txn)
            self.arrive(txn, alice, *[1.0] * (SLICE + 1))
            found = [expiry.expire(txn, alice, 30, 60 * DAY) for _ in range(3)]
            self.assertEqual(found, [SLICE, 1, 0])

    def test_whose(self) -> None:
        """What an account says itself comes before the configuration; 0 is never in both."""
        with self.transaction() as txn:
            alice, bob = add(txn), add(txn, BOB)
            self.assertEqual(expiry.expiring_accounts(txn, 30, 0), [(alice, 30), (bob, 30)])
            self.assertEqual(expiry.own_expiry(txn), expiry.OwnExpiry(0, any=False))
            expiry.set_expire_days(txn, ALICE.key, 0)
            self.assertEqual(expiry.own_expiry(txn), expiry.OwnExpiry(0, any=True))
            expiry.set_expire_days(txn, BOB.key, 9)
            self.assertEqual(expiry.expiring_accounts(txn, 30, 0), [(bob, 9)])
            self.assertEqual(expiry.expiring_accounts(txn, 0, alice), [(bob, 9)])
            self.assertEqual(expiry.own_expiry(txn), expiry.OwnExpiry(9, any=True))


class Upgrade(OfflineCase):
    """A database from before there were devices."""

    def test_items_of_before(self) -> None:
        """What was there before is as old as its message, and expires; DELE means what it meant."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            upgrades = shipped_upgrades()
            for upgrade in upgrades[:5]:
                connection.executescript(upgrade.sql)
            connection.executescript(
                "INSERT INTO domain (id, name, created) VALUES (1, 'example.org', 0);"
                "INSERT INTO account (id, domain_id, address, key, created) VALUES (1, 1, 'a@b', 'a@b', 0);"
                "INSERT INTO message (id, trace_id, reverse_path, received_at, size, header_size, sha256)"
                " VALUES (7, 'T', '', 500, 9, 9, '');"
                "INSERT INTO mailbox_item (account_id, uid, message_id, size, uidl) VALUES (1, 1, 7, 9, '1.x');"
            )
            for upgrade in upgrades[5:]:
                connection.executescript(upgrade.sql)
            txn = cast(Cursor, connection.cursor())
            self.assertEqual(one(txn.execute("SELECT arrived FROM mailbox_item")), (500,))
            self.assertFalse(devices.deletes_by_device(txn, 1))
            self.assertEqual(expiry.expire(txn, 1, 30, 40 * DAY), 1)


class Sweeping(DeletedCase):
    """What a device had held back that holds nothing back any more."""

    def test_sweep(self) -> None:
        """It goes when all devices in use have deleted it; with no device in use nothing goes."""
        with self.transaction() as txn:
            alice = add(txn)
            phone, laptop = devices.Device(alice, "phone"), devices.Device(alice, "laptop")
            devices.set_deletes(txn, ALICE.key, by_device=True)
            devices.note_login(txn, laptop, 0.0)
            devices.note_login(txn, phone, 100.0)
            for _ in range(3):
                deliver(txn, b"x", alice)
            done = devices.carry_out(txn, phone, [1, 2], Removal(100.0), 0.0)
            self.assertEqual(done, devices.Carried(2, 0, by_device=True))
            self.assertEqual(devices.sweep(txn, alice, 0.0, 200.0), 0)
            self.assertEqual(devices.sweep(txn, alice, 150.0, 200.0), 0)
            self.assertEqual((devices.sweep(txn, alice, 50.0, 200.0), uids(txn, alice)), (2, [3]))
            self.assertEqual((count(txn, "device_item"), len(deleted_items(txn, alice))), (0, 2))
            self.check(txn)

    def test_snapshot_uses_the_index(self) -> None:
        """What a device has deleted is read from one range of one index."""
        with self.transaction() as txn:
            plan = many(
                txn.execute(
                    "EXPLAIN QUERY PLAN SELECT uid FROM device_item WHERE device_id = 1 AND deleted IS NOT NULL"
                )
            )
            self.assertIn("COVERING INDEX device_item_by_device", str(plan))
