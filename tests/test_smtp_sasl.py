"""SASL exchanges and strict base64."""

from __future__ import annotations

import base64

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.sasl.base64 import decode, decode_initial, encode
from mailsvc.sasl.exchange import MalformedResponse
from mailsvc.smtp.sasl import MECHANISMS, Challenge, Credentials, Exchange


class Base64Tests(SynchronousTestCase):
    """RFC 4954 section 4 and RFC 4648 section 3: no guess is made."""

    @settings(deadline=None)
    @given(st.binary(max_size=200))
    def test_round_trip(self, data: bytes) -> None:
        """What was encoded is decoded, and nothing else decodes to it."""
        self.assertEqual(decode(encode(data).encode()), data)
        if data:
            self.assertEqual(decode_initial(encode(data).encode()), data)

    @settings(deadline=None)
    @given(st.binary(max_size=12))
    def test_one_spelling(self, text: bytes) -> None:
        """Any octets are refused, or are exactly the encoding of what they decode to."""
        try:
            data = decode(text)
        except MalformedResponse:
            return
        self.assertEqual(base64.b64encode(data), text)

    def test_refused(self) -> None:
        """Other characters, missing or surplus padding, stray bits, white space, the URL alphabet."""
        for text in (
            b"=",
            b"a",
            b"ab",
            b"abc",
            b"ab=",
            b"abc==",
            b"YQ",
            b"YR==",
            b"YWJ=",
            b"YQ==YQ==",
            b"Y Q==",
            b" YQ==",
            b"YQ==\r",
            b"Y-_=",
            b"\xff\xff\xff\xff",
            b"====",
            b"YQ===",
            b"*",
            b"YWJj\0",
        ):
            self.assertRaises(MalformedResponse, decode, text)

    def test_initial(self) -> None:
        """An initial response of = is zero octets; nowhere else is it anything."""
        self.assertEqual(decode_initial(b"="), b"")
        self.assertRaises(MalformedResponse, decode_initial, b"==")


class PlainTests(SynchronousTestCase):
    """RFC 4616."""

    def test_with_initial_response(self) -> None:
        """Everything in one go."""
        self.assertEqual(Exchange("PLAIN").begin(b"\0alice\0secret word"), Credentials(b"alice", b"secret word", b""))

    def test_without(self) -> None:
        """An empty challenge first."""
        exchange = Exchange("PLAIN")
        self.assertEqual(exchange.begin(None), Challenge(b""))
        self.assertEqual(exchange.step(b"bob\0alice\0s"), Credentials(b"alice", b"s", b"bob"))

    def test_malformed(self) -> None:
        """Two NULs, a name and a password, or nothing."""
        for message in (
            b"",
            b"\0",
            b"\0\0",
            b"alice",
            b"\0alice",
            b"\0alice\0",
            b"\0\0secret",
            b"\0a\0b\0",
            b"a\0b\0c\0d",
        ):
            self.assertRaises(MalformedResponse, Exchange("PLAIN").begin, message)


class LoginTests(SynchronousTestCase):
    """draft-murchison-sasl-login."""

    def test_two_steps(self) -> None:
        """Name, then password; the name may be the initial response."""
        exchange = Exchange("LOGIN")
        self.assertEqual(exchange.begin(None), Challenge(b"Username:"))
        self.assertEqual(exchange.step(b"alice"), Challenge(b"Password:"))
        self.assertEqual(exchange.step(b"s\0"), Credentials(b"alice", b"s\0"))
        exchange = Exchange("LOGIN")
        self.assertEqual(exchange.begin(b"alice"), Challenge(b"Password:"))

    def test_empty(self) -> None:
        """An empty name or password is refused, at the end."""
        for name, password in ((b"", b"s"), (b"a", b""), (b"", b"")):
            exchange = Exchange("LOGIN")
            exchange.begin(name)
            self.assertRaises(MalformedResponse, exchange.step, password)


class MechanismTests(SynchronousTestCase):
    """The table of mechanisms."""

    def test_names(self) -> None:
        """PLAIN first: clients that take the first should not get the one without a standard."""
        self.assertEqual(list(MECHANISMS), ["PLAIN", "LOGIN"])
        self.assertRaises(KeyError, Exchange, "CRAM-MD5")

    def test_password_is_not_shown(self) -> None:
        """The repr of credentials, which ends up in tracebacks, does not hold the password."""
        self.assertNotIn("secret", repr(Credentials(b"alice", b"secret")))
