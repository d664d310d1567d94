"""How a network that guesses recipients is made slow, whatever it does with its connections.

Pure: counters and the time in, seconds out.  `mailsvc.gate.watch` keeps the clock and does the waiting.

A session that names too many unknown recipients ends, and its client connects again.  So what is counted here belongs
to the network (an IPv4 address, an IPv6 /64) and fades with time; past a number that honest hosts reach with old
address lists, each further RCPT and each greeting of that network waits.

The hardest idea: the wait stands *before* the answer is looked up and is the same for recipients that exist, so it
tells nothing; and an honest host behind the same address loses seconds, never mail.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from mailsvc.accounts.throttle import network


@dataclass(frozen=True, slots=True)
class Pace:
    """``free`` guesses cost nothing; each more costs ``step`` seconds, up to ``longest``.

    One is forgotten every ``forget`` seconds; the ``remembered`` networks that guessed last are known.
    """

    free: float = 20.0
    step: float = 0.25
    longest: float = 5.0
    forget: float = 10.0
    remembered: int = 10_000


class Guesses:
    """The guesses of each network."""

    def __init__(self, pace: Pace | None = None) -> None:
        self._pace = pace or Pace()
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def note(self, peer: str, now: float, weight: float = 1.0) -> None:
        """``peer`` named a recipient that does not exist, or did something else that counts like so many."""
        # What would cost more than the longest wait is not counted, so that all of it is forgotten in a few minutes.
        most = self._pace.free + self._pace.longest / self._pace.step
        key = network(peer)
        self._levels[key] = (min(most, self._level(key, now) + weight), now)
        self._levels.move_to_end(key)
        if len(self._levels) > self._pace.remembered:
            self._levels.popitem(last=False)

    def delay(self, peer: str, now: float) -> float:
        """Seconds that the next RCPT or greeting of ``peer`` waits."""
        return min(self._pace.longest, max(0.0, self._level(network(peer), now) - self._pace.free) * self._pace.step)

    def _level(self, key: str, now: float) -> float:
        level, at = self._levels.get(key, (0.0, now))
        return max(0.0, level - max(0.0, now - at) / self._pace.forget)
