"""A network that guesses recipients gets slow."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from mailsvc.gate.guesses import Guesses, Pace
from tests.memory import MX_OPTIONAL
from tests.test_gate_watch import GREETING, WatchCase

PEER = "192.0.2.7"


class GuessesTests(SynchronousTestCase):
    """`Guesses`."""

    def test_slower_and_slower(self) -> None:
        """Some are free, each more costs more, up to a limit; another network has its own count."""
        guesses = Guesses(Pace(free=2, step=0.5, longest=1.5))
        delays = []
        for _ in range(7):
            guesses.note(PEER, 0.0)
            delays.append(guesses.delay(PEER, 0.0))
        self.assertEqual(delays, [0.0, 0.0, 0.5, 1.0, 1.5, 1.5, 1.5])
        self.assertEqual(guesses.delay("192.0.2.8", 0.0), 0.0)

    def test_forgotten(self) -> None:
        """However many there were, a few minutes later they are forgotten; a clock that goes back harms nothing."""
        guesses = Guesses()
        for _ in range(10_000):
            guesses.note(PEER, 1000.0)
        self.assertEqual(guesses.delay(PEER, 1000.0), 5.0)
        self.assertEqual(guesses.delay(PEER, 900.0), 5.0)
        self.assertEqual(guesses.delay(PEER, 1200.0), 0.0)

    def test_bounded(self) -> None:
        """A flood from everywhere fills no memory; IPv6 counts by the /64."""
        guesses = Guesses(Pace(remembered=100))
        for number in range(1000):
            guesses.note(f"2001:db8:0:{number:x}::1", 0.0)
            guesses.note(f"2001:db8:0:{number:x}::2", 0.0)
        self.assertEqual(len(guesses), 100)


class WatchTests(WatchCase):
    """The gate waits."""

    def test_rcpt_and_greeting_wait(self) -> None:
        """When the network has guessed too much, the next RCPT waits, and so does the next connection's greeting."""
        host = self.watched(guessing=Pace(free=1, step=2.0, longest=4.0))
        client = host.smtp(MX_OPTIONAL)
        client.ask(b"EHLO client.example.net")
        client.ask(b"MAIL FROM:<>")
        for name in (b"a", b"b"):
            self.assertEqual(client.ask(b"RCPT TO:<" + name + b"@example.org>")[:9], b"550 5.1.1")
        self.assertEqual(client.ask(b"RCPT TO:<alice@example.org>"), b"")
        client.wait(2)
        self.assertEqual(client.take(), b"250 2.1.5 Recipient ok\r\n")
        second = host.smtp(MX_OPTIONAL)
        self.assertEqual(second.take(), b"")
        second.wait(2)
        self.assertEqual(second.take(), GREETING)

    def test_gone_meanwhile(self) -> None:
        """Who hangs up during the wait leaves no timer (which `MailCase` checks)."""
        client = self.watched(guessing=Pace(free=0, step=2.0, longest=4.0)).smtp(MX_OPTIONAL)
        client.ask(b"EHLO client.example.net")
        client.ask(b"MAIL FROM:<>")
        client.ask(b"RCPT TO:<a@example.org>")
        client.ask(b"RCPT TO:<b@example.org>")
        client.hang_up()
