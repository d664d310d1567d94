"""How long messages are for clients that know ASCII headers only, as rows: measured once, when a message is stored.

LIST must say what RETR will send (RFC 1939 section 11, RFC 6856 section 2.1), and to work that out at login would mean
to read every message with eight bits in it.  So the size of the surrogate stands beside the size of the item, and
a session chooses.  A message in ASCII costs nothing here; any other is read once more in the transaction that stores
it, mostly its header only (`mailsvc.mail.surrogate.surrogate_growth`).

The hardest idea: what stands before a message in one maildrop (Return-Path, Delivered-To) has a surrogate of its own.
It is whole fields, so that the two growths add up, and the message is measured once for all who get it.

What was stored before there were surrogates is `UNMEASURED` until a session wants to know.  An upgrade of mailsvc that
changes how messages are downgraded has to make all known sizes `UNMEASURED` again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from mailsvc.mail.surrogate import SMALL_HEADER, Appearance, missing_end, surrogate_growth
from mailsvc.storage.rows import Cursor, many, maybe, one

UNMEASURED = -1

# In two halves, because only then sqlite takes the partial index instead of reading the whole maildrop.
_SHOWN = "SELECT uid, surrogate_size, header_gap FROM mailbox_item WHERE account_id = ? AND surrogate_size"


_ITEM = "SELECT message_id, size, prefix FROM mailbox_item WHERE account_id = ? AND uid = ?"
_DELETED_ITEM = _ITEM.replace("mailbox_item", "deleted_item")


def note_message(txn: Cursor, message_id: int, header: bytes, *, measure: bool) -> None:
    """Note what a message that has just been stored will look like; `measure`: there is something beyond ASCII in it,
    or before it in some maildrop. `header` is part 0 of its content."""
    gap = len(missing_end(header))
    if measure:
        _measure(txn, message_id)
    if gap:
        txn.execute("UPDATE message SET header_gap = ? WHERE id = ?", (gap, message_id))


def of_item(txn: Cursor, message_id: int, prefix: bytes, size: int) -> tuple[int | None, int]:
    """The columns surrogate_size and header_gap of an item that shows a message behind `prefix`, `size` octets in
    all."""
    needed, growth, gap, header_size = one(
        txn.execute(
            "SELECT surrogate_needed, surrogate_growth, header_gap, header_size FROM message WHERE id = ?",
            (message_id,),
        )
    )
    if needed == UNMEASURED:
        return UNMEASURED, gap
    if not prefix.isascii():
        needed = True
        if header_size + len(prefix) <= SMALL_HEADER:
            growth += surrogate_growth([prefix]).octets
        else:
            # So long a header is looked at less closely when something stands before it.
            growth = surrogate_growth(_with_prefix(prefix, _content(txn, message_id))).octets
    return (size + growth if needed else None), gap


def appearances(txn: Cursor, account_id: int) -> dict[int, Appearance]:
    """By uid the items of an account that are not, or not always, shown as they are stored."""
    rows = many(txn.execute(f"{_SHOWN} IS NOT NULL UNION ALL {_SHOWN} IS NULL AND header_gap > 0", (account_id,) * 2))
    return {uid: Appearance(size, gap) for uid, size, gap in rows}


def measured(txn: Cursor, account_id: int, uids: Sequence[int]) -> dict[int, int | None]:
    """What `note_measured` is to write of items that are `UNMEASURED`: by uid the size of the surrogate, if there is
    one, also of those that were deleted meanwhile and can come back; None of those that are gone. Reads their messages,
    writes nothing."""
    found: dict[int, int | None] = {}
    for uid in uids:
        found[uid] = None
        row = maybe(txn.execute(_ITEM, (account_id, uid))) or maybe(txn.execute(_DELETED_ITEM, (account_id, uid)))
        if row is not None:
            message_id, size, prefix = row
            growth = surrogate_growth(_with_prefix(bytes(prefix), _content(txn, message_id)))
            found[uid] = size + growth.octets if growth.needed else None
    return found


def note_measured(txn: Cursor, account_id: int, sizes: Mapping[int, int | None]) -> None:
    """Write down the sizes of surrogates of an account's items."""
    txn.executemany(
        "UPDATE mailbox_item SET surrogate_size = ? WHERE account_id = ? AND uid = ?",
        [(size, account_id, uid) for uid, size in sizes.items()],
    )


def _measure(txn: Cursor, message_id: int) -> None:
    growth = surrogate_growth(_content(txn, message_id))
    if growth.needed or growth.octets:
        txn.execute(
            "UPDATE message SET surrogate_needed = ?, surrogate_growth = ? WHERE id = ?",
            (int(growth.needed), growth.octets, message_id),
        )


def _content(txn: Cursor, message_id: int) -> Iterator[bytes]:
    part = 0
    while row := maybe(
        txn.execute("SELECT data FROM message_content WHERE message_id = ? AND part = ?", (message_id, part))
    ):
        yield bytes(row[0])
        part += 1


def _with_prefix(prefix: bytes, content: Iterable[bytes]) -> Iterator[bytes]:
    for piece in content:
        yield prefix + piece
        prefix = b""
