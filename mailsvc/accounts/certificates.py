"""Whose is this client certificate?  `mailsvc.accounts.authenticator.Certificates` on the tables, for SASL EXTERNAL.

What a certificate may stand for at all is `mailsvc.tls.identity`, whose a key is `mailsvc.storage.identities`.  Nothing
is counted here and nobody waits: a certificate cannot be guessed.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailsvc.accounts.database import Database
from mailsvc.accounts.proofs import USE_NOTED_EVERY
from mailsvc.accounts.realm import AccountId, certificate_credential
from mailsvc.errors import MailsvcError, StorageFailure
from mailsvc.mail.address import Address, parse_address
from mailsvc.mail.channel import Failed, Verified
from mailsvc.storage.identities import note_certificate_use, owner_of
from mailsvc.tls.identity import proven_key, vouched_addresses


class CertificateOwners:
    """Looks up whose a certificate is.  ``vouching()``: the CAs (SPKI SHA-256) that may vouch for addresses now."""

    _log = Logger()

    def __init__(self, database: Database, clock: IReactorTime, vouching: Callable[[], frozenset[str]]) -> None:
        self._database = database
        self._clock = clock
        self._vouching = vouching

    async def owner(self, certificate: object, wanted: bytes) -> AccountId | None:
        """See `mailsvc.accounts.authenticator.Certificates`."""
        if not isinstance(certificate, Verified | Failed) or not (spki := proven_key(certificate)):
            return None
        addresses = vouched_addresses(certificate, self._vouching())
        now = self._clock.seconds()
        owner = await self._database.read(owner_of, spki, addresses, now, _address(wanted))
        if owner is None:
            return None
        if owner.certificate is not None and (owner.last_used is None or abs(now - owner.last_used) >= USE_NOTED_EVERY):
            # Nobody waits for it: that it was not noted is no reason to refuse a login.
            Deferred.fromCoroutine(self._note(owner.certificate, now))
        return AccountId(owner.id, owner.address, certificate_credential(spki))

    async def _note(self, number: int, now: float) -> None:
        try:
            await self._database.write(note_certificate_use, number, now)
        except StorageFailure as error:
            self._log.warn("the use of certificate {number} was not noted: {error}", number=number, error=str(error))


def _address(text: bytes) -> Address | None:
    try:
        return parse_address(text.decode("utf-8"))
    except (UnicodeDecodeError, MailsvcError):
        return None
