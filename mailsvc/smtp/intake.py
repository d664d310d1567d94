"""From the end of DATA to "250": the body's verdict, and the one transaction that makes it durable (DESIGN section 5a).

`Reception` takes a body piece by piece into a spool (memory first, an unlinked temporary file beyond a limit) and
notes what is wrong with it; nothing is said to the client before the body's end, because SMTP has no place for it
(RFC 5321 section 4.2.5).  `Intake.accept` writes message, content, mailbox items and event in one transaction.

The hardest idea: the spool is handed to the database thread and read there, once, in pieces.  So a message of 50 MB
is never in memory, and the digest is computed where it does not hold up the reactor.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from mailsvc.mail.address import Address
from mailsvc.mail.envelope import Envelope
from mailsvc.mail.message import MessageScanner, summarise
from mailsvc.mail.reply import Reply, reply
from mailsvc.smtp.recipients import RecipientFacts
from mailsvc.smtp.trace import trace_header
from mailsvc.storage import accounts, events, mailboxes
from mailsvc.storage.rows import Cursor
from mailsvc.storage.store import Store

_TOO_MANY_HOPS = reply(554, "5.4.6", "Too many hops: the message seems to go in a circle")
_BARE_LINE_END = reply(550, "5.6.11", "The message holds a bare CR or LF; lines end with CRLF")
_LONG_LINE = reply(554, "5.6.0", "The message holds a line longer than 998 octets")
NO_SPACE = reply(452, "4.3.1", "Insufficient system storage; try again later")
_FAILED = reply(451, "4.3.0", "The message could not be taken; try again later")


class MailStore(Store, Protocol):
    """A store that knows how much it can still take."""

    def has_room_for(self, octets: int) -> bool:
        """Whether a message of so many octets would leave the disk with a reserve."""


_ROOM_STEP = 1 << 20
"""So many octets of a body are taken before the disk is asked again."""

LINE_LIMIT = 998
"""Octets of a line without CRLF, RFC 5322 section 2.1.1."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What a message may be.  Sizes in octets; ``in_memory`` is where the spool moves to a file in ``folder``."""

    message_size: int
    header_size: int
    received_fields: int
    refuse_long_lines: bool
    in_memory: int
    folder: str | None


class Reception:
    """One body on its way in.  `take` its pieces, ask for the `verdict` at its end, `discard` it whatever happened.

    ``has_room_for(octets)`` tells whether the disk may take so much more; asked for every `_ROOM_STEP` octets, because
    many bodies at once could otherwise eat the reserve that removing mail needs.
    """

    def __init__(self, limits: BodyLimits, has_room_for: Callable[[int], bool]) -> None:
        self.scanner = MessageScanner(measure_lines=limits.refuse_long_lines)
        self.spool: SpooledTemporaryFile[bytes] = SpooledTemporaryFile(  # noqa: SIM115 - it lives as long as the body
            max_size=limits.in_memory, dir=limits.folder
        )
        self._limits = limits
        self._has_room_for = has_room_for
        self._room_asked_at = 0
        self._broken: Reply | None = None

    def take(self, piece: bytes) -> None:
        """Take the next piece.  What will be refused anyway is still read, and no longer kept."""
        if self._broken is not None:
            return
        self.scanner.feed(piece)
        if self.scanner.size > self._limits.message_size:
            self.fail(reply(552, "5.3.4", f"The message is larger than {self._limits.message_size} octets"))
        elif self.scanner.header_size > self._limits.header_size:
            self.fail(reply(552, "5.3.4", f"The message's header is larger than {self._limits.header_size} octets"))
        elif self.scanner.size - self._room_asked_at > _ROOM_STEP and not self._is_room():
            self.fail(NO_SPACE)
        else:
            try:
                self.spool.write(piece)
            except OSError:
                self.fail(NO_SPACE)

    def _is_room(self) -> bool:
        self._room_asked_at = self.scanner.size
        return self._has_room_for(_ROOM_STEP)

    def fail(self, why: Reply = _FAILED) -> None:
        """The message cannot be taken; the reply at its end will be ``why``."""
        self._broken = why
        self.discard()

    def verdict(self) -> Reply | None:
        """The body has ended: the reply that refuses it, or None when it may be stored."""
        scanner = self.scanner
        scanner.close()
        if self._broken is not None:
            return self._broken
        if scanner.has_bare_line_end:
            return _BARE_LINE_END
        if scanner.received_fields > self._limits.received_fields:
            return _TOO_MANY_HOPS
        if self._limits.refuse_long_lines and scanner.longest_line > LINE_LIMIT:
            return _LONG_LINE
        return None

    def discard(self) -> None:
        """Give memory and disk back."""
        # Closing flushes what Python has buffered; on a full disk that fails, and the bytes are not wanted anyway.
        with suppress(OSError):
            self.spool.close()


