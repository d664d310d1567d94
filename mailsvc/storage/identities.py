"""Client certificates as rows: whose they are, which keys are revoked, which machines may hand in mail.

Plain functions of a cursor; they judge no certificate, that is `mailsvc.tls.verify`, and do not say what a key may
stand for, that is `mailsvc.tls.identity`.  A certificate is known by the fingerprint of its public key, 64 lower-case
hexadecimal digits, as ``mailsvc certs show`` prints it.

The hardest idea is revoking.  A key that was only taken out of the table could come back by another way: a CA that may
vouch has signed it for an address, too, or somebody adds all certificates of a folder again.  So a revoked key leaves
its account and stays in a table of its own, that is asked first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from mailsvc.errors import AlreadyExists, MailsvcError, NotFound
from mailsvc.mail.address import Address, AddressError, parse_address
from mailsvc.storage.accounts import AccountRow, account
from mailsvc.storage.rows import Cursor, many, maybe, one

MOST_CERTIFICATES = 50
"""Of one account."""

MOST_RELAY_CLIENTS = 1000

CREDENTIAL = "certificate "
"""The beginning of what a login by certificate is called (a device's credential); the fingerprint follows."""

_SPKI = re.compile(r"[0-9a-f]{64}\Z")
_ANY = "*"


@dataclass(frozen=True, slots=True)
class KnownCertificate:
    """A certificate of an account, or of a machine; times are seconds since the epoch."""

    id: int
    label: str
    spki: str
    subject: str
    created: float
    last_used: float | None
    until: float | None = None
    """When the registration ends, None for never; for accounts only."""
    senders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RevokedKey:
    """A key that opens nothing; `whose` is the `Address.key` of the account that it was revoked for."""

    spki: str
    whose: str
    label: str
    subject: str
    revoked: float


@dataclass(frozen=True, slots=True)
class Owner:
    """The account that a certificate logs in as; `certificate` is the row that says so, None when a CA does."""

    id: int
    address: str
    certificate: int | None = None
    last_used: float | None = None


# -- accounts ---------------------------------------------------------------------------------------------------------


def add_certificate(
    txn: Cursor,
    key: str,
    label: str,
    spki: str,
    subject: str,
    now: float,
    *,
    again: bool = False,
    until: float | None = None,
) -> None:
    """Let the key `spki` log in as the account `key`, until then (None: for ever).  `NotFound`; `AlreadyExists`;
    `MailsvcError` for a revoked key unless `again`."""
    row, checked = _account(txn, key), fingerprint(spki)
    (present,) = one(txn.execute("SELECT COUNT(*) FROM account_certificate WHERE account_id = ?", (row.id,)))
    if present >= MOST_CERTIFICATES:
        raise MailsvcError(f"{key} has {present} certificates already; revoke one that is not used any more")
    gone = revoked_key(txn, checked)
    if gone is not None and not again:
        day = datetime.fromtimestamp(gone.revoked, UTC).strftime("%Y-%m-%d")
        raise MailsvcError(
            f"this key was revoked on {day} (for {gone.whose}); its owner needs a certificate with a new key,"
            " or say --again if the old one is good after all"
        )
    whose = maybe(
        txn.execute(
            "SELECT account.address, account_certificate.label FROM account_certificate"
            " JOIN account ON account.id = account_certificate.account_id WHERE spki = ?",
            (checked,),
        )
    )
    if whose is not None:
        raise AlreadyExists(f"this key belongs to {whose[0]} already, with the label {whose[1]!r}")
    added = maybe(
        txn.execute(
            "INSERT INTO account_certificate (account_id, label, spki, subject, created, until)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (account_id, label) DO NOTHING RETURNING id",
            (row.id, label, checked, subject, now, until),
        )
    )
    if added is None:
        raise AlreadyExists(f"{key} has a certificate with the label {label!r} already; choose another label")
    txn.execute("DELETE FROM revoked_key WHERE spki = ?", (checked,))


def certificates_of(txn: Cursor, key: str) -> list[KnownCertificate]:
    """The certificates of an account, the oldest first; `NotFound` without the account."""
    rows = many(
        txn.execute(
            "SELECT id, label, spki, subject, created, last_used, until FROM account_certificate"
            " WHERE account_id = ? ORDER BY id",
            (_account(txn, key).id,),
        )
    )
    return [KnownCertificate(*row) for row in rows]


def revoked_keys_of(txn: Cursor, key: str) -> list[RevokedKey]:
    """The keys that were revoked for an account, the latest first; also for one that is gone."""
    rows = many(
        txn.execute(
            "SELECT spki, whose, label, subject, revoked FROM revoked_key WHERE whose = ? ORDER BY revoked DESC, spki",
            (key,),
        )
    )
    return [RevokedKey(*row) for row in rows]


def revoked_key(txn: Cursor, spki: str) -> RevokedKey | None:
    """The key, when it is revoked."""
    row = maybe(txn.execute("SELECT spki, whose, label, subject, revoked FROM revoked_key WHERE spki = ?", (spki,)))
    return None if row is None else RevokedKey(*row)


def revoke_certificate(txn: Cursor, key: str, label: str, now: float) -> KnownCertificate:
    """Revoke the certificate of this label; `NotFound`."""
    for each in certificates_of(txn, key):
        if each.label == label:
            revoke_key(txn, key, each.spki, now)
            return each
    raise NotFound(f"{key} has no certificate with the label {label!r}; `mailsvc user certificate list` shows them")


def revoke_key(txn: Cursor, key: str, spki: str, now: float, subject: str = "") -> None:
    """Revoke a key for the account `key`, whether it is in the table or not (a CA may vouch for it).

    `NotFound` without the account, `MailsvcError` when the key is another account's.
    """
    row, checked = _account(txn, key), fingerprint(spki)
    known = maybe(txn.execute("SELECT account_id, label, subject FROM account_certificate WHERE spki = ?", (checked,)))
    if known is not None and known[0] != row.id:
        raise MailsvcError(f"this key is not one of {key} but of another account; name that one")
    label, called = ("", subject) if known is None else known[1:]
    txn.execute("DELETE FROM account_certificate WHERE spki = ?", (checked,))
    # It must not hold back mail that other devices have deleted.
    txn.execute("DELETE FROM device WHERE account_id = ? AND credential = ?", (row.id, CREDENTIAL + checked))
    txn.execute(
        "INSERT INTO revoked_key (spki, whose, label, subject, revoked) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (spki) DO NOTHING",
        (checked, key, label, called, now),
    )


def owner_of(
    txn: Cursor, spki: str, addresses: Iterable[str], now: float, wanted: Address | None = None
) -> Owner | None:
    """The account that may log in with a certificate `now`: the one that its key belongs to, else the one that a CA
    vouches for by its `addresses`; None when there is none, it is disabled, or the key is revoked or its time is over.

    Of several accounts that are vouched for it is the one that is `wanted`; without a wish it is none of them.
    """
    if not _SPKI.match(spki) or revoked_key(txn, spki) is not None:
        return None
    row = maybe(
        txn.execute(
            "SELECT account.id, account.address, account.disabled, account_certificate.id, last_used, until"
            " FROM account_certificate JOIN account ON account.id = account_certificate.account_id WHERE spki = ?",
            (spki,),
        )
    )
    if row is not None:
        return None if row[2] or _is_over(row[5], now) else Owner(row[0], row[1], row[3], row[4])
    found = {each.id: each for key in _keys(addresses) if (each := account(txn, key)) is not None and not each.disabled}
    if wanted is not None:
        found = {number: each for number, each in found.items() if parse_address(each.address).key == wanted.key}
    if len(found) != 1:
        return None
    [only] = found.values()
    return Owner(only.id, only.address)


def certificate_holds(txn: Cursor, account_id: int, spki: str, now: float) -> bool:
    """Whether a login with this key as this account would still be let in `now`, as far as the tables know."""
    if revoked_key(txn, spki) is not None:
        return False
    row = maybe(txn.execute("SELECT account_id, until FROM account_certificate WHERE spki = ?", (spki,)))
    # Without a row a CA has vouched for it, and the handshake has checked that.
    return row is None or (row[0] == account_id and not _is_over(row[1], now))


def _is_over(until: float | None, now: float) -> bool:
    return until is not None and now >= until


def note_certificate_use(txn: Cursor, certificate: int, now: float) -> None:
    """A certificate has logged in just now."""
    txn.execute("UPDATE account_certificate SET last_used = ? WHERE id = ?", (now, certificate))


# -- machines ---------------------------------------------------------------------------------------------------------


def add_relay_client(txn: Cursor, label: str, spki: str, subject: str, senders: Sequence[str], now: float) -> None:
    """Let the machine with the key `spki` hand in mail as `senders` (see `mailsvc.storage.senders.grant`).

    `AlreadyExists`; `MailsvcError` for a revoked key.
    """
    checked = fingerprint(spki)
    (present,) = one(txn.execute("SELECT COUNT(*) FROM relay_client"))
    if present >= MOST_RELAY_CLIENTS:
        raise MailsvcError(f"there are {present} relay clients already; remove one that is not used any more")
    if revoked_key(txn, checked) is not None:
        raise MailsvcError("this key was revoked as that of a user; the machine needs a certificate with a new key")
    known = maybe(txn.execute("SELECT label FROM relay_client WHERE spki = ?", (checked,)))
    if known is not None:
        raise AlreadyExists(f"this key is that of the relay client {known[0]!r} already")
    row = maybe(
        txn.execute(
            "INSERT INTO relay_client (label, spki, subject, created) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (label) DO NOTHING RETURNING id",
            (label, checked, subject, now),
        )
    )
    if row is None:
        raise AlreadyExists(f"there is a relay client {label!r} already; choose another label")
    txn.executemany(
        "INSERT INTO relay_client_sender (relay_client_id, sender) VALUES (?, ?)",
        [(row[0], sender) for sender in dict.fromkeys(senders)],
    )


def relay_clients(txn: Cursor) -> list[KnownCertificate]:
    """All machines, by their labels."""
    rows = many(txn.execute("SELECT id, label, spki, subject, created, last_used FROM relay_client ORDER BY label, id"))
    return [replace(KnownCertificate(*row), senders=_senders(txn, row[0])) for row in rows]


def remove_relay_client(txn: Cursor, label: str) -> None:
    """Take the permission back; `NotFound`."""
    txn.execute("DELETE FROM relay_client WHERE label = ?", (label,))
    if txn.rowcount != 1:
        raise NotFound(f"there is no relay client {label!r}; `mailsvc relay-client list` shows them")


def relay_client(txn: Cursor, spki: str) -> KnownCertificate | None:
    """The machine with this key, unless the key is revoked."""
    if not _SPKI.match(spki) or revoked_key(txn, spki) is not None:
        return None
    row = maybe(
        txn.execute(
            "SELECT id, label, spki, subject, created, last_used FROM relay_client WHERE spki = ?",
            (spki,),
        )
    )
    return None if row is None else replace(KnownCertificate(*row), senders=_senders(txn, row[0]))


def note_relay_client(txn: Cursor, number: int, now: float) -> None:
    """A machine has just handed in mail."""
    txn.execute("UPDATE relay_client SET last_used = ? WHERE id = ?", (now, number))


def sender_not_granted(txn: Cursor, number: int, senders: Iterable[Address]) -> Address | None:
    """The first of these senders that the machine may not use, or None."""
    granted = set(_senders(txn, number))
    for sender in senders:
        if not granted & {_ANY, sender.key, f"@{sender.domain}"}:
            return sender
    return None


def fingerprint(text: str) -> str:
    """A fingerprint as the tables hold it, from one with colons or capitals; `MailsvcError` for what is none."""
    digits = text.replace(":", "").lower()
    if not _SPKI.match(digits):
        raise MailsvcError(
            f"{text[:80]!r} is no fingerprint of a key; give the 64 hexadecimal digits of the SHA-256 of the public key"
            " (SPKI) that `mailsvc certs show FILE` prints"
        )
    return digits


def _senders(txn: Cursor, number: int) -> tuple[str, ...]:
    rows = many(
        txn.execute("SELECT sender FROM relay_client_sender WHERE relay_client_id = ? ORDER BY sender", (number,))
    )
    return tuple(sender for (sender,) in rows)


def _keys(addresses: Iterable[str]) -> Iterable[str]:
    for text in addresses:
        try:
            yield parse_address(text).key
        except AddressError:
            continue


def _account(txn: Cursor, key: str) -> AccountRow:
    row = account(txn, key)
    if row is None:
        raise NotFound(f"there is no account {key}; `mailsvc user list` shows them")
    return row
