"""Names in a Maildir: what they tell of a message, and how ours are made (https://cr.yp.to/proto/maildir.html).

A file's name is a unique part and, behind a colon, flags that change as the message is read: ``1700000000.M1P2.host``
and ``:2,S``.  The unique part never changes, wherever the Maildir is copied, so it is what tells one message from
another.  Reading and writing the files is `mailsvc.mailbox.reading` and `writing`.

The hardest idea is that our names must come out the same in each run, so that an export which was stopped finds what
it has written already.  So they are made of the message alone: when it was received, its uid, and a digest of whose it
is and its unique-id, which no two messages share.
"""

from __future__ import annotations

import re
from hashlib import sha256

from mailsvc.errors import MailsvcError

_TIME = re.compile(rb"(\d{9,11})\.")
_OURS = re.compile(rb"\d+\.U\d+I[0-9a-f]{24}\.mailsvc(?:,S=\d+,W=\d+)?\Z")


def unique_part(name: bytes) -> bytes:
    """A file's name without its flags."""
    return name.partition(b":")[0]


def delivered_at(name: bytes) -> float | None:
    """When the message was delivered, by its name, in seconds since the epoch; None when it does not say so."""
    found = _TIME.match(name)
    return float(found[1]) if found else None


def source_key(folder: str, name: bytes) -> str:
    """What makes a message one in its Maildir, as hex; `folder` is "" for the inbox."""
    return sha256(b"maildir\0" + folder.encode("utf-8", "surrogateescape") + b"\0" + unique_part(name)).hexdigest()


def folder_name(text: str) -> str:
    """The folder (Maildir++) that `text` names, as its directory is called without the dot before it; MailsvcError."""
    name = text.strip().removeprefix(".").replace("/", ".")
    if not name or "\0" in name or ".." in f".{name}.":
        raise MailsvcError(f"{text!r} is no folder of a Maildir; say its name, like Archive or Lists.2024")
    return name


def stem(address: str, received_at: float, uid: int, uidl: str) -> str:
    """The beginning of the name of an exported message, the same each time; no other message has it."""
    digest = sha256(f"{address}\0{uidl}".encode()).hexdigest()[:24]
    return f"{max(0, int(received_at))}.U{uid}I{digest}.mailsvc"


def sized(beginning: str, octets: int, virtual: int) -> str:
    """The whole unique part: with the octets of the file, and with those that it has with CRLF (Dovecot reads both)."""
    return f"{beginning},S={octets},W={virtual}"


def beginning_of(name: bytes) -> bytes:
    """What `stem` gave, of a name that `sized` made; any other name's unique part."""
    return unique_part(name).partition(b",")[0]


def is_ours(name: bytes) -> bool:
    """Whether an export of mailsvc has given this name."""
    return _OURS.match(unique_part(name)) is not None
