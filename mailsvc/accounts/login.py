"""Checking a name and a password: twisted.cred's checker on a database.

It brings together what lies elsewhere: `passwords` says how a login is remembered, `hashing` verifies off the
reactor thread, `guard` is the door, with `throttle` deciding who may be checked now and how long a wrong answer waits,
`storage.credentials` has the rows.  It knows nothing of SMTP or POP3: they choose 535 or 454 (RFC 4954 section 6),
[AUTH] or [SYS/TEMP] (RFC 3206) by the type of the failure, `WrongLogin` or `TemporaryFailure`.

The hardest idea: an unknown name, a malformed one, a wrong password and a disabled account go *the same way*, not
ways of the same length.  Each takes a place, reads the rows, costs one argon2id verification (against a hash that
fits nothing when there is no account), counts as a failure, and waits.  Only a login that was right a short while
ago, or an app password, skips the verification, and the rows are read even then, so that `mailsvc user passwd` and
`remove` count from the next login on.

A right password leaves its SCRAM verifier behind when it has none yet (an account from before there were verifiers):
this is the one moment at which we know the password.

What is wrong with it: an account whose hash was made with other costs takes another time than the rest until
its owner logs in once, which makes the hash anew.
"""

from __future__ import annotations

import hmac
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from mailsvc.accounts.app_passwords import matching
from mailsvc.accounts.database import Database
from mailsvc.accounts.guard import Guard, Name, WrongLogin
from mailsvc.accounts.hashing import HashingPool
from mailsvc.accounts.passwords import ARGON2, Hasher, Remembered, fingerprint
from mailsvc.accounts.proofs import USE_NOTED_EVERY, noted
from mailsvc.accounts.realm import AccountId, app_credential
from mailsvc.accounts.throttle import Throttle
from mailsvc.errors import MailsvcError, TemporaryFailure
from mailsvc.sasl.scram import ITERATIONS, NoVerifier, Salting, make_verifier, parse_verifier, salt_of
from mailsvc.storage.credentials import LoginFacts, add_verifier, login_facts, renew_hash, salt_key

__all__ = ["Login", "PasswordChecker", "WrongLogin"]


@implementer(IUsernamePassword)
@dataclass(frozen=True, slots=True)
class Login:
    """One attempt to log in: what the client sent, the address it has, and the protocol that it spoke."""

    username: bytes
    password: bytes = field(repr=False)
    peer: str = ""
    protocol: str = ""

    def checkPassword(self, password: bytes) -> bool:
        """Whether `password` is the one that was sent; for checkers that keep passwords (ours does not)."""
        return hmac.compare_digest(self.password, password)


