"""The connection that mail goes out by: a `Channel` that also carries several lines at once, and content.

Why beside `mailsvc.relay.channel`: a probe asks one question at a time, a relay pipelines (RFC 2920), writes in UTF-8
(RFC 6531) and sends megabytes.  What is said and what answers mean is `mailsvc.relay.opening`'s and
`mailsvc.relay.delivery`'s.

The hardest idea is the server that talks while it should listen.  Before a group of commands nothing may be unread, as
for a single one; between the replies of the group more of them may lie here, because they were asked for.  And while
content is sent a reply is neither: it is given out at once (`early_reply`), so that no megabytes follow a refusal and
no "250" counts that was said before the end.
"""

from __future__ import annotations

from twisted.internet.interfaces import IPushProducer, IReactorTime
from zope.interface import implementer

from mailsvc.relay.channel import Channel, NotUnderstood
from mailsvc.relay.outgoing import CLIENT, MASK, NOTE, SERVER, Record
from mailsvc.relay.replies import Dialect, PeerReply, ReplyError


@implementer(IPushProducer)
class Stream(Channel):
    """A connection to a mail server; what is said is noted in ``record``."""

    def __init__(self, clock: IReactorTime, record: Record) -> None:
        super().__init__(Dialect.SMTP, clock)
        self._record = record
        self._sending = False
        self._full = False

    @property
    def is_quiet(self) -> bool:
        """Whether the connection stands and nothing is unread, so that a command may be said."""
        return self._lost is None and self._garbage is None and not self._reader.unread

    def say_all(self, lines: list[tuple[str, str]]) -> None:
        """Send lines, each with what is noted of it, in one write.  Raises `SpokeTooEarly`."""
        for _, shown in lines:
            self._record.add(CLIENT, shown)
        self._nothing_unread(f"before it was asked {lines[0][1].partition(' ')[0]}")
        self._tcp.write("".join(f"{line}\r\n" for line, _ in lines).encode("utf-8"))

    async def hear(self, seconds: float, what: str) -> PeerReply:
        """The next reply.  Raises `ChannelFailure`."""
        reply = self._ready_reply()
        if reply is None:
            reply = await self.reply(seconds, what)
        self._note(reply)
        return reply

    def early_reply(self) -> PeerReply | None:
        """A reply that has come although none was asked for; None when there is none.  Raises `ChannelFailure`."""
        reply = self._ready_reply()
        if reply is not None:
            self._note(reply)
        return reply

    async def send(self, data: bytes, seconds: float, *, wait: bool = True) -> None:
        """Send octets of the content.  ``wait``: until the server has taken most of them, ``seconds`` at most, or says
        something.  Raises `ChannelFailure`.
        """
        self._complain("taking the content", seconds, expired=False)
        if not self._sending:
            self._sending = True
            self._tcp.registerProducer(self, True)
        self._tcp.write(data)
        if wait and self._full:
            await self._until(
                lambda: True if not self._full or self._reader.unread else None, seconds, "taking the content"
            )

    def end_of_content(self) -> None:
        """No content follows for now."""
        if self._sending:
            self._sending = self._full = False
            if self._lost is None:
                self._tcp.unregisterProducer()

    def remark(self, text: str) -> None:
        """A line of ours for the record."""
        self._record.add(NOTE, text)

    # -- IPushProducer

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        self._full = True

    def resumeProducing(self) -> None:
        """It has room again."""
        self._full = False
        self._wake()

    def stopProducing(self) -> None:
        """The transport is gone; connectionLost does what is to be done."""

    # -- within

    def _ready_reply(self) -> PeerReply | None:
        try:
            return None if self._garbage is not None else self._reader.next_reply()
        except ReplyError as error:
            self._garbage = error
            self.abort()
            raise NotUnderstood(str(error)) from error

    def _note(self, reply: PeerReply) -> None:
        # Salt, nonce and the server's signature of SCRAM let whoever reads them try passwords (RFC 5802 section 9).
        lines = [MASK] if reply.code == 334 else reply.lines
        for line in lines[:-1]:
            self._record.add(SERVER, f"{reply.code}-{line}")
        self._record.add(SERVER, f"{reply.code} {lines[-1]}")
