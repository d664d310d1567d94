"""What the queue asks of others: who tries a batch, and who tells a sender what became of it.

`mailsvc.relay.queue` decides when a row is tried and how often.  How it is tried (routes, DNS, TLS, the conversation)
is `Attempts`; what a report says, to whom and whether at all is `Bounces`.

The hardest idea: `Bounces.report` is called in the transaction that takes the row out, in the database's thread.  So a
sender hears of a failure exactly once, whenever the process dies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mailsvc.mail.dsn import Action
from mailsvc.relay.outcome import Outcome
from mailsvc.storage.outbound import OutboundMessage, OutboundRow
from mailsvc.storage.rows import Cursor


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a row goes, as the queue counts it: a domain (by its MX), or a relay of a route.

    ``name`` is in lower case, and the same for all rows that may travel in one conversation; ``at_once``: the most
    conversations that its route allows, None for the configuration's.
    """

    name: str
    at_once: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Recipients of one message that travel together: same destination, reverse-path and prefix."""

    destination: Destination
    message: OutboundMessage = field(repr=False)
    rows: tuple[OutboundRow, ...]

    @property
    def reverse_path(self) -> str:
        """What MAIL FROM names; "" for the null sender."""
        return self.rows[0].reverse_path

    @property
    def prefix(self) -> bytes:
        """Whole lines that stand before the stored header."""
        return self.rows[0].prefix

    @property
    def size(self) -> int:
        """Octets that are sent."""
        return len(self.prefix) + self.message.size


class Attempts(Protocol):
    """Tries to hand mail over."""

    async def destinations(self, rows: Sequence[OutboundRow]) -> Mapping[int, Destination]:
        """Where rows go now, by their ids; what is left out stays where the row says.  Asked for every claim, so it
        looks at routes that it has in memory."""

    async def attempt(self, batch: Batch) -> Mapping[int, Outcome]:
        """Try once, and give the outcome of each row by its id.

        Raises nothing that can be foreseen: an unreachable server is an outcome.  When it is cancelled (mailsvc stops)
        it ends soon, and still gives outcomes if it can, because it knows whether a duplicate is possible.
        """


@dataclass(frozen=True, slots=True)
class Told:
    """One recipient of a report.  ``retry_until``: of a delay, when it will be given up, in seconds since the epoch."""

    action: Action
    row: OutboundRow
    outcome: Outcome
    retry_until: float | None = None


class Bounces(Protocol):
    """Tells senders."""

    def report(self, txn: Cursor, message: OutboundMessage, told: Sequence[Told], now: float) -> None:
        """Store what the sender is to hear, in the transaction in which it becomes true.

        Called for each failure and each first long delay, and for each delivery whose wish says SUCCESS.  Whether there
        is a report at all (a null sender, NOTIFY=NEVER, a server that will report itself: `Outcome.dsn`) is decided
        here.  A failed row is still in the table, so that the message and its content are too.
        """
