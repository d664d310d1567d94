"""Reports about deliveries, for programs and people (RFC 3464, RFC 3461 section 6, RFC 6533 for addresses in UTF-8).

A report is a message like any other: built here from values, stored by who knows where.  It has three parts: a text
for people, the fields for programs, and the header of the message that it is about.

The hardest idea: everything in it was chosen by strangers, and it is sent in our name.  So no word of theirs stands
outside a field that was checked (`mailsvc.mail.wishes`), and what is quoted of their message is cut at a length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

from mailsvc.mail.address import Address

_QUOTED = 65536
"""So many octets of the header are quoted."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """A recipient that was reached; ``original`` is ORCPT as "type;address", or None."""

    recipient: Address
    original: str | None


def delivered_report(
    delivered: Sequence[Delivered],
    *,
    to: Address,
    hostname: str,
    trace_id: str,
    now: float,
    envelope_id: str | None,
    header: bytes,
) -> tuple[bytes, bytes]:
    """Header block and body of the report that ``delivered`` were reached; ``header`` is the message's own."""
    quoted = _cut(header)
    addresses = [str(each.recipient) for each in delivered]
    utf8 = not "".join([str(to), *addresses, *(each.original or "" for each in delivered)]).isascii()
    kind = "global-" if utf8 else ""
    boundary = f"{trace_id}/{hostname}"
    date = format_datetime(datetime.fromtimestamp(now, UTC))
    head = (
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>\r\n"
        f"To: <{to}>\r\n"
        "Subject: Delivered: your message has reached its recipients\r\n"
        f"Date: {date}\r\n"
        f"Message-ID: <{trace_id}@{hostname}>\r\n"
        "Auto-Submitted: auto-replied\r\n"
        "MIME-Version: 1.0\r\n"
        f'Content-Type: multipart/report; report-type={kind}delivery-status; boundary="{boundary}"\r\n'
        "\r\n"
    )
    text = "".join(f"    <{address}>\r\n" for address in addresses)
    envelope = f"Original-Envelope-Id: {envelope_id}\r\n" if envelope_id is not None else ""
    fields = "".join(_recipient_fields(each) for each in delivered)
    eight_bit = "" if quoted.isascii() else "Content-Transfer-Encoding: 8bit\r\n"
    status_eight_bit = "Content-Transfer-Encoding: 8bit\r\n" if utf8 else ""
    body = (
        f"--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\n{status_eight_bit}\r\n"
        f"This is the mail system of {hostname}. As its sender asked to be told:\r\n"
        f"your message was delivered into the mailboxes of\r\n\r\n{text}\r\n"
        f"--{boundary}\r\nContent-Type: message/{kind}delivery-status\r\n{status_eight_bit}\r\n"
        f"Reporting-MTA: dns; {hostname}\r\n{envelope}Arrival-Date: {date}\r\n{fields}\r\n"
        f"--{boundary}\r\nContent-Type: text/rfc822-headers\r\n{eight_bit}\r\n"
    )
    return head.encode(), body.encode() + quoted + f"\r\n--{boundary}--\r\n".encode()


def _recipient_fields(each: Delivered) -> str:
    kind, _, address = (each.original or "").partition(";")
    original = f"Original-Recipient: {kind}; {address}\r\n" if each.original else ""
    final = "rfc822" if each.recipient.is_ascii else "utf-8"
    return f"\r\n{original}Final-Recipient: {final}; {each.recipient}\r\nAction: delivered\r\nStatus: 2.0.0\r\n"


def _cut(header: bytes) -> bytes:
    if len(header) <= _QUOTED:
        return header
    end = header.rfind(b"\r\n", 0, _QUOTED)
    return header[: end + 2] if end >= 0 else b""
