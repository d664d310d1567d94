"""Certificates as rows, and what the postmaster has been told about certificates.

Plain functions of a cursor.  A row is the counterpart of a folder `certs/NAME`: the same things in it, judged by the
same gate (`mailsvc.tls.gate`), which is why nothing is judged here.  The private key comes and goes sealed; how it is
sealed, and with what, is `mailsvc.tls.sealing`.

The hardest idea is how a running service notices a change without reading everything again and again: each change of
a row gives it a new random `revision`, so `revisions` is a small answer that is another one after any change, also
after a row was removed and put back.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from mailsvc.errors import MailsvcError, NotFound
from mailsvc.storage.rows import Cursor, many, maybe, one

MOST_CERTIFICATES = 10_000
"""Each has a TLS context of its own in the memory of the service."""


@dataclass(frozen=True, slots=True)
class CertificateRow:
    """One certificate with its key.

    ``chain`` is PEM as in a fullchain.pem; ``sealed_key`` as `mailsvc.tls.sealing.seal` made it with the key that
    ``sealed_by`` names; ``staple`` an OCSP response (DER) or None.  ``changed`` is in seconds since the epoch.
    """

    name: str
    chain: bytes
    sealed_key: bytes = field(repr=False)
    sealed_by: str
    staple: bytes | None = field(default=None, repr=False)
    revision: str = ""
    changed: float = 0.0


def put_certificate(txn: Cursor, row: CertificateRow, now: float) -> bool:
    """Write this row, in place of one of the same name; return whether there was one.

    ``revision`` and ``changed`` of ``row`` are not looked at.  Raises `MailsvcError` past `MOST_CERTIFICATES`.
    """
    known = maybe(txn.execute("SELECT 1 FROM certificate WHERE name = ?", (row.name,))) is not None
    (present,) = one(txn.execute("SELECT COUNT(*) FROM certificate"))
    if not known and present >= MOST_CERTIFICATES:
        raise MailsvcError(f"there are {present} certificates in the database already; remove one that is not used")
    txn.execute(
        "INSERT INTO certificate (name, chain, sealed_key, sealed_by, staple, revision, changed)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET chain = excluded.chain,"
        " sealed_key = excluded.sealed_key, sealed_by = excluded.sealed_by, staple = excluded.staple,"
        " revision = excluded.revision, changed = excluded.changed",
        (row.name, row.chain.decode("ascii", "replace"), row.sealed_key, row.sealed_by, row.staple, _new(), now),
    )
    return known


def put_staple(txn: Cursor, name: str, staple: bytes | None, now: float) -> None:
    """Set the OCSP response of a row, None to have none; `NotFound` without the row."""
    txn.execute(
        "UPDATE certificate SET staple = ?, revision = ?, changed = ? WHERE name = ?", (staple, _new(), now, name)
    )
    _changed_one(txn, name)


def certificates(txn: Cursor) -> list[CertificateRow]:
    """All rows, in the order of their names."""
    rows = many(
        txn.execute(
            "SELECT name, chain, sealed_key, sealed_by, staple, revision, changed FROM certificate ORDER BY name"
        )
    )
    return [_row(*row) for row in rows]


def certificate(txn: Cursor, name: str) -> CertificateRow | None:
    """The row of this name, or None."""
    row = maybe(
        txn.execute(
            "SELECT name, chain, sealed_key, sealed_by, staple, revision, changed FROM certificate WHERE name = ?",
            (name,),
        )
    )
    return None if row is None else _row(*row)


def remove_certificate(txn: Cursor, name: str) -> None:
    """Remove the row of this name; `NotFound` when there is none."""
    txn.execute("DELETE FROM certificate WHERE name = ?", (name,))
    _changed_one(txn, name)


def revisions(txn: Cursor) -> tuple[tuple[str, str], ...]:
    """(name, revision) of every row: equal as long as nothing has changed."""
    return tuple((name, revision) for name, revision in many(txn.execute("SELECT name, revision FROM certificate")))


# -- notices ---------------------------------------------------------------------------------------------------------


def was_told(txn: Cursor, about: str, cause: str) -> bool:
    """Whether the postmaster has been told ``cause`` about the certificate ``about``."""
    return (
        maybe(txn.execute("SELECT 1 FROM certificate_notice WHERE about = ? AND cause = ?", (about, cause))) is not None
    )


def note_told(txn: Cursor, about: str, cause: str, now: float) -> None:
    """The postmaster has just been told."""
    txn.execute(
        "INSERT INTO certificate_notice (about, cause, told) VALUES (?, ?, ?)"
        " ON CONFLICT (about, cause) DO UPDATE SET told = excluded.told",
        (about, cause, now),
    )


def forget_told(txn: Cursor, about: str, beginning: str, *, but: tuple[str, ...] = ()) -> None:
    """Forget every cause about ``about`` that begins with ``beginning``, except ``but``: it is over."""
    for (cause,) in many(txn.execute("SELECT cause FROM certificate_notice WHERE about = ?", (about,))):
        if cause.startswith(beginning) and cause not in but:
            txn.execute("DELETE FROM certificate_notice WHERE about = ? AND cause = ?", (about, cause))


def _row(
    name: str,
    chain: str,
    sealed_key: bytes,
    sealed_by: str,
    staple: bytes | None,
    revision: str,
    changed: float,
) -> CertificateRow:
    return CertificateRow(name, chain.encode(), sealed_key, sealed_by, staple, revision, changed)


def _new() -> str:
    return secrets.token_hex(8)


def _changed_one(txn: Cursor, name: str) -> None:
    if txn.rowcount != 1:
        raise NotFound(f"there is no certificate {name} in the database; `mailsvc certs list` shows what there is")
