"""From the end of DATA to "250": programs, and the one transaction that makes a message durable (DESIGN section 5a).

The body comes from `mailsvc.smtp.reception`.  `Intake.accept` writes message, content, mailbox items and event in one
transaction.

The hardest idea: the spool is handed to the database thread and read there (`mailsvc.smtp.spooled`), once, in pieces.
So a message of 50 MB is never in memory, and the digest is computed where it does not hold up the reactor.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from tempfile import SpooledTemporaryFile
from typing import IO, Protocol, cast

from twisted.internet.interfaces import IReactorTime

from mailsvc.directory import quota
from mailsvc.directory.tables import Pipe
from mailsvc.errors import MailboxFull, MailsvcError
from mailsvc.gate.bodies import Bodies
from mailsvc.mail.address import Address
from mailsvc.mail.envelope import Envelope
from mailsvc.mail.event import Accepted, Delivered, Event, Noted
from mailsvc.mail.message import MessageScanner, Summary, summarise
from mailsvc.mail.reply import Reply, reply
from mailsvc.smtp import forwarding, reporting
from mailsvc.smtp.piping import give_to_programs, pipes
from mailsvc.smtp.reception import NO_SPACE, BodyLimits, Reception
from mailsvc.smtp.reporting import wants_report
from mailsvc.smtp.results import results_field
from mailsvc.smtp.seams import Destination, FirstOutcomes, Outward, Programs
from mailsvc.smtp.spooled import Given, continues_the_trace, pieces, read_through, unforged
from mailsvc.smtp.trace import delivery_header, trace_header
from mailsvc.storage import accounts, events, fullness, mailboxes
from mailsvc.storage.outbound import DailyLimit
from mailsvc.storage.rows import Cursor
from mailsvc.storage.store import Store


class NotTaken(MailsvcError):
    """The message is complete and is not taken; ``reply`` says why."""

    def __init__(self, answer: Reply) -> None:
        super().__init__(str(answer))
        self.reply = answer


class MailStore(Store, Protocol):
    """A store that knows how much it can still take."""

    def has_room_for(self, octets: int) -> bool:
        """Whether a message of so many octets would leave the disk with a reserve."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A message that is committed and synced; ``first``: what becomes of it elsewhere, when somebody waits for that."""

    trace_id: str
    first: FirstOutcomes | None = None


