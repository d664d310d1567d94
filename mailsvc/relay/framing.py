"""Content as DATA and BDAT carry it: dots stuffed (RFC 5321 section 4.5.2), line ends proven (section 2.3.8).

Pure; in pieces of any size, and what comes out does not depend on how they were cut.

The hardest idea: the end of a message must not be sayable from inside it.  A dot is doubled at each beginning of a
line, also when the CRLF before it came in another piece; and a CR or LF that stands alone is never sent, because some
server may take ``LF . LF`` for the end and what follows for commands of ours (SMTP smuggling).  Mail that was taken in
over SMTP has none; the check is for everything else, and for the day when that changes.

The second idea is what each octet costs, because a megabyte was half of the work of sending it.  Counting CR LF pairs
looks at each octet twice; Python's decoder of universal newlines notes in one pass which line ends there are, at a
quarter of the price.  And dots are searched, not lines: a piece of base64 has none.
"""

from __future__ import annotations

from io import IncrementalNewlineDecoder

from mailsvc.errors import MailsvcError

_OCTETS_A_DOT = 256
"""With more dots than one in so many octets, it is cheaper to search beginnings of lines than single dots."""


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
        self._line_ends = IncrementalNewlineDecoder(None, translate=False)

    def feed(self, piece: bytes) -> bytes:
        """What to send of ``piece``.  Raises `Unsendable`."""
        # Latin-1 is octet for octet.  What the decoder keeps back is the CR that is held here.
        self._line_ends.decode(piece.decode("latin-1"))
        if self._line_ends.newlines not in (None, "\r\n"):
            raise Unsendable("the message has a line end that is not CRLF, which no server may be sent", "5.6.0")
        data = self._held + piece if self._held else piece
        # A CR at the end of a piece waits for its LF.
        self._held = b"\r" if data.endswith(b"\r") else b""
        if self._held:
            data = data[:-1]
        if not data:
            return b""
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
        """``data``, whose lines end in CRLF, with its dots doubled."""
        made: list[bytes] = []
        done, dot = 0, data.find(b".")
        for _ in range(len(data) // _OCTETS_A_DOT + 1):
            if dot < 0:
                break
            if data[dot - 1] == 0x0A if dot else self._at_line_start:
                made += data[done:dot], b"."
                done = dot
            dot = data.find(b".", dot + 1)
        if dot >= 0:
            # What begins at ``done`` is no beginning of a line, or a dot that has been doubled.
            made.append(b"\r\n..".join(data[done:].split(b"\r\n.")))
        elif made:
            made.append(data[done:])
        else:
            return data
        return b"".join(made)
