"""The downgrade memory: who has shown TLS once is not believed for a while when it shows less.

STARTTLS is a promise that anybody on the way can break: strip one line of the EHLO reply, and both sides go on in clear
(RFC 3207 section 6).  So what a peer has shown is remembered, and less than that is put off with a 4xx for some days:
an honest peer tries again, with TLS; a downgrade on the way shows in its queue and in our log, and no mail goes through
it meanwhile.  Pure; the rows are `mailsvc.storage.tls_policies`.

The hardest idea is who may teach us.  For mail that goes out it is the domain itself, because we asked its MX.  For
mail that comes in nobody proves his domain in MAIL FROM, and a stranger who could teach us that example.org has TLS
could keep out the mail of an example.org that has none.  So what comes in is remembered for the domain *and* the
network that it came from: somebody who strips TLS from a connection of example.org's server speaks from that server's
address, and a stranger does not.

The days are fewer than those a queue keeps trying: a domain that has really given up TLS gets its mail late, not never.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailsvc.tls.levels import Level

RENEW_SECONDS = 3600.0
"""What was shown again so soon need not be written again."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The best that was seen, and when it was seen last (seconds since the epoch)."""

    level: Level
    shown: float


@dataclass(frozen=True, slots=True)
class Override:
    """What the postmaster wants instead, `made` and good `until` (seconds since the epoch)."""

    level: Level
    made: float
    until: float


@dataclass(frozen=True, slots=True)
class Demand:
    """The least that is taken now, and why, as a sentence's end ("it has shown ... until ...").

    ``fixed``: the postmaster wants just that, whatever was shown.
    """

    level: Level
    why: str
    fixed: bool = False


def demand(memory: Memory | None, override: Override | None, now: float, seconds: float) -> Demand:
    """What a peer must show at the time `now`, when it is remembered for `seconds`."""
    if override is not None and now < override.until:
        return Demand(override.level, f"the postmaster has set: {override.level.text}", True)
    if memory is not None and now < memory.shown + seconds:
        return Demand(memory.level, f"it was {memory.level.text} before")
    return Demand(Level.PLAIN, "nothing is remembered")


def learned(memory: Memory | None, seen: Level, now: float, seconds: float) -> Memory | None:
    """What is to be remembered after a peer has shown `seen`; None when what is there is as good.

    Less than what is remembered changes nothing until that has been forgotten: an override may let it through, and must
    not be what lowers the memory.
    """
    fresh = memory is not None and now < memory.shown + seconds
    if memory is None or not fresh:
        return None if seen is Level.PLAIN else Memory(seen, now)
    if seen > memory.level or (seen is memory.level and now >= memory.shown + RENEW_SECONDS):
        return Memory(seen, now)
    return None
