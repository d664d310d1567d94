"""Content as DATA and BDAT carry it: dots stuffed (RFC 5321 section 4.5.2), line ends proven (section 2.3.8).

Pure; in pieces of any size, and what comes out does not depend on how they were cut.

The hardest idea: the end of a message must not be sayable from inside it.  A dot is doubled at each beginning of a
line, also when the CRLF before it came in another piece; and a CR or LF that stands alone is never sent, because some
server may take ``LF . LF`` for the end and what follows for commands of ours (SMTP smuggling).  Mail that was taken in
over SMTP has none; the check is for everything else, and for the day when that changes.
"""

from __future__ import annotations

from mailsvc.errors import MailsvcError


class Unsendable(MailsvcError):
    """The message cannot be sent to this server, or to any; ``enhanced`` is the status code (RFC 3463)."""

    def __init__(self, why: str, enhanced: str) -> None:
        super().__init__(why)
        self.enhanced = enhanced


class Straight:
    """Content as it is, for BDAT; with a CRLF at its end."""

    def __init__(self) -> None:
        self._held = b""
        self._at_line_start = True

    def feed(self, piece: bytes) -> bytes:
        """What to send of ``piece``.  Raises `Unsendable`."""
        data = self._held + piece
        # A CR at the end of a piece waits for its LF.
        self._held = b"\r" if data.endswith(b"\r") else b""
        data = data[: len(data) - len(self._held)]
        if not data:
            return b""
        pairs = data.count(b"\r\n")
        if data.count(b"\n") != pairs or data.count(b"\r") != pairs:
            raise Unsendable("the message has a line end that is not CRLF, which no server may be sent", "5.6.0")
        made = self._made(data)
        self._at_line_start = data.endswith(b"\n")
        return made

    def end(self) -> bytes:
        """What is to be sent behind the last piece.  Raises `Unsendable`."""
        if self._held:
            raise Unsendable("the message ends in a CR alone, which no server may be sent", "5.6.0")
        return b"" if self._at_line_start else b"\r\n"

    def _made(self, data: bytes) -> bytes:
        return data


class Dotted(Straight):
    """Content for DATA; its end is the line with the dot."""

    def end(self) -> bytes:
        """The end of the content.  Raises `Unsendable`."""
        return super().end() + b".\r\n"

    def _made(self, data: bytes) -> bytes:
        stuffed = data.replace(b"\r\n.", b"\r\n..")
        return b"." + stuffed if self._at_line_start and data.startswith(b".") else stuffed
