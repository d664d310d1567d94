"""What became of a message, for people, for programs, and as an exit status.

Pure: outcomes in, lines out.  The hardest idea is that one number must be enough for a script to decide what to do:
nothing (0), look at the list (3), try again (4), give up (5), or mend something of one's own (6: the login, or a
channel that is less than was demanded; nothing was sent).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum

from mailsvc.mail.address import Address
from mailsvc.relay.outcome import Kind, Outcome, Phase

_ID = re.compile(r"(?:\bqueued as|\bstored as|\bid[= ]|\baccepted as)[ :=]*<?([\w.+@/-]{4,80})", re.IGNORECASE)


_OURS = (Phase.TLS, Phase.AUTH)


class Verdict(Enum):
    """What is to be done now; the value is the exit status."""

    TAKEN = 0
    """Every recipient's server has taken it."""
    PARTLY = 3
    """Some have, and some have not."""
    LATER = 4
    """None has; trying again later may help."""
    REFUSED = 5
    """None has, for good."""
    OURS = 6
    """Nothing was sent: the login failed, or the channel is less than was demanded."""


def verdict(outcomes: Mapping[Address, Outcome]) -> Verdict:
    """One for all."""
    kinds = {outcome.kind for outcome in outcomes.values()}
    if kinds == {Kind.DELIVERED}:
        return Verdict.TAKEN
    if Kind.DELIVERED in kinds:
        return Verdict.PARTLY
    if all(outcome.phase in _OURS for outcome in outcomes.values()):
        return Verdict.OURS
    return Verdict.LATER if Kind.DEFERRED in kinds else Verdict.REFUSED


def queue_id(text: str) -> str:
    """The id under which a server knows the message, as far as its reply tells; "" when it does not."""
    found = _ID.search(text)
    return "" if found is None else found[1].rstrip(".")


def channel(outcome: Outcome) -> str:
    """The channel in words: what it was, and what of it is proven."""
    return f"{outcome.tls}: {outcome.level.text}" if outcome.tls else outcome.level.text


def lines(outcomes: Mapping[Address, Outcome], *, message_id: str, size: int) -> Iterator[str]:
    """For people; each outcome once, with all whom it concerns."""
    groups: dict[Outcome, list[Address]] = {}
    for address, outcome in outcomes.items():
        groups.setdefault(outcome, []).append(address)
    for outcome, addresses in groups.items():
        ours = outcome.phase in _OURS and outcome.kind is Kind.DEFERRED
        yield f"{'Not sent' if ours else _WORDS[outcome.kind]}: {', '.join(map(str, addresses))}"
        if outcome.kind is Kind.DELIVERED:
            found = queue_id(outcome.text)
            yield f"  by {outcome.host}{f' as {found}' if found else ''}"
            yield f"  {channel(outcome)}"
        yield f"  {outcome.text}"
        if outcome.duplicate_possible:
            yield "  It may have arrived all the same: sending it again may make a duplicate."
    yield f"Message-ID {message_id}, {size:,} octets"


_WORDS = {Kind.DELIVERED: "Taken", Kind.DEFERRED: "Not taken now, try again later", Kind.FAILED: "Refused for good"}


def facts(outcomes: Mapping[Address, Outcome], *, message_id: str, size: int, sender: str) -> dict[str, object]:
    """For programs."""
    return {
        "verdict": verdict(outcomes).name.lower(),
        "message_id": message_id,
        "size": size,
        "sender": sender,
        "recipients": [
            {
                "recipient": str(address),
                "result": outcome.kind.value,
                "host": outcome.host or None,
                "id": queue_id(outcome.text) or None,
                "level": outcome.level.name.lower(),
                "required": outcome.required.name.lower(),
                "tls": outcome.tls or None,
                "code": outcome.code or None,
                "enhanced": outcome.enhanced,
                "phase": outcome.phase.name.lower(),
                "text": outcome.text,
                "duplicate_possible": outcome.duplicate_possible,
            }
            for address, outcome in outcomes.items()
        ],
    }
