"""The `Directory` of the SMTP server: the resolver on the database, in one read transaction for each recipient.

What the resolver does not know is added here: who asks (to domains that are not ours only users and machines of ours
may write; RFC 5321 section 7.9), whose backup we are, and how large the message will be.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from mailsvc.directory import quota
from mailsvc.directory.resolve import NOT_OURS
from mailsvc.mail.address import Address
from mailsvc.mail.reply import Reply
from mailsvc.smtp.seams import Client, Destination
from mailsvc.storage.forwarding import led
from mailsvc.storage.store import Reader


class Backups(Protocol):
    """Knows the recipients of other servers' domains that we are a backup for; `mailsvc.backup.judging` fits it."""

    async def refusal(self, address: Address, otherwise: Reply) -> Reply | None:
        """The reply that refuses ``address``, None to take it; ``otherwise`` when we are no backup for its domain."""


class TableDirectory:
    """Fits `mailsvc.smtp.seams.Directory`.

    ``programs``: whether mail may be given to programs.  ``backups``: knows the recipients of other servers' domains
    that we are a backup for; without it there are none.
    """

    def __init__(
        self,
        store: Reader,
        clock: IReactorTime,
        hostname: str,
        *,
        programs: bool,
        backups: Backups | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._hostname = hostname
        self._programs = programs
        self._backups = backups

    async def resolve(self, address: Address, client: Client, size: int = 0) -> Destination:
        """See `mailsvc.smtp.seams.Directory`."""
        found = await self._store.read(
            led, address, hostname=self._hostname, programs=self._programs, now=self._clock.seconds()
        )
        refusal = found.refusal or quota.refusal(found, size)
        if refusal is NOT_OURS and client.is_ours:
            return Destination(remotes=(address,))
        if refusal is NOT_OURS and self._backups is not None:
            refusal = await self._backups.refusal(address, NOT_OURS)
            if refusal is None:
                return Destination(remotes=(address,))
        if refusal is not None:
            return Destination(refusal=refusal)
        return Destination(
            tuple(account.id for account in found.accounts),
            programs=found.programs if self._programs else (),
            beyond_quota=found.is_reserved,
            remotes=found.remotes,
            bounces_only=found.bounces_only,
        )
