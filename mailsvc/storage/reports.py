"""Reports as rows: who gets one, and storing it, in the transaction in which what it tells of becomes true.

Who gets the report is where its reader's address leads (`mailsvc.storage.forwarding.led`): accounts of ours have it in
their maildrops, others get it from the queue, with the null sender, because nobody answers a report (RFC 3461 section
6.1).  A program gets none: it cannot be run in a transaction.  Whether there is a report is the caller's decision, what
stands in it is `mailsvc.mail.dsn`.

The hardest idea: a stranger can make us report to one of our accounts, by naming it as the sender.  So a report is held
to the account's quota, unless the caller says that its reader has a right to it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from mailsvc.mail.address import Address
from mailsvc.mail.event import Noted
from mailsvc.mail.message import summarise
from mailsvc.smtp.trace import delivery_header
from mailsvc.storage import accounts, events, mailboxes, outbound, rules
from mailsvc.storage.forwarding import led
from mailsvc.storage.rows import Cursor


@dataclass(frozen=True, slots=True)
class Readers:
    """Who gets a report: accounts by their row ids, and addresses elsewhere."""

    accounts: tuple[int, ...] = ()
    remotes: tuple[Address, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.accounts or self.remotes)


def readers(txn: Cursor, address: Address, hostname: str, now: float) -> Readers:
    """Who reads what goes to ``address``; nobody when it is one of ours that leads nowhere."""
    found = led(txn, address, hostname=hostname, now=now)
    return Readers(tuple(account.id for account in found.accounts), found.remotes)


def with_room(txn: Cursor, who: Readers, octets: int) -> Readers:
    """Those whose quota allows so many octets more."""
    return replace(who, accounts=tuple(each for each in who.accounts if not rules.over_quota(txn, [each], octets)))


def store(
    txn: Cursor,
    header: bytes,
    body: bytes,
    who: Readers,
    *,
    trace_id: str,
    now: float,
    what: str,
    notify: str | None = None,
    release_at: float | None = None,
) -> None:
    """Store a report for its readers; ``what`` it is, in words for ``mailsvc why``.

    ``notify``: the words of NOTIFY for those elsewhere.  ``release_at``: nobody sees it before.
    """
    if not who:
        return
    size = len(header) + len(body)
    summary = summarise(header, size=size, sha256=hashlib.sha256(header + body).hexdigest())
    eight_bit = not (header.isascii() and body.isascii())
    # The header holds nothing of anybody but its reader's address, which then can only be told with SMTPUTF8.
    new = mailboxes.NewMessage(trace_id, "", now, b"", summary, smtputf8=not header.isascii(), body_8bit=eight_bit)
    names = {number: accounts.address_of(txn, number) for number in who.accounts}
    message_id = mailboxes.deliver(
        txn,
        new,
        header,
        [body[at : at + mailboxes.PART_LIMIT] for at in range(0, len(body), mailboxes.PART_LIMIT)],
        who.accounts,
        prefixes={number: delivery_header("", name) for number, name in names.items()},
        release_at=release_at,
    )
    rows = [outbound.NewOutbound(str(remote), "", notify=notify, release_at=release_at) for remote in who.remotes]
    outbound.enqueue(txn, message_id, rows, now)
    notes = [Noted(f"{what}, stored for {name}", (name,)) for name in names.values()]
    notes += [Noted(f"{what}, goes out to {remote}", (str(remote),)) for remote in who.remotes]
    events.record(txn, [events.Entry(now, note, trace_id=trace_id, message_id=message_id) for note in notes])
