"""Which hosts of a domain are tried, in which order: the rules of RFC 5321 section 5.1 as pure functions.

Looking up is left to `mailsvc.relay.mx`.  What comes in are the MX records (or that there are none) and the addresses
of hosts; what comes out is a list of hosts, and for each a bounded list of addresses.

The hardest idea is the loop.  A host that finds itself among the MX hosts of a domain, and sends to another one of the
same or a worse preference, gets its mail back from there.  So everything from our own preference on is left out (RFC
5321 section 5.1); when nothing is left, mail for this domain was to be *here*, and that is a mistake of a postmaster's
that no retry heals.  The one exception is a backup MX, which is that list on purpose and waits for the better ones.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from random import Random

MOST_HOSTS = 8
"""MX hosts that are tried in one attempt (RFC 5321 section 5.1 wants two at least)."""

MOST_ADDRESSES = 4
"""Addresses of one host that are tried in one attempt."""


@dataclass(frozen=True, slots=True)
class Exchanger:
    """One MX record, or the domain itself where it has none; ``host`` "" is the null MX (RFC 7505)."""

    preference: int
    host: str


@dataclass(frozen=True, slots=True)
class NoHosts:
    """There is no host to send to.  ``permanent``: no retry heals it.  ``enhanced``: the status code of RFC 3463."""

    why: str
    permanent: bool
    enhanced: str


def ordered_hosts(
    domain: str, found: Iterable[Exchanger], ours: Collection[str], random: Random, *, backup: bool = False
) -> tuple[str, ...] | NoHosts:
    """The hosts to try for ``domain``, the best first, those of one preference in random order.

    ``found``: its MX records, empty when DNS says that it has none: then the domain itself is its host (the implicit
    MX).  ``ours``: the names of this host, in lower case.  ``backup``: we are meant to be among the MX hosts and to
    send to better ones only; when there are none better, that is a mistake that may be mended soon, not for ever.
    """
    records = list(found) or [Exchanger(0, domain)]
    if any(not each.host for each in records):
        if len(records) == 1:
            return NoHosts(f"{domain} takes no mail: it says so with a null MX", True, "5.1.10")
        records = [each for each in records if each.host]
    own = [each.preference for each in records if each.host in ours]
    if own:
        records = [each for each in records if each.preference < min(own)]
        if not records and backup:
            return NoHosts(f"this host is the best MX of {domain}, and a backup must have a better one", False, "4.4.4")
        if not records:
            why = f"the MX records of {domain} point to this host, which does not take its mail"
            return NoHosts(why, True, "5.4.6")
    elif backup:
        return NoHosts(f"none of the MX hosts of {domain} is this host, so nobody is better than it", False, "4.4.4")
    records.sort(key=lambda each: each.preference)
    hosts: list[str] = []
    for _, same in groupby(records, key=lambda each: each.preference):
        names = list(dict.fromkeys(each.host for each in same))
        random.shuffle(names)
        hosts += names
    return tuple(dict.fromkeys(hosts))[:MOST_HOSTS]


def ordered_addresses(addresses: Sequence[str], random: Random) -> tuple[str, ...]:
    """The addresses of one host to try: IPv6 and IPv4 in turn, IPv6 first (RFC 8305 section 4, RFC 5321 section 5.2).

    In turn, so that a host whose IPv6 does not work costs one attempt and not all of them.  Random within each family,
    which is how several addresses share the load.  What is no address is left out.
    """
    families: dict[int, list[str]] = {6: [], 4: []}
    for text in dict.fromkeys(addresses):
        try:
            families[ipaddress.ip_address(text).version].append(text)
        except ValueError:
            continue
    for family in families.values():
        random.shuffle(family)
    mixed = zip_longest(families[6], families[4])
    return tuple(text for pair in mixed for text in pair if text is not None)[:MOST_ADDRESSES]
