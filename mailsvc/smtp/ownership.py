"""`mailsvc.smtp.seams.Senders` on the tables: nobody sends in the name of others (RFC 6409 section 6.1).

Asked twice: for MAIL FROM, where the envelope is refused before anybody sends a message in vain, and at the end for
From, Sender and their Resent- forms, which is what people read.  Every one of those addresses must belong to the login;
that a Sender is right does not excuse a From that is not.

A message without any of those fields speaks in nobody's name and passes.  The null sender passes at MAIL, since a mail
program sends receipts with it; what its From says is looked at like any other.

A machine that sends without a login (a relay client) may send as whom it was granted, and as nobody else.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.interfaces import IReactorTime

from mailsvc.accounts.realm import app_password_of, certificate_of
from mailsvc.mail.address import Address
from mailsvc.mail.authors import AuthorsError, authors
from mailsvc.mail.reply import Reply, reply
from mailsvc.smtp.seams import Client
from mailsvc.storage.credentials import still_holds
from mailsvc.storage.identities import sender_not_granted
from mailsvc.storage.rows import Cursor
from mailsvc.storage.senders import check_sender, foreign_sender
from mailsvc.storage.store import Reader

_LOG_IN_AGAIN = reply(421, "4.7.0", "The account has changed since the login; log in again", closes=True)
_NOT_GRANTED = reply(553, "5.7.1", "Sender address not granted to this machine")
_NOT_OWNED = reply(553, "5.7.1", "Sender address not owned by the login")


class OwnSenders:
    """Lets an account send as itself, by its aliases, and as whom it was granted; unless it is not to be checked."""

    def __init__(self, store: Reader, clock: IReactorTime) -> None:
        self._store = store
        self._clock = clock

    async def at_mail(self, client: Client, reverse_path: Address | None) -> Reply | None:
        """See `mailsvc.smtp.seams.Senders`."""
        if client.account is None:
            # A machine was looked up for this very MAIL.
            may_not = reverse_path is not None and await self._foreign(client, [reverse_path]) is not None
            return _NOT_GRANTED if may_not else None
        # Hours may have passed since the login. What would not let anybody in any more sends no more mail either.
        now = self._clock.seconds()
        return await self._store.read(_account_at_mail, client, client.account, reverse_path, now)

    async def at_end(self, client: Client, header: bytes) -> Reply | None:
        """See `mailsvc.smtp.seams.Senders`."""
        if not client.is_ours:
            return None
        # A message may take its time, too.
        if client.account is not None and not await self._store.read(
            _still_holds, client, client.account, self._clock.seconds()
        ):
            return _LOG_IN_AGAIN
        try:
            if header != b"\r\n" and not header.endswith(b"\r\n\r\n"):
                # Many programs pass over such a line, and read a From behind it that we take for the body's.
                raise AuthorsError("a line of the header is no header field")
            found = authors(header)
        except AuthorsError as error:
            # Who is not checked may write what he likes there.
            checked = client.account is None or await self._store.read(check_sender, client.account)
            return reply(550, "5.7.1", f"The sender cannot be checked: {error}") if checked else None
        if not found:
            return None
        foreign = await self._foreign(client, found)
        whose = "owned by the login" if client.account is not None else "granted to this machine"
        return None if foreign is None else reply(550, "5.7.1", f"From: address not {whose}: {foreign}")

    async def _foreign(self, client: Client, senders: Sequence[Address]) -> Address | None:
        """The first of these as whom the account or the machine may not send."""
        if client.account is not None:
            return await self._store.read(foreign_sender, client.account, senders)
        if client.machine is not None:
            return await self._store.read(sender_not_granted, client.machine.id, senders)
        return None


def _still_holds(txn: Cursor, client: Client, account: int, now: float) -> bool:
    used, key = app_password_of(client.credential), certificate_of(client.credential)
    return still_holds(txn, account, used, client.changed, key, now=now)


def _account_at_mail(
    txn: Cursor, client: Client, account: int, reverse_path: Address | None, now: float
) -> Reply | None:
    if not _still_holds(txn, client, account, now):
        return _LOG_IN_AGAIN
    if reverse_path is None or foreign_sender(txn, account, [reverse_path]) is None:
        return None
    return _NOT_OWNED
