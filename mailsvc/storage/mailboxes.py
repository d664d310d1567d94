"""Messages, their content in parts, and the items of each account's maildrop, as rows.

One message is stored once, however many accounts hold it; an item ties it to an account under a `uid` and a
`uidl` that never mean another message.  The trace header is the caller's; nothing here looks into a
message (`mailsvc.storage.surrogates` does, into those that are more than ASCII).

The hardest idea: nobody ever holds a whole message.  Part 0 is the header block (trace header first), parts
1, 2, ... are the body in the pieces in which the caller gives them, so that a message of 50 MB passes
through in 256 KiB both ways.  That is also why `deliver` counts: a spool that gives back less than arrived
must not become a message.

RFC 1939 section 7 wants a UIDL that is never reused.  The account's counter alone does not give that: after
the database was restored from a copy it would count the same numbers again, and a client that leaves mail
on the server would take new mail for old and never fetch it.  So a UIDL is the uid *and* 64 random bits,
chosen at delivery.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from mailsvc.errors import NotFound, StorageFailure
from mailsvc.mail.message import Summary
from mailsvc.mail.snapshot import BLOCK, Snapshot, SnapshotRow
from mailsvc.storage import surrogates
from mailsvc.storage.accounts import DELETE_ORPHAN
from mailsvc.storage.rows import Cursor, many, maybe, one

PART_LIMIT = 256 * 1024
"""The most octets of a body part (the header block is one part, whatever its size)."""

ALL_PARTS = 1 << 31
"""More parts than a message has."""


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message that is to be stored.

    The last six are what its envelope says (schema 4). `received_at` is seconds since the epoch, `reverse_path` ""
    for the null sender; `trace_header` is what we add on top (whole lines with CRLF); `summary` describes the message
    as it arrived, without the trace header.
    """

    trace_id: str
    reverse_path: str
    received_at: float
    trace_header: bytes = field(repr=False)
    summary: Summary = field(repr=False)
    smtputf8: bool = False
    body_8bit: bool = False
    require_tls: bool = False
    tls_optional: bool = False
    dsn_return: str | None = None
    envelope_id: str | None = None


def deliver(
    txn: Cursor,
    new: NewMessage,
    header: bytes,
    body: Iterable[bytes],
    account_ids: Sequence[int],
    *,
    prefixes: Mapping[int, bytes] = MappingProxyType({}),
    release_at: float | None = None,
    arrived: float | None = None,
    uidls: Mapping[int, str] = MappingProxyType({}),
    entropy: Callable[[int], str] = secrets.token_hex,
) -> int:
    """Store a message in the maildrops of `account_ids` (once in each), return the message's id.

    `prefixes` has by account what stands before the header in that maildrop (whole lines with CRLF); `release_at`,
    seconds since the epoch, hides the items until then. `arrived` is when it comes into these maildrops, from which its
    age is counted; None: when it was received. `uidls` has by account the unique-id that a message from another server
    keeps, which nothing else in that account ever had; without one it gets a new one. `header` is the message's own
    header block with its empty line, `body` the rest in pieces of at most `PART_LIMIT` octets that are stored as they
    come. `NotFound` when an account is gone meanwhile, `StorageFailure` when header and body are not as long as the
    summary says; the caller's transaction (or savepoint) must then be rolled back, which `Database.write` does.
    """
    size = len(new.trace_header) + new.summary.size
    (message_id,) = one(
        txn.execute(
            "INSERT INTO message (trace_id, reverse_path, received_at, size, header_size, sha256,"
            " subject, from_header, date_header, message_id_header,"
            " smtputf8, body_8bit, require_tls, tls_optional, dsn_return, envelope_id)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
            (
                new.trace_id,
                new.reverse_path,
                new.received_at,
                size,
                len(new.trace_header) + len(header),
                new.summary.sha256,
                _column(new.summary.subject),
                _column(new.summary.from_),
                _column(new.summary.date),
                _column(new.summary.message_id),
                int(new.smtputf8),
                int(new.body_8bit),
                int(new.require_tls),
                int(new.tls_optional),
                new.dsn_return,
                new.envelope_id,
            ),
        )
    )
    stored, is_ascii = _store_content(txn, message_id, new.trace_header + header, body)
    if stored != size:
        raise StorageFailure(
            f"message {new.trace_id} has {size} octets but {stored} were read back while storing it;"
            " it was not stored (is the folder for temporary files full?)"
        )
    beyond_ascii = not is_ascii or not all(prefix.isascii() for prefix in prefixes.values())
    surrogates.note_message(txn, message_id, new.trace_header + header, measure=beyond_ascii)
    for account_id in dict.fromkeys(account_ids):
        prefix = prefixes.get(account_id, b"")
        came = new.received_at if arrived is None else arrived
        add_item(txn, account_id, message_id, size, prefix, came, release_at, entropy, uidls.get(account_id))
    return int(message_id)


