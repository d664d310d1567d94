"""How full a maildrop may be, and what its owner is told shortly before (RFC 3463, X.2.2).

A full maildrop is 452 and not 552: it may be emptied before the sender gives up.  Each account on the way of an alias
counts, and one that is full holds up the message for all: nothing may be dropped for one, and we cannot deliver to
one later on our own.

The hardest idea: a warning that is given "once" needs an end of its validity.  It is given when a delivery passes
nine tenths, and may be given again when the maildrop has been below eight tenths in between, so that somebody who
removes one message a day is not told every day.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

from mailsvc.directory.resolve import Resolution
from mailsvc.mail.reply import Reply, reply

FULL = reply(452, "4.2.2", "The mailbox is full; try again later")


def refusal(found: Resolution, size: int) -> Reply | None:
    """`FULL` when one of the accounts cannot take ``size`` octets (0: unknown, anything at all), else None."""
    if found.is_reserved:
        return None
    wanted = max(size, 1)
    full = any(account.quota is not None and account.used + wanted > account.quota for account in found.accounts)
    return FULL if full else None


def must_warn(before: int, after: int, quota: int, *, warned: bool) -> bool:
    """Whether a delivery that filled a maildrop from ``before`` to ``after`` octets is worth a warning."""
    has_been_emptied = before * 10 < quota * 8
    return after * 10 >= quota * 9 and (has_been_emptied or not warned)


def warning(address: str, used: int, quota: int, *, hostname: str, trace_id: str, now: float) -> tuple[bytes, bytes]:
    """Header block (with its empty line) and body of the warning, whole lines with CRLF."""
    percent = used * 100 // quota
    header = (
        f"Date: {format_datetime(datetime.fromtimestamp(now, UTC))}\r\n"
        f"From: Mail service <postmaster@{hostname}>\r\n"
        f"To: <{address}>\r\n"
        f"Subject: Your mailbox is {percent} % full\r\n"
        f"Message-ID: <{trace_id}@{hostname}>\r\n"
        "Auto-Submitted: auto-generated\r\n"
        "MIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        "Content-Transfer-Encoding: 8bit\r\n"
        "\r\n"
    )
    body = (
        f"The mailbox {address} on {hostname} is {percent} % full:\r\n"
        f"{in_words(used)} of {in_words(quota)} are used.\r\n"
        "\r\n"
        "When it is full, new mail is put off, and returned to its senders after some days.\r\n"
        "Please remove mail that you do not need; mail that a program has fetched may still be there.\r\n"
    )
    return header.encode(), body.encode()


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int | None:
    """The octets that ``500M``, ``1G``, ``1.5 GiB`` or ``1048576`` mean (powers of 1024); None when it is no size."""
    number = text.strip().upper().removesuffix("B").removesuffix("I").strip()
    unit = number[-1:] if number[-1:] in "KMGT" else ""
    digits = number.removesuffix(unit).strip()
    if not digits.isascii() or not digits.replace(".", "", 1).isdigit() or len(digits) > 15:
        return None
    return int(float(digits) * _UNITS[unit])


def in_words(octets: int) -> str:
    """Octets for people, in the unit that fits: ``1.5 GiB``."""
    size = float(octets)
    for unit in ("octets", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"
