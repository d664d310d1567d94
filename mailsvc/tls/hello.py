"""What a ClientHello asks for, read before OpenSSL reads it: the server's name, and whether TLS 1.3 may be spoken.

OpenSSL decides whether a session is resumed before it asks which certificate the name wants, and in TLS 1.2 it then
tells the session's name as if it were the one that was asked for. RFC 6066 section 3 forbids a server to resume a
session under another name. So `mailsvc.tls.server` has to know the name first, to keep sessions of different names
apart; this is all that is read here, and OpenSSL reads everything again and judges it.

The hardest idea is to be harmless. Nothing is held back and nothing is changed; the octets are a stranger's, so that
whatever is not as RFC 8446 section 4.1.2 has it is `UNREADABLE`, and a hello larger than `LIMIT` is, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

LIMIT = 20_000
"""Octets of a ClientHello with its records; one with a post-quantum key has some 1,800."""

_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _SUPPORTED_VERSIONS = 0, 43
_TLS_1_3 = b"\x03\x04"


@dataclass(frozen=True, slots=True)
class ClientHello:
    """``server_name`` as it was sent (anything a stranger may send), None when there was none."""

    server_name: bytes | None
    tls_1_3: bool


class Unreadable(Enum):
    """There is nothing to know of this hello."""

    UNREADABLE = "unreadable"


UNREADABLE = Unreadable.UNREADABLE


class HelloReader:
    """Reads the hello of one connection from what its client sends; each octet is looked at once, however TCP cuts."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._message = bytearray()
        self._taken = 0

    def feed(self, data: bytes) -> ClientHello | Unreadable | None:
        """The hello, once it is complete; None until then. Never raises."""
        size = len(data) - 5
        in_one = not self._taken and size > 4 and data[0] == _HANDSHAKE and data[3] << 8 | data[4] == size
        if in_one and int.from_bytes(data[6:9], "big") == size - 4:
            # One record with one message and nothing else, as most clients send it: there is nothing to put together.
            return _hello(data[5:])
        self._taken += len(data)
        place = 0
        while place < len(data):
            if not self._left:
                # A record's header (RFC 8446 section 5.1): kind, version, length.
                head = self._head + data[place : place + 5 - len(self._head)]
                place += len(head) - len(self._head)
                self._head = head
                if head[0] != _HANDSHAKE:
                    return UNREADABLE
                if len(head) < 5:
                    break
                self._head, self._left = b"", head[3] << 8 | head[4]
            piece = data[place : place + self._left]
            self._message += piece
            self._left -= len(piece)
            place += len(piece)
        message = self._message
        if len(message) >= 4 and len(message) >= (size := 4 + int.from_bytes(message[1:4], "big")):
            return _hello(bytes(message[:size]))
        return UNREADABLE if self._taken > LIMIT else None


def _hello(message: bytes) -> ClientHello | Unreadable:
    """RFC 8446 section 4.1.2; read by hand, because it is read for every connection."""
    try:
        if message[0] != _CLIENT_HELLO:
            return UNREADABLE
        place = 4 + 2 + 32  # behind legacy_version and random
        place += 1 + message[place]  # legacy_session_id
        place += 2 + _number(message, place)  # cipher_suites
        place += 1 + message[place]  # legacy_compression_methods
        if place == len(message):
            return ClientHello(None, False)
        end = place + 2 + _number(message, place)
        place += 2
        name, newest = None, False
        while place < end:
            kind, size = _number(message, place), _number(message, place + 2)
            place += 4
            value = message[place : place + size]
            place += size
            if kind == _SERVER_NAME:
                name = _host_name(value)
            elif kind == _SUPPORTED_VERSIONS:
                newest = _TLS_1_3 in (value[at : at + 2] for at in range(1, len(value), 2))
    except IndexError:
        return UNREADABLE
    return ClientHello(name, newest) if place == end == len(message) else UNREADABLE


def _host_name(value: bytes) -> bytes | None:
    """Of the list only its one host name was ever defined (RFC 6066 section 3). Raises IndexError."""
    if value[2] != 0:
        return None
    name = value[5:]
    if len(name) != _number(value, 3):
        raise IndexError("a name of another length than it says")
    return name


def _number(octets: bytes, place: int) -> int:
    return octets[place] << 8 | octets[place + 1]
