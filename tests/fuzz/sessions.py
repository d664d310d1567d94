"""Targets: SASL exchanges (RFC 4422, RFC 4616, RFC 5802), and the PROXY header in front of a session."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import re
import struct
from random import Random
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from mailsvc.sasl.base64 import decode, decode_initial, encode
from mailsvc.sasl.exchange import (
    BindingRefused,
    CertificateLogin,
    Challenge,
    Channel,
    MalformedResponse,
    PasswordLogin,
    Proven,
    UnknownMechanism,
    VerifierWanted,
)
from mailsvc.sasl.mechanisms import LONGEST_NAME, begin, offered
from mailsvc.sasl.scram import Proof, Salting, Verifier
from mailsvc.wire.proxied import ProxiedFactory
from tests.fuzz.target import Target, cuts, pick, require, some

_NONCE = "3rfcNHYJY1ZVvWVs7j"
_BINDING = b"b" * 32
_SALTING = Salting(b"0123456789abcdef", 4096)
_SALTED = hashlib.sha256(b"any key will do: PBKDF2 is not what is tested here").digest()
_CLIENT_KEY = hmac.digest(_SALTED, b"Client Key", "sha256")
_VERIFIER = Verifier(
    _SALTING, hashlib.sha256(_CLIENT_KEY).digest(), hmac.digest(_SALTED, b"Server Key", "sha256")
)  # fmt: skip
_CHANNELS = {
    b"clear": Channel("smtp", "192.0.2.7", False),
    b"tls": Channel("smtp", "192.0.2.7", True),
    b"bound": Channel("smtp", "192.0.2.7", True, binding=_BINDING),
    b"certified": Channel("pop3", "192.0.2.7", True, binding=_BINDING, certificate=object()),
}
_MOST_STEPS = 6


class _Client:
    """Turns the lines of an input into responses, with ``{nonce}`` and ``{proof}`` as a client would fill them in."""

    def __init__(self) -> None:
        self.first = self.server_first = b""
        self.right = False

    def response(self, line: bytes) -> bytes:
        if not line.startswith(b"!"):
            return line
        text = line[1:].replace(b"\\0", b"\0").replace(b"{nonce}", self._nonce())
        if b"{proof}" in text:
            text = text.replace(b"{proof}", base64.b64encode(self.proof(text.partition(b",p={proof}")[0])))
        return encode(text).encode()

    def note(self, decoded: bytes, challenge: bytes) -> None:
        if challenge.startswith(b"r="):
            self.first, self.server_first = decoded, challenge

    def _nonce(self) -> bytes:
        return self.server_first[2:].partition(b",")[0]

    def proof(self, without: bytes) -> bytes:
        """RFC 5802 section 3, by somebody who knows the password."""
        bare = self.first.split(b",", 2)[-1]
        message = b",".join((bare, self.server_first, without))
        signature = hmac.digest(hashlib.sha256(_CLIENT_KEY).digest(), message, "sha256")
        return bytes(a ^ b for a, b in zip(_CLIENT_KEY, signature, strict=True))


def sasl_check(data: bytes) -> str:
    """An AUTH command: mechanism and channel in the first line, then a response a line.

    ``!`` begins a response before base64; ``{nonce}`` and ``{proof}`` in it are the right ones.
    """
    head, *lines = data.split(b"\n")
    words = head.split()
    mechanism = words[0].decode("latin-1").upper() if words else ""
    channel = _CHANNELS.get(words[1] if len(words) > 1 else b"", _CHANNELS[b"bound"])
    names = offered(channel, scram=True, external=True)
    require(channel.secured or not names, "a mechanism outside TLS")
    require(("SCRAM-SHA-256-PLUS" in names) == (channel.binding is not None and channel.secured), "PLUS or not")
    if mechanism not in names:
        try:
            begin(mechanism, channel, _NONCE)
        except UnknownMechanism:
            return "unknown"
        return "not offered"
    try:
        return f"{mechanism} {_exchange(mechanism, channel, lines)}"
    except (MalformedResponse, BindingRefused) as error:
        require(str(error).isprintable(), "an error that is no sentence")
        return f"{mechanism} {error}"


def _exchange(mechanism: str, channel: Channel, lines: list[bytes]) -> str:
    client, steps = _Client(), begin(mechanism, channel, _NONCE)
    wanted: Any = next(steps)
    answered = taken = 0
    decoded = b""
    while True:
        taken += 1
        require(taken <= _MOST_STEPS, "an exchange without an end")
        match wanted:
            case Challenge(challenge):
                client.note(decoded, challenge)
                require(b"\r" not in challenge and b"\n" not in challenge, "a line end in a challenge")
                if answered == len(lines):
                    return f"waits {answered}"
                line = client.response(lines[answered])
                if line == b"*":
                    return f"given up {answered}"
                decoded = decode_initial(line) if answered == 0 else decode(line)
                require(encode(decoded).encode() in (line, b""), "base64 of two spellings")
                answered += 1
                wanted = steps.send(decoded)
            case VerifierWanted(username):
                _name(username)
                wanted = steps.send(_SALTING)
            case Proof():
                if not _proof_fits(wanted, client, decoded, mechanism):
                    return "wrong proof"
                wanted = steps.send(_VERIFIER)
            case PasswordLogin(username, password, authzid):
                _name(username)
                require(bool(username and password) and len(authzid) <= LONGEST_NAME, "a login without a name")
                require(b"\0" not in username + password + authzid, "NUL in a login")
                if mechanism == "PLAIN":
                    require(decoded == b"\0".join((authzid, username, password)), "PLAIN was read in another way")
                return f"login {bool(authzid)} {username.isascii()}"
            case CertificateLogin(authzid):
                require(authzid == decoded and b"\0" not in authzid, "EXTERNAL was read in another way")
                require(channel.certificate is not None, "EXTERNAL without a certificate")
                return f"certificate {bool(authzid)}"
            case Proven():
                require(mechanism.startswith("SCRAM") and client.right, "proven without a proof")
                return "proven"
            case _:
                raise AssertionError(f"a mechanism wants {wanted!r}")


def _name(username: bytes) -> None:
    require(0 < len(username) <= LONGEST_NAME and b"\0" not in username, "a name that is none")


def _proof_fits(proof: Proof, client: _Client, decoded: bytes, mechanism: str) -> bool:
    """Whether it fits, which must be so for exactly the octets that a client with the password would send."""
    without = decoded.rpartition(b",p=")[0]
    gs2 = b",".join(client.first.split(b",", 2)[:2]) + b","
    seen = gs2 + (_BINDING if mechanism.endswith("PLUS") else b"")
    bound = re.match(rb"c=([^,]*)", without)
    same_channel = (bound[1] if bound else b"") == base64.b64encode(seen)
    client.right = same_channel and proof.proof == client.proof(without)
    fits = proof.fits(_VERIFIER)
    require(fits == client.right, "a proof is judged in another way than RFC 5802 says")
    require(b"\0" not in proof.authzid, "NUL in an authzid")
    return fits


class _Session(Protocol):
    """What a client behind the proxy talks to."""

    def __init__(self) -> None:
        self.data = b""

    def dataReceived(self, data: bytes) -> None:
        self.data += data


class _Sessions(Factory):
    noisy = False

    def __init__(self) -> None:
        self.built: list[tuple[Any, _Session]] = []

    def buildProtocol(self, addr: Any) -> _Session:
        session = _Session()
        self.built.append((addr, session))
        return session


class _ProxyTransport(StringTransport):
    """Closes like a real one, so that nothing comes behind `loseConnection`."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()


