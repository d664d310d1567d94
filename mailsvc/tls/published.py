"""Does a new certificate still fit the TLSA records that are published for this service (RFC 7672)?

Senders that use DANE refuse a server whose certificate does not match, so a renewal with another key, and the record
not yet changed, is an outage; that is found here before it goes live.  The matching itself is `mailsvc.tls.dane`.

The hardest idea is whom to believe.  TLSA records mean something only when DNSSEC vouches for them, and the flag that
says so (AD) can be believed only of a resolver on this very machine: anybody on the way could have set it.  With
another resolver, or records that nobody signed, nothing is checked, and that is said, because "not checked" must never
look like "checked".  Everything here blocks, and runs in a thread.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import dns.exception
import dns.flags
import dns.rdatatype
import dns.resolver

from mailsvc.certkit.names import normal
from mailsvc.tls.credential import Credential
from mailsvc.tls.dane import TLSARecord, match_tlsa

PORTS = (25, 465, 587)
"""Where senders and mail programs look for our TLSA records, wherever the listeners are behind a gateway."""

MOST_NAMES = 10
SECONDS = 5.0
"""How long one question may take."""


class NotChecked(Exception):
    """It cannot be known what is published; the text says why."""


class Lookup(Protocol):
    """Asks for TLSA records."""

    def __call__(self, name: str) -> Sequence[TLSARecord]:
        """The records of ``name`` that DNSSEC vouches for, none when there are none.  Raises `NotChecked`."""


@dataclass(frozen=True, slots=True)
class Fit:
    """``unfit``: why the certificate must not go live, "" when nothing says so.  ``remark``: what was not checked."""

    unfit: str = ""
    remark: str = ""
    matched: tuple[str, ...] = ()


def local_lookup(resolv_conf: Path = Path("/etc/resolv.conf")) -> Lookup:
    """A lookup that asks the resolvers of this file, and refuses to unless all of them are on this machine."""
    try:
        resolver = dns.resolver.Resolver(str(resolv_conf))
    except (OSError, dns.exception.DNSException) as error:
        return _refusing(f"{resolv_conf} names no resolver ({type(error).__name__})")
    strangers = [str(server) for server in resolver.nameservers if not _is_here(str(server))]
    if strangers or not resolver.nameservers:
        return _refusing(f"the resolver {', '.join(strangers) or 'is missing'} is not on this machine")
    resolver.use_edns(0, dns.flags.DO, 1232)
    resolver.flags = dns.flags.RD | dns.flags.AD
    resolver.search = []
    resolver.lifetime = SECONDS
    return lambda name: _asked(resolver, name)


def check(credential: Credential, hostname: str, lookup: Lookup, now: datetime) -> Fit:
    """Hold a credential against every record that is published for its names; blocks.  ``now`` is aware of its zone."""
    # The host name first: it is what MX records lead to.
    first = [normal(hostname)] if credential.names.cover(hostname) else []
    names = list(dict.fromkeys(first + [name for name in credential.names.hosts if not name.startswith("*.")]))
    matched: list[str] = []
    for name in names[:MOST_NAMES]:
        for port in PORTS:
            place = f"_{port}._tcp.{name}"
            try:
                records = lookup(place)
            except NotChecked as problem:
                return Fit(remark=f"what is published for it (TLSA) was not checked: {problem}", matched=tuple(matched))
            result = match_tlsa(credential.chain, records, [name], now)
            if result.matched:
                matched.append(place)
            elif result.usable:
                shown = "; ".join(str(record) for record in records[:3])
                return Fit(
                    f"the TLSA records published at {place} do not match it ({shown}), so senders with DANE would"
                    " refuse this service; publish a record for the new certificate and wait until the old is gone"
                    " from caches, or go on with the old key"
                )
    left = names[MOST_NAMES:]
    remark = f"what is published (TLSA) for {len(left)} further names was not checked" if left else ""
    return Fit(remark=remark, matched=tuple(matched))


def _refusing(why: str) -> Lookup:
    def refuse(name: str) -> Sequence[TLSARecord]:
        raise NotChecked(why)

    return refuse


def _asked(resolver: dns.resolver.Resolver, name: str) -> Sequence[TLSARecord]:
    try:
        answer = resolver.resolve(f"{name}.", dns.rdatatype.TLSA, raise_on_no_answer=False)
    except dns.resolver.NXDOMAIN:
        return []
    except (dns.exception.DNSException, OSError) as error:
        raise NotChecked(f"{name} could not be looked up ({type(error).__name__})") from error
    if answer.rrset is None:
        return []
    if not answer.response.flags & dns.flags.AD:
        raise NotChecked(f"the records of {name} are not signed, or the resolver does not check signatures")
    return [TLSARecord(each.usage, each.selector, each.mtype, each.cert) for each in answer.rrset]


def _is_here(server: str) -> bool:
    try:
        return ipaddress.ip_address(server).is_loopback
    except ValueError:
        return False
