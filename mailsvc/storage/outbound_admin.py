"""What the postmaster sees of the queue and does with it, as functions of a cursor.

`select` finds rows by number, message, domain, account and age; `hold`, `release`, `flush`, `reroute` and `remove`
change the rows that were found.  Every change counts `outbound_change` up, by which a running service learns of it
within a second.

The hardest idea is a row that is being sent at this moment.  Nobody can stop that; but a changed row has no owner any
more, so what becomes of the attempt is noted only if it was a delivery (`mailsvc.storage.outbound`): held mail stays
held, removed mail is gone, and nothing is delivered twice because somebody looked at it.  That it may have arrived all
the same stays in the row, until whoever had it says that it has not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mailsvc.mail.address import Address
from mailsvc.mail.event import Noted
from mailsvc.relay.schedule import counted
from mailsvc.storage import events
from mailsvc.storage.outbound import forget_messages, note_due
from mailsvc.storage.rows import Cursor, Row, many, one

_RELEASE = "owner = CASE WHEN owner LIKE '-%' THEN owner ELSE '-' || owner END"
"""Nobody's any more; who had it last stays known (`mailsvc.storage.outbound.RELEASED`, and NULL stays NULL)."""

_RUNNING = "COALESCE(outbound.owner NOT LIKE '-%' AND outbound.due > ?, FALSE)"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows; all that is said must be true, and nothing said means all rows.

    ``ids``: row numbers or trace ids.  ``domain``: of the recipient.  ``recipient``, ``sender``: addresses, ``sender``
    "" for the null sender.  ``account``: whose login submitted it.  ``before``: queued before that time, in seconds
    since the epoch.  ``held``: only those that are held, or that are not.
    """

    ids: tuple[str, ...] = ()
    domain: str | None = None
    recipient: Address | None = None
    sender: str | None = None
    account: Address | None = None
    before: float | None = None
    held: bool | None = None


@dataclass(frozen=True, slots=True)
class QueuedRow:
    """A row as people see it; the columns of schema 12, and some of its message's.

    ``due`` is None while it is held; ``is_running``: some process works at it now.  ``duplicate_possible``: some
    process had begun with it and did not say what became of it.
    """

    id: int
    trace_id: str
    message_id: int
    size: int
    sender: str
    subject: str | None
    recipient: str
    account: str
    via: str
    destination: str
    due: float | None
    is_running: bool
    created: float
    changed: float
    age: float
    attempts: int
    last_host: str
    last_text: str
    notify: str | None
    keep: float | None
    duplicate_possible: bool

    @property
    def state(self) -> str:
        """A word for it."""
        if self.due is None:
            return "held"
        return "sending" if self.is_running else "waiting"


@dataclass(frozen=True, slots=True)
class Totals:
    """All of the queue in numbers; ``oldest`` is when the oldest row was queued, None when there is none."""

    rows: int
    messages: int
    held: int
    running: int
    oldest: float | None


def totals(txn: Cursor, now: float) -> Totals:
    """The queue in numbers at the time ``now``."""
    rows, messages, held, running, oldest = one(
        txn.execute(
            "SELECT COUNT(*), COUNT(DISTINCT message_id), COUNT(CASE WHEN due IS NULL THEN 1 END),"
            " COUNT(CASE WHEN owner NOT LIKE '-%' AND due > ? THEN 1 END), MIN(created) FROM outbound",
            (now,),
        )
    )
    return Totals(rows, messages, held, running, oldest)


def last_number(txn: Cursor) -> int:
    """The number of the row that came last, 0 when there is none; those that come later have greater ones."""
    (number,) = one(txn.execute("SELECT COALESCE(MAX(id), 0) FROM outbound"))
    return int(number)


def select(txn: Cursor, wanted: Selection, now: float, limit: int, after: int = 0) -> list[QueuedRow]:
    """The first ``limit`` rows with a number greater than ``after``, in the order of their numbers."""
    conditions, parameters = _conditions(wanted)
    rows = many(
        txn.execute(
            "SELECT outbound.id, message.trace_id, message.id, message.size, outbound.reverse_path, message.subject,"
            " outbound.recipient, outbound.account, outbound.via, outbound.destination, outbound.due,"
            f" {_RUNNING}, outbound.created, outbound.changed, outbound.age,"
            " outbound.attempts,"
            " outbound.last_host, outbound.last_text, outbound.notify, outbound.keep,"
            f" outbound.owner IS NOT NULL AND NOT {_RUNNING}"
            " FROM outbound JOIN message ON message.id = outbound.message_id"
            f" WHERE outbound.id > ?{conditions} ORDER BY outbound.id LIMIT ?",
            (now, now, after, *parameters, limit),
        )
    )
    return [_queued(row) for row in rows]


def hold(txn: Cursor, rows: Iterable[QueuedRow], now: float) -> int:
    """Nobody tries these until they are released.  How many were not held before."""
    return _change(txn, rows, now, f"due = NULL, {_RELEASE}", "due IS NOT NULL", "held by the postmaster")


def release(txn: Cursor, rows: Iterable[QueuedRow], now: float) -> int:
    """Held rows are tried at once.  How many were held."""
    return _change(txn, rows, now, f"due = ?, {_RELEASE}", "due IS NULL", "released by the postmaster", now)


def flush(txn: Cursor, rows: Iterable[QueuedRow], now: float) -> int:
    """Waiting rows are tried at once; those that are held stay held.  How many were waiting."""
    condition = "due IS NOT NULL AND (owner IS NULL OR owner LIKE '-%')"
    return _change(txn, rows, now, "due = ?", condition, "to be tried now, says the postmaster", now)


def reroute(txn: Cursor, rows: Iterable[QueuedRow], via: str, now: float) -> int:
    """These go by the relay with this URL, whatever the routes say, or (for "") by the routes again; those that are not
    held are tried at once.  How many there still were."""
    text = f"to go by {via}, says the postmaster" if via else "to go by the routes again, says the postmaster"
    changes = f"via = ?, due = CASE WHEN due IS NULL THEN NULL ELSE ? END, {_RELEASE}, unreached = 0"
    return _change(txn, rows, now, changes, "1 = 1", text, via, now)


def remove(txn: Cursor, rows: Iterable[QueuedRow], now: float) -> int:
    """These recipients get nothing, and their sender hears nothing.  How many there still were."""
    removed = []
    for row in rows:
        txn.execute("DELETE FROM outbound WHERE id = ?", (row.id,))
        if txn.rowcount:
            removed.append(row)
    _note(txn, removed, now, "removed from the queue by the postmaster")
    forget_messages(txn, (row.message_id for row in removed))
    return len(removed)


def _change(
    txn: Cursor,
    rows: Iterable[QueuedRow],
    now: float,
    changes: str,
    condition: str,
    text: str,
    *values: object,
) -> int:
    """`changes` and `condition` are constants of this module."""
    changed = []
    for row in rows:
        # The time that it has waited until now counts, the time that it is held does not.
        age = row.age if row.due is None else row.age + counted(row.changed, row.due, max(row.changed, now))
        txn.execute(
            f"UPDATE outbound SET {changes}, changed = ?, age = ? WHERE id = ? AND {condition}",
            (*values, now, age, row.id),
        )
        if txn.rowcount:
            changed.append(row)
            note_due(txn, row.destination, now)
    _note(txn, changed, now, text)
    return len(changed)


def _note(txn: Cursor, rows: list[QueuedRow], now: float, text: str) -> None:
    if rows:
        txn.execute("UPDATE outbound_change SET number = number + 1 WHERE id = 1")
    events.record(
        txn,
        [
            events.Entry(
                now,
                Noted(f"<{row.recipient}>: {text}", (row.recipient,)),
                trace_id=row.trace_id,
                message_id=row.message_id,
            )
            for row in rows
        ],
    )


def _queued(row: Row) -> QueuedRow:
    values = list(row)
    values[11], values[-1] = bool(values[11]), bool(values[-1])
    return QueuedRow(*values)


def _conditions(wanted: Selection) -> tuple[str, list[object]]:
    """SQL that holds nothing but constants and marks, and the values for the marks."""
    conditions: list[str] = []
    values: list[object] = []

    def add(condition: str, *of: object) -> None:
        conditions.append(f" AND {condition}")
        values.extend(of)

    if wanted.ids:
        numbers = [int(each) for each in wanted.ids if each.isascii() and each.isdigit() and len(each) < 19]
        traces = [each.upper() for each in wanted.ids if each.isascii()]
        marks = [", ".join("?" * len(each)) for each in (numbers, traces)]
        add(f"(outbound.id IN ({marks[0]}) OR message.trace_id IN ({marks[1]}))", *numbers, *traces)
    if wanted.domain is not None:
        # An address may hold anything before its last @.
        literal = wanted.domain.replace("!", "!!").replace("%", "!%").replace("_", "!_")
        add("lower(outbound.recipient) LIKE ? ESCAPE '!'", f"%@{literal.lower()}")
    if wanted.recipient is not None:
        add("lower(outbound.recipient) = lower(?)", str(wanted.recipient))
    if wanted.sender is not None:
        add("lower(outbound.reverse_path) = lower(?)", wanted.sender)
    if wanted.account is not None:
        add("lower(outbound.account) = lower(?)", str(wanted.account))
    if wanted.before is not None:
        add("outbound.created < ?", wanted.before)
    if wanted.held is not None:
        add("outbound.due IS NULL" if wanted.held else "outbound.due IS NOT NULL")
    return "".join(conditions), values
