"""MTA-STS policies that are kept for as long as their domains say, and fetched again before that is over.

Fetching is `mailsvc.mtasts.fetch`, the rows are `mailsvc.storage.sts_policies`.

The hardest idea: a policy that was seen once is the whole protection.  Whoever is on the way can take away the TXT
record, or keep the web server from answering; so neither ends a policy before its ``max_age`` is over (RFC 8461 section
5.1: a policy in the cache is applied when none can be had).  Only another policy does, fetched as strictly as the
first.  And the other way round: an attacker who could wait until a policy has run out would get rid of it, so those
that mail has needed lately are fetched again each day, whether there is mail or not (section 10.2).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailsvc.errors import TemporaryFailure
from mailsvc.mtasts.fetch import FetchFailed
from mailsvc.mtasts.record import PolicyError, StsPolicy, record_id
from mailsvc.relay.demands import StsFacts
from mailsvc.resolver import Resolver, Unanswered
from mailsvc.rounds import Rounds
from mailsvc.storage import sts_policies
from mailsvc.storage.store import Store
from mailsvc.storage.sts_policies import StsRow

Fetch = Callable[[str], Awaitable[StsPolicy]]
"""Fetches the policy of a domain; raises `FetchFailed`."""

REFRESH = 86400.0
"""Seconds after which a policy is fetched again."""

RETRY = 300.0
"""Seconds for which nothing is fetched after a failure (RFC 8461 section 3.3)."""

ROUND = 3600.0
"""Seconds between two looks at all policies."""

AT_A_TIME = 50
"""Policies that are fetched again in one round."""

UNUSED = 30 * REFRESH
"""Seconds after which a policy that no mail has needed is left to run out."""

_MOST = 10_000


class StsCache:
    """What MTA-STS says of domains.  Works without `start`, which only begins to refresh."""

    _log = Logger()

    def __init__(self, store: Store, clock: IReactorTime, resolver: Resolver, fetch: Fetch) -> None:
        self._store = store
        self._clock = clock
        self._resolver = resolver
        self._fetch = fetch
        self._failed: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._fetching: dict[str, Deferred[str]] = {}
        self._rounds = Rounds(clock, ROUND, self._refresh, self._log, "MTA-STS policies could not be refreshed")

    # -- for others ---------------------------------------------------------------------------------------------

    async def facts(self, domain: str) -> StsFacts:
        """What holds for ``domain`` (A-labels) now; what could not be had is in `StsFacts.remark`.

        Raises `mailsvc.errors.TemporaryFailure` when the database cannot be asked: then nobody knows what is demanded.
        """
        known = await self._known(domain)
        place = f"_mta-sts.{domain}"
        try:
            announced = record_id((await self._resolver.texts(place)).records)
            remark = f"{domain} has no MTA-STS (there is no record at {place})"
        except Unanswered as why:
            announced, remark = None, str(why)
        except PolicyError as why:
            announced, remark = None, f"{place}: {why}, so it counts as none"
        if announced is None:
            return _facts(domain, known, remark=remark)
        if known is not None and known.record == announced:
            if self._clock.seconds() - known.fetched >= REFRESH:
                self._begin(domain, announced)
            return _facts(domain, known)
        remark = await self._fetched(domain, announced)
        return _facts(domain, await self._known(domain), announced, remark)

    def start(self) -> None:
        """The database is open: begin to refresh."""
        self._rounds.start(at_once=False)

    def stop(self) -> Deferred[Any]:
        """Begin nothing more; fires when nothing is under way."""
        round_ended = self._rounds.stop()
        under_way = list(self._fetching.values())
        for each in under_way:
            each.cancel()
        ending: list[Deferred[Any]] = [round_ended, *(_ended(each) for each in under_way)]
        return gatherResults(ending)

    # -- within -------------------------------------------------------------------------------------------------

    async def _known(self, domain: str) -> StsRow | None:
        now = self._clock.seconds()
        known = await self._store.read(sts_policies.sts_policy, domain, now)
        if known is not None and now - known.fetched >= REFRESH / 2:
            await self._store.write(sts_policies.note_sts_used, domain, now)
        return known

    async def _fetched(self, domain: str, record: str) -> str:
        """Fetch and keep the policy; why that was not possible, "" when it was."""
        failed = self._failed.get(domain)
        if failed is not None and 0 <= self._clock.seconds() - failed[0] < RETRY:
            return failed[1]
        answer: Deferred[str] = Deferred()

        def pass_on(result: str) -> str:
            if not answer.called:
                answer.callback(result)
            return result

        # On its own: an attempt that is given up must not take the policy from others.
        self._begin(domain, record).addBoth(pass_on)
        return await answer

    def _begin(self, domain: str, record: str) -> Deferred[str]:
        under_way = self._fetching.get(domain)
        if under_way is None:
            under_way = self._fetching[domain] = Deferred.fromCoroutine(self._fetch_now(domain, record))
            under_way.addBoth(self._done, domain)
        return under_way

    async def _fetch_now(self, domain: str, record: str) -> str:
        failed = self._failed.get(domain)
        if failed is not None and 0 <= self._clock.seconds() - failed[0] < RETRY:
            return failed[1]
        try:
            policy = await self._fetch(domain)
        except FetchFailed as why:
            self._note_failure(domain, str(why))
            self._log.info("the MTA-STS policy of {domain} could not be fetched: {why}", domain=domain, why=str(why))
            return str(why)
        self._failed.pop(domain, None)
        await self._store.write(sts_policies.put_sts_policy, domain, record, policy, self._clock.seconds())
        return ""

    def _done(self, result: object, domain: str) -> str:
        self._fetching.pop(domain, None)
        if isinstance(result, str):
            return result
        why = str(getattr(result, "value", result)) or "the fetch was given up"
        if not isinstance(getattr(result, "value", None), TemporaryFailure) and self._rounds.running:
            self._log.error("the MTA-STS policy of {domain} was not kept: {why}", domain=domain, why=why)
        return why

    def _note_failure(self, domain: str, why: str) -> None:
        self._failed[domain] = self._clock.seconds(), why
        self._failed.move_to_end(domain)
        while len(self._failed) > _MOST:
            self._failed.popitem(last=False)

    async def _refresh(self) -> None:
        now = self._clock.seconds()
        await self._store.write(sts_policies.forget_sts_policies, now)
        ageing = await self._store.read(
            sts_policies.ageing_sts_policies,
            fetched_before=now - REFRESH,
            used_after=now - UNUSED,
            now=now,
            limit=AT_A_TIME,
        )
        for row in ageing:
            if self._rounds.running:
                await self._fetched(row.domain, row.record)


def _facts(domain: str, known: StsRow | None, record: str = "", remark: str = "") -> StsFacts:
    if known is None:
        return StsFacts(domain, record, remark=remark)
    return StsFacts(domain, known.record, known.policy, remark)


def _ended(fetching: Deferred[str]) -> Deferred[str]:
    ended: Deferred[str] = Deferred()

    def pass_on(result: str) -> str:
        ended.callback(result)
        return result

    fetching.addBoth(pass_on)
    return ended
