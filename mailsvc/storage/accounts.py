"""Domains, the accounts in them, and their passwords' hashes, as rows.

Plain functions of a cursor inside a transaction that the caller runs (`Database.write`, `Database.read`,
`offline`); they hash nothing and check no password, that is `mailsvc.accounts`.

The hardest idea: existence is decided by the database, not by a look beforehand.  `INSERT ... ON CONFLICT
DO NOTHING RETURNING` either gives the new row or nothing, so that two commands which add the same account
at the same time end with one account and one `AlreadyExists`, whichever database holds the tables.

A `key` is `Address.key`, a domain is what `parse_domain` returns: both are canonical before they come here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mailsvc.errors import AlreadyExists, MailsvcError, NotFound
from mailsvc.mail.address import Address
from mailsvc.storage.rows import Cursor, many, maybe, one


@dataclass(frozen=True, slots=True)
class DomainRow:
    """A domain that we take mail for; `created` is seconds since the epoch, `accounts` how many it has."""

    id: int
    name: str
    created: float
    accounts: int


@dataclass(frozen=True, slots=True)
class AccountRow:
    """What a login or a delivery needs to know of an account; without a `password_hash` nobody can log in."""

    id: int
    address: str
    password_hash: str | None = field(repr=False)
    disabled: bool
    created: float


@dataclass(frozen=True, slots=True)
class AccountListing:
    """A line of the list of accounts; `octets` counts a message as often as it lies in the maildrop."""

    address: str
    created: float
    messages: int
    octets: int


def add_domain(txn: Cursor, domain: str, now: float) -> int:
    """Add `domain`, return its id; `AlreadyExists` when it is there."""
    row = maybe(
        txn.execute(
            "INSERT INTO domain (name, created) VALUES (?, ?) ON CONFLICT (name) DO NOTHING RETURNING id",
            (domain, now),
        )
    )
    if row is None:
        raise AlreadyExists(f"the domain {domain} exists already")
    return int(row[0])


def domains(txn: Cursor) -> list[DomainRow]:
    """All domains by name."""
    rows = many(
        txn.execute(
            "SELECT domain.id, domain.name, domain.created, COUNT(account.id)"
            " FROM domain LEFT JOIN account ON account.domain_id = domain.id"
            " GROUP BY domain.id, domain.name, domain.created ORDER BY domain.name"
        )
    )
    return [DomainRow(*row) for row in rows]


def domain_exists(txn: Cursor, domain: str) -> bool:
    """Whether we take mail for `domain`."""
    return maybe(txn.execute("SELECT id FROM domain WHERE name = ?", (domain,))) is not None


def remove_domain(txn: Cursor, domain: str) -> None:
    """Remove an empty domain; `NotFound` when there is none, `MailsvcError` while it has accounts or aliases."""
    row = maybe(txn.execute("SELECT id FROM domain WHERE name = ?", (domain,)))
    if row is None:
        raise NotFound(f"there is no domain {domain}")
    (left,) = one(txn.execute("SELECT COUNT(*) FROM account WHERE domain_id = ?", row))
    if left:
        noun = "account" if left == 1 else "accounts"
        raise MailsvcError(f"the domain {domain} still has {left} {noun}; remove them first (mailsvc user remove)")
    (left,) = one(txn.execute("SELECT COUNT(DISTINCT key) FROM alias WHERE domain_id = ?", row))
    if left:
        noun = "alias" if left == 1 else "aliases"
        raise MailsvcError(f"the domain {domain} still has {left} {noun}; remove them first (mailsvc alias remove)")
    txn.execute("DELETE FROM domain WHERE id = ?", row)


def add_account(txn: Cursor, address: Address, password_hash: str | None, now: float) -> int:
    """Add an account, and its domain when that is new; return its id; `AlreadyExists` when it is there."""
    txn.execute(
        "INSERT INTO domain (name, created) VALUES (?, ?) ON CONFLICT (name) DO NOTHING",
        (address.domain, now),
    )
    (domain_id,) = one(txn.execute("SELECT id FROM domain WHERE name = ?", (address.domain,)))
    row = maybe(
        txn.execute(
            "INSERT INTO account (domain_id, address, key, created) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (key) DO NOTHING RETURNING id",
            (domain_id, str(address), address.key, now),
        )
    )
    if row is None:
        raise AlreadyExists(f"the account {address} exists already")
    if password_hash is not None:
        _put_password(txn, row[0], password_hash, now)
    return int(row[0])


def account(txn: Cursor, key: str) -> AccountRow | None:
    """The account whose `Address.key` is `key`, or None."""
    row = maybe(
        txn.execute(
            "SELECT account.id, account.address, credential.secret, account.disabled, account.created"
            " FROM account LEFT JOIN credential ON credential.account_id = account.id"
            " AND credential.kind = 'password' WHERE account.key = ?",
            (key,),
        )
    )
    if row is None:
        return None
    account_id, address, password_hash, disabled, created = row
    return AccountRow(account_id, address, password_hash, bool(disabled), created)


def address_of(txn: Cursor, account_id: int) -> str:
    """The address of an account as the postmaster wrote it; `NotFound` when the account is gone."""
    row = maybe(txn.execute("SELECT address FROM account WHERE id = ?", (account_id,)))
    if row is None:
        raise NotFound("the account has been removed meanwhile")
    return str(row[0])


def set_password(txn: Cursor, key: str, password_hash: str, now: float) -> None:
    """Replace the hash of an account's password; `NotFound` when there is no such account."""
    _put_password(txn, _account_id(txn, key), password_hash, now)


