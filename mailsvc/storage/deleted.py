"""Deleted mail that can still come back: out of a maildrop, listed, back into it, and gone for good.

An item that leaves a maildrop becomes a row of `deleted_item`, in one transaction, with all that it was.  Its message
stays as it is; nothing is copied.  Whoever reads content finds it there too (`mailsvc.storage.mailboxes.opening`), so
that a session which saw the item at its login can fetch it although it went meanwhile.

The hardest idea is what comes back.  An item that is brought back gets a *new* uid and a new UIDL: a client that
remembers the old one takes it for mail that it has fetched, and would never show it again (RFC 1939 section 7 also
forbids to use a UIDL twice).

Deleted mail is not counted against the quota, but an account with a quota may have no more deleted mail than that,
or a quota would limit nothing; `purge_excess` removes what is more, the oldest first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mailsvc.storage.accounts import DELETE_ORPHAN
from mailsvc.storage.mailboxes import add_item, delete_items
from mailsvc.storage.rows import Cursor, Row, many, maybe

SLICE = 200
"""The most items that one transaction of the background removes."""

SLICE_OCTETS = 16 * 1024 * 1024
"""So much content it removes (some 20 ms), or one message that is larger."""


@dataclass(frozen=True, slots=True)
class Removal:
    """How items leave a maildrop: `time` in seconds since the epoch; `why` is "deleted" or "expired".

    `credential` is what the client had logged in with that deleted them, "" when it was none. `keep`: they can come
    back.
    """

    time: float
    why: str = "deleted"
    credential: str = ""
    keep: bool = True


@dataclass(frozen=True, slots=True)
class DeletedItem:
    """A deleted message that can come back; times in seconds since the epoch.

    `label` is of the app password that deleted it, as long as that exists; `subject` and `sender` (From) are as the
    message has them, None without.
    """

    uid: int
    uidl: str
    message_id: int
    size: int
    received_at: float
    deleted: float
    why: str
    credential: str
    label: str | None
    sender: str | None
    subject: str | None


def remove(txn: Cursor, account_id: int, uids: Sequence[int], how: Removal) -> int:
    """Take items out of a maildrop, return how many; one that is gone already is not counted and no error.

    Some 20 us an item: whoever removes many thousands gives them in several calls.
    """
    if not how.keep:
        return delete_items(txn, account_id, uids)
    removed = octets = 0
    for uid in uids:
        row = maybe(
            txn.execute(
                "DELETE FROM mailbox_item WHERE account_id = ? AND uid = ?"
                " RETURNING message_id, size, uidl, prefix, arrived",
                (account_id, uid),
            )
        )
        if row is None:
            continue
        txn.execute(
            "INSERT INTO deleted_item (account_id, uid, message_id, size, uidl, prefix, arrived, deleted, why,"
            " credential) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (account_id, uid, *row, how.time, how.why, how.credential),
        )
        removed += 1
        octets += int(row[1])
    if removed:
        txn.execute(
            "UPDATE account SET used_octets = used_octets - ?, deleted_octets = deleted_octets + ? WHERE id = ?",
            (octets, octets, account_id),
        )
    return removed


def deleted_items(txn: Cursor, account_id: int, since: float = 0.0) -> list[DeletedItem]:
    """What an account can have back of what it deleted since, in the order in which it arrived."""
    rows = many(
        txn.execute(
            "SELECT item.uid, item.uidl, item.message_id, item.size, message.received_at, item.deleted, item.why,"
            " item.credential, app_password.label, message.from_header, message.subject FROM deleted_item AS item"
            " JOIN message ON message.id = item.message_id"
            " LEFT JOIN app_password ON item.credential = 'app-password ' || app_password.id"
            " AND app_password.account_id = item.account_id"
            " WHERE item.account_id = ? AND item.deleted >= ? ORDER BY item.uid",
            (account_id, since),
        )
    )
    return [DeletedItem(*row) for row in rows]


def undelete(txn: Cursor, account_id: int, uids: Iterable[int], now: float) -> list[tuple[int, int]]:
    """Bring deleted items back as new ones, return (message id, new uid) of each.

    One that is not there (any more) is left out.  `NotFound` when the account is gone.  Whether they fit the quota is
    the caller's affair.
    """
    back = []
    octets = 0
    for uid in uids:
        row = maybe(
            txn.execute(
                "DELETE FROM deleted_item WHERE account_id = ? AND uid = ? RETURNING message_id, size, prefix",
                (account_id, uid),
            )
        )
        if row is None:
            continue
        message_id, size, prefix = row
        back.append((int(message_id), add_item(txn, account_id, message_id, size - len(prefix), bytes(prefix), now)))
        octets += size
    if back:
        txn.execute("UPDATE account SET deleted_octets = deleted_octets - ? WHERE id = ?", (octets, account_id))
    return back


def purge(txn: Cursor, before: float | None) -> int:
    """Remove for good a slice of what was deleted before (None: whenever), the oldest first; return how many.

    The caller comes again until it is 0.
    """
    return _purge(
        txn,
        many(
            txn.execute(
                "SELECT account_id, uid, message_id, size FROM deleted_item"
                # The cast tells PostgreSQL the type of a parameter that is only compared with NULL.
                " WHERE CAST(? AS REAL) IS NULL OR deleted < ? ORDER BY deleted, account_id, uid LIMIT ?",
                (before, before, SLICE),
            )
        ),
    )


def purge_excess(txn: Cursor) -> int:
    """Remove for good a slice of what some account has deleted beyond the size of its quota, the oldest first.

    Returns how many; the caller comes again until it is 0.
    """
    row = maybe(
        txn.execute(
            "SELECT account.id, account.deleted_octets - COALESCE(account.quota, domain.default_quota)"
            " FROM account JOIN domain ON domain.id = account.domain_id"
            # A quota of 0 is none at all.
            " WHERE COALESCE(account.quota, domain.default_quota, 0) > 0"
            " AND account.deleted_octets > COALESCE(account.quota, domain.default_quota) LIMIT 1"
        )
    )
    if row is None:
        return 0
    account_id, excess = row
    oldest = many(
        txn.execute(
            "SELECT account_id, uid, message_id, size FROM deleted_item"
            " WHERE account_id = ? ORDER BY deleted, uid LIMIT ?",
            (account_id, SLICE),
        )
    )
    taken = []
    for each in oldest:
        if excess <= 0:
            break
        taken.append(each)
        excess -= each[3]
    return _purge(txn, taken)


def _purge(txn: Cursor, rows: Sequence[Row]) -> int:
    purged: list[Row] = []
    octets: dict[int, int] = {}
    for row in rows:
        account_id, uid, _, size = row
        if purged and sum(octets.values()) + size > SLICE_OCTETS:
            break
        txn.execute("DELETE FROM deleted_item WHERE account_id = ? AND uid = ?", (account_id, uid))
        octets[account_id] = octets.get(account_id, 0) + size
        purged.append(row)
    txn.executemany(
        "UPDATE account SET deleted_octets = deleted_octets - ? WHERE id = ?",
        [(removed, account_id) for account_id, removed in octets.items()],
    )
    txn.executemany(DELETE_ORPHAN, [(message_id,) for _, _, message_id, _ in purged])
    return len(purged)
