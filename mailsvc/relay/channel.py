"""One connection to a mail server: lines go out, replies are awaited, TLS is begun; each with a limit in time.

For whoever speaks first: the probe, the relay, `mailsvc send`.  What is said and what the replies mean is the caller's;
reading octets is `mailsvc.relay.replies`, the check of certificates `mailsvc.tls.client`.

The hardest idea: a server may speak only when it is asked.  Before each command and before the handshake everything
that has come must have been read as an answer; what is left over was sent by somebody who did not wait for the
question, and in clear that may be anybody on the way (the response half of CVE-2011-0411).  So `say` and `start_tls`
refuse to go on, and after the handshake reading begins with nothing.

Every wait ends: by what was awaited, by the end of the connection, or by the clock, which runs from the beginning of
the wait and is not set back by octets that come one at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionDone,
    ConnectionRefusedError,
    DNSLookupError,
)
from twisted.internet.error import TimeoutError as NoConnection
from twisted.internet.interfaces import IHandshakeListener, IReactorTime, IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailsvc.errors import MailsvcError, TemporaryFailure
from mailsvc.mail.channel import safe_text
from mailsvc.relay.replies import Dialect, PeerReply, ReplyError, ReplyReader
from mailsvc.tls.client import Destination, ServerRefused, keep_session, server_identity
from mailsvc.tls.observation import ServerIdentity
from mailsvc.tls.verify import HandshakeRefused

T = TypeVar("T")


class ChannelFailure(TemporaryFailure):
    """The connection cannot be used any more; `str(error)` says why, as a sentence without a period."""


class NotReached(ChannelFailure):
    """There is no connection: no such host, or nobody listens there."""


class TooSlow(ChannelFailure):
    """The server did not do in time what was awaited."""


class Ended(ChannelFailure):
    """The server ended the connection, or it was lost."""


class SpokeTooEarly(ChannelFailure):
    """The server, or somebody on the way, sent an answer before it was asked."""


class NotUnderstood(ChannelFailure):
    """What the server sent is no reply of its protocol."""


class HandshakeFailed(ChannelFailure):
    """There is no TLS: the two sides did not agree, or one of them refused the other."""


@implementer(IHandshakeListener)
class Channel(Protocol):
    """A connection.  ``clock`` tells the time; make one for each connection and give it to `connect`."""

    def __init__(self, dialect: Dialect, clock: IReactorTime) -> None:
        self._dialect = dialect
        self._clock = clock
        self._reader = ReplyReader(dialect)
        self._garbage: ReplyError | None = None
        self._lost: Failure | None = None
        self._handshake_done = False
        self._in_tls = False
        self._waiting: Deferred[None] | None = None

    # -- Twisted calls us ----------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            self._tcp.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        if self._garbage is None:
            try:
                self._reader.feed(data)
            except ReplyError as error:
                self._garbage = error
                self._tcp.abortConnection()
        self._wake()

    def handshakeCompleted(self) -> None:
        self._handshake_done = True
        self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = reason
        self._wake()

    # -- what the caller does ------------------------------------------------------------------------------------

    @property
    def peer(self) -> str:
        """The address that the connection goes to; "" when it has none that can be shown."""
        return str(getattr(self._tcp.getPeer(), "host", ""))

    @property
    def connection(self) -> SSL.Connection | None:
        """OpenSSL's side of it, for what else may be known; None without TLS."""
        handle = self._tcp.getHandle() if self._in_tls else None
        return handle if isinstance(handle, SSL.Connection) else None

    def say(self, line: str) -> None:
        """Send a command.  Raises `SpokeTooEarly`; ValueError for more than one line of ASCII."""
        if "\r" in line or "\n" in line:
            raise ValueError("a command is one line")
        octets = line.encode("ascii") + b"\r\n"
        self._nothing_unread(f"before it was asked {line.partition(' ')[0]}")
        self._tcp.write(octets)

    async def reply(self, seconds: float, what: str, tag: bytes = b"*") -> PeerReply:
        """The next reply; ``what`` names it in the sentence of a failure ("the greeting").  Raises `ChannelFailure`.

        ``tag``: of the IMAP command that is answered.
        """
        return await self._until(lambda: self._reader.next_reply(tag), seconds, what)

    async def lines(self, seconds: float, what: str) -> tuple[str, ...]:
        """The lines up to a lone dot (POP3).  Raises `ChannelFailure`."""
        return await self._until(self._reader.next_lines, seconds, what)

    async def start_tls(self, destination: Destination, seconds: float) -> ServerIdentity:
        """Begin TLS now; what the server has shown, when it is enough for the destination's policy.

        Raises `ServerRefused` when it is not, otherwise `ChannelFailure`.
        """
        self._nothing_unread("in clear behind its consent to TLS")
        self._reader = ReplyReader(self._dialect)
        self._in_tls = True
        self._tcp.startTLS(destination)
        what = "the TLS handshake"
        identity = await self._until(
            lambda: server_identity(self.transport) if self._handshake_done else None, seconds, what
        )
        if not identity.verdict.met:
            raise ServerRefused(identity)
        return identity

    def keep_session(self) -> None:
        """Keep the TLS session for the next connection; before the last command, because the server may close then."""
        if self._in_tls:
            keep_session(self.transport)

    async def close(self, seconds: float) -> None:
        """End the connection in order; after so many seconds, cut it."""
        if self._lost is not None:
            return
        self._tcp.loseConnection()
        try:
            await self._until(lambda: None, seconds, "the end")
        except MailsvcError:
            self.abort()

    def abort(self) -> None:
        """Cut the connection, if there is one."""
        if self._lost is None and self._tcp is not None:
            self._tcp.abortConnection()

    # -- within --------------------------------------------------------------------------------------------------

    @property
    def _tcp(self) -> Any:
        return self.transport

    def _nothing_unread(self, when: str) -> None:
        if self._reader.unread:
            self.abort()
            raise SpokeTooEarly(
                f"the server sent {self._reader.unread} octets {when}: nobody can answer what was not asked yet,"
                " so this is an injection by somebody on the way, or a broken server"
            )

    async def _until(self, ready: Callable[[], T | None], seconds: float, what: str) -> T:
        expired: list[bool] = []

        def expire() -> None:
            expired.append(True)
            self._wake()

        timer = self._clock.callLater(seconds, expire)
        try:
            while True:
                found = None
                if self._garbage is None:
                    try:
                        found = ready()
                    except ReplyError as error:
                        self._garbage = error
                if found is not None:
                    return found
                self._complain(what, seconds, expired=bool(expired))
                self._waiting = Deferred()
                await self._waiting
        finally:
            if timer.active():
                timer.cancel()

    def _complain(self, what: str, seconds: float, *, expired: bool) -> None:
        """Raise when what is awaited cannot come any more."""
        if self._garbage is not None:
            self.abort()
            raise NotUnderstood(str(self._garbage)) from self._garbage
        if self._lost is not None:
            _raise_lost(self._lost.value or ConnectionDone(), what, handshake=self._in_tls and not self._handshake_done)
        if expired:
            self.abort()
            kind = HandshakeFailed if self._in_tls and not self._handshake_done else TooSlow
            raise kind(f"the server did not finish {what} within {seconds:g} seconds")

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)


