"""What a password may be, how it is kept, and how a login that was right is remembered for a while.

Only values in and values out: no thread, no clock, no database.  Who hashes off the reactor thread and who
reads the stored row is `mailsvc.accounts.login`; this module runs in its threads and in the command line.

A password is hashed with argon2id (RFC 9106) as the octets of its UTF-8 form, exactly as they were sent.
There is no SASLprep (RFC 4013, which RFC 4616 section 2 recommends): its tables stop at Unicode 3.2, so it
refuses emoji and the younger scripts, and better tables would lock people out whose passwords were prepared
with the old ones.  The price: a client that sends "e" with a combining accent and one that sends the accented
letter send two different passwords.  ASCII, which SASLprep leaves alone, knows no such difference.

The hardest idea: remembering a right password so that it cannot outlive a change of it.  `Remembered` holds,
per account, an HMAC-SHA256 under a key of this process over the account, the *stored hash* and the password.
A changed password has another stored hash, so that what was remembered of the old one fits nothing any more
without anybody having to tell us.  What it costs: whoever can read this process's memory, the key included,
can try passwords against such an entry faster than against argon2id; but he could as well watch them arrive.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

import argon2
from argon2.exceptions import HashingError, InvalidHashError, VerificationError, VerifyMismatchError

from mailsvc.errors import MailsvcError, TemporaryFailure

LONGEST = 1024
"""Octets of a password; RFC 4616 section 2 asks for 255 characters, four octets each at most."""


class PasswordRefused(MailsvcError):
    """The text cannot be a password; the message says why and never holds the text."""


class Hasher(Protocol):
    """How passwords are hashed: an object, so that tests can count and others can bring their own.

    All of it may block for tens of milliseconds and is called in threads, several at once.
    """

    def hash(self, password: bytes) -> str:
        """A fresh salted hash of `password`, as text for the database; `TemporaryFailure` without memory."""

    def verify(self, stored: str, password: bytes) -> bool:
        """Whether `password` is the one behind `stored`; `TemporaryFailure` when it cannot be told now."""

    def recognises(self, stored: str) -> bool:
        """Whether `verify` can work with `stored`; cheap."""

    def needs_rehash(self, stored: str) -> bool:
        """Whether `stored` was made with other parameters than `hash` uses today; cheap."""


@dataclass(frozen=True, slots=True)
class Argon2:
    """argon2id with its three costs: memory in KiB, passes over it, lanes.

    The defaults are OWASP's advice for little memory (19 MiB, 2 passes, 1 lane): some 25 ms of one core.
    Much more would hurt a small server with a hundred phones before it hurts an attacker.
    """

    memory_kib: int = 19456
    passes: int = 2
    lanes: int = 1

    def hash(self, password: bytes) -> str:
        """See `Hasher`."""
        try:
            return self._hasher().hash(password)
        except HashingError as error:
            raise TemporaryFailure(f"a password could not be hashed now: {error}") from None

    def verify(self, stored: str, password: bytes) -> bool:
        """See `Hasher`."""
        try:
            return self._hasher().verify(stored, password)
        except (VerifyMismatchError, InvalidHashError):
            return False
        except VerificationError as error:
            if not self.recognises(stored):
                return False
            # Out of memory, most likely.  "Wrong password" would make a mail client ask its user for another.
            raise TemporaryFailure(f"a password could not be checked now: {error}") from None

    def recognises(self, stored: str) -> bool:
        """See `Hasher`."""
        try:
            argon2.extract_parameters(stored)
        except InvalidHashError:
            return False
        return True

    def needs_rehash(self, stored: str) -> bool:
        """See `Hasher`."""
        return self._hasher().check_needs_rehash(stored)

    def _hasher(self) -> argon2.PasswordHasher:
        return argon2.PasswordHasher(
            time_cost=self.passes, memory_cost=self.memory_kib, parallelism=self.lanes, type=argon2.Type.ID
        )


ARGON2 = Argon2()
"""What mailsvc hashes with today."""


def password_octets(password: str) -> bytes:
    """The octets of a new password; `PasswordRefused` unless every mail client can send it.

    It must hold 1 to `LONGEST` octets of UTF-8, without NUL (RFC 4616 section 2), CR and LF (PASS of POP3 is
    one line, RFC 1939 section 7).
    """
    try:
        octets = password.encode("utf-8")
    except UnicodeEncodeError:
        raise PasswordRefused("the password is not valid UTF-8; give it in UTF-8") from None
    if not octets:
        raise PasswordRefused("the password is empty; choose one with at least one character")
    if len(octets) > LONGEST:
        raise PasswordRefused(f"the password is longer than {LONGEST} octets; choose a shorter one")
    if any(character in octets for character in b"\x00\r\n"):
        raise PasswordRefused("the password holds a NUL or a line end, which no mail client can send")
    return octets


def hash_password(password: str, hasher: Hasher = ARGON2) -> str:
    """The hash to store for a new password; blocks for tens of milliseconds; `PasswordRefused`."""
    return hasher.hash(password_octets(password))


def verify(stored: str, password: str, hasher: Hasher = ARGON2) -> bool:
    """Whether `password` is the one behind `stored`; blocks for tens of milliseconds."""
    return hasher.verify(stored, password.encode("utf-8", "surrogatepass"))


def needs_rehash(stored: str, hasher: Hasher = ARGON2) -> bool:
    """Whether `stored` was made with other parameters than a new hash would be."""
    return hasher.needs_rehash(stored)


def fingerprint(key: bytes, identity: bytes, stored: str, password: bytes) -> bytes:
    """HMAC-SHA256 under `key` over an account's identity, its stored hash and a password, 32 octets.

    The first two are preceded by their length, so that no two triples give the same input.
    """
    mac = hmac.new(key, digestmod=hashlib.sha256)
    for part in (identity, stored.encode("utf-8")):
        mac.update(len(part).to_bytes(8, "big"))
        mac.update(part)
    mac.update(password)
    return mac.digest()


class Remembered:
    """Fingerprints of logins that were right a short while ago, one per account.

    `lifetime` is in seconds from the verification; use does not prolong it, and 0 remembers nothing.  Past
    `limit` accounts the one that was not used for longest is forgotten.
    """

    def __init__(self, lifetime: float, limit: int = 10_000) -> None:
        self._lifetime = lifetime
        self._limit = limit
        self._entries: OrderedDict[Hashable, tuple[bytes, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def holds(self, account: Hashable, digest: bytes, now: float) -> bool:
        """Whether `digest` was right for `account` less than `lifetime` ago; compares in constant time."""
        entry = self._entries.get(account)
        if entry is None:
            return False
        right, since = entry
        # Before `since`: the clock was set back, and nobody knows how old the entry is.
        if not since <= now < since + self._lifetime:
            del self._entries[account]
            return False
        if not hmac.compare_digest(right, digest):
            return False
        self._entries.move_to_end(account)
        return True

    def add(self, account: Hashable, digest: bytes, now: float) -> None:
        """Remember that `digest` is right for `account`."""
        if self._lifetime <= 0:
            return
        self._entries[account] = (digest, now)
        self._entries.move_to_end(account)
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)
