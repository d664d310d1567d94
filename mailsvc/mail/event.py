"""What can happen, as values: one class for each thing that a postmaster may ask about afterwards.

`mailsvc.journal` makes most of them, transactions make some, `mailsvc.storage.events` keeps them, `mailsvc why` tells
them.  A new kind is one class here and one sentence in `mailsvc.cli.story`; nothing else lists them.

The hardest idea is what may *not* stand in an event (promise H).  No field holds message text, a password, or a line
that a client sent; what a client may choose (addresses, its HELO name, its login name) is cut to a bounded length, and
a login name is kept only when it is a mail address, because people type passwords where the name belongs.

Events are read back by mailsvc of another age.  So a reader takes the fields that it knows, and an event that makes no
sense to it becomes `Unknown` and is told as it stands.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar, get_type_hints

from mailsvc.mail.address import AddressError, parse_address

TEXT_LIMIT = 500
"""The most characters of a text in an event."""

LIST_LIMIT = 100
"""The most entries of a list in an event; the keys of an event are not cut."""

_MESSAGE_ID = re.compile(r"<[^<>\s]+>\Z")

DROPPED_KEY = "!dropped"
"""The key under which events are found that tell of events which were not kept."""


@lru_cache(4096)
def address_key(text: str) -> str:
    """What events are looked up by for ``text``: `Address.key` of an address, else the text without case."""
    try:
        return parse_address(text).key
    except AddressError:
        return text[:TEXT_LIMIT].casefold()


def peer_key(text: str) -> str:
    """What events are looked up by for a client: its IP address in canonical form, or the text as it stands.

    An IPv4 address mapped into IPv6 is that IPv4 address, and a zone (``%eth0``) is left out.
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text[:TEXT_LIMIT]
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def message_key(message_id: int) -> str:
    """What events are looked up by for a message of the database."""
    return f"#{message_id}"


def _message_keys(*numbers: int) -> tuple[str, ...]:
    return tuple(message_key(number) for number in dict.fromkeys(numbers))


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.  ``kind`` is its name in the database, and never changes."""

    kind: ClassVar[str] = ""
    # The names of the fields; `dataclass` sets it, and it is cheaper than `fields`.
    __match_args__: ClassVar[tuple[str, ...]] = ()

    def addresses(self) -> tuple[str, ...]:
        """The addresses under which it can be found."""
        return ()

    def other_keys(self) -> tuple[str, ...]:
        """Further keys under which it can be found."""
        return ()

    def found_by(self) -> tuple[str, ...]:
        """Everything that it can be found under, each once."""
        addresses, others = self.addresses(), self.other_keys()
        if not (addresses or others):
            return ()
        found = [address_key(text) for text in addresses if text]
        found += [key[:TEXT_LIMIT] for key in others]
        # A database takes no lone surrogate.
        return tuple(dict.fromkeys(key.encode("utf-8", "replace").decode("utf-8") for key in found))

    def detail(self) -> dict[str, object]:
        """Its fields as plain JSON values; those that are empty are left out."""
        values = ((name, getattr(self, name)) for name in self.__match_args__)
        return {name: _plain(value) for name, value in values if value not in ("", ())}


@dataclass(frozen=True, slots=True)
class Connected(Event):
    """A client connected to ``listener``."""

    kind: ClassVar[str] = "connected"
    listener: str


@dataclass(frozen=True, slots=True)
class TurnedAway(Event):
    """A connection was refused before the client's first word."""

    kind: ClassVar[str] = "turned away"
    listener: str
    why: str


@dataclass(frozen=True, slots=True)
class Secured(Event):
    """A TLS handshake was completed; ``server_name`` is what the client asked for."""

    kind: ClassVar[str] = "secured"
    version: str
    cipher: str
    server_name: str = ""


@dataclass(frozen=True, slots=True)
class HandshakeFailed(Event):
    """A TLS handshake was begun and not completed."""

    kind: ClassVar[str] = "handshake failed"
    why: str


@dataclass(frozen=True, slots=True)
class Injected(Event):
    """Octets stood in clear behind STARTTLS, and the connection was closed."""

    kind: ClassVar[str] = "injected"
    octets: int


@dataclass(frozen=True, slots=True)
class LoggedIn(Event):
    """A login succeeded; ``mechanism`` as the protocol calls it."""

    kind: ClassVar[str] = "logged in"
    account: str
    mechanism: str = ""

    def addresses(self) -> tuple[str, ...]:
        return (self.account,)


