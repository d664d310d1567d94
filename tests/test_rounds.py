"""Work that is done again and again: what a failure means, and how it ends."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.errors import TemporaryFailure
from mailsvc.rounds import Rounds


class RoundsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.begun: list[Deferred[None]] = []
        self.rounds = Rounds(self.clock, 60.0, self.work, Logger(), "the work was not done")

    async def work(self) -> None:
        self.begun.append(Deferred())
        await self.begun[-1]

    def test_one_after_another(self) -> None:
        """The pause begins when a round has ended, however long that took."""
        self.rounds.start(at_once=True)
        self.clock.advance(1000)
        self.assertEqual(len(self.begun), 1)
        self.begun[0].callback(None)
        self.clock.advance(59)
        self.assertEqual(len(self.begun), 1)
        self.clock.advance(1)
        self.assertEqual(len(self.begun), 2)

    def test_failures(self) -> None:
        """A defect is logged, what heals by itself is not, and the next round comes after both."""
        self.rounds.start(at_once=False)
        for error, logged in ((TemporaryFailure("full"), 0), (ZeroDivisionError(), 1)):
            self.clock.advance(60)
            self.begun[-1].errback(error)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), logged)
        self.clock.advance(60)
        self.assertEqual(len(self.begun), 3)

    def test_stop(self) -> None:
        """Nothing begins any more, and who stops hears when the round under way has ended."""
        self.rounds.start(at_once=True)
        ended = self.rounds.stop()
        self.assertNoResult(ended)
        self.begun[0].callback(None)
        self.successResultOf(ended)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_broken_off(self) -> None:
        """A round that is broken off is no defect."""
        self.rounds.start(at_once=True)
        self.successResultOf(self.rounds.stop(break_off=True))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_stopped_while_it_waits(self) -> None:
        """The next round does not come."""
        self.rounds.start(at_once=False)
        self.successResultOf(self.rounds.stop())
        self.assertEqual((self.begun, self.clock.getDelayedCalls()), ([], []))
