"""Group commit: what one job's error, the transaction's error and the time limit do to a batch."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from itertools import count as counter

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.errors import AlreadyExists, NotFound, StorageFailure
from mailsvc.storage import accounts
from mailsvc.storage.batch import Batch, Job, commit_together
from mailsvc.storage.dialect import Sqlite
from mailsvc.storage.rows import Cursor, many


def add(name: str) -> Callable[[Cursor], int]:
    return lambda txn: accounts.add_domain(txn, name, 0.0)


def refuse(txn: Cursor) -> None:
    accounts.add_domain(txn, "undone.example", 0.0)
    raise NotFound("not here")


def breach_at_commit(txn: Cursor) -> None:
    """Leave something that only COMMIT finds out."""
    txn.execute("PRAGMA defer_foreign_keys = ON")
    txn.execute("INSERT INTO account (domain_id, address, key, created) VALUES (77, 'a', 'a', 0)")


def lose_transaction(txn: Cursor) -> None:
    """Make sqlite roll back everything by itself, as it does when the disk is full at a bad moment."""
    txn.execute("INSERT INTO domain (name, created) VALUES ('twice.example', 0)")
    txn.execute("INSERT OR ROLLBACK INTO domain (name, created) VALUES ('twice.example', 0)")


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.dialect = Sqlite("/nowhere/mail.sqlite3")
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.execute("PRAGMA foreign_keys = ON")
        self.connection.executescript(
            "CREATE TABLE domain (id INTEGER PRIMARY KEY, name TEXT UNIQUE, created REAL);"
            "CREATE TABLE account (id INTEGER PRIMARY KEY, domain_id REFERENCES domain, address, key, created"
            ")"
        )
        self.addCleanup(self.connection.close)

    def commit(
        self,
        *functions: Callable[[Cursor], object],
        seconds: float = 1.0,
        clock: Iterator[float] | None = None,
    ) -> Batch:
        times = clock or counter(0.0, 0.0)
        jobs = [Job(function) for function in functions]
        batch = commit_together(self.dialect, self.connection, jobs, seconds=seconds, clock=lambda: next(times))
        self.assertFalse(self.connection.in_transaction)
        return batch

    def names(self) -> list[str]:
        return [name for (name,) in many(self.connection.execute("SELECT name FROM domain ORDER BY id"))]


class Jobs(Case):
    def test_order_and_values(self) -> None:
        """Jobs run in order, each sees what the earlier ones did, and gets its own result."""
        batch = self.commit(add("a"), add("b"), lambda txn: many(txn.execute("SELECT name FROM domain")))
        self.assertEqual([outcome.value for outcome in batch.outcomes], [1, 2, [("a",), ("b",)]])
        self.assertEqual((batch.failure, batch.spoiled), (None, False))

    def test_error_undoes_one_job(self) -> None:
        """What a job raises comes out as it was and undoes that job alone."""
        batch = self.commit(add("a"), refuse, add("a"), add("b"))
        self.assertEqual(self.names(), ["a", "b"])
        errors = [type(outcome.error) for outcome in batch.outcomes]
        self.assertEqual(errors, [type(None), NotFound, AlreadyExists, type(None)])

    def test_driver_error_undoes_one_job(self) -> None:
        """An error of the database in one job is that job's StorageFailure; the connection is made anew."""
        batch = self.commit(add("a"), lambda txn: txn.execute("SELECT nothing FROM nowhere"), add("b"))
        self.assertEqual(self.names(), ["a", "b"])
        self.assertIsInstance(batch.outcomes[1].error, StorageFailure)
        self.assertEqual((batch.failure, batch.spoiled), (None, True))

    def test_abandoned(self) -> None:
        """A job that nobody waits for any more is not done."""
        job = Job(add("a"), abandoned=True)
        commit_together(self.dialect, self.connection, [job], seconds=1, clock=lambda: 0.0)
        self.assertEqual(self.names(), [])

    def test_time_limit(self) -> None:
        """When the time is up no further job is begun; those begun are committed; the first always is."""
        ticks = iter([0.0, 0.2, 0.4, 0.6])
        batch = self.commit(add("a"), add("b"), add("c"), add("d"), seconds=0.3, clock=ticks)
        self.assertEqual(len(batch.outcomes), 2)
        batch = self.commit(add("c"), add("d"), seconds=0.0)
        self.assertEqual(self.names(), ["a", "b", "c"])


class Transaction(Case):
    def assert_all_failed(self, batch: Batch, jobs: int) -> None:
        self.assertEqual([type(outcome.error) for outcome in batch.outcomes], [StorageFailure] * jobs)
        self.assertIsInstance(batch.failure, StorageFailure)
        self.assertEqual(self.names(), [])

    def test_commit_fails(self) -> None:
        """When COMMIT fails every job has failed, nothing is kept, and the connection can go on."""
        batch = self.commit(add("a"), breach_at_commit, refuse, add("b"))
        self.assert_all_failed(batch, 4)
        self.commit(add("c"))
        self.assertEqual(self.names(), ["c"])

    def test_transaction_lost(self) -> None:
        """When the database rolls everything back, all jobs so far have failed; the others are not begun."""
        batch = self.commit(add("a"), lose_transaction, add("b"))
        self.assert_all_failed(batch, 2)

    def test_transaction_lost_and_hidden(self) -> None:
        """A job that swallows the error of a lost transaction does not get its batch reported as done."""

        def swallow(txn: Cursor) -> str:
            try:
                lose_transaction(txn)
            except sqlite3.Error:
                return "all is well"
            return "not reached"

        self.assert_all_failed(self.commit(add("a"), swallow), 2)

    def test_locked(self) -> None:
        """When the transaction cannot begin, all jobs fail at once, with a sentence that tells why."""
        path = self.mktemp()
        with sqlite3.connect(path, isolation_level=None) as holder:
            self.connection = sqlite3.connect(path, isolation_level=None, timeout=0)
            self.addCleanup(self.connection.close)
            holder.execute("CREATE TABLE domain (id INTEGER PRIMARY KEY, name, created)")
            holder.execute("BEGIN IMMEDIATE")
            batch = self.commit(add("a"), add("b"))
            holder.execute("ROLLBACK")
            self.assert_all_failed(batch, 2)
        holder.close()
        self.assertIn("locked by another process", str(batch.failure))
        self.assertFalse(batch.spoiled)

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.sampled_from(["ok", "refuse", "lose", "commit"]), min_size=1, max_size=8))
    def test_done_means_kept(self, plan: list[str]) -> None:
        """Whatever goes wrong: a job is reported as done exactly when its row is there afterwards."""
        self.setUp()
        kinds = {"refuse": refuse, "lose": lose_transaction, "commit": breach_at_commit}
        jobs = [kinds.get(kind) or add(f"{number}") for number, kind in enumerate(plan)]
        batch = self.commit(*jobs)
        done = [
            str(number)
            for number, outcome in enumerate(batch.outcomes)
            if outcome.error is None and plan[number] == "ok"
        ]
        self.assertEqual(done, self.names())
