"""An SMTP server with STARTTLS on a real socket of loopback, for tests of the probe; single answers are a test's."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from tests.bad_certificates import root
from tests.hostile import good
from tests.tls_pair import PlainServer

reactor: Any = installed


@cache
def _server() -> PlainServer:
    """One for all connections: a session is resumed only by the context that it is from."""
    return PlainServer((good().certificate, root().certificate), good().key)


class _Mail(Protocol):
    """An SMTP server with STARTTLS that is in order; ``script`` changes single answers."""

    answers = {b"EHLO": b"250-x\r\n250 STARTTLS\r\n", b"STARTTLS": b"220 go\r\n", b"QUIT": b"221 bye\r\n"}

    def __init__(self, changed: dict[bytes, bytes]) -> None:
        self._answers = {b"": b"220 hi\r\n", **self.answers, **changed}
        self._heard = b""

    def connectionMade(self) -> None:
        self._write(b"")

    def dataReceived(self, data: bytes) -> None:
        self._heard += data
        while b"\r\n" in self._heard:
            line, _, self._heard = self._heard.partition(b"\r\n")
            self._write(line.partition(b" ")[0])

    def _write(self, verb: bytes) -> None:
        transport: Any = self.transport
        answer = self._answers.get(verb, b"500 what\r\n")
        transport.write(answer)
        if verb == b"STARTTLS" and answer == b"220 go\r\n":
            transport.startTLS(_server())
            self._answers[b"EHLO"] = b"250 x\r\n"
        elif verb == b"QUIT" or not answer:
            transport.loseConnection()


class Serving(TestCase):
    """Tests with such servers, which end with them."""

    def serve(self, **changed: bytes) -> int:
        answers = {verb.upper().encode("ascii"): answer for verb, answer in changed.items()}
        factory = Factory()
        factory.buildProtocol = lambda addr: _Mail(answers)  # type: ignore[method-assign]
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def serve_locally(self, **changed: bytes) -> str:
        """The path of a UNIX socket where one serves; short, because the kernel takes no long ones."""
        folder = tempfile.mkdtemp(prefix="mailsvc-")
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        answers = {verb.upper().encode("ascii"): answer for verb, answer in changed.items()}
        factory = Factory()
        factory.buildProtocol = lambda addr: _Mail(answers)  # type: ignore[method-assign]
        port = reactor.listenUNIX(f"{folder}/lmtp", factory)
        self.addCleanup(port.stopListening)
        return f"{folder}/lmtp"
