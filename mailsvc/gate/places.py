"""How many connections one client may have: counters, and what counts as one client.

Pure: `mailsvc.wire.sessions` keeps the connections and asks here.

The hardest idea is what "one client" means.  An IPv4 address is one customer (or one NAT), but an IPv6 customer has a
whole /64 and may use another address of it each time; so what is counted as an *address* is an IPv4 address or an IPv6
/64, and as a *network* the IPv4 /24 or IPv6 /48 around it, which is what one hoster or one company usually gets.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from mailsvc.accounts.throttle import network as customer

_AROUND = {4: 24, 6: 48}


@lru_cache(4096)
def address_of(peer: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that ``peer`` names (a mapped one as IPv4, without a zone), or None."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@lru_cache(4096)
def neighbourhood(peer: str) -> str:
    """The network around a peer: its IPv4 /24 or IPv6 /48; what is no IP address is its own."""
    address = address_of(peer)
    if address is None:
        return customer(peer)
    return str(ipaddress.ip_network((address, _AROUND[address.version]), strict=False))


class Trusted:
    """The networks that the postmaster trusts; ``local`` (a UNIX socket) always is."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(text, strict=False) for text in networks)
        self._known = lru_cache(4096)(self._holds)

    def __contains__(self, peer: str) -> bool:
        return self._known(peer)

    def _holds(self, peer: str) -> bool:
        address = address_of(peer)
        return peer == "local" if address is None else any(address in each for each in self._networks)


@dataclass(frozen=True, slots=True)
class Shares:
    """The most connections of one address and of one network; ``trusted`` clients have no such limit."""

    address: int
    network: int
    trusted: Trusted


class Places:
    """Counts the connections of each address and network."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._addresses: Counter[str] = Counter()
        self._networks: Counter[str] = Counter()

    def refusal(self, peer: str) -> str | None:
        """Why ``peer`` cannot have one more connection, or None."""
        if peer in self._shares.trusted:
            return None
        if self._addresses[customer(peer)] >= self._shares.address:
            return "too many connections from your address"
        if self._networks[neighbourhood(peer)] >= self._shares.network:
            return "too many connections from your network"
        return None

    def take(self, peer: str) -> None:
        """One more connection of ``peer``."""
        self._addresses[customer(peer)] += 1
        self._networks[neighbourhood(peer)] += 1

    def leave(self, peer: str) -> None:
        """One connection less; nothing is remembered of a client that has none."""
        for counter, key in ((self._addresses, customer(peer)), (self._networks, neighbourhood(peer))):
            counter[key] -= 1
            if counter[key] <= 0:
                del counter[key]

    def __len__(self) -> int:
        return len(self._addresses)
