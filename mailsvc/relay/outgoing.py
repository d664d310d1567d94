"""What a conversation with a mail server is given, and what is kept of it: values of the client side.

``Outgoing`` is a message on its way, ``Timeouts`` how long each wait may last (RFC 5321 section 4.5.3.2), ``Record``
the dialogue as it may be shown.  The hardest idea is the last one: a secret is masked by who says it, not by what a
line looks like.  Only `mailsvc.relay.dialogue` knows which of its lines is a secret, and it hands both forms over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from mailsvc.mail.address import Address
from mailsvc.mail.wishes import NO_WISH, Wish

Content = Callable[[], AsyncIterator[bytes]]
"""Gives the message from its first octet, in pieces of any size, each time it is called; lines end in CRLF."""

RECORD_LINES, RECORD_LINE = 400, 1000
"""Lines of a dialogue that are kept, and characters of each."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message for one server.

    ``reverse_path``: None is the null sender.  ``recipients``: each once, in the order of RCPT.  ``wishes``: what the
    sender wants to be told of a recipient (RFC 3461); ``dsn_return`` ("FULL", "HDRS") and ``envelope_id`` likewise.
    ``size``: octets of the content.  ``smtputf8``: it was given to us with SMTPUTF8 (RFC 6531).  ``body_8bit``: it may
    hold octets above 127 (RFC 6152).  ``require_tls``: RFC 8689; such a message is given to nobody who would not keep
    the promise.
    """

    reverse_path: Address | None
    recipients: tuple[Address, ...]
    content: Content = field(repr=False)
    size: int
    wishes: Mapping[Address, Wish] = field(default_factory=dict)
    dsn_return: str | None = None
    envelope_id: str | None = None
    smtputf8: bool = False
    body_8bit: bool = False
    require_tls: bool = False

    def wish(self, recipient: Address) -> Wish:
        """What the sender wants to hear of a recipient."""
        return self.wishes.get(recipient, NO_WISH)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each wait may last, in seconds; RFC 5321 section 4.5.3.2 has the least for most of them.

    ``block``: for the server to take more of the content.  ``probe``: for a greeting where another way is left to try.
    """

    connect: float = 30.0
    greeting: float = 300.0
    probe: float = 15.0
    hello: float = 300.0
    handshake: float = 60.0
    auth: float = 120.0
    mail: float = 300.0
    rcpt: float = 300.0
    data: float = 120.0
    block: float = 180.0
    end: float = 600.0
    reset: float = 30.0
    quit: float = 5.0


CLIENT, SERVER, NOTE = "C:", "S:", "--"

MASK = "********"
"""In a record, in the place of what is secret."""


@dataclass(frozen=True, slots=True)
class Said:
    """One line of a dialogue: who (`CLIENT`, `SERVER`, or `NOTE` for a remark of ours), and the text, safe to show."""

    who: str
    text: str


class Record:
    """The last lines of a conversation, without secrets and without content.

    ``listener`` is told each line as it happens, for ``mailsvc send -v``.
    """

    def __init__(self, listener: Callable[[Said], None] | None = None) -> None:
        self._lines: deque[Said] = deque(maxlen=RECORD_LINES)
        self._listener = listener

    def add(self, who: str, text: str) -> None:
        """Note a line; ``text`` is printable."""
        said = Said(who, text if len(text) <= RECORD_LINE else f"{text[: RECORD_LINE - 3]}...")
        self._lines.append(said)
        if self._listener is not None:
            self._listener(said)

    @property
    def lines(self) -> tuple[Said, ...]:
        """What was said, the oldest first; of a long conversation only the end."""
        return tuple(self._lines)
