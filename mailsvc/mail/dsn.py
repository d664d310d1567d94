"""Reports about deliveries, for programs and people (RFC 3464, RFC 3461 section 6, RFC 6533 for addresses in UTF-8).

A report is a message like any other: built here from values, stored by who knows where.  It has three parts: a text
for people, the fields for programs, and the message that it is about, or its header.

The hardest idea: everything in it was chosen by strangers, and it is sent in our name.  So no word of theirs stands
outside a field that was checked (`mailsvc.mail.wishes`) or folded from printable ASCII, what is quoted of their message
is cut at a length, and the boundary around it is a random id that they could not know.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from enum import Enum

from mailsvc.mail.address import Address, AddressError, parse_address
from mailsvc.mail.channel import safe_text

QUOTED_HEADER = 65536
"""So many octets of the header are quoted."""

QUOTED_MESSAGE = 256 * 1024
"""A larger message is never quoted whole, whatever its sender wants: its header is."""

_EIGHT_BIT = "Content-Transfer-Encoding: 8bit\r\n"

_SAID = 900
"""Characters of what a server said: with the name of its field it must fit into a line (RFC 5322 section 2.1.1)."""


@dataclass(frozen=True, slots=True)
class Words:
    """What a report says to people: ``subject``, ``before`` the list of recipients, and ``after`` it."""

    subject: str
    before: str
    after: str = ""


class Action(Enum):
    """What became of a recipient: the Action field (RFC 3464 section 2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"
    RELAYED = "relayed"
    """Another server took it, and does not report."""
    DELIVERED = "delivered"


WORDS = {
    Action.FAILED: Words(
        "Failed: your message could not be delivered",
        "Your message could not be delivered to these recipients, and is not tried any more:",
    ),
    Action.DELAYED: Words(
        "Delayed: your message has not been delivered yet",
        "Your message has not been delivered to these recipients yet:",
        "You need not do anything: it is tried again, and you will be told if that is given up.",
    ),
    Action.RELAYED: Words(
        "Relayed: your message was handed on",
        "As its sender asked to be told: your message was handed to other servers, which do not report deliveries,"
        " for these recipients:",
    ),
    Action.DELIVERED: Words(
        "Delivered: your message has reached its recipients",
        "As its sender asked to be told: your message was delivered into the mailboxes of",
    ),
}

UNRETURNABLE = Words(
    "Undeliverable: a message that cannot go back to its sender",
    "A message could not be delivered to these recipients, and its sender cannot be told: it has none, or nobody here"
    " has the sender's address, or there is no room for a report. You are told as the postmaster of this server:",
)
"""The words for a failure that the postmaster hears of instead of the sender."""


@dataclass(frozen=True, slots=True)
class About:
    """What became of one recipient.

    ``original`` is ORCPT as "type;address".  ``status``: RFC 3463.  ``host``: the server that decided, ``reply`` what
    it said; ``text`` is a sentence for people; all three may be "".  ``tried`` and ``retry_until``: seconds since the
    epoch.
    """

    recipient: Address
    original: str | None = None
    status: str = "2.0.0"
    host: str = ""
    reply: str = ""
    text: str = ""
    tried: float | None = None
    retry_until: float | None = None


@dataclass(frozen=True, slots=True)
class Reported:
    """The message that is reported.

    ``header`` is its header block, ``content`` header and body when the whole message is to be quoted, else None.
    """

    arrived: float
    envelope_id: str | None
    header: bytes = field(repr=False)
    content: bytes | None = field(default=None, repr=False)


def report(
    action: Action,
    about: Sequence[About],
    reported: Reported,
    *,
    to: Address,
    hostname: str,
    trace_id: str,
    now: float,
    words: Words | None = None,
) -> tuple[bytes, bytes]:
    """Header block and body of a report to ``to``; ``words`` for others than those of its action.

    ``trace_id`` is random: nobody who wrote the message can have known it.
    """
    words = words or WORDS[action]
    addresses = [str(each.recipient) for each in about]
    utf8 = not "".join([str(to), *addresses, *(each.original or "" for each in about)]).isascii()
    flavour = "global-" if utf8 else ""
    boundary = f"{trace_id}/{hostname}"
    head = (
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>\r\n"
        f"To: <{to}>\r\n"
        f"Subject: {words.subject}\r\n"
        f"Date: {_date(now)}\r\n"
        f"Message-ID: <{trace_id}@{hostname}>\r\n"
        "Auto-Submitted: auto-replied\r\n"
        "MIME-Version: 1.0\r\n"
        f'Content-Type: multipart/report; report-type={flavour}delivery-status; boundary="{boundary}"\r\n'
    )
    type_of_quoted, quoted = _quoted(reported)
    if utf8 or not quoted.isascii():
        # What is in a part is in the whole (RFC 2045 section 6.4).
        head += _EIGHT_BIT
    envelope = f"Original-Envelope-Id: {reported.envelope_id}\r\n" if reported.envelope_id is not None else ""
    fields = "".join(_fields(action, each) for each in about)
    eight_bit = _EIGHT_BIT if utf8 else ""
    quoted_eight_bit = "" if quoted.isascii() else _EIGHT_BIT
    body = (
        f"--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\n{eight_bit}\r\n"
        f"{_text(action, words, about, hostname)}\r\n"
        f"--{boundary}\r\nContent-Type: message/{flavour}delivery-status\r\n{eight_bit}\r\n"
        f"Reporting-MTA: dns; {hostname}\r\n{envelope}Arrival-Date: {_date(reported.arrived)}\r\n{fields}\r\n"
        f"--{boundary}\r\nContent-Type: {type_of_quoted}\r\n{quoted_eight_bit}\r\n"
    )
    return f"{head}\r\n".encode(), body.encode() + quoted + f"\r\n--{boundary}--\r\n".encode()


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
    """Header block and body of the report that ``delivered`` were reached now; ``header`` is the message's own."""
    about = [About(each.recipient, each.original) for each in delivered]
    reported = Reported(now, envelope_id, header)
    return report(Action.DELIVERED, about, reported, to=to, hostname=hostname, trace_id=trace_id, now=now)


def _text(action: Action, words: Words, about: Sequence[About], hostname: str) -> str:
    lines = [f"This is the mail system of {hostname}.", "", *textwrap.wrap(words.before, 76), ""]
    for each in about:
        lines.append(f"    <{each.recipient}>")
        if action is not Action.DELIVERED and (known := _known_as(each)) is not None:
            lines.append(f"        to whom a message for <{known}> goes on")
        lines += [f"        {line}" for line in _wrapped(each.text, 68)]
        if each.retry_until is not None:
            lines.append(f"        It is tried until {_date(each.retry_until)}.")
    if words.after:
        lines += ["", *textwrap.wrap(words.after, 76)]
    return "".join(f"{line}\r\n" for line in lines)


def _known_as(each: About) -> Address | None:
    """The address that the sender knows, when it is another one."""
    kind, _, text = (each.original or "").partition(";")
    try:
        known = parse_address(text) if kind.lower() in ("rfc822", "utf-8") else None
    except AddressError:
        return None
    return None if known is None or known.key == each.recipient.key else known


def _fields(action: Action, each: About) -> str:
    type_of_original, _, address = (each.original or "").partition(";")
    lines = [f"Original-Recipient: {type_of_original}; {address}"] if each.original else []
    lines += [
        f"Final-Recipient: {'rfc822' if each.recipient.is_ascii else 'utf-8'}; {each.recipient}",
        f"Action: {action.value}",
        f"Status: {each.status}",
    ]
    if each.host:
        lines.append(f"Remote-MTA: dns; {safe_text(each.host, 255)}")
    if each.reply:
        lines.append("\r\n\t".join(_wrapped(f"Diagnostic-Code: smtp; {each.reply}", 76)))
    if each.tried is not None:
        lines.append(f"Last-Attempt-Date: {_date(each.tried)}")
    if each.retry_until is not None:
        lines.append(f"Will-Retry-Until: {_date(each.retry_until)}")
    return "\r\n" + "".join(f"{line}\r\n" for line in lines)


def _quoted(reported: Reported) -> tuple[str, bytes]:
    """The media type of the third part, and its octets."""
    content, header = reported.content, reported.header
    utf8 = not header.isascii() and _is_utf8(header)
    # A NUL may stand in no part of a message (RFC 2045 section 2.8); what is quoted is never larger than this.
    if content is not None and len(content) <= QUOTED_MESSAGE and b"\0" not in content:
        return ("message/global" if utf8 else "message/rfc822"), content
    return ("message/global-headers" if utf8 else "text/rfc822-headers"), _cut(header)


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(safe_text(text, _SAID), width, break_long_words=False, break_on_hyphens=False)


def _date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC))


def _cut(header: bytes) -> bytes:
    if len(header) <= QUOTED_HEADER:
        return header
    end = header.rfind(b"\r\n", 0, QUOTED_HEADER)
    return header[: end + 2] if end >= 0 else b""
