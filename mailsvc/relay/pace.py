"""How many conversations one destination gets at a time: more while it goes well, fewer when it does not.

Pure state, one `Pace` for each destination that has work in memory; the queue asks it before it begins and tells it
what became of each conversation.

The hardest idea is when to stop asking.  A server that is down would cost a timeout for each message that waits for it,
again and again.  So after some failures in a row that say something about the server (not about a message) it is left
alone for a while, and what comes meanwhile is put off without an attempt, for the reason that the last one had.  The
while is short beside the schedule's pauses: when it is over the next message is the scout.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailsvc.relay.outcome import Kind, Outcome, Phase

BEGIN_WITH = 5.0
"""Conversations at a time with a destination of which nothing is known."""

FAILURES = 3
"""So many failures of the server in a row, and it is left alone."""

REST = 60.0
"""Seconds for which it is left alone first; each time twice as long, until it answers."""

LONGEST_REST = 900.0

_OF_THE_SERVER = frozenset({Phase.CONNECT, Phase.GREETING, Phase.HELLO, Phase.TLS, Phase.AUTH})


def is_of_the_server(outcome: Outcome) -> bool:
    """Whether it is a failure that would meet every other message for the same place as well."""
    return outcome.kind is Kind.DEFERRED and outcome.phase in _OF_THE_SERVER


@dataclass(slots=True)
class Pace:
    """``most``: never more conversations than that; ``limit``: how many there may be now.

    ``resting_until`` (seconds since the epoch): until then it is left alone, for the reason ``why``.
    """

    most: int
    limit: float = BEGIN_WITH
    failures: int = 0
    rest: float = REST
    resting_until: float = 0.0
    why: Outcome | None = None

    def may_begin(self, running: int) -> bool:
        """Whether another conversation may begin beside so many."""
        return running < max(1, min(self.most, int(self.limit)))

    def is_resting(self, now: float) -> bool:
        """Whether nothing is to be tried now."""
        # A clock that was set back must not make the rest longer than a rest can be.
        return now < self.resting_until <= now + LONGEST_REST

    def answered(self) -> None:
        """The server has talked about a message; whatever it said of it."""
        self.limit = min(float(self.most), self.limit + 1 / self.limit)
        self.failures = 0
        self.rest = REST
        self.resting_until = 0.0
        self.why = None

    def failed(self, why: Outcome, now: float) -> None:
        """The server could not be used."""
        self.limit = max(1.0, self.limit / 2)
        self.failures += 1
        self.why = why
        if self.failures >= FAILURES:
            self.resting_until = now + self.rest
            self.rest = min(LONGEST_REST, 2 * self.rest)

    def try_again(self) -> None:
        """Somebody knows better: it is tried at once."""
        self.resting_until = 0.0
