"""Reading what a mail server says: the reply reader of the client side (RFC 5321 section 4.2, RFC 2033, RFC 1939).

Sans-I/O: octets go in as they come, in any segmentation; whole replies come out.  Whoever holds the connection asks for
one reply per command that he has sent (`ReplyReader.next_reply`), and must ask `ReplyReader.unread` before a TLS
handshake: what a server has sent before it could know what follows is an injection (the response half of
CVE-2011-0411), and a handshake over it would let words said in clear speak from inside TLS.

The hardest idea: to be strict where a lie could hide and lenient where only style is at stake.  A code is three digits
of the ranges that exist, the same on every line of one reply; a separator is a hyphen or a space; sizes and numbers of
lines have limits, because a server may talk for ever.  But a line may end in LF alone, may have no text, may hold
octets that are no ASCII: none of that can change what the reply means.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from mailsvc.errors import MailsvcError

LINE_LIMIT = 4096
"""Octets of a line with its end.  RFC 5321 section 4.5.3.1.5 allows 512; some servers write more into a refusal."""

REPLY_LIMIT = 65536
"""Octets of a whole reply."""

LINES_LIMIT = 512
"""Lines of a whole reply."""

_SMTP = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?\Z", re.DOTALL)
_ENHANCED = re.compile(r"([245])\.([0-9]{1,3})\.([0-9]{1,3})(?: |\Z)")


class ReplyError(MailsvcError):
    """What came is no reply; the connection cannot be used any more.  The message is for people."""


class Dialect(Enum):
    """How a protocol's replies look."""

    SMTP = "SMTP"
    """SMTP and LMTP: ``250-first``, ``250 last``."""
    POP3 = "POP3"
    """One line, ``+OK`` or ``-ERR``; what may follow is asked for with `ReplyReader.next_lines`."""
    IMAP = "IMAP"
    """Lines; the one that begins with the command's tag (or ``*`` for the greeting) is the last."""


@dataclass(frozen=True, slots=True)
class PeerReply:
    """A whole reply; ``lines`` are the texts without code, separator and line end, made of ASCII (others as ``\\xNN``).

    ``code`` is 200 to 599; for protocols without codes 200 means yes, 500 means no.
    """

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """All lines in one, for people."""
        return " ".join(line for line in self.lines if line)

    @property
    def enhanced(self) -> str:
        """The enhanced status code (RFC 2034) that the first line begins with and that fits the code; "" for none."""
        match = _ENHANCED.match(self.lines[0])
        return match[0].strip() if match and match[1] == str(self.code)[0] else ""

    @property
    def is_positive(self) -> bool:
        """2xx and 3xx."""
        return self.code < 400

    @property
    def is_temporary(self) -> bool:
        """4xx: what may be otherwise next time."""
        return 400 <= self.code < 500

    def __str__(self) -> str:
        return f"{self.code} {self.text}".strip()


class ReplyReader:
    """Takes octets with `feed`, gives replies in their order."""

    def __init__(self, dialect: Dialect = Dialect.SMTP) -> None:
        self._dialect = dialect
        self._buffer = bytearray()
        self._lines: list[bytes] = []
        self._octets = 0

    def feed(self, octets: bytes) -> None:
        """Take what has come.  Raises `ReplyError` when a line or a reply is longer than can be meant."""
        self._buffer += octets
        if b"\n" not in self._buffer and len(self._buffer) > LINE_LIMIT:
            raise ReplyError(f"the server sent a line of more than {LINE_LIMIT} octets")
        if len(self._buffer) > REPLY_LIMIT:
            # Nobody asks for a second reply before the first is read, so this cannot be many good ones.
            raise ReplyError(f"the server sent more than {REPLY_LIMIT} octets at once")

    @property
    def unread(self) -> int:
        """Octets that have come and are no part of a reply that was given out.  Not 0 before a handshake: an attack."""
        return len(self._buffer) + self._octets

    def next_reply(self, tag: bytes = b"*") -> PeerReply | None:
        """The next whole reply, or None when more must come.  Raises `ReplyError`.

        ``tag``: in IMAP, of the command that is answered; ``*`` for the greeting.
        """
        while (line := self._line()) is not None:
            reply = self._taken(line, tag)
            if reply is not None:
                self._lines, self._octets = [], 0
                return reply
        return None

    def next_lines(self) -> tuple[str, ...] | None:
        """The lines up to a lone dot (a POP3 list), or None when more must come.  Raises `ReplyError`."""
        while (line := self._line()) is not None:
            if line == b".":
                lines, self._lines, self._octets = self._lines, [], 0
                return tuple(readable(each.removeprefix(b".")) for each in lines)
            self._keep(line)
        return None

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\n")
        if end < 0:
            return None
        if end >= LINE_LIMIT:
            raise ReplyError(f"the server sent a line of more than {LINE_LIMIT} octets")
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        return line

    def _keep(self, line: bytes) -> None:
        self._lines.append(line)
        self._octets += len(line) + 2
        if len(self._lines) > LINES_LIMIT or self._octets > REPLY_LIMIT:
            raise ReplyError("the server's reply does not end")

    def _taken(self, line: bytes, tag: bytes) -> PeerReply | None:
        match self._dialect:
            case Dialect.SMTP:
                return self._smtp(line)
            case Dialect.POP3:
                return _pop3(line)
            case Dialect.IMAP:
                return self._imap(line, tag)

    def _smtp(self, line: bytes) -> PeerReply | None:
        match = _SMTP.match(line)
        if match is None:
            raise ReplyError(f"the server sent a line that is no SMTP reply: {readable(line[:80])!r}")
        if self._lines and not self._lines[0].startswith(match[1]):
            first, now = self._lines[0][:3].decode("ascii"), match[1].decode("ascii")
            raise ReplyError(f"the server changed its code within one reply, from {first} to {now}")
        self._keep(line)
        if match[2] == b"-":
            return None
        return PeerReply(int(match[1]), tuple(readable(each[4:]) for each in self._lines))

    def _imap(self, line: bytes, tag: bytes) -> PeerReply | None:
        first, _, rest = line.partition(b" ")
        self._keep(line)
        if first != tag:
            if first != b"*" and first != b"+":
                raise ReplyError(f"the server sent a line that is no IMAP response: {readable(line[:80])!r}")
            return None
        word = rest.partition(b" ")[0].upper()
        if tag == b"*" and word not in (b"OK", b"PREAUTH", b"BYE"):
            raise ReplyError(f"the server's first line is no IMAP greeting: {readable(line[:80])!r}")
        return PeerReply(200 if word == b"OK" else 500, tuple(readable(each) for each in self._lines))


def readable(octets: bytes) -> str:
    """Octets of a stranger as text that can be shown: printable ASCII, everything else as ``\\xNN``."""
    text = octets.decode("latin-1")
    if text.isascii() and text.isprintable():
        return text
    return "".join(chr(octet) if 0x20 <= octet < 0x7F else f"\\x{octet:02x}" for octet in octets)


def _pop3(line: bytes) -> PeerReply:
    word, _, text = line.partition(b" ")
    if word not in (b"+OK", b"-ERR"):
        raise ReplyError(f"the server sent a line that is no POP3 reply: {readable(line[:80])!r}")
    return PeerReply(200 if word == b"+OK" else 500, (readable(text),))
