"""The conversation: one command in flight, back pressure, fairness, and a timer for every wait."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mailsvc.wire.conversation import Conversation, Patience
from mailsvc.wire.lines import BodyEnd, BodyPiece, Event, Line
from tests.memory import Client, MemoryReactor, Wire, server_tls

PATIENCE = Patience(command=300, body=180, unread=60, handshake=30, closing=10)


@implementer(IHandshakeListener)
class Script(Protocol):
    """A protocol whose client says what it is to do.

    "later NAME" is answered when the test calls `finish`; "write N" writes N octets; "flood N" writes them piece by
    piece, as fast as the client reads; "raise" and "raise later" fail; "body" reads a dotted body; "tls" and "close".
    """

    def __init__(self, clock: MemoryReactor, *, handshake: bool = False) -> None:
        self.conversation = Conversation(self, clock, PATIENCE, 1000)
        self.handshake = handshake
        self.events: list[Event] = []
        self.failures: list[Failure] = []
        self.patience: list[str] = []
        self.waiting: dict[bytes, Deferred[None]] = {}
        self.at_once = 0
        self.most_at_once = 0
        self.flooded: list[str] = []

    def connectionMade(self) -> None:
        self.conversation.connected(self.transport, handshake=self.handshake)

    def dataReceived(self, data: bytes) -> None:
        self.conversation.data_received(data)

    def handshakeCompleted(self) -> None:
        self.conversation.handshake_completed()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.conversation.connection_lost()

    def finish(self, name: bytes) -> None:
        self.waiting.pop(name).callback(None)

    def handle_event(self, event: Event) -> Coroutine[Any, Any, None] | None:
        self.events.append(event)
        match event:
            case BodyPiece():
                return None
            case BodyEnd():
                self.conversation.body_ended()
                self.conversation.write(b"took it\r\n")
                return None
            case Line(data):
                verb, _, argument = data.partition(b" ")
            case _:
                return None
        match verb:
            case b"later":
                return self._later(argument)
            case b"raise":
                if argument:
                    return self._raise()
                raise ZeroDivisionError
            case b"write":
                self.conversation.write(b"x" * int(argument))
            case b"flood":
                return self._flood(int(argument))
            case b"body":
                self.conversation.reader.read_dotted_body()
                self.conversation.await_body()
            case b"tls":
                self.conversation.start_tls(b"go\r\n", b"no\r\n", server_tls())
            case b"close":
                self.conversation.close(argument)
            case _:
                self.conversation.write(data + b"\r\n")
        return None

    async def _later(self, name: bytes) -> None:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        self.waiting[name] = Deferred()
        await self.waiting[name]
        self.at_once -= 1
        self.conversation.write(b"done " + name + b"\r\n")

    async def _raise(self) -> None:
        raise ZeroDivisionError

    async def _flood(self, octets: int) -> None:
        while octets > 0:
            self.conversation.write(b"y" * 10_000)
            octets -= 10_000
            try:
                await self.conversation.drained()
            except ConnectionLost:
                self.flooded.append("lost")
                raise
        self.flooded.append("done")

    def handler_failed(self, failure: Failure) -> None:
        self.failures.append(failure)
        self.conversation.write(b"failed\r\n")

    def patience_ended(self, waiting_for: str) -> bytes:
        self.patience.append(waiting_for)
        return b"bye\r\n"


class ConversationCase(SynchronousTestCase):
    """A script and its client."""

    def setUp(self) -> None:
        self.reactor = MemoryReactor()

    def begin(self, *, handshake: bool = False, window: int | None = None) -> tuple[Script, Client]:
        script = Script(self.reactor, handshake=handshake)
        wire = Wire(self.reactor)
        wire.window = window
        client = Client(self.reactor, wire)
        wire.begin(script)
        client.settle()
        return script, client

    def timers(self) -> list[float]:
        """In how many seconds which timers are due."""
        return sorted(call.getTime() - self.reactor.seconds() for call in self.reactor.getDelayedCalls())


class OneInFlightTests(ConversationCase):
    """The next command is taken when the answer to the last one is written (RFC 2920 section 3.2)."""

    def test_pipelined(self) -> None:
        """Commands in one segment are answered in their order, one at a time, however long each takes."""
        script, client = self.begin()
        client.send(b"later a\r\nhello\r\nlater b\r\nworld\r\n")
        self.assertEqual((client.take(), list(script.waiting)), (b"", [b"a"]))
        script.finish(b"a")
        client.settle()
        self.assertEqual((client.take(), list(script.waiting)), (b"done a\r\nhello\r\n", [b"b"]))
        script.finish(b"b")
        client.settle()
        self.assertEqual((client.take(), script.most_at_once), (b"done b\r\nworld\r\n", 1))

    def test_in_segments(self) -> None:
        """A command that arrives while another is in flight waits, too."""
        script, client = self.begin()
        client.send(b"later a\r\n")
        client.send(b"hello\r\n")
        self.assertEqual(client.take(), b"")
        script.finish(b"a")
        client.settle()
        self.assertEqual(client.take(), b"done a\r\nhello\r\n")

    def test_reading_pauses(self) -> None:
        """While a command is in flight and octets are left over nothing more is read from the client."""
        script, client = self.begin()
        client.put(b"later a\r\n")
        for _ in range(100):
            client.put(b"hello\r\n")
        client.settle()
        self.assertEqual(client.wire.undelivered, 99, "one segment is here, the others stay in the socket")
        script.finish(b"a")
        client.settle()
        self.assertEqual((client.wire.undelivered, client.take()), (0, b"done a\r\n" + b"hello\r\n" * 100))

    def test_half_a_line_behind(self) -> None:
        """A line that is half there when the command before is done is taken when its rest comes."""
        script, client = self.begin()
        client.send(b"later a\r\nhel")
        script.finish(b"a")
        client.send(b"lo\r\n")
        self.assertEqual(client.take(), b"done a\r\nhello\r\n")

    def test_no_deep_stack(self) -> None:
        """Ten thousand commands whose answers are there at once are a loop, not a recursion."""
        script, client = self.begin()
        client.send(b"raise later\r\n" * 10_000)
        self.assertEqual(len(client.take()), len(b"failed\r\n") * 10_000)
        self.assertEqual(len(script.failures), 10_000)

    def test_lost_while_in_flight(self) -> None:
        """When the connection is lost the command in flight ends as it ends; nothing is taken or written after."""
        script, client = self.begin()
        client.send(b"later a\r\nhello\r\n")
        client.hang_up()
        script.finish(b"a")
        client.settle()
        self.assertEqual((client.take(), len(script.events), self.timers()), (b"", 1, []))

    def test_closed_while_in_flight(self) -> None:
        """After `close` nothing of what was sent before is taken any more."""
        script, client = self.begin()
        client.send(b"close end\r\nhello\r\n")
        client.send(b"hello\r\n")
        self.assertEqual((client.take(), client.is_closed, len(script.events)), (b"end", True, 1))

    def test_idle(self) -> None:
        """A conversation is idle between commands, not while one is in flight or a body is read."""
        script, client = self.begin()
        self.assertTrue(script.conversation.idle)
        client.send(b"later a\r\n")
        self.assertFalse(script.conversation.idle)
        script.finish(b"a")
        client.send(b"body\r\n")
        self.assertFalse(script.conversation.idle)
        client.send(b".\r\n")
        self.assertTrue(script.conversation.idle)


class FailureTests(ConversationCase):
    """A handler that raises."""

    def test_at_once_and_later(self) -> None:
        """Either way the handler hears of it, the client gets an answer, and the conversation goes on."""
        script, client = self.begin()
        client.send(b"raise\r\nraise later\r\nhello\r\n")
        self.assertEqual(client.take(), b"failed\r\nfailed\r\nhello\r\n")
        self.assertEqual([failure.type for failure in script.failures], [ZeroDivisionError] * 2)


class FairnessTests(ConversationCase):
    """A client that pipelines does not keep the others waiting."""

    def test_after_32(self) -> None:
        """After 32 commands the reactor looks at the others; nothing is lost, the order stays."""
        script, client = self.begin()
        lines = [b"%d" % number for number in range(100)]
        client.put(b"".join(line + b"\r\n" for line in lines))
        client.wire.deliver()
        self.assertEqual(len(script.events), 32)
        client.wire.arrive(b"more\r\n")
        self.reactor.advance(0)
        # a Clock runs what was scheduled meanwhile in the same go
        client.settle()
        self.assertEqual(client.take().split(b"\r\n"), [*lines, b"more", b""])

    def test_few_after_many(self) -> None:
        """Whoever has given 500 commands and no message gets two at a time; all of them are still answered."""
        script, client = self.begin()
        client.send(b"hello\r\n" * 500)
        client.put(b"hello\r\n" * 100)
        before = len(script.events)
        client.wire.deliver()
        self.assertEqual(len(script.events) - before, 2)
        client.settle()
        self.assertEqual(client.take().count(b"hello"), 600)

    def test_reading_pauses_meanwhile(self) -> None:
        """Between two helpings nothing more is read, so that the buffer does not grow."""
        _script, client = self.begin()
        client.put(b"hello\r\n" * 100)
        client.wire.deliver()
        self.assertNotIn(client.wire, self.reactor.readers)
        client.settle()
        self.assertIn(client.wire, self.reactor.readers)

    def test_lost_between_helpings(self) -> None:
        """A client that goes away between two helpings leaves nothing behind."""
        script, client = self.begin()
        client.put(b"hello\r\n" * 100)
        client.wire.deliver()
        client.wire.connectionLost(Failure(ConnectionLost()))
        self.assertEqual((len(script.events), self.timers()), (32, []))


class BackPressureTests(ConversationCase):
    """A client that does not read its replies is not read from."""

    def test_no_next_command(self) -> None:
        """While the transport's buffer is full no further command is taken; when there is room they are."""
        script, client = self.begin(window=0)
        client.send(b"write 100000\r\nhello\r\n")
        client.put(b"world\r\n" * 5)
        client.settle()
        self.assertEqual(len(script.events), 1)
        self.assertGreater(client.wire.undelivered, 0)
        client.wire.window = None
        client.wire.startWriting()
        client.settle()
        self.assertEqual(client.take(), b"x" * 100_000 + b"hello\r\n" + b"world\r\n" * 5)

    def test_nothing_is_read(self) -> None:
        """Nothing at all is read while the client does not: also when no octet of its waits, because TLS would answer
        (KeyUpdate, RFC 8446 section 4.6.3) without asking us.  Reading goes on when there is room again."""
        _script, client = self.begin(window=0)
        client.send(b"write 100000\r\n")
        self.assertNotIn(client.wire, self.reactor.readers)
        client.put(b"hello\r\n")
        client.settle()
        self.assertEqual(client.wire.undelivered, 1)
        client.wire.window = None
        client.settle()
        self.assertEqual(client.take(), b"x" * 100_000 + b"hello\r\n")

    def test_nothing_is_read_meanwhile(self) -> None:
        """The same when the buffer fills while a handler is at work, and stays full when it is done."""
        script, client = self.begin(window=0)
        client.send(b"later a\r\n")
        script.conversation.write(b"x" * 100_000)
        self.assertNotIn(client.wire, self.reactor.readers)
        script.finish(b"a")
        client.settle()
        self.assertNotIn(client.wire, self.reactor.readers)
        client.wire.window = None
        client.settle()
        self.assertIn(client.wire, self.reactor.readers)

    def test_a_handshake_is_read(self) -> None:
        """During a handshake reading goes on: TLS has to read before it can write."""
        script, client = self.begin(handshake=True)
        script.conversation.pauseProducing()
        self.assertIn(client.wire, self.reactor.readers)

    def test_the_buffer_is_bounded(self) -> None:
        """A million commands whose replies are not read make a buffer of some 64 KiB, not of all replies."""
        script, client = self.begin(window=0)
        for _ in range(1000):
            client.put(b"0123456789\r\n" * 1000)
        client.settle()
        self.assertLess(len(script.events), 7000)

    def test_a_long_reply_waits(self) -> None:
        """A handler that writes a long reply waits in `drained` until the client has read."""
        script, client = self.begin(window=200_000)
        client.send(b"flood 1000000\r\n")
        self.assertEqual(script.flooded, [])
        self.assertLess(len(client.wire.dataBuffer) + client.wire._tempDataLen, 100_000)
        for _ in range(20):
            client.wire.window = 100_000
            client.settle()
        self.assertEqual((script.flooded, len(client.take())), (["done"], 1_000_000))

    def test_lost_while_waiting(self) -> None:
        """A client that goes away ends the wait with `ConnectionLost`; that is no defect and is not reported."""
        script, client = self.begin(window=0)
        client.send(b"flood 1000000\r\n")
        client.hang_up()
        self.assertEqual((script.flooded, script.failures, self.timers()), (["lost"], [], []))

    def test_drained_after_the_end(self) -> None:
        """`drained` on a lost connection says so at once."""
        script, client = self.begin()
        client.hang_up()
        self.failureResultOf(Deferred.fromCoroutine(script.conversation.drained()), ConnectionLost)

    def test_never_reads(self) -> None:
        """A client that does not read for `unread` seconds is cut off, without a word that it would not read."""
        script, client = self.begin(window=0)
        client.send(b"write 100000\r\n")
        client.wait(59)
        self.assertFalse(client.is_closed)
        client.wait(1)
        self.assertEqual((client.is_closed, client.wire.aborted, script.patience), (True, True, []))

    def test_never_reads_a_long_reply(self) -> None:
        """The same while a handler waits for it; the handler ends."""
        script, client = self.begin(window=0)
        client.send(b"flood 1000000\r\n")
        client.wait(60)
        self.assertEqual((client.wire.aborted, script.flooded, self.timers()), (True, ["lost"], []))

    def test_reads_slowly(self) -> None:
        """Whoever reads what is buffered in time gets the next part, for as long as it takes."""
        script, client = self.begin(window=70_000)
        client.send(b"flood 1000000\r\n")
        for _ in range(20):
            client.wait(50)
            client.wire.window = 70_000
            client.settle()
        self.assertEqual(script.flooded, ["done"])

    def test_a_trickle_is_not_reading(self) -> None:
        """An octet now and then does not wind the timer up."""
        _script, client = self.begin(window=0)
        client.send(b"write 100000\r\n")
        for _ in range(6):
            client.wire.window = 1
            client.wait(10)
        self.assertTrue(client.wire.aborted)


