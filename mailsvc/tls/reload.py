"""New certificates without a restart: looks at the sources, asks the gate, and swaps the one table of all listeners.

What a certificate must be is `mailsvc.tls.gate`'s; where certificates come from `mailsvc.tls.sources`'; telling people
is `mailsvc.tls.notices`'.  A look happens on SIGHUP, soon after the kernel says that a file was touched, and every few
seconds by itself.  Whatever it was that caused it, one look goes over all sources, and one swap is for all listeners;
sessions that run keep the table that they began with.

Reading files, opening sealed keys and asking the DNS is done in a thread, one look at a time; a cause that comes
meanwhile makes another look follow.

The hardest idea is the half-written renewal.  Programs write certificate and key one after the other, and we may look
in between.  Nothing can go wrong by it, a pair that does not fit is refused; but nobody should be told of a mistake
that mends itself.  So a refusal is told (an event, a mail) only when a second look some seconds later
finds the same; who asked by SIGHUP finds it in the log at once.

What is refused may become good though no file and no row changes: its time begins, a TLSA record is published, the key
that opens the rows is put right.  So while something is refused all is looked at again from time to time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mailsvc.certkit.files import current_reader
from mailsvc.certkit.inspect import Finding
from mailsvc.maillog import shown
from mailsvc.tls.credential import Credential
from mailsvc.tls.gate import CredentialSource, Decision, Judged, Refusal, decide, judge
from mailsvc.tls.published import Fit
from mailsvc.tls.server import ServerTLS, openssl_refuses
from mailsvc.tls.table import CredentialTable


class Threads(Protocol):
    """Runs something that blocks."""

    def __call__(self, work: Callable[[], Any], /) -> Deferred[Any]:
        """Fires with what ``work`` returned, in the reactor's thread."""


class Hearer(Protocol):
    """Who is told of what was found.  Nothing here waits for it, and it does not raise."""

    def changed(self, why: str, decision: Decision) -> None:
        """Other certificates are in use from now on."""

    def found(self, refusal: Refusal) -> None:
        """Who asked by SIGHUP shall see in the log that something does not go live now; it may mend itself."""

    def refused(self, refusal: Refusal) -> None:
        """Something does not go live, and a second look found the same; told once, until it is mended."""

    def mended(self, name: str, origin: str) -> None:
        """What was told as refused is refused no more."""

    def remarked(self, finding: Finding) -> None:
        """A warning; told when it is new."""

    def expiring(self, credentials: Sequence[Credential]) -> None:
        """These are in use; asked at the start, hourly, and after a change."""


@dataclass(frozen=True, slots=True)
class Pace:
    """In seconds.  ``look``: between two looks; ``settle``: from a touched file to the look; ``again``: to the second
    look at something refused; ``retry``: between two more looks at it; ``expiry``: between two looks at the dates."""

    look: float = 10.0
    settle: float = 0.5
    again: float = 5.0
    retry: float = 60.0
    expiry: float = 3600.0


