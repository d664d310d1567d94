"""Replies as values (RFC 5321 section 4.2, RFC 2034, RFC 3463).

A command handler returns a `Reply`; one loop writes it, counts it and logs it.  A reply knows how to encode itself
in one piece, so that it leaves in one write, with the hyphen on every line but the last.

What cannot happen here: a reply that breaks the dialogue.  Text is forced to printable ASCII, because parts of it
(an address, a HELO name) may be words of the peer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_UNPRINTABLE = re.compile(r"[^ -~]")

_LINE_LIMIT = 512
"""Octets of a reply line with its CRLF, RFC 5321 section 4.5.3.1.5; what is longer is cut."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One SMTP reply: ``code`` (RFC 5321), ``enhanced`` status code or "" (RFC 3463), and its text lines.

    ``closes`` says that the server ends the connection after it.
    """

    code: int
    enhanced: str
    lines: tuple[str, ...]
    closes: bool = False

    def encode(self) -> bytes:
        """The octets to write, CRLF included, in one piece."""
        status = f"{self.enhanced} " if self.enhanced else ""
        room = _LINE_LIMIT - len(f"{self.code} {status}\r\n")
        last = len(self.lines) - 1
        return "".join(
            f"{self.code}{' ' if number == last else '-'}{status}{_UNPRINTABLE.sub('?', line[:room])}\r\n"
            for number, line in enumerate(self.lines)
        ).encode("ascii")

    @property
    def is_error(self) -> bool:
        """Whether the command was refused (4xx or 5xx)."""
        return self.code >= 400

    def __str__(self) -> str:
        return self.encode().decode("ascii").rstrip("\r\n").replace("\r\n", " / ")


def reply(code: int, enhanced: str, *lines: str, closes: bool = False) -> Reply:
    """A `Reply` of one line or several."""
    return Reply(code, enhanced, lines, closes)
