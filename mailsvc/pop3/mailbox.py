"""Maildrops behind the POP3 server: who may open one, the snapshot, the content, the deletes (DESIGN section 5b).

RFC 1939 section 4 wants an exclusive lock, taken at login and given back when the session has ended, however it ended.
An account that deletes by device has one for each device instead: a session sees its device's own maildrop.  The locks
live in this process, because one process at a time uses a sqlite database (`mailsvc.storage.database` sees to that).

Which sessions may be open together is `mailsvc.pop3.devices`; what QUIT does to the rows is one transaction for so
many messages at a time, `mailsvc.storage.devices.carry_out`.  A crash between two of them leaves some messages
deleted and some not, as RFC 1939 section 6 allows, and each of them whole.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailsvc.accounts.guard import WrongLogin
from mailsvc.accounts.realm import Account, app_password_of, certificate_of
from mailsvc.errors import TemporaryFailure
from mailsvc.mail.event import LIST_LIMIT
from mailsvc.mail.surrogate import Appearance
from mailsvc.pop3.content import Content
from mailsvc.pop3.devices import Hold, Keeping, MaildropInUse, enter, expiry, settle, shortest
from mailsvc.pop3.maildrop import Maildrop
from mailsvc.pop3.rendering import View, Workarounds, is_utf8, rendered
from mailsvc.storage.credentials import still_holds
from mailsvc.storage.deleted import Removal
from mailsvc.storage.devices import Carried, Device, LoginEnded, Opening, carry_out, note_fetched, note_login
from mailsvc.storage.devices import open_maildrop as read_maildrop
from mailsvc.storage.expiry import OwnExpiry
from mailsvc.storage.store import Store
from mailsvc.storage.surrogates import UNMEASURED, measured, note_measured

__all__ = ["Carried", "LoginEnded", "MaildropInUse", "Maildrops", "OpenMaildrop"]

_AT_ONCE = 500
"""Messages removed in one transaction (some 50 ms), so that deliveries pass in between."""

_MEASURED_AT_ONCE = 50
"""Messages that are read in one transaction to learn how long their surrogates are."""

LOOK_AGAIN = 1.0
"""Seconds after which a session's login is held against the tables again, at its next command."""

_log = Logger("mailsvc.pop3.mailbox")


class Maildrops:
    """All accounts' maildrops; one for the service, so that the locks hold across listeners."""

    def __init__(
        self, store: Store, clock: IReactorTime, keeping: Keeping | None = None, workarounds: Workarounds | None = None
    ) -> None:
        self.keeping = keeping or Keeping()
        self._workarounds = workarounds or Workarounds()
        self._store = store
        self._clock = clock
        self._holds: dict[int, list[Hold]] = {}
        self._own = OwnExpiry(0, any=False)

    async def open(self, account: Account, *, utf8: bool = False) -> OpenMaildrop:
        """Take the account's maildrop, or that of the device that has logged in, as it is now; ``utf8``: its client can
        read UTF-8 in a header.

        Raises `MaildropInUse`, `WrongLogin` when the login does not hold any more, or `mailsvc.errors.StorageFailure`;
        the caller must `OpenMaildrop.release` what it gets.
        """
        app_password, key = app_password_of(account.credential), certificate_of(account.credential)
        device = Device(account.id, account.credential, app_password, account.changed, key)
        hold = Hold(device.credential)
        holds = self._holds.setdefault(account.id, [])
        enter(holds, device.credential)
        holds.append(hold)
        try:
            opening = await self._look(device)
            settle(holds, hold, by_device=opening.by_device)
            if not utf8:
                await self._measure(account.id, opening.appearances)
        except BaseException as error:
            self._leave(account.id, hold)
            if isinstance(error, LoginEnded):
                raise WrongLogin from error
            raise
        assert opening.items is not None
        view = View(opening.items, opening.appearances, utf8=utf8, workarounds=self._workarounds)
        return OpenMaildrop(
            self._store, self._clock, device, opening, view, self.keeping, lambda: self._leave(account.id, hold)
        )

    def is_open(self, account_id: int) -> bool:
        """Whether some session has this account's maildrop open, or is about to."""
        return account_id in self._holds

    @property
    def expiry(self) -> str:
        """What CAPA says of EXPIRE before anybody has logged in."""
        return expiry(shortest(self.keeping.expire, self._own.shortest), differs=self._own.any)

    def learn_expiry(self, own: OwnExpiry) -> None:
        """Some accounts say themselves when their mail goes."""
        self._own = own

    async def _look(self, device: Device) -> Opening:
        now = self._clock.seconds()
        opening = await self._store.read(read_maildrop, device, now)
        if opening.items is None:
            await self._store.write(note_login, device, now)
            opening = await self._store.read(read_maildrop, device, now)
        elif opening.device_id is None:
            # Nothing depends on it yet, so the login does not wait for the disk.
            _follow(self._store.write(note_login, device, now))
        if opening.items is None:
            raise LoginEnded("the password was changed or revoked")
        return opening

    async def _measure(self, account_id: int, appearances: dict[int, Appearance]) -> None:
        """What was stored before there were surrogates is measured when it is first asked for."""
        unknown = [uid for uid, appearance in appearances.items() if appearance.surrogate_size == UNMEASURED]
        for start in range(0, len(unknown), _MEASURED_AT_ONCE):
            sizes = await self._store.read(measured, account_id, unknown[start : start + _MEASURED_AT_ONCE])
            await self._store.write(note_measured, account_id, sizes)
            for uid, size in sizes.items():
                appearances[uid] = Appearance(size, appearances[uid].header_gap)

    def _leave(self, account_id: int, hold: Hold) -> None:
        holds = self._holds[account_id]
        holds.remove(hold)
        if not holds:
            del self._holds[account_id]


