"""One client's connection: the Twisted half of the wire engine (DESIGN section 4).

`Conversation` stands between a ``twisted.mail`` protocol class and its transport.  The protocol says what an event
means (`Handler`); the conversation decides *when* the next event may be taken, and holds the promises that the stock
classes do not keep:

* one command in flight: the next event is taken when the handler of the last one is done, and reading pauses while
  octets are left over meanwhile;
* a client that does not read its replies is not read from, and is cut off when that lasts;
* every wait has its own timer, and a timer ends in ``abortConnection``: ``loseConnection`` would wait for ever for a
  silent TLS peer;
* a client that pipelines thousands of commands gives way to the others every few dozen;
* what arrived in clear behind STARTTLS never has an effect (CVE-2011-0411 and its family).

The hardest idea: handlers may be plain (the answer is known at once) or coroutines (SQL, hashing, the disk).  Both run
through `_pump`, which is never re-entered and which is the only place that takes events.  A coroutine that awaits
nothing costs no Deferred.

There is one timer, and it is seldom cancelled: to put it off is cheap, to make a new one for each command is not.
While nothing is awaited it runs on and means nothing (`_stop_waiting`).
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import (
    IDelayedCall,
    IOpenSSLServerConnectionCreator,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from mailsvc.wire.lines import BodyPiece, Event, LineReader

_EVENTS_IN_A_ROW = 32
"""So many events of one client are handled before the reactor looks at the others."""

_MANY_EVENTS, _FEW_IN_A_ROW = 500, 2
"""After so many events without a body only a few are handled in a row: commands without end are no mail."""

_PROGRESS_OCTETS = 4096
"""A body makes progress when so many more octets of it have come: a byte now and then is none."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long each wait may last, in seconds.

    ``command``: for a complete line.  ``body``: for the next 4096 octets of a body.  ``unread``: for a client to read
    what was written.  ``handshake``: for a TLS handshake.  ``closing``: for the peer to close after our last word.
    """

    command: float = 300.0
    body: float = 180.0
    unread: float = 180.0
    handshake: float = 30.0
    closing: float = 10.0


class Handler(Protocol):
    """What a protocol class gives to its conversation."""

    def handle_event(self, event: Event) -> Coroutine[Any, Any, None] | None:
        """Answer one event; return a coroutine when the answer takes time."""

    def handler_failed(self, failure: Failure) -> None:
        """A handler raised: answer the client and log; the conversation goes on."""

    def patience_ended(self, waiting_for: str) -> bytes:
        """A wait ("a command", "the message") was too long: return the last words, b"" for none."""


@implementer(IPushProducer)
class Conversation:
    """One connection from its first octet to its last.

    ``reader`` is public: the handler switches it to a body.  Call `connected`, `data_received`, `handshake_completed`
    and `connection_lost` from the Twisted methods of the protocol.
    """

    def __init__(self, handler: Handler, clock: IReactorTime, patience: Patience, line_limit: int) -> None:
        self.reader = LineReader(line_limit)
        self.closing = False
        self.lost = False
        self._handler = handler
        self._clock = clock
        self._patience = patience
        self._transport: Any = None
        self._busy = False
        self._in_pump = False
        self._unread = False
        self._reading_paused = False
        self._resumption: IDelayedCall | None = None
        self._drained: list[Deferred[None]] = []
        self._timer: IDelayedCall | None = None
        self._waiting_for = ""
        self._in_body = False
        self._progress = 0
        self._events = 0

    # -- what Twisted tells --------------------------------------------------------------------------------------

    def connected(self, transport: Any, *, handshake: bool) -> None:
        """The connection is there; ``handshake`` says that TLS comes before the first word.

        The client's first command is awaited from here on (or from the end of the handshake).
        """
        self._transport = transport
        if ITCPTransport.providedBy(transport):
            # A reply is one small write; waiting to join it with the next (Nagle) costs 40 ms each.
            transport.setTcpNoDelay(True)
        transport.registerProducer(self, True)
        if handshake:
            self._wait(self._patience.handshake, "the TLS handshake")
        else:
            self._expect()

    def data_received(self, data: bytes) -> None:
        """Octets from the peer."""
        if self.closing or self.lost:
            return
        self.reader.feed(data)
        self._pump()

    def handshake_completed(self) -> None:
        """TLS stands; the client's next command is awaited."""
        if not self.closing:
            self._stop_waiting()
            self._expect()

    def connection_lost(self) -> None:
        """The connection is gone: stop timers, wake up who waits for the client to read."""
        self.lost = True
        self._stop_waiting()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._resumption is not None and self._resumption.active():
            self._resumption.cancel()
        self.reader.clear()
        waiting, self._drained = self._drained, []
        for deferred in waiting:
            deferred.errback(ConnectionLost())

    # -- IPushProducer: the transport's buffer is full, or has room again ---------------------------------------

    def pauseProducing(self) -> None:
        """More than the transport's buffer waits for the client to read."""
        self._unread = True
        if not self.closing:
            # Not only for our own replies: TLS answers each KeyUpdate (RFC 8446 section 4.6.3) without asking us.  A
            # handshake is left alone, because TLS has to read before it can write.
            if self._waiting_for != "the TLS handshake":
                self._set_reading_paused(True)
            self._wait(self._patience.unread, "the client to read")

    def resumeProducing(self) -> None:
        """The client has read on."""
        self._unread = False
        if self.closing or self.lost:
            return
        self._stop_waiting()
        waiting, self._drained = self._drained, []
        for deferred in waiting:
            deferred.callback(None)
        self._pump()

    def stopProducing(self) -> None:
        """The transport is gone; `connection_lost` does what is to be done."""

    # -- what the handler asks for --------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send ``data``; after the end of the conversation it goes nowhere."""
        if not self.lost and not self.closing:
            self._transport.write(data)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that no event asked for (a greeting that takes its time); no event is taken meanwhile."""
        self._begin(work)

    async def drained(self) -> None:
        """Wait until the client has read enough that writing more is fair.

        Raises `twisted.internet.error.ConnectionLost` when the client goes away instead.
        """
        if self.lost:
            raise ConnectionLost()
        if self._unread:
            deferred: Deferred[None] = Deferred()
            self._drained.append(deferred)
            await deferred

    def await_body(self) -> None:
        """The reader was switched to a body: the body's patience holds from now on, until `body_ended`."""
        self._in_body = True
        self._progress = 0

    def body_ended(self) -> None:
        """Lines are read again."""
        self._in_body = False

    def start_tls(self, go_ahead: bytes, refusal: bytes, tls: IOpenSSLServerConnectionCreator) -> bool:
        """Write ``go_ahead`` and begin the TLS handshake; return whether it was begun.

        Octets that are here already were sent before the client could know our answer: an attack (RFC 3207 section 4,
        CVE-2011-0411).  They are dropped unread, the client gets ``refusal`` and the connection ends.
        """
        if self.reader.clear():
            self.close(refusal)
            return False
        self.write(go_ahead)
        self._transport.startTLS(tls)
        self._wait(self._patience.handshake, "the TLS handshake")
        return True

    def close(self, last_words: bytes = b"") -> None:
        """Write the last words and end the connection in order (with TLS: close_notify), by force if need be."""
        if self.closing or self.lost:
            return
        self.write(last_words)
        self.closing = True
        self.reader.clear()
        # Keep reading: in TLS the peer's close_notify must be seen.  `data_received` drops everything from here on.
        self._set_reading_paused(False)
        # TLS would wait for a registered producer to finish before it sends its close_notify.
        self._transport.unregisterProducer()
        self._wait(self._patience.closing, "the connection to close")
        self._transport.loseConnection()

    def abort(self) -> None:
        """End the connection at once, without another word."""
        if not self.lost:
            self.closing = True
            self._stop_waiting()
            self._transport.abortConnection()

    @property
    def in_body(self) -> bool:
        """Whether a body is being read."""
        return self._in_body

    @property
    def idle(self) -> bool:
        """Whether the client is between commands: nothing in flight, no body under way."""
        return not self._busy and not self._in_body

    @property
    def needs_more(self) -> bool:
        """Whether nothing happens before the client sends more octets; what is pending is half a line, or less."""
        return not (self._busy or self._unread or self._resumption is not None)

    # -- the pump -------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        if self._in_pump or (self._resumption is not None and self._resumption.active()):
            return
        self._in_pump = True
        try:
            handled = 0
            while not (self._busy or self._unread or self.closing or self.lost):
                in_a_row = _EVENTS_IN_A_ROW if self._events < _MANY_EVENTS else _FEW_IN_A_ROW
                if handled >= in_a_row and self.reader.pending:
                    self._resumption = self._clock.callLater(0, self._pump_again)
                    break
                event = self.reader.next_event()
                if event is None:
                    break
                handled += 1
                self._events = 0 if self._in_body else self._events + 1
                self._take(event)
        finally:
            self._in_pump = False
        if self.closing or self.lost:
            return
        must_wait = self._busy or self._unread or self._resumption is not None
        self._set_reading_paused(self._unread or (must_wait and self.reader.pending > 0))
        if not must_wait:
            self._expect()

    def _pump_again(self) -> None:
        self._resumption = None
        self._pump()

    def _take(self, event: Event) -> None:
        if self._in_body and isinstance(event, BodyPiece):
            self._progress += len(event.data)
        else:
            # A whole line: whatever is awaited next is awaited anew.
            self._stop_waiting()
        try:
            work = self._handler.handle_event(event)
        except Exception:
            self._handler.handler_failed(Failure())
            return
        if work is not None:
            self._begin(work)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._busy = True
        self._stop_waiting()
        try:
            awaited = work.send(None)
        except StopIteration:
            pass
        except Exception:
            self._failed(Failure())
        else:
            Deferred.fromCoroutine(_rest(work, awaited)).addErrback(self._failed).addCallback(self._done)
            return
        self._done(None)

    def _failed(self, failure: Failure) -> None:
        if self.lost and failure.check(ConnectionLost, CancelledError):
            return
        self._handler.handler_failed(failure)

    def _done(self, _: object) -> None:
        self._busy = False
        if not self.lost:
            self._pump()

    # -- patience -------------------------------------------------------------------------------------------------

    def _expect(self) -> None:
        """Nothing is in flight: the client's next move is awaited."""
        if self._in_body:
            if self._progress >= _PROGRESS_OCTETS or self._waiting_for != "the message":
                self._progress = 0
                self._wait(self._patience.body, "the message")
        elif self._waiting_for not in ("a command", "the TLS handshake"):
            # Half a line does not wind the timer up again: a client that sends a byte a minute has one wait in all.
            self._wait(self._patience.command, "a command")

    def _wait(self, seconds: float, waiting_for: str) -> None:
        self._waiting_for = waiting_for
        if self._timer is not None:
            if self._timer.getTime() <= self._clock.seconds() + seconds:
                self._timer.reset(seconds)
                return
            # To make it end sooner the reactor would look through all of its timers.
            self._timer.cancel()
        self._timer = self._clock.callLater(seconds, self._patience_ended)

    def _stop_waiting(self) -> None:
        self._waiting_for = ""

    def _patience_ended(self) -> None:
        self._timer = None
        if not self._waiting_for:
            return
        if self.closing or self._unread or self._waiting_for == "the TLS handshake":
            # Words would not arrive: the buffer is full, or TLS is half way.
            self.abort()
            return
        self.close(self._handler.patience_ended(self._waiting_for))

    def _set_reading_paused(self, paused: bool) -> None:
        if paused == self._reading_paused:
            return
        self._reading_paused = paused
        if paused:
            self._transport.pauseProducing()
        else:
            self._transport.resumeProducing()


def _rest(work: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    """What is left to do of ``work``, whose first step awaits ``awaited``."""
    while True:
        try:
            value = yield awaited
        except GeneratorExit:
            work.close()
            raise
        except BaseException as error:
            go_on = partial(work.throw, error)
        else:
            go_on = partial(work.send, value)
        try:
            awaited = go_on()
        except StopIteration:
            return
