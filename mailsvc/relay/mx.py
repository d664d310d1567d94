"""Where the mail of a domain is: its MX hosts and their addresses, looked up, in the order to try them.

The order is `mailsvc.relay.hosts`, remembering answers `mailsvc.relay.answers`.  An address literal
(``[192.0.2.1]``) needs no looking up (RFC 5321 section 4.1.3).

The hardest idea is which failures end a message.  "There is no such domain", "it has a null MX" and "its MX hosts have
no address" are answers, and the sender shall hear them now.  That nobody answered is none, and the mail waits (RFC 5321
section 5.1); a mistake here would bounce everything during an outage of the resolver.

What DNS says comes from strangers.  An MX record may name an address of this very machine, or of a network that only
this machine can reach in such a way; those addresses are left out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from random import Random

from mailsvc.relay.hosts import Exchanger, NoHosts, ordered_addresses, ordered_hosts
from mailsvc.resolver import Resolver, Unanswered


@dataclass(frozen=True, slots=True)
class Found:
    """The hosts of ``domain``, the best first.

    ``authentic``: DNSSEC vouches for this list; ``doubt`` says why it does not.  ``is_literal``: the domain is an
    address, and the one host is it.  ``implicit``: there are no MX records, and the domain itself is the host.
    """

    domain: str
    hosts: tuple[str, ...]
    authentic: bool = False
    doubt: str = ""
    is_literal: bool = False
    implicit: bool = False


class Exchangers:
    """Looks hosts up.  ``ours``: the names of this host, in lower case."""

    def __init__(self, resolver: Resolver, ours: Collection[str], random: Random) -> None:
        self._resolver = resolver
        self._ours = frozenset(ours)
        self._random = random

    async def of(self, domain: str, our_name: str = "") -> Found | NoHosts:
        """The hosts to try for ``domain``.  ``our_name``: the name under which we are its backup MX, "" for none.

        ``domain`` is an `mailsvc.mail.address.Address.domain`.  Never raises.
        """
        if domain.startswith("["):
            address = domain.strip("[]").removeprefix("IPv6:")
            return Found(domain, (address,), doubt="an address has no MX records", is_literal=True)
        try:
            answer = await self._resolver.mail_hosts(domain)
        except Unanswered as why:
            return NoHosts(str(why), False, "4.4.3")
        ours = self._ours | {our_name} if our_name else self._ours
        found = [Exchanger(each.preference, each.host) for each in answer.records]
        hosts = ordered_hosts(domain, found, ours, self._random, backup=bool(our_name))
        if isinstance(hosts, NoHosts):
            return hosts
        return Found(domain, hosts, answer.authentic, answer.doubt, implicit=not found)

    async def addresses(self, found: Found, host: str) -> tuple[str, ...] | NoHosts:
        """The addresses of one of the hosts, in the order to try them.  Never raises."""
        if found.is_literal:
            return self._usable(found, host, (host,))
        try:
            answer = await self._resolver.addresses(host)
        except Unanswered as why:
            return NoHosts(str(why), False, "4.4.3")
        if not answer.records:
            if found.implicit:
                return NoHosts(f"there is no mail domain {found.domain}: no MX record and no address", True, "5.1.2")
            return NoHosts(f"the MX host {host} of {found.domain} has no address", True, "5.4.4")
        return self._usable(found, host, answer.records)

    def _usable(self, found: Found, host: str, addresses: tuple[str, ...]) -> tuple[str, ...] | NoHosts:
        usable = [each for each in addresses if not _is_here(each)]
        if not usable:
            why = f"the host {host} of {found.domain} has no address but {addresses[0]}, which is this machine itself"
            return NoHosts(why, True, "5.4.6")
        return ordered_addresses(usable, self._random)


def _is_here(text: str) -> bool:
    """Whether it is an address of this machine, or one that only this machine's links understand."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return True
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local
