"""What happens in the transaction that fills a mailbox: nothing beyond the quota, and a warning shortly before.

The warning is an ordinary message in the account's own maildrop, put there in the transaction of the delivery that
made it due.  It is not held to the quota: that would be a poor reason not to be told of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from mailsvc.directory import quota
from mailsvc.errors import MailboxFull
from mailsvc.mail.event import Noted
from mailsvc.mail.message import summarise
from mailsvc.storage import events, mailboxes, rules
from mailsvc.storage.rows import Cursor


def refuse_beyond_quota(txn: Cursor, account_ids: Sequence[int], octets: int) -> None:
    """Raise `MailboxFull` when one of the accounts cannot hold `octets` more than it does."""
    full = rules.over_quota(txn, account_ids, octets)
    if full:
        raise MailboxFull(f"the quota of {', '.join(full)} is used up")


@dataclass(frozen=True, slots=True)
class Warner:
    """Warns the owners of nearly full mailboxes, as postmaster of `hostname`; `new_id` makes trace ids."""

    hostname: str
    new_id: Callable[[], str]

    def after_delivery(self, txn: Cursor, account_ids: Sequence[int], octets: int, now: float) -> None:
        """Warn those of the accounts that have become nearly full by a message of `octets` octets."""
        for account_id in account_ids:
            row = rules.usage(txn, account_id)
            if row is None or row.quota is None:
                continue
            if quota.must_warn(row.used - octets, row.used, row.quota, warned=row.warned):
                rules.set_warned(txn, account_id, True)
                self._warn(txn, row, row.quota, now)

    def _warn(self, txn: Cursor, row: rules.Usage, limit: int, now: float) -> None:
        trace_id = self.new_id()
        header, body = quota.warning(row.address, row.used, limit, hostname=self.hostname, trace_id=trace_id, now=now)
        whole = header + body
        summary = summarise(header, size=len(whole), sha256=sha256(whole).hexdigest())
        new = mailboxes.NewMessage(trace_id, "", now, b"Return-Path: <>\r\n", summary)
        message_id = mailboxes.deliver(txn, new, header, [body], [row.account_id])
        noted = Noted(f"told {row.address} that the mailbox is nearly full", (row.address,))
        events.record(txn, [events.Entry(now, noted, None, None, trace_id, message_id)])
