"""DNS answers as values: a name server on loopback, and whom to believe."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.resolver
import dns.rrset
from twisted.internet import reactor as installed
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from mailsvc import resolver as module
from mailsvc.resolver import Answer, MailHost, Questions, SystemResolver, Unanswered, questions_of
from mailsvc.tls.dane import TLSARecord

reactor: Any = installed
ZONE = {
    ("mx.example.org.", "A"): ["192.0.2.1"],
    ("mx.example.org.", "AAAA"): ["2001:db8::1"],
    ("www.example.org.", "CNAME"): ["mx.example.org."],
    ("halved.example.org.", "A"): ["192.0.2.2"],
    ("halved-v6.example.org.", "TXT"): ["x"],
    ("example.org.", "MX"): ["20 Backup.example.org.", "10 mx.example.org."],
    ("null.example.org.", "MX"): ["0 ."],
    ("_mta-sts.example.org.", "TXT"): ['"v=STSv1; " "id=1;"'],
    ("_25._tcp.mx.example.org.", "TLSA"): ["3 1 1 " + "ab" * 32],
}


class NameServer(DatagramProtocol):
    """Answers from `ZONE`; names below "broken" fail, names below "silent" get no answer."""

    def __init__(self, *, authentic: bool) -> None:
        self.authentic = authentic
        self.wanted: list[tuple[bool, bool]] = []

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(datagram)
        question = query.question[0]
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        if "silent" in name:
            return
        self.wanted.append((bool(query.flags & dns.flags.AD), bool(query.ednsflags & dns.flags.DO)))
        response = dns.message.make_response(query)
        if self.authentic:
            response.flags |= dns.flags.AD
        found = ZONE.get((name, "CNAME"))
        if found:
            response.answer.append(dns.rrset.from_text(name, 300, "IN", "CNAME", *found))
            name = found[0]
        if records := ZONE.get((name, kind)):
            response.answer.append(dns.rrset.from_text(name, 600, "IN", kind, *records))
        if "broken" in name or ("halved" in name and kind == "AAAA"):
            response.set_rcode(dns.rcode.SERVFAIL)
        elif not any(name == each for each, _ in ZONE):
            response.set_rcode(dns.rcode.NXDOMAIN)
        assert self.transport is not None
        self.transport.write(response.to_wire(), addr)


class ResolverTests(TestCase):
    """Through real datagrams."""

    def setUp(self) -> None:
        self.server = NameServer(authentic=True)
        self.port = reactor.listenUDP(0, self.server, interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)

    def resolver(self, name_server: str = "127.0.0.1") -> SystemResolver:
        asked = dns.resolver.Resolver(configure=False)
        asked.nameservers, asked.port = [name_server], self.port.getHost().port
        return SystemResolver(reactor, asked=asked)

    async def test_every_kind(self) -> None:
        """Records as values, in order, authentic."""
        resolver = self.resolver()
        self.assertEqual(resolver.doubt, "")
        self.assertEqual(
            await resolver.addresses("mx.example.org"),
            Answer(("2001:db8::1", "192.0.2.1"), True, "", "mx.example.org", 600),
        )
        hosts = await resolver.mail_hosts("example.org")
        self.assertEqual(hosts.records, (MailHost(10, "mx.example.org"), MailHost(20, "backup.example.org")))
        self.assertEqual((await resolver.mail_hosts("null.example.org")).records, (MailHost(0, ""),))
        self.assertEqual((await resolver.texts("_mta-sts.example.org")).records, ("v=STSv1; id=1;",))
        tlsa = await resolver.tlsa("_25._tcp.mx.example.org")
        self.assertEqual((tlsa.records, tlsa.authentic), ((TLSARecord(3, 1, 1, b"\xab" * 32),), True))
        self.assertEqual(set(self.server.wanted), {(True, True)})

    async def test_one_family_fails(self) -> None:
        """A name server that fails on AAAA does not take the IPv4 addresses away, nor what DNSSEC says of them; without
        any address the failure is the answer."""
        found = await self.resolver().addresses("halved.example.org")
        self.assertEqual((found.records, found.authentic), (("192.0.2.2",), True))
        await self.assertFailure(Deferred.fromCoroutine(self.resolver().addresses("halved-v6.example.org")), Unanswered)

    async def test_aliases(self) -> None:
        """The name at the end is told."""
        self.assertEqual((await self.resolver().addresses("www.example.org")).canonical, "mx.example.org")

    async def test_nothing_there(self) -> None:
        """No such name and no such record are answers, as authentic as others."""
        for name in ("nobody.example.org", "mx.example.org"):
            found = await self.resolver().texts(name)
            self.assertEqual((found.records, found.authentic), ((), True))

    async def test_unsigned(self) -> None:
        """Without AD an answer counts, and is not authentic."""
        self.server.authentic = False
        for name in ("_25._tcp.mx.example.org", "nobody.example.org"):
            found = await self.resolver().tlsa(name)
            self.assertFalse(found.authentic)
            self.assertIn("DNSSEC does not vouch", found.doubt)

    async def test_failures(self) -> None:
        """A name server that fails or is silent gives no answer, which is not the answer "none"."""
        for name, words, seconds in (
            ("broken.example.org", "SERVFAIL", 60.0),
            ("silent.example.org", "in time", 0.2),
            ("a..b", "could not", 60.0),
        ):
            self.patch(module, "SECONDS", seconds)
            resolver = self.resolver()
            failure = await self.assertFailure(Deferred.fromCoroutine(resolver.texts(name)), Unanswered)
            self.assertIn(words, str(failure))


class Lines(TestCase):
    """Questions wait for each other, and for nobody else."""

    def setUp(self) -> None:
        self.now = 0.0
        self.reactor = _Threads()
        self.addCleanup(self.reactor.stop)
        self.questions = Questions(self.reactor, threads=1, line=2, turn=15.0, clock=lambda: self.now)

    async def test_slow_resolvers(self) -> None:
        """A thread that is held by a dead resolver: so many wait, the next is told at once, and who has waited too long
        when it is his turn is not looked up any more.

        Rule: DNS: a dead resolver holds up nobody but those who ask it
        """
        held, began = threading.Event(), threading.Event()
        self.addCleanup(held.set)

        def slow() -> str:
            began.set()
            held.wait()
            return "slow"

        first = self.questions.ask("first.example", slow)
        await deferToThread(began.wait)
        late = self.questions.ask("late.example", lambda: "late")
        self.now = 10.0
        last = self.questions.ask("last.example", lambda: "last")
        failure = self.failureResultOf(self.questions.ask("more.example", lambda: "more"), Unanswered)
        self.assertIn("more.example could not be looked up: too many other questions", str(failure.value))
        self.assertEqual(await deferToThread(lambda: "others"), "others")
        self.now = 16.0
        held.set()
        self.assertEqual(await first, "slow")
        told = await self.assertFailure(late, Unanswered)
        self.assertIn("the resolvers are too slow", str(told))
        self.assertEqual(await last, "last")
        self.assertEqual(await self.questions.ask("more.example", lambda: "more"), "more")

    async def test_cancelled(self) -> None:
        """Who does not wait any more is free at once, and keeps his place in the count until the thread is."""
        held, began = threading.Event(), threading.Event()
        self.addCleanup(held.set)

        def slow() -> None:
            began.set()
            held.wait()

        first = self.questions.ask("first.example", slow)
        await deferToThread(began.wait)
        asked: list[str] = []
        second = self.questions.ask("second.example", lambda: asked.append("second"))
        for each in (first, second):
            each.cancel()
            self.failureResultOf(each, CancelledError)
        third = self.questions.ask("third.example", lambda: "third")
        self.failureResultOf(self.questions.ask("fourth.example", lambda: "fourth"), Unanswered)
        held.set()
        self.assertEqual(await third, "third")
        self.assertEqual(asked, [])

    async def test_the_end(self) -> None:
        """When the reactor stops, what waits is passed over and nothing more is taken."""
        self.assertEqual(await self.questions.ask("first.example", lambda: "first"), "first")
        self.reactor.stop()
        self.failureResultOf(self.questions.ask("second.example", lambda: "second"), Unanswered)

    def test_one_for_all(self) -> None:
        """A process that makes a resolver for each message has threads for one."""
        self.assertIs(questions_of(reactor), questions_of(reactor))


class _Threads:
    """What `Questions` wants of a reactor, with a shutdown of its own."""

    def __init__(self) -> None:
        self._ending: list[tuple[str, Callable[[], None]]] = []

    def callFromThread(self, work: Callable[..., None], *args: Any) -> None:
        reactor.callFromThread(work, *args)

    def addSystemEventTrigger(self, phase: str, event: str, work: Callable[[], None]) -> None:
        assert event == "shutdown"
        self._ending.append((phase, work))

    def stop(self) -> None:
        ending, self._ending = self._ending, []
        for _, work in sorted(ending, key=lambda each: ["before", "during"].index(each[0])):
            work()


class Belief(TestCase):
    """Whose word on DNSSEC counts."""

    def test_only_this_machine(self) -> None:
        """The AD flag of a resolver elsewhere is anybody's word (RFC 7672 section 2.1).

        Rule: DANE: only from a validating resolver on this machine
        """
        for servers, believed in (
            (["127.0.0.1"], True),
            (["127.0.0.53", "::1"], True),
            (["192.0.2.53"], False),
            (["127.0.0.1", "192.0.2.53"], False),
            (["https://dns.example/query"], False),
        ):
            asked = dns.resolver.Resolver(configure=False)
            asked.nameservers = list(servers)
            doubt = SystemResolver(reactor, asked=asked).doubt
            self.assertEqual(doubt == "", believed, servers)
            if not believed:
                self.assertTrue(doubt.startswith("no validating resolver"), doubt)

    async def test_no_resolver_at_all(self) -> None:
        """A file that is missing or empty is a doubt, and every question goes unanswered."""
        empty = Path(self.mktemp())
        empty.write_text("")
        for path in (Path(self.mktemp()), empty):
            resolver = SystemResolver(reactor, path)
            self.assertNotEqual(resolver.doubt, "")

        failure = await self.assertFailure(
            Deferred.fromCoroutine(SystemResolver(reactor, path).texts("a.b")), Unanswered
        )
        self.assertIn("could not be looked up", str(failure))
