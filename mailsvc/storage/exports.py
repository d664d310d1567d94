"""A maildrop, read from one end to the other in pages, for `mailsvc mailbox export`.

What it is written to is `mailsvc.mailbox`.  A page is read in a snapshot of its own, so that an export of an hour
holds up nobody and keeps no log of the database from being emptied; what arrives meanwhile comes in a later page,
because uids only grow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mailsvc.errors import StorageFailure
from mailsvc.storage import mailboxes
from mailsvc.storage.rows import Cursor, many, one


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message in a maildrop; `size` is in octets as POP3 sends it, `received_at` in seconds since the epoch."""

    uid: int
    message_id: int
    size: int
    uidl: str
    received_at: float
    reverse_path: str


def page(txn: Cursor, account_id: int, after: int, now: float, *, limit: int = 200) -> list[Outgoing]:
    """The next items behind the uid `after`, without those that are held beyond `now` (seconds since the epoch)."""
    rows = many(
        txn.execute(
            "SELECT item.uid, item.message_id, item.size, item.uidl, message.received_at, message.reverse_path"
            " FROM mailbox_item AS item JOIN message ON message.id = item.message_id"
            " WHERE item.account_id = ? AND item.uid > ? AND (item.release_at IS NULL OR item.release_at <= ?)"
            " ORDER BY item.uid LIMIT ?",
            (account_id, after, now, limit),
        )
    )
    return [Outgoing(*row) for row in rows]


def count(txn: Cursor, account_id: int, now: float) -> int:
    """How many items `page` gives in all."""
    (number,) = one(
        txn.execute(
            "SELECT COUNT(*) FROM mailbox_item WHERE account_id = ? AND (release_at IS NULL OR release_at <= ?)",
            (account_id, now),
        )
    )
    return int(number)


def count_held(txn: Cursor, account_id: int, now: float) -> int:
    """How many items `page` leaves out because they are held beyond `now`."""
    (number,) = one(
        txn.execute("SELECT COUNT(*) FROM mailbox_item WHERE account_id = ? AND release_at > ?", (account_id, now))
    )
    return int(number)


def next_uid(txn: Cursor, account_id: int) -> int:
    """The uid that the account's next message will get."""
    (number,) = one(txn.execute("SELECT next_uid FROM account WHERE id = ?", (account_id,)))
    return int(number)


def content(txn: Cursor, account_id: int, item: Outgoing) -> Iterator[bytes]:
    """The octets of a message, as this maildrop shows it; `StorageFailure` when they are not all there."""
    pieces = mailboxes.openings(txn, account_id, [item.uid], 1).get(item.uid)
    piece = pieces[0] if pieces else None
    part, octets = 0, 0
    while piece is not None:
        octets += len(piece)
        yield piece
        part += 1
        piece = mailboxes.content_part(txn, item.message_id, part)
    if octets != item.size:
        raise StorageFailure(
            f"message {item.message_id} has {octets} octets in the database where {item.size} should be;"
            " the database is damaged: restore it from a copy"
        )
