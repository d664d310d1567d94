"""Which POP3 command may run when, and with how many arguments: one table (RFC 1939, RFC 2449, RFC 2595).

`refusal` gives the reason why a command may not run now, or None.  Pure: the server asks and answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mailsvc.errors import MailsvcError


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


class CommandError(MailsvcError):
    """The command cannot run; the message is the text behind -ERR."""


def parse_command(line: bytes) -> tuple[str, list[bytes]]:
    """Split a line (without CRLF) into its verb in upper case and its arguments."""
    name, space, rest = line.partition(b" ")
    if not (name.isalpha() and name.isascii() and len(name) <= 40):
        raise CommandError("a command begins with its name")
    verb = name.decode("ascii").upper()
    if verb in REST_OF_LINE:
        return verb, [rest] if space and rest else []
    return verb, rest.split()


def refusal(verb: str, arguments: int, state: State, *, secured: bool) -> str | None:
    """Why the command may not run now, as the text behind -ERR; None when it may."""
    rule = VERBS.get(verb)
    if rule is None:
        return "unknown command"
    if rule.secured and not secured:
        return "issue STLS first"
    if verb == "STLS" and secured:
        return "TLS is active already"
    if state not in rule.states:
        return "log in first" if state is State.AUTHORIZATION else "already logged in"
    if not rule.least <= arguments <= rule.most:
        wanted = str(rule.least) if rule.least == rule.most else f"{rule.least} or {rule.most}"
        return f"{verb} takes {wanted} argument{'' if wanted == '1' else 's'}"
    return None


def capabilities(state: State, *, secured: bool) -> tuple[str, ...]:
    """The lines of CAPA that hold (RFC 2449, RFC 2595 section 4, RFC 3206)."""
    always = ("TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "EXPIRE NEVER", "IMPLEMENTATION mailsvc")
    if not secured:
        return (*always, "STLS")
    return (*always, "USER")
