"""App passwords: generated, one for each program or device, shown once, revoked alone.

They are kept as plain SHA-256 and not as argon2id, on purpose.  A slow hash makes guesses dear where a password is
somebody's choice; this is 120 random bits, which nobody guesses at any price.  A fast one lets a login be held against
all app passwords of an account at once, in microseconds and before argon2id is asked, so that fifty of them cost no
more than one, and an account with some takes no other time to refuse a wrong password than one without.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from typing import Protocol, TypeVar

RANDOM = 15
"""Octets of randomness in an app password."""

PROTOCOLS = ("smtp", "pop3")


class Kept(Protocol):
    """What is kept of an app password."""

    @property
    def digest(self) -> str:
        """What `digest` gave."""

    @property
    def only(self) -> str:
        """The protocol it is good for, "" for all."""


K = TypeVar("K", bound=Kept)


def app_password(random: bytes) -> str:
    """The password that `RANDOM` random octets make: lower case and digits in four groups, so that it can be typed."""
    text = base64.b32encode(random).decode("ascii").lower()
    return "-".join(text[start : start + 6] for start in range(0, len(text), 6))


def digest(password: bytes) -> str:
    """What is kept of it."""
    return hashlib.sha256(b"mailsvc app password\0" + password).hexdigest()


def matching(password: bytes, kept: Iterable[K], protocol: str) -> K | None:
    """The app password that this is, if it is good for `protocol`; looks at all of them, in constant time each."""
    wanted = digest(password)
    found = None
    for each in kept:
        if hmac.compare_digest(each.digest, wanted) and each.only in ("", protocol):
            found = each
    return found