class Intake:
    """Looks up recipients and stores messages, for every SMTP listener of the service.

    ``new_id`` makes trace ids: unique, unguessable, safe in a header.
    """

    def __init__(
        self,
        store: MailStore,
        clock: IReactorTime,
        hostname: str,
        *,
        new_id: Callable[[], str] = lambda: base64.b32encode(secrets.token_bytes(10)).decode("ascii"),
    ) -> None:
        self._store = store
        self._clock = clock
        self._hostname = hostname
        self._new_id = new_id

    def recipient(self, address: Address) -> Deferred[RecipientFacts]:
        """What the tables say of a recipient.  Fails with `mailsvc.errors.StorageFailure`."""
        return self._store.read(recipient_facts, address)

    def refusal_for_size(self, octets: int) -> Reply | None:
        """The reply that puts off a message of ``octets`` octets while the disk is full, or None."""
        # Asked before the body is sent, and with a reserve: on a really full disk not even deleting mail would work.
        return None if self._store.has_room_for(octets) else NO_SPACE

    def reception(self, limits: BodyLimits) -> Reception:
        """A place for the next body.  Raises OSError when there is none."""
        return Reception(limits, self._store.has_room_for)

    async def accept(self, envelope: Envelope, account_ids: Sequence[int], reception: Reception) -> str:
        """Store the message; return its trace id once it is committed and synced.

        Raises `mailsvc.errors.StorageFailure` (nothing was stored) or `mailsvc.errors.NotFound` (a recipient was
        removed since RCPT; nothing was stored).
        """
        trace_id = self._new_id()
        now = self._clock.seconds()
        trace = trace_header(envelope, hostname=self._hostname, trace_id=trace_id, now=now)
        await self._store.write(
            _store, envelope, tuple(account_ids), trace_id, now, trace, reception.spool, reception.scanner
        )
        return trace_id


def recipient_facts(txn: Cursor, address: Address) -> RecipientFacts:
    """`RecipientFacts` of ``address``, from the tables."""
    account = accounts.account(txn, address.key)
    if account is not None:
        return RecipientFacts(domain_is_local=True, account=account.id, disabled=account.disabled)
    return RecipientFacts(domain_is_local=accounts.domain_exists(txn, address.domain), account=None)


def _store(
    txn: Cursor,
    envelope: Envelope,
    account_ids: Sequence[int],
    trace_id: str,
    now: float,
    trace: bytes,
    spool: SpooledTemporaryFile[bytes],
    scanner: MessageScanner,
) -> None:
    """The transaction of one message; runs in the database's thread."""
    header, digest = _read_through(spool, scanner.header_size)
    summary = summarise(header, size=scanner.size, sha256=digest)
    if _continues_the_trace(spool, header):
        # It would read as words of our own Received field; an empty line makes it what it is, a body without header.
        trace += b"\r\n"
    spool.seek(len(header))
    message_id = mailboxes.deliver(
        txn,
        mailboxes.NewMessage(trace_id, envelope.sender, now, trace, summary),
        header,
        _pieces(spool),
        account_ids,
    )
    events.record(
        txn,
        time=now,
        kind="accepted",
        trace_id=trace_id,
        message_id=message_id,
        detail=_event_detail(envelope, scanner.size),
    )


def _read_through(spool: SpooledTemporaryFile[bytes], header_size: int) -> tuple[bytes, str]:
    """The header block, and the hex SHA-256 of all."""
    spool.seek(0)
    header = spool.read(header_size)
    digest = hashlib.sha256(header)
    for piece in _pieces(spool):
        digest.update(piece)
    return header, digest.hexdigest()


def _continues_the_trace(spool: SpooledTemporaryFile[bytes], header: bytes) -> bool:
    """Whether the message begins with white space: behind a header field that is a continuation (RFC 5322, 2.2.3)."""
    spool.seek(0)
    return not header and spool.read(1) in (b" ", b"\t")


def _pieces(spool: SpooledTemporaryFile[bytes]) -> Iterator[bytes]:
    while piece := spool.read(mailboxes.PART_LIMIT):
        yield piece


def _event_detail(envelope: Envelope, size: int) -> dict[str, object]:
    origin = envelope.origin
    return {
        "peer": origin.peer,
        "helo": origin.helo,
        "protocol": origin.protocol,
        "tls": None if origin.tls is None else f"{origin.tls.version} {origin.tls.cipher}",
        "login": None if origin.login is None else str(origin.login),
        "sender": envelope.sender,
        "recipients": [str(recipient) for recipient in envelope.recipients],
        "size": size,
    }