class Reloader:
    """Keeps ``tls`` up to date with ``sources``, between `start` and `stop`.

    ``fits`` says whether a credential fits what is published (blocks, runs in ``in_thread``).  ``watch`` is told to
    look at the folders anew.  ``outcomes`` counts how looks ended ("changed", "refused", "failed"), ``last_change`` is
    when the table was swapped last, in seconds since the epoch; both are for the metrics.
    """

    _log = Logger()

    def __init__(
        self,
        sources: Sequence[CredentialSource],
        tls: ServerTLS,
        hostname: str,
        clock: IReactorTime,
        in_thread: Threads,
        hearer: Hearer,
        *,
        fits: Callable[[Credential], Fit] = lambda credential: Fit(),
        pace: Pace = Pace(),
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        self.outcomes: Counter[str] = Counter(changed=0, refused=0, failed=0)
        self.last_change: float | None = None
        self.refusals: tuple[Refusal, ...] = ()
        self._sources = tuple(sources)
        self._tls = tls
        self._hostname = hostname
        self._clock = clock
        self._in_thread = in_thread
        self._hearer = hearer
        self._fits = fits
        self._pace = pace
        self._watch = watch
        self._states: object = None
        self._read_at = 0.0
        self._first = True
        self._told: set[Refusal] = set()
        self._seen: dict[Refusal, float] = {}
        self._remarks: set[Finding] = set()
        self._running = False
        self._looking: Deferred[None] | None = None
        self._wanted: str | None = None
        self._asked = False
        self._timers: dict[str, IDelayedCall] = {}

    @property
    def table(self) -> CredentialTable:
        """What is in use."""
        return self._tls.table

    def start(self) -> None:
        """Begin; a first look follows at once: much may have happened since the start read the certificates."""
        self._running = True
        self._watch()
        self._look("the start")
        self._after("expiry", 0.0, self._look_at_dates)
        self._after("look", self._pace.look, self._look_by_itself)

    def stop(self) -> Deferred[None]:
        """End; fires when no look is under way any more."""
        self._running = False
        for timer in self._timers.values():
            if timer.active():
                timer.cancel()
        self._timers.clear()
        if self._looking is None:
            return succeed(None)
        done: Deferred[None] = Deferred()
        self._looking.addBoth(lambda _: done.callback(None))
        return done

    def reload(self, why: str = "SIGHUP") -> None:
        """Look now, whether anything seems changed or not, and let the log say everything that is found."""
        self._asked = True
        self._states = None
        self._look(why)

    def touched(self) -> None:
        """A file may have changed: look soon, when it has been quiet for a moment."""
        timer = self._timers.get("settle")
        if timer is None or not timer.active():
            # Not put off again and again: somebody who never stops writing is looked at, too.
            self._after("settle", self._pace.settle, lambda: self._look("a changed file"))

    # -- when -------------------------------------------------------------------------------------------------------

    def _after(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        if self._running:
            self._timers[name] = self._clock.callLater(seconds, call)

    def _look_by_itself(self) -> None:
        self._after("look", self._pace.look, self._look_by_itself)
        if self._looking is None:
            self._look("a change that was found")

    def _look_at_dates(self) -> None:
        self._after("expiry", self._pace.expiry, self._look_at_dates)
        self._hearer.expiring(self._tls.table.credentials)

    def _look(self, why: str) -> None:
        if not self._running:
            return
        if self._looking is not None:
            self._wanted = why
            return
        self._looking = Deferred()
        Deferred.fromCoroutine(self._look_once(why)).addBoth(self._ended)

    def _ended(self, result: Any) -> None:
        done, self._looking = self._looking, None
        assert done is not None
        done.callback(None)
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            self._look(wanted)

    # -- a look -----------------------------------------------------------------------------------------------------

    async def _look_once(self, why: str) -> None:
        asked, self._asked = self._asked, False
        try:
            await self._compare(why, asked)
        except Exception:
            # What was not looked at is new to the next look.
            self._states = None
            self.outcomes["failed"] += 1
            self._log.failure("a defect: the certificates could not be looked at; the last good ones stay in use")

    async def _compare(self, why: str, asked: bool) -> None:
        # What is there is asked before it is read: a change in between makes another look follow, never none.
        states = await self._in_thread(lambda: [source.state() for source in self._sources])
        is_first = self._first
        self._first = False
        moment = self._clock.seconds()
        again = self._seen.keys() - self._told or (self._seen and abs(moment - self._read_at) >= self._pace.retry)
        if states == self._states and not again:
            return
        self._states, self._read_at = states, moment
        now = datetime.fromtimestamp(moment, UTC)
        judged, broken, findings = await self._in_thread(lambda: self._read(now))
        decision = decide(judged, broken, self._tls.table, self._hostname)
        unfit = await self._in_thread(lambda: self._unfit(decision.fresh))
        if unfit:
            decision = decide(judged, broken, self._tls.table, self._hostname, unfit)
        if is_first:
            # At the start nothing was asked of the DNS; what is in use stays in use, and this is told.
            findings += await self._in_thread(lambda: self._misfits(decision))
        if not self._running:
            return
        self._swap(why, decision)
        self._remark((*findings, *decision.warnings))
        self._tell(decision, asked)

    def _read(self, now: datetime) -> tuple[list[Judged], Mapping[str, Sequence[str]], list[Finding]]:
        """In a thread: everything of every source, judged."""
        judged: list[Judged] = []
        broken: dict[str, Sequence[str]] = {}
        warnings: list[Finding] = []
        who = current_reader()
        live = {each.origin for each in self._tls.table.credentials}
        for source in self._sources:
            found = source.read()
            judged += [judge(candidate, now, who) for candidate in found.candidates]
            errors = [str(each) for each in found.findings if each.severity == "error"]
            if not (errors or found.candidates) and found.nothing is not None and source.origin in live:
                # Everything has gone at once: a disk that is not mounted, rather than a wish.
                errors = [str(found.nothing)]
            if errors:
                broken[source.origin] = errors
            warnings += [each for each in found.findings if each.severity == "warning"]
        return judged, broken, warnings

    def _unfit(self, fresh: Sequence[Credential]) -> dict[str, str]:
        """In a thread: which of the new credentials must not go live for a reason from outside."""
        unfit: dict[str, str] = {}
        for credential in fresh:
            if not self._running:
                break  # the answer is not wanted any more, and whoever stops us waits for this
            why = openssl_refuses(credential)
            if not why:
                fit = self._fits(credential)
                why = fit.unfit
                if fit.remark:
                    self._log.info("the certificate {name}: {remark}", name=shown(credential.name), remark=fit.remark)
            if why:
                unfit[credential.name] = why
        return unfit

    def _misfits(self, decision: Decision) -> list[Finding]:
        """In a thread: what is published against certificates that are in use and stay so."""
        staying = [each for each in decision.table.credentials if each not in decision.fresh]
        told = [(each, self._fits(each).unfit) for each in staying if self._running]
        return [Finding("warning", f"the certificate {each.name}", why) for each, why in told if why]

    def _swap(self, why: str, decision: Decision) -> None:
        if decision.table is self._tls.table:
            return
        self._tls.replace(decision.table)
        self.outcomes["changed"] += 1
        self.last_change = self._clock.seconds()
        self._watch()
        self._hearer.changed(why, decision)
        self._hearer.expiring(decision.table.credentials)

    def _remark(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            if finding not in self._remarks:
                self._hearer.remarked(finding)
        self._remarks = set(findings)

    def _tell(self, decision: Decision, asked: bool) -> None:
        found = set(decision.refusals)
        now = self._clock.seconds()
        self._seen = {each: self._seen.get(each, now) for each in found}
        # However many looks there were: only time can tell that a renewal is not just half done.
        due = {each for each in found - self._told if now - self._seen[each] >= 0.9 * self._pace.again}
        self.refusals = decision.refusals
        for refusal in decision.refusals:
            if asked and refusal not in due:
                self._hearer.found(refusal)
            elif refusal in due:
                self.outcomes["refused"] += 1
                self._hearer.refused(refusal)
        for refusal in self._told - found:
            if not any((each.name, each.origin) == (refusal.name, refusal.origin) for each in found):
                self._hearer.mended(refusal.name, refusal.origin)
        self._told = (self._told | due) & found
        again = self._timers.get("again")
        if found - self._told and (again is None or not again.active()):
            self._after("again", self._pace.again, lambda: self._look("a second look"))
