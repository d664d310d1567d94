"""When a recipient is tried again, when its sender hears that it takes long, and when it is given up.

Pure functions of what a row has been through (RFC 5321 section 4.5.4.1: some minutes at first, then longer, for four to
five days).  Chance is a parameter, so that a test can say what it will be.

The hardest idea is age.  A row's age is not "now minus then": a clock that jumps a year ahead would give up every
message at once, one that jumps back would keep them for ever.  So the age is a sum of pauses, and each pause counts as
what it was planned to be, and an hour more at most (`counted`).  A night in which mailsvc did not run makes nothing
old, which is right too: nobody has tried in that time.
"""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_DOUBLINGS = 40
"""More attempts than this change nothing any more (and 2 to a large power is no float)."""

OVERTIME = 3600.0
"""So many seconds more than planned a pause may count."""

SHORTEST = 60.0
"""No pause is shorter, whatever chance and age say."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Seconds, all of them.

    ``first`` is the pause after the first failure; each next one is twice as long, up to ``longest``; chance makes each
    up to ``jitter`` (a share of it) shorter or longer, so that what failed together does not come back together.
    ``delayed``: at this age the sender is told once that it takes long, 0 for never.  ``keep``: at this age it is given
    up, unless the row says otherwise.
    """

    first: float = 300.0
    longest: float = 14_400.0
    jitter: float = 0.1
    delayed: float = 14_400.0
    keep: float = 5 * 86_400.0


@dataclass(frozen=True, slots=True)
class Next:
    """What follows a failed attempt.

    ``age``: what the row's age is now.  ``pause``: seconds to the next attempt, None when it is given up.  ``is_late``:
    the sender is to hear of the delay now.  ``left``: seconds until it will be given up.
    """

    age: float
    pause: float | None
    is_late: bool
    left: float


def counted(changed: float, due: float, now: float) -> float:
    """The seconds that a pause counts which began at ``changed``, was to end at ``due``, and ended ``now``."""
    planned = max(0.0, due - changed)
    return max(0.0, min(now - changed, planned + OVERTIME))


def pause(schedule: Schedule, attempts: int, chance: float) -> float:
    """Seconds to wait after so many failed attempts (1 or more); ``chance`` is from 0 to 1."""
    doublings = min(max(0, attempts - 1), LONGEST_DOUBLINGS)
    plain = min(schedule.longest, schedule.first * 2.0**doublings)
    return max(SHORTEST, plain * (1 + schedule.jitter * (2 * chance - 1)))


def after_failure(
    schedule: Schedule, *, attempts: int, age: float, keep: float | None, told: bool, chance: float
) -> Next:
    """What follows failed attempt number ``attempts`` at this ``age``; ``keep`` and ``told`` (of the delay) are the
    row's own.

    The last attempt is made when the time is over and not before it, so that what is kept for an hour gets its hour.
    """
    left = (schedule.keep if keep is None else keep) - age
    is_late = not told and 0 < schedule.delayed <= age
    if left <= 0:
        return Next(age, None, False, 0.0)
    wait = max(SHORTEST, min(pause(schedule, attempts, chance), left))
    return Next(age, wait, is_late, left)
