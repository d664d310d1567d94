"""A message in a spool, read again: its header, its digest, its pieces, and what of it others may read as our words.

`mailsvc.smtp.reception` has written it.  It is read in the database's thread, or by programs that get mail; each of
these functions says where the next one would read on.

The hardest idea is who speaks in our name.  A field ``Authentication-Results`` with our host name, or a line that
continues our own Received field, would be believed by whoever reads the message later; so the one is taken out, and
the other is kept apart by an empty line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile

from mailsvc.mail.envelope import Envelope
from mailsvc.smtp.results import without_forged
from mailsvc.storage import mailboxes

_MOST_BEHIND = 1 << 20
"""Octets behind a line that is no field in which a reader may still look for fields."""


class Given:
    """A file for programs: what lies behind the header in `spool`; `size` is that of header and body."""

    def __init__(self, spool: SpooledTemporaryFile[bytes], start: int, header: bytes, size: int) -> None:
        self.header = header
        self.size = size
        self._spool = spool
        self._start = start

    def seek(self, place: int) -> int:
        """To `place` of the body."""
        return self._spool.seek(self._start + place)

    def read(self, octets: int = -1) -> bytes:
        """The next octets of it."""
        return self._spool.read(octets)


def unforged(header: bytes, spool: SpooledTemporaryFile[bytes], envelope: Envelope, hostname: str) -> tuple[bytes, int]:
    """The header without what others say in our name, and how many fields that were (RFC 8601 section 5).

    ``spool``: the message, with its header; where it is read next is changed.
    """
    if "LMTP" in envelope.origin.protocol:
        # What is in front of us there is ours, and may have looked at the message in our name.
        return header, 0
    kept, removed = without_forged(header, hostname)
    if header == b"\r\n" or header.endswith(b"\r\n\r\n"):
        return kept, removed
    # It ends at a line that is no field. Many programs pass over that one and read on: what stands there in our name
    # becomes body by an empty line.
    spool.seek(len(header))
    behind = spool.read(_MOST_BEHIND)
    end = behind.find(b"\r\n\r\n")
    _, more = without_forged(behind if end < 0 else behind[: end + 2], hostname)
    closes = more or (end < 0 and len(behind) == _MOST_BEHIND)
    return kept + b"\r\n" if closes else kept, removed + more


def read_through(spool: SpooledTemporaryFile[bytes], header_size: int) -> tuple[bytes, str]:
    """The header block, and the hex SHA-256 of all."""
    spool.seek(0)
    header = spool.read(header_size)
    digest = hashlib.sha256(header)
    for piece in pieces(spool):
        digest.update(piece)
    return header, digest.hexdigest()


def continues_the_trace(spool: SpooledTemporaryFile[bytes], place: int) -> bool:
    """Whether white space stands there: behind a header field that is a continuation (RFC 5322 section 2.2.3)."""
    spool.seek(place)
    return spool.read(1) in (b" ", b"\t")


def pieces(spool: SpooledTemporaryFile[bytes]) -> Iterator[bytes]:
    """What is left of it, as large as the parts in which it is stored."""
    while piece := spool.read(mailboxes.PART_LIMIT):
        yield piece
