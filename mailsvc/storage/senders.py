"""As whom an account may send, as rows: its own names, what was granted, and whether anybody asks at all.

Its own names are those whose mail it gets (`mailsvc.storage.aliases.leads_to`): its address, with a detail behind a
plus sign too, the aliases that lead to it, the catch-all's.  Several people of one alias may all send in its name.
"""

from __future__ import annotations

from collections.abc import Iterable

from mailsvc.errors import AlreadyExists, NotFound
from mailsvc.mail.address import Address
from mailsvc.storage.accounts import account
from mailsvc.storage.aliases import leads_to
from mailsvc.storage.rows import Cursor, many, maybe

ANY = "*"
"""The grant of every sender."""


def grant(txn: Cursor, key: str, sender: str, now: float) -> None:
    """Let an account send as `sender`: an `Address.key`, "@" and a domain, or `ANY`."""
    row = maybe(
        txn.execute(
            "INSERT INTO sender_grant (account_id, sender, granted) VALUES (?, ?, ?)"
            " ON CONFLICT (account_id, sender) DO NOTHING RETURNING account_id",
            (_account_id(txn, key), sender, now),
        )
    )
    if row is None:
        raise AlreadyExists(f"{key} may send as {shown(sender)} already")


def revoke_grant(txn: Cursor, key: str, sender: str) -> None:
    """Take a grant back; `NotFound` when there is none."""
    txn.execute("DELETE FROM sender_grant WHERE account_id = ? AND sender = ?", (_account_id(txn, key), sender))
    if txn.rowcount != 1:
        raise NotFound(f"{shown(sender)} is not granted to {key}")


def grants(txn: Cursor, key: str) -> list[str]:
    """What was granted to an account, in order."""
    number = _account_id(txn, key)
    rows = many(txn.execute("SELECT sender FROM sender_grant WHERE account_id = ? ORDER BY sender", (number,)))
    return [sender for (sender,) in rows]


def set_check_sender(txn: Cursor, key: str, on: bool) -> None:
    """Whether what the account sends must be from an address of its own; `NotFound` without the account."""
    txn.execute("UPDATE account SET check_sender = ? WHERE key = ?", (int(on), key))
    if txn.rowcount != 1:
        raise NotFound(f"there is no account {key}; `mailsvc user list` shows them")


def check_sender(txn: Cursor, account_id: int) -> bool:
    """Whether it must; also for an account that does not exist (any more)."""
    row = maybe(txn.execute("SELECT check_sender FROM account WHERE id = ?", (account_id,)))
    return row is None or bool(row[0])


def foreign_sender(txn: Cursor, account_id: int, own_key: str, senders: Iterable[Address]) -> Address | None:
    """The first of these senders that the account may not use, or None; None also for one that is not checked."""
    if not check_sender(txn, account_id):
        return None
    rows = many(txn.execute("SELECT sender FROM sender_grant WHERE account_id = ?", (account_id,)))
    granted = {sender for (sender,) in rows}
    for sender in senders:
        if ANY in granted or sender.key in granted or f"@{sender.domain}" in granted or sender.key == own_key:
            continue
        if not leads_to(txn, sender, account_id):
            return sender
    return None


def shown(sender: str) -> str:
    """A grant in words."""
    if sender == ANY:
        return "anybody"
    return f"anybody of {sender[1:]}" if sender.startswith("@") else sender


def _account_id(txn: Cursor, key: str) -> int:
    row = account(txn, key)
    if row is None:
        raise NotFound(f"there is no account {key}; `mailsvc user list` shows them")
    return row.id
