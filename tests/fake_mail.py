"""Mail servers that do as a test says, and a network in memory to reach them: for the client's side.

`Network` is a reactor without sockets or time: `connectTCP` and `connectUNIX` lead to a `FakeServer`, which speaks real
TLS.  What a server does is a `Script`: what it greets with, offers, answers, shows as certificate, and where it breaks
off.  What it has heard is kept apart by whether it was said in clear, because that is what the tests are about.

The client's end of a connection is a `Wire` of `tests.memory`, with Twisted's real ``startTLS``.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IReactorTCP, IReactorTime, IReactorUNIX
from twisted.python.failure import Failure
from zope.interface import implementer

from mailsvc.certkit.keys import PrivateKey
from mailsvc.mail.address import Address, parse_address
from mailsvc.relay.outgoing import Content, Outgoing
from mailsvc.sasl.scram import Salting, make_verifier, scram
from mailsvc.tls.recheck import Purpose
from tests.bad_certificates import good_leaf, root
from tests.memory import MemoryReactor, Wire
from tests.tls_pair import present

GOOD = good_leaf(root(), Purpose.SERVER)
"""A certificate for mail.example.org, by `root()`."""

ALL = ("PIPELINING", "SIZE 1000000", "8BITMIME", "SMTPUTF8", "CHUNKING", "DSN", "ENHANCEDSTATUSCODES", "REQUIRETLS")
SIMPLE = ("SIZE 1000000", "8BITMIME")

Answer = bytes | None
"""What is sent for a command; None: nothing at all, and b"" : the connection ends."""


@dataclass(frozen=True)
class Script:
    """What a server does.

    ``implicit``: TLS first.  ``starttls``: whether it is offered.  ``go_ahead``: what STARTTLS is answered with.
    ``behind``: sent in clear right behind that.  ``tls``: how the handshake goes: "yes", "no" (it sends no TLS), "end"
    (it breaks off), "stall".  ``answers``: by command ("RCPT TO:<a@b>", "RCPT", "END", "GREETING", ...), the most
    particular first; a sequence is used up.  ``secure``: the keywords inside TLS, None for the same.  ``auth``:
    mechanisms offered inside TLS.  ``lost_after``: the connection is cut when this command has come.
    """

    keywords: Sequence[str] = SIMPLE
    secure: Sequence[str] | None = None
    implicit: bool = False
    starttls: bool = True
    go_ahead: bytes = b"220 2.0.0 go ahead\r\n"
    behind: bytes = b""
    tls: str = "yes"
    chain: Sequence[x509.Certificate] = (GOOD.certificate,)
    key: PrivateKey = GOOD.key
    demands_certificate: bool = False
    answers: Mapping[str, Answer | Sequence[Answer]] = field(default_factory=dict)
    lost_after: str = ""
    auth: Sequence[str] = ()
    lmtp: bool = False
    context: SSL.Context | None = None

    def make_context(self) -> SSL.Context:
        """What its handshakes are made with; one that is kept as ``context`` lets sessions be resumed."""
        context = present(SSL.Context(SSL.TLS_SERVER_METHOD), self.chain, self.key)
        context.set_session_id(b"fake")
        if self.demands_certificate:
            context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
        return context


@dataclass
class Taken:
    """A message that a server has taken."""

    encrypted: bool
    sender: str
    recipients: list[str]
    content: bytes


class FakeServer:
    """One connection.  ``clear`` and ``inside``: every octet that came in clear and inside TLS; ``commands``: the lines
    outside content."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.clear = bytearray()
        self.inside = bytearray()
        self.commands: list[str] = []
        self.taken: list[Taken] = []
        self.logged_in = ""
        self.wire: Outward | None = None
        self.ended = False
        self._tls: SSL.Connection | None = None
        self._handshaking = False
        self._stalled = False
        self._buffer = bytearray()
        self._content: bytearray | None = None
        self._chunk = 0
        self._last_chunk = False
        self._dotted = True
        self._used: dict[str, int] = {}
        self._sender, self._mail, self._recipients = "", "", list[str]()
        self._exchange: Any = None

    # -- the wire

    def connected(self, wire: Outward) -> None:
        self.wire = wire
        if self.script.implicit:
            self._begin_tls()
        else:
            self._answer("GREETING", b"220 mail.example.org ESMTP\r\n")

    def octets(self, data: bytes) -> None:
        """What the client has sent."""
        if self.ended or self._stalled:
            return
        if self._tls is None:
            self.clear += data
            self._buffer += data
            self._work()
            return
        self._tls.bio_write(data)
        try:
            if self._handshaking:
                self._tls.do_handshake()
                self._handshaking = False
                if self.script.implicit:
                    self._answer("GREETING", b"220 mail.example.org ESMTP\r\n")
            while True:
                plain = self._tls.recv(65536)
                self.inside += plain
                self._buffer += plain
                self._work()
        except SSL.WantReadError:
            pass
        except (SSL.ZeroReturnError, SSL.SysCallError):
            self.end()
        except SSL.Error:
            self._flush()
            self.end()
        if not self.ended:
            self._flush()

    def end(self) -> None:
        """Close the connection."""
        if not self.ended and self.wire is not None:
            self.ended = True
            self.wire.peer_closed()

    def _flush(self) -> None:
        assert self._tls is not None and self.wire is not None
        try:
            while True:
                self.wire.arrive(self._tls.bio_read(65536))
        except SSL.WantReadError:
            pass

    def say(self, data: bytes) -> None:
        """Send octets."""
        assert self.wire is not None
        if self._tls is None:
            self.wire.arrive(data)
        else:
            self._tls.send(data)
            self._flush()

    def _begin_tls(self) -> None:
        match self.script.tls:
            case "stall":
                self._stalled = True
            case "no":
                assert self.wire is not None
                self.wire.arrive(b"500 what is that\r\n")
            case "end":
                self.end()
            case _:
                self._tls = SSL.Connection(self.script.context or self.script.make_context(), None)
                self._tls.set_accept_state()
                self._handshaking = True
                # What was said in clear is forgotten, as RFC 3207 wants it.
                self._buffer.clear()

    # -- the protocol

    @property
    def _encrypted(self) -> bool:
        return self._tls is not None

    def _work(self) -> None:
        while not self.ended and not self._stalled:
            if self._content is not None:
                if not self._take_content():
                    return
                continue
            end = self._buffer.find(b"\r\n")
            if end < 0:
                return
            line = bytes(self._buffer[:end]).decode("utf-8", "replace")
            del self._buffer[: end + 2]
            self._command(line)

    def _answer(self, key: str, default: bytes) -> bytes:
        """Answer as the script says; returns what was said."""
        if self.ended:
            return b""
        words = [key, key.partition(" ")[0]]
        said: Answer = default
        for word in words:
            if word in self.script.answers:
                found = self.script.answers[word]
                if isinstance(found, (bytes, type(None))):
                    said = found
                else:
                    place = self._used.get(word, 0)
                    self._used[word] = place + 1
                    said = found[min(place, len(found) - 1)]
                break
        if said is None:
            self._stalled = True
            return b""
        if said == b"":
            self.end()
            return b""
        self.say(said)
        if said.startswith(b"421"):
            self.end()
        return said

    def _command(self, line: str) -> None:
        self.commands.append(line)
        verb = line.partition(" ")[0].upper()
        if self._exchange is not None:
            self._auth_step(line)
            return
        if self.script.lost_after and line.upper().startswith(self.script.lost_after):
            self.end()
            return
        match verb:
            case "EHLO" | "LHLO":
                self._hello(verb)
            case "HELO":
                self._answer("HELO", b"250 mail.example.org\r\n")
            case "STARTTLS":
                said = self._answer("STARTTLS", self.script.go_ahead + self.script.behind)
                if said.startswith(b"220"):
                    self._begin_tls()
            case "AUTH":
                self._auth(line)
            case "MAIL":
                said = self._answer(line, b"250 2.1.0 ok\r\n")
                self._sender, self._mail, self._recipients = "", "", []
                if said.startswith(b"250"):
                    self._mail = line
                    self._sender = line.partition("<")[2].partition(">")[0]
            case "RCPT":
                to = line.partition("<")[2].partition(">")[0]
                default = b"250 2.1.5 ok\r\n" if self._mail else b"503 5.5.1 MAIL first\r\n"
                if (
                    self._answer(f"RCPT TO:<{to}>" if f"RCPT TO:<{to}>" in self.script.answers else line, default)[:1]
                    == b"2"
                ):
                    self._recipients.append(to)
            case "DATA":
                default = b"354 go on\r\n" if self._recipients else b"554 5.5.1 no valid recipients\r\n"
                if self._answer("DATA", default).startswith(b"354"):
                    self._content, self._dotted = bytearray(), True
            case "BDAT":
                parts = line.upper().split()
                self._chunk, self._last_chunk = int(parts[1]), parts[-1] == "LAST"
                self._content = self._pending if self._chunks_open else bytearray()
                self._dotted = False
            case "RSET":
                self._mail, self._recipients, self._chunks_open = "", [], False
                self._answer("RSET", b"250 2.0.0 ok\r\n")
            case "QUIT":
                self._answer("QUIT", b"221 2.0.0 bye\r\n")
                self.end()
            case _:
                self._answer(verb, b"500 5.5.1 what\r\n")

    _pending = bytearray()
    _chunks_open = False

    def _hello(self, verb: str) -> None:
        script = self.script
        if (verb == "LHLO") is not script.lmtp:
            self.say(b"500 5.5.1 not here\r\n")
            return
        keywords = script.keywords if not self._encrypted or script.secure is None else script.secure
        words = ["mail.example.org", *keywords]
        if not self._encrypted and script.starttls:
            words.append("STARTTLS")
        if self._encrypted and script.auth:
            words.append(f"AUTH {' '.join(script.auth)}")
        lines = [f"250{'-' if place + 1 < len(words) else ' '}{word}\r\n" for place, word in enumerate(words)]
        self._answer(verb, "".join(lines).encode())

    def _take_content(self) -> bool:
        assert self._content is not None
        if not self._dotted:
            if len(self._buffer) < self._chunk:
                return False
            self._content += self._buffer[: self._chunk]
            del self._buffer[: self._chunk]
            done, self._content = self._content, None
            if self.script.lost_after == "CONTENT":
                self.end()
            elif self._last_chunk:
                self._chunks_open = False
                self._done(bytes(done))
            else:
                self._pending, self._chunks_open = done, True
                self._answer("BDAT", b"250 2.0.0 got it\r\n")
            return True
        if self._buffer.startswith(b".\r\n") and not self._content:
            end, skip = 0, 3
        else:
            end, skip = self._buffer.find(b"\r\n.\r\n") + 2, 3
            if end < 2:
                if self.script.lost_after == "CONTENT" and self._buffer:
                    self.end()
                if "EARLY" in self.script.answers and self._buffer:
                    self._answer("EARLY", b"")
                    self._buffer.clear()
                return False
        self._content += self._buffer[:end]
        del self._buffer[: end + skip]
        done, self._content = self._content, None
        content = bytes(done)
        if content.startswith(b"."):
            content = content[1:]
        self._done(content.replace(b"\r\n.", b"\r\n"))
        return True

    def _done(self, content: bytes) -> None:
        self.commands.append("<content>")
        if self.script.lost_after == "END":
            self.end()
            return
        took = b"250 2.0.0 taken as 4711\r\n"
        if self.script.lmtp:
            kept = [each for each in self._recipients if self._answer(f"END {each}", took)[:1] == b"2"]
        else:
            kept = self._recipients if self._answer("END", took)[:1] == b"2" else []
        if kept:
            self.taken.append(Taken(self._encrypted, self._sender, list(kept), content))
        self._mail, self._recipients = "", []

    # -- AUTH: user "joe", password "open sesame"; token "t0ken"

    def _auth(self, line: str) -> None:
        words = line.split(" ")
        name = words[1].upper()
        if "AUTH" in self.script.answers:
            self._answer("AUTH", b"")
            return
        self._exchange = _auth_steps(self, name)
        wants = next(self._exchange)
        if len(words) > 2:
            self._auth_step(words[2])
        else:
            self.say(b"334 %s\r\n" % base64.b64encode(wants))

    def _auth_step(self, line: str) -> None:
        exchange = self._exchange
        if line == "*":
            self._exchange = None
            self.say(b"501 5.7.0 cancelled\r\n")
            return
        try:
            wants = exchange.send(b"" if line == "=" else base64.b64decode(line))
            self.say(b"334 %s\r\n" % base64.b64encode(wants))
        except StopIteration as done:
            self._exchange = None
            self.logged_in = done.value or ""
            self.say(b"235 2.7.0 welcome\r\n" if done.value else b"535 5.7.8 wrong\r\n")