def _proxied(pieces: list[bytes]) -> tuple[str, bytes] | None:
    clock, sessions = Clock(), _Sessions()
    connection = ProxiedFactory(sessions, clock, 30.0).buildProtocol(None)
    transport = _ProxyTransport(peerAddress=IPv4Address("TCP", "10.0.0.1", 50000))
    connection.makeConnection(transport)
    for piece in pieces:
        if piece and not transport.disconnecting and not transport.aborted:
            connection.dataReceived(piece)
    require(len(sessions.built) <= 1, "more than one session")
    known = None
    if sessions.built:
        peer, session = sessions.built[0]
        require(isinstance(peer, (IPv4Address, IPv6Address, UNIXAddress)), "a client of no kind")
        known = (_address(peer), session.data)
    if not transport.disconnecting and not transport.aborted and known is None:
        clock.advance(30)
        require(transport.aborted, "a proxy that says nothing is waited for")
        known = ("silent", b"")
    connection.connectionLost(Failure(connectionDone.value))
    require(not clock.getDelayedCalls(), "a timer that stays")
    return known


def _address(peer: IPv4Address | IPv6Address | UNIXAddress) -> str:
    """An address that can stand in a header and in a log is one that `ipaddress` can read."""
    if isinstance(peer, UNIXAddress):
        return "unix"
    address = ipaddress.ip_address(peer.host)
    require(address.version == (4 if isinstance(peer, IPv4Address) else 6), "an address of the other family")
    require("%" not in peer.host, "an address with a zone")
    require(0 <= peer.port <= 65535, "a port that is none")
    return f"{type(peer).__name__} {address} {peer.port}"


def proxy_check(data: bytes) -> str:
    """The header in any segments: one client, or none; what is behind it is the client's, to the octet."""
    whole = _proxied([data])
    for pieces in (cuts(data), [data[place : place + 1] for place in range(min(len(data), 250))]):
        if sum(map(len, pieces)) == len(data):
            require(_proxied(pieces) == whole, f"a client that depends on the segments: {whole} {_proxied(pieces)}")
    if whole is None:
        return "refused"
    client, behind = whole
    require(data.endswith(behind), "octets behind the header that are not the client's")
    return f"{client.split()[0]} {bool(behind)} {data[:1] == b'P'}"


