"""The rows of mail that goes out: put in, claimed by lease, put off, taken out.

`enqueue` belongs in the transaction that stores the message; the rest is what `mailsvc.relay.queue` does with the rows.
What the postmaster does with them is `mailsvc.storage.outbound_admin`; when a row is tried again is
`mailsvc.relay.schedule`; neither is decided here.

The hardest idea is that one column, ``due``, says everything about when a row may be touched.  A claim moves it to the
end of a lease and writes the owner's name; so a process that dies needs no undertaker, its rows become due like any
others.  Whoever finishes a row must still own it, with one exception: a delivery that happened is always noted, because
a row that stays would be delivered once more.

What ``owner`` says of a row that is due, or held: somebody had begun with it and never told the end, so the message may
have arrived.  It is the name of that process, or behind ``-`` the name of one from which the postmaster has taken the
row: that one owns nothing any more, and the doubt stays.  A name that begins with an instance and a dot
(`mailsvc.storage.store.HeldStore`) belongs to a process that held the lock of that instance while it lived; who holds
the same lock now knows it to be dead (`take_back`).

The second idea is `outbound_destination`: the earliest ``due`` of each destination, or an earlier time, never a later
one.  A claim looks there first and takes a few rows of each destination that has some due, so that its cost depends on
what it takes and not on how much waits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from mailsvc.errors import TemporaryFailure
from mailsvc.storage.accounts import IS_ORPHAN
from mailsvc.storage.rows import Cursor, Row, in_slices, many, maybe, one

CONTENT_LIMIT = 64 * 1024
"""Octets of a message that a claim brings along; a larger one is read in parts by whoever sends it."""

RELEASED = "-"
"""Before the owner's name in a row that the postmaster has taken from that owner."""

_NAMES_AT_ONCE = 100
_DAY = 86400


class DailyLimit(TemporaryFailure):
    """An account has written to as many recipients elsewhere as it may on one day (`450 4.7.1`)."""


@dataclass(frozen=True, slots=True)
class NewOutbound:
    """A recipient elsewhere, to be stored; the columns of the same names say more (schema 12).

    ``destination``: what rows are gathered by; "" for the domain of the recipient.  ``release_at``: not before, in
    seconds since the epoch (RFC 4865).  ``keep``: seconds after which it is given up, None for the configuration's.
    """

    recipient: str
    reverse_path: str
    account: str = ""
    destination: str = ""
    prefix: bytes = field(default=b"", repr=False)
    notify: str | None = None
    original: str | None = None
    release_at: float | None = None
    keep: float | None = None


@dataclass(frozen=True, slots=True)
class OutboundMessage:
    """What all recipients of a message share.

    ``size`` and ``header_size`` are octets as stored, without the prefix of a row.  ``content`` is all of it when it is
    small, else None: then `mailsvc.storage.mailboxes.content_part` has it.
    """

    id: int
    trace_id: str
    reverse_path: str
    received_at: float
    size: int
    header_size: int
    smtputf8: bool
    body_8bit: bool
    require_tls: bool
    tls_optional: bool
    dsn_return: str | None
    envelope_id: str | None
    content: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class OutboundRow:
    """A recipient of a message, as it was before it was claimed; see the columns of the same names.

    ``due`` is None for one that is held.  ``owner``: the process that had claimed it before and never said what became
    of it (behind `RELEASED` when it was taken from that), None for nobody; the message may have arrived.
    """

    id: int
    message: OutboundMessage = field(repr=False)
    recipient: str
    reverse_path: str
    prefix: bytes = field(repr=False)
    account: str
    notify: str | None
    original: str | None
    via: str
    destination: str
    due: float | None
    created: float
    changed: float
    age: float
    keep: float | None
    attempts: int
    unreached: bool
    delay_told: bool
    owner: str | None = None

    @property
    def words(self) -> tuple[str, ...] | None:
        """The words of NOTIFY, None when it was not said (RFC 3461 section 4.1)."""
        return None if self.notify is None else tuple(self.notify.split(","))