@implementer(ICredentialsChecker)
class PasswordChecker:
    """Answers `IUsernamePassword` credentials (a `Login`, best) with an `AccountId`.

    `remember` is for how many seconds a right login is remembered (0: never); `threads` and `queue_limit` size
    the hashing pool.  `verifiers` is the iterations of the SCRAM verifiers that are made, 0 for none.
    `key` (32 random octets), `clock`, `hasher` and `throttle` are for tests and for those who want other rules.
    Works between `start` and `stop` only.  `guard` is the door that other mechanisms use as well.
    """

    credentialInterfaces = (IUsernamePassword,)
    _log = Logger()

    def __init__(
        self,
        database: Database,
        reactor: IReactorFromThreads,
        *,
        remember: float = 300.0,
        threads: int = 2,
        queue_limit: int = 256,
        key: bytes | None = None,
        clock: IReactorTime | None = None,
        hasher: Hasher = ARGON2,
        throttle: Throttle | None = None,
        verifiers: int = ITERATIONS,
    ) -> None:
        self._database = database
        self._clock = clock if clock is not None else IReactorTime(reactor)
        self._hasher = hasher
        self._throttle = throttle or Throttle()
        self._key = key or secrets.token_bytes(32)
        self._remembered = Remembered(remember)
        self._pool = HashingPool(reactor, hasher, threads, queue_limit)
        self._iterations = verifiers
        self.guard = Guard(self._throttle, self._clock, self._key)

    def start(self) -> None:
        """Make the threads, and begin to make the hash that fits nothing; does not block."""
        self.guard.start()
        self._pool.start()
        self.guard.follow(self._warm_up())

    def stop(self) -> Deferred[None]:
        """Answer all who wait with `TemporaryFailure`; fires when all are answered and the threads have ended."""
        self._pool.refuse()
        return self.guard.stop().addCallback(lambda _: self._pool.stop())

    # cred's annotation says bytes, its documentation "whatever the realm understands".
    def requestAvatarId(self, credentials: Any) -> Deferred[AccountId]:  # type: ignore[override]
        """The account of these credentials; `WrongLogin`, later and later, when they are refused.

        `TemporaryFailure` when nobody can tell now.  Cancelling takes a login that waits for its turn out of
        the line; one that is being checked is checked to its end.
        """
        name = self.guard.name(credentials.username)
        protocol = getattr(credentials, "protocol", "")
        peer = getattr(credentials, "peer", "")
        return self.guard.attempt(peer, name, lambda: self._check(name, credentials.password, protocol))

    async def _check(self, name: Name, password: bytes, protocol: str) -> AccountId | None:
        """The account whose password this is, or None, for one verification unless it is remembered."""
        facts = await self._database.read(login_facts, name.key)
        nobody = await self._pool.nobody()
        row = None if facts is None or facts.account.disabled else facts.account
        app_password = matching(password, () if facts is None else facts.app_passwords, protocol)
        if row is not None and app_password is not None:
            now, last = self._clock.seconds(), app_password.last_used
            if last is None or abs(now - last) >= USE_NOTED_EVERY:
                self.guard.follow(noted(self._database, app_password.id, now))
            return AccountId(row.id, row.address, app_credential(app_password.id))
        stored = row.password_hash if row is not None else None
        if facts is None or row is None or stored is None or not self._hasher.recognises(stored):
            digest = fingerprint(self._key, b"nobody:" + name.digest, nobody, password)
            await self._pool.verify(nobody, password, digest)
            return None
        digest = fingerprint(self._key, b"account:%d" % row.id, stored, password)
        if not self._remembered.holds(row.id, digest, self._clock.seconds()):
            if not await self._pool.verify(stored, password, digest):
                return None
            self._remembered.add(row.id, digest, self._clock.seconds())
            if self._hasher.needs_rehash(stored):
                self.guard.follow(self._rehash(name.key, stored, password, facts))
            else:
                self.guard.follow(self._add_verifier(name.key, stored, password, facts))
        return AccountId(row.id, row.address, changed=facts.changed)

    async def _warm_up(self) -> None:
        with suppress(TemporaryFailure):  # the next login tries again
            await self._pool.nobody()

    async def _rehash(self, key: str, stored: str, password: bytes, facts: LoginFacts) -> None:
        """Replace a hash that was made with other costs, unless the password has changed meanwhile."""
        try:
            fresh = await self._pool.hash(password)
            await self._database.write(renew_hash, key, stored, fresh)
        except MailsvcError as error:
            self._log.warn("the password hash of {key} was not renewed: {error}", key=key, error=str(error))
            return
        await self._add_verifier(key, fresh, password, facts)

    async def _add_verifier(self, key: str, stored: str, password: bytes, facts: LoginFacts) -> None:
        """Put a verifier beside the hash, if there shall be one and there is none of today's iterations."""
        present = None if facts.verifier is None else parse_verifier(facts.verifier)
        if not self._iterations or (present is not None and present.salting.iterations == self._iterations):
            return
        try:
            text = password.decode("utf-8")
            salt = salt_of(await self._database.write(salt_key, secrets.token_bytes(32)), key)
            verifier = await self._pool.work(make_verifier, text, Salting(salt, self._iterations))
            await self._database.write(add_verifier, key, stored, verifier.to_text(), self._clock.seconds())
        except (UnicodeDecodeError, NoVerifier):
            return  # a password that only PLAIN can carry
        except MailsvcError as error:
            self._log.warn("no SCRAM verifier was made for {key}: {error}", key=key, error=str(error))
