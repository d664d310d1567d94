"""Who may be a recipient, and what to answer (RFC 5321 section 3.6.2 and 4.2.3, RFC 3463).

A pure judgement of facts that the server looked up: it decides, the database only tells.  The two refusals must not
be mixed up: 550 5.1.1 says "we own that domain and there is nobody of that name", 550 5.7.1 says "that is not our
domain and we do not carry mail there for you".
"""

from __future__ import annotations

from dataclasses import dataclass

from mailsvc.mail.reply import Reply, reply

ACCEPTED = reply(250, "2.1.5", "Recipient ok")
BOUNCES_ONLY = reply(550, "5.7.1", "Only reports of failures go to this address, and they have no sender")
_UNKNOWN_USER = reply(550, "5.1.1", "No such user here")
_DISABLED = reply(550, "5.2.1", "The account is disabled")
_NO_RELAY = reply(550, "5.7.1", "Relaying denied: the domain is not ours")
_NO_RELAY_YET = reply(550, "5.7.1", "relaying is not configured")


@dataclass(frozen=True, slots=True)
class RecipientFacts:
    """What the tables say of an address.  ``account``: the id of the local account, None when there is none."""

    domain_is_local: bool
    account: int | None
    disabled: bool = False


def judgement(facts: RecipientFacts, *, authenticated: bool) -> Reply:
    """`ACCEPTED`, or the reply that refuses the recipient."""
    if not facts.domain_is_local:
        return _NO_RELAY_YET if authenticated else _NO_RELAY
    if facts.account is None:
        return _UNKNOWN_USER
    return _DISABLED if facts.disabled else ACCEPTED
