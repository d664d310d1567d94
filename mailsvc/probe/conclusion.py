"""What a probe's observation is worth: the outcome, and what mail of ours would do with this server.

Pure.  Two questions are kept apart.  The outcome is a strict client's: is the server's name verified, or is there
DANE?  What our relay would do follows from what is published and remembered (`mailsvc.relay.demands`): by itself it
delivers with whatever the server offers, because that is better than a bounce, and it never delivers with less than
somebody has promised.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mailsvc.probe.observation import Observation, Outcome, Talk
from mailsvc.relay.demands import DaneFacts, Requirement, StsFacts, requirement
from mailsvc.tls.levels import Level, judge
from mailsvc.tls.memory import Demand

NOTHING_REMEMBERED = Demand(Level.PLAIN, "nothing is remembered")


@dataclass(frozen=True, slots=True)
class Published:
    """What is known of a server beside the connection.  ``domain``: whose mail it takes, "" when that is not known."""

    domain: str = ""
    dane: DaneFacts = field(default_factory=DaneFacts)
    sts: StsFacts = field(default_factory=StsFacts)
    memory: Demand = NOTHING_REMEMBERED


@dataclass(frozen=True, slots=True)
class Conclusion:
    """``level`` is what the connection proves, ``needed`` what is demanded of it, ``delivers`` whether mail would go.

    ``sentence`` says what a strict client makes of the server, ``relay`` what our relay would do ("" where no mail is
    taken).
    """

    outcome: Outcome
    level: Level
    needed: Requirement
    delivers: bool | None
    sentence: str
    relay: str = ""


def conclude(seen: Observation, published: Published) -> Conclusion:
    """The conclusion from everything that is known."""
    level = Level.PLAIN if seen.identity is None else seen.identity.level
    needed = requirement(seen.target.server_name, published.dane, published.sts, published.memory)
    takes_mail = seen.target.talk in (Talk.SMTP, Talk.LMTP)
    if not takes_mail:
        needed = Requirement(Level.PLAIN)
    delivers, relay = _delivery(seen, level, needed) if takes_mail else (None, "")
    outcome, sentence = _outcome(seen, level)
    if outcome is Outcome.VERIFIED and delivers is False:
        outcome = Outcome.UNVERIFIED
    return Conclusion(outcome, level, needed, delivers, sentence, relay)


def _outcome(seen: Observation, level: Level) -> tuple[Outcome, str]:
    if seen.stop is not None:
        return seen.stop.outcome, seen.stop.text
    if level >= Level.NAME:
        return Outcome.VERIFIED, f"{level.text}: a strict client accepts this server"
    return Outcome.UNVERIFIED, f"{level.text}: a strict client refuses this server"


def _delivery(seen: Observation, level: Level, needed: Requirement) -> tuple[bool, str]:
    outcome = None if seen.stop is None else seen.stop.outcome
    because = f", because {' and '.join(needed.reasons)}" if needed.reasons else ""
    if outcome in (Outcome.UNREACHED, Outcome.BROKEN):
        return (
            False,
            "it would keep the mail and try again later, or elsewhere: there is no connection that can be used",
        )
    if needed.obstacle:
        return False, f"it would not use this server now, and try again later: {needed.obstacle}"
    verdict = judge(needed.level, level)
    if not verdict.met:
        return False, f"it would not deliver here, and try again later: {verdict}{because}"
    if level is Level.PLAIN:
        return True, "it would deliver in clear: nothing that is published or remembered demands TLS"
    if needed.level is Level.PLAIN:
        return True, f"it would deliver ({level.text}); nothing that is published or remembered demands more"
    return True, f"it would deliver ({level.text}); demanded is: {needed.level.text}{because}"
