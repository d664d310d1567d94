"""The trace header that we add: Received to the message (RFC 5321 section 4.4, RFC 3848, RFC 6531 section 4.3), and
Return-Path and Delivered-To to what lies in a maildrop (RFC 5321 section 4.4, RFC 9228).

It says only what this server saw itself.  The HELO name is the client's claim and stands where RFC 5321 puts claims;
the address beside it is what the connection showed; the TLS clause is what the handshake negotiated.  No version of
this software is told to the world.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime
from email.utils import format_datetime

from mailsvc.mail.channel import TLSFacts, certificate_parts
from mailsvc.mail.envelope import Envelope
from mailsvc.smtp.session import Session

_FOLD = 76
"""Characters of a line, where it can be folded."""


def trace_header(envelope: Envelope, *, hostname: str, trace_id: str, now: float) -> bytes:
    """The Received field for ``envelope``, CRLF included, each line below 998 octets."""
    origin = envelope.origin
    # With one recipient "for" helps to find the way of a message; with several it would tell each about the others.
    recipient = f"\r\n\tfor <{envelope.recipients[0]}>" if len(envelope.recipients) == 1 else ""
    tls = f"\r\n\t{tls_clause(origin.tls)}" if origin.tls is not None else ""
    return (
        f"Received: from {origin.helo} ({peer_literal(origin.peer)})\r\n"
        f"\tby {hostname} with {origin.protocol}{tls}\r\n"
        f"\tid {trace_id}{recipient};\r\n"
        f"\t{format_datetime(datetime.fromtimestamp(now, UTC))}\r\n"
    ).encode()


def tls_clause(tls: TLSFacts) -> str:
    """What is known of the channel and of the client's certificate, as one comment, folded."""
    group = f", group {tls.group}" if tls.group else ""
    lines = [f"(using {tls.version} with cipher {tls.cipher} ({tls.bits} bits){group};", "client certificate:"]
    for part in map(_in_comment, certificate_parts(tls.client)):
        # A name may have 200 characters, twice as many when they are quoted: it gets a line of its own.
        if len(lines[-1]) + len(part) < _FOLD:
            lines[-1] += f" {part}"
        else:
            lines.append(part)
    return "\r\n\t".join(lines) + ")"


def _in_comment(text: str) -> str:
    """Printable ASCII as a part of a comment (RFC 5322 section 3.2.2): whose certificate it is must not end it."""
    return re.sub(r"([()\\])", r"\\\1", text)


def peer_literal(peer: str) -> str:
    """The client's address as an address literal (RFC 5321 section 4.1.3), or the word it is known by."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    return f"[{address}]" if address.version == 4 else f"[IPv6:{address}]"


def protocol_keyword(session: Session, *, utf8: bool = False) -> str:
    """The word for the "with" clause (RFC 3848): ESMTP or LMTP, with S for TLS and A for AUTH.

    ``utf8``: the transaction is an SMTPUTF8 one (RFC 6531 section 4.3).
    """
    if not session.esmtp:
        # RFC 3848 registers no secured plain SMTP; the TLS clause tells.
        return "SMTP"
    secured, authenticated = "S" if session.secured else "", "A" if session.login is not None else ""
    base = "LMTP" if session.mode.lmtp else "ESMTP"
    return f"UTF8{base.removeprefix('E')}{secured}{authenticated}" if utf8 else f"{base}{secured}{authenticated}"


def delivery_header(sender: str, mailbox: str) -> bytes:
    """What stands on top in one maildrop: who sent it, and whose maildrop it is."""
    return f"Return-Path: <{sender}>\r\nDelivered-To: {mailbox}\r\n".encode()
