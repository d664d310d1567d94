"""An export: one account's maildrop goes into a Maildir or an mbox file, and is counted.

The maildrop is read in pages, each in a snapshot of its own; a service may run meanwhile.  What is written where is
`mailsvc.mailbox.writing`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mailsvc.mailbox.writing import Content
from mailsvc.storage import exports
from mailsvc.storage.exports import Outgoing
from mailsvc.storage.opening import looking


class Target(Protocol):
    """Somewhere that messages go to; see `mailsvc.mailbox.writing`."""

    def add(self, item: Outgoing, content: Content) -> bool:
        """Write a message; False when it is there already."""

    def keep(self) -> None:
        """Make what was written survive a power cut."""

    def finish(self, next_uid: int, now: float) -> None:
        """All is written."""


@dataclass(slots=True)
class Tally:
    """What an export has done: numbers of messages, and the octets (with CRLF) of those that were written.

    `held` were left out, because nobody sees them yet (FUTURERELEASE); known at the end.
    """

    exported: int = 0
    octets: int = 0
    already_there: int = 0
    held: int = 0


def total(database: str, account_id: int, now: float) -> int:
    """How many messages there are to export."""
    with looking(database) as txn:
        return exports.count(txn, account_id, now)


def export(
    database: str,
    account_id: int,
    target: Target,
    tally: Tally,
    *,
    now: float,
    progress: Callable[[int], None] = lambda messages: None,
) -> None:
    """Write all messages of an account to `target`; `tally` is right at every moment.

    Those that are held beyond `now` (seconds since the epoch) are left out. `progress` is called with the number of
    messages so far, only where all that is written is counted: it may raise KeyboardInterrupt to end the run. Raises
    what the database and the target raise.
    """
    after = 0
    while True:
        with looking(database) as txn:
            items = exports.page(txn, account_id, after, now)
            for item in items:
                after = item.uid
                if target.add(item, lambda item=item: exports.content(txn, account_id, item)):  # type: ignore[misc]
                    tally.exported += 1
                    tally.octets += item.size
                else:
                    tally.already_there += 1
                try:
                    progress(tally.exported + tally.already_there)
                except KeyboardInterrupt:
                    target.keep()
                    raise
            next_uid = exports.next_uid(txn, account_id)
            tally.held = exports.count_held(txn, account_id, now)
        if not items:
            target.finish(next_uid, now)
            return
        target.keep()
