"""What a message's transaction does besides storing it: refuse a loop, keep the sender's wishes, report a delivery.

A report about deliveries (RFC 3461 section 6.2.4) is stored in the transaction of the delivery that it tells of, so
neither can be without the other.  What becomes of mail that goes out is reported by `mailsvc.relay.bounces`.

The hardest idea: a loop is found by our own handwriting.  A message that comes with the Delivered-To of a maildrop has
been in that maildrop (RFC 9228 section 4), however short the way was that it took.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mailsvc.directory.tables import Pipe
from mailsvc.errors import MailsvcError
from mailsvc.mail.address import Address, AddressError, parse_address
from mailsvc.mail.dsn import Delivered, delivered_report
from mailsvc.mail.envelope import Envelope
from mailsvc.mail.event import Noted
from mailsvc.mail.message import fields_named
from mailsvc.storage import accounts, events, mailboxes, reports
from mailsvc.storage.rows import Cursor

MOST_MAILDROPS = 100
"""A message that has been in more maildrops goes in a circle.  Each is an address to parse, up to a millisecond."""


class MailLoop(MailsvcError):
    """The message has been in these recipients' maildrops before: it says so."""

    def __init__(self, recipients: frozenset[Address]) -> None:
        super().__init__("the message has been delivered to its recipient before")
        self.recipients = recipients


@dataclass(frozen=True, slots=True)
class Reporter:
    """Who reports: the server ``hostname``; ``new_id`` makes trace ids."""

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
    reporter: Reporter,
    envelope: Envelope,
    deliveries: Mapping[int, Address],
    header: bytes,
    trace_id: str,
    now: float,
) -> None:
    """Report the deliveries that the sender wants to hear of; ``header`` is the message's own."""
    sender, reached = envelope.reverse_path, frozenset(deliveries.values())
    told = [
        Delivered(recipient, wish.original)
        for recipient, wish in envelope.wishes.items()
        if wish.on_success and recipient in reached
    ]
    if not told or sender is None:
        return
    report_id = reporter.new_id()
    head, body = delivered_report(
        told,
        to=sender,
        hostname=reporter.hostname,
        trace_id=report_id,
        now=now,
        envelope_id=envelope.envelope_id,
        header=header,
    )
    # Anybody can make us report to one of our accounts, so that is no way around its quota.
    who = reports.readers(txn, sender, reporter.hostname, now)
    with_room = reports.with_room(txn, who, len(head) + len(body))
    what = f"a report that {trace_id} was delivered"
    reports.store(txn, head, body, with_room, trace_id=report_id, now=now, what=what, release_at=envelope.release_at)
    if with_room:
        text = f"<{sender}> is told of the delivery, by {report_id}"
    else:
        text = "no room for a report of the delivery" if who else f"no report of the delivery: nobody is {sender} here"
    origin = envelope.origin
    note = Noted(text, (envelope.sender,))
    events.record(txn, [events.Entry(now, note, origin.session, origin.peer, trace_id)])
