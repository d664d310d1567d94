"""Mail addresses: parsed once, at the edge, into a value (RFC 5321 section 4.1.2, RFC 6531 section 3.3).

Everything that comes from outside as an address (RCPT TO, a login name, ``mailsvc user add``) passes through here
and nothing else in mailsvc looks for an ``@``.  The grammar is strict on purpose: what is accepted can be written
back as it was, into a header, a reply or a log line, because no control character, bare space or unbalanced quote
survives the parse.

The hardest idea: an address has two faces.  What the sender *wrote* (``local_part``, quotes included) is what goes
out again; what we *look up* (``key``) is a canonical form without quotes, without case.  RFC 5321 section 2.4 says
that only the host which owns a mailbox may interpret its local part; for our own domains we choose "case does not
matter", as nearly every mail host does.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

import idna

from mailsvc.errors import MailsvcError

LOCAL_PART_LIMIT = 64
"""Octets of a local part, RFC 5321 section 4.5.3.1.1."""

DOMAIN_LIMIT = 255
"""Octets of a domain, RFC 5321 section 4.5.3.1.2."""

PATH_LIMIT = 254
"""Octets of ``local@domain``: a path of 256 (RFC 5321 section 4.5.3.1.3) without its angle brackets."""

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
# C1 controls, the line separators and the surrogates are "non-ASCII" too, and none belongs in an address.
_UTF8_ATEXT = "\u00a1-\u2027\u202f-\ud7ff\uf900-\ufdff\ufe00-\ufffd\U00010000-\U0010ffff"
_ATOM = f"[{_ATEXT}{_UTF8_ATEXT}]+"
_DOT_STRING = re.compile(rf"{_ATOM}(?:\.{_ATOM})*\Z")
_QUOTED_STRING = re.compile(rf'"(?:[ !#-\[\]-~{_UTF8_ATEXT}]|\\[ -~])*"\Z')
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")


class AddressError(MailsvcError):
    """The text is not a mail address; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Address:
    """One mailbox, ``local_part@domain``.

    ``local_part`` is as it was written (a quoted string keeps its quotes); ``domain`` is lower case in its ASCII
    (A-label) form, or an address literal in brackets.  Make one with `parse_address`.
    """

    local_part: str
    domain: str

    def __str__(self) -> str:
        return f"{self.local_part}@{self.domain}"

    @property
    def key(self) -> str:
        """What tables are looked up by: equal for all spellings of one mailbox."""
        return f"{self.name.casefold()}@{self.domain}"

    @property
    def name(self) -> str:
        """The local part as it is meant: without the quotes and backslashes that only the grammar needs."""
        return _unquoted(self.local_part)

    @property
    def is_ascii(self) -> bool:
        """Whether the address can be written without SMTPUTF8 (RFC 6531)."""
        return self.local_part.isascii()


def parse_address(text: str, *, utf8: bool = True) -> Address:
    """Return the `Address` that ``text`` (``local@domain``, no angle brackets) spells.

    ``utf8`` says whether characters outside ASCII may stand in it (RFC 6531).
    Raises `AddressError` with a sentence for the user.
    """
    # The last "@" that can be the separator: a quoted local part may hold others.
    local_part, at, domain = text.rpartition("@")
    if not at or not local_part:
        raise AddressError(f"{_shown(text)} is not a mail address: it has the form name@domain")
    if not utf8 and not text.isascii():
        raise AddressError("the address holds characters outside ASCII")
    if not (_DOT_STRING.match(local_part) or _QUOTED_STRING.match(local_part)):
        raise AddressError(f"{_shown(local_part)} is not a valid part before the @ of a mail address")
    if _encoded_length(local_part) > LOCAL_PART_LIMIT:
        raise AddressError(f"the part before the @ is longer than {LOCAL_PART_LIMIT} octets")
    address = Address(local_part, _parse_host(domain))
    if _encoded_length(str(address)) > PATH_LIMIT:
        raise AddressError(f"the address is longer than {PATH_LIMIT} octets")
    return address


@lru_cache(1024)  # mail goes to few domains, and their labels are most of the work of an address
def parse_domain(text: str) -> str:
    """Return the domain name ``text`` in lower case and ASCII (A-label) form; an address literal is refused.

    Raises `AddressError` with a sentence for the user.
    """
    name = text.lower()
    if not name.isascii() and len(text) <= DOMAIN_LIMIT:
        try:
            name = idna.encode(text, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise AddressError(f"{_shown(text)} is not a valid domain name: {_shown(str(error))}") from None
    labels = name.split(".")
    # A name of digits only would be read as an IPv4 address by many programs.
    if len(name) > DOMAIN_LIMIT or not all(_LABEL.match(label) for label in labels) or labels[-1].isdigit():
        raise AddressError(f"{_shown(text)} is not a valid domain name")
    return name


def _parse_host(text: str) -> str:
    if text.startswith("["):
        return parse_address_literal(text)
    return parse_domain(text)


def parse_address_literal(text: str) -> str:
    """Return the address literal ``[192.0.2.1]`` or ``[IPv6:2001:db8::1]`` in canonical form (RFC 5321, 4.1.3)."""
    inner = text[1:-1]
    try:
        if not (text.startswith("[") and text.endswith("]")) or "%" in inner:
            raise ValueError
        if inner[:5].lower() == "ipv6:":
            return f"[IPv6:{ipaddress.IPv6Address(inner[5:])}]"
        return f"[{ipaddress.IPv4Address(inner)}]"
    except ValueError:
        raise AddressError(f"{_shown(text)} is not a valid address literal") from None


def _unquoted(local_part: str) -> str:
    if local_part.startswith('"'):
        return re.sub(r"\\(.)", r"\1", local_part[1:-1])
    return local_part


def _encoded_length(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _shown(text: str) -> str:
    """``text`` for a message: quoted, escaped to ASCII, and short."""
    cut = text if len(text) <= 80 else text[:77] + "..."
    return ascii(cut)
