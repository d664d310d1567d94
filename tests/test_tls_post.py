"""Giving something to a web server: only over HTTPS whose name is verified, and only a 2xx is a yes."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase

from mailsvc.tls.client import ClientTLS
from mailsvc.tls.https import FetchFailed, post
from mailsvc.tls.levels import Level
from mailsvc.tls.policy import ServerPolicy
from mailsvc.tls.recheck import Purpose
from tests.bad_certificates import HOST, good_leaf, root, trusting
from tests.tls_pair import PlainServer

reactor: Any = installed
URL = f"https://{HOST}/reports?to=us"
BODY = b"\x1f\x8b compressed" * 1000


class _Web(Protocol):
    """Answers when the whole request has come."""

    def __init__(self, says: bytes) -> None:
        self.heard = b""
        self._says = says

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        if self.heard.endswith(BODY) and self._says and self.transport is not None:
            self.transport.write(self._says)
            self.transport.loseConnection()


class Posting(TestCase):
    """A web server on loopback that stands for any name."""

    def setUp(self) -> None:
        self.servers: list[_Web] = []

    async def posted(self, says: bytes, name: str = HOST, seconds: float = 5.0) -> None:
        leaf = good_leaf(root(), Purpose.SERVER)
        plain = Factory()

        def build(addr: object) -> Protocol:
            self.servers.append(_Web(says))
            return self.servers[-1]

        plain.buildProtocol = build  # type: ignore[method-assign]
        factory = TLSMemoryBIOFactory(PlainServer((leaf.certificate,), leaf.key), False, plain)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        tls = ClientTLS(ServerPolicy(Level.NAME, trusting(root())))

        def connect(host: str, number: int) -> Any:
            return TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)

        url = URL.replace(HOST, name)
        await post(url, BODY, tls, reactor, kind="application/tlsrpt+gzip", seconds=seconds, connect=connect)

    async def refused(self, words: str, says: bytes = b"", name: str = HOST, seconds: float = 5.0) -> None:
        with self.assertRaises(FetchFailed) as caught:
            await self.posted(says, name, seconds)
        self.assertIn(words, str(caught.exception))

    async def test_what_is_posted(self) -> None:
        """The body as it is, with its type and length."""
        await self.posted(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        head, _, body = self.servers[0].heard.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"POST /reports?to=us HTTP/1.1\r\n"))
        self.assertIn(b"Content-Type: application/tlsrpt+gzip", head)
        self.assertIn(b"Content-Length: %d" % len(BODY), head)
        self.assertEqual(body, BODY)

    async def test_only_2xx_is_a_yes(self) -> None:
        """A redirect is not followed."""
        for status in (b"301 Moved", b"404 Not Found", b"500 Oops"):
            says = b"HTTP/1.1 " + status + b"\r\nLocation: https://other.example/\r\nContent-Length: 0\r\n\r\n"
            await self.refused(f"the server answers {status[:3].decode()}", says)

    async def test_another_name_hears_nothing(self) -> None:
        """The certificate is checked before the first octet of the report."""
        await self.refused("", name="other.example")
        self.assertEqual([each.heard for each in self.servers if each.heard], [])

    async def test_silence_ends(self) -> None:
        """After its seconds."""
        await self.refused("within 0.2 seconds", seconds=0.2)