def _response(random: Random) -> bytes:
    plain = pick(
        random, b"!\\0alice\\0secret", b"!bob\\0alice\\0secret", b"!alice", b"!secret", b"!\\0\\0", b"!", b"=", b"",
        b"*",
        b"AGFsaWNlAHNlY3JldA==", b"AGE=", b"!a\\0b\\0c\\0d", b"YR==",
    )  # fmt: skip
    return plain


def _scram_lines(random: Random) -> tuple[bytes, bytes]:
    plus = random.random() < 0.5
    flag = b"p=tls-exporter" if plus else pick(random, b"n", b"n", b"y")
    if random.random() < 0.1:
        flag = pick(random, b"n", b"y", b"p=tls-unique", b"p=tls-exporter")
    gs2 = flag + b"," + pick(random, b"", b"", b"a=bob") + b","
    name = pick(random, b"alice", b"a=2Cb", b"a=3Db", b"a=b", b"\xc3\xbc", b"")
    first = b"!" + gs2 + pick(random, b"", b"", b"", b"m=x,") + b"n=" + name + b",r=abc" + pick(random, b"", b",x=y")
    binding = base64.b64encode(gs2 + (_BINDING if plus else b""))
    proof = pick(random, b"{proof}", b"{proof}", b"{proof}", base64.b64encode(b"x" * 32))
    final = b"!c=" + binding + b",r={nonce}" + pick(random, b"", b",x=y") + b",p=" + proof
    mechanism = b"SCRAM-SHA-256" + b"-PLUS" * plus
    return mechanism, b"\n".join((first, final, pick(random, b"", b"", b"!x")))


def _auth(random: Random) -> bytes:
    channel = b" " + pick(random, b"clear", b"tls", b"bound", b"certified", b"bound", b"certified")
    if random.random() < 0.6:
        mechanism, lines = _scram_lines(random)
        return mechanism + channel + b"\n" + lines
    mechanism = pick(random, b"PLAIN", b"LOGIN", b"EXTERNAL", b"SCRAM-SHA-256", b"CRAM-MD5")
    return mechanism + channel + some(random, lambda random: b"\n" + _response(random), 3)


def _proxy_header(random: Random) -> bytes:
    behind = pick(random, b"", b"EHLO x\r\n", b"\x16\x03\x01")
    if random.random() < 0.5:
        kind = pick(random, b"TCP4", b"TCP6", b"UNKNOWN")
        address = pick(random, b"198.51.100.9", b"2001:db8::9", b"::ffff:192.0.2.1", b"x", b"")
        words = (b"PROXY", kind, address, b"192.0.2.1", pick(random, b"40000", b"0", b"65535", b"65536", b"-1"), b"25")
        return b" ".join(words) + b"\r\n" + behind
    family = int(random.random() * 4) << 4 | int(random.random() * 3)
    tail = bytes(int(random.random() * 256) for _ in range(int(random.random() * 40)))
    if family >> 4 == 1:
        tail = bytes([198, 51, 100, 9, 192, 0, 2, 1]) + struct.pack("!HH", 40000, 25) + tail[:4]
    elif family >> 4 == 2:
        tail = bytes(range(32)) + struct.pack("!HH", 40000, 25) + tail[:4]
    elif family >> 4 == 3:
        tail = b"/run/x".ljust(108, b"\0") * 2
    length = struct.pack("!H", len(tail) if random.random() < 0.9 else len(tail) + 3)
    command = b"\x21" if random.random() < 0.8 else pick(random, b"\x20", b"\x22", b"\x11")
    return b"\r\n\r\n\x00\r\nQUIT\n" + command + bytes([family]) + length + tail + behind


SASL = Target(
    "sasl",
    sasl_check,
    _auth,
    (
        b"\n", b"!", b"{nonce}", b"{proof}", b",p=", b"c=biws", b"r=", b"n=", b"a=", b"m=", b"=2C", b"=3D", b"=2c",
        b"y,,", b"n,,",
        b"p=tls-exporter", b"p=tls-unique", b"\\0", b"PLAIN", b"LOGIN", b"EXTERNAL", b"SCRAM-SHA-256", b"-PLUS",
        b" certified",
        b" clear", b"A" * 4000, b"i=1",
    ),
)  # fmt: skip
PROXY = Target(
    "proxy",
    proxy_check,
    _proxy_header,
    (
        b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN", b"\r\n", b"\r\n\r\n\x00\r\nQUIT\n", b"\x21\x11\x00\x0c",
        b"\x20\x00\x00\x00",
        b"127.0.0.1 ", b"::1 ", b"65536", b"%lo ", b"1e3", b"\xd9\xa1", b"_", b"+1", b"0x10", b"01.2.3.4",
    ),
)  # fmt: skip