class PatienceTests(ConversationCase):
    """Every wait has a timer, and every timer an end."""

    def test_first_command(self) -> None:
        """A client that says nothing hears why it is closed."""
        script, client = self.begin()
        client.wait(299)
        self.assertFalse(client.is_closed)
        client.wait(1)
        self.assertEqual((client.take(), client.is_closed, script.patience), (b"bye\r\n", True, ["a command"]))
        self.assertEqual(self.timers(), [])

    def test_each_command_winds_it_up(self) -> None:
        """A complete line begins the wait anew."""
        _script, client = self.begin()
        for _ in range(5):
            client.wait(250)
            client.send(b"hello\r\n")
        self.assertFalse(client.is_closed)
        self.assertEqual(self.timers(), [300])

    def test_half_a_line_does_not(self) -> None:
        """A client that sends an octet now and then has one wait in all."""
        _script, client = self.begin()
        for _ in range(10):
            client.wait(30)
            self.assertFalse(client.is_closed and client.take() == b"")
            client.put(b"x")
            client.settle()
        self.assertTrue(client.is_closed)

    def test_an_endless_line_does_not(self) -> None:
        """Nor do the octets of a line that is too long: it is not complete."""
        _script, client = self.begin()
        for _ in range(40):
            if not client.is_closed:
                client.wait(10)
                client.send(b"x" * 500)
        self.assertTrue(client.is_closed)

    def test_no_timer_in_flight(self) -> None:
        """While we work on a command the client is not to blame."""
        script, client = self.begin()
        client.send(b"later a\r\n")
        client.wait(10_000)
        self.assertFalse(client.is_closed)
        script.finish(b"a")
        self.assertEqual(self.timers(), [300])

    def test_each_wait_is_a_whole_one(self) -> None:
        """What we took for a command is not counted against the next one, though it is the same timer."""
        script, client = self.begin()
        client.wait(200)
        client.send(b"later a\r\n")
        client.wait(99)
        script.finish(b"a")
        self.assertEqual(self.timers(), [300])
        client.wait(299)
        self.assertFalse(client.is_closed)
        client.wait(1)
        self.assertTrue(client.is_closed)

    def test_body_without_a_byte(self) -> None:
        """A body that stands still ends the conversation after `body` seconds."""
        script, client = self.begin()
        client.send(b"body\r\n")
        self.assertEqual(self.timers(), [180])
        client.wait(180)
        self.assertEqual((client.take(), client.is_closed, script.patience), (b"bye\r\n", True, ["the message"]))

    def test_trickled_body(self) -> None:
        """A byte now and then is no progress: a body that comes in drops is cut off."""
        _script, client = self.begin()
        client.send(b"body\r\n")
        for _ in range(18):
            client.wait(10)
            client.send(b"x")
        self.assertTrue(client.is_closed)

    def test_steady_body(self) -> None:
        """4096 octets in each wait are progress, so that a slow line may take all day for a large message."""
        _script, client = self.begin()
        client.send(b"body\r\n")
        for _ in range(100):
            for _ in range(16):
                client.wait(11)
                client.send(b"x" * 256)
        self.assertFalse(client.is_closed)
        client.send(b"\r\n.\r\n")
        self.assertEqual((client.take(), self.timers()), (b"took it\r\n", [300]))

    def test_silent_at_the_end(self) -> None:
        """A peer that does not close after our last word is cut off after `closing` seconds."""
        _script, client = self.begin(window=0)
        client.send(b"close end\r\n")
        client.wait(9)
        self.assertFalse(client.is_closed)
        client.wait(1)
        self.assertEqual((client.is_closed, client.wire.aborted, self.timers()), (True, True, []))

    def test_closing_ends_in_order(self) -> None:
        """A peer that reads our last word gets all of it, and no force is needed."""
        _script, client = self.begin()
        client.send(b"close end\r\n")
        self.assertEqual((client.take(), client.is_closed, client.wire.aborted), (b"end", True, False))
        self.assertEqual(self.timers(), [])

    def test_lost(self) -> None:
        """A lost connection has no timers."""
        for said in (b"", b"body\r\n", b"later a\r\n", b"write 100000\r\n"):
            _script, client = self.begin(window=0)
            client.send(said)
            client.hang_up()
            self.assertEqual(self.timers(), [], said)


