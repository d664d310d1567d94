"""Who wants TLS reports of a domain: the TXT record at ``_smtp._tls.DOMAIN`` (RFC 8460 section 3).

Pure.  The hardest idea is that the record is a stranger's wish for traffic: it may name any mailbox and any web server
of the world.  So few places are taken of it, a web server only by the name that its certificate must bear and on the
port of HTTPS, and a mailbox only where its address is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from mailsvc.mail.address import Address, AddressError, parse_address, parse_domain

MOST_PLACES = 3
"""Places of one record that get a report."""

URL_LIMIT = 500


@dataclass(frozen=True, slots=True)
class Places:
    """Where reports go: mailboxes, and web servers (URLs)."""

    mailboxes: tuple[Address, ...] = ()
    urls: tuple[str, ...] = ()


def places(texts: Iterable[str]) -> Places:
    """What the TXT records say; nothing when there is no record, more than one, or one that cannot be read."""
    ours = [text for text in texts if re.match(r"v=TLSRPTv1\s*(;|\Z)", text)]
    if len(ours) != 1:
        return Places()
    fields = [part.partition("=") for part in ours[0].split(";")[1:] if part.strip()]
    wanted = [value for name, _, value in fields if name.strip() == "rua"]
    mailboxes: list[Address] = []
    urls: list[str] = []
    for uri in (wanted[0].split(",") if len(wanted) == 1 else [])[:MOST_PLACES]:
        uri = uri.strip()
        scheme = uri.partition(":")[0].lower()
        if scheme == "mailto" and (mailbox := _mailbox(uri)) is not None:
            mailboxes.append(mailbox)
        elif scheme == "https" and _is_url(uri):
            urls.append(uri)
    return Places(tuple(dict.fromkeys(mailboxes)), tuple(dict.fromkeys(urls)))


def _mailbox(uri: str) -> Address | None:
    try:
        return parse_address(unquote(uri.partition(":")[2].partition("?")[0], errors="strict"), utf8=False)
    except (AddressError, UnicodeDecodeError):
        return None


def _is_url(uri: str) -> bool:
    if len(uri) > URL_LIMIT or not uri.isascii() or not uri.isprintable() or re.search(r"[\s\\<>\"]", uri):
        return False
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "", parts.port
        return parts.username is None and port in (None, 443) and parse_domain(host) == host and "." in host
    except (ValueError, AddressError):
        return False
