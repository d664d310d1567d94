"""What a mail host must show: DANE, MTA-STS and the downgrade memory together; and whose mail a host takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mtasts.record import PolicyMode, StsPolicy
from mailsvc.relay.demands import DaneFacts, StsFacts, requirement
from mailsvc.relay.facts import MailDomain, dane_facts, mail_domain
from mailsvc.resolver import Answer, MailHost, Unanswered
from mailsvc.tls.dane import TLSARecord
from mailsvc.tls.levels import Level
from mailsvc.tls.memory import Demand

HOST = "mx.example.org"
PLACE = f"_25._tcp.{HOST}"
GOOD, UNUSABLE = TLSARecord(3, 1, 1, b"x" * 32), TLSARecord(0, 0, 1, b"x" * 32)
NO_DANE, NO_STS = DaneFacts(), StsFacts()
NOTHING = Demand(Level.PLAIN, "nothing is remembered")
ENFORCE = StsFacts("example.org", "1", StsPolicy(PolicyMode.ENFORCE, ("*.example.org",), 86400))
ELSEWHERE = StsFacts("example.org", "1", StsPolicy(PolicyMode.ENFORCE, ("mail.example.net",), 86400))


class Requirements(SynchronousTestCase):
    """One demand from three sources."""

    def level(self, dane: DaneFacts = NO_DANE, sts: StsFacts = NO_STS, memory: Demand = NOTHING) -> Level:
        found = requirement(HOST, dane, sts, memory)
        self.assertEqual(found.obstacle, "")
        return found.level

    def test_nothing(self) -> None:
        """Nobody demands anything: mail goes with what there is."""
        self.assertEqual(requirement(HOST, DaneFacts(), StsFacts(), NOTHING).reasons, ())
        self.assertIs(self.level(), Level.PLAIN)

    def test_dane(self) -> None:
        """Usable TLSA records demand DANE; others demand TLS (RFC 7672 section 2.2).

        Rule: DANE: unusable records do not count
        """
        self.assertIs(self.level(DaneFacts(PLACE, (GOOD, UNUSABLE))), Level.DANE)
        self.assertIs(self.level(DaneFacts(PLACE, (UNUSABLE,))), Level.ENCRYPTED)

    def test_sts(self) -> None:
        """Enforce demands the name; testing and none demand nothing (RFC 8461 section 5).

        Rule: MTA-STS: enforce demands a verified name, and a host that the policy names
        """
        self.assertIs(self.level(sts=ENFORCE), Level.NAME)
        for mode in (PolicyMode.TESTING, PolicyMode.NONE):
            self.assertIs(self.level(sts=StsFacts("example.org", "1", StsPolicy(mode, ("x.y",), 1))), Level.PLAIN)
        self.assertIn("does not name", requirement(HOST, DaneFacts(), ELSEWHERE, NOTHING).obstacle)

    def test_dane_decides_over_sts(self) -> None:
        """With usable records MTA-STS is not asked (RFC 8461 section 2).

        Rule: DANE decides where both it and MTA-STS are there
        """
        self.assertIs(self.level(DaneFacts(PLACE, (GOOD,)), ELSEWHERE), Level.DANE)

    def test_no_answer_is_an_obstacle(self) -> None:
        """What nobody could say is not "nothing is demanded"."""
        found = requirement(HOST, DaneFacts(obstacle="SERVFAIL"), ENFORCE, NOTHING)
        self.assertEqual((found.obstacle, found.level), ("SERVFAIL", Level.NAME))

    @settings(deadline=None)
    @given(st.sampled_from(Level), st.booleans(), st.booleans())
    def test_the_strictest_counts(self, remembered: Level, dane: bool, sts: bool) -> None:
        """No source takes away what another demands."""
        memory = Demand(remembered, "it was so before")
        facts = DaneFacts(PLACE, (GOOD,)) if dane else DaneFacts()
        level = self.level(facts, ENFORCE if sts else StsFacts(), memory)
        self.assertGreaterEqual(level, remembered)
        self.assertGreaterEqual(level, Level.DANE if dane else Level.NAME if sts else Level.PLAIN)


@dataclass
class Zone:
    """A resolver of what is written here; names that are missing have no records."""

    records: dict[str, Answer[object]] = field(default_factory=dict)
    doubt: str = ""
    failing: frozenset[str] = frozenset()

    async def _ask(self, name: str) -> Answer[object]:
        if name in self.failing:
            raise Unanswered(f"{name} could not be looked up")
        return self.records.get(name, Answer(authentic=True))

    addresses = mail_hosts = texts = tlsa = _ask


def addresses(canonical: str = HOST, *, authentic: bool = True) -> Answer[object]:
    return Answer(("192.0.2.1",), authentic, "" if authentic else "not signed", canonical)


class Facts(SynchronousTestCase):
    """What is asked, in which order, and what the answers mean."""

    def dane(self, zone: Zone) -> DaneFacts:
        return self.successResultOf(Deferred.fromCoroutine(dane_facts(HOST, 25, zone)))  # type: ignore[arg-type]

    def domain(self, zone: Zone, host: str = HOST, named: str = "") -> MailDomain | None:
        return self.successResultOf(Deferred.fromCoroutine(mail_domain(host, zone, named=named)))  # type: ignore[arg-type]

    def test_dane(self) -> None:
        """Records behind authentic addresses count; none are none."""
        zone = Zone({HOST: addresses(), PLACE: Answer((GOOD,), True)})
        self.assertEqual(self.dane(zone), DaneFacts(PLACE, (GOOD,)))
        self.assertIn("no TLSA records", self.dane(Zone({HOST: addresses()})).remark)

    def test_whom_to_believe(self) -> None:
        """Without a validating resolver, or in a zone that is not signed, TLSA is not even asked for.

        Rule: DANE: only from a validating resolver on this machine
        """
        broken = frozenset({PLACE})
        self.assertEqual(self.dane(Zone({HOST: addresses()}, "no validating resolver", broken)).remark[:2], "no")
        unsigned = self.dane(Zone({HOST: addresses(authentic=False)}, failing=broken))
        self.assertEqual(unsigned, DaneFacts(remark="not signed"))
        insecure = self.dane(Zone({HOST: addresses(), PLACE: Answer((GOOD,), False, "a hole")}))
        self.assertEqual((insecure.records, insecure.remark), ((), "a hole"))

    def test_a_signed_zone_that_does_not_answer(self) -> None:
        """Then nobody knows, and the host is not used (RFC 7672 section 2.2)."""
        self.assertIn("could not", self.dane(Zone({HOST: addresses()}, failing=frozenset({PLACE}))).obstacle)
        self.assertIn("could not", self.dane(Zone(failing=frozenset({HOST}))).obstacle)

    def test_aliases(self) -> None:
        """The name at the end of the aliases comes first (RFC 7672 section 2.2.2)."""
        end = Answer((GOOD,), True)
        zone = Zone(
            {HOST: addresses("real.example.net"), "_25._tcp.real.example.net": end, PLACE: Answer((UNUSABLE,), True)}
        )
        self.assertEqual(self.dane(zone).place, "_25._tcp.real.example.net")
        zone = Zone({HOST: addresses("real.example.net"), PLACE: end})
        self.assertEqual(self.dane(zone).place, PLACE)

    def test_whose_mail(self) -> None:
        """The domain is the one whose MX names the host: itself, the one above, or the one that was given."""
        mx: Answer[object] = Answer((MailHost(10, HOST),), True)
        self.assertEqual(self.domain(Zone({"example.org": mx})), MailDomain("example.org", True))
        self.assertEqual(self.domain(Zone({HOST: mx, "example.org": mx})), MailDomain(HOST, True))
        self.assertIsNone(self.domain(Zone()))
        self.assertIsNone(self.domain(Zone(failing=frozenset({HOST, "example.org"}))))
        self.assertIsNone(self.domain(Zone({"org": mx}), "example.org"))
        self.assertEqual(self.domain(Zone(), named="example.com"), MailDomain("example.com", True))
