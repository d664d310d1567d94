"""Rows of mail that goes out: claimed by lease, finished by their owner, found and changed by the postmaster."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mail.address import parse_address
from mailsvc.storage import accounts, mailboxes, outbound, outbound_admin
from mailsvc.storage.outbound import DailyLimit, NewOutbound, OutboundRow, Retry
from mailsvc.storage.outbound_admin import Selection
from tests.memory import MemoryStore
from tests.relay_world import store_message


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = MemoryStore(Clock())
        self.sent = 0

    def tearDown(self) -> None:
        self.store.connection.close()

    def send(
        self, *recipients: str, now: float = 0.0, size: int = 100, sender: str = "a@example.org", **more: Any
    ) -> int:
        self.sent += 1
        return self.store.now(store_message, f"T{self.sent}", recipients, sender, size, now, more)

    def claim(self, owner: str = "me", now: float = 0.0, **more: Any) -> list[OutboundRow]:
        more = {"seconds": 300.0, "rows": 100, "of_each": 100, **more}
        return list(self.store.now(outbound.claim, owner, now, **more).rows)

    def count(self, table: str) -> int:
        return int(self.store.connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])


def again(row: OutboundRow, due: float) -> Retry:
    return Retry(row.id, row.destination, due, 5.0, "host", "later", unreached=True, delay_told=False)


class Leases(Case):
    def test_claimed_once(self) -> None:
        """What one has claimed nobody else gets, until the lease ends."""
        self.send("b@example.net", "c@example.com")
        self.assertEqual([row.recipient for row in self.claim()], ["b@example.net", "c@example.com"])
        self.assertEqual(self.claim("other", 299.0), [])
        self.assertEqual(len(self.claim("other", 300.0)), 2)

    def test_only_the_owner_finishes(self) -> None:
        """Who has lost a row cannot fail it or put it off, but a delivery is noted whoever made it."""
        self.send("b@example.net", "c@example.net")
        first, second = self.claim()
        self.claim("other", 300.0)
        self.assertFalse(self.store.now(outbound.failed, "me", first.id))
        self.assertFalse(self.store.now(outbound.retry, "me", again(first, 900.0), 301.0))
        self.assertEqual(self.store.now(outbound.still_owned, "me", [first.id, second.id]), set())
        self.assertTrue(self.store.now(outbound.delivered, [first.id]))
        self.assertFalse(self.store.now(outbound.delivered, [first.id]))
        self.assertTrue(self.store.now(outbound.failed, "other", second.id))
        self.assertEqual(self.count("outbound"), 0)

    def test_retry(self) -> None:
        """A row that is put off comes back at its time, with what happened."""
        self.send("b@example.net")
        (row,) = self.claim()
        self.assertTrue(self.store.now(outbound.retry, "me", again(row, 600.0), 10.0))
        self.assertEqual(self.claim(now=599.0), [])
        (row,) = self.claim(now=600.0)
        self.assertEqual((row.attempts, row.age, row.unreached, row.changed, row.due), (1, 5.0, True, 10.0, 600.0))

    def test_given_back(self) -> None:
        """A row that is given back is as it was."""
        self.send("b@example.net", now=7.0)
        (row,) = self.claim(now=8.0)
        self.assertEqual(self.store.now(outbound.give_back, "me", [row]), 1)
        self.assertEqual(self.claim("other", 8.0), [row])
        self.assertEqual(self.store.now(outbound.give_back, "me", [row]), 0)

    def test_whose_it_was(self) -> None:
        """A row that is taken over says so until it was tried, also when it was given back or moved."""
        self.send("b@example.net", "c@example.net")
        self.assertEqual({row.owner for row in self.claim()}, {None})
        one, other = self.claim("heir", 300.0)
        self.assertEqual((one.owner, other.owner), ("me", "me"))
        self.store.now(outbound.give_back, "heir", [one])
        self.store.now(outbound.move, "heir", [(other, "elsewhere")])
        taken = self.claim("third", 300.0)
        self.assertEqual([row.owner for row in taken], ["me", "me"])
        self.store.now(outbound.retry, "third", again(taken[0], 400.0), 300.0)
        [row] = self.claim("fourth", 400.0)
        self.assertIsNone(row.owner)

    def test_taken_back(self) -> None:
        """What others of one's instance have claimed is due at once, with their name in it; what is held, what has
        another instance, and one's own stay as they are."""
        recipients = [f"{name}@{name}.example.net" for name in ("dead", "mine", "strange", "longer", "held")]
        self.send(*recipients)
        names = {"dead": "lock.1", "mine": "lock.2", "strange": "other.1", "longer": "lock2.1", "held": "lock.1"}
        rows = {row.recipient.partition("@")[0]: row for row in self.claim("lock.2")}
        for name, owner in names.items():
            self.store.connection.execute("UPDATE outbound SET owner = ? WHERE id = ?", (owner, rows[name].id))
        held = self.store.now(outbound_admin.select, Selection((str(rows["held"].id),)), 1.0, 9)
        self.store.now(outbound_admin.hold, held, 1.0)
        self.assertEqual(self.store.now(outbound.take_back, "lock", "lock.2", 2.0), 1)
        self.assertEqual([(row.recipient, row.owner) for row in self.claim("lock.2", 2.0)], [(recipients[0], "lock.1")])
        self.assertEqual(self.store.now(outbound.take_back, "lock", "lock.2", 2.0), 0)
        self.assertEqual(len(self.claim("lock.2", 300.0)), 3)

    def test_taken_back_is_no_older(self) -> None:
        """A lease that has ended stays as it is: when the row became due says how long it was to wait."""
        self.send("b@example.net")
        self.claim("lock.1")
        self.assertEqual(self.store.now(outbound.take_back, "lock", "lock.2", 10_000.0), 0)
        [row] = self.claim("lock.2", 10_000.0)
        self.assertEqual((row.due, row.owner), (300.0, "lock.1"))

    def test_renewed(self) -> None:
        """A lease that is renewed ends later."""
        self.send("b@example.net")
        (row,) = self.claim()
        self.store.now(outbound.renew, "me", [row.id], 500.0)
        self.assertEqual(self.claim("other", 499.0), [])
        self.assertEqual(len(self.claim("other", 500.0)), 1)

    def test_a_little_of_each(self) -> None:
        """A claim takes some of every destination that has something due, and says whether there is more."""
        self.send(*(f"u{n}@big.example.net" for n in range(50)), "b@small.example.net")
        found = self.store.now(outbound.claim, "me", 0.0, seconds=9.0, rows=20, of_each=10)
        self.assertEqual((len(found.rows), found.more, found.next_due), (11, True, 9.0))
        found = self.store.now(outbound.claim, "me", 0.0, seconds=9.0, rows=20, of_each=10, busy=["big.example.net"])
        self.assertEqual((found.rows, found.more), ((), False))

    def test_a_claim_reads_what_it_takes(self) -> None:
        """However much waits for a destination that is busy, a claim for another does not read it."""
        self.send(*(f"u{n}@big.example.net" for n in range(5000)))
        self.send("b@small.example.net")
        steps: list[None] = []
        self.store.connection.set_progress_handler(lambda: steps.append(None), 100)
        self.claim(busy=["big.example.net"])
        self.store.connection.set_progress_handler(None, 0)
        self.assertLess(len(steps), 20)

    def test_content(self) -> None:
        """Small messages come along within what is asked for; large ones do not."""
        self.send("b@example.net", "c@example.net", size=1000)
        self.send("b@example.net", size=outbound.CONTENT_LIMIT + 1)
        self.send("b@example.net", size=1000)
        rows = self.claim(content=1500)
        self.assertEqual([row.message.content is None for row in rows], [False, False, True, True])
        content = rows[0].message.content or b""
        self.assertEqual((len(content), content[:9]), (rows[0].message.size, b"Subject: "))
        self.assertIs(rows[0].message, rows[1].message)

    def test_moved(self) -> None:
        """A row that goes elsewhere is due under the other name at once."""
        self.send("b@example.net")
        (row,) = self.claim()
        self.store.now(outbound.move, "me", [(row, "relay")])
        (moved,) = self.claim()
        self.assertEqual((moved.destination, moved.id), ("relay", row.id))

    def test_hurried(self) -> None:
        """What waits only because nobody was reached becomes due; what was greylisted does not."""
        self.send("b@example.net", "c@example.net")
        first, second = self.claim()
        self.store.now(outbound.retry, "me", again(first, 900.0), 1.0)
        greylisted = Retry(second.id, second.destination, 900.0, 1.0, "h", "450", unreached=False, delay_told=False)
        self.store.now(outbound.retry, "me", greylisted, 1.0)
        self.assertEqual(self.store.now(outbound.hurry, "example.net", 2.0), 1)
        self.assertEqual([row.id for row in self.claim(now=2.0)], [first.id])
        self.assertEqual(self.store.now(outbound.hurry, "example.net", 2.0), 0)

    def test_the_clock_was_set_back(self) -> None:
        """What was changed in the future waits as long as it had to, from now on."""
        self.send("b@example.net", now=1_000_000.0)
        (row,) = self.claim(now=1_000_000.0)
        self.store.now(outbound.retry, "me", again(row, 1_000_300.0), 1_000_000.0)
        self.assertEqual(self.store.now(outbound.mend_clock, 5000.0), 1)
        self.assertEqual(self.store.now(outbound.mend_clock, 5000.0), 0)
        self.assertEqual((self.claim(now=5299.0), len(self.claim(now=5300.0))), ([], 1))

    def test_message_goes_with_its_last_row(self) -> None:
        """A message stays as long as a recipient or a maildrop needs it."""
        self.store.now(accounts.add_account, parse_address("x@example.org"), "hash", 0.0)
        message_id = self.send("b@example.net", "c@example.net")
        first, second = self.claim()
        self.store.now(outbound.delivered, [first.id])
        self.store.now(outbound.forget_messages, [message_id])
        self.assertEqual(self.count("message"), 1)
        self.store.now(mailboxes.add_item, 1, message_id, 10, b"", 0.0)
        self.store.now(outbound.delivered, [second.id])
        self.store.now(outbound.forget_messages, [message_id])
        self.assertEqual(self.count("message"), 1)
        self.store.now(mailboxes.delete_items, 1, [1])
        self.assertEqual((self.count("message"), self.count("message_content")), (0, 0))

    def test_a_message_that_waits_cannot_be_removed(self) -> None:
        """The database itself refuses to lose a message that is to go out."""
        self.send("b@example.net")
        with self.assertRaises(sqlite3.IntegrityError):
            self.store.connection.execute("DELETE FROM message")

    def test_daily_limit(self) -> None:
        """An account may write to so many recipients a day; what is refused is not counted."""
        now = 86400.0 * 3 + 5
        self.store.now(outbound.count_for_day, "a@example.org", 8, now, 10)
        self.failureResultOf(self.store.write(outbound.count_for_day, "a@example.org", 3, now, 10), DailyLimit)
        self.store.now(outbound.count_for_day, "a@example.org", 2, now, 10)
        self.store.now(outbound.count_for_day, "b@example.org", 10, now, 10)
        self.store.now(outbound.count_for_day, "a@example.org", 10, now + 86400, 10)
        self.store.now(outbound.count_for_day, "a@example.org", 1000, now + 86400, 0)

    @settings(deadline=None, max_examples=40)
    @given(st.integers(0, 10**6))
    def test_the_destinations_are_never_late(self, seed: int) -> None:
        """Whatever happens to rows: a destination's time is never later than that of any of its rows, and every row is
        claimed in the end."""
        random = Random(seed)
        store = MemoryStore(Clock())
        now, sent, mine = 0.0, 0, dict[int, OutboundRow]()
        for _ in range(60):
            now += random.choice([0.0, 1.0, 400.0])
            row = random.choice(list(mine.values())) if mine else None
            queued = store.now(outbound_admin.select, Selection(), now, 1000)
            some = random.sample(queued, min(2, len(queued)))
            match random.randrange(9):
                case 0 | 1:
                    sent += 1
                    to = [f"u@d{random.randrange(3)}.example.net" for _ in range(3)]
                    store.now(store_message, f"T{sent}", to, "a@example.org", 10, now, {})
                case 2 | 3:
                    limit = random.randrange(1, 5)
                    found = store.now(outbound.claim, "me", now, seconds=300.0, rows=limit, of_each=2)
                    mine |= {each.id: each for each in found.rows}
                case 4 if row is not None:
                    store.now(outbound.retry, "me", again(row, now + random.choice([1.0, 300.0])), now)
                    del mine[row.id]
                case 5 if row is not None:
                    store.now(outbound.give_back, "me", [row])
                    del mine[row.id]
                case 6 if row is not None:
                    store.now(outbound.move, "me", [(row, f"d{random.randrange(4)}.example.net")])
                    del mine[row.id]
                case 7:
                    act = random.choice([outbound_admin.hold, outbound_admin.release, outbound_admin.flush])
                    store.now(act, some, now)
                case 8:
                    store.now(outbound.hurry, f"d{random.randrange(3)}.example.net", now)
                    store.now(outbound_admin.reroute, some, "", now)
            late = store.connection.execute(
                "SELECT 1 FROM outbound LEFT JOIN outbound_destination AS place ON place.name = destination"
                " WHERE outbound.due IS NOT NULL AND (place.due IS NULL OR place.due > outbound.due)"
            ).fetchall()
            self.assertEqual(late, [])
        everything = store.now(outbound_admin.select, Selection(), now, 1000)
        store.now(outbound_admin.release, everything, now)
        claimed = set[int]()
        while rows := store.now(outbound.claim, "last", now + 1000.0, seconds=9999.0, rows=50, of_each=7).rows:
            claimed |= {each.id for each in rows}
        self.assertEqual(claimed, {each.id for each in everything})
        store.connection.close()


