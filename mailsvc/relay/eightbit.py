"""A message of eight bits for a server of seven: its MIME parts are encoded anew (RFC 6152 section 3, RFC 2045).

Pure.  Two passes, because a part says how it is encoded before anybody knows what is in it: `Surveyor` is fed with the
content and makes a `Survey`, `Converter` is fed with it again and does what the survey says.  Both hold no more than a
header and a line of it, whatever its size.  Which of the two encodings a part gets, quoted-printable or base64, is a
matter of its size only: a decoder gives the same octets, line ends included.

The hardest idea is to know what must not be touched.  A header beyond ASCII has no encoding that a server on the way
may choose (RFC 6531 allows no downgrading in transit).  What is signed would not be what was signed (RFC 1847 section
2.1, which for this very reason wants seven bits there), and what is already encoded must not be encoded twice (RFC 2045
section 6.4).  In all these cases there is an ``obstacle``, and the message is refused instead.  A DKIM signature does
break, as it does with every server that converts; the alternative is that no mail arrives.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesHeaderParser
from enum import Enum

PARTS_LIMIT = 10_000
"""Parts of a message that are looked at."""

DEPTH_LIMIT = 50
"""Parts within parts."""

HEADER_LIMIT = 262_144
"""Octets of the header of one part."""

_LINE = 4096
"""A line of a body that is longer is handled in pieces; no boundary is."""

_HIGH = re.compile(rb"[\x80-\xff]")
_QP_LINE = 75  # RFC 2045 section 6.7: 76 with the "=" of a soft line break
_BASE64_OCTETS = 57
_QP = [b"%c" % octet if 33 <= octet <= 126 and octet != 61 else b"=%02X" % octet for octet in range(256)]
_QP[0x20], _QP[0x09] = b" ", b"\t"
_CTE = re.compile(rb"content-transfer-encoding[ \t]*:", re.IGNORECASE)


class Change(Enum):
    """What is done to a part."""

    LABEL = "label"
    """Its header stops saying 8bit."""
    QUOTED = "quoted-printable"
    BASE64 = "base64"


@dataclass(frozen=True, slots=True)
class Survey:
    """What is in a message.

    ``header_8bit``: a header (the message's, a part's) holds octets above 127.  ``eight_bit``: anything does.
    ``changes``: by the number of the part, in the order in which parts begin.  ``obstacle``: why it cannot be made one
    of seven bits, as the second half of a sentence; "" when it can.
    """

    header_8bit: bool = False
    eight_bit: bool = False
    changes: dict[int, Change] = field(default_factory=dict)
    obstacle: str = ""

    @property
    def converts(self) -> bool:
        """Whether there is something to change and nothing against it."""
        return self.eight_bit and not self.header_8bit and not self.obstacle


class _Kind(Enum):
    LEAF = "leaf"
    MULTIPART = "multipart"
    MESSAGE = "message"


class _Where(Enum):
    HEADER = "header"
    BODY = "body"
    BETWEEN = "between"
    """Before the first part, between the end of the last and what follows: nobody shows it."""


@dataclass(slots=True)
class _Part:
    number: int
    kind: _Kind = _Kind.LEAF
    header: bytes = b""
    encoding: str = "7bit"
    typed: bool = False
    signed: bool = False
    high: int = 0
    octets: int = 0


@dataclass(frozen=True, slots=True)
class _Open:
    """A multipart that has begun."""

    boundary: bytes
    signed: bool
    digest: bool


class _Walker:
    """Takes content apart; tells what it finds to the methods at its end."""

    def __init__(self) -> None:
        self._buffer = b""
        self._where = _Where.HEADER
        self._header: list[bytes] = []
        self._header_octets = 0
        self._open: list[_Open] = []
        self._parts = 0
        self._mid_line = False
        self._part = self._new_part()

    def feed(self, piece: bytes) -> None:
        data = self._buffer + piece
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._line(data[start : end + 1])
            start = end + 1
        self._buffer = data[start:]
        if len(self._buffer) > _LINE and self._where is not _Where.HEADER:
            # A CR stays with its LF.
            keep = 1 if self._buffer.endswith(b"\r") else 0
            whole, self._buffer = self._buffer[: len(self._buffer) - keep], self._buffer[len(self._buffer) - keep :]
            self._line(whole)
        elif len(self._buffer) > HEADER_LIMIT:
            self._line(self._buffer)
            self._buffer = b""

    def _close(self) -> None:
        if self._buffer:
            self._line(self._buffer)
            self._buffer = b""
        if self._where is _Where.HEADER:
            self._end_header(b"")
        self._end_part()

    def _line(self, line: bytes) -> None:
        begins, self._mid_line = not self._mid_line, not line.endswith(b"\n")
        if begins and self._open and line.startswith(b"--") and self._boundary(line):
            return
        match self._where:
            case _Where.HEADER:
                if line in (b"\r\n", b"\n"):
                    self._end_header(line)
                else:
                    self._header.append(line)
                    self._header_octets += len(line)
                    if self._header_octets > HEADER_LIMIT:
                        self.on_obstacle("the header of one of its parts is too long to be rewritten")
                        self._end_header(b"")
            case _Where.BODY:
                self.on_body(self._part, line)
            case _Where.BETWEEN:
                self.on_between(line)

    def _boundary(self, line: bytes) -> bool:
        text = line.rstrip(b" \t\r\n")[2:]
        for depth in range(len(self._open) - 1, -1, -1):
            boundary = self._open[depth].boundary
            if text not in (boundary, boundary + b"--"):
                continue
            if self._where is _Where.HEADER:
                self._end_header(b"")
            if len(self._open) > depth + 1 or self._where is _Where.BODY:
                self._end_part()
            final = text != boundary
            del self._open[depth + (0 if final else 1) :]
            self.on_between(line)
            if final:
                self._where = _Where.BETWEEN
            else:
                self._where = _Where.HEADER
                self._part = self._new_part()
            return True
        return False

    def _new_part(self) -> _Part:
        self._parts += 1
        if self._parts > PARTS_LIMIT:
            self.on_obstacle(f"it has more than {PARTS_LIMIT} parts")
        signed = any(each.signed for each in self._open)
        return _Part(self._parts, signed=signed)

    def _end_header(self, blank: bytes) -> None:
        part, part.header = self._part, b"".join(self._header)
        self._header, self._header_octets = [], 0
        parsed = BytesHeaderParser().parsebytes(part.header)
        part.encoding = str(parsed.get("content-transfer-encoding", "7bit")).strip().lower()
        part.typed = "content-type" in parsed
        kind = parsed.get_content_type()
        deep = len(self._open) >= DEPTH_LIMIT
        # RFC 2046 section 5.1.5: in a digest what says nothing of itself is a message.
        if not part.typed and self._open and self._open[-1].digest:
            kind = "message/rfc822"
        boundary = _boundary_of(parsed) if kind.startswith("multipart/") else b""
        identity = part.encoding in ("7bit", "8bit", "binary")
        if deep and boundary:
            self.on_obstacle("its parts are too deep within each other")
        elif boundary and identity:
            part.kind = _Kind.MULTIPART
        elif kind in ("message/rfc822", "message/global") and identity:
            part.kind = _Kind.MESSAGE
        self.on_header(part, blank)
        match part.kind:
            case _Kind.LEAF:
                self._where = _Where.BODY
            case _Kind.MULTIPART:
                signed = part.signed or kind == "multipart/signed"
                self._open.append(_Open(boundary, signed, kind == "multipart/digest"))
                self._where = _Where.BETWEEN
            case _Kind.MESSAGE:
                self._where = _Where.HEADER
                self._part = self._new_part()

    def _end_part(self) -> None:
        if self._where is _Where.BODY:
            self.on_end(self._part)

    # -- what is found

    def on_header(self, part: _Part, blank: bytes) -> None:
        raise NotImplementedError

    def on_body(self, part: _Part, line: bytes) -> None:
        raise NotImplementedError

    def on_end(self, part: _Part) -> None:
        raise NotImplementedError

    def on_between(self, line: bytes) -> None:
        raise NotImplementedError

    def on_obstacle(self, why: str) -> None:
        raise NotImplementedError


def _boundary_of(parsed: Message) -> bytes:
    try:
        return (parsed.get_boundary() or "").encode("ascii")
    except (UnicodeEncodeError, ValueError):
        return b""


class Surveyor(_Walker):
    """Feed it with the whole content; `close` gives the survey."""

    def __init__(self) -> None:
        self._header_8bit = False
        self._eight_bit = False
        self._obstacle = ""
        self._changes: dict[int, Change] = {}
        super().__init__()

    def close(self) -> Survey:
        """The survey."""
        self._close()
        return Survey(self._header_8bit, self._eight_bit, self._changes, self._obstacle)

    def on_header(self, part: _Part, blank: bytes) -> None:
        if _HIGH.search(part.header):
            self._header_8bit = self._eight_bit = True
        if part.kind is not _Kind.LEAF and part.encoding in ("8bit", "binary"):
            self._changes[part.number] = Change.LABEL

    def on_body(self, part: _Part, line: bytes) -> None:
        part.octets += len(line)
        if not line.isascii():
            part.high += len(_HIGH.findall(line))

    def on_end(self, part: _Part) -> None:
        if not part.high:
            if part.encoding in ("8bit", "binary"):
                # A line of binary may be longer than a server takes.
                self._changes[part.number] = Change.LABEL if part.encoding == "8bit" else Change.QUOTED
            return
        self._eight_bit = True
        if part.signed:
            self.on_obstacle("what is beyond them is signed and must not be changed")
        if part.encoding not in ("7bit", "8bit", "binary"):
            self.on_obstacle(f"a part that says {part.encoding[:30]!a} holds octets beyond them")
        self._changes[part.number] = Change.BASE64 if part.high * 6 > part.octets else Change.QUOTED

    def on_between(self, line: bytes) -> None:
        if not line.isascii():
            self._eight_bit = True
            self.on_obstacle("between the parts of the message there are octets beyond them")

    def on_obstacle(self, why: str) -> None:
        self._obstacle = self._obstacle or why


class Converter(_Walker):
    """Feed it with the same content, and `take` what it has become."""

    def __init__(self, survey: Survey) -> None:
        """``survey``: one that `Survey.converts`."""
        self._survey = survey
        self._out: list[bytes] = []
        self._held = b""
        self._column = 0
        super().__init__()

    def take(self) -> bytes:
        """What is ready."""
        made = b"".join(self._out)
        self._out.clear()
        return made

    def close(self) -> bytes:
        """The rest."""
        self._close()
        return self.take()

    def on_header(self, part: _Part, blank: bytes) -> None:
        change = self._survey.changes.get(part.number)
        if change is None:
            self._out += [part.header, blank]
            return
        encoding = b"7bit" if change is Change.LABEL else change.value.encode("ascii")
        fields = [each for each in _fields(part.header) if not _CTE.match(each)]
        if fields and not fields[-1].endswith(b"\n"):
            fields[-1] += b"\r\n"
        if part.number == 1 and not any(each.lower().startswith(b"mime-version") for each in fields):
            fields.append(b"MIME-Version: 1.0\r\n")
        if not part.typed and part.kind is _Kind.LEAF:
            # RFC 1428 section 3: nobody has said what the octets stand for.
            fields.append(b"Content-Type: text/plain; charset=unknown-8bit\r\n")
        fields.append(b"Content-Transfer-Encoding: " + encoding + b"\r\n")
        # A body that begins without the empty line gets it: there is a header now.
        self._out += [*fields, blank or b"\r\n"]

    def on_body(self, part: _Part, line: bytes) -> None:
        match self._survey.changes.get(part.number):
            case Change.QUOTED:
                self._quote(line)
            case Change.BASE64:
                self._encode(line)
            case _:
                self._out.append(line)

    def on_end(self, part: _Part) -> None:
        if self._survey.changes.get(part.number) is not Change.BASE64:
            self._column = 0
            return
        # The CRLF before a boundary belongs to the boundary (RFC 2046 section 5.1.1).
        within = bool(self._open)
        rest = self._held.removesuffix(b"\r\n") if within else self._held
        self._out += _base64_lines(rest)
        if within and not rest:
            self._out.append(b"\r\n")
        self._held = b""

    def on_between(self, line: bytes) -> None:
        self._out.append(line)

    def on_obstacle(self, why: str) -> None:
        """The survey has said it."""

    def _quote(self, line: bytes) -> None:
        ended = line.endswith(b"\r\n")
        text = line[:-2] if ended else line
        for place, octet in enumerate(text):
            coded = _QP[octet]
            if octet in b" \t" and place + 1 == len(text):
                coded = b"=%02X" % octet  # section 6.7 rule 3: no white space at the end of a line
            if self._column + len(coded) > _QP_LINE:
                self._out.append(b"=\r\n")
                self._column = 0
            self._out.append(coded)
            self._column += len(coded)
        if ended:
            self._out.append(b"\r\n")
            self._column = 0

    def _encode(self, line: bytes) -> None:
        self._held += line
        # The last octets stay: they may be the CRLF of a boundary.
        ready = max(0, len(self._held) - 2) // _BASE64_OCTETS * _BASE64_OCTETS
        if ready >= _BASE64_OCTETS * 100:
            self._out += _base64_lines(self._held[:ready])
            self._held = self._held[ready:]


def _base64_lines(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), _BASE64_OCTETS):
        yield b64encode(data[start : start + _BASE64_OCTETS]) + b"\r\n"


def _fields(header: bytes) -> list[bytes]:
    """The fields of a header, each with its continuation lines and line ends."""
    fields: list[bytes] = []
    for line in header.splitlines(keepends=True):
        if fields and line[:1] in b" \t":
            fields[-1] += line
        else:
            fields.append(line)
    return fields
