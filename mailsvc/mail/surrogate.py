"""A whole message for clients that know ASCII headers only: the surrogate of RFC 6856 section 2.1, made by RFC 6857.

`Downgrader` is fed with a message in pieces, header block first, and gives the surrogate in pieces: the header with
each field downgraded (`mailsvc.mail.downgrade`), and in the body the headers of MIME parts at all levels (section 4.1)
and the fields of delivery reports (section 4.2).  All else passes as it is, bodies with 8 bits too: a client may always
be given those (RFC 6152), and MIME says what they are.

A part of a type that only internationalised mail has is renamed to the old type that it then fits (``message/global``
is ``message/rfc822`` with UTF-8 in the header, RFC 6532 section 3.7; the reports' types, RFC 6533 section 6), because a
client of old shows nothing of a type that it does not know.  RFC 6857 is silent on this.  A part whose content is
encoded keeps its type, because the old types allow no encoding, and what is in it is not looked into.

The hardest idea: one pass, in constant memory.  Outside headers only a line that begins with ``--`` can be of interest,
and it is held back until it is complete or too long to be a boundary; inside a header what is gathered is bounded.  So
is what is done for a message: of fields beyond ASCII some are looked at closely, more are encoded as a whole, and of
the rest octets beyond ASCII become question marks.  What has no structure at all, which is most mail, is
`Downgrader.settled` after its header, and nobody looks at its body.  Nor at what follows when
`_EFFORT` is used up: 64 MB of nothing but boundaries would take a minute, and a client gets the rest as it is.

`surrogate_growth` runs the same machine over a message to tell how long the surrogate is: that is what LIST must say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.message import Message
from enum import Enum

from mailsvc.mail.downgrade import LONGEST, downgraded_field, without_meaning

HEADER_LIMIT = 131072
"""Octets of fields beyond ASCII, in the message's own header and again in all others together, that are downgraded; and
the most that is gathered of a part's header."""

_BOUNDARY_LINE_LIMIT = 300
"""Octets of a line that can be a boundary: 70 and four dashes (RFC 2046 section 5.1.1), and white space."""

_DEPTH = 32
"""Of multiparts in multiparts whose boundaries are known."""

_EFFORT = 1_000_000
"""What may be looked at in the body: a line that begins like a boundary is 1 of it, some 0.5 us."""

_HEADER_EFFORT = 20
"""What a line in the header of a part, or in a report, is of it."""

_FIELD_COST = 50
"""What a field costs, however short it is, as octets: short ones take more time for each octet."""

SMALL_HEADER = LONGEST // 10
"""A header of so many octets is looked at closely as a whole, whatever is in it: the shortest field has 6."""

_FIELD = re.compile(rb"[^\n]+(?:\n[ \t][^\n]*)*\n?|\n")
_BEGINS_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")
_TYPE_FIELDS = re.compile(
    rb"^content-(type|transfer-encoding)[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)", re.IGNORECASE | re.MULTILINE
)
_TYPE_LIMIT = 2000
"""Octets of such a field that are read."""

_RENAMED = {
    "message/global": "message/rfc822",
    "message/global-headers": "text/rfc822-headers",
    "message/global-delivery-status": "message/delivery-status",
    "message/global-disposition-notification": "message/disposition-notification",
}
_REPORTS = frozenset({"message/delivery-status", "message/disposition-notification"})
_MESSAGES = frozenset({"message/rfc822", "text/rfc822-headers"})


class _Mode(Enum):
    HEADER = "header of a message or a part"
    REPORT = "blocks of fields"
    LONG_LINE = "rest of a header line that is beyond all bounds"
    BODY = "body with boundaries in it"
    SETTLED = "nothing more to look for"


@dataclass(slots=True)
class _Budget:
    """How many octets of fields beyond ASCII are still looked at closely, and how many are downgraded at all: what one
    costs is bounded, and so must be how many there are, because a stranger writes them."""

    closely: int = LONGEST
    at_all: int = HEADER_LIMIT

    def downgraded(self, field: bytes) -> bytes:
        """The field in ASCII, as well as can be afforded."""
        self.closely -= len(field) + _FIELD_COST
        self.at_all -= len(field) + _FIELD_COST
        return downgraded_field(field, closely=self.closely >= 0) if self.at_all >= 0 else without_meaning(field)


@dataclass(frozen=True, slots=True)
class _Boundary:
    """What ends the parts of a multipart; ``line`` with its two dashes; ``digest``: its parts are messages."""

    line: bytes
    digest: bool