class Admin(Case):
    def setUp(self) -> None:
        super().setUp()
        self.send("b@example.net", "c@sub.example.net", account="a@example.org")
        self.send("B@Example.com", now=50.0, sender="")

    def found(self, **wanted: Any) -> list[str]:
        return [row.recipient for row in self.store.now(outbound_admin.select, Selection(**wanted), 60.0, 100)]

    def rows(self, **wanted: Any) -> list[outbound_admin.QueuedRow]:
        return self.store.now(outbound_admin.select, Selection(**wanted), 60.0, 100)

    def test_select(self) -> None:
        """By number, message, domain, recipient, sender, account and age."""
        b, c, other = "b@example.net", "c@sub.example.net", "B@Example.com"
        self.assertEqual(self.found(), [b, c, other])
        self.assertEqual(self.found(ids=("2",)), [c])
        self.assertEqual(self.found(ids=("t1", "3")), [b, c, other])
        self.assertEqual(self.found(domain="example.net"), [b])
        self.assertEqual(self.found(domain="example.com"), [other])
        self.assertEqual(self.found(domain="%"), [])
        self.assertEqual(self.found(recipient=parse_address("b@example.com")), [other])
        self.assertEqual(self.found(sender=""), [other])
        self.assertEqual(self.found(sender="A@example.org"), [b, c])
        self.assertEqual(self.found(account=parse_address("a@example.org")), [b, c])
        self.assertEqual(self.found(before=50.0), [b, c])
        self.assertEqual(self.found(ids=("9" * 30, "x' OR 1=1")), [])

    def test_hold_and_release(self) -> None:
        """Held rows are not claimed, not flushed, and keep their age; released ones are claimed at once."""
        number = self.store.now(outbound.change_number)
        self.assertEqual(self.store.now(outbound_admin.hold, self.rows(domain="example.net"), 60.0), 1)
        self.assertEqual(self.store.now(outbound_admin.hold, self.rows(domain="example.net"), 60.0), 0)
        self.assertEqual(self.store.now(outbound.change_number), number + 1)
        self.assertEqual(self.store.now(outbound_admin.flush, self.rows(held=True), 60.0), 0)
        self.assertEqual(self.found(held=True), ["b@example.net"])
        self.assertEqual(len(self.claim(now=10_000.0)), 2)
        self.assertEqual(self.store.now(outbound_admin.release, self.rows(held=True), 70.0), 1)
        (row,) = self.claim(now=70.0)
        self.assertEqual((row.recipient, row.age), ("b@example.net", 60.0))

    def test_held_while_it_is_sent(self) -> None:
        """A failure of what was held meanwhile is not noted, a delivery is."""
        first, second, _ = self.claim(now=60.0)
        self.store.now(outbound_admin.hold, self.rows(), 60.0)
        self.assertFalse(self.store.now(outbound.failed, "me", first.id))
        self.assertTrue(self.store.now(outbound.delivered, [second.id]))
        self.assertEqual(len(self.found(held=True)), 2)

    def test_the_doubt_stays(self) -> None:
        """Somebody had begun with a row and was killed: held, released, flushed and rerouted it still says so, and the
        doubt goes with the next attempt.

        Rule: The postmaster's commands keep the mark of a possible duplicate
        """
        self.store.now(outbound_admin.hold, self.rows(domain="example.com"), 60.0)
        self.claim("dead", 60.0)
        for act in (outbound_admin.hold, outbound_admin.hold, outbound_admin.release, outbound_admin.flush):
            self.store.now(act, self.rows(domain="example.net"), 60.0)
            [queued] = self.rows(domain="example.net")
            self.assertEqual((queued.duplicate_possible, queued.is_running), (True, False))
        self.store.now(outbound_admin.reroute, self.rows(domain="sub.example.net"), "tls://relay.example.org", 60.0)
        self.store.now(outbound_admin.release, self.rows(domain="example.com"), 60.0)
        claimed = {row.recipient: row.owner for row in self.claim("heir", 60.0)}
        self.assertEqual(claimed, {"b@example.net": "-dead", "c@sub.example.net": "-dead", "B@Example.com": None})
        self.assertEqual([row.duplicate_possible for row in self.rows()], [False] * 3, "they are being sent")

    def test_who_had_it_knows(self) -> None:
        """A process from which rows were taken, and which knows that they did not arrive, says so; nobody else can."""
        self.claim("dead", 60.0)
        rows = self.claim("me", 400.0)
        self.store.now(outbound_admin.hold, self.rows(), 410.0)
        self.store.now(outbound.not_arrived, "other", rows)
        self.assertEqual({row.duplicate_possible for row in self.rows()}, {True})
        self.store.now(outbound.not_arrived, "me", [replace(rows[0], owner=None), *rows[1:]])
        self.assertEqual([row.duplicate_possible for row in self.rows()], [False, True, True])
        self.assertEqual(self.store.now(outbound_admin.release, self.rows(), 420.0), 3)
        owners = {row.recipient: row.owner for row in self.claim("heir", 420.0)}
        self.assertEqual(set(owners.values()), {None, "-dead"}, owners)

    def test_flush(self) -> None:
        """What waits is due at once, and the time that it has waited counts."""
        for row in self.claim(now=60.0):
            self.store.now(outbound.retry, "me", again(row, 5000.0), 100.0)
        self.assertEqual(self.store.now(outbound_admin.flush, self.rows(domain="example.net"), 400.0), 1)
        (row,) = self.claim(now=400.0)
        self.assertEqual((row.recipient, row.age, row.attempts), ("b@example.net", 305.0, 1))

    def test_reroute(self) -> None:
        """Another relay is noted in the row, which is due at once unless it is held."""
        self.store.now(outbound_admin.hold, self.rows(ids=("1",)), 60.0)
        url = "tls://relay.example.org"
        self.assertEqual(self.store.now(outbound_admin.reroute, self.rows(ids=("T1",)), url, 60.0), 2)
        self.assertEqual({row.recipient: row.via for row in self.claim(now=60.0)}["c@sub.example.net"], url)
        self.assertEqual(self.rows(ids=("1",))[0].state, "held")

    def test_remove(self) -> None:
        """What is removed is gone, with its message, and an event says so."""
        self.assertEqual(self.store.now(outbound_admin.remove, self.rows(ids=("T1",)), 60.0), 2)
        self.assertEqual((self.found(), self.count("message")), (["B@Example.com"], 1))
        texts = self.store.connection.execute("SELECT detail FROM event WHERE trace_id = 'T1'").fetchall()
        self.assertEqual(len(texts), 2)
        self.assertIn("removed from the queue by the postmaster", texts[0][0])

    def test_totals(self) -> None:
        """The queue in numbers."""
        self.store.now(outbound_admin.hold, self.rows(ids=("1",)), 60.0)
        self.claim(now=60.0, rows=1)
        found = self.store.now(outbound_admin.totals, 61.0)
        self.assertEqual(found, outbound_admin.Totals(3, 2, 1, 1, 0.0))

    def test_new_rows(self) -> None:
        """A domain is in lower case, a destination may be another one, later is later."""
        new = NewOutbound("x@EXAMPLE.org", "", destination="Relay", release_at=500.0)
        self.store.now(outbound.enqueue, 1, [new], 60.0)
        (row,) = [row for row in self.claim(now=500.0) if row.recipient == "x@EXAMPLE.org"]
        self.assertEqual((row.destination, row.due, row.age), ("relay", 500.0, -440.0))
