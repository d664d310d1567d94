"""Asks a primary for the list of a domain: one HTTPS question with our client certificate.

What must be proved by both sides is in the URL (`mailsvc.backup.place`); the question itself is
`mailsvc.tls.https`.  A list that has not changed is not sent again (ETag, RFC 9110 section 8.8.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mailsvc.backup.forms import RecipientList
from mailsvc.backup.listing import LIST_LIMIT, ListError, read_list
from mailsvc.backup.place import list_url
from mailsvc.relay.url import Relay
from mailsvc.tls.client import ClientTLS
from mailsvc.tls.https import Connect, FetchFailed, get

SECONDS = 120.0
"""How long a fetch may take in all; the primary may have to make a long list."""

KIND = "application/json"

_CURES = {
    403: "it does not offer this list to our certificate; there, `mailsvc backup offers` shows to whom and for what",
    404: "it has no such list; there, `mailsvc backup offers` shows what it offers",
    503: "it cannot make the list now; its log says why",
}


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the primary answered: a list with the stamp of this version, or None for the one that we have."""

    found: RecipientList | None
    stamp: str


async def fetch_list(
    primary: Relay,
    domain: str,
    stamp: str,
    tls: ClientTLS,
    reactor: Any,
    *,
    connect: Connect | None = None,
    seconds: float = SECONDS,
) -> Fetched:
    """The list of ``domain``, if it is another one than that of ``stamp``.  Raises `FetchFailed`."""
    url = list_url(primary, domain)
    headers = {"If-None-Match": stamp} if stamp else {}
    also = (304, *_CURES)
    answer = await get(
        url, tls, reactor, kind=KIND, limit=LIST_LIMIT, seconds=seconds, also=also, headers=headers, connect=connect
    )
    if answer.code == 304:
        if not stamp:
            raise FetchFailed(f"{url}: the server says that nothing has changed, and we have nothing")
        return Fetched(None, stamp)
    if answer.code in _CURES:
        raise FetchFailed(f"{url}: the server answers {answer.code}: {_CURES[answer.code]}")
    try:
        found = read_list(answer.body, domain)
    except ListError as why:
        raise FetchFailed(f"{url}: {why}") from None
    return Fetched(found, answer.tag if answer.tag.isascii() and answer.tag.isprintable() else "")
