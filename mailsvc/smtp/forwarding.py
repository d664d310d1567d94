"""What of an accepted message goes on to other servers: one row for each recipient there, in the message's transaction.

A remote recipient is either what RCPT named (somebody of ours writes to the world), or where an address of ours leads
(an alias; a bounce to a sender that we had rewritten).  Only the latter is forwarding: there the sender is rewritten
(`mailsvc.relay.srs`), and a Delivered-To of the address that leads on goes with the message, so that it is known when
it comes round (RFC 9228 section 4).

The hardest idea: what the sender wanted to hear goes along in the row, not with the message: two recipients of one
message may want different things, and a forwarded one is reported under the name that its sender knows (RFC 3461
section 5.2.7: ORCPT).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mailsvc.mail.address import Address
from mailsvc.mail.envelope import Envelope
from mailsvc.mail.event import Noted
from mailsvc.smtp.seams import Destination
from mailsvc.storage import outbound
from mailsvc.storage.backups import keep_of
from mailsvc.storage.forwarding import forwarded_sender
from mailsvc.storage.rows import Cursor


@dataclass(frozen=True, slots=True)
class Onward:
    """``remote`` gets the message because of ``recipient``, which RCPT named."""

    recipient: Address
    remote: Address

    @property
    def is_forwarded(self) -> bool:
        """Whether an address of ours leads there."""
        return self.recipient != self.remote


def onward(destinations: Mapping[Address, Destination]) -> tuple[Onward, ...]:
    """Who elsewhere gets the message, each once; for one that was named itself that is the reason."""
    found: dict[str, Onward] = {}
    for recipient, destination in destinations.items():
        for remote in destination.remotes:
            reason = Onward(recipient, remote)
            # Only the owner of a domain knows whether the case of a local part matters: both spellings get it.
            if str(remote) not in found or not reason.is_forwarded:
                found[str(remote)] = reason
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class Daily:
    """To how many recipients elsewhere one account (``account``), and one relay client (``machine``), may write on one
    day; 0 is no limit."""

    account: int = 0
    machine: int = 0


NO_LIMIT = Daily()


def queue(txn: Cursor, envelope: Envelope, message_id: int, going: Sequence[Onward], now: float, daily: Daily) -> None:
    """Store the rows of mail that goes on, and count them to the day of whoever has handed it in.

    Raises `mailsvc.storage.outbound.DailyLimit` past the limit of a day.
    """
    who, limit = _who(envelope, daily)
    if who and going:
        outbound.count_for_day(txn, who, len(going), now, limit)
    outbound.enqueue(txn, message_id, _rows(txn, envelope, going, _account(envelope), now), now)


def look_ahead(txn: Cursor, envelope: Envelope, going: Sequence[Onward], now: float, daily: Daily) -> None:
    """Raise what `queue` would raise now."""
    who, limit = _who(envelope, daily)
    if who and going:
        outbound.check_day(txn, who, len(going), now, limit)


def _who(envelope: Envelope, daily: Daily) -> tuple[str, int]:
    """Under which name recipients are counted, "" for nobody's, and how many there may be."""
    account = _account(envelope)
    if account:
        return account, daily.account
    machine = envelope.origin.machine
    # No account has such a name: a blank in an address stands between quotation marks.
    return (f"relay client {machine}", daily.machine) if machine else ("", 0)


def _account(envelope: Envelope) -> str:
    login = envelope.origin.login
    return "" if login is None else login.key


def told(going: Sequence[Onward]) -> Iterator[Noted]:
    """What `mailsvc why` says of it."""
    for each in going:
        if each.is_forwarded:
            yield Noted(f"goes on to {each.remote}, where {each.recipient} leads", _both(each))
        else:
            yield Noted(f"goes out to {each.remote}", (str(each.remote),))


def _both(each: Onward) -> tuple[str, ...]:
    return str(each.remote), str(each.recipient)


def _rows(
    txn: Cursor, envelope: Envelope, going: Sequence[Onward], account: str, now: float
) -> Iterator[outbound.NewOutbound]:
    for each in going:
        wish = envelope.wish(each.recipient)
        sender, prefix, original = envelope.sender, b"", wish.original
        if each.is_forwarded:
            sender = forwarded_sender(txn, envelope.reverse_path, each.recipient, now)
            original = original or f"{'rfc822' if each.recipient.is_ascii else 'utf-8'};{each.recipient}"
            if each.recipient.is_ascii or envelope.smtputf8:
                prefix = f"Delivered-To: {each.recipient}\r\n".encode()
        yield outbound.NewOutbound(
            str(each.remote),
            sender,
            account,
            prefix=prefix,
            notify=None if wish.notify is None else ",".join(wish.notify),
            original=original,
            release_at=envelope.release_at,
            keep=keep_of(txn, each.remote.domain),
        )