@dataclass(frozen=True, slots=True)
class LoginFailed(Event):
    """A login was refused, with ``reply``.  ``name`` is "" when what was given is no address; see above."""

    kind: ClassVar[str] = "login failed"
    name: str = ""
    mechanism: str = ""
    reply: str = ""
    why: str = ""

    def addresses(self) -> tuple[str, ...]:
        return (self.name,)


@dataclass(frozen=True, slots=True)
class Refused(Event):
    """A command or a message was refused; ``reply`` is what the client was told, codes first."""

    kind: ClassVar[str] = "refused"
    what: str
    reply: str
    sender: str = ""
    recipients: tuple[str, ...] = ()

    def addresses(self) -> tuple[str, ...]:
        return (self.sender, *self.recipients)


@dataclass(frozen=True, slots=True)
class Unavailable(Event):
    """Something that may heal kept us from doing what was asked; the client was told to try again."""

    kind: ClassVar[str] = "unavailable"
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Accepted(Event):
    """A message was committed.  ``tls``, ``login`` and ``machine`` (the label of a relay client) are "" without;
    ``message_id_header`` with its brackets."""

    kind: ClassVar[str] = "accepted"
    sender: str
    recipients: tuple[str, ...]
    size: int
    helo: str = ""
    protocol: str = ""
    tls: str = ""
    login: str = ""
    message_id_header: str = ""
    recipient_count: int = 0
    machine: str = ""

    def addresses(self) -> tuple[str, ...]:
        return (self.sender, *self.recipients, self.login)

    def other_keys(self) -> tuple[str, ...]:
        # A stranger has written it: without its brackets it could be an address of ours, "#7", or `DROPPED_KEY`.
        return (self.message_id_header,) if _MESSAGE_ID.match(self.message_id_header) else ()


@dataclass(frozen=True, slots=True)
class Delivered(Event):
    """A message was put into a mailbox, for ``recipient`` where that is another address than the mailbox's."""

    kind: ClassVar[str] = "delivered"
    mailbox: str
    recipient: str = ""

    def addresses(self) -> tuple[str, ...]:
        return (self.mailbox, self.recipient)


@dataclass(frozen=True, slots=True)
class Relayed(Event):
    """Another server took a message for ``recipient``: ``reply`` is what it said, ``attempts`` how many were made.

    ``channel`` is what TLS proved and what it had to prove, in words; ``tls`` is version and cipher, "" without.
    ``duplicate_possible``: a process that had begun with it before did not live to tell, so it may come twice.
    """

    kind: ClassVar[str] = "relayed"
    recipient: str
    host: str
    reply: str
    attempts: int
    channel: str = ""
    tls: str = ""
    seconds: float = 0.0
    duplicate_possible: bool = False

    def addresses(self) -> tuple[str, ...]:
        return (self.recipient,)


@dataclass(frozen=True, slots=True)
class PutOff(Event):
    """A message could not be handed over, and is tried again at ``again`` (seconds since the epoch).

    ``host`` is "" when none was reached, ``phase`` how far it came.  ``duplicate_possible``: it may have arrived.
    """

    kind: ClassVar[str] = "put off"
    recipient: str
    host: str
    phase: str
    why: str
    attempts: int
    again: float
    channel: str = ""
    tls: str = ""
    duplicate_possible: bool = False

    def addresses(self) -> tuple[str, ...]:
        return (self.recipient,)


@dataclass(frozen=True, slots=True)
class GivenUp(Event):
    """A message will not reach ``recipient``; ``expired``: after too long, and not because a server refused it."""

    kind: ClassVar[str] = "given up"
    recipient: str
    host: str
    why: str
    attempts: int
    expired: bool = False
    channel: str = ""
    tls: str = ""

    def addresses(self) -> tuple[str, ...]:
        return (self.recipient,)


@dataclass(frozen=True, slots=True)
class Noted(Event):
    """A decision in words of ours that has no class of its own, about ``about``."""

    kind: ClassVar[str] = "noted"
    text: str
    about: tuple[str, ...] = ()

    def addresses(self) -> tuple[str, ...]:
        return self.about


