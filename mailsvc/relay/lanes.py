"""What the queue has in memory, by destination: batches that wait for a conversation, and whose turn it is.

A `Lane` is one destination with its waiting batches and its `mailsvc.relay.pace.Pace`; `Lanes` are all of them, each in
line once.  Beginning conversations and knowing how they end is left to `mailsvc.relay.queue`.

The hardest idea is fairness without a search: a lane that may begin gets one conversation and goes to the end of the
line, so that 10,000 batches for one destination never stand before one batch for another, and the next turn is found at
once however many lanes there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from mailsvc.relay.pace import Pace
from mailsvc.relay.seams import Batch, Destination
from mailsvc.storage.outbound import OutboundRow

IDLE = 900.0
"""Seconds after which a destination without work is forgotten, with what was learned of its pace."""


@dataclass(slots=True, eq=False)
class Lane:
    """A destination with work in memory; ``running`` conversations, ``in_line`` for another, ``used`` last then."""

    destination: Destination
    pace: Pace
    waiting: deque[Batch] = field(default_factory=deque)
    running: int = 0
    in_line: bool = False
    used: float = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether it has enough in memory for now."""
        return len(self.waiting) >= 2 * max(1, int(self.pace.limit))


class Lanes:
    """All lanes; ``per_destination`` conversations at a time each (a route may say less or more), ``recipients`` of one
    message in one conversation."""

    def __init__(self, per_destination: int, recipients: int) -> None:
        self._per_destination = per_destination
        self._recipients = recipients
        self._lanes: dict[str, Lane] = {}
        self._line: deque[Lane] = deque()

    def __len__(self) -> int:
        return len(self._lanes)

    def busy(self) -> list[str]:
        """The names of those that want nothing more for now."""
        return [name for name, lane in self._lanes.items() if lane.is_busy]

    def add(self, rows: Iterable[tuple[OutboundRow, Destination]], now: float) -> None:
        """Put rows into their lanes: those of one message, reverse-path and prefix travel together."""
        together: dict[tuple[str, int, str, bytes], list[OutboundRow]] = {}
        for row, place in rows:
            self._lane(place, now)
            together.setdefault((place.name, row.message.id, row.reverse_path, row.prefix), []).append(row)
        for (name, *_), alike in together.items():
            lane = self._lanes[name]
            for start in range(0, len(alike), self._recipients):
                part = tuple(alike[start : start + self._recipients])
                lane.waiting.append(Batch(lane.destination, part[0].message, part))
            self.queue_up(lane)

    def queue_up(self, lane: Lane) -> None:
        """It may have something to begin: let it stand in line."""
        if lane.waiting and not lane.in_line:
            lane.in_line = True
            self._line.append(lane)

    def next(self, now: float) -> Lane | None:
        """The lane whose turn it is: it may begin a conversation, or rests, so that its batches are to be put off."""
        while self._line:
            lane = self._line.popleft()
            lane.in_line = False
            if lane.waiting and (lane.pace.is_resting(now) or lane.pace.may_begin(lane.running)):
                return lane
        return None

    def try_again(self) -> None:
        """Nothing rests any more."""
        for lane in self._lanes.values():
            lane.pace.try_again()

    def waiting(self) -> Iterator[OutboundRow]:
        """The rows whose conversation has not begun."""
        return (row for lane in self._lanes.values() for batch in lane.waiting for row in batch.rows)

    def drop(self, row_ids: Collection[int]) -> list[int]:
        """Take rows out whose conversation has not begun; return the ids of those."""
        dropped = [row.id for row in self.waiting() if row.id in row_ids]
        if dropped:
            for lane in self._lanes.values():
                kept = [(batch, tuple(row for row in batch.rows if row.id not in row_ids)) for batch in lane.waiting]
                lane.waiting = deque(replace(batch, rows=rows) for batch, rows in kept if rows)
        return dropped

    def drain(self) -> list[OutboundRow]:
        """Take everything out whose conversation has not begun."""
        rows = list(self.waiting())
        for lane in self._lanes.values():
            lane.waiting.clear()
        return rows

    def forget_idle(self, now: float) -> None:
        """Forget destinations that have had no work for long."""
        for name, lane in list(self._lanes.items()):
            if not lane.waiting and not lane.running and not 0 <= now - lane.used <= IDLE:
                del self._lanes[name]

    def _lane(self, place: Destination, now: float) -> None:
        lane = self._lanes.get(place.name)
        if lane is not None and place.at_once is None:
            # A route's limit is in the name: when it is missing here, the routes could not be read, and it stays.
            place = lane.destination
        most = self._per_destination if place.at_once is None else place.at_once
        if lane is None:
            lane = self._lanes[place.name] = Lane(place, Pace(most))
        lane.destination, lane.pace.most, lane.used = place, most, now