def _auth_steps(server: FakeServer, name: str) -> Any:
    """Yields challenges, is sent responses, returns who it is or None."""
    match name:
        case "PLAIN":
            authzid, user, password = (yield b"").split(b"\0")
            return user.decode() if password == b"open sesame" and authzid in (b"", user) else None
        case "LOGIN":
            user = yield b"Username:"
            password = yield b"Password:"
            return user.decode() if password == b"open sesame" else None
        case "EXTERNAL":
            user = yield b""
            return user.decode() or "by certificate"
        case "XOAUTH2":
            said = yield b""
            if b"Bearer t0ken\x01" in said:
                return said.partition(b"user=")[2].partition(b"\x01")[0].decode()
            yield b'{"status":"400"}'
            return None
        case "SCRAM-SHA-256" | "SCRAM-SHA-256-PLUS":
            return (yield from _scram_steps(server, plus=name.endswith("PLUS")))
    return None


def _scram_steps(server: FakeServer, *, plus: bool) -> Any:
    offered = "SCRAM-SHA-256-PLUS" in server.script.auth
    assert server._tls is not None
    binding = server._tls.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"") if offered else None
    salting = Salting(b"salt" * 4, 4096)
    verifier = make_verifier("open sesame", salting)
    steps = scram("servernonce", binding, plus=plus)
    challenge = next(steps)
    response = yield challenge.data
    wanted = steps.send(response)
    challenge = steps.send(salting)
    response = yield challenge.data
    proof = steps.send(response)
    if not proof.fits(verifier):
        return None
    challenge = steps.send(verifier)
    yield challenge.data
    return wanted.username.decode()


