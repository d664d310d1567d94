"""As whom an account may send, as rows: its own names, what was granted, and whether anybody asks at all.

Its own names are those that lead to it: its address, also with a detail behind it, the aliases that have it as a
target, its domain's catch-all.  Several people of one alias may all send in its name.

The hardest idea: getting somebody's mail does not make one that somebody.  An alias that has the name of an account is
that account's forwarding ("bob is on leave, alice gets his mail too"), so it is not followed here (`_Names`): only bob
sends as bob, whoever reads what comes for him.
"""

from __future__ import annotations

from collections.abc import Iterable

from mailsvc.directory.resolve import resolve
from mailsvc.directory.tables import AliasEntry
from mailsvc.errors import AlreadyExists, NotFound
from mailsvc.mail.address import Address
from mailsvc.storage.accounts import account
from mailsvc.storage.aliases import TableRows
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


def is_name_of(txn: Cursor, account_id: int, address: Address) -> bool:
    """Whether `address` is the account, under whatever name; what was granted is not its name."""
    return any(mailbox.id == account_id for mailbox in resolve(address, _Names(txn)).accounts)


def foreign_sender(txn: Cursor, account_id: int, senders: Iterable[Address]) -> Address | None:
    """The first of these senders that the account may not use, or None; None also for one that is not checked."""
    if not check_sender(txn, account_id):
        return None
    rows = many(txn.execute("SELECT sender FROM sender_grant WHERE account_id = ?", (account_id,)))
    granted = {sender for (sender,) in rows}
    for sender in senders:
        if ANY in granted or sender.key in granted or f"@{sender.domain}" in granted:
            continue
        if not is_name_of(txn, account_id, sender):
            return sender
    return None


class _Names(TableRows):
    """The tables without the aliases that have an account's name."""

    def alias(self, key: str) -> AliasEntry | None:
        """See `mailsvc.directory.tables.Tables`."""
        return None if self.mailbox(key) is not None else super().alias(key)


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
