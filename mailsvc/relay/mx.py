"""Where the mail of a domain is: its MX hosts and their addresses, looked up, in the order to try them.

The order is `mailsvc.relay.hosts`, remembering answers `mailsvc.relay.answers`.  An address literal
(``[192.0.2.1]``) needs no looking up (RFC 5321 section 4.1.3).

The hardest idea is which failures end a message.  "There is no such domain", "it has a null MX" and "its MX hosts have
no address" are answers, and the sender shall hear them now.  That nobody answered is none, and the mail waits (RFC 5321
section 5.1); a mistake here would bounce everything during an outage of the resolver.

What DNS says comes from strangers.  An MX record may name an address of this very machine, or of a network that only
this machine can reach in such a way; those addresses are left out (`mailsvc.relay.reach`).  That the former is a
mistake is certain.  The latter may be the postmaster's own domain in his own network, which he has not allowed yet: so
that mail waits.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from random import Random

from mailsvc.relay.hosts import Exchanger, NoHosts, ordered_addresses, ordered_hosts
from mailsvc.relay.reach import Reach, networks, reach_of
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
    """Looks hosts up.

    ``ours``: the names of this host, in lower case.  ``private``: networks that are not of the internet, and to which
    mail goes all the same when DNS says so (``relay.private_networks``); a text that is no network is ValueError.
    """

    def __init__(
        self, resolver: Resolver, ours: Collection[str], random: Random, *, private: Collection[str] = ()
    ) -> None:
        self._resolver = resolver
        self._ours = frozenset(ours)
        self._random = random
        self._private = networks(private)

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
        places = {each: reach_of(each, self._private) for each in addresses}
        usable = [each for each, (reach, _) in places.items() if reach is Reach.WORLD]
        if usable:
            return ordered_addresses(usable, self._random)
        for address, (reach, words) in places.items():
            if reach is Reach.INSIDE:
                why = (
                    f"the host {host} of {found.domain} has no address but {address}, which is in {words}: mail goes"
                    " there by a route, or when relay.private_networks names that network"
                )
                return NoHosts(why, False, "4.4.4")
        why = f"the host {host} of {found.domain} has no address but {addresses[0]}, which is this machine itself"
        return NoHosts(why, True, "5.4.6")
