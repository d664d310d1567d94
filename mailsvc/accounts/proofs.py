"""Checking a SCRAM proof: what `mailsvc.accounts.login` does for passwords, for clients that never send theirs.

The arithmetic is `mailsvc.sasl.scram`, the door is the `Guard` of the password checker; here is what a proof is held
against.

The hardest idea: the rows are read twice.  Once when the client names itself, without a place in the throttle, because
all that it gets for it is a salt, and that exists for every name there can be; and again when the proof has come and
has its turn.  So a password that was changed or an app password that was revoked while the exchange was open is
refused, and nobody can begin exchanges today to end them when he has been locked out.
"""

from __future__ import annotations

import secrets

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailsvc.accounts.database import Database
from mailsvc.accounts.guard import Guard, Name
from mailsvc.accounts.realm import PASSWORD, AccountId, app_credential
from mailsvc.errors import StorageFailure
from mailsvc.sasl.scram import ITERATIONS, Proof, Salting, Verifier, parse_verifier, salt_of
from mailsvc.storage.credentials import LoginFacts, login_facts, note_use, salt_key

USE_NOTED_EVERY = 60.0
"""Seconds; a program that logs in every second must not write to the database every second."""

_log = Logger()


class ProofChecker:
    """Answers a `Proof` with the account and the `Verifier` that it fits.  ``iterations``: what unknown names get."""

    def __init__(self, database: Database, guard: Guard, clock: IReactorTime, *, iterations: int = ITERATIONS) -> None:
        self._database = database
        self._guard = guard
        self._clock = clock
        self._iterations = iterations
        self._key: bytes | None = None
        # What names without a verifier are held against: the same work, and no password fits it.
        self._nobodys = Verifier(Salting(b"", iterations), secrets.token_bytes(32), secrets.token_bytes(32))

    async def salting(self, username: bytes) -> Salting:
        """What this name's proofs are to be made with, whether it exists or not.  Raises `StorageFailure`."""
        if self._key is None:
            self._key = await self._database.write(salt_key, secrets.token_bytes(32))
        name = self._guard.name(username)
        facts = await self._database.read(login_facts, name.key)
        derived = Salting(salt_of(self._key, name.text), self._iterations)
        verifier = None if facts is None or facts.verifier is None else parse_verifier(facts.verifier)
        return derived if verifier is None else verifier.salting

    def check(self, proof: Proof, peer: str, protocol: str) -> Deferred[tuple[AccountId, Verifier]]:
        """Fails with `WrongLogin`, later and later, or with `TemporaryFailure`; see `Guard.attempt`."""
        name = self._guard.name(proof.username)
        return self._guard.attempt(peer, name, lambda: self._judge(name, proof, protocol))

    async def _judge(self, name: Name, proof: Proof, protocol: str) -> tuple[AccountId, Verifier] | None:
        facts = await self._database.read(login_facts, name.key)
        found: tuple[str, int | None, Verifier] | None = None
        for credential, number, verifier in [("", None, self._nobodys), *_candidates(facts, protocol)]:
            # No early end: which of them fits is nobody's business.
            if proof.fits(verifier):
                found = (credential, number, verifier)
        if facts is None or facts.account.disabled or found is None or found[0] == "":
            return None
        credential, number, verifier = found
        if number is not None:
            now = self._clock.seconds()
            last = next(each.last_used for each in facts.app_passwords if each.id == number)
            if last is None or abs(now - last) >= USE_NOTED_EVERY:
                self._guard.follow(noted(self._database, number, now))
        changed = facts.changed if number is None else None
        return AccountId(facts.account.id, facts.account.address, credential, changed), verifier


async def noted(database: Database, app_password: int, now: float) -> None:
    """Note the use of an app password; that it was not noted is no reason to refuse a login."""
    try:
        await database.write(note_use, app_password, now)
    except StorageFailure as error:
        _log.warn("the use of app password {number} was not noted: {error}", number=app_password, error=str(error))


def _candidates(facts: LoginFacts | None, protocol: str) -> list[tuple[str, int | None, Verifier]]:
    if facts is None:
        return []
    texts: list[tuple[str, int | None, str]] = []
    # The hash is what makes a password hold; a verifier without it is a leftover.
    if facts.verifier is not None and facts.account.password_hash is not None:
        texts.append((PASSWORD, None, facts.verifier))
    texts += [
        (app_credential(each.id), each.id, each.verifier) for each in facts.app_passwords if each.only in ("", protocol)
    ]
    return [
        (credential, number, verifier)
        for credential, number, text in texts
        if (verifier := parse_verifier(text)) is not None
    ]
