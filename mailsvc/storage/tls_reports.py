"""Sessions with MX hosts, counted by day and domain for TLS reports (RFC 8460), and which reports are to be sent.

The texts are those of `mailsvc.tlsrpt.report`.  The hardest idea: what others do decides how many rows there are, so
each domain has a limit of different failures a day; what is beyond is counted without its details.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mailsvc.storage.rows import Cursor, many, one
from mailsvc.tlsrpt.report import DAY, Counted

MOST_DETAILS = 50
"""Different rows of one domain on one day."""


@dataclass(frozen=True, slots=True)
class Due:
    """A report that is to be sent; ``tries``: how often it was tried before."""

    domain: str
    day: int
    tries: int


def count_sessions(txn: Cursor, day: int, counts: Iterable[tuple[str, Counted]], delay: float) -> None:
    """Add to a day's counts, by domain.  The reports are due ``delay`` seconds after the end of the day."""
    for domain, each in counts:
        failure = each.failure
        (known,) = one(txn.execute("SELECT COUNT(*) FROM tls_count WHERE domain = ? AND day = ?", (domain, day)))
        if known >= MOST_DETAILS and failure:
            failure = '{"result-type": "validation-failure"}'
        txn.execute(
            "INSERT INTO tls_count (domain, day, policy, failure, sessions) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (domain, day, policy, failure)"
            " DO UPDATE SET sessions = tls_count.sessions + excluded.sessions",
            (domain, day, each.policy, failure, each.sessions),
        )
        txn.execute(
            "INSERT INTO tls_report (domain, day, due) VALUES (?, ?, ?) ON CONFLICT (domain, day) DO NOTHING",
            (domain, day, (day + 1) * DAY + delay),
        )


def due_reports(txn: Cursor, now: float, *, lease: float, limit: int) -> list[Due]:
    """Reports that are due, which nobody else gets for ``lease`` seconds."""
    rows = many(
        txn.execute("SELECT domain, day, tries FROM tls_report WHERE due <= ? ORDER BY due LIMIT ?", (now, limit))
    )
    txn.executemany(
        "UPDATE tls_report SET due = ?, tries = tries + 1 WHERE domain = ? AND day = ?",
        [(now + lease, domain, day) for domain, day, _ in rows],
    )
    return [Due(*row) for row in rows]


def counted(txn: Cursor, domain: str, day: int) -> list[Counted]:
    """What was counted, those with the most sessions first."""
    rows = many(
        txn.execute(
            "SELECT policy, failure, sessions FROM tls_count WHERE domain = ? AND day = ?"
            " ORDER BY policy, sessions DESC, failure",
            (domain, day),
        )
    )
    return [Counted(*row) for row in rows]


def try_report_again(txn: Cursor, domain: str, day: int, due: float) -> None:
    """It could not be handed over."""
    txn.execute("UPDATE tls_report SET due = ? WHERE domain = ? AND day = ?", (due, domain, day))


def forget_report(txn: Cursor, domain: str, day: int) -> None:
    """It was sent, or nobody wants it."""
    txn.execute("DELETE FROM tls_count WHERE domain = ? AND day = ?", (domain, day))
    txn.execute("DELETE FROM tls_report WHERE domain = ? AND day = ?", (domain, day))
