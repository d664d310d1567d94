"""Who is told what became of a message that goes out: `mailsvc.relay.seams.Bounces` on the tables.

What a report looks like is `mailsvc.mail.dsn`, who reads it and how it is stored `mailsvc.storage.reports`; when there
is something to tell, the queue knows.  Decided here is whether the sender hears of it (RFC 3461 section 4.1 and 5.2),
how much of the message goes back, and who is told in the sender's place.

The report goes to the reverse-path of the row, not of the message: that of forwarded mail is an address of ours, which
leads to the one who wrote it.

The hardest idea is the end of the chain.  A report has no sender, so nothing that goes wrong with it is reported to
one (RFC 5321 section 6.1); the postmaster hears of it, once.  What the postmaster gets elsewhere bears NOTIFY=NEVER,
which this queue and every other one reads as "tell nobody": so a report about a report about a report cannot be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mailsvc.mail.address import Address, parse_address
from mailsvc.mail.dsn import QUOTED_MESSAGE, UNRETURNABLE, About, Action, Reported, report
from mailsvc.mail.event import Noted
from mailsvc.relay.seams import Told
from mailsvc.storage import events, reports
from mailsvc.storage.mailboxes import content_part
from mailsvc.storage.outbound import OutboundMessage
from mailsvc.storage.rows import Cursor

_WHAT = {
    Action.FAILED: "a report that {0} could not be delivered",
    Action.DELAYED: "a report that {0} is late",
    Action.RELAYED: "a report that {0} was handed on",
}


class Reports:
    """Reports of the server ``hostname``.

    ``new_id`` makes trace ids: unique, unguessable, safe in a header.
    """

    def __init__(self, hostname: str, new_id: Callable[[], str]) -> None:
        self._hostname = hostname
        self._new_id = new_id

    def report(self, txn: Cursor, message: OutboundMessage, told: Sequence[Told], now: float) -> None:
        """See `mailsvc.relay.seams.Bounces`."""
        groups: dict[tuple[Action, str], list[Told]] = {}
        for each in told:
            if is_wanted(each):
                groups.setdefault((each.action, each.row.reverse_path), []).append(each)
        for (action, sender), group in groups.items():
            if sender:
                self._tell(txn, message, action, parse_address(sender), group, now)
            elif action is Action.FAILED:
                self._tell_postmaster(txn, message, group, now)

    def _tell(
        self, txn: Cursor, message: OutboundMessage, action: Action, sender: Address, group: list[Told], now: float
    ) -> None:
        trace_id = self._new_id()
        header, body = report(
            action,
            [_about(each, now) for each in group],
            # RFC 8689 section 5: what must not travel in clear does not come back in a report that may.
            _reported(txn, message, whole=_is_whole(action, message)),
            to=sender,
            hostname=self._hostname,
            trace_id=trace_id,
            now=now,
        )
        who = reports.readers(txn, sender, self._hostname, now)
        # Whoever has logged in shall hear of a failure; for others anybody can make us report to an account of ours.
        if action is not Action.FAILED or not any(each.row.account for each in group):
            who = reports.with_room(txn, who, len(header) + len(body))
        if who:
            what = _WHAT[action].format(message.trace_id)
            reports.store(txn, header, body, who, trace_id=trace_id, now=now, what=what)
            _note(txn, message, f"<{sender}> is told that it {_HAPPENED[action]}, by {trace_id}", now, group, sender)
        elif action is Action.FAILED:
            self._tell_postmaster(txn, message, group, now)
        else:
            _note(txn, message, f"no report for <{sender}>: nobody here, or no room", now, group, sender)

    def _tell_postmaster(self, txn: Cursor, message: OutboundMessage, group: list[Told], now: float) -> None:
        postmaster = Address("postmaster", self._hostname)
        who = reports.readers(txn, postmaster, self._hostname, now)
        if not who:
            _note(txn, message, "nobody is told: it has no sender, and nobody gets the postmaster's mail", now, group)
            return
        trace_id = self._new_id()
        header, body = report(
            Action.FAILED,
            [_about(each, now) for each in group],
            _reported(txn, message, whole=False),
            to=postmaster,
            hostname=self._hostname,
            trace_id=trace_id,
            now=now,
            words=UNRETURNABLE,
        )
        what = f"a report that {message.trace_id} could neither be delivered nor returned"
        reports.store(txn, header, body, who, trace_id=trace_id, now=now, what=what, notify="NEVER")
        _note(txn, message, f"the postmaster is told instead of its sender, by {trace_id}", now, group)


_HAPPENED = {Action.FAILED: "failed", Action.DELAYED: "is late", Action.RELAYED: "was handed on"}


def is_wanted(told: Told) -> bool:
    """Whether the sender wants to hear of it (RFC 3461 section 4.1), and nobody else will say it."""
    words = told.row.words
    match told.action:
        case Action.FAILED:
            return words is None or "FAILURE" in words
        case Action.DELAYED:
            # Without a word about it the choice is ours: people want to know.
            return words is None or "DELAY" in words
        case Action.RELAYED:
            return words is not None and "SUCCESS" in words and not told.outcome.dsn
        case Action.DELIVERED:
            return False


def _is_whole(action: Action, message: OutboundMessage) -> bool:
    return action is Action.FAILED and message.dsn_return == "FULL" and not message.require_tls


def _about(told: Told, now: float) -> About:
    outcome = told.outcome
    return About(
        parse_address(told.row.recipient),
        told.row.original,
        outcome.enhanced,
        outcome.host,
        outcome.reply,
        outcome.text,
        now,
        told.retry_until,
    )


def _reported(txn: Cursor, message: OutboundMessage, *, whole: bool) -> Reported:
    """The message as it is quoted; whole only when it is small."""
    if whole and message.size <= QUOTED_MESSAGE:
        content = message.content if message.content is not None else b"".join(_parts(txn, message.id))
        return Reported(message.received_at, message.envelope_id, content[: message.header_size], content)
    header = message.content[: message.header_size] if message.content is not None else content_part(txn, message.id, 0)
    return Reported(message.received_at, message.envelope_id, header or b"")


def _parts(txn: Cursor, message_id: int) -> Iterable[bytes]:
    number = 0
    while (part := content_part(txn, message_id, number)) is not None:
        yield part
        number += 1


def _note(txn: Cursor, message: OutboundMessage, text: str, now: float, group: Iterable[Told], *about: Address) -> None:
    keys = (*map(str, about), *(each.row.recipient for each in group))
    entry = events.Entry(now, Noted(text, keys), trace_id=message.trace_id, message_id=message.id)
    events.record(txn, [entry])
