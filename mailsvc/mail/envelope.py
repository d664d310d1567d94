"""The envelope: who a message is from and to, and how it reached us (RFC 5321 section 2.3.1).

It travels beside the message from MAIL FROM to the database and never looks into the message.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailsvc.mail.address import Address
from mailsvc.mail.channel import TLSFacts


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message came from: only facts that the server saw itself, or, for ``helo``, was told.

    ``peer``: the client's IP address, or "local" for a UNIX socket.
    ``helo``: what the client called itself; a claim, never checked.
    ``protocol``: the word for the "with" clause of Received (RFC 3848): SMTP, ESMTP, ESMTPS, ESMTPSA, ...
    ``login``: the account that authenticated, or None.
    ``session``: the number under which the journal knows the connection, or None.
    """

    peer: str
    helo: str
    protocol: str
    tls: TLSFacts | None
    login: Address | None
    session: int | None = None


@dataclass(frozen=True, slots=True)
class Envelope:
    """Reverse-path (None is the null sender ``<>``), forward-paths in the order of RCPT, and the origin."""

    reverse_path: Address | None
    recipients: tuple[Address, ...]
    origin: Origin
    body_8bit: bool = False

    @property
    def sender(self) -> str:
        """The reverse-path as text without brackets; "" for the null sender."""
        return "" if self.reverse_path is None else str(self.reverse_path)
