"""Sends TLS reports to those who ask for them (RFC 8460): yesterday's counts, by mail and over HTTPS.

`Reporter` looks every few minutes for reports that are due, asks DNS who wants them, and hands them over: a mail goes
into our own queue, in the transaction that forgets the counts; a web server gets a POST, for a day at most.

The hardest idea is that a report must not be an event of its own.  Its mail has the null sender, so nothing comes back
when it cannot be delivered, and it is given up after a day; and a failure to hand it over costs nobody but its reader.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import sha256

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailsvc.errors import TemporaryFailure
from mailsvc.mail.address import Address
from mailsvc.mail.event import Noted
from mailsvc.mail.message import Summary
from mailsvc.resolver import Resolver, Unanswered
from mailsvc.rounds import Rounds
from mailsvc.storage import events, mailboxes, outbound, tls_reports
from mailsvc.storage.outbound import NewOutbound
from mailsvc.storage.rows import Cursor
from mailsvc.storage.store import Store
from mailsvc.storage.tls_reports import Due
from mailsvc.tlsrpt.mail import mail_of
from mailsvc.tlsrpt.record import Places, places
from mailsvc.tlsrpt.report import DAY, Report

LOOK = 300.0
"""Seconds between two looks for reports that are due."""

AT_A_TIME = 20
"""Reports of one look."""

LEASE = 1800.0
"""Seconds for which nobody else takes a report that we work at."""

AGAIN = 3600.0
"""Seconds until it is tried again."""

MOST_TRIES = 24
"""So often it is tried: for a day (RFC 8460 section 5.4)."""

Post = Callable[[str, bytes], Awaitable[None]]
"""Gives a compressed report to the web server of a URL; raises `mailsvc.errors.TemporaryFailure`."""


class Reporter:
    """Works between `start` and `stop`, for the server ``hostname``.  ``new_id`` makes trace ids; ``queued`` hears that
    there is new mail to go out."""

    _log = Logger()

    def __init__(
        self,
        store: Store,
        clock: IReactorTime,
        resolver: Resolver,
        post: Post,
        hostname: str,
        new_id: Callable[[], str],
        queued: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._resolver = resolver
        self._post = post
        self._hostname = hostname
        self._new_id = new_id
        self._queued = queued
        self._rounds = Rounds(clock, LOOK, self._look, self._log, "TLS reports could not be sent")

    def start(self) -> None:
        """The database is open: begin."""
        self._rounds.start(at_once=False)

    def stop(self) -> Deferred[None]:
        """Begin nothing more; fires when nothing is under way."""
        return self._rounds.stop(break_off=True)

    async def _look(self) -> None:
        now = self._clock.seconds()
        due = await self._store.write(tls_reports.due_reports, now, lease=LEASE, limit=AT_A_TIME)
        for each in due:
            if self._rounds.running:
                await self._send(each)

    async def _send(self, due: Due) -> None:
        try:
            record = await self._resolver.texts(f"_smtp._tls.{due.domain}")
        except Unanswered as why:
            await self._later(due, str(why))
            return
        wanted = places(record.records)
        counted = await self._store.read(tls_reports.counted, due.domain, due.day)
        # The id is the same at each try, so that who gets it twice knows.
        number = sha256(f"{self._hostname} {due.domain} {due.day}".encode()).hexdigest()[:16]
        report = Report(due.domain, due.day, self._hostname, f"postmaster@{self._hostname}", number)
        octets = report.octets(counted) if counted else b""
        if octets and wanted.urls and not await self._posted(due, wanted, octets):
            return
        await self._store.write(self._finish, report, octets, wanted.mailboxes if octets else ())
        if wanted.mailboxes and octets:
            self._queued()

    async def _posted(self, due: Due, wanted: Places, octets: bytes) -> bool:
        """Whether every web server has it, or will not be asked any more."""
        failures = []
        for url in wanted.urls:
            try:
                await self._post(url, octets)
            except TemporaryFailure as why:
                failures.append(str(why))
        if failures and due.tries + 1 < MOST_TRIES:
            await self._later(due, "; ".join(failures))
            return False
        return True

    async def _later(self, due: Due, why: str) -> None:
        if due.tries + 1 >= MOST_TRIES:
            await self._store.write(tls_reports.forget_report, due.domain, due.day)
            return
        self._log.info("the TLS report for {domain} could not be handed over: {why}", domain=due.domain, why=why)
        again = self._clock.seconds() + AGAIN
        await self._store.write(tls_reports.try_report_again, due.domain, due.day, again)

    def _finish(self, txn: Cursor, report: Report, octets: bytes, mailboxes_: tuple[Address, ...]) -> None:
        """In the database's thread."""
        now = self._clock.seconds()
        for to in mailboxes_:
            trace_id = self._new_id()
            header, body = mail_of(report, octets, to, now)
            digest = sha256(header + body).hexdigest()
            summary = Summary(len(header) + len(body), len(header), digest, report.subject, None, None, None)
            new = mailboxes.NewMessage(trace_id, "", now, b"", summary, tls_optional=True)
            pieces = [body[at : at + mailboxes.PART_LIMIT] for at in range(0, len(body), mailboxes.PART_LIMIT)]
            message_id = mailboxes.deliver(txn, new, header, pieces, ())
            # NEVER: nobody shall hear of its fate, the postmaster neither.
            outbound.enqueue(txn, message_id, [NewOutbound(str(to), "", notify="NEVER", keep=float(DAY))], now)
            noted = Noted(f"a report about TLS of {report.domain} goes to <{to}>")
            events.record(txn, [events.Entry(now, noted, trace_id=trace_id, message_id=message_id)])
        tls_reports.forget_report(txn, report.domain, report.day)
