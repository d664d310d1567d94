"""The octets of a session's messages, in pieces, with few journeys to the database (DESIGN section 5b).

A message comes as its header block and then the parts of its body, each when the client has read the one before: of
50 MB some 256 KiB are in memory.  That is right for large messages and slow for small ones, where a journey to a
thread of the database costs more than all the rest.  So one journey brings a small message whole, and, when the client
asks for one message after the other, the small ones that follow.

The hardest idea is when not to read ahead.  A client that fetches three new messages at the end of 20,000, or looks at
single ones, asks for nothing in a row and gets nothing ahead; and what is held for a client that stops asking is
`READ_AHEAD` octets and no more, because a thousand sessions may hold it at the same time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from mailsvc.errors import StorageFailure
from mailsvc.mail.snapshot import Snapshot
from mailsvc.storage import mailboxes
from mailsvc.storage.store import Store

SMALL = 32 * 1024
"""A message of so many octets is read whole."""

READ_AHEAD = 64 * 1024
"""The most octets that one journey brings of small messages, and that one session holds of them."""

_MESSAGES_AHEAD = 100
"""The most messages of one journey: of tiny ones, too, it must not keep a thread for long."""


class MessageGone(StorageFailure):
    """A message, or a part of it, is not in the database any more: asking again in this session is of no use."""


class Content:
    """What one session reads of its maildrop, by message numbers from 1 on; one message at a time."""

    def __init__(self, store: Store, account_id: int, items: Snapshot) -> None:
        self._store = store
        self._account_id = account_id
        self._items = items
        self._asked = 0
        self._ahead: dict[int, list[bytes]] = {}

    async def pieces(self, number: int) -> AsyncIterator[bytes]:
        """Message ``number``: first its header block with the empty line (perhaps nothing), then its body in pieces.

        Raises `mailsvc.errors.StorageFailure`, `MessageGone` when the message was removed by somebody else meanwhile.
        """
        size = self._items.sizes[number - 1]
        given = part = 0
        for piece in await self._beginning(number, size):
            yield piece
            given += len(piece)
            part += 1
        while given < size:
            following = await self._store.read(mailboxes.content_part, self._items.message_ids[number - 1], part)
            if following is None:
                raise MessageGone(f"part {part} of message {self._items[number - 1].uidl} is gone")
            yield following
            given += len(following)
            part += 1

    async def _beginning(self, number: int, size: int) -> list[bytes]:
        """The first parts of the message: all of a small one, the header block of another."""
        in_a_row = number == self._asked + 1
        self._asked = number
        if number in self._ahead:
            # It stays until the next is asked for: TOP and RETR of one message are one journey.
            self._ahead = {other: parts for other, parts in self._ahead.items() if other >= number}
            return self._ahead[number]
        self._ahead = {}
        if size > SMALL:
            parts = await self._journey([number], 1)
        else:
            parts = await self._journey(self._row(number) if in_a_row else [number], mailboxes.ALL_PARTS)
            self._ahead = parts
        if number not in parts:
            raise MessageGone(f"message {self._items[number - 1].uidl} is gone")
        return parts[number]

    def _row(self, number: int) -> list[int]:
        """``number``, and the small messages right behind it that are worth the same journey."""
        sizes = self._items.sizes
        last = number
        octets = sizes[number - 1]
        for size in sizes[number : number + _MESSAGES_AHEAD - 1]:
            octets += size
            if size > SMALL or octets > READ_AHEAD:
                break
            last += 1
        return list(range(number, last + 1))

    async def _journey(self, numbers: list[int], parts: int) -> dict[int, list[bytes]]:
        """The first ``parts`` parts of messages, without those that are gone."""
        uids = [self._items.uids[number - 1] for number in numbers]
        found = await self._store.read(mailboxes.openings, self._account_id, uids, parts)
        return {number: found[uid] for number, uid in zip(numbers, uids, strict=True) if uid in found}
