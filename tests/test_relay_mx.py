"""The hosts of a domain as DNS says them, and answers that are remembered."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.relay import answers
from mailsvc.relay.answers import RememberedAnswers
from mailsvc.relay.hosts import NoHosts
from mailsvc.relay.mx import Exchangers, Found
from mailsvc.resolver import Answer, Unanswered
from tests.fake_dns import NOBODY, FakeResolver


def run(coroutine: Any) -> Any:
    """The result of a coroutine that waits for nothing."""
    done: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(done.append)
    assert done, "it waits"
    if hasattr(done[0], "raiseException"):
        done[0].raiseException()
    return done[0]


class Mx(SynchronousTestCase):
    def exchangers(
        self, resolver: FakeResolver, private: Sequence[str] = ("192.0.2.0/24", "2001:db8::/32")
    ) -> Exchangers:
        return Exchangers(resolver, {"mail.example.org"}, Random(1), private=private)

    def no_hosts(self, found: object) -> NoHosts:
        assert isinstance(found, NoHosts), found
        return found

    def test_the_hosts_stand_in_the_order_of_their_preference(self) -> None:
        """The list, and whether DNSSEC vouches for it, come from one answer."""
        resolver = FakeResolver(
            {"there.example": [(10, "a.there.example"), (20, "b.there.example")]}, signed=["there.example"]
        )
        found = run(self.exchangers(resolver).of("there.example"))
        self.assertEqual(found, Found("there.example", ("a.there.example", "b.there.example"), True))

    def test_a_domain_without_mx_records_is_its_own_host(self) -> None:
        """The implicit MX of RFC 5321 section 5.1."""
        exchangers = self.exchangers(FakeResolver(hosts={"there.example": ["192.0.2.1"]}))
        found = run(exchangers.of("there.example"))
        self.assertEqual(found.hosts, ("there.example",))
        self.assertEqual(run(exchangers.addresses(found, "there.example")), ("192.0.2.1",))

    def test_a_domain_that_does_not_exist_is_a_permanent_failure(self) -> None:
        """Neither MX nor address: 5.1.2, and the sender hears it at once."""
        exchangers = self.exchangers(FakeResolver())
        found = run(exchangers.of("nowhere.example"))
        none = self.no_hosts(run(exchangers.addresses(found, "nowhere.example")))
        self.assertEqual((none.permanent, none.enhanced), (True, "5.1.2"))

    def test_an_mx_host_without_address_is_a_permanent_failure(self) -> None:
        """RFC 5321 section 5.1: records of which none is usable are an error."""
        exchangers = self.exchangers(FakeResolver({"there.example": [(10, "a.there.example")]}))
        found = run(exchangers.of("there.example"))
        none = self.no_hosts(run(exchangers.addresses(found, "a.there.example")))
        self.assertEqual((none.permanent, none.enhanced), (True, "5.4.4"))

    def test_silence_is_never_a_permanent_failure(self) -> None:
        """Nobody answered: the mail waits, be it the MX record or the address."""
        none = self.no_hosts(run(self.exchangers(FakeResolver({"there.example": NOBODY})).of("there.example")))
        self.assertEqual((none.permanent, none.enhanced), (False, "4.4.3"))
        exchangers = self.exchangers(FakeResolver(hosts={"there.example": NOBODY}))
        found = run(exchangers.of("there.example"))
        none = self.no_hosts(run(exchangers.addresses(found, "there.example")))
        self.assertEqual((none.permanent, none.enhanced), (False, "4.4.3"))

    def test_a_null_mx_takes_no_mail(self) -> None:
        """RFC 7505: 5.1.10."""
        none = self.no_hosts(run(self.exchangers(FakeResolver({"there.example": [(0, "")]})).of("there.example")))
        self.assertEqual((none.permanent, none.enhanced), (True, "5.1.10"))

    def test_a_backup_sends_to_better_hosts_only(self) -> None:
        """The name of the route counts beside our own."""
        resolver = FakeResolver(
            {"there.example": [(10, "a.there.example"), (20, "b.there.example"), (30, "c.example")]}
        )
        found = run(self.exchangers(resolver).of("there.example", "b.there.example"))
        self.assertEqual(found.hosts, ("a.there.example",))

    def test_an_address_literal_is_not_looked_up(self) -> None:
        """``user@[192.0.2.9]`` goes there, whatever DNS says."""
        resolver = FakeResolver()
        exchangers = self.exchangers(resolver)
        for domain, address in (("[192.0.2.9]", "192.0.2.9"), ("[IPv6:2001:db8::9]", "2001:db8::9")):
            found = run(exchangers.of(domain))
            self.assertEqual(run(exchangers.addresses(found, found.hosts[0])), (address,))
        self.assertEqual(resolver.asked, [])

    def test_a_stranger_cannot_make_us_talk_to_ourselves(self) -> None:
        """Addresses of this machine in DNS, in any spelling, are left out.

        Rule: MX hosts: never this machine itself
        """
        hosts = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "169.254.169.254", "fe80::1", "224.0.0.1"]
        resolver = FakeResolver(hosts={"there.example": hosts})
        exchangers = self.exchangers(resolver)
        found = run(exchangers.of("there.example"))
        none = self.no_hosts(run(exchangers.addresses(found, "there.example")))
        self.assertEqual((none.permanent, none.enhanced), (True, "5.4.6"))
        resolver.hosts["there.example"] = [*hosts, "192.0.2.1"]
        self.assertEqual(run(exchangers.addresses(found, "there.example")), ("192.0.2.1",))

    def test_a_stranger_cannot_make_us_talk_to_the_network_inside(self) -> None:
        """Addresses that are not of the internet, in any spelling, are left out, and address literals too; where
        nothing else is left the mail waits, because the postmaster may allow the network.

        Rule: MX hosts: no network that is not of the internet, unless it is allowed
        """
        hosts = ["10.0.0.1", "::ffff:192.168.1.1", "64:ff9b::10.0.0.1", "fd00::1", "100.64.0.1", "127.0.0.1"]
        resolver = FakeResolver({"there.example": [(10, "a.there.example")]}, hosts={"a.there.example": hosts})
        exchangers = self.exchangers(resolver, [])
        found = run(exchangers.of("there.example"))
        none = self.no_hosts(run(exchangers.addresses(found, "a.there.example")))
        self.assertEqual((none.permanent, none.enhanced), (False, "4.4.4"))
        self.assertEqual(
            none.why,
            "the host a.there.example of there.example has no address but 10.0.0.1, which is in a private network"
            " (RFC 1918): mail goes there by a route, or when relay.private_networks names that network",
        )
        for literal in ("[10.0.0.1]", "[IPv6:fd00::1]"):
            found = run(exchangers.of(literal))
            self.assertFalse(self.no_hosts(run(exchangers.addresses(found, found.hosts[0]))).permanent)
        found = run(exchangers.of("there.example"))
        resolver.hosts["a.there.example"] = [*hosts, "1.1.1.1"]
        self.assertEqual(run(exchangers.addresses(found, "a.there.example")), ("1.1.1.1",))
        allowing = self.exchangers(resolver, ["fd00::/8"])
        self.assertEqual(run(allowing.addresses(found, "a.there.example")), ("fd00::1", "1.1.1.1"))


class Slow(FakeResolver):
    """Answers when the test says so."""

    def __init__(self) -> None:
        super().__init__(hosts={"a.example": ["192.0.2.1"]})
        self.waiting: list[Deferred[None]] = []

    async def addresses(self, name: str) -> Answer[str]:
        waiting: Deferred[None] = Deferred()
        self.waiting.append(waiting)
        await waiting
        return await super().addresses(name)


class Remembered(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.resolver = FakeResolver(hosts={"a.example": ["192.0.2.1"]}, seconds=100)
        self.remembered = RememberedAnswers(self.resolver, self.clock)

    def asked(self) -> int:
        """Ask, and say how many questions there were so far."""
        run(self.remembered.addresses("a.example"))
        return len(self.resolver.asked)

    def test_an_answer_holds_for_its_ttl(self) -> None:
        """And not a second longer."""
        self.assertEqual([self.asked(), self.asked()], [1, 1])
        self.clock.advance(99)
        self.assertEqual(self.asked(), 1)
        self.clock.advance(1)
        self.assertEqual(self.asked(), 2)

    def test_no_ttl_holds_for_days(self) -> None:
        """What was changed is noticed after an hour."""
        self.resolver.seconds = 1_000_000
        self.asked()
        self.clock.advance(answers.LONGEST)
        self.assertEqual(self.asked(), 2)

    def test_a_clock_that_is_set_back_does_not_make_it_eternal(self) -> None:
        """Then it is asked again."""
        self.asked()
        self.clock.rightNow -= 50_000
        self.assertEqual(self.asked(), 2)

    def test_that_there_is_none_is_remembered_for_a_minute(self) -> None:
        """So that a wrong address costs one question."""
        self.resolver.hosts.clear()
        self.assertEqual([self.asked(), self.asked()], [1, 1])
        self.clock.advance(answers.NONE)
        self.assertEqual(self.asked(), 2)

    def test_silence_is_remembered_as_silence(self) -> None:
        """For some seconds nobody waits for a dead resolver again; it is never taken for "there is none"."""
        self.resolver.hosts["a.example"] = NOBODY
        for _ in range(2):
            self.assertRaises(Unanswered, self.asked)
        self.assertEqual(len(self.resolver.asked), 1)
        self.resolver.hosts["a.example"] = ["192.0.2.1"]
        self.clock.advance(answers.SILENCE)
        self.assertEqual(self.asked(), 2)

    def test_kinds_of_questions_do_not_mix(self) -> None:
        """The MX records of a name are not its addresses."""
        self.asked()
        self.assertEqual(run(self.remembered.mail_hosts("a.example")).records, ())
        self.assertEqual(run(self.remembered.texts("a.example")).records, ())
        self.assertEqual(run(self.remembered.tlsa("a.example")).records, ())

    def test_the_number_of_answers_is_limited(self) -> None:
        """The oldest go."""
        remembered = RememberedAnswers(self.resolver, self.clock, most=2)
        for name in ("a.example", "b.example", "c.example", "a.example"):
            run(remembered.addresses(name))
        self.assertEqual(len(self.resolver.asked), 4)

    def test_one_question_at_a_time(self) -> None:
        """Who wants the same waits for the same answer, and giving up takes it from nobody else."""
        resolver = Slow()
        remembered = RememberedAnswers(resolver, self.clock)
        first, second = (Deferred.fromCoroutine(remembered.addresses("a.example")) for _ in range(2))
        self.assertEqual(len(resolver.waiting), 1)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        resolver.waiting[0].callback(None)
        self.assertEqual(self.successResultOf(second).records, ("192.0.2.1",))
