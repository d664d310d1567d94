"""Fetching an MTA-STS policy: only over HTTPS whose name is verified, and only what is meant as a policy."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase

from mailsvc.mtasts.fetch import FetchFailed, fetch_policy, sts_facts
from mailsvc.mtasts.record import PolicyMode
from mailsvc.resolver import Answer, Unanswered
from mailsvc.tls.client import ClientTLS
from mailsvc.tls.levels import Level
from mailsvc.tls.policy import ServerPolicy
from tests.bad_certificates import Made, make, root, san
from tests.hostile import trust
from tests.tls_pair import PlainServer

reactor: Any = installed
POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: *.example.org\r\nmax_age: 86400\r\n"
NAME = "mta-sts.example.org"


def answer(body: bytes = POLICY, status: str = "200 OK", kind: str = "text/plain", more: str = "") -> bytes:
    """An HTTP response."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode("ascii") + body


def certificate(name: str = NAME) -> Made:
    return make(root(), name, names=san(name), usage=ExtendedKeyUsageOID.SERVER_AUTH)


class _Web(Protocol):
    """Sends its answer behind a request; closes when `closes`, otherwise leaves that to the client."""

    def __init__(self, says: bytes, closes: bool) -> None:
        self._says, self._closes = says, closes
        self.heard = b""

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        if b"\r\n\r\n" in self.heard and self.transport is not None:
            self.transport.write(self._says)
            if self._closes:
                self.transport.loseConnection()


