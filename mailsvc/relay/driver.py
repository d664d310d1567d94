"""Doing what the generators of `mailsvc.relay.dialogue` want, on a `Stream`.

The hardest idea: whatever can go wrong outside becomes a sentence inside.  A lost connection, a clock, a certificate, a
content that cannot be read, being cancelled: each is said into the generator, which alone knows what it means for whom.
Once it is `Broken` the connection is cut, so that nothing that follows can reach the server.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from OpenSSL import SSL
from twisted.internet.defer import CancelledError

from mailsvc.errors import TemporaryFailure
from mailsvc.relay import channel
from mailsvc.relay.dialogue import (
    CHUNK,
    BeginTLS,
    Broken,
    Early,
    Hear,
    LookThrough,
    Octets,
    OpenContent,
    Piece,
    Remark,
    Say,
    Secured,
    Steps,
)
from mailsvc.relay.eightbit import Converter, Survey, Surveyor
from mailsvc.relay.framing import Unsendable
from mailsvc.relay.outcome import Phase
from mailsvc.relay.outgoing import Outgoing, Timeouts
from mailsvc.relay.stream import Stream
from mailsvc.tls.client import Destination, ServerRefused
from mailsvc.tls.verify import HandshakeRefused

T = TypeVar("T")

CANCELLED = "mailsvc has ended the conversation"


class Driver:
    """Does what a generator of `mailsvc.relay.dialogue` wants."""

    def __init__(self, stream: Stream, destination: Callable[[], Destination], timeouts: Timeouts) -> None:
        self.stream = stream
        self._destination = destination
        self._timeouts = timeouts
        self._source: _Source | None = None
        self._outgoing: Outgoing | None = None

    async def run(self, steps: Steps[T], outgoing: Outgoing | None = None) -> T:
        """What the generator returns; raises what it raises."""
        self._outgoing = outgoing
        answer: Any = None
        error: Exception | None = None
        try:
            while True:
                try:
                    want = steps.send(answer) if error is None else steps.throw(error)
                except StopIteration as done:
                    found: T = done.value
                    return found
                answer, error = None, None
                try:
                    answer = await self._fulfil(want)
                except (Broken, Early, Unsendable) as said:
                    error = said
                except CancelledError:
                    error = Broken(CANCELLED, cancelled=True)
                except (channel.ChannelFailure, HandshakeRefused) as failure:
                    error = _broken(failure)
                    error.__cause__ = failure  # for who wants to know what the server has shown
                if isinstance(error, Broken):
                    self.stream.abort()
        finally:
            self.stream.end_of_content()
            source, self._source = self._source, None
            if source is not None:
                await source.close()

    async def _fulfil(self, want: Any) -> Any:
        match want:
            case Hear():
                return await self.stream.hear(want.seconds, _AWAITED[want.phase])
            case Say():
                self.stream.end_of_content()
                self.stream.say_all([(each.text, each.shown or each.text) for each in want.lines])
            case Octets():
                if want.quiet and (reply := self.stream.early_reply()) is not None:
                    raise Early(reply)
                if want.data:
                    await self.stream.send(want.data, self._timeouts.block, wait=not want.last)
                if want.last:
                    self.stream.end_of_content()
            case OpenContent():
                if self._source is not None:
                    await self._source.close()
                self._source = _Source(self._content(), want.survey)
            case Piece() if self._source is not None:
                return await self._source.take()
            case LookThrough():
                return await _surveyed(self._content())
            case BeginTLS():
                return await self._secured()
            case Remark():
                self.stream.remark(want.text)
            case _:
                raise TypeError(f"nobody can fulfil {want!r}")

    def _content(self) -> AsyncIterator[bytes]:
        if self._outgoing is None:
            raise TypeError("there is no message")
        return self._outgoing.content()

    async def _secured(self) -> Secured:
        identity = await self.stream.start_tls(self._destination(), self._timeouts.handshake)
        self.stream.remark(f"{identity.version} {identity.cipher}: {identity.level.text}")
        connection = self.stream.connection
        if connection is None or identity.version != "TLSv1.3":
            return Secured(identity)  # RFC 9266 section 4.2: before 1.3 it may not be unique
        try:
            return Secured(identity, connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b""))
        except SSL.Error:
            return Secured(identity)


class _Source:
    """Content in pieces of `CHUNK`, as it is or converted to seven bits."""

    def __init__(self, content: AsyncIterator[bytes], survey: Survey | None) -> None:
        self._content = content
        self._converter = None if survey is None else Converter(survey)
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._at_end = False

    async def take(self) -> tuple[bytes, bool]:
        """The next octets, and whether they are the last.  Raises `Unsendable` when they cannot be read."""
        while not self._at_end and self._size <= CHUNK:
            piece = await _next(self._content)
            self._at_end = piece is None
            if self._converter is not None:
                if piece is not None:
                    self._converter.feed(piece)
                piece = self._converter.take() if piece is not None else self._converter.close()
            for start in range(0, len(piece or b""), CHUNK):
                self._pieces.append((piece or b"")[start : start + CHUNK])
            self._size += len(piece or b"")
        taken: list[bytes] = []
        room = CHUNK
        while self._pieces and room:
            piece = self._pieces.popleft()
            if len(piece) > room:
                self._pieces.appendleft(piece[room:])
            taken.append(piece[:room])
            room -= len(taken[-1])
        self._size -= CHUNK - room
        return b"".join(taken), self._at_end and not self._pieces

    async def close(self) -> None:
        """Nobody wants more of it."""
        await _close(self._content)


async def _surveyed(content: AsyncIterator[bytes]) -> Survey:
    surveyor = Surveyor()
    try:
        while (piece := await _next(content)) is not None:
            surveyor.feed(piece)
    finally:
        await _close(content)
    return surveyor.close()


async def _next(content: AsyncIterator[bytes]) -> bytes | None:
    """The next piece, None at the end.  Raises `Unsendable` when it cannot be read now."""
    try:
        return await anext(content, None)
    except TemporaryFailure as error:
        raise Unsendable(f"the message cannot be read now: {error}", "4.3.0") from error


async def _close(content: AsyncIterator[bytes]) -> None:
    close = getattr(content, "aclose", None)
    if close is not None:
        await close()


_AWAITED = {
    Phase.CONNECT: "the connection",
    Phase.GREETING: "its greeting",
    Phase.HELLO: "its answer to EHLO",
    Phase.TLS: "its answer to STARTTLS",
    Phase.AUTH: "its answer to AUTH",
    Phase.RESET: "its answer to RSET",
    Phase.MAIL: "its answer to MAIL FROM",
    Phase.RCPT: "its answer to RCPT TO",
    Phase.DATA: "its answer to DATA",
    Phase.CONTENT: "its answer to BDAT",
    Phase.END: "its answer to the message",
    Phase.QUIT: "its answer to QUIT",
}


def _broken(failure: Exception) -> Broken:
    """What a failure of the connection means to a conversation."""
    text = str(failure)
    if isinstance(failure, HandshakeRefused):
        return Broken(
            f"refused for its certificate: {text}" if isinstance(failure, ServerRefused) else text, refused=True
        )
    return Broken(
        text,
        timeout=isinstance(failure, channel.TooSlow),
        faulty=isinstance(failure, channel.NotUnderstood),
        injected=isinstance(failure, channel.SpokeTooEarly),
        tls=isinstance(failure, channel.HandshakeFailed),
    )
