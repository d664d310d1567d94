"""One body on its way in: taken piece by piece, and judged at its end.

`Reception` takes it into a spool (memory first, an unlinked temporary file beyond a limit) and notes what is wrong with
it.  What becomes of a body that is taken is `mailsvc.smtp.intake`.

The hardest idea: nothing is said to the client before the body's end, because SMTP has no place for it (RFC 5321
section 4.2.5).  So what will be refused anyway is still read to its end, and no longer kept.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile

from mailsvc.gate.bodies import Bodies, Room
from mailsvc.mail.message import MessageScanner
from mailsvc.mail.reply import Reply, reply

_TOO_MANY_HOPS = reply(554, "5.4.6", "Too many hops: the message seems to go in a circle")
_BARE_LINE_END = reply(550, "5.6.11", "The message holds a bare CR or LF; lines end with CRLF")
_TOO_MANY_FIELDS = reply(552, "5.3.4", "The message's header has too many fields")
_LONG_LINE = reply(554, "5.6.0", "The message holds a line longer than 998 octets")
NO_SPACE = reply(452, "4.3.1", "Insufficient system storage; try again later")
_NO_ROOM = reply(452, "4.3.1", "Too much mail is arriving at once; try again later")
_FAILED = reply(451, "4.3.0", "The message could not be taken; try again later")

_ROOM_STEP = 1 << 20
"""So many octets of a body are taken before the disk is asked again."""

LINE_LIMIT = 998
"""Octets of a line without CRLF, RFC 5322 section 2.1.1."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What a message may be.  Sizes in octets; ``in_memory`` is where the spool moves to a file in ``folder``."""

    message_size: int
    header_size: int
    received_fields: int
    refuse_long_lines: bool
    in_memory: int
    folder: str | None
    header_fields: int = 50000


class Reception:
    """One body on its way in.  `take` its pieces, ask for the `verdict` at its end, `discard` it whatever happened.

    ``has_room_for(octets)`` tells whether the disk may take so much more; asked for every `_ROOM_STEP` octets, because
    many bodies at once could otherwise eat the reserve that removing mail needs.  ``bodies`` knows how much all of them
    may hold together.
    """

    def __init__(self, limits: BodyLimits, has_room_for: Callable[[int], bool], bodies: Bodies) -> None:
        self.scanner = MessageScanner(measure_lines=limits.refuse_long_lines)
        self.spool: SpooledTemporaryFile[bytes] = SpooledTemporaryFile(  # noqa: SIM115 - it lives as long as the body
            max_size=limits.in_memory, dir=limits.folder
        )
        self._limits = limits
        self._has_room_for = has_room_for
        self._room_asked_at = 0
        self._held = bodies.begin()
        self._in_file = False
        self._broken: Reply | None = None

    @property
    def refusal(self) -> Reply | None:
        """What is known already: the reply at its end will be this one."""
        return self._broken

    def announce(self, octets: int) -> None:
        """So many octets more will come (BDAT): too many are known to be too many before they are sent."""
        if self._broken is None and self.scanner.size + octets > self._limits.message_size:
            self._fail_for_size()

    def _fail_for_size(self) -> None:
        self.fail(reply(552, "5.3.4", f"The message is larger than {self._limits.message_size} octets"))

    def take(self, piece: bytes) -> None:
        """Take the next piece.  What will be refused anyway is still read, and no longer kept."""
        if self._broken is not None:
            return
        self.scanner.feed(piece)
        if self.scanner.size > self._limits.message_size:
            self._fail_for_size()
        elif self.scanner.header_size > self._limits.header_size:
            self.fail(reply(552, "5.3.4", f"The message's header is larger than {self._limits.header_size} octets"))
        elif self.scanner.size - self._room_asked_at > _ROOM_STEP and not self._is_room():
            self.fail(NO_SPACE)
        else:
            self._keep(piece)

    def _keep(self, piece: bytes) -> None:
        room = self._held.take(len(piece))
        if room is Room.NONE:
            self.fail(_NO_ROOM)
            return
        try:
            if not self._in_file and (room is Room.FILE or self.scanner.size > self._limits.in_memory):
                self.spool.rollover()
                self._in_file = True
                self._held.move_to_file()
            self.spool.write(piece)
        except OSError:
            self.fail(NO_SPACE)

    def _is_room(self) -> bool:
        self._room_asked_at = self.scanner.size
        return self._has_room_for(_ROOM_STEP)

    def fail(self, why: Reply = _FAILED) -> None:
        """The message cannot be taken; the reply at its end will be ``why``."""
        self._broken = why
        self.discard()

    def verdict(self) -> Reply | None:
        """The body has ended: the reply that refuses it, or None when it may be stored."""
        scanner = self.scanner
        if scanner.size and not scanner.ends_a_line:
            # Only BDAT can leave it open.  POP3 and every relay must close it, and all sizes shall be the same.
            self.take(b"\r\n")
        scanner.close()
        if self._broken is not None:
            return self._broken
        if scanner.has_bare_line_end:
            return _BARE_LINE_END
        if scanner.received_fields > self._limits.received_fields:
            return _TOO_MANY_HOPS
        if scanner.fields > self._limits.header_fields:
            return _TOO_MANY_FIELDS
        if self._limits.refuse_long_lines and scanner.longest_line > LINE_LIMIT:
            return _LONG_LINE
        return None

    def header(self) -> bytes:
        """The header block with its empty line, once the body has ended without a refusal.

        Without its empty line it ends in the middle: at a line that is no field, with more behind it.
        """
        self.spool.seek(0)
        header = self.spool.read(self.scanner.header_size)
        if self.scanner.size > len(header) or header == b"\r\n" or header.endswith(b"\r\n\r\n"):
            return header
        # Nothing but a header: it may do without the empty line (RFC 5322 section 3.5).
        return header + (b"\r\n" if header.endswith(b"\r\n") else b"\r\n\r\n")

    def discard(self) -> None:
        """Give memory and disk back."""
        self._held.end()
        # Closing flushes what Python has buffered; on a full disk that fails, and the bytes are not wanted anyway.
        with suppress(OSError):
            self.spool.close()
