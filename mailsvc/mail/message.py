"""What can be told of a message while it passes by, without ever holding it (RFC 5322, RFC 5321 section 6.3).

mailsvc takes a message whole and gives it back whole: nothing here changes a byte.  `MessageScanner` is fed with the
body in pieces of any size and notes what the intake must judge (bare line ends, the number of Received fields, the
length of header, lines and whole), in constant memory.  `summarise` reads the four header fields that the database
keeps as columns.

The hardest idea: where the header ends.  It is the block of lines that are header fields or their continuations, up to
and including the first empty line.  A message may have no header at all, or lack the empty line; then the header is
what looks like one (perhaps nothing) and all the rest is body, so that header + body is always the exact message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

# RFC 5322 section 2.2: printable ASCII without colon; white space before the colon is the obsolete syntax (4.5).
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")

# Whole header lines in a row, in one step: a megabyte of tiny fields, one by one, would hold up everybody else. What
# is not in here (a name of 900 characters) is rare and goes the slow way.
# The group as a whole is not possessive: CPython before 3.11.5 then stops too early (its issue 106052).
_HEADER_LINES = re.compile(rb"(?:(?:[!-9;-~]{1,900}+[ \t]{0,90}+:|[ \t])[^\n]*+\n)+")
_RECEIVED = re.compile(rb"^received[ \t]*:", re.IGNORECASE | re.MULTILINE)

_COLUMNS = re.compile(
    rb"^(subject|from|date|message-id)[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)", re.IGNORECASE | re.MULTILINE
)
"""A field that the database keeps as a column, with its continuation lines."""

_PREFIX_LIMIT = 1000
"""So much of a header line is looked at for its name; a line (RFC 5322 section 2.1.1) has at most 998 octets."""

_COLUMN_LIMIT = 998
"""Characters of a header field's value that are kept as a column."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The facts of one message that the database keeps as columns.

    Sizes are octets as they arrived (without the trace header that we add); ``sha256`` is the hex digest of the same
    octets.  The four fields are the unfolded values of the first field of that name, None when there is none.
    """

    size: int
    header_size: int
    sha256: str
    subject: str | None
    from_: str | None
    date: str | None
    message_id: str | None


class MessageScanner:
    """Notes the facts of a message that is fed to it in pieces of any size.

    ``longest_line`` (octets without CRLF) costs a second pass over each piece and is counted only when asked for.
    """

    def __init__(self, *, measure_lines: bool = False) -> None:
        self.size = 0
        self.received_fields = 0
        self.longest_line = 0
        self._cr = self._lf = self._crlf = 0
        self._ends_with_cr = False
        self.ends_a_line = False
        self._in_header = True
        self._header = 0
        self._prefix = b""
        self._line_size = 0
        self._fields = 0
        self._measure_lines = measure_lines
        self._open_line = 0

    @property
    def fields(self) -> int:
        """Header fields so far."""
        return self._fields

    @property
    def has_bare_line_end(self) -> bool:
        """Whether a CR without LF or an LF without CR has stood in the message so far (RFC 5321 section 2.3.8)."""
        return not self._cr == self._lf == self._crlf

    @property
    def header_size(self) -> int:
        """Octets of the header so far, a line that is not complete included; final after `close`."""
        return self._header + (self._line_size if self._in_header and self._begins_header_line() else 0)

    def feed(self, piece: bytes) -> None:
        """Take the next octets of the message."""
        if not piece:
            return
        self.size += len(piece)
        self._cr += piece.count(b"\r")
        self._lf += piece.count(b"\n")
        self._crlf += piece.count(b"\r\n") + (self._ends_with_cr and piece.startswith(b"\n"))
        if self._measure_lines:
            self._measure(piece)
        self._ends_with_cr = piece.endswith(b"\r")
        self.ends_a_line = piece.endswith(b"\n")
        if self._in_header:
            self._scan_header(piece)

    def close(self) -> None:
        """The message has ended: a header line without a line end counts as one."""
        if self._in_header and self._line_size:
            self._header_line()
        self._in_header = False

    def _measure(self, piece: bytes) -> None:
        *ended, last = piece.split(b"\n")
        if ended:
            first, *others = ended
            # The CR of this line's CRLF may have come with the piece before.
            first_has_cr = first.endswith(b"\r") or (not first and self._ends_with_cr)
            self.longest_line = max(self.longest_line, self._open_line + len(first) - first_has_cr)
            if others:
                self.longest_line = max(self.longest_line, *(len(line) - line.endswith(b"\r") for line in others))
            self._open_line = 0
        self._open_line += len(last)
        # A CR at the end belongs to the line only if no LF follows; then the next piece counts it.
        self.longest_line = max(self.longest_line, self._open_line - last.endswith(b"\r"))

    def _scan_header(self, piece: bytes) -> None:
        start = 0
        while self._in_header:
            if not self._line_size:
                start = self._header_lines(piece, start)
            end = piece.find(b"\n", start)
            stop = len(piece) if end < 0 else end + 1
            if len(self._prefix) < _PREFIX_LIMIT:
                self._prefix += piece[start : min(stop, start + _PREFIX_LIMIT - len(self._prefix))]
            self._line_size += stop - start
            if end >= 0:
                self._header_line()
            elif len(self._prefix) < _PREFIX_LIMIT or self._begins_header_line():
                return
            else:
                # So long and still no field: a body that begins with an endless line, not a header.
                self._in_header = False
            start = stop

    def _header_lines(self, piece: bytes, start: int) -> int:
        """Take all lines from ``start`` on that are complete and sure to be the header's; return where they end."""
        if not self._fields and piece[start : start + 1] in (b" ", b"\t"):
            return start
        lines = _HEADER_LINES.match(piece, start)
        if lines is None:
            return start
        end = lines.end()
        continued = piece.count(b"\n ", start, end) + piece.count(b"\n\t", start, end)
        self._fields += piece.count(b"\n", start, end) - continued - (piece[start : start + 1] in (b" ", b"\t"))
        self.received_fields += len(_RECEIVED.findall(piece, start, lines.end()))
        self._header += lines.end() - start
        return lines.end()

    def _header_line(self) -> None:
        """Judge the line that is complete now; ``_prefix`` is its beginning, ``_line_size`` its whole length."""
        if self._begins_header_line():
            self._header += self._line_size
            if field := _FIELD.match(self._prefix):
                self._fields += 1
                self.received_fields += field[1].lower() == b"received"
        elif self._prefix in (b"\r\n", b"\n"):
            # Without a field before it, it closes an empty header.
            self._header += self._line_size
            self._in_header = False
        else:
            self._in_header = False
        self._prefix, self._line_size = b"", 0

    def _begins_header_line(self) -> bool:
        """Whether ``_prefix`` begins a field, or the continuation of one."""
        if self._prefix[:1] in (b" ", b"\t"):
            return self._fields > 0
        return _FIELD.match(self._prefix) is not None


