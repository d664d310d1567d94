"""A message as it is handed in by a file, a pipe or a caller, made one that can be sent: a `Letter`.

Pure but for the temporary file that a large body moves to.  Line ends become CRLF, whatever they were; the header is
taken apart (`mailsvc.sending.header`), the body is not.  What is too large is refused while it is read.

The hardest idea is where the header ends, because who hands a message in by a pipe is no mail server.  The first line
that is neither a field nor the continuation of one ends it, an empty line is put before such a line, and the "From "
line of mailbox files at the beginning goes.  A CR without LF is a line end in the body, where it can only be that, and
a space in the header, where a line end would begin a field that nobody meant (`\\rBcc: ...`).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from tempfile import SpooledTemporaryFile
from typing import IO

from mailsvc.relay.outgoing import Content
from mailsvc.sending.header import FIELD, Head, MessageError, parse_head

PIECE = 65536
"""Octets that are read at once."""

_IN_MEMORY = 1 << 20

_ENDS = re.compile(rb"\r*+\n|\r++")


@dataclass(frozen=True, slots=True)
class Limits:
    """Octets of a message, and of its header."""

    message: int = 64 << 20
    header: int = 2 << 20


@dataclass(frozen=True, slots=True)
class Letter:
    """A message: its header, and its body in a file from the beginning on; ``body_size`` in octets.

    ``high``: whether the body has octets above 127.
    """

    head: Head
    body: IO[bytes] = field(repr=False)
    body_size: int
    high: bool

    @property
    def header(self) -> bytes:
        """The header block with its empty line."""
        return bytes(self.head) + b"\r\n"

    @property
    def size(self) -> int:
        """Octets in all."""
        return len(self.header) + self.body_size

    @property
    def is_utf8(self) -> bool:
        """Whether its header can only be sent with SMTPUTF8 (RFC 6531)."""
        return not bytes(self.head).isascii()

    @property
    def is_8bit(self) -> bool:
        """Whether anything in it is beyond ASCII."""
        return self.high or self.is_utf8

    def with_head(self, head: Head) -> Letter:
        """The same body under another header."""
        return replace(self, head=head)

    def content(self, heard: Callable[[int], None] = lambda octets: None) -> Content:
        """What a conversation reads it by; ``heard`` is told how many octets have been taken, each time from 0 on."""

        async def read() -> AsyncIterator[bytes]:
            header, place = self.header, 0
            heard(0)
            yield header
            while place < self.body_size:
                # The place is our own: two readers may take turns on one file.
                self.body.seek(place)
                piece = self.body.read(PIECE)
                if not piece:
                    raise MessageError("the temporary file of the message has become shorter")
                place += len(piece)
                heard(len(header) + place)
                yield piece

        return read

    def close(self) -> None:
        """Give memory and disk back."""
        self.body.close()


def read_letter(pieces: Iterable[bytes], limits: Limits) -> Letter:
    """The message that these pieces make up.  Raises `MessageError` for one that is too large, or no message at all."""
    reader = _Reader(limits)
    try:
        for piece in pieces:
            reader.feed(piece)
        return reader.close()
    except BaseException:
        reader.body.close()
        raise


def pieces_of(file: IO[bytes]) -> Iterator[bytes]:
    """A file's octets."""
    return iter(lambda: file.read(PIECE), b"")


def until_dot(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The octets before the first line that is a dot alone, as sendmail(8) reads them without -i; or all of them."""
    held, line_start = b"\n", True  # an LF before the first octet, which is not given out
    for piece in pieces:
        data = held + piece
        end = _DOT.search(data)
        keep = 0 if end is not None else next((len(each) for each in _MAYBE_DOT if data.endswith(each)), 0)
        ready = data[: end.start() + 1 if end is not None else len(data) - keep]
        held = data[len(ready) :]
        if line_start and ready:
            ready, line_start = ready[1:], False
        yield ready
        if end is not None:
            return
    yield held[1:] if line_start else held


_DOT = re.compile(rb"\n\.\r?\n")
_MAYBE_DOT = (b"\n.\r", b"\n.", b"\n")


class _Reader:
    """Takes a message, piece by piece."""

    def __init__(self, limits: Limits) -> None:
        self.body: SpooledTemporaryFile[bytes] = SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - kept
        self._limits = limits
        self._header: list[bytes] = []
        self._header_size = 0
        self._body_size = 0
        self._high = False
        self._in_header = True
        self._lines = b""  # of the header: what is not a whole line yet
        self._ends_with_cr = False  # of the body

    def feed(self, piece: bytes) -> None:
        if not self._in_header:
            self._body(piece)
            return
        data, start = self._lines + piece, 0
        going = True
        while going and (end := data.find(b"\n", start)) >= 0:
            going, taken = self._header_line(data[start : end + 1])
            start = end + 1 if taken else start
        self._in_header = going
        if going:
            self._lines = data[start:]
            self._check_header(len(self._lines))
        else:
            self._lines = b""
            self._body(data[start:])

    def _header_line(self, raw: bytes) -> tuple[bool, bool]:
        """Take a line of the header: whether the header goes on, and whether the line was not the body's first."""
        # A CR alone is no line end here.
        line = raw.rstrip(b"\r\n").replace(b"\r", b" ")
        if not self._header and line.startswith((b"From ", b">From ")):
            return True, True
        continued = line[:1] in (b" ", b"\t") and bool(self._header)
        if line and (continued or FIELD.match(line) is not None):
            self._header.append(line + b"\r\n")
            self._header_size += len(line) + 2
            self._check_header(0)
            return True, True
        return False, not line

    def _check_header(self, more: int) -> None:
        if self._header_size + more > self._limits.header:
            raise MessageError(f"the header of the message is larger than {self._limits.header} octets")

    def _body(self, data: bytes) -> None:
        # A run of CRs may be the first half of a line end, which may come with the next piece.
        joined = b"\r" * self._ends_with_cr + data
        ready = joined.rstrip(b"\r")
        self._ends_with_cr = len(ready) < len(joined)
        self._write(_ENDS.sub(b"\r\n", ready))

    def _write(self, octets: bytes) -> None:
        self._body_size += len(octets)
        if self._header_size + self._body_size > self._limits.message:
            raise MessageError(f"the message is larger than {self._limits.message} octets")
        self._high = self._high or not octets.isascii()
        self.body.write(octets)

    def close(self) -> Letter:
        if self._in_header and self._lines:
            self.feed(b"\n")
        if self._ends_with_cr:
            self._write(b"\r\n")
        if not self._header and not self._body_size:
            raise MessageError("there is no message: nothing was read")
        return Letter(parse_head(self._header), self.body, self._body_size, self._high)