class HandshakeTests(ConversationCase):
    """The wait for TLS, and what stands behind STARTTLS."""

    def test_silent_before_implicit_tls(self) -> None:
        """A client that does not begin the handshake is cut off after `handshake` seconds, by force."""
        script, client = self.begin(handshake=True)
        self.assertEqual(self.timers(), [30])
        client.wait(30)
        self.assertEqual((client.wire.aborted, client.take(), script.patience), (True, b"", []))

    def test_silent_after_starttls(self) -> None:
        """The same after STARTTLS: the wait for the command does not begin before TLS stands."""
        _script, client = self.begin()
        client.send(b"tls\r\n")
        self.assertEqual((client.take(), self.timers()), (b"go\r\n", [30]))
        client.wait(30)
        self.assertTrue(client.wire.aborted)

    def test_trickled_handshake(self) -> None:
        """Octets of a handshake that does not come to its end do not wind the timer up."""
        _script, client = self.begin()
        client.send(b"tls\r\n")
        hello = b"\x16\x03\x01\x20\x00"
        for octet in hello * 5:
            client.wait(1)
            client.wire.arrive(bytes([octet]))
            client.settle()
        client.wait(5)
        self.assertTrue(client.wire.aborted)

    def test_after_the_handshake(self) -> None:
        """Once TLS stands the next command is awaited with the patience for commands."""
        _script, client = self.begin()
        client.send(b"tls\r\n")
        client.take()
        client.handshake()
        self.assertEqual(self.timers(), [300])
        self.assertEqual(client.ask(b"hello"), b"hello\r\n")

    def test_injection(self) -> None:
        """Octets behind STARTTLS are dropped unread, the client gets the refusal, the connection ends."""
        for behind in (b"hello\r\n", b"x", b"\r\n", b"hello\r\nhello\r\n", b"x" * 2000):
            script, client = self.begin()
            client.send(b"tls\r\n" + behind)
            self.assertEqual((client.take(), client.is_closed, len(script.events)), (b"no\r\n", True, 1), behind)

    def test_injection_behind_a_slow_command(self) -> None:
        """It makes no difference that a command before STARTTLS took its time."""
        script, client = self.begin()
        client.send(b"later a\r\ntls\r\nhello\r\n")
        script.finish(b"a")
        client.settle()
        self.assertEqual((client.take(), client.is_closed), (b"done a\r\nno\r\n", True))

    def test_injection_in_the_socket(self) -> None:
        """What had not been read when TLS began is taken for TLS, is none, and ends the connection."""
        script, client = self.begin()
        client.put(b"later a\r\ntls\r\n")
        client.put(b"hello\r\n")
        client.settle()
        script.finish(b"a")
        client.settle()
        self.assertTrue(client.is_closed)
        self.assertEqual([event for event in script.events if event == Line(b"hello")], [])


