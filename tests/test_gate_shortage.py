"""A shortage of descriptors is told once, and loudly."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import Logger, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.gate.shortage import Shortage
from tests.memory import log_lines


class ShortageTests(SynchronousTestCase):
    """`Shortage`."""

    def test_once(self) -> None:
        """One alarm an outbreak, however many connections are turned away, and however long it lasts.

        Rule: EMFILE
        """
        clock = Clock()
        publisher = LogPublisher(Shortage(clock.seconds))
        twisted = Logger("twisted.internet.tcp.Port", observer=publisher)

        def outbreak() -> None:
            for _ in range(50):
                twisted.info("EMFILE encountered; releasing reserved file descriptor.")
                twisted.info("EMFILE recovery: Closed socket from {address}", address="192.0.2.7")
                clock.advance(10)

        self.assertEqual(len(log_lines(outbreak)), 1)
        clock.advance(61)
        self.assertIn("connections are turned away", log_lines(outbreak)[0])

    def test_what_is_missing(self) -> None:
        """The machine's own limit (ENFILE) has the same alarm with its own name; other lines have none."""
        clock = Clock()
        publisher = LogPublisher(Shortage(clock.seconds))
        twisted = Logger("twisted.internet.tcp.Port", observer=publisher)
        self.assertEqual(log_lines(lambda: twisted.info("starting on {port}", port=25)), [])
        [line] = log_lines(
            lambda: twisted.info("Could not accept new connection ({acceptError})", acceptError="ENFILE")
        )
        self.assertIn("(ENFILE)", line)
        self.assertIn("goes on by itself", line)