def remove_account(txn: Cursor, key: str) -> int:
    """Remove an account with its mail, return how many messages were in its maildrop; `NotFound` when there
    is none.

    The mail that other accounts hold too stays theirs; what was deleted and could have come back goes as well.
    """
    account_id = _account_id(txn, key)
    message_ids = many(txn.execute("SELECT message_id FROM mailbox_item WHERE account_id = ?", (account_id,)))
    deleted = many(txn.execute("SELECT message_id FROM deleted_item WHERE account_id = ?", (account_id,)))
    txn.execute("DELETE FROM mailbox_item WHERE account_id = ?", (account_id,))
    txn.execute("DELETE FROM deleted_item WHERE account_id = ?", (account_id,))
    txn.executemany(DELETE_ORPHAN, [*message_ids, *deleted])
    txn.execute("DELETE FROM account WHERE id = ?", (account_id,))
    return len(message_ids)


def accounts(txn: Cursor, domain: str | None = None) -> list[AccountListing]:
    """The accounts of `domain`, or all, by domain and then by name."""
    rows = many(
        txn.execute(
            "SELECT account.address, account.created, COUNT(item.uid), COALESCE(SUM(item.size), 0)"
            " FROM account JOIN domain ON domain.id = account.domain_id"
            " LEFT JOIN mailbox_item AS item ON item.account_id = account.id"
            # The cast tells PostgreSQL the type of a parameter that is only compared with NULL.
            " WHERE CAST(? AS TEXT) IS NULL OR domain.name = ?"
            " GROUP BY account.id, domain.name, account.key, account.address, account.created"
            " ORDER BY domain.name, account.key",
            (domain, domain),
        )
    )
    return [AccountListing(address, created, messages, int(octets)) for address, created, messages, octets in rows]


IS_ORPHAN = (
    "NOT EXISTS (SELECT 1 FROM mailbox_item WHERE mailbox_item.message_id = message.id)"
    " AND NOT EXISTS (SELECT 1 FROM deleted_item WHERE deleted_item.message_id = message.id)"
    " AND NOT EXISTS (SELECT 1 FROM outbound WHERE outbound.message_id = message.id)"
)
"""That no maildrop holds a message, or held it and may have it back, and that it is not still to go out."""

DELETE_ORPHAN = f"DELETE FROM message WHERE id = ? AND {IS_ORPHAN}"
"""Removes a message that is one; its content follows by ON DELETE CASCADE."""


def _account_id(txn: Cursor, key: str) -> int:
    row = maybe(txn.execute("SELECT id FROM account WHERE key = ?", (key,)))
    if row is None:
        raise NotFound(f"there is no account {key}")
    return int(row[0])


def _put_password(txn: Cursor, account_id: int, password_hash: str, now: float) -> None:
    txn.execute(
        "INSERT INTO credential (account_id, kind, secret, changed) VALUES (?, 'password', ?, ?)"
        " ON CONFLICT (account_id, kind) DO UPDATE SET secret = excluded.secret, changed = excluded.changed",
        (account_id, password_hash, now),
    )
    # The verifier is of the password that was; `mailsvc.storage.credentials.add_verifier` puts the new one there.
    txn.execute("DELETE FROM credential WHERE account_id = ? AND kind = 'scram-sha-256'", (account_id,))
