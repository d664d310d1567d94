"""An import: what a source holds goes into one account's maildrop, and is counted.

Messages are read before a transaction begins and stored in small groups, so that a running service is held up for
milliseconds.  What stands in the database after each of them is exactly what has been counted; after SIGKILL the next
run finds it there (`mailsvc.storage.imports`) and goes on.

The hardest idea is a group in which one message is too many for the quota.  The transaction of the group is undone,
and its messages are stored one by one, so that all that fit are in, and the first that does not is where it stops.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from tempfile import SpooledTemporaryFile

from mailsvc.errors import MailboxFull
from mailsvc.mail.address import AddressError, parse_address
from mailsvc.mail.message import MessageScanner, Summary, fields_named, summarise
from mailsvc.mailbox.lineends import ToCrlf
from mailsvc.mailbox.reading import PIECE, Found, Skipped, Source
from mailsvc.mailbox.uidlist import is_uidl
from mailsvc.storage import imports, mailboxes
from mailsvc.storage.opening import looking, offline

_MESSAGES = 100
_OCTETS = 8 * 1024 * 1024
"""A group ends at so many messages or octets."""

_IN_MEMORY = 1024 * 1024
"""What is larger waits in a temporary file."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest message, and the largest header block, in octets; None is any."""

    message: int | None
    header: int | None


@dataclass(slots=True)
class Tally:
    """What an import has done: numbers of messages, their octets, and for each that was skipped its name and why.

    `uidls_kept` have the unique-ids that their clients know, `uidls_changed` had one that cannot be kept.
    """

    imported: int = 0
    octets: int = 0
    already_there: int = 0
    uidls_kept: int = 0
    uidls_changed: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A message that is read and judged."""

    found: Found
    uidl: str | None
    spool: SpooledTemporaryFile[bytes] = field(repr=False)
    summary: Summary = field(repr=False)
    header: bytes = field(repr=False)
    reverse_path: str


class Import:
    """One import into the account `account_id`, whose address is `address`, in `database`.

    `clock` gives seconds since the epoch. `tally` is right at every moment, whatever has stopped `run`.
    """

    def __init__(
        self,
        database: str,
        account_id: int,
        address: str,
        *,
        limits: Limits,
        heed_quota: bool,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._account_id = account_id
        self._address = address
        self._limits = limits
        self._heed_quota = heed_quota
        self._clock = clock
        self.tally = Tally()

    def run(
        self, source: Source, *, dry: bool = False, progress: Callable[[int], None] = lambda position: None
    ) -> None:
        """Take in all that is not there yet; `dry` only counts, and tells nothing of the quota.

        `progress` is called with positions up to `source.total`, only where all that is stored is counted: it may raise
        to end the run. Raises `MailboxFull` when the quota is used up, and
        whatever the source and the database raise.
        """
        with looking(self._database) as txn:
            known = imports.imported_keys(txn, self._account_id)
        store = self._count if dry else self._store
        group: list[_Ready] = []
        octets = 0
        try:
            for found in source.messages():
                if found.key in known:
                    self.tally.already_there += 1
                    progress(found.position)
                    continue
                known.add(found.key)
                try:
                    ready = self._read(found)
                except Skipped as error:
                    self.tally.skipped.append((found.name, str(error)))
                    progress(found.position)
                    continue
                group.append(ready)
                octets += ready.summary.size
                if len(group) >= _MESSAGES or octets >= _OCTETS:
                    store(group)
                    progress(found.position)
                    _close(group)
                    octets = 0
            if group:
                store(group)
            progress(source.total)
        finally:
            _close(group)

    def _read(self, found: Found) -> _Ready:
        spool = SpooledTemporaryFile[bytes](_IN_MEMORY)
        try:
            return self._judged(found, spool)
        except BaseException as error:
            spool.close()
            if isinstance(error, OSError):
                raise Skipped(f"it cannot be read ({error.strerror})") from None
            raise

    def _judged(self, found: Found, spool: SpooledTemporaryFile[bytes]) -> _Ready:
        scanner, digest, convert = MessageScanner(), sha256(), ToCrlf()
        for piece in _closed(found.pieces()):
            converted = convert.feed(piece)
            scanner.feed(converted)
            digest.update(converted)
            spool.write(converted)
            if self._limits.message is not None and scanner.size > self._limits.message:
                raise Skipped(f"it has more than {self._limits.message} octets")
        scanner.close()
        if not scanner.size:
            raise Skipped("it is empty")
        if self._limits.header is not None and scanner.header_size > self._limits.header:
            raise Skipped(f"its header has more than {self._limits.header} octets")
        spool.seek(0)
        header = spool.read(scanner.header_size)
        summary = summarise(header, size=scanner.size, sha256=digest.hexdigest())
        proper = found.uidl is not None and is_uidl(found.uidl)
        return _Ready(
            found, found.uidl if proper else None, spool, summary, header, _reverse_path(header, found.sender)
        )

    def _store(self, group: list[_Ready]) -> None:
        try:
            self._transaction(group)
        except MailboxFull:
            if len(group) == 1:
                raise
            for ready in group:
                self._transaction([ready])

    def _transaction(self, group: list[_Ready]) -> None:
        now = self._clock()
        done = []
        with offline(self._database, create=False) as txn:
            for ready in group:
                new = mailboxes.NewMessage(
                    base64.b32encode(secrets.token_bytes(10)).decode("ascii"),
                    ready.reverse_path,
                    ready.found.received_at,
                    b"",
                    ready.summary,
                )
                stored = imports.store(
                    txn,
                    self._account_id,
                    ready.found.key,
                    ready.uidl,
                    new,
                    ready.header,
                    _body(ready),
                    now=now,
                    heed_quota=self._heed_quota,
                )
                done.append((ready, stored))
            new_ones = sum(stored.new for _, stored in done)
            if new_ones:
                imports.tell(txn, self._address, new_ones, now)
        for ready, stored in done:
            self._add(ready, stored)

    def _count(self, group: list[_Ready]) -> None:
        for ready in group:
            self._add(ready, imports.Stored(True, ready.uidl is not None))

    def _add(self, ready: _Ready, stored: imports.Stored) -> None:
        if not stored.new:
            self.tally.already_there += 1
            return
        self.tally.imported += 1
        self.tally.octets += ready.summary.size
        self.tally.uidls_kept += stored.uidl_kept
        self.tally.uidls_changed += ready.found.uidl is not None and not stored.uidl_kept


def _closed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces, with a line end behind a last line that has none: POP3 cannot send such a message otherwise, and
    LIST would tell two octets too few."""
    last = b"\n"
    for piece in pieces:
        yield piece
        last = piece[-1:] or last
    if last != b"\n":
        yield b"\r\n"


def _body(ready: _Ready) -> Iterator[bytes]:
    ready.spool.seek(len(ready.header))
    while piece := ready.spool.read(min(PIECE, mailboxes.PART_LIMIT)):
        yield piece


def _close(group: list[_Ready]) -> None:
    for ready in group:
        ready.spool.close()
    group.clear()


def _reverse_path(header: bytes, sender: str) -> str:
    """Who sent it: the first Return-Path, else what the source says, "" when neither is an address."""
    for _, value in fields_named(header, b"return-path"):
        sender = value.decode("utf-8", "replace").strip().removeprefix("<").removesuffix(">")
        break
    try:
        return str(parse_address(sender)) if sender else ""
    except AddressError:
        return ""
