"""mbox: many messages in one file, each behind a line ``From sender date`` (RFC 4155).

The file says nowhere how long a message is, so a line of a message that begins with "From " has to be quoted with
">".  There are four ways, and no file says which it uses: *mboxrd* quotes also what is quoted already, so that it can
be undone exactly; *mboxo* quotes "From " only; *mboxcl* is mboxo with a Content-Length field; *mboxcl2* quotes nothing
and relies on Content-Length alone.  We write mboxrd, and read whichever we are told.

A line starts a message only when a date stands in it as it should: people write "From here on" in their letters.

The hardest idea is whom to believe.  Content-Length is a field like any other, and who sends a message can write one
that reaches exactly to the end of somebody else's.  In all forms but mboxcl2 it is not needed and not looked at; in
mboxcl2 it counts when a message, or the end of the file, follows exactly there.

Quoting works piece by piece: ">" added at the end of a run of ">" is the same as one added at its beginning, so
nothing longer than a few octets is ever held back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from hashlib import sha256
from typing import BinaryIO

from mailsvc.errors import MailsvcError

_PIECE = 64 * 1024
_LONGEST_FROM_LINE = 1000
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ZONE = rb"(?: +(?:[+-]\d{4}|[A-Za-z]{1,5}))?"
_FROM_LINE = re.compile(
    rb"From (?:(?P<sender>\S+(?: +\S+)*?) +|)"
    rb"(?:%s),? +(?P<month>%s) +(?P<day>\d{1,2}) +(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d))?"
    rb"(?P<before>%s) +(?P<year>\d{4})(?P<after>%s)[ \t]*\r?\n?\Z"
    % ("|".join(_DAYS).encode(), "|".join(_MONTHS).encode(), _ZONE, _ZONE)
)
_LENGTH = re.compile(rb"content-length[ \t]*:[ \t]*(\d{1,15})[ \t]*\r?\n\Z", re.IGNORECASE)
_MAY_BE_QUOTED = re.compile(rb"(>*)((?:F(?:r(?:o(?:m)?)?)?)?)\Z")


class NotAnMbox(MailsvcError):
    """A file that does not begin as an mbox must."""


class Quoting(Enum):
    """How lines that begin with "From " are told from the beginning of a message."""

    MBOXRD = "mboxrd"
    MBOXO = "mboxo"
    MBOXCL2 = "mboxcl2"


@dataclass(frozen=True, slots=True)
class Entry:
    """A message in the file: its octets are those from `begin` to `end`, still quoted.

    `number` counts from 1, `received_at` is seconds since the epoch, `digest` is of the From_ line and the octets.
    """

    number: int
    begin: int
    end: int
    sender: str
    received_at: float
    digest: bytes


def entries(file: BinaryIO, quoting: Quoting) -> Iterator[Entry]:
    """The messages of a file that can seek, in their order; raises `NotAnMbox`."""
    reader = _Reader(file)
    line = reader.next()
    while line in (b"\n", b"\r\n"):
        line = reader.next()
    if not line:
        return
    heading = _heading(line)
    if heading is None:
        raise NotAnMbox("this is no mbox file: its first line does not begin with From, a sender and a date")
    number = 0
    while heading is not None:
        number += 1
        reader.begin(line)
        begin = reader.offset
        line = _pass_message(reader, quoting)
        end = reader.last_end
        yield Entry(number, begin, end, *heading, reader.digest())
        heading = _heading(line) if line else None


def _pass_message(reader: _Reader, quoting: Quoting) -> bytes:
    """Read up to and with the next From_ line, and return that; b"" at the end of the file."""
    length = None
    in_header = quoting is Quoting.MBOXCL2
    while line := reader.next():
        if reader.starts_line and line.startswith(b"From ") and _heading(line) is not None:
            return line
        reader.take(line)
        if not in_header:
            continue
        if found := _LENGTH.match(line):
            length = int(found[1])
        if reader.starts_line and line in (b"\n", b"\r\n"):
            in_header = False
            if length is not None and reader.ends_a_message(reader.offset + length):
                reader.take_up_to(reader.offset + length)
    return b""


class _Reader:
    """Lines of at most 64 KiB with their places; what `take` is given is counted to the message.

    An empty line at the end is held back: before a From_ line, or the end of the file, it belongs to nobody.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._file.seek(0)
        self.offset = 0
        self.starts_line = True
        self.last_end = 0
        self._open = False
        self._blank = b""
        self._hash = sha256()

    def next(self) -> bytes:
        """The next line, or a part of a long one; `starts_line` says whether it is a line's beginning."""
        line = self._file.readline(_PIECE)
        self.starts_line = not self._open
        self._open = bool(line) and not line.endswith(b"\n")
        self.offset += len(line)
        return line

    def begin(self, heading: bytes) -> None:
        self._hash = sha256(heading)
        self._blank = b""
        self.last_end = self.offset

    def take(self, line: bytes) -> None:
        self._hash.update(self._blank)
        self._blank = line if self.starts_line and line in (b"\n", b"\r\n") else b""
        if not self._blank:
            self._hash.update(line)
        self.last_end = self.offset - len(self._blank)

    def digest(self) -> bytes:
        return self._hash.digest()

    def ends_a_message(self, place: int) -> bool:
        """Whether at `place` the file ends or, perhaps behind an empty line, a From_ line stands."""
        self._file.seek(max(0, place - 1))
        before = self._file.read(1)
        after = self._file.readline(_LONGEST_FROM_LINE)
        if after in (b"\n", b"\r\n"):
            after = self._file.readline(_LONGEST_FROM_LINE)
            fits = not after or _heading(after) is not None
        else:
            fits = (not after and self._file.tell() == place) or _heading(after) is not None
        self._file.seek(self.offset)
        return fits and before == b"\n"

    def take_up_to(self, place: int) -> None:
        """Count all up to `place` to the message, whatever stands there."""
        self._hash.update(self._blank)
        self._blank = b""
        while self.offset < place and (piece := self._file.read(min(_PIECE, place - self.offset))):
            self._hash.update(piece)
            self.offset += len(piece)
        self.last_end = self.offset
        self._open = False


