"""Who is it?  One engine for SMTP AUTH (RFC 4954) and POP3 AUTH (RFC 5034), whatever the mechanism.

A server asks `Authenticator.mechanisms` what to offer, `Authenticator.begin` for an `Exchange`, and gives it the
client's responses, decoded, until a step answers with an `Account` or fails.  The failures are types, because their
codes are the server's: `MalformedResponse` (501 5.5.2), `BindingRefused`, `WrongLogin` and `ActingRefused` (535 5.7.8,
`-ERR [AUTH]`), `TemporaryFailure` (454 4.7.0, `-ERR [SYS/TEMP]`).

538 (encryption required) does not occur: outside TLS nothing is offered, and AUTH is refused before it comes here.
534 (mechanism too weak) does not either: inside TLS none of these is too weak for anybody, and a server that said so
for one account and not for another would tell which names exist.

The hardest idea: passwords go through a twisted.cred portal, proofs do not.  Whoever embeds mailsvc with a checker of
his own (LDAP, PAM) has no verifiers, so he passes no `proofs`, SCRAM is not offered, and nothing pretends.  Either way
the portal's realm makes the `Account`, so that there is one place that knows what a login gives.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred

from mailsvc.accounts.guard import WrongLogin
from mailsvc.accounts.login import Login
from mailsvc.accounts.proofs import ProofChecker
from mailsvc.accounts.realm import Account, AccountId, IAccount
from mailsvc.errors import LoginRefused
from mailsvc.mail.address import Address, AddressError, parse_address
from mailsvc.sasl import mechanisms
from mailsvc.sasl.exchange import (
    CertificateLogin,
    Challenge,
    Channel,
    MalformedResponse,
    PasswordLogin,
    Proven,
    Steps,
    UnknownMechanism,
    VerifierWanted,
)
from mailsvc.sasl.scram import Proof

NONCE = 18
"""Octets of randomness in our part of a SCRAM nonce: 24 characters."""


class ActingRefused(LoginRefused):
    """The login was right, and wants to act as somebody else (an authzid that is not its own)."""

    def __init__(self) -> None:
        super().__init__("acting as another identity is not permitted")


class Certificates(Protocol):
    """Knows whose a client's certificate is, for EXTERNAL."""

    def owner(self, certificate: object, wanted: bytes) -> Awaitable[AccountId | None]:
        """The account to which the certificate of a `Channel` belongs.  Fails with `TemporaryFailure`.

        ``wanted``: whom the client wants to be, or b"", for a certificate that could be several; it grants nothing.
        """


class ActsAs(Protocol):
    """Knows the other names of an account."""

    def __call__(self, account: Account, address: Address) -> Awaitable[bool]:
        """Whether ``address`` is ``account`` under another name.  Fails with `TemporaryFailure`."""


async def nobody_else(account: Account, address: Address) -> bool:
    """An `ActsAs` without aliases."""
    return False


class Authenticator:
    """Begins exchanges.

    ``portal`` takes `mailsvc.accounts.login.Login` and gives `IAccount`.  Without ``proofs`` there is no SCRAM, without
    ``certificates`` no EXTERNAL.  ``new_nonce`` is for tests.
    """

    def __init__(
        self,
        portal: Portal,
        *,
        proofs: ProofChecker | None = None,
        certificates: Certificates | None = None,
        acts_as: ActsAs = nobody_else,
        new_nonce: Callable[[], str] = lambda: secrets.token_urlsafe(NONCE),
    ) -> None:
        self.portal = portal
        self.proofs = proofs
        self.certificates = certificates
        self.acts_as = acts_as
        self._new_nonce = new_nonce

    def mechanisms(self, channel: Channel) -> tuple[str, ...]:
        """What is offered on ``channel``, the strongest first; nothing outside TLS."""
        return mechanisms.offered(channel, scram=self.proofs is not None, external=self.certificates is not None)

    def begin(self, mechanism: str, channel: Channel) -> Exchange:
        """An exchange by ``mechanism``, in whatever case.  Raises `UnknownMechanism` unless it is offered."""
        name = mechanism.upper()
        if name not in self.mechanisms(channel):
            raise UnknownMechanism("this mechanism is not offered")
        return Exchange(self, name, channel, mechanisms.begin(name, channel, self._new_nonce()))


