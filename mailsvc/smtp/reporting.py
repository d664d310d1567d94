"""What a message's transaction does besides storing it: refuse a loop, keep the sender's wishes, report a delivery.

A report about deliveries (RFC 3461 section 6.2.4) is stored in the transaction of the delivery that it tells of, so
neither can be without the other.  It is for senders that are accounts of ours; for others an event says that there is
no relay to carry it.

The hardest idea: a loop is found by our own handwriting.  A message that comes with the Delivered-To of a maildrop has
been in that maildrop (RFC 9228 section 4), however short the way was that it took.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mailsvc.directory.tables import Pipe
from mailsvc.errors import MailsvcError
from mailsvc.mail.address import Address, AddressError, parse_address
from mailsvc.mail.dsn import Delivered, delivered_report
from mailsvc.mail.envelope import Envelope
from mailsvc.mail.event import Noted
from mailsvc.mail.message import fields_named, summarise
from mailsvc.smtp.trace import delivery_header
from mailsvc.storage import accounts, events, mailboxes, rules
from mailsvc.storage.rows import Cursor

MOST_MAILDROPS = 100
"""A message that has been in more maildrops goes in a circle.  Each is an address to parse, up to a millisecond."""


class MailLoop(MailsvcError):
    """The message has been in these recipients' maildrops before: it says so."""

    def __init__(self, recipients: frozenset[Address]) -> None:
        super().__init__("the message has been delivered to its recipient before")
        self.recipients = recipients


@dataclass(frozen=True, slots=True)
class Report:
    """A report to be made.  ``accounts`` get it (none: its reader is not one of ours); ``new_id`` makes trace ids."""

    accounts: tuple[int, ...]
    hostname: str
    new_id: Callable[[], str]


def wants_report(envelope: Envelope) -> bool:
    """Whether the sender wants to hear of deliveries."""
    return envelope.reverse_path is not None and any(wish.on_success for wish in envelope.wishes.values())


def mailboxes_of(txn: Cursor, deliveries: Mapping[int, Address]) -> dict[int, str]:
    """The address of each account, as its postmaster wrote it.  Raises `mailsvc.errors.NotFound`."""
    return {account_id: accounts.address_of(txn, account_id) for account_id in deliveries}


def check_loop(header: bytes, deliveries: Mapping[int, Address], owners: Mapping[int, str]) -> None:
    """Raise `MailLoop` for the recipients whose maildrop the message has been in; ``owners`` from `mailboxes_of`."""
    before = _been_to(header, frozenset(deliveries.values()))
    again = {deliveries[number] for number, mailbox in owners.items() if before and _key(mailbox.encode()) in before}
    if again:
        raise MailLoop(frozenset(again))


def check_programs_loop(header: bytes, wanted: Mapping[Pipe, Address]) -> None:
    """The same for programs, whose Delivered-To is their alias: one may send what it got to where it came from."""
    before = _been_to(header, frozenset(wanted.values()))
    again = {recipient for pipe, recipient in wanted.items() if pipe.address.key in before}
    if again:
        raise MailLoop(frozenset(again))


def check_forward_loop(header: bytes, recipients: frozenset[Address]) -> None:
    """The same for addresses that lead to other servers: what came round bears the Delivered-To that went with it."""
    before = _been_to(header, recipients) if recipients else set()
    again = {recipient for recipient in recipients if recipient.key in before}
    if again:
        raise MailLoop(frozenset(again))


def _been_to(header: bytes, recipients: frozenset[Address]) -> set[str]:
    values = {value for _, value in fields_named(header, b"delivered-to")}
    if len(values) > MOST_MAILDROPS:
        raise MailLoop(recipients)
    return {key for key in map(_key, values) if key is not None}


def _key(text: bytes) -> str | None:
    """What an address in a header field is compared by; None for what is none."""
    try:
        return parse_address(text.decode("utf-8").strip().removeprefix("<").removesuffix(">")).key
    except (AddressError, UnicodeDecodeError):
        return None


def tls_optional(header: bytes) -> bool:
    """Whether the sender prefers delivery to security (RFC 8689 section 3): exactly one field, exactly "No"."""
    return [value.lower() for _, value in fields_named(header, b"tls-required")] == [b"no"]


def keep_wishes(txn: Cursor, message_id: int, envelope: Envelope) -> None:
    """What the sender wants to hear, for whoever sends the message on."""
    rows = [
        (str(recipient), None if wish.notify is None else ",".join(wish.notify), wish.original)
        for recipient, wish in envelope.wishes.items()
    ]
    if rows:
        mailboxes.note_wishes(txn, message_id, rows)


def store_report(
    txn: Cursor,
    report: Report,
    envelope: Envelope,
    deliveries: Mapping[int, Address],
    header: bytes,
    trace_id: str,
    now: float,
) -> None:
    """Report the deliveries that the sender wants to hear of; ``header`` is the message's own."""
    reached = frozenset(deliveries.values())
    told = [
        Delivered(recipient, wish.original)
        for recipient, wish in envelope.wishes.items()
        if wish.on_success and recipient in reached
    ]
    if not told or envelope.reverse_path is None:
        return
    origin = envelope.origin
    if report.accounts:
        report_id = _store(txn, report, envelope.reverse_path, told, envelope, header, now)
        text = f"a report of the delivery was stored as {report_id}" if report_id else "no room for a report of it"
    else:
        text = f"<{envelope.sender}> wants a report of the delivery, and there is no relay yet that would carry it"
    note = Noted(text, (envelope.sender,))
    events.record(txn, [events.Entry(now, note, origin.session, origin.peer, trace_id)])


def _store(
    txn: Cursor,
    report: Report,
    to: Address,
    told: list[Delivered],
    envelope: Envelope,
    header: bytes,
    now: float,
) -> str:
    """The trace id of the report; "" when nobody has room for it.

    Anybody can make us report to one of our accounts, so that is no way around its quota.
    """
    trace_id = report.new_id()
    head, body = delivered_report(
        told,
        to=to,
        hostname=report.hostname,
        trace_id=trace_id,
        now=now,
        envelope_id=envelope.envelope_id,
        header=header,
    )
    prefixes = {number: delivery_header("", accounts.address_of(txn, number)) for number in report.accounts}
    size = len(head) + len(body)
    readers = [number for number in prefixes if not rules.over_quota(txn, [number], size + len(prefixes[number]))]
    if not readers:
        return ""
    summary = summarise(head, size=size, sha256=hashlib.sha256(head + body).hexdigest())
    new = mailboxes.NewMessage(trace_id, "", now, b"", summary)
    mailboxes.deliver(txn, new, head, [body], readers, prefixes=prefixes, release_at=envelope.release_at)
    return trace_id
