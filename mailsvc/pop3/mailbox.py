"""Maildrops behind the POP3 server: the lock, the snapshot, the content in pieces, the deletes (DESIGN section 5b).

One account, one session: RFC 1939 section 4 wants an exclusive lock, taken at login and given back when the session
has ended, however it ended.  The lock lives in this process, because one process at a time uses a sqlite database
(`mailsvc.storage.database` sees to that).
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from twisted.internet.interfaces import IReactorTime

from mailsvc.errors import MailsvcError, StorageFailure
from mailsvc.mail.snapshot import Snapshot
from mailsvc.pop3.maildrop import Maildrop
from mailsvc.storage import mailboxes
from mailsvc.storage.store import Store

_REMOVED_AT_ONCE = 500
"""Messages removed in one transaction (some 50 ms), so that deliveries pass in between."""


class MaildropInUse(MailsvcError):
    """Another session holds the maildrop."""


class Maildrops:
    """All accounts' maildrops; one for the service, so that the locks hold across listeners."""

    def __init__(self, store: Store, clock: IReactorTime) -> None:
        self._store = store
        self._clock = clock
        self._locked: set[int] = set()

    async def open(self, account_id: int) -> OpenMaildrop:
        """Lock the account's maildrop and take its snapshot.

        Raises `MaildropInUse`, or `mailsvc.errors.StorageFailure`; the caller must `OpenMaildrop.release` what it gets.
        """
        if account_id in self._locked:
            raise MaildropInUse("another session has this maildrop open")
        self._locked.add(account_id)
        try:
            items = await self._store.read(mailboxes.snapshot, account_id, self._clock.seconds())
        except BaseException:
            self._locked.discard(account_id)
            raise
        return OpenMaildrop(self._store, account_id, items, self._locked)


class OpenMaildrop:
    """One session's hold on a maildrop."""

    def __init__(self, store: Store, account_id: int, items: Snapshot, locked: set[int]) -> None:
        self.messages = Maildrop(items)
        self._store = store
        self._account_id = account_id
        self._locked = locked
        self._released = False

    async def content(self, number: int) -> AsyncIterator[bytes]:
        """The octets of a message: first its header block with the empty line, then the body in pieces.

        Raises `mailsvc.errors.StorageFailure`; also when the message was removed by an administrator meanwhile.
        """
        item = self.messages.item(number)
        given = 0
        part = 0
        # The header block may be empty, and then it is yielded too: the first piece is the header always.
        while part == 0 or given < item.size:
            if part == 0:
                piece = await self._store.read(mailboxes.opening, self._account_id, item.uid)
            else:
                piece = await self._store.read(mailboxes.content_part, item.message_id, part)
            if piece is None:
                raise StorageFailure(f"part {part} of message {item.uidl} is gone")
            yield piece
            given += len(piece)
            part += 1

    async def commit(self) -> int:
        """Remove the marked messages; return how many.

        On `mailsvc.errors.StorageFailure` some may not be removed, as RFC 1939 section 6 allows.
        """
        marked = self.messages.to_delete
        removed = 0
        for start in range(0, len(marked), _REMOVED_AT_ONCE):
            removed += await self._store.write(
                mailboxes.delete_items, self._account_id, marked[start : start + _REMOVED_AT_ONCE]
            )
        return removed

    def release(self) -> None:
        """Give the lock back; a second time does nothing."""
        if not self._released:
            self._released = True
            self._locked.discard(self._account_id)
