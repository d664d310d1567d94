"""How one session sees the messages of its maildrop: as they are stored, or changed for what its client can read.

Three things can be changed, each while the message streams by:

- a client that has not said UTF8 gets an internationalised message in ASCII (RFC 6856 section 2.1; how,
  `mailsvc.mail.surrogate` says); one that has said it gets what was stored;
- ``[pop3] replace_nuls``: a NUL is sent as 0x80, for programs that stop at NULs, as Dovecot's ``outlook-no-nuls`` does;
  in the header, where no octet beyond ASCII may appear from nowhere, as a question mark;
- ``[pop3] end_of_header``: a message without an empty line behind its header gets one, for programs that wait for it,
  as Dovecot's ``oe-ns-eoh`` does.

The hardest idea: sizes.  RFC 1939 section 11 wants LIST and STAT to tell what RETR sends, and RFC 6856 section 2.1 asks
the same of LIST; RFC 6858 section 4 would let LIST tell the size of the original.  Clients compare (fetchmail, progress
bars, limits on size), and one that trusts a size too small may cut a message.  So all sizes are those of what this
session is sent, exactly: of each item the database knows how long its surrogate is, and how long the missing end of its
header (`mailsvc.storage.surrogates`).  What needs changing is known from the same rows, never from the octets: LIST
and RETR cannot disagree.  The lines that TOP counts are those of what is sent (RFC 6858 section 4).

UTF8 can only be said before login (RFC 6856 section 2), so that a maildrop is seen in one way as long as it is open.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from mailsvc.mail.snapshot import Snapshot
from mailsvc.mail.surrogate import Appearance, Downgrader, missing_end


@dataclass(frozen=True, slots=True)
class Workarounds:
    """What the configuration wants to be changed for all clients."""

    replace_nuls: bool = False
    end_of_header: bool = False


class View:
    """The messages of a snapshot as one session is sent them, by their numbers from 1 on.

    ``appearances`` has by uid those that need not look as they are stored; memory goes with their number.
    """

    def __init__(
        self, items: Snapshot, appearances: Mapping[int, Appearance], *, utf8: bool, workarounds: Workarounds
    ) -> None:
        self.sizes = items.sizes
        """Octets of each, dots not stuffed."""
        self._surrogates: set[int] = set()
        self._gaps: set[int] = set()
        self._nuls = workarounds.replace_nuls
        for uid, appearance in appearances.items():
            index = bisect_left(items.uids, uid)
            if index == len(items.uids) or items.uids[index] != uid:
                continue  # held back, or deleted by this device
            size = items.sizes[index]
            if appearance.surrogate_size is not None and not utf8:
                self._surrogates.add(index + 1)
                size = appearance.surrogate_size
            if appearance.header_gap and workarounds.end_of_header:
                self._gaps.add(index + 1)
                size += appearance.header_gap
            if size != items.sizes[index]:
                if self.sizes is items.sizes:
                    self.sizes = array("q", items.sizes)
                self.sizes[index] = size

    def is_surrogate(self, number: int) -> bool:
        """Whether this session is sent a surrogate instead of the message."""
        return number in self._surrogates

    def renderer(self, number: int) -> Renderer | None:
        """What changes the message's octets; None for most, which are sent as they are."""
        surrogate, gap = number in self._surrogates, number in self._gaps
        if not (surrogate or gap or self._nuls):
            return None
        return Renderer(downgrade=surrogate, end_of_header=gap, replace_nuls=self._nuls)


class Renderer:
    """Changes one message: `feed` takes its pieces, the header block first, `close` gives what was held back."""

    def __init__(self, *, downgrade: bool = False, end_of_header: bool = False, replace_nuls: bool = False) -> None:
        self._downgrader = Downgrader() if downgrade else None
        self._end_of_header = end_of_header
        self._replace_nuls = replace_nuls
        self._in_header = True

    def feed(self, piece: bytes) -> bytes:
        """What is sent instead of the piece; nothing, when all of it is held back."""
        changed = piece if self._downgrader is None else self._downgrader.feed(piece)
        if self._in_header:
            self._in_header = False
            if self._end_of_header:
                changed += missing_end(piece)
            return changed.replace(b"\0", b"?") if self._replace_nuls else changed
        return changed.replace(b"\0", b"\x80") if self._replace_nuls else changed

    def close(self) -> bytes:
        """The rest of the message."""
        rest = b"" if self._downgrader is None else self._downgrader.close()
        return rest.replace(b"\0", b"\x80") if self._replace_nuls else rest


def is_utf8(header: bytes) -> bool:
    """Whether a header block is one that RFC 6532 allows."""
    try:
        header.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


async def rendered(pieces: AsyncIterator[bytes], renderer: Renderer) -> AsyncIterator[bytes]:
    """The pieces of a message, changed; the first is the header block."""
    async for piece in pieces:
        yield renderer.feed(piece)
    yield renderer.close()
