"""MTA-STS policies of others, as rows; what they mean and when they are fetched is `mailsvc.mtasts.cache`.

``domain`` is always in lower case and A-label form.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailsvc.mtasts.record import PolicyMode, StsPolicy
from mailsvc.storage.rows import Cursor, Row, many, maybe

_USED_EVERY = 86400.0


@dataclass(frozen=True, slots=True)
class StsRow:
    """A policy that was ``fetched`` for the record with the id ``record``, and is good until ``expires``."""

    domain: str
    record: str
    policy: StsPolicy
    fetched: float
    expires: float


def sts_policy(txn: Cursor, domain: str, now: float) -> StsRow | None:
    """The policy of the domain, None when there is none that is good at the time ``now``."""
    row = maybe(txn.execute(f"SELECT {_COLUMNS} FROM sts_policy WHERE domain = ? AND expires > ?", (domain, now)))
    return None if row is None else _row(row)


def put_sts_policy(txn: Cursor, domain: str, record: str, policy: StsPolicy, now: float) -> None:
    """Keep a policy that was just fetched, in place of the one before."""
    txn.execute(
        "INSERT INTO sts_policy (domain, record, mode, mx, max_age, fetched, expires, used)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (domain) DO UPDATE SET record = excluded.record, mode = excluded.mode, mx = excluded.mx,"
        " max_age = excluded.max_age, fetched = excluded.fetched, expires = excluded.expires",
        (domain, record, policy.mode.value, "\n".join(policy.mx), policy.max_age, now, now + policy.max_age, now),
    )


def note_sts_used(txn: Cursor, domain: str, now: float) -> None:
    """Mail has asked for it."""
    txn.execute("UPDATE sts_policy SET used = ? WHERE domain = ? AND used < ?", (now, domain, now - _USED_EVERY))


def ageing_sts_policies(
    txn: Cursor, *, fetched_before: float, used_after: float, now: float, limit: int
) -> list[StsRow]:
    """Policies that are still good and should be fetched again, the oldest first."""
    rows = many(
        txn.execute(
            f"SELECT {_COLUMNS} FROM sts_policy WHERE fetched < ? AND expires > ? AND used > ?"
            " ORDER BY fetched LIMIT ?",
            (fetched_before, now, used_after, limit),
        )
    )
    return [_row(row) for row in rows]


def forget_sts_policies(txn: Cursor, now: float) -> int:
    """Remove those that are not good any more; return how many there were."""
    txn.execute("DELETE FROM sts_policy WHERE expires <= ?", (now,))
    return txn.rowcount


_COLUMNS = "domain, record, mode, mx, max_age, fetched, expires"


def _row(row: Row) -> StsRow:
    domain, record, mode, mx, max_age, fetched, expires = row
    return StsRow(domain, record, StsPolicy(PolicyMode(mode), tuple(mx.split()), max_age), fetched, expires)
