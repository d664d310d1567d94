"""What all bodies on their way in may hold together."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.gate.bodies import Bodies, Room
from tests.memory import ALICE, Client, MailCase, MailHost

_STEP = st.tuples(st.integers(0, 3), st.sampled_from(["take", "move", "end"]), st.integers(0, 40))


class BodiesTests(SynchronousTestCase):
    """`Bodies`."""

    def test_memory_then_file_then_nothing(self) -> None:
        """Past the first limit a body goes to its file with all it has, past the second nothing is taken."""
        bodies = Bodies(100, 250)
        one, two = bodies.begin(), bodies.begin()
        self.assertIs(one.take(60), Room.MEMORY)
        self.assertIs(two.take(60), Room.FILE)
        self.assertEqual((bodies.in_memory, bodies.total), (60, 120))
        self.assertIs(one.take(60), Room.FILE)
        self.assertEqual((bodies.in_memory, bodies.total), (0, 180))
        self.assertIs(one.take(80), Room.NONE)
        self.assertEqual(bodies.total, 180)

    def test_what_ends_makes_room(self) -> None:
        """A body that has ended holds nothing, however often it ends."""
        bodies = Bodies(100, 100)
        one, two = bodies.begin(), bodies.begin()
        one.take(100)
        self.assertIs(two.take(1), Room.NONE)
        one.end()
        one.end()
        self.assertIs(two.take(100), Room.MEMORY)

    @settings(deadline=None)
    @given(st.lists(_STEP, max_size=60))
    def test_the_sums_hold(self, steps: list[tuple[int, str, int]]) -> None:
        """In any order: never past the limits, never below nothing, and nothing at the end."""
        bodies = Bodies(50, 90)
        held = [bodies.begin() for _ in range(4)]
        for number, what, octets in steps:
            match what:
                case "take":
                    held[number].take(octets)
                case "move":
                    held[number].move_to_file()
                case _:
                    held[number].end()
            self.assertTrue(0 <= bodies.in_memory <= 50 and bodies.in_memory <= bodies.total <= 90)
        for each in held:
            each.end()
        self.assertEqual((bodies.in_memory, bodies.total), (0, 0))


def body_begun(host: MailHost, octets: int) -> Client:
    """A client that has sent so many octets of a body, and no end."""
    client = host.mx_client()
    client.send(b"MAIL FROM:<>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\n")
    client.take()
    client.send(b"a: b\r\n\r\n" + b"x" * (octets - 8))
    return client


class ReceptionTests(MailCase):
    """The server draws from it."""

    def bounded(self, in_memory: int, total: int) -> MailHost:
        host = self.host()
        host.helpers = replace(host.helpers, bodies=Bodies(in_memory, total))
        return host

    def test_memory_runs_out(self) -> None:
        """Ten sessions at once hold no more memory than the limit, and all their messages are taken whole.

        Rule: Limit: body octets in memory over all sessions
        """
        host = self.bounded(3000, 1 << 20)
        clients = [body_begun(host, 1000) for _ in range(10)]
        bodies = host.helpers.bodies
        self.assertEqual((bodies.in_memory, bodies.total), (3000, 10000))
        for client in clients:
            client.send(b"\r\n.\r\n")
            self.assertEqual(client.take()[:9], b"250 2.0.0")
        self.assertEqual(host.bodies_of(ALICE), [b"a: b\r\n\r\n" + b"x" * 992 + b"\r\n"] * 10)
        self.assertEqual((bodies.in_memory, bodies.total), (0, 0))

    def test_all_room_runs_out(self) -> None:
        """Past the second limit: 452 4.3.1 at the end of the message, and the next one has room again.

        Rule: Limit: body octets in memory over all sessions
        """
        host = self.bounded(1000, 2500)
        first, second = body_begun(host, 2000), body_begun(host, 2000)
        second.send(b"\r\n.\r\n")
        self.assertEqual(second.take(), b"452 4.3.1 Too much mail is arriving at once; try again later\r\n")
        first.hang_up()
        self.assertEqual(host.helpers.bodies.total, 0)
        second.send(b"MAIL FROM:<>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\nc: d\r\n\r\n.\r\n")
        self.assertIn(b"250 2.0.0 Ok: stored", second.take())

    def test_bdat(self) -> None:
        """Chunks draw from it too, and what is reset is given back."""
        host = self.bounded(1000, 1000)
        client = host.mx_client()
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<alice@example.org>\r\nBDAT 600\r\n" + b"x" * 600)
        client.take()
        self.assertEqual(host.helpers.bodies.total, 600)
        client.send(b"BDAT 600\r\n" + b"x" * 600)
        self.assertEqual(client.take()[:9], b"452 4.3.1")
        client.ask(b"RSET")
        self.assertEqual(host.helpers.bodies.total, 0)
