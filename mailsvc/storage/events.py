"""Events as rows: written by the transactions that they tell of, found again by whoever asks, pruned in small slices.

The event rows of a decision are written in the transaction that carries the decision out, so that the story a
postmaster reads never says more or less than what happened.  What belongs to no transaction (connections, refusals) is
gathered by `mailsvc.journal` and comes here in batches.  An event outlives its message and its account on purpose (it
refers to them by number, without a foreign key).

What an event holds is `mailsvc.mail.event`.  The hardest idea is that rows are only ever removed from the low end of
their numbers: how many there are is then the difference of two numbers, and neither counting nor pruning ever reads
more than one slice, whether there are a hundred rows or ten million.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from mailsvc.mail.channel import (
    NO_CERTIFICATE,
    NOT_ASKED,
    ClientCertificate,
    Failed,
    NoCertificate,
    Resumed,
    TLSFacts,
    Verified,
    why_failed,
)
from mailsvc.mail.event import Event, event_of, peer_key
from mailsvc.storage.rows import Cursor, Row, many, one

TLS_COLUMNS = (
    "tls_version",
    "tls_cipher",
    "tls_bits",
    "tls_group",
    "client_certificate",
    "client_subject",
    "client_issuer",
    "client_spki",
    "client_reasons",
)

_NO_TLS: tuple[object, ...] = (None,) * len(TLS_COLUMNS)

# `json.dumps` would make an encoder each time.
_encoded = json.JSONEncoder(ensure_ascii=True, sort_keys=True).encode


@dataclass(frozen=True, slots=True)
class Entry:
    """An event with its circumstances.

    ``time`` is seconds since the epoch, ``session`` the number of the connection, ``peer`` the client's address;
    ``number`` is the row's, 0 before it is written.  ``tls``: what the handshake negotiated, for events that tell of
    it; what is kept of that is columns, so that SQL can ask for it.
    """

    time: float
    event: Event
    session: int | None = None
    peer: str | None = None
    trace_id: str | None = None
    message_id: int | None = None
    number: int = 0
    tls: TLSFacts | None = None


_INTO = f"INSERT INTO event (time, kind, session, peer, trace_id, message_id, detail, {', '.join(TLS_COLUMNS)}) VALUES "
_MARKS = f"(?, ?, ?, ?, ?, ?, ?{', ?' * len(TLS_COLUMNS)})"
_AT_ONCE = 10
"""Rows of one statement: each statement costs as much again as its row, and gives the interpreter away meanwhile."""
_INSERT, _INSERT_AT_ONCE = _INTO + _MARKS, _INTO + ", ".join([_MARKS] * _AT_ONCE)
_INSERT_KEY = "INSERT INTO event_key (key, event_id) VALUES (?, ?)"
_INSERT_KEYS_AT_ONCE = _INSERT_KEY + ", (?, ?)" * (_AT_ONCE - 1)


def record(txn: Cursor, entries: Iterable[Entry]) -> None:
    """Write events, in this order."""
    every = [(_values(entry), entry.event.found_by()) for entry in entries]
    keys: list[tuple[str, int]] = []
    # What has keys must tell its number; it is written with others of its kind that stand beside it.
    for has_keys, alike in groupby(every, key=lambda each: bool(each[1])):
        some = list(alike)
        numbers = _insert(txn, [values for values, _ in some], numbered=has_keys)
        keys += [(key, number) for (_, words), number in zip(some, numbers, strict=has_keys) for key in words]
    whole = len(keys) - len(keys) % _AT_ONCE
    for first in range(0, whole, _AT_ONCE):
        txn.execute(_INSERT_KEYS_AT_ONCE, [value for row in keys[first : first + _AT_ONCE] for value in row])
    if whole < len(keys):
        txn.executemany(_INSERT_KEY, keys[whole:])


def _insert(txn: Cursor, rows: Sequence[tuple[object, ...]], *, numbered: bool) -> list[int]:
    """Write rows; when they are to be ``numbered``, the number of each."""
    numbers: list[int] = []
    returning = " RETURNING id" if numbered else ""
    whole = len(rows) - len(rows) % _AT_ONCE
    for first in range(0, whole, _AT_ONCE):
        txn.execute(_INSERT_AT_ONCE + returning, [value for row in rows[first : first + _AT_ONCE] for value in row])
        if numbered:
            # Numbers rise from row to row; the order in which they are told is not promised.
            numbers += sorted(number for (number,) in many(txn))
    for row in rows[whole:]:
        txn.execute(_INSERT + returning, row)
        if numbered:
            numbers += one(txn)
    return numbers


def _values(entry: Entry) -> tuple[object, ...]:
    # What a socket says of an IPv4 peer is canonical; this is asked for each row.
    peer = peer_key(entry.peer) if entry.peer is not None and ":" in entry.peer else entry.peer
    event = entry.event
    detail = _encoded(event.detail())
    told = (entry.time, event.kind, entry.session, peer, entry.trace_id, entry.message_id, detail)
    return told + (_NO_TLS if entry.tls is None else _tls_values(entry.tls))


def prune(txn: Cursor, *, before: float, keep: int, slice_of: int = 500) -> int:
    """Remove the oldest events: those before the time ``before``, and what is more than ``keep`` in all.

    At most ``slice_of`` of them (some 10 ms); returns how many, so that the caller knows whether to come again.
    """
    (newest,) = one(txn.execute("SELECT COALESCE(MAX(id), 0) FROM event"))
    oldest = many(txn.execute("SELECT id, time FROM event ORDER BY id LIMIT ?", (slice_of,)))
    last, removed = 0, 0
    for number, time in oldest:
        if not (time < before or number <= newest - keep):
            break
        last, removed = number, removed + 1
    if removed:
        txn.execute("DELETE FROM event_key WHERE event_id <= ?", (last,))
        txn.execute("DELETE FROM event WHERE id <= ?", (last,))
    return removed


_COLUMNS = (
    "event.id, event.time, event.kind, event.session, event.peer, event.trace_id, event.message_id, event.detail, "
) + ", ".join(f"event.{name}" for name in TLS_COLUMNS)


def by_trace(txn: Cursor, trace_id: str, *, since: float, limit: int) -> list[Entry]:
    """The events of a message by its trace id, the newest first."""
    return _entries(
        txn.execute(
            f"SELECT {_COLUMNS} FROM event WHERE trace_id = ? AND time >= ? ORDER BY id DESC LIMIT ?",
            (trace_id, since, limit),
        )
    )


def by_peer(txn: Cursor, peer: str, *, since: float, limit: int) -> list[Entry]:
    """The events of a client by its address, the newest first."""
    return _entries(
        txn.execute(
            f"SELECT {_COLUMNS} FROM event WHERE peer = ? AND time >= ? ORDER BY id DESC LIMIT ?", (peer, since, limit)
        )
    )


def by_key(txn: Cursor, key: str, *, since: float, limit: int) -> list[Entry]:
    """The events that can be found under ``key`` (`Event.found_by`), the newest first."""
    return _entries(
        txn.execute(
            f"SELECT {_COLUMNS} FROM event_key JOIN event ON event.id = event_key.event_id"
            " WHERE event_key.key = ? AND event.time >= ? ORDER BY event_key.event_id DESC LIMIT ?",
            (key, since, limit),
        )
    )


def by_session(txn: Cursor, session: int, kinds: Sequence[str], *, limit: int) -> list[Entry]:
    """The events of these kinds in one connection, in the order in which they were written."""
    marks = ", ".join("?" * len(kinds))
    return _entries(
        txn.execute(
            f"SELECT {_COLUMNS} FROM event WHERE session = ? AND kind IN ({marks}) ORDER BY id LIMIT ?",
            (session, *kinds, limit),
        )
    )


def _entries(txn: Cursor) -> list[Entry]:
    return [_entry(row) for row in many(txn)]


def _entry(row: Row) -> Entry:
    number, time, kind, session, peer, trace_id, message_id, detail, *tls = row
    event = event_of(kind, json.loads(detail))
    return Entry(time, event, session, peer, trace_id, message_id, number, _tls_facts(*tls))


def _tls_values(tls: TLSFacts) -> tuple[object, ...]:
    """The columns of a channel."""
    state, subject, issuer, spki, reasons = "not asked", None, None, None, None
    match tls.client:
        case NoCertificate():
            state = "none"
        case Verified():
            state, subject, issuer, spki = "verified", tls.client.subject, tls.client.issuer, tls.client.spki
        case Failed():
            state, subject, issuer, spki = "failed", tls.client.subject, tls.client.issuer, tls.client.spki
            reasons = _encoded(why_failed(tls.client))
        case Resumed():
            state, subject, spki = "resumed", tls.client.subject, tls.client.spki
    return (tls.version, tls.cipher, tls.bits, tls.group, state, subject, issuer, spki, reasons)


def _tls_facts(
    version: str | None,
    cipher: str | None,
    bits: int | None,
    group: str | None,
    state: str | None,
    subject: str | None,
    issuer: str | None,
    spki: str | None,
    reasons: str | None,
) -> TLSFacts | None:
    """What `_tls_values` was made of, as far as it is kept; None for a row without TLS, or of another age."""
    if version is None:
        return None
    client: ClientCertificate = NOT_ASKED
    match state:
        case "none":
            client = NO_CERTIFICATE
        case "verified":
            client = Verified(subject or "", issuer or "", (), spki or "")
        case "failed":
            told = tuple(json.loads(reasons or "[]"))
            client = Failed(told, subject or "", issuer or "", spki=spki or "", brief=told)
        case "resumed":
            client = Resumed(subject or "", spki or "")
    return TLSFacts(version, cipher or "", bits or 0, group, None, client)
