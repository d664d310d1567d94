"""The throttle: places, lines, delays, forgiveness, bounds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.accounts.throttle import Pace, Place, Places, Throttle, network

HERE, THERE = "192.0.2.1", "198.51.100.7"

STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30), st.sampled_from("ab"), st.sampled_from("xyz")))
"""What is done (0, 1: enter; 2: fail and leave; 3: leave), to which one; the network; the account."""


def entered(throttle: Throttle, peer_network: str = HERE, account: str = "alice", now: float = 0.0) -> Place:
    """A place that is not refused."""
    place = throttle.enter(peer_network, account, now)
    assert place is not None
    return place


def fail(throttle: Throttle, peer_network: str = HERE, account: str = "alice", now: float = 0.0) -> float:
    """One wrong login from start to end; the seconds that its answer waits."""
    place = entered(throttle, peer_network, account, now)
    assert place.running
    wait = throttle.failed(place, now).wait
    throttle.leave(place)
    return wait


def succeed(throttle: Throttle, peer_network: str = HERE, account: str = "alice", now: float = 0.0) -> None:
    """One right login from start to end."""
    place = entered(throttle, peer_network, account, now)
    throttle.succeeded(place, now)
    throttle.leave(place)


class NetworkTests(SynchronousTestCase):
    """Which peers count as one."""

    def test_networks(self) -> None:
        """IPv4 counts by address, IPv6 by /64, a mapped address as IPv4, anything else as itself."""
        for peer, expected in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:DB8:1:2::1", "2001:db8:1:2::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("", ""),
            ("/run/mailsvc.sock", "/run/mailsvc.sock"),
            ("x" * 100, "x" * 64),
        ]:
            self.assertEqual(network(peer), expected)


class DelayTests(SynchronousTestCase):
    """How wrong answers become slow."""

    def test_doubling_up_to_the_longest(self) -> None:
        """Failures in a row wait 1, 2, 4, 8 and then 15 seconds each.

        Rule: Failed logins cost time per address and per account
        """
        throttle = Throttle()
        self.assertEqual([fail(throttle) for _ in range(7)], [1, 2, 4, 8, 15, 15, 15])

    def test_network_is_counted_over_accounts(self) -> None:
        """Trying one password on many accounts is as slow as many passwords on one."""
        throttle = Throttle()
        self.assertEqual([fail(throttle, account=f"user{n}") for n in range(5)], [1, 2, 4, 8, 15])

    def test_account_is_counted_over_networks(self) -> None:
        """Wrong guesses at one account from many networks are slow from their first.

        Rule: Failed logins cost time per address and per account
        """
        throttle = Throttle()
        self.assertEqual([fail(throttle, f"192.0.2.{n}") for n in range(5)], [1, 2, 4, 8, 15])

    def test_fading(self) -> None:
        """One failure is forgotten a minute."""
        throttle = Throttle()
        fail(throttle, now=0.0)
        fail(throttle, now=0.0)
        self.assertEqual(throttle.failures(HERE, "alice", 60.0), (1.0, 1.0))
        self.assertEqual(fail(throttle, now=60.0), 2.0)
        self.assertEqual(throttle.failures(HERE, "alice", 180.0), (0.0, 0.0))
        self.assertEqual(fail(throttle, now=180.0), 1.0)

    def test_memory_of_failures_is_capped(self) -> None:
        """However long an attack, it is forgotten in `most` times `forget` seconds."""
        throttle = Throttle()
        for _ in range(1000):
            fail(throttle)
        self.assertEqual(throttle.failures(HERE, "alice", 20 * 60.0), (0.0, 0.0))

    def test_a_clock_that_stands_still_or_goes_back(self) -> None:
        """Time that runs backwards never makes failures grow."""
        throttle = Throttle()
        fail(throttle, now=100.0)
        self.assertEqual(throttle.failures(HERE, "alice", 50.0), (1.0, 1.0))

    @settings(deadline=None)
    @given(st.floats(0, 1000), st.floats(0, 1000))
    def test_delay_grows_and_is_bounded(self, few: float, many: float) -> None:
        """More failures never wait less, and nothing waits longer than `longest`."""
        few, many = sorted((few, many))
        self.assertLessEqual(0.0, Pace().delay(few))
        self.assertLessEqual(Pace().delay(few), Pace().delay(many))
        self.assertLessEqual(Pace().delay(many), 15.0)


class ForgivenessTests(SynchronousTestCase):
    """What a success changes."""

    def test_own_mistakes_are_forgiven(self) -> None:
        """Mistyping and then logging in leaves a clean sheet."""
        throttle = Throttle()
        fail(throttle)
        fail(throttle)
        succeed(throttle)
        self.assertEqual(throttle.failures(HERE, "alice", 0.0), (0.0, 0.0))

    def test_an_own_account_buys_no_guesses(self) -> None:
        """A success on one account forgives nothing that was tried on another."""
        throttle = Throttle()
        for _ in range(4):
            fail(throttle, account="victim")
            succeed(throttle, account="own")
        self.assertEqual(throttle.failures(HERE, "victim", 0.0), (4.0, 4.0))
        self.assertEqual(fail(throttle, account="victim"), 15.0)

    def test_the_owner_does_not_wash_the_attacker(self) -> None:
        """The owner's success elsewhere leaves the attacker's failures where they are."""
        throttle = Throttle()
        for _ in range(4):
            fail(throttle, THERE)
        fail(throttle, HERE)
        succeed(throttle, HERE)
        self.assertEqual(throttle.failures(HERE, "alice", 0.0), (0.0, 4.0))
        self.assertEqual(throttle.failures(THERE, "alice", 0.0), (4.0, 4.0))


class PlaceTests(SynchronousTestCase):
    """Who may be checked now."""

    def test_parallel_guesses_wait_for_a_place(self) -> None:
        """Two guesses at one account run at a time, four of one network; the rest stands in line."""
        throttle = Throttle()
        alice = [entered(throttle, account="alice") for _ in range(5)]
        others = [entered(throttle, account=f"user{n}") for n in range(5)]
        self.assertEqual([place.running for place in alice], [True, True, False, False, False])
        self.assertEqual([place.running for place in others], [True, True, False, False, False])

    def test_another_network_is_not_concerned(self) -> None:
        """The owner elsewhere runs at once while an attacker fills all places and the line of his network."""
        throttle = Throttle()
        while throttle.enter(HERE, "alice", 0.0) is not None:
            pass
        self.assertTrue(entered(throttle, THERE, "alice").running)

    def test_one_account_leaves_room_for_another(self) -> None:
        """A device with an old password cannot take all places of the network it shares."""
        throttle = Throttle()
        for _ in range(50):
            entered(throttle, account="old phone")
        self.assertTrue(entered(throttle, account="bob").running)

    def test_place_is_kept_until_it_is_left(self) -> None:
        """A wrong guess blocks its place until its answer was due; then the next in line runs."""
        throttle = Throttle()
        first, second, third = (entered(throttle) for _ in range(3))
        throttle.failed(first, 0.0)
        throttle.failed(second, 0.0)
        self.assertFalse(third.running)
        self.assertIs(throttle.leave(second), third)
        self.assertTrue(third.running)

    def test_leaving_twice(self) -> None:
        """A place is given back once only."""
        throttle = Throttle()
        first, _second, third, fourth = (entered(throttle) for _ in range(4))
        self.assertIs(throttle.leave(first), third)
        self.assertIsNone(throttle.leave(first))
        self.assertFalse(fourth.running)

    def test_leaving_the_line(self) -> None:
        """Who gives up waiting takes no place and starts nobody."""
        throttle = Throttle()
        first, _second, third, fourth = (entered(throttle) for _ in range(4))
        self.assertIsNone(throttle.leave(third))
        self.assertIs(throttle.leave(first), fourth)

    def test_line_is_bounded(self) -> None:
        """Past the line a login is turned away."""
        throttle = Throttle(places=Places(for_network=1, for_account=1, line=2))
        for _ in range(3):
            entered(throttle)
        self.assertIsNone(throttle.enter(HERE, "alice", 0.0))
        self.assertIsNone(throttle.enter(HERE, "bob", 0.0))

    def test_line_shortens_with_failures(self) -> None:
        """A network that fails again and again may have few waiting; the last to come are turned away."""
        throttle = Throttle(places=Places(for_network=1, for_account=1, line=5, short_line=2, patience=1.0))
        running, *waiting = (entered(throttle) for _ in range(6))
        verdict = throttle.failed(running, 0.0)
        self.assertEqual(verdict.turned_away, tuple(waiting[2:]))
        self.assertIsNone(throttle.enter(HERE, "alice", 0.0))
        self.assertEqual(throttle.under_way(), 3)

    def test_nothing_is_left_behind(self) -> None:
        """When all have left, no network is remembered."""
        throttle = Throttle()
        places = [entered(throttle, account=f"user{n % 3}") for n in range(20)]
        for place in places:
            throttle.leave(place)
        self.assertEqual(throttle.under_way(), 0)
        self.assertEqual(throttle._networks, {})

    @settings(deadline=None, max_examples=60)
    @given(STEPS)
    def test_never_too_many_and_never_idle(self, steps: list[tuple[int, int, str, str]]) -> None:
        """Whatever happens, the limits hold, and nobody waits who could run."""
        places = Places(for_network=3, for_account=2, line=6, short_line=2, patience=2.0)
        throttle = Throttle(places=places)
        here: list[Place] = []
        for action, which, peer, account in steps:
            if action <= 1:
                place = throttle.enter(peer, account, 0.0)
                if place is not None:
                    here.append(place)
            elif here:
                place = here[which % len(here)]
                if action == 2 and place.running:
                    throttle.failed(place, 0.0)
                throttle.leave(place)
            here = [place for place in here if not place.left]
            for peer_network in "ab":
                there = [place for place in here if place.network == peer_network]
                running = [place.account for place in there if place.running]
                waiting = [place.account for place in there if not place.running]
                self.assertLessEqual(len(running), places.for_network)
                self.assertLessEqual(len(waiting), places.line)
                for name in "xyz":
                    self.assertLessEqual(running.count(name), places.for_account)
                if len(running) < places.for_network:
                    self.assertTrue(all(running.count(name) == places.for_account for name in waiting))
            self.assertEqual(throttle.under_way(), len(here))


class BoundsTests(SynchronousTestCase):
    """Memory under attack."""

    def test_tables_are_bounded(self) -> None:
        """Failures from ever new networks at ever new names keep the last ones only."""
        throttle = Throttle(Pace(remembered=10))
        for n in range(100):
            fail(throttle, f"192.0.2.{n}", f"user{n}")
        self.assertEqual(throttle.failures("192.0.2.0", "user0", 0.0), (0.0, 0.0))
        self.assertEqual(throttle.failures("192.0.2.99", "user99", 0.0), (1.0, 1.0))
        for table in (throttle._by_network, throttle._by_account, throttle._by_pair):
            self.assertEqual(len(table), 10)
