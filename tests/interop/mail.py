"""The messages that are sent through other people's programs."""

from __future__ import annotations

PLAIN_BODY = (
    b"From the first line on, a mailbox file would quote this.\r\n"
    b".\r\n"
    b"..\r\n"
    b".a line that begins with a dot\r\n"
    b"\r\n"
    b"two spaces at the end  \r\n"
    b">From quoted already\r\n"
    b"\ta tab, and an equals sign = 3D\r\n"
    b"\r\n"
    b"the last line\r\n"
)
"""Lines that programs on the way like to change."""

EIGHT_BIT = "Grüße: utf-8 «ä», ".encode() + b"latin-1 \xe4\xf6\xfc, and controls \x01\x7f\r\n"


def message(number: int, address: str, body: bytes = PLAIN_BODY, *, eight_bit: bool = True) -> bytes:
    """A message with CRLF line ends, complete, so that no program has a reason to add a header to it."""
    return (
        (
            f"Date: Fri, 20 Nov 2026 12:00:{number % 60:02} +0000\r\n"
            f"From: Alice <{address}>\r\n"
            f"To: {address}\r\n"
            f"Subject: number {number},\r\n"
            "\tfolded\r\n"
            f"Message-ID: <{number}@client.example.org>\r\n"
            "MIME-Version: 1.0\r\n"
            f"Content-Type: text/plain; charset={'utf-8' if eight_bit else 'us-ascii'}\r\n"
            f"Content-Transfer-Encoding: {'8bit' if eight_bit else '7bit'}\r\n"
            "\r\n"
        ).encode()
        + (EIGHT_BIT if eight_bit else b"")
        + body
    )