class Intake:
    """Stores messages, for every SMTP listener of the service.

    ``new_id`` makes trace ids: unique, unguessable, safe in a header.  ``daily``: to how many recipients elsewhere an
    account or a relay client may write on one day.  ``outward``: who sends mail on from this process; without it
    another one does, which looks for itself.
    """

    def __init__(
        self,
        store: MailStore,
        clock: IReactorTime,
        hostname: str,
        *,
        programs: Programs | None = None,
        daily: forwarding.Daily = forwarding.NO_LIMIT,
        outward: Outward | None = None,
        new_id: Callable[[], str] = lambda: base64.b32encode(secrets.token_bytes(10)).decode("ascii"),
    ) -> None:
        self._store = store
        self._clock = clock
        self._hostname = hostname
        self._programs = programs
        self._daily = daily
        self._outward = outward
        self._new_id = new_id

    def refusal_for_size(self, octets: int) -> Reply | None:
        """The reply that puts off a message of ``octets`` octets while the disk is full, or None."""
        # Asked before the body is sent, and with a reserve: on a really full disk not even deleting mail would work.
        return None if self._store.has_room_for(octets) else NO_SPACE

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return self._clock.seconds()

    def reception(self, limits: BodyLimits, bodies: Bodies) -> Reception:
        """A place for the next body.  Raises OSError when there is none."""
        return Reception(limits, self._store.has_room_for, bodies)

    async def accept(
        self,
        envelope: Envelope,
        destinations: Mapping[Address, Destination],
        reception: Reception,
    ) -> str:
        """Give the message to its programs, and store it; return its trace id once it is committed and synced.

        Raises what `store` raises.
        """
        return (await self.store(envelope, destinations, reception)).trace_id

    async def store(
        self,
        envelope: Envelope,
        destinations: Mapping[Address, Destination],
        reception: Reception,
        wait: Callable[[], float] = lambda: 0.0,
    ) -> Stored:
        """`accept` for somebody who may wait for the first attempt of what goes out.

        ``wait``: so many seconds at most; asked once everything is committed.  There is nothing to wait for when
        anybody has got the message already, or nobody shall get it yet.

        Raises `NotTaken` with the reply for the sender, `mailsvc.smtp.reporting.MailLoop`,
        `mailsvc.errors.StorageFailure` (nothing was stored) or `mailsvc.errors.NotFound` (a recipient was
        removed since RCPT; nothing was stored).
        """
        trace_id = self._new_id()
        now = self._clock.seconds()
        trace = trace_header(envelope, hostname=self._hostname, trace_id=trace_id, now=now)
        if envelope.origin.tls is not None:
            trace = results_field(self._hostname, envelope.origin.tls.client) + trace
        wanted = pipes(destinations)
        if self._programs is not None and wanted:
            # A program cannot be asked to forget: what would refuse the message anyway is found out before.
            await self._look_ahead(envelope, destinations, wanted, reception, len(trace))
            given = self._given(envelope, reception)
            refused = await give_to_programs(
                self._programs,
                wanted,
                envelope,
                trace_id=trace_id,
                trace=trace + given.header,
                message=cast(IO[bytes], given),  # nobody does more than seek and read
                size=given.size - len(given.header),
            )
            if refused is not None:
                raise NotTaken(refused)
        owner = fullness.Warner(self._hostname, self._new_id)
        reporter = reporting.Reporter(self._hostname, self._new_id) if wants_report(envelope) else None
        deliveries, limited = _deliveries(destinations), _limited(destinations)
        job = _Job(
            envelope,
            deliveries,
            limited,
            wanted,
            trace_id,
            now,
            trace,
            owner,
            reporter,
            self._hostname,
            forwarding.onward(destinations),
            self._daily,
        )
        try:
            message_id = await self._store.write(_store, job, reception.spool, reception.scanner)
        except MailboxFull:
            raise NotTaken(quota.FULL) from None
        except DailyLimit as error:
            raise _day_is_full(error) from None
        return Stored(trace_id, self._send_on(job, message_id, wait))

    def _send_on(self, job: _Job, message_id: int | None, wait: Callable[[], float]) -> FirstOutcomes | None:
        if self._outward is None or not (job.going or job.reporter):
            return None
        first, seconds = None, wait()
        is_undecided = not (job.deliveries or job.pipes or job.envelope.release_at)
        if seconds and is_undecided and job.going and message_id is not None:
            first = self._outward.first_outcomes(message_id, len(job.going), seconds)
        self._outward.wake()
        return first

    def _given(self, envelope: Envelope, reception: Reception) -> Given:
        """The message as programs get it: as it is stored."""
        size = reception.scanner.header_size
        reception.spool.seek(0)
        header, _ = unforged(reception.spool.read(size), reception.spool, envelope, self._hostname)
        reception.spool.seek(size)
        return Given(reception.spool, size, header, reception.scanner.size - size + len(header))

    async def _look_ahead(
        self,
        envelope: Envelope,
        destinations: Mapping[Address, Destination],
        wanted: Mapping[Pipe, Address],
        reception: Reception,
        more: int,
    ) -> None:
        """Raise what `_store` would raise now; ``more``: octets of our trace."""
        going, daily = forwarding.onward(destinations), self._daily
        try:
            await self._store.read(forwarding.look_ahead, envelope, going, self._clock.seconds(), daily)
            await self._store.read(
                _would_refuse,
                _deliveries(destinations),
                _limited(destinations),
                wanted,
                going,
                more + reception.scanner.size,
                reception.spool,
                reception.scanner.header_size,
            )
        except MailboxFull:
            raise NotTaken(quota.FULL) from None
        except DailyLimit as error:
            raise _day_is_full(error) from None
        if not self._store.has_room_for(reception.scanner.size):
            raise NotTaken(NO_SPACE)


@dataclass(frozen=True, slots=True)
class _Job:
    """What is stored beside the message itself.  ``limited``: the accounts whose quota counts."""

    envelope: Envelope
    deliveries: Mapping[int, Address]
    limited: Sequence[int]
    pipes: Mapping[Pipe, Address]
    trace_id: str
    now: float
    trace: bytes
    warner: fullness.Warner
    reporter: reporting.Reporter | None
    hostname: str
    going: Sequence[forwarding.Onward]
    daily: forwarding.Daily


def _deliveries(destinations: Mapping[Address, Destination]) -> dict[int, Address]:
    """The recipient for which each account gets the message: the first that leads to it."""
    deliveries: dict[int, Address] = {}
    for address, destination in destinations.items():
        for account_id in destination.accounts:
            deliveries.setdefault(account_id, address)
    return deliveries


def _day_is_full(error: DailyLimit) -> NotTaken:
    return NotTaken(reply(450, "4.7.1", str(error)))


def _forwarded(going: Sequence[forwarding.Onward]) -> frozenset[Address]:
    """The addresses of ours that lead to other servers."""
    return frozenset(each.recipient for each in going if each.is_forwarded)


def _limited(destinations: Mapping[Address, Destination]) -> tuple[int, ...]:
    """The accounts whose quota counts: those that no recipient leads to which must always be deliverable."""
    free = {one for destination in destinations.values() if destination.beyond_quota for one in destination.accounts}
    return tuple(account_id for account_id in _deliveries(destinations) if account_id not in free)


