"""What a login gives: twisted.cred's realm, and the account that a protocol then works for.

twisted.cred is the seam for whoever embeds mailsvc: another checker (LDAP, PAM, a web session) that answers
with an `AccountId` works with this realm, and another realm with our checker.  Which credentials are right is
the checker's affair (`mailsvc.accounts.login`); mail is the protocols' and the storage's.

    _, account, logout = await portal.login(Login(b"alice@example.org", password, peer), None, IAccount)

What is wrong with it: `logout` has nothing to do yet.  It is there because cred wants it, and protocols
should call it, so that sessions can be counted one day.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from zope.interface import Attribute, Interface, implementer

from mailsvc.mail.address import Address, parse_address
from mailsvc.storage.identities import CREDENTIAL

PASSWORD = "password"
"""The credential of a login by the account's own password."""


def app_credential(number: int) -> str:
    """The credential of a login by the app password of this row id."""
    return f"app-password {number}"


def app_password_of(credential: str) -> int | None:
    """The row id in what `app_credential` made; None for another credential."""
    kind, _, number = credential.partition(" ")
    return int(number) if kind == "app-password" else None


def certificate_credential(spki: str) -> str:
    """The credential of a login by a client certificate whose key has this fingerprint."""
    return CREDENTIAL + spki


def certificate_of(credential: str) -> str:
    """The fingerprint in what `certificate_credential` made; "" for another credential."""
    return credential.removeprefix(CREDENTIAL) if credential.startswith(CREDENTIAL) else ""


@dataclass(frozen=True, slots=True)
class AccountId:
    """What a checker answers with: the account's row id, and its address as it was written when added.

    `credential` tells the devices of an account apart: `PASSWORD`, `app_credential(...)`,
    `certificate_credential(...)`, or another checker's own.
    `changed` is when that password was set, as it stands in the table: it tells whether it still is the same one.
    """

    id: int
    address: str
    credential: str = PASSWORD
    changed: float | None = field(default=None, compare=False)


class IAccount(Interface):
    """Somebody who has logged in."""

    id = Attribute("The row id of the account, an int.")
    address = Attribute("The `mailsvc.mail.address.Address` of the account.")
    credential = Attribute("What it has logged in with, see `AccountId`.")


@implementer(IAccount)
@dataclass(frozen=True, slots=True)
class Account:
    """The account that a session works for after its login."""

    id: int
    address: Address
    credential: str = PASSWORD
    changed: float | None = field(default=None, compare=False)


@implementer(IRealm)
class AccountRealm:
    """Turns the `AccountId` of a checker into an `Account`."""

    def requestAvatar(
        self, avatarId: object, mind: object, *interfaces: type[Interface]
    ) -> tuple[type[Interface], Account, Callable[[], None]]:
        """`(IAccount, Account, logout)`; `NotImplementedError` when `IAccount` is not asked for (`IRealm`)."""
        if IAccount not in interfaces:
            raise NotImplementedError("mailsvc has accounts only; ask for IAccount")
        if not isinstance(avatarId, AccountId):
            raise UnauthorizedLogin("there are no anonymous accounts")
        account = Account(avatarId.id, parse_address(avatarId.address), avatarId.credential, avatarId.changed)
        return IAccount, account, _logout


def portal(checker: ICredentialsChecker) -> Portal:
    """A portal to the accounts for what `checker` lets in."""
    return Portal(AccountRealm(), [checker])


def _logout() -> None:
    """Nothing is held on behalf of an account."""