class EndTests(ConversationCase):
    """`close` and `abort`."""

    def test_twice(self) -> None:
        """To close or abort what is closed or gone does nothing."""
        script, client = self.begin()
        script.conversation.close(b"one\r\n")
        script.conversation.close(b"two\r\n")
        client.settle()
        self.assertEqual(client.take(), b"one\r\n")
        script.conversation.close(b"three\r\n")
        script.conversation.abort()
        self.assertEqual((client.take(), client.wire.aborted, self.timers()), (b"", False, []))

    def test_abort(self) -> None:
        """`abort` says nothing and waits for nobody."""
        script, client = self.begin(window=0)
        script.conversation.write(b"x" * 1000)
        script.conversation.abort()
        client.settle()
        self.assertEqual((client.is_closed, client.wire.aborted, self.timers()), (True, True, []))

    def test_abort_while_closing(self) -> None:
        """What does not close in order can still be aborted."""
        script, client = self.begin(window=0)
        script.conversation.close(b"end")
        script.conversation.abort()
        client.settle()
        self.assertEqual((client.is_closed, self.timers()), (True, []))

    def test_write_after_close(self) -> None:
        """Nothing is written behind the last words."""
        script, client = self.begin()
        client.send(b"later a\r\n")
        script.conversation.close(b"end")
        script.finish(b"a")
        client.settle()
        self.assertEqual(client.take(), b"end")

    def test_closed_while_reading_was_paused(self) -> None:
        """Reading goes on at the end, so that the peer's close is seen; what it says is dropped."""
        script, client = self.begin(window=0)
        client.send(b"later a\r\nhello\r\n")
        script.conversation.close(b"end")
        client.send(b"more\r\n")
        self.assertEqual((client.wire.undelivered, len(script.events)), (1, 1))
        client.hang_up(ConnectionDone)
        self.assertEqual(self.timers(), [])

    def test_no_delay(self) -> None:
        """Nagle's algorithm is off: it would keep a reply until the client acknowledges the last one."""
        _script, client = self.begin()
        self.assertTrue(client.wire.no_delay)
