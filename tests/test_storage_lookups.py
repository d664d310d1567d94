"""Short questions to the database: answered together, each with its own answer or error."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.errors import StorageFailure
from mailsvc.storage.lookups import AT_ONCE, Lookups
from mailsvc.storage.rows import Cursor, one
from tests.memory import MemoryStore, storage_failure


def _doubled(txn: Cursor, number: int) -> int:
    (found,) = one(txn.execute("SELECT 2 * ?", (number,)))
    return int(found)


def _defect(txn: Cursor) -> int:
    raise LookupError("a mistake of ours")


class LookupsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.addCleanup(self.store.connection.close)
        self.lookups = Lookups(self.store, self.clock)

    def ask(self, count: int) -> list[Deferred[int]]:
        return [self.lookups.read(_doubled, number) for number in range(count)]

    def test_together(self) -> None:
        """The questions of one turn of the reactor are one read, and each gets its own answer."""
        asked = self.ask(5)
        self.assertEqual(self.store.calls, [])
        self.clock.advance(0)
        self.assertEqual([self.successResultOf(each) for each in asked], [0, 2, 4, 6, 8])
        self.assertEqual(len(self.store.calls), 1)

    def test_later_ones(self) -> None:
        """Who asks while a read is under way is answered by the next, which sees what was committed meanwhile."""
        self.store.held = True
        [first] = self.ask(1)
        self.clock.advance(0)
        [second] = self.ask(1)
        self.clock.advance(0)
        self.assertEqual(self.store.waiting, 2)
        self.store.release()
        self.assertEqual((self.successResultOf(first), self.successResultOf(second)), (0, 0))

    def test_bounded(self) -> None:
        """A read has so many questions and no more, so that others are not held up by it."""
        asked = self.ask(AT_ONCE + 1)
        self.clock.advance(0)
        self.assertEqual([self.successResultOf(each) for each in asked][-1], 2 * AT_ONCE)
        self.assertEqual(len(self.store.calls), 2)

    def test_an_error_is_ones_own(self) -> None:
        """A question that fails does not make another one fail."""
        good, bad = self.lookups.read(_doubled, 4), self.lookups.read(_defect)
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(good), 8)
        self.failureResultOf(bad, LookupError)

    def test_no_database(self) -> None:
        """When the database cannot answer, all of them are told."""
        self.store.failure = storage_failure()
        asked = self.ask(3)
        self.clock.advance(0)
        for each in asked:
            self.failureResultOf(each, StorageFailure)

    def test_nobody_waits_any_more(self) -> None:
        """An answer that nobody wants any more disturbs nobody."""
        first, second = self.ask(2)
        first.cancel()
        self.failureResultOf(first)
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(second), 2)
