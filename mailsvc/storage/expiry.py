"""Mail that goes by its age: whose, and a slice of it at a time (RFC 2449 section 6.7, EXPIRE).

The age of an item counts from when it came into the maildrop, or from when it could first be seen (FUTURERELEASE);
for imported mail that is the import and not the year in which it was received.  What is removed can come back like
deleted mail.

The hardest idea is to find the old without an index, which each delivery would have to pay for: uids grow with the time
of arrival, so the old stand at the beginning of the maildrop, and the first that is young ends the search.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailsvc.errors import NotFound
from mailsvc.storage.deleted import SLICE, Removal
from mailsvc.storage.devices import clear
from mailsvc.storage.rows import Cursor, many, maybe, one

_DAY = 86_400.0

LONGEST_EXPIRY = 36_500
"""Days."""


@dataclass(frozen=True, slots=True)
class OwnExpiry:
    """What the accounts say that do not hold to the configured: the `shortest` of their days (0: none of them expires),
    and whether there are `any`."""

    shortest: int
    any: bool


def own_expiry(txn: Cursor) -> OwnExpiry:
    """What accounts say themselves."""
    (count, shortest) = one(
        txn.execute(
            "SELECT COUNT(*), MIN(CASE WHEN expire_days > 0 THEN expire_days END) FROM account"
            " WHERE expire_days IS NOT NULL"
        )
    )
    return OwnExpiry(int(shortest or 0), bool(count))


def own_expire_days(txn: Cursor, account_id: int) -> int | None:
    """What an account says itself: days, 0 for never, None for nothing."""
    (days,) = one(txn.execute("SELECT expire_days FROM account WHERE id = ?", (account_id,)))
    return None if days is None else int(days)


def expiring_accounts(txn: Cursor, days: int, after: int, limit: int = 1000) -> list[tuple[int, int]]:
    """(row id, days) of accounts whose mail expires, by their ids and beginning behind `after`; `days` is what holds
    for those that say nothing themselves, 0 for never."""
    rows = many(
        txn.execute(
            "SELECT id, COALESCE(expire_days, ?) FROM account WHERE id > ? AND COALESCE(expire_days, ?) > 0"
            " ORDER BY id LIMIT ?",
            (days, after, days, limit),
        )
    )
    return [(int(number), int(own)) for number, own in rows]


def expired(txn: Cursor, account_id: int, days: int, now: float) -> list[tuple[int, int]]:
    """(uid, message id) of a slice of the items that are older than so many days."""
    before = now - days * _DAY
    found: list[tuple[int, int]] = []
    last = 0
    while True:
        rows = many(
            txn.execute(
                "SELECT uid, message_id, arrived, release_at FROM mailbox_item"
                " WHERE account_id = ? AND uid > ? ORDER BY uid LIMIT ?",
                (account_id, last, SLICE),
            )
        )
        for uid, message_id, arrived, release_at in rows:
            last = uid
            if arrived is None or arrived > now or (release_at is not None and release_at >= before):
                continue  # not known; the clock was wrong then; was held back
            if arrived >= before or len(found) == SLICE:
                return found
            found.append((uid, message_id))
        if len(rows) < SLICE:
            return found


def expire(txn: Cursor, account_id: int, days: int, now: float) -> int:
    """Remove a slice of what is older than so many days; return how many."""
    return clear(txn, account_id, expired(txn, account_id, days, now), Removal(now, "expired"))


def set_expire_days(txn: Cursor, key: str, days: int | None) -> None:
    """Say after how many days the mail of an account goes: 0 is never, None what is configured; `NotFound`."""
    row = maybe(txn.execute("UPDATE account SET expire_days = ? WHERE key = ? RETURNING id", (days, key)))
    if row is None:
        raise NotFound(f"there is no account {key}; `mailsvc user list` shows them")
