"""Messages that come from another server: stored once, under the unique-ids that their clients know.

What has come in stands in the table `imported`, one row for each message, written in the transaction that stores it.
So a run that was killed goes on where it was, and a message that was deleted meanwhile does not come back.  Where the
messages come from is `mailsvc.mailbox`.

The hardest idea is which unique-id is free.  RFC 1939 section 7 forbids to give one to two messages of a maildrop,
ever.  A foreign one is taken when a message was imported with it, which a unique index knows.  One in the form of ours
(a number, a dot, 16 digits: from an export) names the uid that had it, and one look says whether it is in use here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mailsvc.mail.event import Noted
from mailsvc.storage import events, fullness, mailboxes
from mailsvc.storage.rows import Cursor, many, maybe

_OF_OURS = re.compile(r"(\d{1,18})\.[0-9a-f]{16}\Z")


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of one message: `new` is False for one that is there already; `uidl_kept` when it has its own."""

    new: bool
    uidl_kept: bool = False


def imported_keys(txn: Cursor, account_id: int) -> set[str]:
    """The source keys of all that was ever imported into an account."""
    return {key for (key,) in many(txn.execute("SELECT source_key FROM imported WHERE account_id = ?", (account_id,)))}


def store(
    txn: Cursor,
    account_id: int,
    source_key: str,
    uidl: str | None,
    new: mailboxes.NewMessage,
    header: bytes,
    body: Iterable[bytes],
    *,
    now: float,
    heed_quota: bool = True,
) -> Stored:
    """Put a message into the maildrop of an account, unless it was imported before.

    `uidl` is the unique-id that it has had, None for none; `now` (seconds since the epoch) is when it comes into the
    maildrop. `MailboxFull` when it is more than the quota, and whatever `mailboxes.deliver` raises.
    """
    kept = uidl if uidl is not None and _is_free(txn, account_id, uidl) else None
    row = maybe(
        txn.execute(
            "INSERT INTO imported (account_id, source_key, uidl, imported_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (account_id, source_key) DO NOTHING RETURNING source_key",
            (account_id, source_key, kept, now),
        )
    )
    if row is None:
        return Stored(False)
    if heed_quota:
        fullness.refuse_beyond_quota(txn, [account_id], new.summary.size)
    uidls = {} if kept is None else {account_id: kept}
    mailboxes.deliver(txn, new, header, body, [account_id], arrived=now, uidls=uidls)
    return Stored(True, kept is not None)


def _is_free(txn: Cursor, account_id: int, uidl: str) -> bool:
    here = (account_id, uidl)
    if maybe(txn.execute("SELECT source_key FROM imported WHERE account_id = ? AND uidl = ?", here)) is not None:
        return False
    ours = _OF_OURS.match(uidl)
    if ours is None:
        return True
    uid = int(ours[1])
    return not any(
        maybe(txn.execute(query, (account_id, uid, uidl)))
        for query in (
            "SELECT uid FROM mailbox_item WHERE account_id = ? AND uid = ? AND uidl = ?",
            "SELECT uid FROM deleted_item WHERE account_id = ? AND uid = ? AND uidl = ?",
        )
    )


def tell(txn: Cursor, address: str, messages: int, now: float) -> None:
    """The event of one transaction of an import, for `mailsvc why`."""
    noun = "message was" if messages == 1 else "messages were"
    noted = Noted(f"{messages} {noun} imported into the mailbox {address}", (address,))
    events.record(txn, [events.Entry(now, noted)])