class Exchange:
    """One AUTH command.  ``name``: whom the client wants to be, once it is known, for the record; may be anything.

    It is over when a step returned an `Account` or raised.
    """

    def __init__(self, authenticator: Authenticator, mechanism: str, channel: Channel, steps: Steps) -> None:
        self.mechanism = mechanism
        self.name = b""
        self._authenticator = authenticator
        self._channel = channel
        self._steps = steps
        self._begun = False
        self._waiting: Deferred[Any] | None = None
        self._proven: Account | None = None

    async def step(self, response: bytes | None) -> Challenge | Account:
        """The client's next response, decoded; None only at first, when AUTH came without an initial response."""
        if not self._begun:
            self._begun = True
            first = next(self._steps)
            if response is None:
                return cast(Challenge, first)
        try:
            return await self._driven(self._send(response or b""))
        finally:
            self._waiting = None

    def cancel(self) -> None:
        """Nobody waits for the answer any more: give the place in the line to somebody else.  Harmless at any time."""
        if self._waiting is not None:
            self._waiting.cancel()

    def _send(self, answer: object) -> object:
        try:
            return self._steps.send(answer)
        except StopIteration:
            raise MalformedResponse("the exchange is over") from None

    async def _driven(self, wanted: object) -> Challenge | Account:
        """Give the mechanism what it wants until it wants something of the client, or is done."""
        while True:
            match wanted:
                case Challenge():
                    return wanted
                case PasswordLogin(username, password, authzid):
                    self.name = username
                    return await self._acting(await self._password(username, password), authzid, username)
                case CertificateLogin(authzid):
                    self.name = authzid
                    return await self._acting(self._account(await self._certificate(authzid)), authzid)
                case VerifierWanted(username):
                    self.name = username
                    wanted = self._send(await self._checker.salting(username))
                case Proof():
                    self._waiting = self._checker.check(wanted, self._channel.peer, self._channel.protocol)
                    found, verifier = await self._waiting
                    # Before our own proof goes out: whoever may not act so has not logged in.
                    self._proven = await self._acting(self._account(found), wanted.authzid, wanted.username)
                    wanted = self._send(verifier)
                case Proven():
                    assert self._proven is not None, "only a proof leads here"
                    return self._proven
                case _:
                    raise AssertionError(f"a mechanism wants {type(wanted).__name__}")

    @property
    def _checker(self) -> ProofChecker:
        assert self._authenticator.proofs is not None, "without it the mechanism is not offered"
        return self._authenticator.proofs

    async def _password(self, username: bytes, password: bytes) -> Account:
        login = Login(username, password, self._channel.peer, self._channel.protocol)
        self._waiting = self._authenticator.portal.login(login, None, IAccount)
        _, account, log_out = await self._waiting
        log_out()
        return cast(Account, account)

    async def _certificate(self, wanted: bytes) -> AccountId:
        certificates = self._authenticator.certificates
        assert certificates is not None, "without it the mechanism is not offered"
        owner = await certificates.owner(self._channel.certificate, wanted)
        if owner is None:
            # Nothing was guessed, so nothing is counted: a certificate is one's own or is not.
            raise WrongLogin
        return owner

    def _account(self, found: AccountId) -> Account:
        # IRealm may answer later, too; ours and whatever gives accounts by row id has nothing to wait for.
        realm: Any = self._authenticator.portal.realm
        _, account, log_out = realm.requestAvatar(found, None, IAccount)
        log_out()
        return cast(Account, account)

    async def _acting(self, account: Account, authzid: bytes, username: bytes = b"") -> Account:
        """``account``, if the authzid is one of its names (RFC 4616 section 2, RFC 5802 section 5.1)."""
        if authzid in (b"", username):
            return account
        try:
            address = parse_address(authzid.decode("utf-8"))
        except (UnicodeDecodeError, AddressError):
            raise ActingRefused from None
        if address.key != account.address.key and not await self._authenticator.acts_as(account, address):
            raise ActingRefused
        return account
