"""The server against the model of RFC 1939 in `tests.pop3_model`: random sequences without a difference.

The first thousand are here; `tests.system.test_pop3_sequences` plays all ten thousand.
"""

from __future__ import annotations

from tests.memory import MailCase
from tests.pop3_model import Expected, Model, Play, Replies

SEQUENCES = 100
"""The first ones of the 10,000 in `tests.system.test_pop3_sequences`."""


class RandomSequences(MailCase):
    """A seed makes a sequence; a failure prints both, so that `Play().sequence(SEED)` repeats it."""

    def test_no_difference(self) -> None:
        """Every reply of every sequence says what the model says, and the store ends as the model's does."""
        play = Play()
        self.hosts.append(play.host)
        for seed in range(SEQUENCES):
            play.sequence(seed)
        self.assertGreater(play.commands, 10 * SEQUENCES)

    def test_difference_is_seen(self) -> None:
        """A model that forgets the marks of RSET's session is found out, so that the comparison compares."""
        play = Play()
        self.hosts.append(play.host)
        original = Model.logged_in

        class Forgetful(Model):
            def logged_in(self, verb: str, arguments: list[bytes]) -> Expected:
                return Expected(True) if verb == "RSET" else original(self, verb, arguments)

        play.make_model = Forgetful
        with self.assertRaisesRegex(AssertionError, "RSET"):
            for seed in range(1000):
                play.sequence(seed)


class ReplyReader(MailCase):
    """`Replies` is what finds the end of a reply."""

    def test_lines_are_unstuffed(self) -> None:
        """A lone dot ends the lines, a stuffed dot is one dot."""
        replies = Replies(b"..\r\n.x\r\n.\r\n+OK\r\n")
        self.assertEqual((replies.lines(), replies.line()), (b".\r\nx\r\n", b"+OK"))