def snapshot(txn: Cursor, account_id: int, now: float | None = None, device: int | None = None) -> Snapshot:
    """The account's items in the order of their uids, without those that are held beyond `now` (seconds since the
    epoch; None: all) and those that `device` (its row id) has deleted; empty also when there is no such account."""
    seen = (
        "SELECT uid, message_id, size, uidl FROM mailbox_item"
        " WHERE account_id = ? AND (release_at IS NULL OR ? IS NULL OR release_at <= ?)"
    )
    if device is None:
        txn.execute(f"{seen} ORDER BY uid", (account_id, now, now))
    else:
        deleted = "SELECT uid FROM device_item WHERE device_id = ? AND deleted IS NOT NULL"
        txn.execute(f"{seen} AND uid NOT IN ({deleted}) ORDER BY uid", (account_id, now, now, device))
    return Snapshot(_blocks(txn))


def _blocks(txn: Cursor) -> Iterator[list[SnapshotRow]]:
    # Never all rows at once: 100,000 of them would be some 20 MB of Python objects for a moment.
    while rows := txn.fetchmany(BLOCK):
        yield rows


def openings(txn: Cursor, account_id: int, uids: Sequence[int], parts: int = ALL_PARTS) -> dict[int, list[bytes]]:
    """By uid the first `parts` parts of items as this maildrop shows them: the first is the item's own prefix and the
    header block. What a session saw and what was deleted meanwhile is found as long as it can come back; items that
    are gone are left out. The caller sees to it that all is not too much."""
    found = {}
    for uid in uids:
        rows = many(txn.execute(_OPENING, (account_id, uid, parts))) or many(
            txn.execute(_OPENING_OF_DELETED, (account_id, uid, parts))
        )
        # A part that is missing ends the beginning: what stands behind it would be taken for the part itself.
        pieces = [bytes(data) for number, (part, data, _) in enumerate(rows) if part == number]
        if pieces:
            found[uid] = [bytes(rows[0][2]) + pieces[0], *pieces[1:]]
    return found


_OPENING = (
    "SELECT content.part, content.data, item.prefix FROM mailbox_item AS item"
    " JOIN message_content AS content ON content.message_id = item.message_id"
    " WHERE item.account_id = ? AND item.uid = ? AND content.part < ? ORDER BY content.part"
)
_OPENING_OF_DELETED = _OPENING.replace("mailbox_item", "deleted_item")


def note_wishes(txn: Cursor, message_id: int, wishes: Iterable[tuple[str, str | None, str | None]]) -> None:
    """Keep what the sender wants to hear: (recipient, the words of NOTIFY, ORCPT), each recipient once."""
    txn.executemany(
        "INSERT INTO delivery_wish (message_id, address, notify, original) VALUES (?, ?, ?, ?)",
        [(message_id, *wish) for wish in wishes],
    )


def content_part(txn: Cursor, message_id: int, part: int) -> bytes | None:
    """Part 0 is the header block, 1, 2, ... the body; None behind the last, or when the message is gone."""
    row = maybe(txn.execute("SELECT data FROM message_content WHERE message_id = ? AND part = ?", (message_id, part)))
    return None if row is None else bytes(row[0])


