"""What people are told about certificates: a line in the log, an event, and one mail to the postmaster.

`mailsvc.tls.reload` says what happened and waits for nothing.  Each thing is told in the log and as an event
(`mailsvc why certificates`) whenever it happens; the mail is sent once for each cause: for one refusal of one
certificate until that is mended, for each of the four warnings before its end, and for its end.

The hardest idea is "once", across restarts: what was told is a row.  The row is written after the mail was stored, so
a crash in between makes two mails and never none; and when there is nobody yet who could get the mail, it is tried
again with the next look at the dates, an hour later.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailsvc.certkit.inspect import Finding, printable
from mailsvc.errors import TemporaryFailure
from mailsvc.journal import Journal
from mailsvc.mail.event import CertificateNews
from mailsvc.maillog import shown
from mailsvc.storage.certificates import forget_told, note_told, was_told
from mailsvc.storage.events import Entry
from mailsvc.storage.store import Store
from mailsvc.tls import expiry
from mailsvc.tls.credential import Credential
from mailsvc.tls.gate import Decision, Refusal

REFUSED, EXPIRES = "refused ", "expires "
MOST_WAITING = 100
"""Mails that wait for one another or for their next try."""


class Postmaster(Protocol):
    """Who gets the mails."""

    def tell(self, subject: str, text: str) -> Deferred[bool]:
        """Put a mail into the postmaster's maildrop; False when there is nobody who could get it.

        ``text``: lines without their ends.  Fails with `mailsvc.errors.TemporaryFailure`.
        """


class Notices:
    """Fits `mailsvc.tls.reload.Hearer`.  ``store`` remembers what was told."""

    _log = Logger("mailsvc")

    def __init__(self, journal: Journal, store: Store, postmaster: Postmaster, hostname: str, clock: IReactorTime):
        self._journal = journal
        self._store = store
        self._postmaster = postmaster
        self._hostname = hostname
        self._clock = clock
        self._waiting: dict[tuple[str, str], tuple[str, str]] = {}
        self._over: list[tuple[str, str, tuple[str, ...]]] = []
        self._is_sending = False
        self._send_again = False
        self._expiry_told: set[tuple[bytes, int]] = set()

    # -- what a reloader tells --------------------------------------------------------------------------------------

    def changed(self, why: str, decision: Decision) -> None:
        """Other certificates are in use from now on."""
        by_name = {each.name: each for each in decision.table.credentials}
        for what, names in (("replaced", decision.replaced), ("added", decision.added)):
            for name in names:
                new = by_name[name]
                until = f"{expiry.ends(new):%Y-%m-%d}"
                text = f"{name} of {new.origin} is in use now, for {new.names}, until {until} ({why})"
                self._happened(name, what, text)
                self._is_over(name, REFUSED)
                self._is_over(name, EXPIRES, _causes(new))
        for name in decision.removed:
            self._happened(name, "removed", f"{name} was removed and is not in use any more ({why})")
            self._is_over(name, "")
        self._send()

    def found(self, refusal: Refusal) -> None:
        """Something does not go live now: for the log only."""
        self._log.error("{text}", text=shown(printable(str(refusal)), 2000))

    def refused(self, refusal: Refusal) -> None:
        """Something does not go live, and stays so."""
        self.found(refusal)
        text = printable(str(refusal))
        self._note(refusal.name, "refused", text)
        cause = REFUSED + sha256("\0".join((refusal.origin, *refusal.reasons)).encode("utf-8", "replace")).hexdigest()
        self._mail(
            refusal.name,
            cause,
            "A certificate was refused",
            [
                f"The mail service {self._hostname} has refused a certificate.",
                "",
                text,
                "",
                *(f"- {printable(reason)}" for reason in refusal.reasons),
                "",
                "Mend it, and it is taken by itself within a minute or two; `mailsvc doctor` says how things stand.",
                "There is no second mail about this cause.",
            ],
        )

    def mended(self, name: str, origin: str) -> None:
        """What was told as refused is refused no more."""
        self._happened(name, "mended", f"what was wrong with {name or origin} is wrong no more")
        self._is_over(name, REFUSED)
        self._send()

    def remarked(self, finding: Finding) -> None:
        """A warning: for the log only."""
        self._log.warn("{finding}", finding=shown(str(finding), 2000))

    def expiring(self, credentials: Sequence[Credential]) -> None:
        """Warn of those that end soon."""
        now = datetime.fromtimestamp(self._clock.seconds(), UTC)
        for each in credentials:
            days = expiry.due(each, now)
            if days is None:
                continue
            text = f"{printable(each.name)} of {printable(each.origin)}: {expiry.sentence(each, days)}"
            if (each.fingerprint, days) not in self._expiry_told:
                self._expiry_told.add((each.fingerprint, days))
                (self._log.error if days == expiry.OVER else self._log.warn)(
                    "the certificate {text}", text=shown(text, 2000)
                )
                self._note(each.name, "expires", text)
            self._mail(
                each.name,
                _cause(each, days),
                "A certificate has ended" if days == expiry.OVER else "A certificate ends soon",
                [
                    f"A certificate of the mail service {self._hostname} {'has ended' if not days else 'ends soon'}.",
                    "",
                    text,
                    f"It is for {printable(str(each.names))}.",
                    "",
                    "A renewed one is taken by itself some seconds after it was put in its place.",
                ],
            )
        self._send()

    # -- events and mails -------------------------------------------------------------------------------------------

    def _happened(self, name: str, what: str, text: str) -> None:
        self._log.info("certificate {what}: {text}", what=what, text=shown(text, 2000))
        self._note(name, what, printable(text))

    def _note(self, name: str, what: str, text: str) -> None:
        self._journal.note(Entry(self._clock.seconds(), CertificateNews(printable(name), what, text)))

    def _mail(self, about: str, cause: str, subject: str, lines: Sequence[str]) -> None:
        # A folder's name may hold octets that no database takes, and would hold up all other mails.
        if len(self._waiting) < MOST_WAITING:
            self._waiting[printable(about), cause] = (subject, "\n".join(lines))
        self._send()

    def _send(self) -> None:
        if self._is_sending:
            self._send_again = True
        elif self._waiting or self._over:
            self._is_sending, self._send_again = True, False
            sending = Deferred.fromCoroutine(self._send_all())
            sending.addErrback(lambda why: self._log.failure("a defect: the postmaster was not told", why))
            sending.addBoth(self._sent)

    def _sent(self, result: object) -> None:
        self._is_sending = False
        if self._send_again:
            self._send()

    async def _send_all(self) -> None:
        try:
            while self._over:
                about, beginning, but = self._over[0]
                await self._store.write(forget_told, about, beginning, but=but)
                del self._over[0]
            for (about, cause), (subject, text) in tuple(self._waiting.items()):
                if not await self._store.read(was_told, about, cause):
                    if not await self._postmaster.tell(subject, text):
                        self._log.warn("there is nobody who gets the postmaster's mail: {subject}", subject=subject)
                        continue
                    await self._store.write(note_told, about, cause, self._clock.seconds())
                self._waiting.pop((about, cause), None)
        except TemporaryFailure as failure:
            self._log.warn("the postmaster could not be told about certificates now: {why}", why=str(failure))

    def _is_over(self, about: str, beginning: str, but: tuple[str, ...] = ()) -> None:
        """What was told, or waits, may be told again when it comes back."""
        about = printable(about)
        self._over.append((about, beginning, but))
        for name, cause in tuple(self._waiting):
            if name == about and cause.startswith(beginning) and cause not in but:
                del self._waiting[name, cause]


def _cause(credential: Credential, days: int) -> str:
    return f"{EXPIRES}{days} {credential.fingerprint.hex()}"


def _causes(credential: Credential) -> tuple[str, ...]:
    return tuple(_cause(credential, days) for days in (expiry.OVER, *expiry.DAYS))
