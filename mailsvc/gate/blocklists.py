"""DNS blocklists (RFC 5782) as values: what is asked, what an answer means, and what all of them come to.

Pure: `mailsvc.gate.lookup` asks the DNS.

The hardest idea: an answer may be a lie.  A list that is shut down or sold may answer everything; a list that takes its
client for a public resolver answers 127.255.255.x (an error, not a listing).  So only 127.0.0.0/8 without those counts
(RFC 5782 section 2.1), a list that does not answer counts nothing, and no list need decide alone: each has a weight,
which may be negative (a list of good hosts), and only the sum is compared with the threshold.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mailsvc.gate.places import address_of

_LISTED = ipaddress.IPv4Network("127.0.0.0/8")
_ERRORS = ipaddress.IPv4Network("127.255.255.0/24")


@dataclass(frozen=True, slots=True)
class Blocklist:
    """One list: its DNS ``zone``, and what a listing there weighs."""

    zone: str
    weight: int = 1


def blocklist(text: str) -> Blocklist:
    """The list that the settings name as ``zone`` or ``zone*weight``."""
    zone, _, weight = text.partition("*")
    return Blocklist(zone.lower(), int(weight or 1))


def question(peer: str, zone: str) -> str | None:
    """The name to look up for ``peer`` in a list (RFC 5782 sections 2.1 and 2.4); None when it has no IP address."""
    address = address_of(peer)
    if address is None:
        return None
    labels = address.reverse_pointer.split(".")[:-2]
    return ".".join([*labels, zone])


def is_listing(answers: Iterable[str]) -> bool:
    """Whether these addresses, as a list has answered them, say that the client is listed."""
    found = [address for text in answers if isinstance(address := address_of(text), ipaddress.IPv4Address)]
    return any(address in _LISTED and address not in _ERRORS for address in found)


@dataclass(frozen=True, slots=True)
class Standing:
    """What all lists say of a client: the sum of the weights, where it is listed, and who gave no answer."""

    score: int = 0
    listed: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"listed in {', '.join(self.listed)}" if self.listed else "not listed"
        silent = f"; no answer from {', '.join(self.silent)}" if self.silent else ""
        return f"{where} (score {self.score}){silent}"


def standing(lists: Iterable[Blocklist], answers: Mapping[str, bool | None]) -> Standing:
    """The sum: ``answers`` says for each zone whether the client is listed, None when nobody knows."""
    lists = tuple(lists)
    listed = tuple(each for each in lists if answers.get(each.zone))
    silent = tuple(each.zone for each in lists if answers.get(each.zone) is None)
    return Standing(sum(each.weight for each in listed), tuple(each.zone for each in listed), silent)