class Downgrader:
    """Makes the surrogate of one message: `feed` takes its pieces, `close` gives what was held back.

    The first piece is the whole header block, with its empty line if it has one; the others are cut anywhere.
    """

    def __init__(self) -> None:
        self.changed = False
        """Whether a header with octets beyond ASCII has been seen: only then the message needs a surrogate."""
        self.growth = 0
        """Octets given less octets taken; final after `close`, and as soon as it is `settled`."""
        self._mode: _Mode | None = None
        self._after_long_line: _Mode | None = None
        self._boundaries: list[_Boundary] = []
        self._block = bytearray()
        self._type: Message | None = None
        self._in_digest = False
        self._held = b""
        self._line_start = True
        self._effort = _EFFORT
        self._budget, self._later_budget = _Budget(), _Budget()

    @property
    def settled(self) -> bool:
        """Whether all that follows passes as it is."""
        return self._mode is _Mode.SETTLED

    def feed(self, piece: bytes) -> bytes:
        """What can be given of the surrogate now."""
        if self._mode is _Mode.SETTLED:
            return piece
        out: list[bytes] = []
        if self._mode is None:
            self._block += piece
            self._end_header(out)
            # What stands before a message in a maildrop must not change what becomes of its parts.
            self._budget = self._later_budget
        else:
            self._take(self._held + piece, len(self._held), out)
        given = b"".join(out)
        self.growth += len(given) - len(piece)
        return given

    def close(self) -> bytes:
        """The rest: the message has ended."""
        out: list[bytes] = []
        held, self._held = self._held, b""
        if self._mode in (_Mode.HEADER, _Mode.REPORT):
            if self._is_header_line(held):
                self._block += held
                held = b""
            out.append(self._downgraded())
        out.append(held)
        self._mode = _Mode.SETTLED
        given = b"".join(out)
        self.growth += len(given)
        return given

    def _take(self, data: bytes, looked_at: int, out: list[bytes]) -> None:
        self._held = b""
        place = 0
        while place < len(data):
            match self._mode:
                case _Mode.BODY:
                    place = self._body(data, place, out)
                case _Mode.HEADER | _Mode.REPORT:
                    place = self._header(data, place, looked_at, out)
                case _Mode.LONG_LINE:
                    place = self._long_line(data, place, out)
                case _:
                    out.append(data[place:])
                    return

    def _is_exhausted(self, effort: int) -> bool:
        """Whether enough has been looked at; then all that follows passes as it is."""
        self._effort -= effort
        if self._effort < 0:
            self._mode = _Mode.SETTLED
        return self._effort < 0

    # -- bodies ---------------------------------------------------------------------------------------------------

    def _body(self, data: bytes, place: int, out: list[bytes]) -> int:
        """Pass what is no boundary; return where to go on."""
        search = place
        at_start = self._line_start
        while not self._is_exhausted(1):
            if at_start and data.startswith(b"--", search):
                start = search
            else:
                start = data.find(b"\n--", search) + 1
                if not start:
                    break
            at_start = False
            end = data.find(b"\n", start, start + _BOUNDARY_LINE_LIMIT)
            if end < 0 and len(data) - start < _BOUNDARY_LINE_LIMIT:
                return self._hold(data, place, start, out)
            if end >= 0 and self._is_boundary(data[start:end]):
                out.append(data[place : end + 1])
                self._line_start = True
                return end + 1
            search = start + 1
        if self._mode is _Mode.SETTLED:
            return place
        if data.endswith(b"\n-", place) or (self._line_start and data[place:] == b"-"):
            return self._hold(data, place, len(data) - 1, out)
        out.append(data[place:])
        self._line_start = data.endswith(b"\n")
        return len(data)

    def _hold(self, data: bytes, place: int, start: int, out: list[bytes]) -> int:
        """Pass what is before ``start``, which begins a line that is not complete yet."""
        out.append(data[place:start])
        self._held = data[start:]
        self._line_start = True
        return len(data)

    def _is_boundary(self, line: bytes) -> bool:
        """Whether the line (without its LF) is a boundary that is open; then go where it leads."""
        line = line.rstrip(b" \t\r")
        for depth in range(len(self._boundaries) - 1, -1, -1):
            boundary = self._boundaries[depth]
            if line == boundary.line:
                # What is inside ends with it, whether it has said so or not (RFC 2046 section 5.1.2).
                del self._boundaries[depth + 1 :]
                self._in_digest = boundary.digest
                self._mode = _Mode.HEADER
                return True
            if line == boundary.line + b"--":
                del self._boundaries[depth:]
                self._mode = _Mode.BODY if self._boundaries else _Mode.SETTLED
                return True
        return False

    # -- headers --------------------------------------------------------------------------------------------------

    def _header(self, data: bytes, place: int, looked_at: int, out: list[bytes]) -> int:
        """Gather header lines up to the end of their block; return where to go on."""
        while place < len(data):
            if self._is_exhausted(_HEADER_EFFORT):
                out.append(self._downgraded())
                return place
            end = data.find(b"\n", max(place, looked_at))
            if end < 0:
                if len(data) - place <= HEADER_LIMIT:
                    self._held = data[place:]
                    return len(data)
                self._line_start = True
                if not self._is_header_line(data[place:]):
                    self._end_header(out, proper=False)
                    return place
                self._read_type()
                out.append(self._downgraded())
                self._after_long_line = self._mode
                self._mode = _Mode.LONG_LINE
                return place
            line = data[place : end + 1]
            if line.startswith(b"--") and self._boundaries:
                mode = self._mode
                if self._is_boundary(line[:-1]):
                    out.append(self._downgraded())
                    out.append(line)
                    return end + 1
                self._mode = mode
            if line in (b"\r\n", b"\n"):
                self._block += line
                self._end_header(out)
                return end + 1
            if not self._is_header_line(line):
                # The body begins without an empty line, as in `mailsvc.mail.message`.
                self._end_header(out, proper=False)
                return place
            self._block += line
            place = end + 1
            if len(self._block) > HEADER_LIMIT:
                self._read_type()
                out.append(self._downgraded())
        return place

    def _is_header_line(self, line: bytes) -> bool:
        if line[:1] in (b" ", b"\t"):
            return bool(self._block) or self._type is not None
        return _BEGINS_FIELD.match(line, 0, 1000) is not None

    def _long_line(self, data: bytes, place: int, out: list[bytes]) -> int:
        end = data.find(b"\n", place) + 1 or len(data)
        line = data[place:end]
        self.changed = self.changed or not line.isascii()
        out.append(without_meaning(line))
        if line.endswith(b"\n"):
            self._mode = self._after_long_line
        return end

    def _end_header(self, out: list[bytes], *, proper: bool = True) -> None:
        """The block is complete: give it, and see what follows it; not ``proper``: without its empty line."""
        if self._mode is _Mode.REPORT:
            out.append(self._downgraded())
            if not proper:
                self._mode = _Mode.BODY if self._boundaries else _Mode.SETTLED
                self._line_start = True
            return
        self._read_type()
        part = self._type or Message()
        if self._in_digest:
            part.set_default_type("message/rfc822")
        content_type = part.get_content_type()
        encoding = str(part.get("content-transfer-encoding", "")).strip(" \t\r\n").lower()
        is_plain = encoding in ("", "7bit", "8bit", "binary")
        out.append(self._downgraded(content_type if is_plain else ""))
        self._type, self._in_digest, self._line_start = None, False, True
        content_type = _RENAMED.get(content_type, content_type)
        if content_type.startswith("multipart/") and len(self._boundaries) < _DEPTH:
            self._open(part, content_type)
        self._mode = _Mode.BODY if self._boundaries else _Mode.SETTLED
        if is_plain and content_type in _MESSAGES:
            self._mode = _Mode.HEADER
        elif is_plain and content_type in _REPORTS:
            self._mode = _Mode.REPORT

    def _open(self, part: Message, content_type: str) -> None:
        boundary = str(part.get_param("boundary", "")).rstrip(" \t")
        if boundary and boundary.isascii() and len(boundary) <= _BOUNDARY_LINE_LIMIT - 10:
            line = b"--" + boundary.encode("ascii")
            self._boundaries.append(_Boundary(line, content_type == "multipart/digest"))

    def _read_type(self) -> None:
        """Note type and encoding of the part whose header, or a piece of it, is gathered."""
        self._type = self._type or Message()
        for field in _TYPE_FIELDS.finditer(self._block):
            name = f"content-{field[1].decode('ascii')}"
            if name not in self._type:
                value = bytes(field[2][:_TYPE_LIMIT]).replace(b"\r", b"").replace(b"\n", b"")
                self._type[name] = value.decode("ascii", "replace")

    def _downgraded(self, content_type: str = "") -> bytes:
        """The gathered block in ASCII, its type renamed if there is a name for clients of old."""
        block = bytes(self._block)
        self._block.clear()
        renamed = _RENAMED.get(content_type)
        if renamed is not None:
            pattern = rb"^(content-type[ \t]*:[\s]*)" + re.escape(content_type.encode("ascii")) + rb"(?![^\s;(])"
            block = re.sub(
                pattern, rb"\1" + renamed.encode("ascii"), block, count=1, flags=re.IGNORECASE | re.MULTILINE
            )
        if block.isascii():
            return block
        self.changed = True
        return b"".join(_fields(block, self._budget))


