"""What a program that gets mail is told, and what its exit status means (sysexits.h).

The program is started with a list of arguments, never through a shell; what strangers chose (addresses, a HELO name)
reaches it in the environment only, and there without the characters that a careless script could trip over.  It gets
the message with our trace header on standard input.

The hardest idea is whose failure it is.  0 is delivered.  Only an exit status by which the program judges the message
or its recipient (sysexits.h: 65 data, 67 no user, 68 no host, 69 unavailable, 76 protocol, 77 no permission) refuses
it for good, with its output quoted to the sender.  All else (75, a crash, a time-out, a program that is missing, 1 by
a script that stumbled) may be our own trouble, which must not make a sender give up: 451.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mailsvc.mail.address import Address
from mailsvc.mail.envelope import Envelope
from mailsvc.mail.reply import Reply, reply

QUOTED = 200
"""The most characters of a program's output in a reply."""

REFUSALS: Mapping[int, str] = {
    65: "5.6.0",  # EX_DATAERR
    67: "5.1.1",  # EX_NOUSER
    68: "5.1.2",  # EX_NOHOST
    69: "5.3.0",  # EX_UNAVAILABLE
    76: "5.5.0",  # EX_PROTOCOL
    77: "5.7.1",  # EX_NOPERM
}
"""Exit statuses that refuse a message, and the enhanced status code of each."""

RETRY = reply(451, "4.3.0", "The program that gets mail for this address failed; try again later")

_HARMLESS = frozenset("!@%-_=+:,./~^{}[]#")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended.  ``status``: the exit status, None when there was none; ``why`` then says what happened.

    ``output``: the first octets that it wrote to standard output and standard error.
    """

    status: int | None
    output: bytes = b""
    why: str = ""

    def __str__(self) -> str:
        said = f", and said: {quoted(self.output)}" if self.output.strip() else ""
        return f"{self.why or f'exit status {self.status}'}{said}"


def environment(
    envelope: Envelope, recipient: Address, original: Address, *, trace_id: str, size: int
) -> dict[str, str]:
    """All that the program finds in its environment.

    ``recipient``: the alias that has the program; ``original``: what RCPT named.  ``size``: octets on standard input.
    """
    origin = envelope.origin
    facts = {
        "SENDER": envelope.sender,
        "RECIPIENT": str(recipient),
        "ORIGINAL_RECIPIENT": str(original),
        "TRACE_ID": trace_id,
        "MESSAGE_SIZE": str(size),
        "CLIENT_ADDRESS": origin.peer,
        "CLIENT_HELO": origin.helo,
        "PROTOCOL": origin.protocol,
        "TLS": "" if origin.tls is None else origin.tls.version,
        "LOGIN": "" if origin.login is None else str(origin.login),
    }
    fixed = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/", "SHELL": "/bin/sh"}
    return {**fixed, **{name: sanitised(value) for name, value in facts.items()}}


def sanitised(text: str) -> str:
    """``text`` with an underscore for everything but letters, digits and a few harmless characters."""
    return "".join(c if c.isalnum() or c in _HARMLESS else "_" for c in text)


def verdict(ended: Ended) -> Reply | None:
    """None when the program has taken the message, else the reply that it deserves."""
    if ended.status == 0:
        return None
    enhanced = REFUSALS.get(ended.status) if ended.status is not None else None
    if enhanced is None:
        return RETRY
    said = quoted(ended.output)
    return reply(550, enhanced, f"The program for this address says: {said}" if said else "Refused by a program")


def together(verdicts: Iterable[Reply | None]) -> Reply | None:
    """One reply for several programs: a refusal counts only when nothing else is left to try."""
    failures = [verdict for verdict in verdicts if verdict is not None]
    temporary = next((failure for failure in failures if failure.code < 500), None)
    return temporary or (failures[0] if failures else None)


def quoted(output: bytes) -> str:
    """Output as it may stand in a reply: one line of printable ASCII in double quotes, not endless; "" for none."""
    words = " ".join(output.decode("utf-8", "replace").split())
    plain = "".join(c if " " <= c <= "~" else "?" for c in words).replace('"', "'")
    cut = plain if len(plain) <= QUOTED else plain[: QUOTED - 3] + "..."
    return f'"{cut}"' if cut else ""
