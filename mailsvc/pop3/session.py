"""Which POP3 command may run when, with how many arguments, and what CAPA says (RFC 1939, RFC 2449, RFC 2595).

`refusal` gives the reply when a command may not run now, or None.  Pure: the server asks and answers.

The hardest idea: what CAPA names can be used on this connection as it is now.  In clear nothing can be but CAPA, STLS
and QUIT, so that LANG, UTF8, USER and SASL are not named before TLS; the rest describes what holds after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mailsvc.pop3.texts import Refusal, Reply, says


class State(Enum):
    """The states of RFC 1939 section 3; UPDATE is a moment inside QUIT."""

    AUTHORIZATION = "before login"
    TRANSACTION = "logged in"


@dataclass(frozen=True, slots=True)
class Rule:
    """Where a command is valid, and how many arguments it takes; ``secured``: inside TLS only."""

    states: frozenset[State]
    least: int = 0
    most: int = 0
    secured: bool = True


_BOTH = frozenset(State)
_BEFORE = frozenset({State.AUTHORIZATION})
_AFTER = frozenset({State.TRANSACTION})

VERBS: dict[str, Rule] = {
    "CAPA": Rule(_BOTH, secured=False),
    "LANG": Rule(_BOTH, 0, 1),
    "UTF8": Rule(_BEFORE),
    "AUTH": Rule(_BEFORE, 0, 2),
    "STLS": Rule(_BEFORE, secured=False),
    "QUIT": Rule(_BOTH, secured=False),
    "USER": Rule(_BEFORE, 1, 1),
    "PASS": Rule(_BEFORE, 1, 1),
    "STAT": Rule(_AFTER),
    "LIST": Rule(_AFTER, 0, 1),
    "UIDL": Rule(_AFTER, 0, 1),
    "RETR": Rule(_AFTER, 1, 1),
    "TOP": Rule(_AFTER, 2, 2),
    "DELE": Rule(_AFTER, 1, 1),
    "RSET": Rule(_AFTER),
    "NOOP": Rule(_AFTER),
}
"""Every command that exists."""

REST_OF_LINE = frozenset({"USER", "PASS"})
"""Commands whose one argument is the rest of the line: passwords may hold spaces (RFC 1939 section 7, PASS)."""


def parse_command(line: bytes) -> tuple[str, list[bytes]]:
    """Split a line (without CRLF) into its verb in upper case and its arguments.  Raises `Refusal`."""
    name, space, rest = line.partition(b" ")
    # UTF8 is the one command with a digit in its name.
    if not (name.isalnum() and name[:1].isalpha() and name.isascii() and len(name) <= 40):
        raise Refusal("no_name")
    verb = name.decode("ascii").upper()
    if verb in REST_OF_LINE:
        return verb, [rest] if space and rest else []
    return verb, rest.split()


def refusal(verb: str, arguments: int, state: State, *, secured: bool) -> Reply | None:
    """Why the command may not run now; None when it may."""
    rule = VERBS.get(verb)
    if rule is None:
        return says("unknown")
    if rule.secured and not secured:
        return says("stls_first")
    if verb == "STLS" and secured:
        return says("tls_active")
    if state not in rule.states:
        return says("log_in_first" if state is State.AUTHORIZATION else "logged_in")
    if rule.least <= arguments <= rule.most:
        return None
    if rule.least < rule.most:
        return says("argument_many", verb=verb)
    return says("argument_one", verb=verb) if rule.most == 1 else says("argument_count", verb=verb, count=rule.most)


@dataclass(frozen=True, slots=True)
class Offer:
    """What CAPA says beyond what every session of ours has.

    ``mechanisms``: of AUTH, on this connection.  ``expire``: what stands behind EXPIRE (RFC 2449 section 6.7).
    ``login_delay``: seconds, 0 for none.  ``implementation``: what we call ourselves, "" for nothing.
    """

    mechanisms: tuple[str, ...] = ()
    expire: str = "NEVER"
    login_delay: int = 0
    implementation: str = "mailsvc"


def capabilities(offer: Offer, *, secured: bool) -> tuple[str, ...]:
    """The lines of CAPA that hold (RFC 2449 section 6, RFC 2595 section 4, RFC 3206, RFC 5034, RFC 6856).

    They are the same before and after login, as the RFCs want for each of them but EXPIRE and LOGIN-DELAY.
    """
    lines = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", f"EXPIRE {offer.expire}"]
    if offer.login_delay:
        lines.append(f"LOGIN-DELAY {offer.login_delay}")
    if offer.implementation:
        lines.append(f"IMPLEMENTATION {offer.implementation}")
    if not secured:
        return (*lines, "STLS")
    if offer.mechanisms:
        lines.append(" ".join(("SASL", *offer.mechanisms)))
    return (*lines, "USER", "UTF8 USER", "LANG")
