"""What proves that somebody is an account: the password's hash and verifier, and the app passwords, as rows.

Plain functions of a cursor; they hash and compare nothing, that is `mailsvc.accounts`.  `login_facts` reads in one
transaction all that a login may be held against, with the same queries for a name that exists and one that does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mailsvc.errors import AlreadyExists, MailsvcError, NotFound
from mailsvc.storage.accounts import AccountRow, account
from mailsvc.storage.identities import certificate_holds
from mailsvc.storage.rows import Cursor, many, maybe, one

VERIFIER = "scram-sha-256"
"""The kind of a verifier in the table credential."""

MOST_APP_PASSWORDS = 50
"""Of one account: each is held against every proof."""

_SALT_KEY = "scram-salt"


@dataclass(frozen=True, slots=True)
class AppPasswordRow:
    """A generated password: ``only`` is "smtp", "pop3" or "" for both; times are seconds since the epoch."""

    id: int
    label: str
    only: str
    digest: str = field(repr=False)
    verifier: str = field(repr=False)
    created: float
    last_used: float | None


@dataclass(frozen=True, slots=True)
class LoginFacts:
    """All that a login may be held against; ``verifier`` as `mailsvc.sasl.scram` writes it, None when there is none.

    ``changed``: when the password was set.
    """

    account: AccountRow
    verifier: str | None = field(repr=False)
    app_passwords: tuple[AppPasswordRow, ...]
    changed: float | None = None


def login_facts(txn: Cursor, key: str) -> LoginFacts | None:
    """The facts of the account whose `Address.key` is `key`, or None."""
    row = account(txn, key)
    number = 0 if row is None else row.id
    verifier = maybe(txn.execute("SELECT secret FROM credential WHERE account_id = ? AND kind = ?", (number, VERIFIER)))
    passwords = _app_passwords(txn, number)
    changed = _changed(txn, number)
    if row is None:
        return None
    return LoginFacts(row, None if verifier is None else verifier[0], tuple(passwords), changed)


def still_holds(
    txn: Cursor,
    account_id: int,
    app_password: int | None,
    changed: float | None,
    certificate: str = "",
    *,
    now: float = 0.0,
) -> bool:
    """Whether a login of before would still be let in: the account is there and not disabled, the app password not
    revoked, the key ``certificate`` neither, nor its time over ``now``, the password (set at ``changed``, None: it is
    not ours to know) not another one."""
    row = maybe(txn.execute("SELECT disabled FROM account WHERE id = ?", (account_id,)))
    if row is None or row[0]:
        return False
    if app_password is not None:
        return any(each.id == app_password for each in _app_passwords(txn, account_id))
    if certificate and not certificate_holds(txn, account_id, certificate, now):
        return False
    return changed is None or _changed(txn, account_id) == changed


def renew_hash(txn: Cursor, key: str, stored: str, fresh: str) -> None:
    """Replace a password's hash by another of the same password, unless it has changed meanwhile."""
    # "changed" stays: it is the same password, and its sessions go on.
    txn.execute(
        "UPDATE credential SET secret = ? WHERE kind = 'password' AND secret = ?"
        " AND account_id = (SELECT id FROM account WHERE key = ?)",
        (fresh, stored, key),
    )


def add_verifier(txn: Cursor, key: str, stored: str, verifier: str, now: float) -> None:
    """Put a password's verifier beside its hash `stored`, unless the password has changed meanwhile."""
    txn.execute(
        "INSERT INTO credential (account_id, kind, secret, changed)"
        " SELECT account_id, ?, ?, ? FROM credential WHERE kind = 'password' AND secret = ?"
        " AND account_id = (SELECT id FROM account WHERE key = ?)"
        " ON CONFLICT (account_id, kind) DO UPDATE SET secret = excluded.secret, changed = excluded.changed",
        (VERIFIER, verifier, now, stored, key),
    )


def salt_key(txn: Cursor, fresh: bytes) -> bytes:
    """The key that salts are derived from, which is `fresh` (32 random octets) when the database has none yet."""
    txn.execute(
        "INSERT INTO secret (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", (_SALT_KEY, fresh.hex())
    )
    (value,) = one(txn.execute("SELECT value FROM secret WHERE name = ?", (_SALT_KEY,)))
    return bytes.fromhex(value)


def add_app_password(txn: Cursor, key: str, label: str, only: str, digest: str, verifier: str, now: float) -> int:
    """Add an app password, return its id; `NotFound` without the account, `AlreadyExists` with another of its label."""
    number = _account_id(txn, key)
    (present,) = one(txn.execute("SELECT COUNT(*) FROM app_password WHERE account_id = ?", (number,)))
    if present >= MOST_APP_PASSWORDS:
        raise MailsvcError(f"{key} has {present} app passwords already; revoke one that is not used any more")
    row = maybe(
        txn.execute(
            "INSERT INTO app_password (account_id, label, only, digest, verifier, created) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (account_id, label) DO NOTHING RETURNING id",
            (number, label, only, digest, verifier, now),
        )
    )
    if row is None:
        raise AlreadyExists(f"{key} has an app password with the label {label!r} already; choose another label")
    return int(row[0])


def app_passwords(txn: Cursor, key: str) -> list[AppPasswordRow]:
    """The app passwords of an account, the oldest first; `NotFound` without the account."""
    return _app_passwords(txn, _account_id(txn, key))


def revoke_app_password(txn: Cursor, key: str, label: str) -> None:
    """Remove an app password; `NotFound` when there is none of this label."""
    txn.execute("DELETE FROM app_password WHERE account_id = ? AND label = ?", (_account_id(txn, key), label))
    if txn.rowcount != 1:
        raise NotFound(
            f"{key} has no app password with the label {label!r}; `mailsvc user app-password list` shows them"
        )


def note_use(txn: Cursor, app_password: int, now: float) -> None:
    """An app password was used just now."""
    txn.execute("UPDATE app_password SET last_used = ? WHERE id = ?", (now, app_password))


def _changed(txn: Cursor, account_id: int) -> float | None:
    row = maybe(txn.execute("SELECT changed FROM credential WHERE account_id = ? AND kind = 'password'", (account_id,)))
    return None if row is None else float(row[0])


def _app_passwords(txn: Cursor, account_id: int) -> list[AppPasswordRow]:
    rows = many(
        txn.execute(
            "SELECT id, label, only, digest, verifier, created, last_used FROM app_password"
            " WHERE account_id = ? ORDER BY id",
            (account_id,),
        )
    )
    return [AppPasswordRow(*row) for row in rows]


def _account_id(txn: Cursor, key: str) -> int:
    row = account(txn, key)
    if row is None:
        raise NotFound(f"there is no account {key}")
    return row.id
