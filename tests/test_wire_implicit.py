"""TLS from the first octet: what leaves when, and in which order; what of Twisted it is built on."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.trial.unittest import SkipTest, SynchronousTestCase
from zope.interface import implementer

from mailsvc.smtp.modes import SUBMISSIONS
from mailsvc.wire.implicit import KNOWN, ImplicitTLS, ImplicitTLSFactory, is_known
from tests.memory import Client, MailHost, server_tls

METHODS = (
    TLSMemoryBIOProtocol.makeConnection,
    TLSMemoryBIOProtocol._checkHandshakeStatus,
    TLSMemoryBIOProtocol._flushSendBIO,
    TLSMemoryBIOProtocol._flushReceiveBIO,
    TLSMemoryBIOProtocol.dataReceived,
    TLSMemoryBIOProtocol._shutdownTLS,
    TLSMemoryBIOProtocol._tlsShutdownFinished,
    TLSMemoryBIOProtocol.connectionLost,
    TLSMemoryBIOProtocol.loseConnection,
    TLSMemoryBIOProtocol.write,
    BufferingTLSTransport,
    TLSMemoryBIOFactory.__init__,
)
READ = "b4349419a6b0f806"


class Answering(Protocol):
    """Answers each read with three words."""

    def __init__(self) -> None:
        self.words = [b"one ", b"two ", b"three\r\n"]
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        for word in self.words:
            self.say(word)

    def say(self, word: bytes) -> None:
        assert self.transport is not None
        self.transport.write(word)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True


@implementer(IHandshakeListener)
class Talking(Answering):
    """Says words as soon as the handshake is over, and may close."""

    def __init__(self, words: list[bytes], closes: bool) -> None:
        super().__init__()
        self.words = words
        self.closes = closes

    def handshakeCompleted(self) -> None:
        self.dataReceived(b"")
        if self.closes:
            assert self.transport is not None
            self.transport.loseConnection()


class Choice(SynchronousTestCase):
    def test_only_beside_the_release_that_was_read(self) -> None:
        """Another Twisted's own class serves in place of ours."""
        self.assertEqual(issubclass(ImplicitTLSFactory.protocol, ImplicitTLS), is_known())