# -- the network


class Outward(Wire):
    """The client's end of a connection."""

    _tlsClientDefault = True

    def __init__(self, reactor: Network, server: FakeServer, peer: object) -> None:
        super().__init__(reactor, peer)
        self.network = reactor
        self.server = server

    def writeSomeData(self, data: bytes) -> int:
        # A little at a time, so that a server may say something in the middle.
        taken = super().writeSomeData(bytes(data[:65536]))
        if taken:
            self.network.callLater(0, self.server.octets, bytes(data[:taken]))
        return taken

    def peer_closed(self) -> None:
        """The server has closed: what it said before still arrives."""
        self.network.callLater(0, self._closed)

    def _closed(self) -> None:
        while self._arrived:
            self.deliver()
        if self.end is None:
            self.connectionLost(Failure(ConnectionDone()))

    def connectionLost(self, reason: Failure) -> None:
        self.server.ended = True
        super().connectionLost(reason)


class _Connector:
    def __init__(self, wire: Outward | None = None) -> None:
        self.wire = wire

    def stopConnecting(self) -> None:
        pass

    def disconnect(self) -> None:
        pass

    def getDestination(self) -> object:
        return None


@implementer(IReactorTime, IReactorTCP, IReactorUNIX)
class Network(MemoryReactor):
    """Servers by place: (address, port), or the path of a UNIX socket.  ``met``: every connection's server, in order.

    A place without a script refuses the connection; one whose script is None does not answer at all.
    """

    def __init__(self, places: Mapping[object, Script | None] | None = None) -> None:
        super().__init__()
        self.places: dict[object, Script | None] = dict(places or {})
        self.met: list[FakeServer] = []
        self.asked: list[object] = []

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None) -> Any:
        return self._connect((host, port), factory)

    def connectUNIX(self, address: str, factory: Any, timeout: float = 30, checkPID: Any = 0) -> Any:
        return self._connect(address, factory)

    def listenTCP(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def listenUNIX(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def _connect(self, place: object, factory: Any) -> _Connector:
        self.asked.append(place)
        connector = _Connector()
        factory.doStart()
        factory.startedConnecting(connector)
        if place not in self.places:
            self.callLater(0, factory.clientConnectionFailed, connector, Failure(ConnectionRefusedError()))
            return connector
        script = self.places[place]
        if script is None:
            return connector
        server = FakeServer(script)
        self.met.append(server)
        wire = Outward(self, server, _Peer(place))
        wire.begin(factory.buildProtocol(None))
        self.callLater(0, server.connected, wire)
        return connector

    def run(self, coroutine: Any, *, patience: float = 3600.0) -> Any:
        """The result of a coroutine; time passes as far as it must."""
        outcome: list[Any] = []
        deferred: Deferred[Any] = Deferred.fromCoroutine(coroutine)
        deferred.addBoth(outcome.append)
        self.settle()
        if not outcome:
            self.pass_time(patience)
        assert outcome, "it never ends"
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        return outcome[0]

    @property
    def clear(self) -> bytes:
        """Everything that any server has heard in clear."""
        return b"".join(bytes(each.clear) for each in self.met)

    @property
    def taken(self) -> list[Taken]:
        """All messages that were taken."""
        return [taken for each in self.met for taken in each.taken]


@dataclass(frozen=True)
class _Peer:
    place: object

    @property
    def host(self) -> str:
        return str(self.place[0]) if isinstance(self.place, tuple) else ""


# -- messages


def content_of(data: bytes, pieces: Callable[[bytes], Iterable[bytes]] = lambda data: (data,)) -> Content:
    """Content that gives these octets, in these pieces."""

    async def read() -> AsyncIterator[bytes]:
        for piece in pieces(data):
            yield piece

    return read


MESSAGE = b"Subject: hello\r\n\r\nthe secret content\r\n"


def outgoing(*to: str, content: bytes = MESSAGE, sender: str = "alice@example.net", **more: Any) -> Outgoing:
    """A message to these recipients."""
    recipients = tuple(parse_address(each) for each in to or ("joe@example.org",))
    reverse: Address | None = parse_address(sender) if sender else None
    pieces = more.pop("pieces", lambda data: (data,))
    return Outgoing(reverse, recipients, content_of(content, pieces), len(content), **more)