@dataclass(frozen=True, slots=True)
class Claimed:
    """``rows`` in the order in which they were due; ``more``: something is due that was not claimed.

    ``next_due``: when the next row becomes due after now, None when none will (as it looks now).
    """

    rows: tuple[OutboundRow, ...]
    more: bool
    next_due: float | None


@dataclass(frozen=True, slots=True)
class Retry:
    """How a row that was tried goes back: ``due`` and ``age`` as in the columns; the rest is of the attempt."""

    row_id: int
    destination: str
    due: float
    age: float
    host: str
    text: str
    unreached: bool
    delay_told: bool


def enqueue(txn: Cursor, message_id: int, rows: Iterable[NewOutbound], now: float) -> int:
    """Queue a stored message for recipients elsewhere, return how many; in the transaction that stores the message."""
    count = 0
    earliest: dict[str, float] = {}
    for new in rows:
        destination = (new.destination or new.recipient.rpartition("@")[2]).lower()
        due = now if new.release_at is None else max(now, new.release_at)
        txn.execute(
            "INSERT INTO outbound (message_id, recipient, reverse_path, prefix, account, notify, original, destination,"
            " due, created, changed, age, keep) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(message_id, new.recipient, new.reverse_path, new.prefix, new.account, new.notify, new.original),
                *(destination, due, now, now, now - due, new.keep),
            ),
        )
        earliest[destination] = min(due, earliest.get(destination, due))
        count += 1
    for destination, due in earliest.items():
        note_due(txn, destination, due)
    return count


