"""When mail is tried again, and how hard a destination is asked: pure rules."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.relay.outcome import Kind, Outcome, Phase, by_no_connection
from mailsvc.relay.pace import BEGIN_WITH, FAILURES, LONGEST_REST, REST, Pace, is_of_the_server
from mailsvc.relay.schedule import OVERTIME, SHORTEST, Schedule, after_failure, counted, pause

SECONDS = st.floats(0, 1e9, allow_nan=False)
CHANCE = st.floats(0, 1)


class Pauses(SynchronousTestCase):
    def test_doubling(self) -> None:
        """Five minutes, doubling, up to four hours, without chance."""
        plain = Schedule(jitter=0.0)
        pauses = [pause(plain, attempt, 0.5) for attempt in range(1, 10)]
        self.assertEqual(pauses, [300, 600, 1200, 2400, 4800, 9600, 14400, 14400, 14400])

    @settings(deadline=None)
    @given(st.integers(0, 10**9), CHANCE, st.floats(0, 1), SECONDS, SECONDS)
    def test_bounds(self, attempts: int, chance: float, jitter: float, first: float, longest: float) -> None:
        """Whatever is configured, a pause is neither shorter than a minute nor longer than it may be."""
        found = pause(Schedule(first, longest, jitter), attempts, chance)
        self.assertGreaterEqual(found, SHORTEST)
        self.assertLessEqual(found, max(SHORTEST, longest * (1 + jitter)) * 1.000001)

    @settings(deadline=None)
    @given(st.lists(CHANCE, min_size=1, max_size=300), st.floats(60, 1e7))
    def test_the_end_comes(self, chances: list[float], keep: float) -> None:
        """Failure after failure, a row is given up when its time is over: not before, and not much later."""
        age, told, attempts = 0.0, False, 0
        notices = 0
        while True:
            attempts += 1
            following = after_failure(
                Schedule(), attempts=attempts, age=age, keep=keep, told=told, chance=chances[attempts % len(chances)]
            )
            notices += following.is_late
            told = told or following.is_late
            if following.pause is None:
                break
            age += following.pause
        self.assertGreaterEqual(age, keep)
        self.assertLess(age, keep + SHORTEST)
        self.assertLessEqual(notices, 1)

    @settings(deadline=None)
    @given(SECONDS, SECONDS, SECONDS)
    def test_a_pause_counts_what_it_was(self, changed: float, due: float, now: float) -> None:
        """A clock that jumps adds an hour at most to what was planned, and never takes anything away."""
        found = counted(changed, due, now)
        self.assertGreaterEqual(found, 0.0)
        self.assertLessEqual(found, max(0.0, due - changed) + OVERTIME)

    def test_no_notice(self) -> None:
        """0 hours is no notice of a delay at all."""
        following = after_failure(Schedule(delayed=0.0), attempts=9, age=80_000.0, keep=None, told=False, chance=0.5)
        self.assertFalse(following.is_late)


DOWN = by_no_connection("nobody answers")


class Paces(SynchronousTestCase):
    def test_grows_and_shrinks(self) -> None:
        """It begins with some, grows by one for each round of good ones, and is halved by a bad one."""
        pace = Pace(20)
        self.assertTrue(pace.may_begin(4))
        self.assertFalse(pace.may_begin(5))
        for _ in range(1000):
            pace.answered()
        self.assertTrue(pace.may_begin(19))
        self.assertFalse(pace.may_begin(20))
        pace.failed(DOWN, 0.0)
        self.assertTrue(pace.may_begin(9))
        self.assertFalse(pace.may_begin(10))

    def test_rests(self) -> None:
        """After some failures in a row it rests, longer and longer, until it answers."""
        pace = Pace(20)
        for _ in range(FAILURES - 1):
            pace.failed(DOWN, 0.0)
        self.assertFalse(pace.is_resting(0.0))
        now, rests = 0.0, []
        for _ in range(6):
            pace.failed(DOWN, now)
            self.assertTrue(pace.is_resting(now))
            rests.append(pace.resting_until - now)
            now = pace.resting_until
            self.assertFalse(pace.is_resting(now))
        self.assertEqual(rests, [REST, 120.0, 240.0, 480.0, LONGEST_REST, LONGEST_REST])
        self.assertTrue(pace.may_begin(0))
        self.assertFalse(pace.may_begin(1))
        pace.answered()
        self.assertEqual((pace.failures, pace.rest, pace.limit), (0, REST, 2.0))
        self.assertGreater(BEGIN_WITH, 1)

    def test_a_clock_set_back(self) -> None:
        """A rest is over when the clock says that it would last longer than a rest can."""
        pace = Pace(1)
        for _ in range(FAILURES):
            pace.failed(DOWN, 1e9)
        self.assertFalse(pace.is_resting(1000.0))

    def test_what_is_of_the_server(self) -> None:
        """What happened before MAIL would happen to all others too; a refusal of a recipient would not."""
        self.assertTrue(is_of_the_server(DOWN))
        self.assertTrue(is_of_the_server(Outcome(Kind.DEFERRED, "no TLS", phase=Phase.TLS)))
        self.assertFalse(is_of_the_server(Outcome(Kind.DEFERRED, "450", phase=Phase.RCPT)))
        self.assertFalse(is_of_the_server(Outcome(Kind.FAILED, "no such domain", phase=Phase.CONNECT)))
