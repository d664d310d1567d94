"""The envelope: who a message is from and to, and how it reached us (RFC 5321 section 2.3.1).

It travels beside the message from MAIL FROM to the database and never looks into the message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mailsvc.mail.address import Address
from mailsvc.mail.channel import TLSFacts
from mailsvc.mail.wishes import NO_WISH, Wish


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message came from: only facts that the server saw itself, or, for ``helo``, was told.

    ``peer``: the client's IP address, or "local" for a UNIX socket.
    ``helo``: what the client called itself; a claim, never checked.
    ``protocol``: the word for the "with" clause of Received (RFC 3848): SMTP, ESMTP, ESMTPS, ESMTPSA, ...
    ``login``: the account that authenticated, or None.
    ``session``: the number under which the journal knows the connection, or None.
    ``machine``: the label of the relay client that it is by its certificate, "" for none.
    """

    peer: str
    helo: str
    protocol: str
    tls: TLSFacts | None
    login: Address | None
    session: int | None = None
    machine: str = ""


@dataclass(frozen=True, slots=True)
class Envelope:
    """Reverse-path (None is the null sender ``<>``), forward-paths in the order of RCPT, the origin, and the rest.

    ``smtputf8``, ``body_8bit``, ``require_tls``: what MAIL said (RFC 6531, RFC 6152, RFC 8689).  ``dsn_return``
    ("FULL", "HDRS"), ``envelope_id`` and ``wishes`` (by recipient) are what the sender wants to hear (RFC 3461).
    ``release_at``: nobody may see the message before, in seconds since the epoch (RFC 4865).
    """

    reverse_path: Address | None
    recipients: tuple[Address, ...]
    origin: Origin
    body_8bit: bool = False
    smtputf8: bool = False
    require_tls: bool = False
    dsn_return: str | None = None
    envelope_id: str | None = None
    release_at: float | None = None
    wishes: Mapping[Address, Wish] = field(default_factory=dict)

    def wish(self, recipient: Address) -> Wish:
        """What the sender wants to hear of a recipient."""
        return self.wishes.get(recipient, NO_WISH)

    @property
    def sender(self) -> str:
        """The reverse-path as text without brackets; "" for the null sender."""
        return "" if self.reverse_path is None else str(self.reverse_path)
