"""The queue: claims rows that are due, gives them to `Attempts` in batches, and sees to it that the outcome is noted.

`Queue` works between `start` and `stop`, in one process of perhaps several that share the database.  When a row is
tried again is `mailsvc.relay.schedule`, whose turn it is `mailsvc.relay.lanes`, how many conversations a destination
gets `mailsvc.relay.pace`, what an outcome changes `mailsvc.relay.settling`; this module moves rows between them.

A row's way: claimed in a batch with others (one short transaction for hundreds), sorted into a lane by its destination,
tried together with the other recipients of its message there, settled in a batch with others.  Nobody polls the table
of rows: `wake` says that something was stored in this process, a timer knows when the next row becomes due, and once a
second one small read asks whether another process or the command line has changed something.

The hardest idea is that memory is only a copy.  What is claimed stays in the table, under a lease that is renewed as
long as the row is here; a process that is killed loses nothing but the attempts that it was in the middle of, and the
next one that holds the lock which that one held does not wait for the end of the lease.  A row that was held or removed
meanwhile is dropped from memory before its attempt begins, not later than a second after.  An outcome that cannot be
written (a full disk) is kept until it can, and until then nothing new begins: a delivery that nobody can note would be
made again.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from random import Random, SystemRandom
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailsvc import maillog
from mailsvc.errors import TemporaryFailure
from mailsvc.relay.lanes import Lane, Lanes
from mailsvc.relay.outcome import Kind, Outcome, Phase
from mailsvc.relay.pace import is_of_the_server
from mailsvc.relay.schedule import Schedule
from mailsvc.relay.seams import Attempts, Batch, Bounces, Destination
from mailsvc.relay.settler import Settler
from mailsvc.relay.settling import Result, Settled, judge
from mailsvc.relay.watching import Answer, Watching
from mailsvc.storage import outbound
from mailsvc.storage.outbound import OutboundRow
from mailsvc.storage.store import Store

_ON_A_LINE = 20
"""Recipients that one line of the log names."""


_MOVED = 10
"""Rows that are known to have been moved, as a multiple of the rows in memory."""


@dataclass(frozen=True, slots=True)
class QueueRules:
    """What the queue may do.

    ``at_once``: conversations in all; ``per_destination``: with one destination.  ``recipients``: of one message in one
    conversation (RFC 5321 section 4.5.3.1.8: 100 are always taken).  ``rows``: the most in memory, with ``content``
    octets of small messages at each claim.  ``lease``, ``poll``, ``shutdown`` (so long `Queue.stop` waits for what
    runs): seconds.
    """

    schedule: Schedule = field(default_factory=Schedule)
    at_once: int = 100
    per_destination: int = 20
    recipients: int = 100
    rows: int = 2000
    content: int = 4 * 1024 * 1024
    lease: float = 300.0
    poll: float = 1.0
    shutdown: float = 30.0


class Queue:
    """The queue of one process.

    ``owner`` tells it from all others, also from those that ran before it; ``random`` is for the pauses.
    """

    _log = Logger()

    def __init__(
        self,
        store: Store,
        clock: IReactorTime,
        attempts: Attempts,
        bounces: Bounces,
        *,
        rules: QueueRules | None = None,
        random: Random | None = None,
        owner: str | None = None,
    ) -> None:
        self.rules = rules = rules or QueueRules()
        self.owner = owner or secrets.token_hex(8)
        self._store = store
        self._clock = clock
        self._attempts = attempts
        self._random = random or SystemRandom()
        self._lanes = Lanes(rules.per_destination, rules.recipients)
        self._settler = Settler(
            store,
            clock,
            self.owner,
            bounces,
            told=self._told,
            quiet=lambda results: self._watching.told_otherwise(results),
            put_off=rules.schedule.longest,
        )
        self._watching = Watching(clock, self._settler.write)
        self._running = False
        self._rows: dict[int, OutboundRow] = {}
        self._moved: set[int] = set()
        self._conversations: set[Deferred[Any]] = set()
        self._is_claiming = self._is_pumping = False
        self._wanted = self._more = False
        self._change: int | None = None
        self._instance = ""
        self._seen = 0.0
        self._claiming: Deferred[None] = succeed(None)
        self._looking: Deferred[None] = succeed(None)
        self._last_ended: Deferred[None] | None = None
        self._poll_call: IDelayedCall | None = None
        self._due_call: IDelayedCall | None = None
        self._lease_call: IDelayedCall | None = None

    # -- for others -----------------------------------------------------------------------------------------------

    def start(self, instance: str = "") -> None:
        """The database is open: begin.  ``instance``: the lock that this process holds on it, "" for none.

        What others of that name had claimed is ours at once; what anybody else had, when the lease is over.
        """
        self._instance = instance
        if instance:
            self.owner = self._settler.owner = f"{instance}.{self.owner.rpartition('.')[2]}"
        self._running = True
        self._seen = self._clock.seconds()
        self._wanted = True
        self._look()
        self._lease_call = self._clock.callLater(self.rules.lease / 3, self._renew)

    def wake(self) -> None:
        """Something was stored that may be due; to be called after the commit, for every message if need be."""
        if not self._running:
            return
        if self._clock.seconds() < self._seen - 1.0:
            # The clock was set back: every timer waits until the old time has come again.
            self._look_in(0.0)
        self._wanted = True
        self._claim()

    def first_outcomes(self, message_id: int, recipients: int, seconds: float) -> Deferred[Answer]:
        """Wait for the first attempt of a message that was just stored for so many recipients elsewhere.

        Fires with the refusals when every recipient was refused for good: then the message is gone and no report was
        made, because the caller says so to the sender in his reply.  Fires with None in every other case, after so many
        seconds at the latest: then the queue goes on as always.  To be called at once after the commit.  Cancelling it
        means that nobody can be told any more.
        """
        return self._watching.watch(message_id, recipients, seconds) if self._running else succeed(None)

    def stop(self) -> Deferred[None]:
        """Begin nothing more; fires when what runs has ended and is written, and everything else is given back."""
        return Deferred.fromCoroutine(self._stop())

    def hurry(self) -> None:
        """Break off what runs, while mailsvc stops."""
        for conversation in list(self._conversations):
            conversation.cancel()

    @property
    def in_memory(self) -> int:
        """Rows that are claimed."""
        return len(self._rows)

    @property
    def conversations(self) -> int:
        """Attempts that run."""
        return len(self._conversations)

    # -- looking --------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._looking = Deferred.fromCoroutine(self._look_around())

    async def _look_around(self) -> None:
        try:
            await self._see()
        except TemporaryFailure:
            pass  # the database has said so in the log
        except Exception:
            self._log.failure("a defect: the queue of outgoing mail could not be looked at")
        if self._running:
            self._look_in(self.rules.poll)

    async def _see(self) -> None:
        now = self._clock.seconds()
        if now < self._seen - 1.0 or self._change is None:
            mended = await self._store.write(outbound.mend_clock, now)
            if mended:
                self._log.warn("the clock was set back: {count} recipients wait as long, from now on", count=mended)
        if self._change is None and self._instance:
            left = await self._store.write(outbound.take_back, self._instance, self.owner, now)
            if left:
                self._log.info(
                    "{count} recipients were in the hands of a process that was killed: they are tried at once",
                    count=left,
                )
        self._seen = now
        number, is_due, next_due = await self._store.read(outbound.glance, now)
        if self._change is not None and number != self._change:
            await self._drop_what_is_not_ours()
        self._change = number
        self._plan(next_due)
        self._wanted = self._wanted or is_due
        self._claim()

    async def _drop_what_is_not_ours(self) -> None:
        """Somebody has changed rows: what waits in memory and is not ours any more goes, and nothing rests."""
        waiting = [row.id for row in self._lanes.waiting()]
        ours = await self._store.read(outbound.still_owned, self.owner, waiting)
        dropped = [self._rows[row_id] for row_id in self._lanes.drop(set(waiting) - ours) if row_id in self._rows]
        for row in dropped:
            self._forget(row.id)
        self._lanes.try_again()
        if dropped:
            await self._store.write(outbound.not_arrived, self.owner, dropped)

    def _look_in(self, seconds: float) -> None:
        _cancel(self._poll_call)
        self._poll_call = self._clock.callLater(seconds, self._look)

    def _plan(self, due: float | None) -> None:
        """Wake when a row becomes due, unless that is planned for an earlier one."""
        if due is None or not self._running:
            return
        now, call = self._clock.seconds(), self._due_call
        if call is not None and call.active():
            if call.getTime() <= max(due, now):
                return
            call.cancel()
        self._due_call = self._clock.callLater(max(0.0, due - now), self.wake)

    # -- claiming -------------------------------------------------------------------------------------------------

    def _claim(self) -> None:
        if not self._is_claiming and self._may_claim:
            self._is_claiming = True
            self._claiming = Deferred.fromCoroutine(self._claim_all())

    @property
    def _may_claim(self) -> bool:
        return self._wanted and self._running and not self._settler.is_stuck and self._room > 0

    @property
    def _room(self) -> int:
        return self.rules.rows - len(self._rows)

    async def _claim_all(self) -> None:
        try:
            while self._may_claim:
                self._wanted = False
                await self._claim_some()
        except TemporaryFailure:
            pass  # the database has said so in the log; the next look tries again
        except Exception:
            self._log.failure("a defect: mail that is due could not be claimed")
        finally:
            self._is_claiming = False

    async def _claim_some(self) -> None:
        rules = self.rules
        claimed = await self._store.write(
            outbound.claim,
            self.owner,
            self._clock.seconds(),
            seconds=rules.lease,
            rows=min(self._room, max(1, rules.rows // 4)),
            of_each=2 * rules.recipients,
            busy=self._lanes.busy(),
            content=rules.content,
        )
        # Our own lease may have ended while a row was still here; it stays where it is.
        rows = [row for row in claimed.rows if row.id not in self._rows]
        self._rows.update((row.id, row) for row in rows)
        self._more = claimed.more
        self._plan(claimed.next_due)
        if not self._running:
            await self._give_back(rows)
        elif rows:
            self._wanted = self._wanted or claimed.more
            await self._sort(rows)
            self._pump()

    async def _sort(self, rows: Sequence[OutboundRow]) -> None:
        """Into lanes; a row that goes elsewhere now is given back under that name, to be claimed with its like."""
        try:
            places = await self._attempts.destinations(rows)
        except Exception:
            self._log.failure("a defect: where {count} recipients go could not be found out", count=len(rows))
            self._take(rows, {})
            return
        stay: list[tuple[OutboundRow, Destination]] = []
        move: list[tuple[OutboundRow, str]] = []
        for row in rows:
            place = places.get(row.id) or Destination(row.destination)
            if place.name == row.destination or row.id in self._moved:
                stay.append((row, place))
            else:
                move.append((row, place.name))
        self._lanes.add(stay, self._clock.seconds())
        if move:
            for row, _ in move:
                self._rows.pop(row.id, None)
                # Once only: routes that change their mind all the time must not move it for ever.
                self._moved.add(row.id)
            if len(self._moved) > _MOVED * self.rules.rows:
                # Others may have claimed them since, or removed them: nobody would say so here.
                self._moved.clear()
            self._wanted = True
            await self._store.write(outbound.move, self.owner, move)

    # -- trying ---------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Begin as many conversations as may be."""
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            while self._running and not self._settler.is_stuck and len(self._conversations) < self.rules.at_once:
                now = self._clock.seconds()
                lane = self._lanes.next(now)
                if lane is None:
                    break
                was_busy = lane.is_busy
                if lane.pace.is_resting(now):
                    self._put_off(lane)
                else:
                    self._begin(lane)
                self._lanes.queue_up(lane)
                # While it was busy nothing was claimed for it.
                self._wanted = self._wanted or (was_busy and not lane.is_busy)
        finally:
            self._is_pumping = False
        if self._more and self._room > self.rules.rows // 2:
            self._wanted = True
        self._claim()

    def _begin(self, lane: Lane) -> None:
        batch = lane.waiting.popleft()
        lane.running += 1
        conversation: Deferred[Mapping[int, Outcome]] = Deferred.fromCoroutine(self._attempts.attempt(batch))
        self._conversations.add(conversation)
        conversation.addBoth(self._tried, conversation, lane, batch)

    def _tried(
        self, result: Mapping[int, Outcome] | Failure, conversation: Deferred[Any], lane: Lane, batch: Batch
    ) -> None:
        self._conversations.discard(conversation)
        lane.running -= 1
        now = lane.used = self._clock.seconds()
        outcomes = self._outcomes_of(result, batch) if isinstance(result, Failure) else result
        told = [outcomes[row.id] for row in batch.rows if row.id in outcomes]
        if told and all(map(is_of_the_server, told)):
            lane.pace.failed(told[0], now)
        elif told and not isinstance(result, Failure):
            lane.pace.answered()
        self._take(batch.rows, outcomes)
        self._lanes.queue_up(lane)
        self._pump()
        if not self._conversations and self._last_ended is not None:
            ended, self._last_ended = self._last_ended, None
            ended.callback(None)

    def _outcomes_of(self, failure: Failure, batch: Batch) -> Mapping[int, Outcome]:
        if failure.check(CancelledError):
            text = "mailsvc was stopped during the attempt; the message may have arrived all the same"
            stopped = Outcome(Kind.DEFERRED, text, 0, "4.3.2", Phase.END, duplicate_possible=True)
            return {row.id: stopped for row in batch.rows}
        self._log.failure("a defect: an attempt for {name} failed", failure, name=batch.destination.name)
        return {}

    def _put_off(self, lane: Lane) -> None:
        """The destination is left alone for a while: what waits gets the reason, without an attempt."""
        why = lane.pace.why
        while lane.waiting and why is not None:
            batch = lane.waiting.popleft()
            outcome = replace(why, text=f"not tried, because a moment ago: {why.text}", duplicate_possible=False)
            self._take(batch.rows, {row.id: outcome for row in batch.rows})

    def _take(self, rows: Iterable[OutboundRow], outcomes: Mapping[int, Outcome]) -> None:
        """Outcomes have come; a row without one met a mistake of ours."""
        now, schedule = self._clock.seconds(), self.rules.schedule
        self._watching.take(
            [judge(row, outcomes.get(row.id) or _defect(), schedule, now, self._random.random) for row in rows]
        )

    # -- what was written -----------------------------------------------------------------------------------------

    def _told(self, results: Sequence[Result], settled: Settled) -> None:
        now = self._clock.seconds()
        soon: list[float] = []
        _log_results([result for result in results if result.row.id not in settled.lost], now)
        for result in results:
            self._forget(result.row.id)
            self._watching.written(result)
            if result.row.id not in settled.lost:
                soon += [] if result.retry is None else [result.retry.due]
        self._plan(min(soon, default=None))
        for destination in settled.reachable:
            Deferred.fromCoroutine(self._hand_over(destination))
        self._wanted = self._wanted or settled.reported
        self._pump()

    async def _hand_over(self, destination: str) -> None:
        """What waits only because the destination could not be reached is due now."""
        more = 1
        try:
            while self._running and more:
                more = await self._store.write(outbound.hurry, destination, self._clock.seconds())
                if more:
                    self.wake()
        except TemporaryFailure:
            pass  # then it waits for its own time

    def _forget(self, row_id: int) -> None:
        self._rows.pop(row_id, None)
        self._moved.discard(row_id)

    # -- leases, and the end --------------------------------------------------------------------------------------

    def _renew(self) -> None:
        self._lanes.forget_idle(self._clock.seconds())
        Deferred.fromCoroutine(self._renew_all())
        self._lease_call = self._clock.callLater(self.rules.lease / 3, self._renew)

    async def _renew_all(self) -> None:
        try:
            if self._rows:
                until = self._clock.seconds() + self.rules.lease
                await self._store.write(outbound.renew, self.owner, list(self._rows), until)
        except TemporaryFailure:
            pass  # the database has said so in the log; there are two more chances before the lease ends

    async def _give_back(self, rows: Sequence[OutboundRow]) -> None:
        for row in rows:
            self._forget(row.id)
        try:
            if rows:
                await self._store.write(outbound.give_back, self.owner, rows)
        except TemporaryFailure:
            self._log.warn("{count} recipients wait until their lease ends", count=len(rows))

    async def _stop(self) -> None:
        was_running, self._running = self._running, False
        if not was_running:
            return
        for call in (self._poll_call, self._due_call):
            _cancel(call)
        self._watching.let_all_go()
        await self._looking
        await self._claiming
        await self._give_back(self._lanes.drain())
        if self._conversations:
            self._last_ended = Deferred()
            deadline = self._clock.callLater(self.rules.shutdown, self.hurry)
            await self._last_ended
            _cancel(deadline)
        await self._settler.stop()
        _cancel(self._lease_call)


