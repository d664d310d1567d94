"""What attempts read from the database: the ways of their rows, and the content; with few journeys to its threads.

A journey (a thread woken, the interpreter handed over and back, a transaction) costs more than most of what is read.
`Ways` gathers: what is asked for while one journey is under way is answered by the next, all together.  `Contents`
brings several parts of a large message at once.

The hardest idea is to save journeys without believing what is old.  Nothing is kept: a journey that answers a question
begins after it was asked, so a route that was committed before counts.  And what large messages hold in memory is
bounded for all conversations together: past `AHEAD` octets each reads a part at a time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from twisted.internet.defer import Deferred

from mailsvc.errors import MailsvcError, TemporaryFailure
from mailsvc.relay.destinations import ways_of
from mailsvc.relay.outgoing import Content
from mailsvc.relay.routes import Target
from mailsvc.relay.seams import Batch
from mailsvc.storage.mailboxes import PART_LIMIT, content_parts
from mailsvc.storage.outbound import OutboundRow
from mailsvc.storage.rows import Cursor
from mailsvc.storage.store import Store

PARTS = 5
"""Parts of a message that one journey brings: its header and a megabyte."""

AHEAD = 32 * 1024 * 1024
"""Octets of large messages that have been read and not been sent, in all conversations, beyond which journeys are
short."""

Found = Mapping[tuple[Target, ...], tuple[OutboundRow, ...]]


class Ways:
    """Asks for the ways of rows (`mailsvc.relay.destinations.ways_of`), for many attempts at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asked: list[tuple[Sequence[OutboundRow], Deferred[Found]]] = []
        self._under_way = False

    def of(self, rows: Sequence[OutboundRow]) -> Deferred[Found]:
        """What `ways_of` gives, or fails with what it raises; and with what the database cannot do."""
        answer: Deferred[Found] = Deferred()
        self._asked.append((rows, answer))
        if not self._under_way:
            self._under_way = True
            Deferred.fromCoroutine(self._answer_all())
        return answer

    async def _answer_all(self) -> None:
        while self._asked:
            asked, self._asked = self._asked, []
            found = await self._found([rows for rows, _ in asked])
            for (_, answer), ways in zip(asked, found, strict=True):
                if answer.called:
                    continue  # cancelled
                if isinstance(ways, Exception):
                    answer.errback(ways)
                else:
                    answer.callback(ways)
        self._under_way = False

    async def _found(self, asked: Sequence[Sequence[OutboundRow]]) -> list[Found | Exception]:
        try:
            return await self._store.read(_all_ways, asked)
        except TemporaryFailure as error:
            return [error for _ in asked]
        except Exception as error:
            # A defect that one of them has met is not the others'.
            if len(asked) == 1:
                return [error]
            return [found for rows in asked for found in await self._found([rows])]


def _all_ways(txn: Cursor, asked: Sequence[Sequence[OutboundRow]]) -> list[Found | Exception]:
    found: list[Found | Exception] = []
    for rows in asked:
        try:
            found.append(ways_of(txn, rows))
        except MailsvcError as error:
            found.append(error)
    return found


class Contents:
    """Reads the content of messages, for all conversations; `of` gives what one of them sends."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ahead = 0

    def of(self, batch: Batch) -> Content:
        """The prefix of its rows and the message, in pieces.  Raises `TemporaryFailure` when that cannot be read."""

        async def read() -> AsyncIterator[bytes]:
            message = batch.message
            if batch.prefix:
                yield batch.prefix
            if message.content is not None:
                yield message.content
                return
            part = octets = 0
            while octets < message.size:
                many = PARTS if self._ahead < AHEAD else 1
                # Counted before it is read: a hundred conversations may begin at the same time.
                held = min(many * PART_LIMIT, message.size)
                self._ahead += held
                try:
                    some = await self._store.read(content_parts, message.id, part, many)
                    if not some:
                        raise TemporaryFailure("the message is not in the database any more")
                    part += len(some)
                    for data in some:
                        octets += len(data)
                        yield data
                finally:
                    self._ahead -= held

        return read
