"""Forwarded mail gets a sender of ours, and a bounce finds its way back: the Sender Rewriting Scheme.

Mail for ``team@example.org`` that goes on to another server would come from us with a stranger's sender, which SPF (RFC
7208 section 2.4) lets that server refuse.  So the sender ``bob@example.net`` becomes
``SRS0=TAG=DAY=example.net=bob@example.org``, and a bounce to that address is forwarded to bob.  A sender that another
forwarder has rewritten becomes ``SRS1=TAG=FIRST==REST``, which leads back to that *first* forwarder, however many there
were.  There is no RFC; the paper of Meng Wong and Shevek is followed, as far as others look into such an address: they
know the prefixes and the order of the parts.

Why no library: those that exist take the time from the clock, and have a tag of 24 bits, which is what keeps strangers
from making such addresses themselves.  Ours has 30, from HMAC-SHA256, and the time is an argument.

The hardest idea: mail servers on the way may change the case of a local part.  So the tag and the day are base32, the
tag is made of the lower-case text, and what is lost is at most the case of bob's name.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field

from mailsvc.mail.address import Address, AddressError, parse_address

VALID_DAYS = 30
"""A bounce that is older goes nowhere: longer than anybody keeps trying, and an address that leaked has an end."""

_TAG = 6
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_DAYS = len(_DIGITS) ** 2
_ANY_CASE = re.I | re.A | re.S
_FIRST = re.compile(r"SRS0[=+-](?P<tag>[^=]+)=(?P<day>[a-z2-7]{2})=(?P<domain>[^=]+)=(?P<name>.+)\Z", _ANY_CASE)
_NEXT = re.compile(r"SRS1[=+-](?P<tag>[^=]+)=(?P<domain>[^=]+)=(?P<rest>[=+-].+)\Z", _ANY_CASE)
_REWRITTEN = re.compile(r"SRS([01])[=+-]", re.I | re.A)
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
"""Of ASCII only: beyond it there are letters that become ASCII, and another mailbox would have the same tag."""


@dataclass(frozen=True, slots=True)
class Rewriter:
    """Rewrites senders and reads such addresses again, with a secret that all servers of a domain share."""

    secret: bytes = field(repr=False)

    def forward(self, sender: Address, domain: str, now: float) -> Address | None:
        """The sender under which mail of ``sender`` goes on from ``domain``, a domain of ours.

        None when that has no room in a local part (RFC 5321 section 4.5.3.1.1).
        """
        name = sender.name
        if found := _NEXT.match(name):
            return self._next(found["domain"], found["rest"], domain)
        if _REWRITTEN.match(name):
            return self._next(sender.domain, name[4:], domain)
        rest = f"{_day(now)}={sender.domain}={name}"
        return _address(f"SRS0={self._tag(f'0{rest}')}={rest}", domain)

    def back(self, address: Address, now: float) -> Address | None:
        """Where a bounce to ``address`` belongs; None when it is none of ours, was changed, or is too old."""
        name = address.name
        if found := _FIRST.match(name):
            day, domain, local = found["day"], found["domain"], found["name"]
            if not self._is(found["tag"], f"0{day}={domain}={local}") or _age(day, now) > VALID_DAYS:
                return None
            return _address(local, domain)
        if found := _NEXT.match(name):
            domain, rest = found["domain"], found["rest"]
            return _address(f"SRS0{rest}", domain) if self._is(found["tag"], f"1{domain}={rest}") else None
        return None

    def _next(self, first: str, rest: str, domain: str) -> Address | None:
        return _address(f"SRS1={self._tag(f'1{first}={rest}')}={first}={rest}", domain)

    def _tag(self, text: str) -> str:
        digest = hmac.digest(self.secret, text.translate(_LOWER).encode("utf-8", "surrogatepass"), hashlib.sha256)
        return base64.b32encode(digest).decode("ascii")[:_TAG]

    def _is(self, tag: str, text: str) -> bool:
        return hmac.compare_digest(tag.upper().encode("utf-8", "surrogatepass"), self._tag(text).encode())


def is_rewritten(address: Address) -> bool:
    """Whether the address looks like one that a forwarder has made."""
    return _REWRITTEN.match(address.name) is not None


def _day(now: float) -> str:
    high, low = divmod(int(now // 86400) % _DAYS, len(_DIGITS))
    return _DIGITS[high] + _DIGITS[low]


def _age(day: str, now: float) -> int:
    """Days since ``day``; what seems to come from tomorrow, from a server whose clock is ahead, is new."""
    high, low = (_DIGITS.index(digit) for digit in day.upper())
    age = (int(now // 86400) - high * len(_DIGITS) - low) % _DAYS
    return 0 if age == _DAYS - 1 else age


def _address(name: str, domain: str) -> Address | None:
    """The address whose unquoted local part is ``name``; None when there can be none."""
    quoted = re.sub(r'(["\\])', r"\\\1", name)
    for local in (name, f'"{quoted}"'):
        try:
            address = parse_address(f"{local}@{domain}")
        except AddressError:
            continue
        # A name with an @ in it would come apart elsewhere.
        if address.name == name:
            return address
    return None
