"""The wire engine: octets in, lines and bodies out, no I/O (RFC 5321 sections 2.3.8 and 4.5.2, RFC 1939 section 3).

Both servers read through one `LineReader`.  It exists because the receivers in ``twisted.protocols.basic`` buffer
without limit and push: they deliver the next line while the answer to the last one is still being worked out.  This
one is *pulled*: `LineReader.next_event` gives one event at a time, so "one command in flight" is simply not asking for
the next, and PIPELINING (RFC 2920) is correct whatever the handler waits for.

The hardest idea: the result never depends on how TCP cut the stream.  A line ends at the first LF, wherever the
segments end; it is a proper `Line` only when a CR stands before that LF.  In a dotted body only CRLF.CRLF ends the
body, nothing that merely looks like it: a suffix that may still become CRLF.CRLF is held back until the next octets
tell, and everything else leaves at once in large pieces, with the stuffed dots taken out.

Left to others: what a line means, time, and when to stop reading (`mailsvc.wire.conversation`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

_BODY_END = b"\r\n.\r\n"
_COMPACT_AT = 1 << 16


@dataclass(frozen=True, slots=True)
class Line:
    """A line that ended in CRLF, without its CRLF."""

    data: bytes


@dataclass(frozen=True, slots=True)
class LineTooLong:
    """A line passed the limit; its octets are dropped, up to and with its LF."""


@dataclass(frozen=True, slots=True)
class BareLineFeed:
    """A line ended in LF without CR: neither a valid line nor anything to guess about (RFC 5321 section 2.3.8)."""


@dataclass(frozen=True, slots=True)
class BodyPiece:
    """The next octets of a body, stuffed dots removed; never empty."""

    data: bytes


@dataclass(frozen=True, slots=True)
class BodyEnd:
    """The body is complete; the reader reads lines again."""


Event = Line | LineTooLong | BareLineFeed | BodyPiece | BodyEnd


class _Mode(Enum):
    LINE = "line"
    REST_OF_LONG_LINE = "rest of a line that was too long"
    DOTTED_BODY = "body up to CRLF.CRLF"
    COUNTED_BODY = "body of a known number of octets"


class LineReader:
    """Takes octets by `feed`, gives events by `next_event`.

    ``line_limit`` counts the CRLF and may be changed between events (an AUTH response is longer than a command).
    What is buffered is at most what was fed since the last event was taken: the caller bounds it by not feeding.
    """

    def __init__(self, line_limit: int) -> None:
        self.line_limit = line_limit
        self._buffer = bytearray()
        self._start = 0
        self._scanned = 0
        self._mode = _Mode.LINE
        self._at_line_start = False
        self._remaining = 0

    @property
    def pending(self) -> int:
        """Octets that were fed and have not yet left in an event."""
        return len(self._buffer) - self._start

    def feed(self, data: bytes) -> None:
        """Take octets as they came from the peer."""
        self._buffer += data

    def clear(self) -> int:
        """Forget all that is buffered and read lines again; return how many octets were dropped."""
        dropped = self.pending
        self._consume(dropped)
        self._mode = _Mode.LINE
        return dropped

    def read_dotted_body(self) -> None:
        """What follows is a body that ends with CRLF.CRLF (DATA), or with a first line of one dot."""
        self._mode = _Mode.DOTTED_BODY
        self._at_line_start = True

    def read_counted_body(self, octets: int) -> None:
        """What follows is a body of exactly ``octets`` octets, taken as they are (BDAT, RFC 3030)."""
        self._mode = _Mode.COUNTED_BODY
        self._remaining = octets

    def next_event(self) -> Event | None:
        """The next event, or None when more octets are needed first."""
        if self._mode is _Mode.LINE:
            return self._next_line()
        if self._mode is _Mode.DOTTED_BODY:
            return self._next_dotted()
        if self._mode is _Mode.COUNTED_BODY:
            return self._next_counted()
        return self._skip_long_line()

    def _next_line(self) -> Event | None:
        end = self._buffer.find(b"\n", max(self._start, self._scanned), self._start + self.line_limit)
        if end < 0:
            self._scanned = len(self._buffer)
            if self.pending < self.line_limit:
                return None
            self._mode = _Mode.REST_OF_LONG_LINE
            return LineTooLong()
        line = bytes(self._buffer[self._start : end])
        self._consume(end + 1 - self._start)
        return Line(line[:-1]) if line.endswith(b"\r") else BareLineFeed()

    def _skip_long_line(self) -> Event | None:
        end = self._buffer.find(b"\n", self._start)
        if end < 0:
            self._consume(self.pending)
            return None
        self._consume(end + 1 - self._start)
        self._mode = _Mode.LINE
        return self._next_line()

    def _next_dotted(self) -> Event | None:
        data = bytes(self._buffer[self._start :])
        if self._at_line_start:
            if data.startswith(b".\r\n"):
                self._consume(3)
                self._mode = _Mode.LINE
                return BodyEnd()
            if data in (b"", b".", b".\r"):
                return None
        end = data.find(_BODY_END)
        piece = data[: end + 2] if end >= 0 else data[: len(data) - _held_back(data)]
        if not piece:
            return None
        self._consume(len(piece))
        if self._at_line_start and piece.startswith(b"."):
            piece = piece[1:]
        # Without an end the line start, if any, is in what was held back together with its CRLF.
        self._at_line_start = end >= 0
        # A piece cannot be empty here: ".\r\n" at a line start was the end of the body, above.
        return BodyPiece(piece.replace(b"\r\n.", b"\r\n"))

    def _next_counted(self) -> Event | None:
        if self._remaining == 0:
            self._mode = _Mode.LINE
            return BodyEnd()
        piece = bytes(self._buffer[self._start : self._start + self._remaining])
        if not piece:
            return None
        self._consume(len(piece))
        self._remaining -= len(piece)
        return BodyPiece(piece)

    def _consume(self, octets: int) -> None:
        self._start += octets
        self._scanned = self._start
        if self._start == len(self._buffer):
            self._buffer.clear()
            self._start = self._scanned = 0
        elif self._start >= _COMPACT_AT:
            del self._buffer[: self._start]
            self._start = self._scanned = 0


def _held_back(data: bytes) -> int:
    """Length of the longest end of ``data`` that may be the beginning of CRLF.CRLF."""
    for length in range(min(len(data), len(_BODY_END) - 1), 0, -1):
        if data.endswith(_BODY_END[:length]):
            return length
    return 0


def stuffed(piece: bytes, at_line_start: bool) -> bytes:
    """``piece`` with a dot added to each line that begins with one (RFC 1939 section 3, RFC 5321 section 4.5.2).

    For pieces of one body in order: ``at_line_start`` says whether the piece begins a line.  The octets may be cut
    anywhere, also between CR and LF: a line starts after an LF, so what the caller must remember is only whether the
    last piece ended in one.
    """
    piece = piece.replace(b"\n.", b"\n..")
    return b"." + piece if at_line_start and piece.startswith(b".") else piece