def count_for_day(txn: Cursor, account: str, recipients: int, now: float, limit: int) -> None:
    """Count recipients elsewhere to an account's day; `DailyLimit` when there are more than ``limit`` (0: no limit)."""
    day = int(now // _DAY)
    (today,) = one(
        txn.execute(
            "INSERT INTO outbound_day (account, day, recipients) VALUES (?, ?, ?)"
            " ON CONFLICT (account, day) DO UPDATE SET recipients = outbound_day.recipients + excluded.recipients"
            " RETURNING recipients",
            (account, day, recipients),
        )
    )
    _keep_limit(account, today, limit)
    txn.execute("DELETE FROM outbound_day WHERE account = ? AND day < ?", (account, day - 30))


def check_day(txn: Cursor, account: str, recipients: int, now: float, limit: int) -> None:
    """Raise what `count_for_day` would raise now, and count nothing."""
    day = int(now // _DAY)
    row = maybe(txn.execute("SELECT recipients FROM outbound_day WHERE account = ? AND day = ?", (account, day)))
    _keep_limit(account, recipients + (0 if row is None else row[0]), limit)


def _keep_limit(account: str, today: int, limit: int) -> None:
    if limit and today > limit:
        raise DailyLimit(f"{account} may write to {limit} recipients a day elsewhere, and has; more tomorrow (UTC)")


def claim(
    txn: Cursor,
    owner: str,
    now: float,
    *,
    seconds: float,
    rows: int,
    of_each: int,
    busy: Collection[str] = (),
    content: int = 0,
) -> Claimed:
    """Take up to ``rows`` rows that are due, at most ``of_each`` of one destination, for a lease of ``seconds``.

    ``busy``: destinations of which none are wanted now.  ``content``: octets of messages to bring along at most.
    """
    taken: list[OutboundRow] = []
    messages: dict[int, OutboundMessage] = {}
    names = _names_due(txn, now, busy)
    more = False
    for name in names:
        if len(taken) >= rows:
            more = True
            break
        limit = min(of_each, rows - len(taken))
        found = many(txn.execute(_DUE, (name, now, limit)))
        new = [_message(row) for row in {row[0]: row for row in found}.values() if row[0] not in messages]
        content -= _with_contents(txn, new, content, messages)
        taken += [_row(row, messages[row[0]]) for row in found]
        for marks, row_ids in in_slices(row[_MESSAGE_COLUMNS] for row in found):
            txn.execute(
                f"UPDATE outbound SET owner = ?, due = ? WHERE id IN ({marks})", (owner, now + seconds, *row_ids)
            )
        left = _recount(txn, name)
        more = more or (left is not None and left <= now)
    if len(names) >= _NAMES_AT_ONCE:
        more = True
    following = maybe(txn.execute("SELECT due FROM outbound_destination WHERE due > ? ORDER BY due LIMIT 1", (now,)))
    taken.sort(key=lambda row: (row.due or 0.0, row.id))
    return Claimed(tuple(taken), more, None if following is None else following[0])


def delivered(txn: Cursor, row_ids: Iterable[int]) -> int:
    """Messages have reached these recipients: whoever owns the rows now, they go.  How many were still there."""
    count = 0
    for marks, some in in_slices(row_ids):
        txn.execute(f"DELETE FROM outbound WHERE id IN ({marks})", some)
        count += txn.rowcount
    return count


def failed(txn: Cursor, owner: str, row_id: int) -> bool:
    """This recipient is given up: the row goes, if ``owner`` still owns it.  Whether it did."""
    txn.execute("DELETE FROM outbound WHERE id = ? AND owner = ?", (row_id, owner))
    return txn.rowcount > 0


def retry(txn: Cursor, owner: str, again: Retry, now: float) -> bool:
    """An attempt has been made and another follows, if ``owner`` still owns the row.  Whether it did."""
    txn.execute(
        "UPDATE outbound SET owner = NULL, due = ?, changed = ?, age = ?, attempts = attempts + 1, unreached = ?,"
        " delay_told = ?, last_host = ?, last_text = ? WHERE id = ? AND owner = ?",
        (
            *(again.due, now, again.age, int(again.unreached), int(again.delay_told), again.host, again.text),
            *(again.row_id, owner),
        ),
    )
    if not txn.rowcount:
        return False
    note_due(txn, again.destination, again.due)
    return True


def give_back(txn: Cursor, owner: str, rows: Iterable[OutboundRow]) -> int:
    """Rows that ``owner`` claimed and did not try: they are as they were before.  How many it still owned."""
    count = 0
    for row in rows:
        txn.execute(
            "UPDATE outbound SET owner = ?, due = ? WHERE id = ? AND owner = ?", (row.owner, row.due, row.id, owner)
        )
        if txn.rowcount and row.due is not None:
            count += 1
            note_due(txn, row.destination, row.due)
    return count


def move(txn: Cursor, owner: str, rows: Iterable[tuple[OutboundRow, str]]) -> int:
    """Give rows back under another destination, which the routes say.  How many ``owner`` still owned."""
    alike: dict[tuple[str | None, float | None, str], list[int]] = {}
    for row, destination in rows:
        alike.setdefault((row.owner, row.due, destination), []).append(row.id)
    count = 0
    earliest: dict[str, float] = {}
    for (before, due, destination), row_ids in alike.items():
        moved = 0
        for marks, some in in_slices(row_ids):
            txn.execute(
                f"UPDATE outbound SET owner = ?, due = ?, destination = ? WHERE owner = ? AND id IN ({marks})",
                (before, due, destination, owner, *some),
            )
            moved += txn.rowcount
        if moved and due is not None:
            count += moved
            earliest[destination] = min(due, earliest.get(destination, due))
    for destination, due in earliest.items():
        note_due(txn, destination, due)
    return count


def take_back(txn: Cursor, instance: str, owner: str, now: float) -> int:
    """Make due what dead processes of this ``instance`` had claimed; how many rows that were.

    For ``owner``, who holds the instance's lock: all others of that name are dead, whatever their leases say.  Who it
    was stays in the rows.  Reads the whole table: for the start.
    """
    name = f"{instance}."
    rows = many(
        txn.execute(
            "SELECT id, destination FROM outbound WHERE due > ? AND owner <> ? AND substr(owner, 1, ?) = ?",
            (now, owner, len(name), name),
        )
    )
    # Only what is not due yet: when a row became due is how long it was to wait, and so how old it is.
    txn.executemany("UPDATE outbound SET due = ? WHERE id = ?", [(now, row_id) for row_id, _ in rows])
    for destination in dict.fromkeys(destination for _, destination in rows):
        note_due(txn, destination, now)
    return len(rows)


def not_arrived(txn: Cursor, owner: str, rows: Iterable[OutboundRow]) -> None:
    """The postmaster has taken these from ``owner``, who knows that nothing of them arrived: the doubt is as before."""
    for row in rows:
        before = row.owner if row.owner is None or row.owner.startswith(RELEASED) else RELEASED + row.owner
        txn.execute("UPDATE outbound SET owner = ? WHERE id = ? AND owner = ?", (before, row.id, RELEASED + owner))


def renew(txn: Cursor, owner: str, row_ids: Iterable[int], until: float) -> None:
    """Keep rows that are being worked at; ``until`` is the new end of the lease."""
    txn.executemany(
        "UPDATE outbound SET due = ? WHERE id = ? AND owner = ?", [(until, row_id, owner) for row_id in row_ids]
    )


def still_owned(txn: Cursor, owner: str, row_ids: Iterable[int]) -> set[int]:
    """Those of the rows that ``owner`` owns: the others were held, moved or removed, or another process has them."""
    found: set[int] = set()
    for marks, some in in_slices(row_ids):
        found.update(
            row_id
            for (row_id,) in many(
                txn.execute(f"SELECT id FROM outbound WHERE owner = ? AND id IN ({marks})", (owner, *some))
            )
        )
    return found


def hurry(txn: Cursor, destination: str, now: float, limit: int = 500) -> int:
    """A destination that could not be reached can be: what waits only for that is due now.  How many rows were."""
    rows = many(
        txn.execute(
            "SELECT id FROM outbound WHERE destination = ? AND due > ? AND owner IS NULL AND unreached = 1 LIMIT ?",
            (destination, now, limit),
        )
    )
    txn.executemany("UPDATE outbound SET due = ?, unreached = 0 WHERE id = ?", [(now, row_id) for (row_id,) in rows])
    if rows:
        note_due(txn, destination, now)
    return len(rows)


def forget_messages(txn: Cursor, message_ids: Iterable[int]) -> None:
    """Remove those messages that neither a maildrop nor another recipient needs any more."""
    for marks, some in in_slices(dict.fromkeys(message_ids)):
        txn.execute(f"DELETE FROM message WHERE id IN ({marks}) AND {IS_ORPHAN}", some)


def change_number(txn: Cursor) -> int:
    """A number that is another one when somebody besides a queue has changed rows."""
    (number,) = one(txn.execute("SELECT number FROM outbound_change WHERE id = 1"))
    return int(number)


def glance(txn: Cursor, now: float) -> tuple[int, bool, float | None]:
    """`change_number`, whether something is due, and when the next row becomes due after now (None: none)."""
    first = maybe(txn.execute("SELECT due FROM outbound_destination ORDER BY due LIMIT 1"))
    later = maybe(txn.execute("SELECT due FROM outbound_destination WHERE due > ? ORDER BY due LIMIT 1", (now,)))
    is_due = first is not None and first[0] <= now
    return change_number(txn), is_due, None if later is None else later[0]


def mend_clock(txn: Cursor, now: float, tolerance: float = 60.0) -> int:
    """The clock may have been set back: rows that were changed in what is now the future wait as long, from now on.

    Returns how many there were.  Reads the whole table: for the start, and for when the clock was seen to jump.
    """
    rows = many(txn.execute("SELECT id, destination, due, changed FROM outbound WHERE changed > ?", (now + tolerance,)))
    for row_id, destination, due, changed in rows:
        mended = None if due is None else now + max(0.0, due - changed)
        txn.execute("UPDATE outbound SET due = ?, changed = ? WHERE id = ?", (mended, now, row_id))
        if mended is not None:
            note_due(txn, destination, mended)
    return len(rows)


def note_due(txn: Cursor, destination: str, due: float) -> None:
    """A row of this destination becomes due then; to be called by everything that sets a row's ``due``."""
    txn.execute(
        "INSERT INTO outbound_destination (name, due) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET due = excluded.due WHERE excluded.due < outbound_destination.due",
        (destination, due),
    )


_OF_MESSAGE = (
    "message.id, message.trace_id, message.reverse_path, message.received_at, message.size, message.header_size,"
    " message.smtputf8, message.body_8bit, message.require_tls, message.tls_optional, message.dsn_return,"
    " message.envelope_id"
)
_MESSAGE_COLUMNS = 12
_OF_ROW = (
    "outbound.id, outbound.recipient, outbound.reverse_path, outbound.prefix, outbound.account, outbound.notify,"
    " outbound.original, outbound.via, outbound.destination, outbound.due, outbound.created, outbound.changed,"
    " outbound.age, outbound.keep, outbound.attempts, outbound.unreached, outbound.delay_told, outbound.owner"
)
_DUE = (
    f"SELECT {_OF_MESSAGE}, {_OF_ROW} FROM outbound JOIN message ON message.id = outbound.message_id"
    " WHERE outbound.destination = ? AND outbound.due <= ? ORDER BY outbound.due LIMIT ?"
)


def _names_due(txn: Cursor, now: float, busy: Collection[str]) -> list[str]:
    found = many(
        txn.execute(
            "SELECT name FROM outbound_destination WHERE due <= ? ORDER BY due LIMIT ?",
            (now, len(busy) + _NAMES_AT_ONCE),
        )
    )
    return [name for (name,) in found if name not in busy][:_NAMES_AT_ONCE]


def _recount(txn: Cursor, destination: str) -> float | None:
    """Set the destination's earliest time anew, and return it; None when nothing of it waits."""
    first = maybe(
        txn.execute(
            "SELECT due FROM outbound WHERE destination = ? AND due IS NOT NULL ORDER BY due LIMIT 1", (destination,)
        )
    )
    if first is None:
        txn.execute("DELETE FROM outbound_destination WHERE name = ?", (destination,))
        return None
    txn.execute("UPDATE outbound_destination SET due = ? WHERE name = ?", (first[0], destination))
    return float(first[0])


def _message(row: Row) -> OutboundMessage:
    values = list(row[:_MESSAGE_COLUMNS])
    values[6:10] = map(bool, values[6:10])
    return OutboundMessage(*values)


def _row(row: Row, message: OutboundMessage) -> OutboundRow:
    number, recipient, reverse_path, prefix, *others, unreached, delay_told, owner = row[_MESSAGE_COLUMNS:]
    values = [number, message, recipient, reverse_path, bytes(prefix), *others]
    values += [bool(unreached), bool(delay_told), owner]
    return OutboundRow(*values)


def _with_contents(
    txn: Cursor, new: Iterable[OutboundMessage], budget: int, messages: dict[int, OutboundMessage]
) -> int:
    """Add messages by their ids, with their content when that is small and within the budget.  Octets of that."""
    taken = 0
    wanted: dict[int, list[bytes]] = {}
    for message in new:
        messages[message.id] = message
        if message.size <= min(budget - taken, CONTENT_LIMIT):
            taken += message.size
            wanted[message.id] = []
    for marks, message_ids in in_slices(wanted):
        txn.execute(
            f"SELECT message_id, data FROM message_content WHERE message_id IN ({marks}) ORDER BY message_id, part",
            message_ids,
        )
        for message_id, data in many(txn):
            wanted[message_id].append(data)
    for message_id, parts in wanted.items():
        message, content = messages[message_id], b"".join(parts)
        # What is not whole is read again by the sender, who can say what is wrong.
        if len(content) == message.size:
            messages[message_id] = replace(message, content=content)
    return taken