def content_parts(txn: Cursor, message_id: int, first: int, count: int) -> list[bytes]:
    """Up to `count` parts from part `first` on, up to the first that is missing."""
    rows = many(
        txn.execute(
            "SELECT part, data FROM message_content WHERE message_id = ? AND part >= ? ORDER BY part LIMIT ?",
            (message_id, first, count),
        )
    )
    return [bytes(data) for number, (part, data) in enumerate(rows, first) if part == number]


def delete_items(txn: Cursor, account_id: int, uids: Sequence[int]) -> int:
    """Remove items from an account's maildrop, and messages that no maildrop holds any more; return how
    many items.

    An item that is gone already is not counted and no error.  Some 10 us an item and the disk's time:
    whoever removes many thousands gives them in several calls, so that deliveries may pass in between.
    """
    message_ids = []
    octets = 0
    for uid in uids:
        row = maybe(
            txn.execute(
                "DELETE FROM mailbox_item WHERE account_id = ? AND uid = ? RETURNING message_id, size",
                (account_id, uid),
            )
        )
        if row is not None:
            message_id, size = row
            message_ids.append((message_id,))
            octets += size
    if octets:
        txn.execute("UPDATE account SET used_octets = used_octets - ? WHERE id = ?", (octets, account_id))
    txn.executemany(DELETE_ORPHAN, message_ids)
    return len(message_ids)


def _store_content(txn: Cursor, message_id: int, header: bytes, body: Iterable[bytes]) -> tuple[int, bool]:
    """Octets stored, and whether all of them are ASCII."""
    insert = "INSERT INTO message_content (message_id, part, data) VALUES (?, ?, ?)"
    txn.execute(insert, (message_id, 0, header))
    stored, is_ascii = len(header), header.isascii()
    part = 0
    for piece in body:
        if len(piece) > PART_LIMIT:
            raise ValueError(f"a piece of a body has {len(piece)} octets, more than {PART_LIMIT}")
        if piece:
            part += 1
            txn.execute(insert, (message_id, part, piece))
            stored += len(piece)
            is_ascii = is_ascii and piece.isascii()
    return stored, is_ascii


def add_item(
    txn: Cursor,
    account_id: int,
    message_id: int,
    message_size: int,
    prefix: bytes,
    arrived: float,
    release_at: float | None = None,
    entropy: Callable[[int], str] = secrets.token_hex,
    kept_uidl: str | None = None,
) -> int:
    """Put a stored message of `message_size` octets into a maildrop under a new uid and UIDL, and return the uid.

    `kept_uidl` is the UIDL of a message that brings its own. `NotFound` when the account is gone; the rest is as in
    `deliver`.
    """
    size = message_size + len(prefix)
    row = maybe(
        txn.execute(
            "UPDATE account SET next_uid = next_uid + 1, used_octets = used_octets + ? WHERE id = ?"
            " RETURNING next_uid - 1",
            (size, account_id),
        )
    )
    if row is None:
        raise NotFound("the account that the message was for has been removed meanwhile")
    (uid,) = row
    txn.execute(
        "INSERT INTO mailbox_item (account_id, uid, message_id, size, uidl, prefix, release_at, arrived,"
        " surrogate_size, header_gap) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(account_id, uid, message_id, size, kept_uidl or uidl(uid, entropy(8)), prefix, release_at, arrived),
            *surrogates.of_item(txn, message_id, prefix, size),
        ),
    )
    return int(uid)


def uidl(uid: int, random_hex: str) -> str:
    """The unique-id of RFC 1939 section 7: 1 to 70 characters of 0x21 to 0x7e."""
    return f"{uid}.{random_hex}"


def _column(text: str | None) -> str | None:
    # PostgreSQL takes no NUL in a text; the stored header keeps it.
    return None if text is None else text.replace("\0", "\ufffd")
