"""Dovecot's ``dovecot-uidlist`` and its setting ``pop3_uidl_format``: what its POP3 clients know each message by.

A client that leaves mail on the server remembers unique-ids (RFC 1939 section 7).  When a mailbox moves and they
change, it fetches everything again.  So they are computed here as Dovecot computes them, and written for a Dovecot
that takes over from us.  All of this was found out by asking a Dovecot 2.3; ``tests/interop/test_dovecot.py`` asks it
again.

A list is a first line with the UIDVALIDITY (``V``), the next uid (``N``) and the mailbox's GUID (``G``), then a line
for each message: its uid, fields of one letter and a value, a colon and the file's name.  Of the fields matter ``P``,
a unique-id of its own (without a value: the file's name), ``O``, its place in POP3's order, and ``G``, its GUID.

The hardest idea is the little language of the format.  Between ``%`` and its variable stand, in this order,
``-`` ``0`` a width, or an offset, a dot, and a width; and letters that change the value.  A width with a zero pads and
never cuts; one without cuts and never pads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import md5

from mailsvc.errors import MailsvcError

DEFAULT_FORMAT = "%08Xu%08Xv"
"""Dovecot's default."""

_UIDL = re.compile(r"[!-~]{1,70}\Z")
_ITEM = re.compile(r"%(?:(?P<first>-?0?\d*)(?:\.(?P<second>0?-?\d*))?(?P<modifiers>[A-Z]{0,10})(?P<name>[a-z%]))?")
_LARGEST = 2**32
_MOST_PROBLEMS = 100


class UidListRefused(MailsvcError):
    """A file that is no dovecot-uidlist, or a format that mailsvc cannot follow."""


@dataclass(frozen=True, slots=True)
class Record:
    """A message in the list.  `uidl`: its own unique-id, "" for the file's name, None for what the format gives."""

    uid: int
    name: bytes
    uidl: str | None = None
    order: int | None = None
    guid: str | None = None


@dataclass(frozen=True, slots=True)
class UidList:
    """A whole list; `records` by the unique part of the file's name, `problems` are sentences on lines left out,
    the first of them."""

    validity: int
    next_uid: int
    guid: str
    records: Mapping[bytes, Record] = field(repr=False)
    problems: tuple[str, ...] = ()


def parse(lines: Iterable[bytes]) -> UidList:
    """Read a list, of version 3 or 1; a line that makes no sense is left out, as Dovecot does.

    Raises `UidListRefused` when already its first line makes none.
    """
    rest = iter(lines)
    validity, next_uid, guid, extended = _header(next(rest, b""))
    records: dict[bytes, Record] = {}
    problems: list[str] = []
    last = 0
    for number, line in enumerate(rest, 2):
        record = _record(line.rstrip(b"\n"), extended)
        if record is not None and record.uid > last:
            last = record.uid
            records[record.name] = record
        elif len(problems) < _MOST_PROBLEMS:
            why = "damaged" if record is None else f"out of order (uid {record.uid} behind {last})"
            problems.append(f"line {number} is {why}")
    return UidList(validity, next_uid, guid, records, tuple(problems))


def _header(line: bytes) -> tuple[int, int, str, bool]:
    version, *words = line.rstrip(b"\n").decode("latin-1").split(" ")
    try:
        if version == "1":
            validity, next_uid = map(_number, words)
            return validity, next_uid, "", False
        if version == "3":
            fields = {word[:1]: word[1:] for word in words}
            return _number(fields["V"]), _number(fields["N"]), fields.get("G", ""), True
    except (KeyError, ValueError):
        pass
    raise UidListRefused("this is no dovecot-uidlist that mailsvc can read: its first line is not of version 3 or 1")


def _record(line: bytes, extended: bool) -> Record | None:
    number, blank, rest = line.partition(b" ")
    try:
        uid = _number(number.decode("latin-1"))
    except ValueError:
        return None
    fields: dict[str, str] = {}
    if extended:
        before, colon, rest = b" ".join((b"", rest)).partition(b" :")
        fields = {word[:1]: word[1:] for word in before.decode("latin-1").split(" ")}
        blank = blank and colon
    name = rest.partition(b":")[0]
    if not blank or not name or not uid:
        return None
    order = fields.get("O", "")
    return Record(
        uid, name, fields.get("P"), int(order) if order.isascii() and order.isdigit() else None, fields.get("G")
    )


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) >= _LARGEST:
        raise ValueError(text)
    return int(text)