def _fields(block: bytes, budget: _Budget) -> Iterator[bytes]:
    """The fields of a block in ASCII."""
    for match in _FIELD.finditer(block):
        field = match[0]
        yield field if field.isascii() else budget.downgraded(field)


@dataclass(frozen=True, slots=True)
class Growth:
    """How many octets longer the surrogate is (never mind the stuffed dots), and whether a client of old needs it."""

    octets: int
    needed: bool


@dataclass(frozen=True, slots=True)
class Appearance:
    """How an item that is not shown as it is stored may be shown: ``surrogate_size`` in octets, None when it needs no
    surrogate; ``header_gap`` is the length of its `missing_end`."""

    surrogate_size: int | None
    header_gap: int = 0


def missing_end(header: bytes) -> bytes:
    """What a header block lacks to end with an empty line; b"" for nearly all."""
    if header.endswith((b"\n\r\n", b"\n\n")) or header in (b"\r\n", b"\n"):
        return b""
    return b"\r\n" if header.endswith(b"\n") or not header else b"\r\n\r\n"


def surrogate_growth(pieces: Iterable[bytes]) -> Growth:
    """The `Growth` of a message; ``pieces`` as for `Downgrader`, read no further than it must be."""
    downgrader = Downgrader()
    for piece in pieces:
        downgrader.feed(piece)
        if downgrader.settled:
            break
    else:
        downgrader.close()
    return Growth(downgrader.growth, downgrader.changed)
