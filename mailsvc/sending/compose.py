"""A message made from a subject, a text and files, with the headers that belong to it (RFC 5322, RFC 2045).

Pure: what the files hold, the time and the Message-ID are arguments.  The email package does the encoding; what it
cannot know is decided here.

The hardest idea is how little may depend on the receiver.  The text goes out as quoted-printable or base64 when it is
not ASCII, so that no server on the way needs 8BITMIME, and an attachment always in base64, so that nobody touches its
line ends.  Only an address beyond ASCII needs more, because it has no other form (RFC 6531).
"""

from __future__ import annotations

import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8

from mailsvc.mail.address import Address
from mailsvc.sending.header import MessageError, mailbox, one_line

TEXT_LINE = 998


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that goes along.  ``name``: as the receiver sees it, without folders."""

    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Draft:
    """What a message is made from; ``to`` and ``cc`` stand in its header, whoever else gets it."""

    sender: Address
    to: Sequence[Address]
    subject: str = ""
    text: str = ""
    cc: Sequence[Address] = ()
    name: str = ""
    attachments: Sequence[Attachment] = ()


def composed(draft: Draft, *, date: str, message_id: str) -> bytes:
    """The message, with CRLF.  ``date`` and ``message_id`` as the fields have them.  Raises `MessageError`."""
    everybody = (draft.sender, *draft.to, *draft.cc)
    policy = SMTP if all(each.is_ascii for each in everybody) else SMTPUTF8
    message = EmailMessage(policy=policy)
    message["From"] = mailbox(draft.sender, draft.name)
    for field_name, addresses in (("To", draft.to), ("Cc", draft.cc)):
        if addresses:
            message[field_name] = ", ".join(map(str, addresses))
    if not draft.to and not draft.cc:
        message["To"] = "undisclosed-recipients:;"
    message["Subject"] = one_line(draft.subject, "the subject")
    message["Date"] = date
    message["Message-ID"] = message_id
    try:
        message.set_content(draft.text, charset="utf-8", cte=_encoding(draft.text))
    except UnicodeEncodeError:
        raise MessageError("the text is not UTF-8") from None
    for attachment in draft.attachments:
        maintype, subtype = _type(attachment.name)
        name = one_line(attachment.name, "the name of an attachment")
        message.add_attachment(attachment.data, maintype=maintype, subtype=subtype, filename=name, cte="base64")
    return message.as_bytes()


def _encoding(text: str) -> str:
    if text.isascii() and all(len(line) <= TEXT_LINE for line in text.splitlines()):
        return "7bit"
    beyond = sum(not char.isascii() for char in text)
    return "base64" if beyond * 3 > len(text) else "quoted-printable"


def _type(name: str) -> tuple[str, str]:
    found, encoding = mimetypes.guess_type(name, strict=True)
    # A message or a multipart may not be in base64 (RFC 2046 section 5.2.1); compressed is not what its name says.
    if found is None or encoding is not None or found.startswith(("message/", "multipart/")):
        return "application", "octet-stream"
    maintype, _, subtype = found.partition("/")
    return maintype, subtype
