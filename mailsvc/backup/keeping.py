"""Keeps the lists of recipients as new as they can be had, and notices that a primary is back.

`ListKeeper` works between `start` and `stop`.  It looks at every list each few minutes.  When one cannot be had the
last good one stays, and it looks more often: the answer that comes at last is also the news that the primary is back.
Then what waits for it is due at once, and not at the queue's own time, which may be hours away.

The hardest idea: only the answer counts as news, not that it is an error of another kind.  A primary whose web server
answers and whose mail server does not costs one more attempt, no more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, gatherResults
from twisted.logger import Logger

from mailsvc.backup.fetching import Fetched, fetch_list
from mailsvc.backup.forms import RecipientList
from mailsvc.backup.listing import list_in_clear, names_in
from mailsvc.backup.place import primary_of
from mailsvc.errors import MailsvcError, TemporaryFailure
from mailsvc.mail.address import Address
from mailsvc.relay.destinations import name_of
from mailsvc.relay.url import Relay
from mailsvc.rounds import Rounds
from mailsvc.storage.backups import Backup, Source, backups, note_problem, note_same, primary_is_back, put_list
from mailsvc.storage.routes import planned
from mailsvc.storage.rows import Cursor
from mailsvc.storage.store import Store
from mailsvc.tls.client import ClientTLS
from mailsvc.tls.https import Connect

LOOK = 5.0
"""Seconds between two looks at which lists are due: a domain that was added now is asked for that soon."""

RETRY = 30.0
"""Seconds after which a list that could not be had is asked for again."""

FILE_LIMIT = 64 * 1024 * 1024
"""Octets of a file of recipients."""

AT_ONCE = 8
"""Lists that are fetched at a time."""


@dataclass(frozen=True, slots=True)
class FileList:
    """What a file of recipients holds now; ``found`` None when it is the version of the stamp that was asked with."""

    found: RecipientList | None
    stamp: str


def read_file(path: Path, domain: str, separator: str, stamp: str = "") -> FileList:
    """The recipients in a file; blocks.  Raises `MailsvcError`."""
    try:
        with path.open("rb") as opened:
            status = path.stat()
            now = f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {separator}"
            if now == stamp:
                return FileList(None, stamp)
            octets = opened.read(FILE_LIMIT + 1)
    except OSError as error:
        raise MailsvcError(
            f"{path}: the file of recipients cannot be read ({error.strerror}); check the path"
        ) from error
    if len(octets) > FILE_LIMIT:
        raise MailsvcError(f"{path}: the file of recipients is longer than {FILE_LIMIT} octets")
    try:
        lines = octets.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise MailsvcError(f"{path}: the file of recipients is not UTF-8") from None
    try:
        names, catch_all = names_in(lines, domain)
    except MailsvcError as error:
        raise MailsvcError(f"{path}: {error}") from None
    if not names and not catch_all:
        # Most likely somebody is writing it just now; nobody at all is refused for that.
        raise MailsvcError(f"{path}: the file of recipients names nobody in {domain}; check it")
    return FileList(list_in_clear(domain, names, separator=separator, catch_all=catch_all), now)


class ListKeeper:
    """Keeps the lists.

    ``tls`` gives what checks a primary, with our certificate.  ``every``: seconds between two questions to a primary,
    or looks at a file.  ``in_thread`` runs what blocks.
    """

    _log = Logger()

    def __init__(
        self,
        store: Store,
        reactor: Any,
        tls: Callable[[Relay], Awaitable[ClientTLS]],
        in_thread: Callable[[Callable[[], FileList]], Deferred[FileList]],
        *,
        every: float = 300.0,
        connect: Connect | None = None,
    ) -> None:
        self._store = store
        self._reactor = reactor
        self._tls = tls
        self._in_thread = in_thread
        self._every = every
        self._connect = connect
        self._slots = DeferredSemaphore(AT_ONCE)
        self._due: dict[str, float] = {}
        self._failing: set[str] = set()
        self._under_way: dict[str, Deferred[None]] = {}
        self._rounds = Rounds(reactor, LOOK, self._look, self._log, "the lists of recipients could not be looked after")

    def start(self) -> None:
        """The database is open: begin.  Every list is asked for at once."""
        self._rounds.start(at_once=True)

    async def stop(self) -> None:
        """Begin nothing more, break off what runs; returns when it has ended."""
        looked = self._rounds.stop()
        for each in list(self._under_way.values()):
            each.cancel()
        await looked
        await gatherResults(list(self._under_way.values()))

    async def _look(self) -> None:
        self._begin(await self._store.read(backups))

    def _begin(self, rows: list[Backup]) -> None:
        now = self._reactor.seconds()
        there = {row.name for row in rows}
        self._due = {name: due for name, due in self._due.items() if name in there}
        self._failing &= there
        for row in rows:
            # One that never had a list is new, or was removed and added again with another source.
            due = self._due.get(row.name, now) if row.asked is not None else now
            if (
                self._rounds.running
                and row.source is not Source.TABLE
                and due <= now
                and row.name not in self._under_way
            ):
                done: Deferred[None] = Deferred.fromCoroutine(self._renew_in_turn(row))
                self._under_way[row.name] = done
                done.addBoth(self._ended, row.name)

    def _ended(self, _: object, name: str) -> None:
        self._under_way.pop(name, None)

    async def _renew_in_turn(self, row: Backup) -> None:
        try:
            await self._slots.acquire()
            try:
                await self._renew(row)
            finally:
                self._slots.release()
        except (CancelledError, TemporaryFailure):
            pass  # we stop; or the database has said so in the log
        except Exception:
            self._log.failure("a defect: the list of recipients of {domain} could not be renewed", domain=row.name)
        finally:
            pause = self._every if row.name not in self._failing else min(RETRY, self._every)
            self._due[row.name] = self._reactor.seconds() + pause

    async def _renew(self, row: Backup) -> None:
        try:
            fetched = await self._newest(row)
        except MailsvcError as why:
            await self._note_problem(row, str(why))
            return
        now = self._reactor.seconds()
        if fetched.found is None:
            await self._store.write(note_same, row.name, now)
        else:
            changed = await self._store.write(put_list, row.name, fetched.found, fetched.stamp, now)
            if changed:
                text = "the list of recipients of {domain} is new: {changed} entries differ"
                self._log.info(text, domain=row.name, changed=changed)
        if row.name in self._failing or row.problem:
            self._failing.discard(row.name)
            await self._is_back(row)

    async def _newest(self, row: Backup) -> Fetched | FileList:
        if row.source is Source.FILE:
            path, separator = Path(row.place), row.rules.separator
            return await self._in_thread(lambda: read_file(path, row.name, separator, row.stamp))
        primary = primary_of(row.place)
        tls = await self._tls(primary)
        return await fetch_list(primary, row.name, row.stamp, tls, self._reactor, connect=self._connect)

    async def _note_problem(self, row: Backup, why: str) -> None:
        if row.name not in self._failing or why != row.problem:
            kept = "the last good one stays" if row.got is not None else "there has never been one"
            self._log.warn(
                "no newer list of recipients of {domain}, {kept}: {why}", domain=row.name, kept=kept, why=why
            )
        self._failing.add(row.name)
        await self._store.write(note_problem, row.name, why, self._reactor.seconds())

    async def _is_back(self, row: Backup) -> None:
        if row.source is not Source.PRIMARY:
            self._log.info("the file of recipients of {domain} can be read again", domain=row.name)
            return
        count = await self._store.write(_hand_over, row.name, self._reactor.seconds())
        text = "the primary of {domain} answers again; {count} recipients that waited for it are due now"
        self._log.info(text, domain=row.name, count=count)


def _hand_over(txn: Cursor, domain: str, now: float) -> int:
    """What waits for the domain is due now."""
    return primary_is_back(txn, name_of(planned(txn, Address("postmaster", domain), None, None)), now)
