"""Handing messages out: what a session may do with its maildrop once it is open (RFC 1939 section 5 and 7).

A long reply is written in pieces, waiting whenever the client has not read the last ones, so that a session needs no
more memory than a piece, however long a listing or a message is.  Inside a message there is no way to say "error": a
cut connection is the only honest end.
"""

from __future__ import annotations

from collections.abc import Iterator

from mailsvc.errors import TemporaryFailure
from mailsvc.mail.event import LIST_LIMIT
from mailsvc.pop3.connection import Answer, POP3Connection
from mailsvc.pop3.content import MessageGone
from mailsvc.pop3.mailbox import OpenMaildrop
from mailsvc.pop3.maildrop import Maildrop
from mailsvc.pop3.texts import Reply, says
from mailsvc.wire.lines import stuffed


class Handout(POP3Connection):
    """The commands of the TRANSACTION state."""

    @property
    def _maildrop(self) -> OpenMaildrop:
        assert self._open is not None, "the session table lets no command in here before login"
        return self._open

    @property
    def _messages(self) -> Maildrop:
        return self._maildrop.messages

    def do_STAT(self) -> Reply:
        """RFC 1939 section 5."""
        return says("", data=f"{self._messages.count} {self._messages.octets}")

    def do_LIST(self, argument: bytes | None = None) -> Answer:
        """RFC 1939 section 5."""
        messages = self._messages
        if argument is not None:
            number = messages.number(argument)
            return says("", data=f"{number} {messages.size(number)}")
        first = says("maildrop", messages=messages.count, octets=messages.octets)
        return self._list(first, messages.sizes())

    def do_UIDL(self, argument: bytes | None = None) -> Answer:
        """RFC 1939 section 7."""
        messages = self._messages
        if argument is not None:
            number = messages.number(argument)
            return says("", data=f"{number} {messages.item(number).uidl}")
        return self._list(says(""), messages.uidls())

    async def _list(self, first: Reply, blocks: Iterator[str]) -> None:
        # The first line leaves with the first block: short listings are one segment.
        pending = first.line(self._language) + "\r\n"
        for block in blocks:
            self.conversation.write((pending + block).encode("utf-8"))
            pending = ""
            await self.conversation.drained()
        self._write(pending + ".")

    def do_RETR(self, argument: bytes) -> Answer:
        """RFC 1939 section 5: the octets that were stored, with dots stuffed."""
        number = self._messages.number(argument)
        return self._send(number, says("octets", octets=self._messages.size(number)), None)

    def do_TOP(self, argument: bytes, lines: bytes) -> Answer:
        """RFC 1939 section 7: the header, the empty line, and so many lines of the body."""
        number = self._messages.number(argument)
        if not (lines.isdigit() and len(lines) <= 10):
            return says("lines_needed")
        return self._send(number, says("top"), int(lines))

    async def _send(self, number: int, first: Reply, body_lines: int | None) -> Reply | None:
        """Write message ``number`` whole, or its header and ``body_lines`` lines of its body."""
        begun = False
        at_line_start = True
        try:
            if self._rules.refuse_utf8 and await self._maildrop.needs_utf8(number):
                return says("needs_utf8")
            async for piece in self._maildrop.content(number):
                if begun and body_lines is not None:
                    piece, body_lines = _first_lines(piece, body_lines)
                octets = stuffed(piece, at_line_start)
                # One write for the status line and the header: small messages leave in one segment.
                self.conversation.write(octets if begun else self._octets(first) + octets)
                begun = True
                at_line_start = piece.endswith(b"\n") if piece else at_line_start
                await self.conversation.drained()
                if body_lines == 0:
                    break
        except TemporaryFailure as error:
            self._journal.unavailable("reading a message", error)
            if not begun:
                return says("gone") if isinstance(error, MessageGone) else says("unread")
            # Inside a message there is no way to say "error": a cut connection is the only honest end.
            self.conversation.abort()
            return None
        self.conversation.write(b".\r\n" if at_line_start else b"\r\n.\r\n")
        if body_lines is None:
            self._retrieved += 1
            self._maildrop.fetched(number)
            if len(self._fetched) < LIST_LIMIT:
                self._fetched.append(self._messages.message_id(number))
        return None

    def do_DELE(self, argument: bytes) -> Reply:
        """RFC 1939 section 5."""
        number = self._messages.number(argument)
        self._messages.delete(number)
        return says("message_deleted", number=number)

    def do_RSET(self) -> Reply:
        """RFC 1939 section 5."""
        self._messages.reset()
        return says("maildrop", messages=self._messages.count, octets=self._messages.octets)

    def do_NOOP(self) -> Reply:
        """RFC 1939 section 5."""
        return says("")


def _first_lines(piece: bytes, lines: int) -> tuple[bytes, int]:
    """The first ``lines`` lines of ``piece``, and how many of them are still missing."""
    end = 0
    while lines:
        found = piece.find(b"\n", end)
        if found < 0:
            return piece, lines
        end = found + 1
        lines -= 1
    return piece[:end], 0