class FetchTests(TestCase):
    """A web server on loopback that stands for any name."""

    def setUp(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.servers: list[_Web] = []
        self.tls = ClientTLS(ServerPolicy(Level.NAME, trust()))

    def serve(self, says: bytes, shown: Made | None = None, *, closes: bool = True) -> Callable[[str, int], Any]:
        shown = shown or certificate()
        plain = Factory()

        def build(addr: object) -> Protocol:
            self.servers.append(_Web(says, closes))
            return self.servers[-1]

        plain.buildProtocol = build  # type: ignore[method-assign]
        factory = TLSMemoryBIOFactory(PlainServer((shown.certificate,), shown.key), False, plain)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)

        def connect(host: str, number: int) -> Any:
            self.asked.append((host, number))
            return TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)

        return connect

    async def refused(self, says: bytes, words: str, shown: Made | None = None, *, closes: bool = True) -> None:
        connect = self.serve(says, shown, closes=closes)
        fetching = Deferred.fromCoroutine(fetch_policy("example.org", self.tls, reactor, connect=connect))
        failure = await self.assertFailure(fetching, FetchFailed)
        self.assertIn(words, str(failure))
        self.assertIn(f"https://{NAME}/.well-known/mta-sts.txt", str(failure))

    async def test_a_policy(self) -> None:
        """The right place is asked, and its answer is the policy."""
        connect = self.serve(answer())
        policy = await fetch_policy("example.org", self.tls, reactor, connect=connect)
        self.assertIs(policy.mode, PolicyMode.ENFORCE)
        self.assertEqual(self.asked, [(NAME, 443)])
        self.assertTrue(self.servers[0].heard.startswith(b"GET /.well-known/mta-sts.txt HTTP/1.1\r\n"))
        self.assertIn(b"\r\nHost: mta-sts.example.org\r\n", self.servers[0].heard)

    async def test_a_header_without_end(self) -> None:
        """An answer that never comes to its policy is cut off after some octets, and not only after a minute.

        Rule: MTA-STS: limits on size and time
        """
        says = b"HTTP/1.1 200 OK\r\n" + b"X-Y: z\r\n" * 100_000
        await self.refused(says, "does not answer in HTTP, or not to the end", closes=False)

    async def test_without_a_length(self) -> None:
        """A body that the end of the connection ends is taken, too."""
        says = b"HTTP/1.1 200 OK\r\nContent-Type: Text/Plain; charset=utf-8\r\n\r\n" + POLICY
        policy = await fetch_policy("example.org", self.tls, reactor, connect=self.serve(says))
        self.assertEqual(policy.max_age, 86400)

    async def test_certificates(self) -> None:
        """A certificate that is not for this very name says nothing about the domain (RFC 8461 section 3.3).

        Rule: MTA-STS: a policy counts only over HTTPS with a verified name
        """
        await self.refused(answer(), "not for mta-sts.example.org", certificate("www.example.org"))
        await self.refused(answer(), "self-signed", make(None, NAME, names=san(NAME)))
        self.assertEqual([each.heard for each in self.servers], [b"", b""])

    async def test_redirects(self) -> None:
        """They are not followed (RFC 8461 section 3.3).

        Rule: MTA-STS: no redirects, 200 and text/plain only
        """
        await self.refused(answer(status="302 Found", more="Location: https://example.org/x\r\n"), "redirects must not")
        self.assertEqual(len(self.asked), 1)

    async def test_other_answers(self) -> None:
        """Another status, another type, no policy in it.

        Rule: MTA-STS: no redirects, 200 and text/plain only
        """
        await self.refused(answer(status="404 Not Found"), "answers 404")
        await self.refused(answer(status="500 Oh"), "answers 500")
        await self.refused(answer(kind="text/html"), "'text/html', not text/plain")
        await self.refused(answer(b"<html>"), "no field")
        await self.refused(b"SSH-2.0-x\r\n", "does not answer in HTTP")

    async def test_limits(self) -> None:
        """Too much, too little, too slow: all end.

        Rule: MTA-STS: limits on size and time
        """
        await self.refused(answer(b"x: y\r\n" * 20_000), "more than 65536 octets")
        await self.refused(answer()[:-5], "middle of the answer")
        await self.refused(b"", "does not answer in HTTP")
        connect = self.serve(answer()[:-5], closes=False)
        fetching = Deferred.fromCoroutine(fetch_policy("example.org", self.tls, reactor, connect=connect, seconds=0.3))
        failure = await self.assertFailure(fetching, FetchFailed)
        self.assertIn("within 0.3 seconds", str(failure))

    async def test_nobody_there(self) -> None:
        """A web server that is not there."""
        held = socket.socket()
        self.addCleanup(held.close)
        held.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        number = held.getsockname()[1]
        connect = lambda host, _: TCP4ClientEndpoint(reactor, "127.0.0.1", number)  # noqa: E731
        fetching: Any = Deferred.fromCoroutine(fetch_policy("example.org", self.tls, reactor, connect=connect))
        self.assertIn("nobody answers", str(await self.assertFailure(fetching, FetchFailed)))

    async def test_facts(self) -> None:
        """Record and policy together; whatever is missing is a remark, and nothing is raised."""
        records: dict[str, tuple[str, ...]] = {}

        class Texts:
            doubt = ""

            async def texts(self, name: str) -> Answer[str]:
                if name == "_mta-sts.broken.example":
                    raise Unanswered("no answer")
                return Answer(records.get(name, ()))

        async def facts(domain: str) -> Any:
            return await sts_facts(domain, Texts(), self.tls, reactor, connect=connect)  # type: ignore[arg-type]

        connect = self.serve(answer())
        self.assertIn("has no MTA-STS", (await facts("example.org")).remark)
        self.assertEqual((await facts("broken.example")).remark, "no answer")
        records["_mta-sts.example.org"] = ("v=STSv1; id=1", "v=STSv1; id=2")
        self.assertIn("counts as none", (await facts("example.org")).remark)
        self.assertEqual(self.asked, [])
        records["_mta-sts.example.org"] = ("v=STSv1; id=20260101;",)
        found = await facts("example.org")
        self.assertEqual((found.id, found.remark, found.policy.mode), ("20260101", "", PolicyMode.ENFORCE))
        connect = self.serve(answer(status="503 No"))
        found = await facts("example.org")
        self.assertEqual((found.policy, found.id), (None, "20260101"))
        self.assertIn("503", found.remark)