def _cancel(call: IDelayedCall | None) -> None:
    if call is not None and call.active():
        call.cancel()


def _defect() -> Outcome:
    # Not of the server: what else waits for it is not put off for a mistake of ours.
    return Outcome(Kind.DEFERRED, "a mistake of mailsvc itself; its log has more", 0, "4.3.0", Phase.MAIL)


def _log_results(results: Sequence[Result], now: float) -> None:
    for _, same in groupby(results, _alike):
        told = list(same)
        first = told[0]
        outcome, trace_id, twice = first.outcome, first.row.message.trace_id, first.duplicate_possible
        if outcome.kind is Kind.DELIVERED:
            # A line for each of a hundred recipients would cost more than handing the message over.
            for start in range(0, len(told), _ON_A_LINE):
                recipients = [each.row.recipient for each in told[start : start + _ON_A_LINE]]
                maillog.relayed(
                    trace_id, recipients, outcome.host, outcome.text, outcome.level.text, duplicate_possible=twice
                )
            continue
        for result in told:
            if outcome.kind is Kind.FAILED:
                maillog.given_up(trace_id, result.row.recipient, outcome.text)
            else:
                pause = 0.0 if result.retry is None else result.retry.due - now
                maillog.put_off(trace_id, result.row.recipient, outcome.text, pause, duplicate_possible=twice)


def _alike(result: Result) -> tuple[int, Outcome, bool]:
    return result.row.message.id, result.outcome, result.duplicate_possible
