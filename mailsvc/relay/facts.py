"""What DNS says of a mail host, for `mailsvc.relay.demands`: its TLSA records, and whose mail it takes.

The hardest idea is the order of the questions (RFC 7672 section 2.2.2).  TLSA is asked for only when DNSSEC vouches for
the host's addresses: a name server that fails on a type it does not know is common in zones that are not signed, and
would hold up mail for nothing; in a signed one the same failure is what an attacker would send.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailsvc.relay.demands import DaneFacts
from mailsvc.resolver import Answer, Resolver, Unanswered


@dataclass(frozen=True, slots=True)
class MailDomain:
    """A domain whose MX records name a host; ``authentic``: DNSSEC vouches for them, ``doubt``: why it does not."""

    name: str
    authentic: bool = False
    doubt: str = ""


async def dane_facts(host: str, port: int, resolver: Resolver) -> DaneFacts:
    """What is published for TLS at this host and port.  Never raises."""
    if resolver.doubt:
        return DaneFacts(remark=resolver.doubt)
    try:
        addresses = await resolver.addresses(host)
    except Unanswered as why:
        return DaneFacts(obstacle=str(why))
    if not addresses.authentic:
        return DaneFacts(remark=addresses.doubt)
    # RFC 7672 section 2.2.2: the name at the end of the aliases first, then the one they began with.
    names = dict.fromkeys((addresses.canonical or host, host))
    places = [f"_{port}._tcp.{name}" for name in names]
    for place in places:
        try:
            found = await resolver.tlsa(place)
        except Unanswered as why:
            return DaneFacts(place, obstacle=str(why))
        if found.records and not found.authentic:
            return DaneFacts(place, remark=found.doubt)
        if found.records:
            return DaneFacts(place, found.records)
    return DaneFacts(places[0], remark=f"there are no TLSA records at {places[0]}")


async def mail_domain(host: str, resolver: Resolver, *, named: str = "") -> MailDomain | None:
    """The domain ``named``, or else the one of ``host`` or above it whose MX records name ``host``; None for none."""
    candidates = [named] if named else [host, *([host.partition(".")[2]] if host.count(".") > 1 else [])]
    for domain in candidates:
        try:
            found = await resolver.mail_hosts(domain)
        except Unanswered as why:
            found = Answer(doubt=str(why))
        if named or any(each.host == host for each in found.records):
            return MailDomain(domain, found.authentic, found.doubt)
    return None
