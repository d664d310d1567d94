"""Somebody waits for the first attempt of a message: a submission whose 250 is held back for some seconds.

When every recipient is refused for good within that time, the sender hears it as the reply to his message, and there is
no report; in every other case the queue goes on as if nobody had waited.

The hardest idea is who tells the sender, because he must hear it once.  So refusals are kept back until all recipients
have one (then the reply tells) or until one has another outcome (then a report tells), and the reply goes out after the
rows are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from mailsvc.relay.outcome import Kind, Outcome
from mailsvc.relay.settling import Result

Answer = tuple[tuple[str, Outcome], ...] | None
"""The recipients and their refusals, or None."""


@dataclass(slots=True)
class _Watch:
    answer: Deferred[Answer]
    recipients: int
    timer: IDelayedCall
    refused: list[Result] = field(default_factory=list)

    def tell(self, answer: Answer) -> None:
        if not self.answer.called:
            self.answer.callback(answer)


class Watching:
    """The messages that somebody waits for; ``write`` takes the results that are to be written."""

    def __init__(self, clock: IReactorTime, write: Callable[[Sequence[Result]], None]) -> None:
        self._clock = clock
        self._write = write
        self._open: dict[int, _Watch] = {}
        self._refused: dict[int, _Watch] = {}

    def watch(self, message_id: int, recipients: int, seconds: float) -> Deferred[Answer]:
        """Fires with the refusals of all recipients, or with None, after so many seconds at the latest (and the time
        that the refusals take to be written)."""
        if message_id in self._open:
            return succeed(None)
        answer: Deferred[Answer] = Deferred(lambda _: self.let_go(message_id))
        timer = self._clock.callLater(seconds, self.let_go, message_id)
        self._open[message_id] = _Watch(answer, recipients, timer)
        return answer

    def take(self, results: Sequence[Result]) -> None:
        """Results have come: write them, or keep them back."""
        passed = []
        for result in results:
            number = result.row.message.id
            watch = self._open.get(number)
            if watch is None:
                passed.append(result)
                continue
            watch.refused.append(result)
            if result.outcome.kind is not Kind.FAILED:
                self.let_go(number)
            elif len(watch.refused) == watch.recipients:
                del self._open[number]
                watch.timer.cancel()
                self._refused[number] = watch
                passed += watch.refused
        self._write(passed)

    def let_go(self, message_id: int) -> None:
        """Nobody waits for this message any more."""
        watch = self._open.pop(message_id, None)
        if watch is None:
            return
        if watch.timer.active():
            watch.timer.cancel()
        self._write(watch.refused)
        watch.tell(None)

    def let_all_go(self) -> None:
        """Nobody waits any more."""
        for message_id in list(self._open):
            self.let_go(message_id)

    def told_otherwise(self, results: Sequence[Result]) -> frozenset[int]:
        """The messages of which the sender hears by a reply."""
        return frozenset(result.row.message.id for result in results if result.row.message.id in self._refused)

    def written(self, result: Result) -> None:
        """It is committed."""
        watch = self._refused.get(result.row.message.id)
        if watch is not None and result is watch.refused[-1]:
            del self._refused[result.row.message.id]
            watch.tell(tuple((each.row.recipient, each.outcome) for each in watch.refused))
