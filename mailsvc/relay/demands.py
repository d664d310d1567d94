"""What the channel to a mail host must be: DANE, MTA-STS and the downgrade memory put together into one demand.

Pure; the relay, and `mailsvc probe` which tells what the relay would do, ask the same function.  Looking the facts up
is left to `mailsvc.resolver` and `mailsvc.mtasts.fetch`, measuring the channel to `mailsvc.tls.client`, and comparing
the two to `mailsvc.tls.levels`.

The hardest idea is which silence means "nothing is demanded" and which means "wait".  That DNS says there are no TLSA
records, or that nobody signed them, is an answer: DANE demands nothing (RFC 7672 section 2.1).  That a TLSA question
gets *no* answer from a zone that is signed is what an attacker would arrange who wants to get rid of DANE, so the host
is not used until the question is answered (section 2.2).  MTA-STS is weaker by design: without a policy that can be
read mail goes as if there were none (RFC 8461 section 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass

from mailsvc.mtasts.record import PolicyMode, StsPolicy
from mailsvc.tls.dane import TLSARecord
from mailsvc.tls.levels import Level
from mailsvc.tls.memory import Demand


@dataclass(frozen=True, slots=True)
class DaneFacts:
    """What TLSA records say of a host.

    ``records`` are only those that DNSSEC vouches for, found at ``place``.  ``remark``: why there are none that count.
    ``obstacle``: why nobody knows whether there are some, which forbids to use the host now.
    """

    place: str = ""
    records: tuple[TLSARecord, ...] = ()
    remark: str = ""
    obstacle: str = ""


@dataclass(frozen=True, slots=True)
class StsFacts:
    """What MTA-STS says of ``domain``; ``remark``: why there is no policy."""

    domain: str = ""
    id: str = ""
    policy: StsPolicy | None = None
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Requirement:
    """The least that the channel must be, why (a sentence's end each), and what forbids to use the host at all."""

    level: Level
    reasons: tuple[str, ...] = ()
    obstacle: str = ""


def requirement(host: str, dane: DaneFacts, sts: StsFacts, memory: Demand) -> Requirement:
    """What is demanded of the channel to ``host``: the strictest of what is published and what is remembered.

    Where usable TLSA records exist they decide and MTA-STS is not asked (RFC 8461 section 2).  What the postmaster has
    set holds instead of all of it, no more and no less: it is for domains that publish what they do not keep.
    """
    if memory.by_postmaster:
        return Requirement(memory.level, (memory.why,))
    demands: list[tuple[Level, str]] = []
    obstacle = dane.obstacle
    usable = any(record.usable for record in dane.records)
    if usable:
        demands.append((Level.DANE, f"TLSA records are published at {dane.place}"))
    elif dane.records:
        # RFC 7672 section 2.2: they cannot authenticate, but they say that there is TLS.
        demands.append((Level.ENCRYPTED, f"TLSA records are published at {dane.place}, none that can be used"))
    if not usable and sts.policy is not None and sts.policy.mode is PolicyMode.ENFORCE:
        if sts.policy.allows(host):
            demands.append((Level.NAME, f"the MTA-STS policy of {sts.domain} says enforce"))
        else:
            obstacle = obstacle or f"the MTA-STS policy of {sts.domain} says enforce and does not name {host}"
    if memory.level > Level.PLAIN:
        demands.append((memory.level, memory.why))
    level = max((each for each, _ in demands), default=Level.PLAIN)
    return Requirement(level, tuple(why for each, why in demands if each is level), obstacle)
