"""The header of a message that somebody hands in: who gets it, what is missing, what must not go out (RFC 5322, 6409).

Pure; the body is `mailsvc.sending.letter`'s.  A `Head` is a header block as a list of fields that keep their octets, so
that what is not touched goes out as it was written (a signature over it stays true).

The hardest idea is that a header is also a list of instructions.  ``-t`` reads recipients out of it, so a line that a
web form has smuggled into a subject becomes a recipient.  Nobody can tell such a line from a real one here; what can be
done is to add nothing of that kind ourselves: every value that comes as an argument passes `one_line`, and a lone CR in
a field, which some readers take for the end of it, becomes a space.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.header import Header
from email.headerregistry import Address as Mailbox

from mailsvc.errors import MailsvcError
from mailsvc.mail.address import Address, AddressError, parse_address
from mailsvc.mail.authors import address_list

FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
"""The beginning of a header field: its name and the colon (RFC 5322 section 2.2)."""

_RECIPIENTS = (b"to", b"cc", b"bcc")
_RESENT = (b"resent-to", b"resent-cc", b"resent-bcc")
_HIDDEN = frozenset({b"bcc", b"resent-bcc"})


NAME_LIMIT = 100
"""Characters of a name before an address: encoded it still fits into one line (RFC 5322 section 2.1.1)."""


class MessageError(MailsvcError):
    """The message cannot be sent as it is; the sentence says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Field:
    """One header field with its line ends, CRLF; ``name`` in lower case."""

    name: bytes
    octets: bytes

    @property
    def value(self) -> bytes:
        """What stands behind the colon, unfolded."""
        return self.octets.partition(b":")[2].replace(b"\r\n", b"").strip()


@dataclass(frozen=True, slots=True)
class Head:
    """A header block without its empty line."""

    fields: tuple[Field, ...] = ()

    def __bytes__(self) -> bytes:
        return b"".join(field.octets for field in self.fields)

    def values(self, *names: bytes) -> Iterator[bytes]:
        """The values of the fields with one of these names."""
        return (field.value for field in self.fields if field.name in names)

    def has(self, *names: bytes) -> bool:
        """Whether there is such a field."""
        return any(field.name in names for field in self.fields)

    def without(self, names: Iterable[bytes]) -> Head:
        """The same without the fields of these names."""
        gone = frozenset(names)
        return Head(tuple(field for field in self.fields if field.name not in gone))

    def with_field(self, name: str, value: str) -> Head:
        """The same with one field more, at its end; ``value`` passed `one_line`."""
        octets = f"{name}: {value}\r\n".encode()
        return Head((*self.fields, Field(name.lower().encode("ascii"), octets)))


def parse_head(lines: Iterable[bytes]) -> Head:
    """The fields of lines (each with its CRLF); what is no line of a header must not be among them."""
    fields: list[Field] = []
    for line in lines:
        begins = FIELD.match(line)
        if begins is None:
            last = fields.pop()
            fields.append(Field(last.name, last.octets + line))
        else:
            fields.append(Field(begins[1].lower(), line))
    return Head(tuple(fields))


def recipients(head: Head, domain: str) -> tuple[tuple[Address, ...], tuple[Address, ...]]:
    """The recipients that a header names, each once, and those of them that had no domain and got ``domain``.

    A message that was sent on names them in its Resent- fields, and then in those alone.  Raises `MessageError` when a
    field cannot be read: who would be left out is not guessed.
    """
    names = _RESENT if head.has(*_RESENT) else _RECIPIENTS
    found: dict[Address, None] = {}
    bare: dict[Address, None] = {}
    for field in head.fields:
        if field.name not in names:
            continue
        title = field.name.decode("ascii").title()
        try:
            text = field.value.decode("utf-8")
            qualified = address_list(text, domain)
            whole = set(address_list(text, "invalid.invalid")) if domain else set(qualified)
        except (UnicodeDecodeError, AddressError, ValueError) as error:
            raise MessageError(f"the field {title} cannot be read as a list of addresses") from error
        for address in qualified:
            found[address] = None
            if address not in whole:
                bare[address] = None
    return tuple(found), tuple(bare)


def sender_of(head: Head, domain: str) -> Address | None:
    """Who the header says that the message is from: Sender, else the first address of From; None when nobody."""
    for names in ((b"resent-sender",), (b"resent-from",), (b"sender",), (b"from",)):
        for value in head.values(*names):
            try:
                found = address_list(value.decode("utf-8"), domain)
            except (UnicodeDecodeError, AddressError, ValueError):
                return None
            return found[0] if found else None
    return None


def completed(head: Head, *, sender: Address, name: str, date: str, message_id: str) -> Head:
    """The header as it goes out: without Bcc, and with From, Date and Message-ID (RFC 6409 sections 8.1 to 8.3).

    ``sender``: whose From is added where there is none; ``name`` stands before it.  ``date`` and ``message_id`` as the
    fields have them.
    """
    made = head.without(_HIDDEN)
    if not made.has(b"from"):
        made = made.with_field("From", mailbox(sender, name))
    if not made.has(b"date"):
        made = made.with_field("Date", date)
    if not made.has(b"message-id"):
        made = made.with_field("Message-ID", message_id)
    return made


def mailbox(address: Address, name: str = "") -> str:
    """``Name <local@domain>`` for a header field, the name as an encoded word where it must be (RFC 2047)."""
    if not name:
        return str(address)
    one_line(name, "a name")
    if len(name) > NAME_LIMIT:
        raise MessageError(f"a name before an address has {NAME_LIMIT} characters at most")
    if name.isascii():
        shown = str(Mailbox(display_name=name, addr_spec="a@b")).removesuffix(" <a@b>")
    else:
        shown = Header(name, "utf-8").encode(linesep="").strip()
    return f"{shown} <{address}>"


def one_line(text: str, what: str) -> str:
    """``text``, which must not be able to begin a header field of its own.  Raises `MessageError`."""
    if not all(char.isprintable() or char == "\t" for char in text):
        raise MessageError(f"{what} holds a line end or a control character; that is how headers are forged")
    return text


def addresses(texts: Iterable[str], domain: str = "") -> tuple[Address, ...]:
    """The addresses of arguments, each once; ``domain`` for names that have none.  Raises `AddressError`."""
    found: dict[Address, None] = {}
    for text in texts:
        bare = text.strip()
        if bare.startswith("<") and bare.endswith(">"):
            bare = bare[1:-1]
        found[parse_address(bare if "@" in bare or not domain else f"{bare}@{domain}")] = None
    return tuple(found)