def _heading(line: bytes) -> tuple[str, float] | None:
    """Sender and time of a From_ line; None for any other."""
    if len(line) > _LONGEST_FROM_LINE or not line.startswith(b"From "):
        return None
    found = _FROM_LINE.match(line)
    if found is None:
        return None
    month = _MONTHS.index(found["month"].decode()) + 1
    day, hour, minute, second, year = (int(found[name] or 0) for name in ("day", "hour", "minute", "second", "year"))
    try:
        moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
        moment -= _east((found["before"] or found["after"]).strip().decode())
    except (ValueError, OverflowError):
        return None
    return (found["sender"] or b"").decode("utf-8", "replace"), moment.timestamp()


def _east(zone: str) -> timedelta:
    """What a numeric zone is ahead of UTC; names mean too many things, and RFC 4155 has none."""
    if zone[:1] not in ("+", "-"):
        return timedelta()
    ahead = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:5]))
    return -ahead if zone[0] == "-" else ahead


def from_line(sender: str, received_at: float) -> bytes:
    """The line before a message (RFC 4155 appendix A: UTC, as asctime writes it); "" is the null sender."""
    proper = sender and sender.isprintable() and " " not in sender and len(sender) <= 320
    moment = datetime.fromtimestamp(max(0.0, min(received_at, 253402300799.0)), UTC)
    date = f"{_DAYS[moment.weekday()]} {_MONTHS[moment.month - 1]} {moment.day:2} {moment:%H:%M:%S} {moment.year:04}"
    return f"From {sender if proper else 'MAILER-DAEMON'} {date}\n".encode()


class Quoter:
    """Adds a ">" to each line that begins with "From ", or with ">" and so on (mboxrd)."""

    _hold_quote = False

    def __init__(self) -> None:
        self._held = b""
        # Whether what comes next stands at the beginning of a line, or behind nothing but ">".
        self._at_start = True
        self._run_begun = False

    def feed(self, piece: bytes) -> bytes:
        """The next octets, quoted; up to six of them may wait for what follows."""
        joined = self._held + piece
        if not joined:
            return b""
        line = joined.rfind(b"\n") + 1
        begun = self._run_begun if line == 0 else False
        held = len(joined)
        waits = _MAY_BE_QUOTED.match(joined, line) if line or self._at_start else None
        if waits is not None:
            held = waits.start(2)
            if self._hold_quote and waits[1]:
                held -= 1
        ready, self._held = joined[:held], joined[held:]
        result = self._changed(ready, at_start=self._at_start, begun=self._run_begun)
        self._at_start = waits is not None
        self._run_begun = waits is not None and (begun or held > line)
        return result

    def close(self) -> bytes:
        """What waited."""
        held, self._held = self._held, b""
        return held

    def _changed(self, ready: bytes, *, at_start: bool, begun: bool) -> bytes:
        quoted = re.sub(rb"(?<=\n)(?=>*From )", b">", ready)
        return b">" + quoted if at_start and re.match(rb">*From ", ready) else quoted


class Unquoter(Quoter):
    """Takes a ">" away again: of every quoted line (mboxrd), or only of ">From " (mboxo)."""

    _hold_quote = True

    def __init__(self, quoting: Quoting) -> None:
        super().__init__()
        deeper = b"" if quoting is Quoting.MBOXO else b">*"
        self._only_one = quoting is Quoting.MBOXO
        self._first = re.compile(rb">(?=%sFrom )" % deeper)
        self._others = re.compile(rb"(?<=\n)>(?=%sFrom )" % deeper)

    def _changed(self, ready: bytes, *, at_start: bool, begun: bool) -> bytes:
        plain = self._others.sub(b"", ready)
        if at_start and not (begun and self._only_one) and self._first.match(ready):
            return plain[1:]
        return plain
