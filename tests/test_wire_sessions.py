"""The open sessions of a service: how many, and how they end."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.wire.sessions import Sessions, peer_name


class FakeSession:
    """Notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def shut_down(self) -> None:
        self.asked.append("shut down")

    def abort(self) -> None:
        self.asked.append("abort")


class SessionsTests(SynchronousTestCase):
    """`Sessions`."""

    def test_limit(self) -> None:
        """So many at a time; a place that was left is free for the next."""
        sessions = Sessions(2)
        one, two, three = FakeSession(), FakeSession(), FakeSession()
        self.assertEqual([sessions.admit(each, "192.0.2.1") for each in (one, two, three)], [True, True, False])
        sessions.ended(three)
        self.assertFalse(sessions.admit(three, "192.0.2.1"), "one that was turned away leaves no place")
        sessions.ended(one)
        self.assertTrue(sessions.admit(three, "192.0.2.1"))
        self.assertEqual(len(sessions), 2)

    def test_shut_down(self) -> None:
        """All are asked to end; the Deferred fires when the last one has."""
        sessions = Sessions(9)
        one, two = FakeSession(), FakeSession()
        sessions.admit(one, "192.0.2.1")
        sessions.admit(two, "192.0.2.1")
        done = sessions.shut_down()
        self.assertEqual((one.asked, two.asked), (["shut down"], ["shut down"]))
        sessions.ended(one)
        self.assertNoResult(done)
        sessions.abort()
        self.assertEqual((one.asked, two.asked), (["shut down"], ["shut down", "abort"]))
        sessions.ended(two)
        self.assertIsNone(self.successResultOf(done))

    def test_nobody_there(self) -> None:
        """Without sessions there is nothing to wait for, any number of times."""
        sessions = Sessions(9)
        self.successResultOf(sessions.shut_down())
        self.successResultOf(sessions.shut_down())
        sessions.abort()

    def test_peer_name(self) -> None:
        """An IP address, or "local" where there is none."""
        self.assertEqual(peer_name(IPv4Address("TCP", "192.0.2.1", 1)), "192.0.2.1")
        self.assertEqual(peer_name(IPv6Address("TCP", "2001:db8::1", 1)), "2001:db8::1")
        self.assertEqual(peer_name(UNIXAddress(b"/run/x")), "local")
        self.assertEqual(peer_name(None), "local")
