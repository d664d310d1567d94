"""Checking a name and a password: twisted.cred's checker on a database.

It brings together what lies elsewhere: `passwords` says how a login is remembered, `hashing` verifies off the
reactor thread, `throttle` decides who may be checked now and how long a wrong answer waits, `storage.accounts`
has the row.  It knows nothing of SMTP or POP3: they choose 535 or 454 (RFC 4954 section 6), [AUTH] or [SYS/TEMP]
(RFC 3206) by the type of the failure, `WrongLogin` or `TemporaryFailure`.

The hardest idea: an unknown name, a malformed one, a wrong password and a disabled account go *the same way*, not
ways of the same length.  Each takes a place, reads a row, costs one argon2id verification (against a hash that
fits nothing when there is no account), counts as a failure, and waits.  Only a login that was right a short while
ago skips the verification, and the row is read even then, so that `mailsvc user passwd` and `remove` count from
the next login on.

An answer that nobody waits for any more is worked out to its end: cancelling takes a login out of the line, but
a guess that was begun is counted and keeps its place, else hanging up would be the way around the throttle.

What is wrong with it: an account whose hash was made with other costs takes another time than the rest until
its owner logs in once, which makes the hash anew.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorFromThreads, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailsvc.accounts.hashing import HashingPool
from mailsvc.accounts.passwords import ARGON2, Hasher, Remembered, fingerprint
from mailsvc.accounts.realm import AccountId
from mailsvc.accounts.throttle import Place, Throttle, network
from mailsvc.errors import LoginRefused, MailsvcError, TemporaryFailure
from mailsvc.mail.address import AddressError, parse_address
from mailsvc.storage.accounts import account, set_password
from mailsvc.storage.rows import Cursor

P = ParamSpec("P")
T = TypeVar("T")

_NOBODY = "@"
"""A key that no account can have; a malformed name is looked up by it."""

_STOPPING = "mailsvc is stopping; log in again in a moment"
_CROWDED = "too many logins from your network are waiting for an answer; log in again in a minute"


class WrongLogin(LoginRefused, UnauthorizedLogin):
    """The name or the password is wrong, or the account is disabled; nothing tells which."""

    def __init__(self) -> None:
        super().__init__("the name or the password is wrong")


class Database(Protocol):
    """What a checker needs of `mailsvc.storage.database.Database`."""

    def read(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `fn(txn, ...)` on a snapshot."""

    def write(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `fn(txn, ...)` in a transaction; fires after COMMIT."""


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


class _Name(NamedTuple):
    """A login name: the key to look it up by, and a bounded digest of it to count failures by."""

    key: str
    digest: bytes


@implementer(ICredentialsChecker)
class PasswordChecker:
    """Answers `IUsernamePassword` credentials (a `Login`, best) with an `AccountId`.

    `remember` is for how many seconds a right login is remembered (0: never); `threads` and `queue_limit` size
    the hashing pool.  `key` (32 random octets), `clock`, `hasher` and `throttle` are for tests and for those who
    want other rules.  Works between `start` and `stop` only.
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
    ) -> None:
        self._database = database
        self._clock = clock if clock is not None else IReactorTime(reactor)
        self._hasher = hasher
        self._throttle = throttle or Throttle()
        self._key = key or secrets.token_bytes(32)
        self._remembered = Remembered(remember)
        self._pool = HashingPool(reactor, hasher, threads, queue_limit)
        self._running = False
        self._turns: dict[Place, Deferred[None]] = {}
        self._ready: deque[Place] = deque()
        self._starting = False
        self._held_back: dict[Deferred[None], IDelayedCall] = {}
        self._under_way: set[Deferred[Any]] = set()
        self._idle: list[Deferred[None]] = []

    def start(self) -> None:
        """Make the threads, and begin to make the hash that fits nothing; does not block."""
        self._running = True
        self._pool.start()
        self._follow(self._warm_up())

    def stop(self) -> Deferred[None]:
        """Answer all who wait with `TemporaryFailure`; fires when all are answered and the threads have ended."""
        self._running = False
        self._pool.refuse()
        while self._turns:
            self._turns.popitem()[1].errback(TemporaryFailure(_STOPPING))
        for pause, call in list(self._held_back.items()):
            call.cancel()
            pause.errback(TemporaryFailure(_STOPPING))
        idle: Deferred[None] = Deferred()
        if self._under_way:
            self._idle.append(idle)
        else:
            idle.callback(None)
        return idle.addCallback(lambda _: self._pool.stop())

    # cred's annotation says bytes, its documentation "whatever the realm understands".
    def requestAvatarId(self, credentials: Any) -> Deferred[AccountId]:  # type: ignore[override]
        """The account of these credentials; `WrongLogin`, later and later, when they are refused.

        `TemporaryFailure` when nobody can tell now.  Cancelling takes a login that waits for its turn out of
        the line; one that is being checked is checked to its end.
        """
        if not self._running:
            return fail(TemporaryFailure(_STOPPING))
        name = self._name(credentials.username)
        peer_network = network(getattr(credentials, "peer", ""))
        place = self._throttle.enter(peer_network, name.digest, self._clock.seconds())
        if place is None:
            return fail(TemporaryFailure(_CROWDED))
        turn: Deferred[None] = Deferred()
        self._turns[place] = turn
        answer: Deferred[AccountId] = Deferred(lambda _: self._give_up(place))
        self._follow(self._serve(answer, place, turn, name, credentials.password))
        if place.running:
            self._begin(place)
        return answer

    async def _serve(self, answer: Deferred[AccountId], *what: Any) -> None:
        """Work an answer out to its end, and give it if anybody still wants it."""
        result: Any
        try:
            result = await self._answer(*what)
        except Exception:
            result = Failure()
        if not answer.called:
            answer.callback(result)

    async def _answer(self, place: Place, turn: Deferred[None], name: _Name, password: bytes) -> AccountId:
        try:
            await turn
            found = await self._check(name, password)
            if found is None:
                await self._hold_back(place)
                raise WrongLogin
            self._throttle.succeeded(place, self._clock.seconds())
            return found
        finally:
            following = self._throttle.leave(place)
            if following is not None:
                self._begin(following)

    async def _check(self, name: _Name, password: bytes) -> AccountId | None:
        """The account whose password this is, or None, for one verification unless it is remembered."""
        row = await self._database.read(account, name.key)
        nobody = await self._pool.nobody()
        stored = row.password_hash if row is not None and not row.disabled else None
        if row is None or stored is None or not self._hasher.recognises(stored):
            digest = fingerprint(self._key, b"nobody:" + name.digest, nobody, password)
            await self._pool.verify(nobody, password, digest)
            return None
        digest = fingerprint(self._key, b"account:%d" % row.id, stored, password)
        if not self._remembered.holds(row.id, digest, self._clock.seconds()):
            if not await self._pool.verify(stored, password, digest):
                return None
            self._remembered.add(row.id, digest, self._clock.seconds())
            if self._hasher.needs_rehash(stored):
                self._follow(self._rehash(name.key, stored, password))
        return AccountId(row.id, row.address)

    async def _warm_up(self) -> None:
        with suppress(TemporaryFailure):  # the next login tries again
            await self._pool.nobody()

    async def _rehash(self, key: str, stored: str, password: bytes) -> None:
        """Replace a hash that was made with other costs, unless the password has changed meanwhile."""
        try:
            fresh = await self._pool.hash(password)
            await self._database.write(_replace_hash, key, stored, fresh, self._clock.seconds())
        except MailsvcError as error:
            self._log.warn("the password hash of {key} was not renewed: {error}", key=key, error=str(error))

    async def _hold_back(self, place: Place) -> None:
        """Count the failure, and wait as long as the throttle says."""
        verdict = self._throttle.failed(place, self._clock.seconds())
        for other in verdict.turned_away:
            self._turns.pop(other).errback(TemporaryFailure(_CROWDED))
        if not self._running:
            raise TemporaryFailure(_STOPPING)
        pause: Deferred[None] = Deferred()
        self._held_back[pause] = self._clock.callLater(verdict.wait, pause.callback, None)
        try:
            await pause
        finally:
            del self._held_back[pause]

    def _begin(self, place: Place) -> None:
        """Let a place's login go on, not from within another's: a long line must not become a deep stack."""
        self._ready.append(place)
        if self._starting:
            return
        self._starting = True
        while self._ready:
            turn = self._turns.pop(self._ready.popleft(), None)
            if turn is not None:
                turn.callback(None)
        self._starting = False

    def _give_up(self, place: Place) -> None:
        turn = self._turns.pop(place, None)
        if turn is not None:
            turn.errback(CancelledError())

    def _name(self, username: bytes) -> _Name:
        try:
            key = parse_address(username.decode("utf-8")).key
            shown = key.encode("utf-8")
        except (UnicodeDecodeError, AddressError):
            key, shown = _NOBODY, username
        return _Name(key, hashlib.blake2b(shown, key=self._key, digest_size=16).digest())

    def _follow(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        """Begin `work`, and note that it is under way, so that `stop` can wait for its end."""
        deferred = Deferred.fromCoroutine(work)
        self._under_way.add(deferred)

        def ended(result: T) -> T:
            self._under_way.discard(deferred)
            if not self._under_way:
                waiting, self._idle = self._idle, []
                for idle in waiting:
                    idle.callback(None)
            return result

        deferred.addBoth(ended)


def _replace_hash(txn: Cursor, key: str, stored: str, fresh: str, now: float) -> None:
    row = account(txn, key)
    if row is not None and row.password_hash == stored:
        set_password(txn, key, fresh, now)