def header_fields(header: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The fields of a header block as (name in lower case, unfolded value), in their order."""
    name = b""
    value: list[bytes] = []
    for line in header.split(b"\r\n"):
        if line[:1] in (b" ", b"\t") and name:
            # Unfolding removes the line end only (RFC 5322 section 2.2.3).
            value.append(line)
            continue
        if name:
            yield name, b"".join(value).strip()
        field = _FIELD.match(line)
        name = field[1].lower() if field else b""
        value = [line[field.end() :]] if field else []
    if name:
        yield name, b"".join(value).strip()


def fields_named(header: bytes, *names: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Those of `header_fields` that have one of these names (in lower case), without looking at every line in turn."""
    for field in _fields_named(names).finditer(header):
        yield field[1].lower(), field[2].replace(b"\r\n", b"").strip()


@cache
def _fields_named(names: tuple[bytes, ...]) -> re.Pattern[bytes]:
    either = b"|".join(map(re.escape, names))
    return re.compile(rb"^(" + either + rb")[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)", re.IGNORECASE | re.MULTILINE)


def summarise(header: bytes, *, size: int, sha256: str) -> Summary:
    """The `Summary` of a message of ``size`` octets whose header block is ``header``."""
    wanted: dict[bytes, str] = {}
    for field in _COLUMNS.finditer(header):
        # Unfolding removes the line ends only (RFC 5322 section 2.2.3).
        value = field[2].replace(b"\r\n", b"").strip()
        wanted.setdefault(field[1].lower(), value.decode("utf-8", "replace")[:_COLUMN_LIMIT])
        if len(wanted) == len(("subject", "from", "date", "message-id")):
            break
    return Summary(
        size=size,
        header_size=len(header),
        sha256=sha256,
        subject=wanted.get(b"subject"),
        from_=wanted.get(b"from"),
        date=wanted.get(b"date"),
        message_id=wanted.get(b"message-id"),
    )