def is_uidl(text: str) -> bool:
    """Whether a client may be given this: 1 to 70 characters of 0x21 to 0x7e (RFC 1939 section 7)."""
    return _UIDL.match(text) is not None


def uidl_of(record: Record, validity: int, form: UidlFormat) -> str:
    """The unique-id by which Dovecot's clients know a message; `is_uidl` says whether it is proper."""
    name = record.name.decode("latin-1")
    if record.uidl is not None:
        return record.uidl or name
    return form.expand(uid=record.uid, validity=validity, name=name, guid=record.guid or name)


def pop3_order(record: Record) -> tuple[bool, int, int]:
    """Sorts records as Dovecot's POP3 lists them: those with an order first, all others by uid."""
    return (record.order is None, record.order or 0, record.uid)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Plain text, or a variable with what is done to it."""

    text: str = ""
    variable: str = ""
    modifiers: str = ""
    offset: int = 0
    width: int = 0
    zeros: bool = False


def _hex(value: str) -> str:
    return f"{int(value):x}" if value.isascii() and value.isdigit() else "0"


_MODIFIERS: Mapping[str, Callable[[str], str]] = {
    "X": _hex,
    "U": str.upper,
    "L": str.lower,
    "R": lambda value: value[::-1],
    "M": lambda value: md5(value.encode("latin-1"), usedforsecurity=False).hexdigest(),
    "T": lambda value: value.rstrip(" \t"),
}


@dataclass(frozen=True, slots=True)
class UidlFormat:
    """A ``pop3_uidl_format``, understood; `text` is how it was written."""

    text: str
    pieces: tuple[_Piece, ...] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> UidlFormat:
        """Understand a format; `UidListRefused` names what mailsvc cannot follow."""
        pieces: list[_Piece] = []
        end = 0
        for item in _ITEM.finditer(text):
            pieces.append(_Piece(text[end : item.start()]))
            pieces.append(_piece(text, item))
            end = item.end()
        pieces.append(_Piece(text[end:]))
        return cls(text, tuple(piece for piece in pieces if piece.text or piece.variable))

    def expand(self, *, uid: int, validity: int, name: str, guid: str) -> str:
        """The unique-id of a message."""
        values = {"u": str(uid), "v": str(validity), "f": name, "g": guid}
        return "".join(piece.text or _shaped(values[piece.variable], piece) for piece in self.pieces)


def _piece(text: str, item: re.Match[str]) -> _Piece:
    name = item["name"]
    if name == "%":
        return _Piece("%")
    if name == "m":
        raise UidListRefused(f"{text!r}: %m is made of headers in Dovecot's mbox files and cannot be taken over")
    if name not in ("u", "v", "f", "g"):
        raise UidListRefused(f"{text!r} is no pop3_uidl_format that mailsvc knows; its variables are %u %v %f %g")
    unknown = [letter for letter in item["modifiers"] if letter not in _MODIFIERS]
    if unknown:
        raise UidListRefused(f"{text!r}: mailsvc does not know %{unknown[0]}; it knows %{' %'.join(_MODIFIERS)}")
    first, second = item["first"], item["second"]
    sign = -1 if first.startswith("-") else 1
    digits = first.removeprefix("-")
    number = int(digits or "0")
    if second is None:
        return _Piece("", name, item["modifiers"], 0, _bounded(number), digits.startswith("0"))
    negative = -1 if "-" in second else 1
    width = int(second.replace("-", "") or "0")
    return _Piece(
        "", name, item["modifiers"], sign * _bounded(number), negative * _bounded(width), second.startswith("0")
    )


def _bounded(number: int) -> int:
    return min(number, 1000)


def _shaped(value: str, piece: _Piece) -> str:
    for letter in piece.modifiers:
        value = _MODIFIERS[letter](value)
    value = value[piece.offset :] if piece.offset >= 0 or len(value) > -piece.offset else value
    if piece.zeros:
        return value.rjust(max(0, piece.width), "0")
    return value[: piece.width] if piece.width else value


def written(validity: int, next_uid: int, guid: str, records: Iterable[Record]) -> Iterable[bytes]:
    """The lines of a list of version 3; the records are in the order of their uids."""
    yield f"3 V{validity} N{next_uid} G{guid}\n".encode("ascii")
    for record in records:
        own = "" if record.uidl is None else f"P{record.uidl} "
        yield f"{record.uid} {own}:".encode("latin-1") + record.name + b"\n"
