"""A maildrop as one session sees it: a snapshot, and the marks that the session puts on it (RFC 1939 sections 4 to 6).

Pure.  Message numbers are those of RFC 1939: 1 to n in the order of arrival, fixed for the session, and a message that
is marked as deleted keeps its number but may no longer be referred to.  New mail is not seen before the next login.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from mailsvc.errors import MailsvcError

_NUMBER = re.compile(rb"[0-9]{1,10}\Z")


class Item(Protocol):
    """What a session must know of a message; `mailsvc.storage.mailboxes.MaildropItem` fits."""

    @property
    def uid(self) -> int:
        """What the database knows it by."""

    @property
    def uidl(self) -> str:
        """What UIDL says of it."""

    @property
    def size(self) -> int:
        """Octets, before dots are stuffed."""


class NoSuchMessage(MailsvcError):
    """The argument does not name a message of this session; the message is the text behind -ERR."""


ItemT = TypeVar("ItemT", bound=Item)


class Maildrop(Generic[ItemT]):
    """The messages of one session."""

    def __init__(self, items: Sequence[ItemT]) -> None:
        self._items = items
        self._deleted: set[int] = set()
        self._octets = sum(item.size for item in items)

    @property
    def count(self) -> int:
        """How many messages are not marked as deleted."""
        return len(self._items) - len(self._deleted)

    @property
    def octets(self) -> int:
        """The size of the messages that are not marked as deleted, as STAT tells it."""
        return self._octets

    def number(self, argument: bytes) -> int:
        """The message number that ``argument`` spells.  Raises `NoSuchMessage`, also for a deleted one."""
        if not _NUMBER.match(argument):
            raise NoSuchMessage("a message number is needed")
        number = int(argument)
        if not 1 <= number <= len(self._items):
            raise NoSuchMessage(f"no such message, there are {len(self._items)}")
        if number in self._deleted:
            raise NoSuchMessage(f"message {number} is deleted")
        return number

    def item(self, number: int) -> ItemT:
        """The message with a number that `number` gave."""
        return self._items[number - 1]

    def listing(self) -> Iterator[tuple[int, ItemT]]:
        """Numbers and messages, without the deleted ones."""
        deleted = self._deleted
        return ((number, item) for number, item in enumerate(self._items, 1) if number not in deleted)

    def delete(self, number: int) -> None:
        """Mark a message; it goes at QUIT."""
        self._deleted.add(number)
        self._octets -= self.item(number).size

    def reset(self) -> None:
        """Take all marks off."""
        self._octets += sum(self.item(number).size for number in self._deleted)
        self._deleted.clear()

    @property
    def marked(self) -> list[ItemT]:
        """The marked messages, in their order."""
        return [self.item(number) for number in sorted(self._deleted)]

    @property
    def to_delete(self) -> list[int]:
        """The uids of the marked messages."""
        return sorted(self.item(number).uid for number in self._deleted)
