"""How many connections one client may have, and what counts as one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.gate.places import Places, Shares, Trusted, neighbourhood
from mailsvc.wire.sessions import Sessions
from tests.memory import MX, MailCase

SHARES = Shares(2, 3, Trusted(["127.0.0.0/8", "::1/128", "198.51.100.0/24"]))


def admitted(peers: list[str]) -> list[str | None]:
    """The answers to these peers, one after the other; who is not refused takes a place."""
    places = Places(SHARES)
    answers = []
    for peer in peers:
        answers.append(places.refusal(peer))
        if answers[-1] is None:
            places.take(peer)
    return answers


class PlacesTests(SynchronousTestCase):
    """`Places`."""

    def test_address(self) -> None:
        """One address has so many connections and no more; its neighbour still gets one.

        Rule: Limit: connections per address and per network
        """
        answers = admitted(["192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"])
        self.assertEqual(answers, [None, None, "too many connections from your address", None])

    def test_network(self) -> None:
        """The /24 around an IPv4 address has so many; the next one is another network.

        Rule: Limit: connections per address and per network
        """
        answers = admitted(["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.3.4"])
        self.assertEqual(answers, [None, None, None, "too many connections from your network", None])

    def test_ipv6(self) -> None:
        """All addresses of a /64 are one client, all of a /48 one network."""
        answers = admitted(["2001:db8:1:1::1", "2001:db8:1:1::2", "2001:db8:1:1:ffff::3", "2001:db8:1:2::1"])
        self.assertEqual(answers, [None, None, "too many connections from your address", None])
        self.assertEqual(neighbourhood("2001:db8:1:2::1"), "2001:db8:1::/48")

    def test_mapped(self) -> None:
        """An IPv4 address is the same client when it comes mapped into IPv6."""
        answers = admitted(["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"])
        self.assertEqual(answers[2], "too many connections from your address")

    def test_trusted(self) -> None:
        """A trusted network, this machine and a UNIX socket have no such limit."""
        for peer in ("198.51.100.9", "127.0.0.1", "::1", "local"):
            self.assertEqual(set(admitted([peer] * 9)), {None})
        self.assertNotIn("203.0.113.1", SHARES.trusted)

    @settings(deadline=None)
    @given(st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1", "local", "not an address"])))
    def test_nothing_is_left(self, peers: list[str]) -> None:
        """Whoever came and left has left no trace, so no flood of addresses can fill the memory."""
        places = Places(SHARES)
        for peer in peers:
            places.take(peer)
        for peer in peers:
            places.leave(peer)
        self.assertEqual(len(places), 0)


class SessionsTests(MailCase):
    """The servers ask for a place."""

    def test_smtp(self) -> None:
        """A connection too many gets 421 4.7.0 and the end; when another has ended there is a place.

        Rule: Limit: connections per address and per network
        """
        host = self.host()
        host.sessions = Sessions(100, places=Places(Shares(1, 9, Trusted([]))))
        first, second = host.smtp(MX), host.smtp(MX)
        self.assertEqual(second.take(), b"421 4.7.0 Too many connections from your address; try again later\r\n")
        self.assertTrue(second.is_closed)
        first.hang_up()
        self.assertEqual(host.smtp(MX).take()[:3], b"220")

    def test_pop3(self) -> None:
        """POP3 says the same in its own words (RFC 3206)."""
        host = self.host()
        host.sessions = Sessions(100, places=Places(Shares(9, 1, Trusted([]))))
        host.pop3()
        refused = host.pop3()
        self.assertEqual(refused.take(), b"-ERR [SYS/TEMP] too many connections from your network; try again later\r\n")
