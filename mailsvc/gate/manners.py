"""What a client's first words tell: the checks of HELO, and words of other protocols.

Pure.  `mailsvc.gate.watch` asks, and does what the postmaster has chosen for each finding.

The hardest idea is restraint.  RFC 5321 section 4.1.4 forbids to refuse mail because the name in EHLO is not the one
that the client's address leads to, and honest hosts get their name wrong every day.  So nothing is looked up here; only
what no honest host on the Internet says is found: no name at all, our own name, an address that is not the client's.
Each is off until it is switched on, and can be noted for a while before it refuses.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mailsvc.gate.places import address_of
from mailsvc.mail.reply import Reply, reply

_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")

FOREIGN = frozenset(["GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "PRI"])
"""HTTP (RFC 9110, RFC 9113): a browser that a web page has sent here must not get to the mail behind its header."""

NO_NAME = "no full name"
OUR_NAME = "our own name"
OTHER_ADDRESS = "an address that is not the client's"


@dataclass(frozen=True, slots=True)
class Actions:
    """What follows from a finding: "off", "note" or "refuse"."""

    syntax: str = "off"
    own_name: str = "off"
    literal: str = "off"

    def of(self, finding: str) -> str:
        """The action for one of the findings of this module."""
        return {NO_NAME: self.syntax, OUR_NAME: self.own_name, OTHER_ADDRESS: self.literal}[finding]


REFUSALS: Mapping[str, Reply] = {
    NO_NAME: reply(550, "5.7.1", "Say your full host name, or an address literal"),
    OUR_NAME: reply(550, "5.7.1", "That is our own name, not yours"),
    OTHER_ADDRESS: reply(550, "5.7.1", "That is not the address that you come from"),
}


def finding(name: str, peer: str, hostname: str) -> str | None:
    """What is wrong with the ``name`` that ``peer`` has given itself in EHLO to ``hostname``, or None."""
    if name.startswith("["):
        literal = _literal(name)
        if literal is None:
            return NO_NAME
        return None if literal == address_of(peer) else OTHER_ADDRESS
    bare = name.lower().removesuffix(".")
    if bare == hostname.lower():
        return OUR_NAME
    labels = bare.split(".")
    # An address without brackets ends in a number, which no name does (RFC 3696 section 2).
    full = len(labels) > 1 and len(bare) <= 253 and not labels[-1].isdigit()
    return None if full and all(_LABEL.fullmatch(label) for label in labels) else NO_NAME


def _literal(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address of an address literal (RFC 5321 section 4.1.3), or None when it is none."""
    if not text.endswith("]"):
        return None
    inside = text[1:-1]
    is_6 = inside[:5].lower() == "ipv6:"
    address = address_of(inside[5:] if is_6 else inside)
    return address if address is None or is_6 == (":" in inside[5:]) else None
