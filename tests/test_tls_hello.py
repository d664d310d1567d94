"""`mailsvc.tls.hello`: the name in a ClientHello, before OpenSSL sees it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.tls.hello import LIMIT, UNREADABLE, ClientHello, HelloReader, Unreadable


def hello(name: bytes | None, newest: int = SSL.TLS1_3_VERSION) -> bytes:
    """What OpenSSL's client sends first."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(newest)
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    if name is not None:
        connection.set_tlsext_host_name(name)
    try:
        connection.do_handshake()
    except SSL.WantReadError:
        return connection.bio_read(1 << 16)
    raise AssertionError("a handshake without a server")


def in_records(octets: bytes, size: int) -> bytes:
    """The same handshake message in records of so many octets."""
    message = octets[5:]
    pieces = [message[start : start + size] for start in range(0, len(message), size)]
    return b"".join(octets[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


HELLO = hello(b"mail.example.org")


class HelloTests(SynchronousTestCase):
    """Of real clients, and of none."""

    def test_what_it_tells(self) -> None:
        """The name as it was sent, or that there was none; and whether TLS 1.3 is among the versions."""
        for name in (b"mail.example.org", b"POP.Example.org", b"\xff not a name", None):
            for newest in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
                found = HelloReader().feed(hello(name, newest))
                self.assertEqual(found, ClientHello(name, newest == SSL.TLS1_3_VERSION))

    def test_pieces(self) -> None:
        """However TCP cuts it, and however TLS does (RFC 8446 section 5.1), it is the same hello, told when its last
        octet is there."""
        for octets in (HELLO, in_records(HELLO, 1), in_records(HELLO, 7)):
            reader = HelloReader()
            for place in range(len(octets) - 1):
                self.assertIsNone(reader.feed(octets[place : place + 1]))
            self.assertEqual(reader.feed(octets[-1:]), ClientHello(b"mail.example.org", True))

    def test_no_hello(self) -> None:
        """Another protocol, another message, and a length that lies are unreadable at once; what never becomes complete
        is, too, and is not gathered without end."""
        wrong = HELLO[:5] + b"\x02" + HELLO[6:]
        name = HELLO.index(b"mail.example.org")
        lies = HELLO[: name - 2] + b"\xff\xff" + HELLO[name:]
        for octets in (b"GET / HTTP/1.1\r\n\r\n", b"EHLO there\r\n", b"\x80\x2e\x01\x03\x01", wrong, lies):
            self.assertIs(HelloReader().feed(octets), UNREADABLE, octets[:20])
        reader = HelloReader()
        endless = b"\x16\x03\x01\xff\xff\x01\xff\xff\xff" + b"x" * LIMIT
        self.assertIs(reader.feed(endless), UNREADABLE)

    @settings(deadline=None)
    @given(st.integers(0, len(HELLO) - 1), st.binary(max_size=40), st.integers(0, 60))
    def test_damage(self, place: int, put: bytes, cut: int) -> None:
        """Whatever is done to a hello, reading it raises nothing."""
        found = HelloReader().feed(HELLO[:place] + put + HELLO[place + cut :])
        self.assertIsInstance(found, ClientHello | Unreadable | None)