@dataclass(frozen=True, slots=True)
class MaildropClosed(Event):
    """A session that had a maildrop open ended; without ``orderly`` nothing was deleted.

    ``fetched`` and ``removed`` are the numbers of the messages, the first of them.  ``credential`` is what it had
    logged in with.  ``by_device``: they were deleted for this device only; ``left`` of them have left the mailbox.
    """

    kind: ClassVar[str] = "maildrop closed"
    account: str
    retrieved: int
    deleted: int
    orderly: bool = True
    fetched: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()
    credential: str = ""
    by_device: bool = False
    left: int = 0

    def addresses(self) -> tuple[str, ...]:
        return (self.account,)

    def other_keys(self) -> tuple[str, ...]:
        return _message_keys(*self.fetched[:LIST_LIMIT], *self.removed[:LIST_LIMIT])


@dataclass(frozen=True, slots=True)
class Cleared(Event):
    """Messages left a mailbox without a session: ``why`` is "expired", or "deleted" by all devices that are in use."""

    kind: ClassVar[str] = "cleared"
    account: str
    why: str
    count: int
    messages: tuple[int, ...] = ()

    def addresses(self) -> tuple[str, ...]:
        return (self.account,)

    def other_keys(self) -> tuple[str, ...]:
        return _message_keys(*self.messages[:LIST_LIMIT])


@dataclass(frozen=True, slots=True)
class Undeleted(Event):
    """Deleted messages were brought back into a mailbox."""

    kind: ClassVar[str] = "undeleted"
    account: str
    count: int
    messages: tuple[int, ...] = ()

    def addresses(self) -> tuple[str, ...]:
        return (self.account,)

    def other_keys(self) -> tuple[str, ...]:
        return _message_keys(*self.messages[:LIST_LIMIT])


@dataclass(frozen=True, slots=True)
class Disconnected(Event):
    """A connection ended after so many ``seconds``."""

    kind: ClassVar[str] = "disconnected"
    seconds: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class Dropped(Event):
    """``count`` events since ``since`` (seconds since the epoch) were not kept; there were too many at once."""

    kind: ClassVar[str] = "dropped"
    count: int
    since: float

    def other_keys(self) -> tuple[str, ...]:
        return (DROPPED_KEY,)


@dataclass(frozen=True, slots=True)
class CertificateNews(Event):
    """Something about the certificate ``name`` ("" for all of a source): ``what`` in a word or two, and a sentence.

    Found by the name, and by the word certificates.
    """

    kind: ClassVar[str] = "certificate"
    name: str
    what: str
    text: str

    def addresses(self) -> tuple[str, ...]:
        return ("certificates", self.name)


@dataclass(frozen=True, slots=True)
class Defect(Event):
    """A mistake of mailsvc itself; the log has more."""

    kind: ClassVar[str] = "defect"
    what: str = ""


@dataclass(frozen=True, slots=True)
class Unknown(Event):
    """An event of another age of mailsvc, as it stands in the database."""

    name: str
    values: Mapping[str, object]

    def detail(self) -> dict[str, object]:
        return dict(self.values)


# By the module's names and not by __subclasses__: those hold the classes that slots=True has replaced, too.
KINDS: Mapping[str, type[Event]] = {
    found.kind: found
    for found in tuple(globals().values())
    if isinstance(found, type) and issubclass(found, Event) and found.kind
}


def event_of(kind: str, detail: Mapping[str, object]) -> Event:
    """The event that `Event.detail` made ``detail`` of, or `Unknown`."""
    event = KINDS.get(kind)
    if event is None:
        return Unknown(kind, detail)
    wanted = get_type_hints(event)
    values: dict[str, Any] = {}
    for field in fields(event):
        value = detail.get(field.name)
        if value is None:
            # `detail` leaves out what is empty.
            value = {str: "", int: 0, float: 0.0, bool: False}.get(wanted[field.name], ())
        elif isinstance(value, list):
            value = tuple(value)
        if not _fits(value, wanted[field.name]):
            return Unknown(kind, detail)
        values[field.name] = value
    return event(**values)


def _fits(value: object, wanted: object) -> bool:
    if wanted is float:
        return isinstance(value, (int, float))
    if wanted in (str, int, bool):
        return type(value) is wanted
    entry = str if wanted == tuple[str, ...] else int
    return isinstance(value, tuple) and all(type(part) is entry for part in value)


def _plain(value: object) -> object:
    if isinstance(value, str):
        return value[:TEXT_LIMIT]
    if isinstance(value, tuple):
        return [_plain(part) for part in value[:LIST_LIMIT]]
    return value
