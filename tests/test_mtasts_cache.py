"""MTA-STS policies that are kept: how long, against whom, and when they are fetched again (RFC 8461)."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.errors import StorageFailure
from mailsvc.mtasts import cache
from mailsvc.mtasts.cache import StsCache
from mailsvc.mtasts.fetch import FetchFailed
from mailsvc.mtasts.record import PolicyMode, StsPolicy
from mailsvc.relay.demands import StsFacts
from tests.fake_dns import NOBODY, FakeResolver
from tests.memory import MemoryStore, storage_failure

DOMAIN, PLACE = "there.example", "_mta-sts.there.example"
WEEK = 7 * 86400
ENFORCE = StsPolicy(PolicyMode.ENFORCE, ("mail.there.example",), WEEK)
TESTING = StsPolicy(PolicyMode.TESTING, ("mail.there.example", "*.there.example"), WEEK)


class Cache(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_800_000_000)
        self.store = MemoryStore(self.clock)
        self.addCleanup(self.store.connection.close)
        self.resolver = FakeResolver(txt={PLACE: ["v=STSv1; id=1"]})
        self.web: StsPolicy | Exception | Deferred[StsPolicy] = ENFORCE
        self.fetched: list[str] = []
        self.cache = StsCache(self.store, self.clock, self.resolver, self.fetch)

    async def fetch(self, domain: str) -> StsPolicy:
        self.fetched.append(domain)
        if isinstance(self.web, Exception):
            raise self.web
        return await self.web if isinstance(self.web, Deferred) else self.web

    def asked(self, domain: str = DOMAIN) -> Deferred[StsFacts]:
        return Deferred.fromCoroutine(self.cache.facts(domain))

    def facts(self, domain: str = DOMAIN) -> StsFacts:
        return self.successResultOf(self.asked(domain))

    def test_a_policy_is_fetched_once(self) -> None:
        """And then comes out of the database, also after a restart."""
        self.assertEqual(self.facts(), StsFacts(DOMAIN, "1", ENFORCE))
        self.cache = StsCache(self.store, self.clock, self.resolver, self.fetch)
        self.assertEqual(self.facts().policy, ENFORCE)
        self.assertEqual(self.fetched, [DOMAIN])

    def test_a_domain_without_a_record_has_none(self) -> None:
        """No web server is asked for domains that announce nothing."""
        self.resolver.txt.clear()
        found = self.facts()
        self.assertIsNone(found.policy)
        self.assertIn("no MTA-STS", found.remark)
        self.assertEqual(self.fetched, [])

    def test_who_takes_the_record_away_does_not_take_the_policy_away(self) -> None:
        """The record is gone, cannot be asked for, or is there twice: the policy holds until its time is over.

        Rule: MTA-STS: a policy outlives its record and its web server
        """
        self.facts()
        for records in ((), NOBODY, ["v=STSv1; id=1", "v=STSv1; id=2"]):
            self.resolver.txt[PLACE] = records
            self.assertEqual(self.facts().policy, ENFORCE)
        self.clock.advance(WEEK)
        self.assertIsNone(self.facts().policy)

    def test_who_blocks_the_web_server_does_not_take_the_policy_away(self) -> None:
        """A new id, and nothing to be fetched: the old policy holds, and the remark says what is wrong."""
        self.facts()
        self.web = FetchFailed("nobody answers")
        self.resolver.txt[PLACE] = ["v=STSv1; id=2"]
        found = self.facts()
        self.assertEqual((found.policy, found.remark), (ENFORCE, "nobody answers"))

    def test_a_new_id_means_a_new_policy(self) -> None:
        """That is how a domain changes its mind, also to less."""
        self.facts()
        self.web = TESTING
        self.assertEqual(self.facts().policy, ENFORCE)
        self.resolver.txt[PLACE] = ["v=STSv1; id=2"]
        self.assertEqual(self.facts(), StsFacts(DOMAIN, "2", TESTING))

    def test_a_failure_is_not_repeated_at_once(self) -> None:
        """Nothing is fetched for five minutes; the record's id says that there should be one."""
        self.web = FetchFailed("nobody answers")
        for _ in range(3):
            self.assertEqual(self.facts(), StsFacts(DOMAIN, "1", None, "nobody answers"))
        self.assertEqual(len(self.fetched), 1)
        self.clock.advance(cache.RETRY)
        self.web = ENFORCE
        self.assertEqual(self.facts().policy, ENFORCE)

    def test_one_fetch_for_all_who_wait(self) -> None:
        """And one that gives up does not take the policy from the others."""
        self.web = waiting = Deferred[StsPolicy]()
        first, second = self.asked(), self.asked()
        first.cancel()
        self.failureResultOf(first)
        self.assertNoResult(second)
        waiting.callback(ENFORCE)
        self.assertEqual(self.successResultOf(second).policy, ENFORCE)
        self.assertEqual(len(self.fetched), 1)

    def test_mail_does_not_wait_for_a_refresh(self) -> None:
        """After a day the policy is fetched again in the background, and that makes it young."""
        self.facts()
        self.clock.advance(cache.REFRESH)
        self.web = waiting = Deferred[StsPolicy]()
        self.assertEqual(self.facts().policy, ENFORCE)
        self.assertEqual(len(self.fetched), 2)
        waiting.callback(ENFORCE)
        self.clock.advance(WEEK - 1)
        self.resolver.txt.clear()
        self.assertEqual(self.facts().policy, ENFORCE)

    def test_what_mail_needed_lately_is_refreshed_without_mail(self) -> None:
        """So nobody gets rid of a policy by waiting; one that no mail needs for a month runs out.

        Rule: MTA-STS: policies are refreshed
        """
        self.facts()
        self.cache.start()
        for _ in range(30 * 24):
            self.clock.advance(cache.ROUND)
        self.assertEqual(self.facts().policy, ENFORCE)
        self.assertGreater(len(self.fetched), 25)
        self.clock.advance(86400)
        for _ in range(60 * 24):
            self.clock.advance(cache.ROUND)
        count = self.store.connection.execute("SELECT COUNT(*) FROM sts_policy").fetchone()
        self.assertEqual(count, (0,))
        self.successResultOf(self.cache.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopping_ends_what_is_under_way(self) -> None:
        """Nobody waits for a slow web server."""
        self.web = Deferred[StsPolicy]()
        self.cache.start()
        waiting = self.asked()
        self.successResultOf(self.cache.stop())
        self.assertIsNone(self.successResultOf(waiting).policy)

    def test_a_database_that_cannot_be_asked_is_no_permission(self) -> None:
        """Then nobody knows what is demanded, and the mail waits."""
        self.store.failure = storage_failure()
        self.failureResultOf(self.asked(), StorageFailure)

    def test_a_round_survives_a_database_that_cannot(self) -> None:
        """The next one comes."""
        self.cache.start()
        self.store.failure = storage_failure()
        self.clock.advance(cache.ROUND)
        self.store.failure = None
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.successResultOf(self.cache.stop())
