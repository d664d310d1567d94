"""The clock that is set back: what was planned happens when it was to happen."""

from __future__ import annotations

import threading
from collections.abc import Callable

from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mailsvc.clock import ClockWatch


@implementer(IReactorFromThreads)
class _Reactor(Clock):
    """Its time passes by `advance`, by both clocks; `rightNow` is the one that can be set."""

    def __init__(self) -> None:
        super().__init__()
        self.rightNow = 1_000_000.0
        self.steady = 0.0
        self.told = threading.Event()

    def pass_by(self, seconds: float) -> None:
        self.steady += seconds
        self.advance(seconds)

    def callFromThread(self, callable: Callable[..., object], *arguments: object, **named: object) -> None:
        callable(*arguments, **named)
        self.told.set()

    def callInThread(self, callable: Callable[..., object], *arguments: object, **named: object) -> None:
        raise AssertionError("not used")

    def getThreadPool(self) -> object:
        raise AssertionError("not used")

    def suggestThreadPoolSize(self, size: int) -> None:
        raise AssertionError("not used")


class SetBack(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = _Reactor()
        self.happened: list[str] = []
        self.watch = ClockWatch(self.reactor, steady=lambda: self.reactor.steady)

    def plan(self, seconds: float, what: str) -> None:
        self.reactor.callLater(seconds, self.happened.append, what)

    def test_timers_go_on(self) -> None:
        """An hour back: what was to happen in ten seconds happens in ten seconds, not in an hour; so does the rest."""
        self.plan(10, "first")
        self.plan(5000, "second")
        self.reactor.rightNow -= 3600
        self.watch.look()
        self.reactor.pass_by(9)
        self.assertEqual(self.happened, [])
        self.reactor.pass_by(1)
        self.assertEqual(self.happened, ["first"])
        self.reactor.pass_by(4990)
        self.assertEqual(self.happened, ["first", "second"])

    def test_new_timers_stay(self) -> None:
        """What was planned by the new time before anybody has noticed is not called too early."""
        self.reactor.rightNow -= 3600
        self.plan(30, "new")
        self.watch.look()
        self.reactor.pass_by(29)
        self.assertEqual(self.happened, [])
        self.reactor.pass_by(1)
        self.assertEqual(self.happened, ["new"])

    def test_other_changes(self) -> None:
        """Time that passes, a clock that is put right by parts of a second, or set forward: nothing is moved."""
        for change in (0.0, -0.5, 3600.0):
            self.plan(10_000, "later")
            [call] = self.reactor.getDelayedCalls()
            planned = call.getTime()
            self.reactor.pass_by(5)
            self.reactor.rightNow += change
            self.watch.look()
            self.assertEqual(call.getTime(), planned)
            call.cancel()

    def test_thread(self) -> None:
        """It looks by itself while it is started, and not any more when it is stopped."""
        self.watch = ClockWatch(self.reactor, every=0.001, steady=lambda: self.reactor.steady)
        self.watch.start()
        self.addCleanup(self.watch.stop)
        self.reactor.rightNow -= 3600
        self.assertTrue(self.reactor.told.wait(60))
        self.watch.stop()
        self.reactor.told.clear()
        self.reactor.rightNow -= 3600
        self.assertFalse(self.reactor.told.is_set())

    def test_no_threads(self) -> None:
        """A reactor without threads has nothing to watch it with."""
        watch = ClockWatch(Clock())
        watch.start()
        watch.stop()
