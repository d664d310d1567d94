"""Ten thousand random sequences of commands against the model of RFC 1939 in `tests.pop3_model`."""

from __future__ import annotations

from tests.memory import MailCase
from tests.pop3_model import Play

SEQUENCES = 10_000


class RandomSequences(MailCase):
    """A seed makes a sequence; a failure prints both, so that `Play().sequence(SEED)` repeats it."""

    def test_no_difference(self) -> None:
        """Every reply of every sequence says what the model says, and the store ends as the model's does.

        Rule: A model of the maildrop agrees with every reply
        """
        play = Play()
        self.hosts.append(play.host)
        for seed in range(SEQUENCES):
            play.sequence(seed)
        self.assertGreater(play.commands, 10 * SEQUENCES)