class ImplicitTLSTests(SynchronousTestCase):
    def setUp(self) -> None:
        if not is_known():
            raise SkipTest(f"ImplicitTLS is used with Twisted {KNOWN} only")
        self.host = MailHost()
        self.session = Answering()

    def client(self, window: int | None = None, limit: int | None = None) -> Client:
        """A client of a listener that only answers."""
        factory = Factory.forProtocol(lambda: self.session)
        factory.noisy = False
        inside = ImplicitTLSFactory(server_tls(), False, factory, self.host.reactor)
        inside.limit = limit
        return self.host.connect(inside, window=window)

    def secured(self) -> Client:
        client = self.client()
        client.handshake()
        client.take()
        client.wire.writes.clear()
        return client

    def test_twisted_as_it_was(self) -> None:
        """The methods of the release that is `KNOWN` are those that were read when ours were written."""
        text = "".join(inspect.getsource(method) for method in METHODS)
        found = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.assertEqual(found, READ, "another Twisted: compare its protocols/tls.py with mailsvc/wire/implicit.py")

    def test_pieces_of_a_handshake(self) -> None:
        """The server's flight leaves in one piece, tickets and greeting in another."""
        client = self.host.connect(self.host.smtp_factory(SUBMISSIONS), inside_tls=True)
        client.handshake()
        self.assertEqual(client.take(), b"220 mail.example.org ESMTP\r\n")
        self.assertEqual(len(client.wire.writes), 2)

    def test_narrow_window(self) -> None:
        """What the client does not take at once waits, and nothing overtakes it."""
        for octets in (0, 1, 100, 1000):
            with self.subTest(octets):
                client = self.host.connect(self.host.smtp_factory(SUBMISSIONS), inside_tls=True, window=octets)
                client.begin_handshake()
                client.settle()
                self.assertEqual(sum(map(len, client.wire.writes)), octets)
                client.wire.window = None
                for _ in range(3):
                    client.settle()
                self.assertEqual(client.take(), b"220 mail.example.org ESMTP\r\n")
                self.assertTrue(client.ask(b"EHLO x").startswith(b"250-mail.example.org"))

    def test_answers_in_one_piece(self) -> None:
        """What is said to one read leaves in one TLS record."""
        client = self.secured()
        client.send(b"x")
        self.assertEqual(client.take(), b"one two three\r\n")
        (piece,) = client.wire.writes
        self.assertEqual(5 + int.from_bytes(piece[3:5], "big"), len(piece))

    def test_said_by_itself(self) -> None:
        """What is said at another time leaves in the reactor's next round, in one piece."""
        client = self.secured()
        for word in (b"by ", b"the ", b"way\r\n"):
            self.session.say(word)
        self.assertEqual(client.wire.writes, [])
        client.settle()
        self.assertEqual(client.take(), b"by the way\r\n")
        self.assertEqual(len(client.wire.writes), 1)

    def test_much(self) -> None:
        """A large answer comes whole, and large ones are not gathered."""
        client = self.secured()
        self.session.words = [b"x" * 40_000, b"y" * 40_000, b"z" * 40_000]
        client.send(b"x")
        self.assertEqual(client.take(), b"".join(self.session.words))

    def test_much_while_the_handshake_ends(self) -> None:
        """However much is said in the read that ends the handshake, all of it leaves, also when the session ends."""
        words = [b"x" * 50_000] * 8
        for closes in (False, True):
            for window in (None, 0):
                with self.subTest(closes=closes, window=window):
                    self.session = Talking(words, closes)
                    client = self.client(window=window)
                    client.begin_handshake()
                    client.settle()
                    client.wire.window = None
                    for _ in range(3):
                        client.settle()
                    self.assertEqual(client.take(), b"".join(words))

    def test_last_words(self) -> None:
        """What was said before the end leaves before close_notify."""
        client = self.secured()
        self.session.say(b"bye\r\n")
        assert self.session.transport is not None
        self.session.transport.loseConnection()
        client.settle()
        self.assertEqual((client.take(), client.saw_close_notify), (b"bye\r\n", True))
        client.close_tls()
        self.assertTrue(self.session.lost)

    def test_gone_meanwhile(self) -> None:
        """A client that is gone leaves no timer behind."""
        client = self.secured()
        self.session.say(b"too late\r\n")
        client.hang_up()
        self.assertTrue(self.session.lost)
        self.assertEqual(self.host.reactor.getDelayedCalls(), [])

    def test_gone_before_the_hello(self) -> None:
        """A client that never says a word is no mistake."""
        client = self.client()
        client.hang_up()
        self.assertTrue(self.session.lost)

    def test_no_tls(self) -> None:
        """What is no TLS ends the connection; what is no ClientHello gets an alert before that."""
        for said, answered in ((b"EHLO client.example.net\r\n", b""), (b"\x16\x03\x01\x00\x05xxxxx", b"\x15")):
            client = self.client()
            client.send(said)
            self.assertEqual((client.take()[:1], client.is_closed), (answered, True))

    def test_refused_handshake(self) -> None:
        """A client with nothing in common gets the alert before the end."""
        client = self.client()
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        context.set_cipher_list(b"AES128-SHA")
        client.begin_handshake(context)
        with self.assertRaises(SSL.Error):
            client.settle()
        self.assertTrue(client.is_closed)
        self.assertTrue(self.session.lost)

    def test_limit(self) -> None:
        """More connections than allowed get no protocol."""
        factory = Factory.forProtocol(Protocol)
        inside = ImplicitTLSFactory(server_tls(), False, factory, self.host.reactor)
        inside.limit = 0
        self.assertIsNone(inside.buildProtocol(None))
