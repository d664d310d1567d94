"""A process with nothing but a real database and a real queue in it, for being killed: ``python -m tests.queue_process
DATABASE JOURNAL GENERATION``.

An attempt takes some milliseconds and then writes a line to the journal, as a server on the other side would keep the
message: what stands there has arrived, whether the queue got to note it or not.  Recipients whose name begins with
``no`` are refused; a report is an event, written in the queue's own transaction.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from twisted.internet.task import deferLater

from mailsvc.mail.event import Noted
from mailsvc.relay.outcome import Outcome
from mailsvc.relay.queue import Queue, QueueRules
from mailsvc.relay.seams import Batch, Destination, Told
from mailsvc.storage import events
from mailsvc.storage.database import Database
from mailsvc.storage.outbound import OutboundMessage, OutboundRow
from mailsvc.storage.rows import Cursor
from tests.relay_world import NEVER, TAKEN

LEASE = 60.0
"""Longer than the test: what a process that was killed had claimed is there again at the next one's start."""


class JournalledAttempts:
    """Attempts that write down what arrives."""

    def __init__(self, reactor: Any, journal: int, generation: str) -> None:
        self._reactor = reactor
        self._journal = journal
        self._generation = generation
        self._random = Random(generation)

    async def destinations(self, rows: Sequence[OutboundRow]) -> Mapping[int, Destination]:
        return {}

    async def attempt(self, batch: Batch) -> Mapping[int, Outcome]:
        await deferLater(self._reactor, self._random.uniform(0.0, 0.04), lambda: None)
        outcomes = {row.id: NEVER if row.recipient.startswith("no") else TAKEN for row in batch.rows}
        lines = [f"{self._generation} {row.recipient}\n" for row in batch.rows if outcomes[row.id] is TAKEN]
        os.write(self._journal, "".join(lines).encode())
        await deferLater(self._reactor, self._random.uniform(0.0, 0.04), lambda: None)
        return outcomes


class EventReports:
    """Reports that are events."""

    def report(self, txn: Cursor, message: OutboundMessage, told: Sequence[Told], now: float) -> None:
        events.record(txn, [events.Entry(now, Noted(f"reported {each.row.recipient}")) for each in told])


def main(database_path: str, journal_path: str, generation: str) -> None:
    """Run until killed."""
    from twisted.internet import reactor

    journal = os.open(journal_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    database = Database(database_path, reactor)
    database.open()
    attempts = JournalledAttempts(reactor, journal, generation)
    rules = QueueRules(at_once=20, lease=LEASE, poll=0.1, rows=200)
    queue = Queue(database, reactor, attempts, EventReports(), rules=rules)

    def begin() -> None:
        queue.start(database.instance)
        print("running", flush=True)

    reactor.callWhenRunning(begin)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
