"""The keys that two servers share for a list of recipients: each in a file of its own, never in the database.

A copy of the database of a backup holds digests; with the key beside them all names could be tried.  The file has 64
hexadecimal digits and may be read by its owner only.  What is read is kept for a minute: RCPT asks all the time.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from mailsvc.certkit.files import PRIVATE, current_reader, read, write_new
from mailsvc.certkit.inspect import check_private
from mailsvc.errors import MailsvcError, TemporaryFailure

FRESH = 60.0
"""Seconds for which a file is not read again."""

_DIFFERENT = 8
"""Octets of a key that differ at least: far fewer than chance ever gives."""

_DIGITS = re.compile(rb"[0-9A-Fa-f]{64}\Z")


def read_key(path: Path) -> bytes:
    """The 32 octets in the file; blocks.  Raises `MailsvcError` when it is missing, open to others, or no key."""
    source = read(path)
    if source.data is None:
        raise MailsvcError(f"{path}: the key of the list of recipients {source.problem}")
    for finding in check_private(source, current_reader()):
        raise MailsvcError(str(finding))
    digits = source.data.strip()
    if not _DIGITS.match(digits):
        raise MailsvcError(
            f"{path}: holds no key of a list of recipients; copy the file that `mailsvc backup offer` has written on"
            " the primary, or make one with 64 hexadecimal digits (openssl rand -hex 32)"
        )
    octets = bytes.fromhex(digits.decode("ascii"))
    if len(set(octets)) < _DIFFERENT:
        raise MailsvcError(f"{path}: anybody could guess this key; let `mailsvc backup offer` make a new one")
    return octets


def make_key(path: Path) -> None:
    """Write a new key, mode 0600.  Raises `mailsvc.errors.AlreadyExists` or `MailsvcError`."""
    write_new(path, secrets.token_hex(32).encode("ascii") + b"\n", PRIVATE)


class Keys:
    """Reads keys and remembers them.  ``in_thread`` runs what blocks."""

    def __init__(self, clock: IReactorTime, in_thread: Callable[[Callable[[], bytes]], Deferred[bytes]]) -> None:
        self._clock = clock
        self._in_thread = in_thread
        self._kept: dict[str, tuple[float, bytes]] = {}

    async def key(self, path: str) -> bytes:
        """The key in the file.  Raises `TemporaryFailure` when it cannot be had now."""
        now = self._clock.seconds()
        read_at, octets = self._kept.get(path, (now - FRESH, b""))
        if 0 <= now - read_at < FRESH:
            return octets
        try:
            octets = await self._in_thread(lambda: read_key(Path(path)))
        except MailsvcError as error:
            raise TemporaryFailure(str(error)) from error
        self._kept[path] = now, octets
        return octets
