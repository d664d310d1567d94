"""To which addresses mail goes because DNS says so: those of the internet, and networks that the postmaster names.

Pure; asked by `mailsvc.relay.mx` for every address of an MX host.  A relay that a route's URL names is the postmaster's
own word, and nobody asks here.

The hardest idea is whose word an address is.  Anybody may publish an MX record that points to 10.0.0.1, and then write
to his own domain: this machine, which stands inside the operator's network, would talk to whatever listens there.  So
what is not an address of the internet is left alone, in all spellings: an IPv6 address may have an IPv4 address inside,
to which a gateway or the kernel leads.  The table is ours and not Python's `ipaddress.is_global`, because that says
different things in different releases of one Python version.  It follows IANA's special-purpose registries (RFC 6890).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Network = IPv4Network | IPv6Network


class Reach(Enum):
    """Where an address is."""

    WORLD = "in the internet"
    INSIDE = "in a network that is not of the internet"
    HERE = "this machine, or one that only its own links know"


_PRIVATE = "a private network (RFC 1918)"
_DOCUMENTATION = "a network for documentation"
_HERE = "this machine itself, or a neighbour on one link"

_TABLE: tuple[tuple[Network, Reach, str], ...] = tuple(
    (ipaddress.ip_network(text), reach, words)
    for reach, words, networks in (
        (Reach.HERE, _HERE, "0.0.0.0/8 127.0.0.0/8 169.254.0.0/16 224.0.0.0/4 ::/127 fe80::/10 ff00::/8"),
        (Reach.INSIDE, _PRIVATE, "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16"),
        (Reach.INSIDE, "the shared network of a provider (RFC 6598)", "100.64.0.0/10"),
        (
            Reach.INSIDE,
            _DOCUMENTATION,
            "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20",
        ),
        (Reach.INSIDE, "a network for measurements (RFC 2544)", "198.18.0.0/15 2001:2::/48"),
        (Reach.INSIDE, "a reserved network", "192.0.0.0/24 240.0.0.0/4 2001::/23"),
        (Reach.INSIDE, "a private network (RFC 4193)", "fc00::/7 fec0::/10"),
    )
    for text in networks.split()
)
_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_COMPATIBLE = IPv6Network("::/96")


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks from their texts, which a setting has checked.  Raises ValueError."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def reach_of(text: str, allowed: Iterable[Network] = ()) -> tuple[Reach, str]:
    """Where an address is, and a word for that; what is no address is nowhere to go to.

    ``allowed``: networks that count as the internet's, except this machine itself.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return Reach.HERE, "no address"
    forms = _forms(address)
    found = [_one(each) for each in forms]
    # The worst of them: what a gateway makes of an address is not known here.
    worst = next((each for each in found if each[0] is Reach.HERE), None)
    worst = worst or next((each for each in found if each[0] is Reach.INSIDE), found[0])
    if worst[0] is Reach.INSIDE and any(form in network for form in forms for network in allowed):
        return Reach.WORLD, Reach.WORLD.value
    return worst


def _forms(address: IPv4Address | IPv6Address) -> tuple[IPv4Address | IPv6Address, ...]:
    """The address, or the IPv4 address inside it and itself where both can be meant."""
    if isinstance(address, IPv4Address):
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address, address.sixtofour)
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 0xFFFF):
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    return (address,)


def _one(address: IPv4Address | IPv6Address) -> tuple[Reach, str]:
    for network, reach, words in _TABLE:
        if address in network:
            return reach, words
    if isinstance(address, IPv6Address) and address not in _UNICAST:
        return Reach.INSIDE, "a network that nobody has in the internet (RFC 4291 section 2.4)"
    return Reach.WORLD, Reach.WORLD.value