class OpenMaildrop:
    """One session's hold on a maildrop."""

    def __init__(
        self,
        store: Store,
        clock: IReactorTime,
        device: Device,
        opening: Opening,
        view: View,
        keeping: Keeping,
        leave: Any,
    ) -> None:
        assert opening.items is not None
        self.messages = Maildrop(opening.items, view.sizes)
        self._view = view
        self.expiry = expiry(keeping.expire if opening.expire_days is None else opening.expire_days)
        """What CAPA says of EXPIRE now."""
        self._content = Content(store, device.account_id, opening.items)
        self._store = store
        self._clock = clock
        self._device = device
        self.by_device = opening.by_device
        """Whether the session has the maildrop of its device, and not that of the whole account."""
        self.carried: Carried | None = None
        """What `commit` has done so far; None when it has done nothing."""
        self.removed: list[int] = []
        """The numbers of the messages that it has removed, the first of them."""
        self._device_id = opening.device_id
        self._keeping = keeping
        self._leave = leave
        self._fetched: set[int] = set()
        self._released = False
        self._looked = clock.seconds()

    @property
    def is_due(self) -> bool:
        """Whether it is time to ask `login_holds`."""
        return not 0 <= self._clock.seconds() - self._looked < LOOK_AGAIN

    async def login_holds(self) -> bool:
        """Whether what the client logged in with would still let it in; whoever has changed that, this process or
        another.

        True as well when nobody can tell now: what needs the database fails by itself then.
        """
        device, now = self._device, self._clock.seconds()
        try:
            holds = await self._store.read(
                still_holds, device.account_id, device.app_password, device.changed, device.certificate, now=now
            )
        except TemporaryFailure:
            return True
        self._looked = now
        return holds

    def content(self, number: int) -> AsyncIterator[bytes]:
        """The octets of a message as this session is sent it: first its header block with the empty line, then the
        body in pieces.

        Raises `mailsvc.errors.StorageFailure`; also when the message was removed by an administrator meanwhile.
        """
        pieces = self._content.pieces(number)
        renderer = self._view.renderer(number)
        return pieces if renderer is None else rendered(pieces, renderer)

    async def needs_utf8(self, number: int) -> bool:
        """Whether the client would be sent a surrogate, and has only to say UTF8 to get the message.

        With octets beyond ASCII that are no UTF-8 it would have to say something that POP3 does not have.
        Raises as `content` does.
        """
        if self._view.is_surrogate(number):
            async for header in self._content.pieces(number):
                return is_utf8(header)
        return False

    def fetched(self, number: int) -> None:
        """The client has been given a whole message."""
        if self.by_device:
            self._fetched.add(self.messages.uid(number))

    async def commit(self) -> None:
        """Remove the marked messages, from the account or for this device, as the account wants it now.

        `carried` and `removed` tell what was done, at every moment.  On `mailsvc.errors.StorageFailure` some may not be
        removed, as RFC 1939 section 6 allows.  Raises `LoginEnded` when what the client logged in with was changed or
        revoked meanwhile; then nothing more is removed.
        """
        now = self._clock.seconds()
        how = Removal(now, credential=self._device.credential, keep=self._keeping.undelete > 0)
        in_use_since = self._keeping.in_use_since(now)
        marked = self.messages.marked
        done = Carried(0, 0, self.by_device)
        for start in range(0, len(marked), _AT_ONCE):
            numbers = marked[start : start + _AT_ONCE]
            uids = [self.messages.uid(number) for number in numbers]
            slice_ = await self._store.write(carry_out, self._device, uids, how, in_use_since)
            done = Carried(done.deleted + slice_.deleted, done.left + slice_.left, slice_.by_device)
            self.carried = done
            self.removed += [self.messages.message_id(number) for number in numbers[: LIST_LIMIT - len(self.removed)]]
        self.carried = done

    def release(self) -> None:
        """Give the lock back; a second time does nothing."""
        if not self._released:
            self._released = True
            self._leave()
            if self._fetched and self._device_id is not None:
                _follow(Deferred.fromCoroutine(self._note_fetched(self._device_id)))

    async def _note_fetched(self, device_id: int) -> None:
        uids = sorted(self._fetched)
        for start in range(0, len(uids), _AT_ONCE):
            await self._store.write(note_fetched, device_id, uids[start : start + _AT_ONCE], self._clock.seconds())


def _follow(noting: Deferred[Any]) -> None:
    """Nobody waits for this; a database that cannot write says so itself."""

    def failed(failure: Any) -> None:
        if not failure.check(TemporaryFailure, LoginEnded):
            _log.failure("a defect: a device was not noted", failure)

    noting.addErrback(failed)
