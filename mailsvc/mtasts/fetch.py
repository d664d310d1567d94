"""Asks a domain for its MTA-STS policy: the TXT record, then the policy over verified HTTPS (RFC 8461 section 3.3).

What the texts mean is `mailsvc.mtasts.record`; keeping a policy for its max_age is the caller's.

The hardest idea is how little may be believed on the way.  The record needs no DNSSEC, because it only says *that*
there is a policy; the policy's truth is the certificate of ``mta-sts.DOMAIN`` alone.  So the fetch demands a verified
name, follows no redirect (it would lend the policy to another host), takes no other status than 200 and no other type
than text/plain (who may upload files to a web server must not make policies by it), and reads so many octets in so many
seconds.
"""

from __future__ import annotations

from typing import Any

from mailsvc.mtasts.record import POLICY_LIMIT, PolicyError, StsPolicy, parse_policy, record_id
from mailsvc.relay.demands import StsFacts
from mailsvc.resolver import Resolver, Unanswered
from mailsvc.tls.client import ClientTLS
from mailsvc.tls.https import Connect, FetchFailed, get

__all__ = ["SECONDS", "Connect", "FetchFailed", "fetch_policy", "sts_facts"]

SECONDS = 60.0
"""How long a fetch may take in all (section 3.3)."""


async def sts_facts(
    domain: str,
    resolver: Resolver,
    tls: ClientTLS,
    reactor: Any,
    *,
    connect: Connect | None = None,
    seconds: float = SECONDS,
) -> StsFacts:
    """What MTA-STS says of ``domain`` (A-labels) now.  Never raises: what could not be had is in `StsFacts.remark`.

    ``tls`` must demand `Level.NAME`.
    """
    place = f"_mta-sts.{domain}"
    try:
        found = record_id((await resolver.texts(place)).records)
    except Unanswered as why:
        return StsFacts(domain, remark=str(why))
    except PolicyError as why:
        return StsFacts(domain, remark=f"{place}: {why}, so it counts as none")
    if found is None:
        return StsFacts(domain, remark=f"{domain} has no MTA-STS (there is no record at {place})")
    try:
        policy = await fetch_policy(domain, tls, reactor, connect=connect, seconds=seconds)
    except FetchFailed as why:
        return StsFacts(domain, found, remark=str(why))
    return StsFacts(domain, found, policy)


async def fetch_policy(
    domain: str, tls: ClientTLS, reactor: Any, *, connect: Connect | None = None, seconds: float = SECONDS
) -> StsPolicy:
    """The policy of ``domain`` from its web server.  Raises `FetchFailed`."""
    url = f"https://mta-sts.{domain}/.well-known/mta-sts.txt"
    answer = await get(url, tls, reactor, kind="text/plain", limit=POLICY_LIMIT, seconds=seconds, connect=connect)
    try:
        return parse_policy(answer.body)
    except PolicyError as why:
        raise FetchFailed(f"{url}: {why}") from None