async def connect(endpoint: IStreamClientEndpoint, channel: Channel, seconds: float, clock: IReactorTime) -> None:
    """Connect the channel.  Raises `NotReached`."""
    factory = Factory.forProtocol(lambda: channel)
    factory.noisy = False  # two lines in the log for each connection
    connecting: Deferred[Any] = endpoint.connect(factory)

    def expired(_: object, __: float) -> NoReturn:
        # Endpoints tell their cancellation in several ways; only the clock knows that it was the clock.
        raise TookTooLong

    connecting.addTimeout(seconds, clock, expired)
    try:
        await connecting
    except ConnectingCancelledError as error:
        raise CancelledError from error
    except (NoConnection, TookTooLong) as error:
        raise NotReached(f"no connection came about within {seconds:g} seconds") from error
    except DNSLookupError as error:
        raise NotReached("there is no such host, or its name cannot be looked up now") from error
    except ConnectionRefusedError as error:
        raise NotReached("the connection was refused: nobody listens there") from error
    except (ConnectError, OSError) as error:
        raise NotReached(f"no connection came about ({_words(error)})") from error


def _raise_lost(error: BaseException, what: str, *, handshake: bool) -> None:
    if isinstance(error, (ServerRefused, HandshakeRefused)):
        raise error
    if isinstance(error, SSL.Error):
        # Also after the handshake: in TLS 1.3 a server looks at the client's certificate when the client is done.
        raise HandshakeFailed(f"{_tls_words(error)}") from error
    if handshake:
        raise HandshakeFailed("the server ended the connection in the middle of the TLS handshake") from error
    how = "ended the connection" if isinstance(error, ConnectionDone) else "broke the connection off"
    raise Ended(f"the server {how} instead of {what}") from error


_TLS_WORDS = (
    ("certificate required", "the server demands a client certificate; give it one"),
    ("wrong version number", "what the server sends is not TLS"),
    ("packet length too long", "what the server sends is not TLS"),
    ("record layer failure", "what the server sends is not TLS"),
    ("http request", "what the server sends is not TLS"),
    ("unsupported protocol", "the server knows no TLS 1.2 or newer"),
    ("protocol version", "the server and mailsvc have no version of TLS in common; mailsvc speaks 1.2 and 1.3"),
    ("no shared cipher", "the server and mailsvc have no cipher in common"),
    ("handshake failure", "the server refuses the handshake: no cipher, group or signature in common"),
    ("unrecognized name", "the server knows no certificate for this name"),
    ("dh key too small", "the server's Diffie-Hellman key is too short to protect anything"),
    ("unknown ca", "the server does not know the CA of the client certificate"),
    ("bad certificate", "the server does not accept the client certificate"),
    ("certificate unknown", "the server does not accept the client certificate"),
    ("certificate expired", "the server says that the client certificate has expired"),
    ("certificate revoked", "the server says that the client certificate is revoked"),
    ("decrypt error", "the server says that the signature of the handshake is wrong"),
    ("internal error", "the server says that it has an internal error"),
    ("unexpected eof", "the server ended the connection in the middle of TLS"),
)


def _tls_words(error: SSL.Error) -> str:
    """OpenSSL's reasons as a sentence; its own words where there is none."""
    parts = error.args[0] if error.args and isinstance(error.args[0], list) else []
    said = "; ".join(str(part[-1]) for part in parts if part and part[-1])[:400]
    for words, sentence in _TLS_WORDS:
        if words in said.lower():
            return f"{sentence} ({safe_text(said)})"
    return f"TLS failed ({safe_text(said or type(error).__name__)})"


def _words(error: BaseException) -> str:
    reason = getattr(error, "osError", None) or error
    if isinstance(reason, int):  # a UNIX socket's
        reason = os.strerror(reason).lower()
    return safe_text(str(reason) or type(error).__name__)
