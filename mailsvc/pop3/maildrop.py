"""A maildrop as one session sees it: a snapshot, and the marks that the session puts on it (RFC 1939 sections 4 to 6).

Pure.  Message numbers are those of RFC 1939: 1 to n in the order of arrival, fixed for the session, and a message that
is marked as deleted keeps its number but may no longer be referred to.  New mail is not seen before the next login.

Everything is made for 100,000 messages: the messages stand in columns (`mailsvc.mail.snapshot`), a mark is one octet,
and listings are written block by block while the client reads them.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from itertools import compress

from mailsvc.mail.snapshot import BLOCK, MaildropItem, Snapshot
from mailsvc.pop3.texts import Refusal

_NUMBER = re.compile(rb"[0-9]{1,10}\Z")


class NoSuchMessage(Refusal):
    """The argument does not name a message of this session."""


class Maildrop:
    """The messages of one session."""

    def __init__(self, items: Snapshot, sizes: array[int] | None = None) -> None:
        """``sizes`` are those that the session sends, when they are not those of the items."""
        self._items = items
        self._sizes = items.sizes if sizes is None else sizes
        self._left = bytearray(b"\1") * len(items)
        self._count = len(items)
        self._octets = sum(self._sizes)

    @property
    def count(self) -> int:
        """How many messages are not marked as deleted."""
        return self._count

    @property
    def octets(self) -> int:
        """The size of the messages that are not marked as deleted, as STAT tells it."""
        return self._octets

    def number(self, argument: bytes) -> int:
        """The message number that ``argument`` spells.  Raises `NoSuchMessage`, also for a deleted one."""
        if not _NUMBER.match(argument):
            raise NoSuchMessage("number_needed")
        number = int(argument)
        if not 1 <= number <= len(self._left):
            raise NoSuchMessage("no_message", messages=len(self._left))
        if not self._left[number - 1]:
            raise NoSuchMessage("deleted", number=number)
        return number

    def item(self, number: int) -> MaildropItem:
        """The message with a number that `number` gave."""
        return self._items[number - 1]

    def size(self, number: int) -> int:
        """Its size alone, which costs nothing."""
        return self._sizes[number - 1]

    def message_id(self, number: int) -> int:
        """Its message id alone, likewise."""
        return self._items.message_ids[number - 1]

    def uid(self, number: int) -> int:
        """Its uid alone, likewise."""
        return self._items.uids[number - 1]

    def sizes(self) -> Iterator[str]:
        """The lines of LIST in blocks of whole lines: number and size of each message that is not deleted."""
        for start in range(0, len(self._left), BLOCK):
            sizes = self._sizes[start : start + BLOCK]
            yield _lines("%d %d\r\n", self._left, start, zip(range(start + 1, start + 1 + BLOCK), sizes, strict=False))

    def uidls(self) -> Iterator[str]:
        """The lines of UIDL in blocks, likewise."""
        for start in range(0, len(self._left), BLOCK):
            uidls = self._items.uidls(start // BLOCK)
            yield _lines("%d %s\r\n", self._left, start, zip(range(start + 1, start + 1 + BLOCK), uidls, strict=False))

    def delete(self, number: int) -> None:
        """Mark a message; it goes at QUIT."""
        self._left[number - 1] = 0
        self._count -= 1
        self._octets -= self._sizes[number - 1]

    def reset(self) -> None:
        """Take all marks off."""
        self._left = bytearray(b"\1") * len(self._items)
        self._count = len(self._items)
        self._octets = sum(self._sizes)

    @property
    def marked(self) -> list[int]:
        """The numbers of the marked messages, in their order."""
        if self._count == len(self._left):
            return []
        return [number for number, left in enumerate(self._left, 1) if not left]


def _lines(form: str, left: bytearray, start: int, rows: Iterator[tuple[int, object]]) -> str:
    """The rows that ``left`` has from ``start`` on, each in this form."""
    # One formatting of the whole block: half the time of one for each line.
    cells = [cell for row in compress(rows, left[start : start + BLOCK]) for cell in row]
    return form * (len(cells) // 2) % tuple(cells)
