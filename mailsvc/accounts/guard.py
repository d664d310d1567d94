"""The one door that every login goes through, by whatever mechanism: places, lines, and the wait after a wrong answer.

`throttle` decides who may be checked now and how long a wrong answer waits; here is who waits.  `PasswordChecker` and
`ProofChecker` share one `Guard`, so that a guess by SCRAM counts like a guess by PLAIN.

The hardest idea: an answer that nobody waits for any more is worked out to its end.  Cancelling takes a login out of
the line, but a guess that was begun is counted and keeps its place, else hanging up would be the way around the
throttle.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from mailsvc.accounts.throttle import Place, Throttle, network
from mailsvc.errors import LoginRefused, TemporaryFailure
from mailsvc.mail.address import AddressError, parse_address

T = TypeVar("T")

NOBODY = "@"
"""A key that no account can have; a malformed name is looked up by it."""

STOPPING = "mailsvc is stopping; log in again in a moment"
CROWDED = "too many logins from your network are waiting for an answer; log in again in a minute"


class WrongLogin(LoginRefused, UnauthorizedLogin):
    """The name or the password is wrong, or the account is disabled; nothing tells which."""

    def __init__(self) -> None:
        super().__init__("the name or the password is wrong")


class Name(NamedTuple):
    """A login name: the key to look it up by, its canonical text, and a bounded digest to count failures by."""

    key: str
    text: str
    digest: bytes


class Guard:
    """Lets logins through one by one.  ``key``: random octets, so that the digests of names mean nothing elsewhere."""

    def __init__(self, throttle: Throttle, clock: IReactorTime, key: bytes | None = None) -> None:
        self.throttle = throttle
        self._clock = clock
        self._key = key or secrets.token_bytes(32)
        self._running = False
        self._turns: dict[Place, Deferred[None]] = {}
        self._ready: deque[Place] = deque()
        self._starting = False
        self._held_back: dict[Deferred[None], IDelayedCall] = {}
        self._under_way: set[Deferred[Any]] = set()
        self._idle: list[Deferred[None]] = []

    def start(self) -> None:
        """Let logins in."""
        self._running = True

    def stop(self) -> Deferred[None]:
        """Answer all who wait with `TemporaryFailure`; fires when all are answered."""
        self._running = False
        while self._turns:
            self._turns.popitem()[1].errback(TemporaryFailure(STOPPING))
        for pause, call in list(self._held_back.items()):
            call.cancel()
            pause.errback(TemporaryFailure(STOPPING))
        idle: Deferred[None] = Deferred()
        if self._under_way:
            self._idle.append(idle)
        else:
            idle.callback(None)
        return idle

    def name(self, username: bytes) -> Name:
        """What a client gave as a name, whatever it is."""
        try:
            key = text = parse_address(username.decode("utf-8")).key
            shown = key.encode("utf-8")
        except (UnicodeDecodeError, AddressError):
            key, text, shown = NOBODY, username.decode("utf-8", "backslashreplace"), username
        return Name(key, text, hashlib.blake2b(shown, key=self._key, digest_size=16).digest())

    def attempt(self, peer: str, name: Name, check: Callable[[], Awaitable[T | None]]) -> Deferred[T]:
        """What ``check`` gives when its turn has come; `WrongLogin`, later and later, when that is None.

        `TemporaryFailure` when nobody can tell now.  Cancelling takes a login that waits for its turn out of the
        line; one that is being checked is checked to its end.
        """
        if not self._running:
            return fail(TemporaryFailure(STOPPING))
        place = self.throttle.enter(network(peer), name.digest, self._clock.seconds())
        if place is None:
            return fail(TemporaryFailure(CROWDED))
        turn: Deferred[None] = Deferred()
        self._turns[place] = turn
        answer: Deferred[T] = Deferred(lambda _: self._give_up(place))
        self.follow(self._serve(answer, place, turn, check))
        if place.running:
            self._begin(place)
        return answer

    def follow(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
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

    async def _serve(
        self, answer: Deferred[T], place: Place, turn: Deferred[None], check: Callable[[], Awaitable[T | None]]
    ) -> None:
        """Work an answer out to its end, and give it if anybody still wants it."""
        result: Any
        try:
            result = await self._answer(place, turn, check)
        except Exception:
            result = Failure()
        if not answer.called:
            answer.callback(result)

    async def _answer(self, place: Place, turn: Deferred[None], check: Callable[[], Awaitable[T | None]]) -> T:
        try:
            await turn
            found = await check()
            if found is None:
                await self._hold_back(place)
                raise WrongLogin
            self.throttle.succeeded(place, self._clock.seconds())
            return found
        finally:
            following = self.throttle.leave(place)
            if following is not None:
                self._begin(following)

    async def _hold_back(self, place: Place) -> None:
        """Count the failure, and wait as long as the throttle says."""
        verdict = self.throttle.failed(place, self._clock.seconds())
        for other in verdict.turned_away:
            self._turns.pop(other).errback(TemporaryFailure(CROWDED))
        if not self._running:
            raise TemporaryFailure(STOPPING)
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
