"""From outcomes to rows: what an attempt changes, in one transaction with the events and the reports that tell of it.

`judge` says what follows an outcome (pure); `settle` writes it, for many recipients at once, because they share one
wait for the disk.

The hardest idea is whose word counts.  A queue that was too slow has lost its lease, and somebody else works at the
row; then only a delivery is still noted (`mailsvc.storage.outbound`), and nothing is reported twice.  The same holds
when the postmaster has taken the row away; there the failure that nobody notes says at least that nothing arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from mailsvc.mail.dsn import Action
from mailsvc.mail.event import Event, GivenUp, PutOff, Relayed
from mailsvc.relay.outcome import Kind, Outcome
from mailsvc.relay.pace import is_of_the_server
from mailsvc.relay.schedule import Schedule, after_failure, counted
from mailsvc.relay.seams import Bounces, Told
from mailsvc.storage import events, outbound
from mailsvc.storage.outbound import OutboundMessage, OutboundRow, Retry
from mailsvc.storage.rows import Cursor
from mailsvc.tls.levels import Verdict


@dataclass(frozen=True, slots=True)
class Result:
    """What an attempt means for a row.  ``retry`` is None when the row goes; ``told``: what the sender may hear.

    ``expired``: it is given up for its age.  ``outcome`` is then a failure, with the text of the last attempt.
    """

    row: OutboundRow
    outcome: Outcome
    retry: Retry | None = None
    told: Told | None = None
    expired: bool = False

    @property
    def duplicate_possible(self) -> bool:
        """Whether the recipient may get the message twice: this attempt may have succeeded, or that of a process which
        did not live to tell."""
        return self.outcome.duplicate_possible or self.row.owner is not None

    def event(self, now: float) -> Event:
        """What happened, for `mailsvc why`."""
        row, outcome = self.row, self.outcome
        attempts = row.attempts + 1
        channel = str(Verdict(outcome.required, outcome.level)) if outcome.host else ""
        twice = self.duplicate_possible
        match outcome.kind:
            case Kind.DELIVERED:
                age = round(max(0.0, now - row.created), 3)
                return Relayed(row.recipient, outcome.host, outcome.text, attempts, channel, outcome.tls, age, twice)
            case Kind.FAILED:
                return GivenUp(row.recipient, outcome.host, outcome.text, attempts, self.expired, channel, outcome.tls)
            case Kind.DEFERRED:
                again = now if self.retry is None else self.retry.due
                phase = outcome.phase.value
                return PutOff(
                    row.recipient, outcome.host, phase, outcome.text, attempts, again, channel, outcome.tls, twice
                )


@dataclass(frozen=True, slots=True)
class Settled:
    """``reachable``: destinations that rows were waiting for, and that have answered.  ``reported``: senders were told,
    so that there may be new mail to go out.  ``lost``: rows of which somebody else had become the owner."""

    reachable: frozenset[str]
    reported: bool
    lost: frozenset[int]


def judge(row: OutboundRow, outcome: Outcome, schedule: Schedule, now: float, chance: Callable[[], float]) -> Result:
    """What follows; ``chance`` (0 to 1), asked only for a row that waits, makes the next pause shorter or longer."""
    match outcome.kind:
        case Kind.DELIVERED:
            wanted = row.words is not None and "SUCCESS" in row.words
            return Result(row, outcome, told=Told(Action.RELAYED, row, outcome) if wanted else None)
        case Kind.FAILED:
            return Result(row, outcome, told=Told(Action.FAILED, row, outcome))
        case Kind.DEFERRED:
            return _deferred(row, outcome, schedule, now, chance())


def _deferred(row: OutboundRow, outcome: Outcome, schedule: Schedule, now: float, chance: float) -> Result:
    attempts = row.attempts + 1
    age = row.age + counted(row.changed, now if row.due is None else row.due, now)
    following = after_failure(schedule, attempts=attempts, age=age, keep=row.keep, told=row.delay_told, chance=chance)
    if following.pause is None:
        text = f"gave up after {attempts} attempts in {_in_words(age)}; the last one: {outcome.text}"
        # The code stays the one of the real reason (RFC 3463 section 3.5, X.4.7).
        final = replace(outcome, kind=Kind.FAILED, text=text)
        return Result(row, final, told=Told(Action.FAILED, row, final), expired=True)
    retry = Retry(
        row.id,
        row.destination,
        now + following.pause,
        following.age,
        outcome.host,
        outcome.text,
        unreached=is_of_the_server(outcome),
        delay_told=row.delay_told or following.is_late,
    )
    late = Told(Action.DELAYED, row, outcome, now + following.left) if following.is_late else None
    return Result(row, outcome, retry, late)


def settle(
    txn: Cursor,
    owner: str,
    results: Sequence[Result],
    bounces: Bounces,
    now: float,
    quiet: frozenset[int] = frozenset(),
) -> Settled:
    """Write what became of these rows; ``quiet``: messages of which the sender hears in another way."""
    mine = outbound.still_owned(
        txn, owner, [result.row.id for result in results if result.outcome.kind is not Kind.DELIVERED]
    )
    counting = [result for result in results if result.outcome.kind is Kind.DELIVERED or result.row.id in mine]
    reported = False
    for message, told in _by_message(counting):
        if message.id not in quiet:
            bounces.report(txn, message, told, now)
            reported = True
    gone: list[int] = []
    arrived: list[int] = []
    entries: list[events.Entry] = []
    for result in counting:
        row = result.row
        if result.retry is not None:
            outbound.retry(txn, owner, result.retry, now)
        elif result.outcome.kind is Kind.DELIVERED:
            arrived.append(row.id)
            gone.append(row.message.id)
        else:
            outbound.failed(txn, owner, row.id)
            gone.append(row.message.id)
        entries.append(events.Entry(now, result.event(now), trace_id=row.message.trace_id, message_id=row.message.id))
    outbound.delivered(txn, arrived)
    outbound.forget_messages(txn, gone)
    events.record(txn, entries)
    reachable = {
        result.row.destination
        for result in results
        if result.row.unreached and not is_of_the_server(result.outcome) and not result.expired
    }
    lost = {result.row.id for result in results} - {result.row.id for result in counting}
    if lost:
        certain = [each.row for each in results if each.row.id in lost and not each.outcome.duplicate_possible]
        outbound.not_arrived(txn, owner, certain)
    return Settled(frozenset(reachable), reported, frozenset(lost))


def _by_message(results: Iterable[Result]) -> Iterable[tuple[OutboundMessage, list[Told]]]:
    messages: dict[int, tuple[OutboundMessage, list[Told]]] = {}
    for result in results:
        if result.told is not None:
            messages.setdefault(result.row.message.id, (result.row.message, []))[1].append(result.told)
    return messages.values()


def _in_words(seconds: float) -> str:
    hours = seconds / 3600
    if hours < 1:
        return f"{max(0.0, seconds) / 60:.0f} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"