def _would_refuse(
    txn: Cursor,
    deliveries: Mapping[int, Address],
    limited: Sequence[int],
    wanted: Mapping[Pipe, Address],
    going: Sequence[forwarding.Onward],
    size: int,
    spool: SpooledTemporaryFile[bytes],
    header_size: int,
) -> None:
    """Raise what keeps a message from being stored, as far as it is known before; in the database's thread."""
    spool.seek(0)
    header = spool.read(header_size)
    reporting.check_programs_loop(header, wanted)
    reporting.check_loop(header, deliveries, reporting.mailboxes_of(txn, deliveries))
    reporting.check_forward_loop(header, _forwarded(going))
    fullness.refuse_beyond_quota(txn, limited, size)


def _store(txn: Cursor, job: _Job, spool: SpooledTemporaryFile[bytes], scanner: MessageScanner) -> int | None:
    """The transaction of one message; runs in the database's thread.  Its row id, None when only programs have it."""
    envelope = job.envelope
    header, digest = read_through(spool, scanner.header_size)
    owners = reporting.mailboxes_of(txn, job.deliveries)
    reporting.check_loop(header, job.deliveries, owners)
    reporting.check_forward_loop(header, _forwarded(job.going))
    body_at = len(header)
    header, forged = unforged(header, spool, envelope, job.hostname)
    summary = summarise(header, size=scanner.size - body_at + len(header), sha256=digest)
    trace = job.trace
    if not header and continues_the_trace(spool, body_at):
        # It would read as words of our own Received field; an empty line makes it what it is, a body without header.
        trace += b"\r\n"
    spool.seek(body_at)
    size = len(trace) + summary.size
    # Before, so that a message for a full mailbox costs no writing; and behind, when all that it takes is counted.
    fullness.refuse_beyond_quota(txn, job.limited, size)
    message_id = None
    if job.deliveries or job.going:
        message_id = mailboxes.deliver(
            txn,
            mailboxes.NewMessage(
                job.trace_id,
                envelope.sender,
                job.now,
                trace,
                summary,
                smtputf8=envelope.smtputf8,
                body_8bit=envelope.body_8bit,
                require_tls=envelope.require_tls,
                tls_optional=reporting.tls_optional(header),
                dsn_return=envelope.dsn_return,
                envelope_id=envelope.envelope_id,
            ),
            header,
            pieces(spool),
            tuple(job.deliveries),
            prefixes={number: delivery_header(envelope.sender, owner) for number, owner in owners.items()},
            release_at=envelope.release_at,
        )
        reporting.keep_wishes(txn, message_id, envelope)
        forwarding.queue(txn, envelope, message_id, job.going, job.now, job.daily)
    fullness.refuse_beyond_quota(txn, job.limited, 0)
    events.record(txn, _story(txn, job, summary, message_id, forged))
    if job.reporter is not None:
        reporting.store_report(txn, job.reporter, envelope, job.deliveries, header, job.trace_id, job.now)
    job.warner.after_delivery(txn, tuple(job.deliveries), size, job.now)
    return message_id


def _story(txn: Cursor, job: _Job, summary: Summary, message_id: int | None, forged: int) -> Iterator[events.Entry]:
    """What this transaction does, for `mailsvc why`: accepted, given to programs, delivered to each mailbox."""
    envelope = job.envelope
    origin = envelope.origin
    happened: list[Event] = [
        Accepted(
            sender=envelope.sender,
            recipients=tuple(str(recipient) for recipient in envelope.recipients),
            size=summary.size,
            helo=origin.helo,
            protocol=origin.protocol,
            tls="" if origin.tls is None else f"{origin.tls.version} {origin.tls.cipher}",
            login="" if origin.login is None else str(origin.login),
            message_id_header=summary.message_id or "",
            recipient_count=len(envelope.recipients),
            machine=origin.machine,
        )
    ]
    if forged:
        fields = f"{forged} Authentication-Results field{'' if forged == 1 else 's'}"
        happened.append(Noted(f"{fields} in our name came with it, and went: we did not write that"))
    for pipe, recipient in job.pipes.items():
        happened.append(Noted(f"taken by {pipe.program}", tuple({str(pipe.address): 0, str(recipient): 0})))
    for account_id, recipient in job.deliveries.items():
        mailbox = accounts.address_of(txn, account_id)
        happened.append(Delivered(mailbox, "" if str(recipient) == mailbox else str(recipient)))
    happened += forwarding.told(job.going)
    if envelope.release_at is not None:
        until = datetime.fromtimestamp(envelope.release_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        happened.append(Noted(f"nobody sees it before {until}, as its sender wants", (envelope.sender,)))
    for event in happened:
        tls = origin.tls if isinstance(event, Accepted) else None
        yield events.Entry(job.now, event, origin.session, origin.peer, job.trace_id, message_id, tls=tls)
