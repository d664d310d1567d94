"""Logging in: one way for every refusal, memory for right passwords, places for wrong ones, a bounded pool."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet import reactor as the_reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailsvc.accounts.login import Login, PasswordChecker, WrongLogin
from mailsvc.accounts.passwords import Argon2
from mailsvc.accounts.realm import Account, AccountId, AccountRealm, IAccount, portal
from mailsvc.accounts.throttle import Places, Throttle
from mailsvc.errors import LoginRefused, StorageFailure, TemporaryFailure
from mailsvc.mail.address import parse_address
from mailsvc.storage.accounts import account, add_account, remove_account, set_password
from mailsvc.storage.credentials import renew_hash
from mailsvc.storage.database import Database
from mailsvc.storage.rows import Cursor
from tests.storage_cases import make_database

reactor: Any = the_reactor
P = ParamSpec("P")
T = TypeVar("T")

CHEAP = Argon2(memory_kib=8, passes=1)
OTHER_COST = Argon2(memory_kib=16, passes=1)
HERE, THERE = "192.0.2.1", "198.51.100.7"
ALICE = b"alice@example.org"


class WatchedHasher:
    """A cheap hasher that notes what it is asked, by which thread, and can be made to wait."""

    def __init__(self) -> None:
        self.verified: list[tuple[str, bytes]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.broken = False

    def hash(self, password: bytes) -> str:
        self.threads.add(threading.get_ident())
        return CHEAP.hash(password)

    def verify(self, stored: str, password: bytes) -> bool:
        self.verified.append((stored, password))
        self.threads.add(threading.get_ident())
        self.gate.wait(30)
        if self.broken:
            raise TemporaryFailure("no memory")
        return CHEAP.verify(stored, password)

    def recognises(self, stored: str) -> bool:
        return CHEAP.recognises(stored)

    def needs_rehash(self, stored: str) -> bool:
        return CHEAP.needs_rehash(stored)


class WatchedClock(Clock):
    """A clock that tells when something was put off."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []
        self._expected: list[tuple[int, Deferred[None]]] = []

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> Any:
        call = super().callLater(delay, callable, *args, **kw)
        self.waits.append(delay)
        for count, reached in self._expected[:]:
            if len(self.waits) >= count:
                self._expected.remove((count, reached))
                # Not now: the caller must first know of the call that it gets.
                reactor.callLater(0, reached.callback, None)
        return call

    def put_off(self, count: int) -> Deferred[None]:
        """Fires when `count` calls in all have been put off."""
        reached: Deferred[None] = Deferred()
        if len(self.waits) >= count:
            reached.callback(None)
        else:
            self._expected.append((count, reached))
        return reached


class CountedDatabase:
    """A database that counts its reads."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.reads = 0

    def read(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        self.reads += 1
        return self.database.read(fn, *args, **kwargs)

    def write(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return self.database.write(fn, *args, **kwargs)


def disable(txn: Cursor, key: str) -> None:
    """Disable an account (the command for it comes later)."""
    txn.execute("UPDATE account SET disabled = 1 WHERE key = ?", (key,))


class CheckerCase(TestCase):
    """A checker on a database file of its own, with cheap hashes and a clock that we turn."""

    async def setUp(self) -> None:  # type: ignore[override]
        path = self.mktemp()
        make_database(path)
        self.database = Database(path, reactor)
        self.database.open()
        self.addCleanup(self.database.close)
        self.counted = CountedDatabase(self.database)
        self.hasher = WatchedHasher()
        self.addCleanup(self.hasher.gate.set)
        self.clock = WatchedClock()
        self.alice = await self.add("alice@example.org", "right")

    async def add(self, address: str, password: str, cost: Argon2 = CHEAP) -> int:
        """Add an account; its id."""
        stored = cost.hash(password.encode())
        return await self.database.write(add_account, parse_address(address), stored, 1.0)

    def checker(self, **settings: Any) -> PasswordChecker:
        """A checker that runs until the test ends."""
        checker = PasswordChecker(self.counted, reactor, clock=self.clock, hasher=self.hasher, **settings)
        checker.start()

        def stop() -> Deferred[None]:
            self.hasher.gate.set()
            return checker.stop()

        self.addCleanup(stop)
        return checker

    async def refused(self, checker: PasswordChecker, login: Login) -> WrongLogin:
        """Log in, let the time go by that the answer waits, return the refusal."""
        count = len(self.clock.waits) + 1
        answer = checker.requestAvatarId(login)
        await self.clock.put_off(count)
        self.assertNoResult(answer)
        self.clock.advance(self.clock.waits[-1])
        error: WrongLogin = self.failureResultOf(answer, WrongLogin).value
        return error


class RightPasswordTests(CheckerCase):
    """Who may come in."""

    async def test_account(self) -> None:
        """The right password gives the account, at once."""
        answer = await self.checker().requestAvatarId(Login(ALICE, b"right", HERE, "pop3"))
        self.assertEqual(answer, AccountId(self.alice, "alice@example.org"))
        self.assertEqual(self.clock.waits, [])

    async def test_portal(self) -> None:
        """twisted.cred's Portal gives the interface, the account with its parsed address, and a logout."""
        door = portal(self.checker())
        interface, avatar, logout = await door.login(Login(ALICE, b"right", HERE), None, IAccount)
        self.assertIs(interface, IAccount)
        self.assertEqual(avatar, Account(self.alice, parse_address("alice@example.org")))
        self.assertTrue(IAccount.providedBy(avatar))
        logout()

    async def test_spelling_of_the_name(self) -> None:
        """A name is a mail address: case does not matter, UTF-8 is understood."""
        juergen = await self.add("jürgen@example.org", "right")
        checker = self.checker()
        for name, number in [(b"ALICE@Example.ORG", self.alice), ("JÜRGEN@example.org".encode(), juergen)]:
            self.assertEqual((await checker.requestAvatarId(Login(name, b"right", HERE))).id, number)

    async def test_plain_cred_credentials(self) -> None:
        """Credentials of twisted.cred itself work, for those who embed the checker."""
        answer = await self.checker().requestAvatarId(UsernamePassword(ALICE, b"right"))
        self.assertEqual(answer.id, self.alice)

    async def test_added_while_running(self) -> None:
        """An account that is added works from the next login on."""
        checker = self.checker()
        await self.refused(checker, Login(b"bob@example.org", b"right", HERE))
        number = await self.add("bob@example.org", "right")
        self.assertEqual((await checker.requestAvatarId(Login(b"bob@example.org", b"right", HERE))).id, number)

    async def test_off_the_reactor_thread(self) -> None:
        """Nothing is hashed in the reactor's thread, the hash that fits nothing included."""
        checker = self.checker()
        await checker.requestAvatarId(Login(ALICE, b"right", HERE))
        await self.refused(checker, Login(b"nobody@example.org", b"right", HERE))
        self.assertEqual(len(self.hasher.verified), 2)
        self.assertNotIn(threading.get_ident(), self.hasher.threads)

    async def test_hash_is_renewed(self) -> None:
        """A hash that was made with other costs is made anew when its owner logs in."""
        await self.add("old@example.org", "right", OTHER_COST)
        checker = self.checker()
        await checker.requestAvatarId(Login(b"old@example.org", b"right", HERE))
        while checker.guard._under_way:
            await tick()
        row = await self.database.read(account, "old@example.org")
        assert row is not None and row.password_hash is not None
        self.assertFalse(CHEAP.needs_rehash(row.password_hash))
        self.assertTrue(CHEAP.verify(row.password_hash, b"right"))

    async def test_renewing_never_undoes_a_change(self) -> None:
        """A password that was changed while its old hash was being renewed stays changed."""
        row = await self.database.read(account, "alice@example.org")
        assert row is not None and row.password_hash is not None
        changed = CHEAP.hash(b"changed")
        await self.database.write(set_password, "alice@example.org", changed, 2.0)
        await self.database.write(renew_hash, "alice@example.org", row.password_hash, CHEAP.hash(b"right"))
        row = await self.database.read(account, "alice@example.org")
        assert row is not None
        self.assertEqual(row.password_hash, changed)


class OneWayTests(CheckerCase):
    """Nothing tells a refusal from another."""

    async def test_all_refusals_go_the_same_way(self) -> None:
        """Each kind reads one row, verifies once with the same costs, waits as long, and says the same."""
        await self.add("disabled@example.org", "right")
        await self.database.write(disable, "disabled@example.org")
        await self.database.write(add_account, parse_address("keyless@example.org"), None, 1.0)
        await self.database.write(add_account, parse_address("damaged@example.org"), "garbage", 1.0)
        seen = set()
        for name, password in [
            (ALICE, b"wrong"),
            (ALICE, b""),
            (ALICE, b"right\0"),
            (ALICE, b"\xff" * 5000),
            (b"nobody@example.org", b"right"),
            (b"disabled@example.org", b"right"),
            (b"disabled@example.org", b"wrong"),
            (b"keyless@example.org", b"right"),
            (b"damaged@example.org", b"garbage"),
            (b"alice", b"right"),
            (b"", b"right"),
            (b"@", b"right"),
            (b"alice@example.org\0", b"right"),
            (b"\xff\xfe@example.org", b"right"),
            (b"x" * 10000 + b"@example.org", b"right"),
        ]:
            checker = self.checker()
            await checker._pool.nobody()
            self.hasher.verified.clear()
            self.counted.reads, self.clock.waits[:] = 0, []
            refusal = await self.refused(checker, Login(name, password, HERE))
            costs = {stored.rpartition("$")[0].rpartition("$")[0] for stored, _ in self.hasher.verified}
            seen.add(
                (str(refusal), self.counted.reads, len(self.hasher.verified), tuple(costs), tuple(self.clock.waits))
            )
        self.assertEqual(seen, {("the name or the password is wrong", 1, 1, ("$argon2id$v=19$m=8,t=1,p=1",), (1.0,))})

    async def test_type_of_the_refusal(self) -> None:
        """A refusal is cred's UnauthorizedLogin and our LoginRefused, and no temporary failure."""
        refusal = await self.refused(self.checker(), Login(ALICE, b"wrong", HERE))
        self.assertIsInstance(refusal, UnauthorizedLogin)
        self.assertIsInstance(refusal, LoginRefused)
        self.assertNotIsInstance(refusal, TemporaryFailure)

    async def test_unknown_names_are_slowed_as_known_ones(self) -> None:
        """The third guess at a name that does not exist waits as long as the third at one that does."""
        for name in (ALICE, b"nobody@example.org", b"malformed"):
            checker, self.clock.waits[:] = self.checker(), []
            for _ in range(3):
                await self.refused(checker, Login(name, b"wrong", HERE))
            self.assertEqual([round(wait) for wait in self.clock.waits], [1, 2, 4])


class RememberedTests(CheckerCase):
    """What a right login spares the next ones, and what it never does."""

    async def test_no_second_verification(self) -> None:
        """A login that was right a short while ago costs no verification, from wherever it comes."""
        checker = self.checker()
        for peer in (HERE, HERE, THERE):
            await checker.requestAvatarId(Login(ALICE, b"right", peer))
        self.assertEqual(len(self.hasher.verified), 1)
        self.assertEqual(self.counted.reads, 3)

    async def test_lifetime(self) -> None:
        """After `remember` seconds it is verified again."""
        checker = self.checker(remember=60.0)
        await checker.requestAvatarId(Login(ALICE, b"right", HERE))
        self.clock.advance(60.0)
        await checker.requestAvatarId(Login(ALICE, b"right", HERE))
        self.assertEqual(len(self.hasher.verified), 2)

    async def test_another_password_is_verified(self) -> None:
        """Remembering one password lets no other in."""
        checker = self.checker()
        await checker.requestAvatarId(Login(ALICE, b"right", HERE))
        await self.refused(checker, Login(ALICE, b"wrong", HERE))
        self.assertEqual(len(self.hasher.verified), 2)

    async def test_wrong_is_never_remembered(self) -> None:
        """A wrong password is verified each time."""
        checker = self.checker()
        for _ in range(2):
            await self.refused(checker, Login(ALICE, b"wrong", HERE))
        self.assertEqual(len(self.hasher.verified), 2)

    async def test_changed_password(self) -> None:
        """After `passwd` the remembered password is refused and the new one works, at once."""
        checker = self.checker()
        await checker.requestAvatarId(Login(ALICE, b"right", HERE))
        await self.database.write(set_password, "alice@example.org", CHEAP.hash(b"new"), 2.0)
        await self.refused(checker, Login(ALICE, b"right", HERE))
        self.assertEqual((await checker.requestAvatarId(Login(ALICE, b"new", HERE))).id, self.alice)

    async def test_removed_and_disabled(self) -> None:
        """A remembered login is refused as soon as its account is disabled or gone."""
        bob = b"bob@example.org"
        await self.add("bob@example.org", "right")
        checker = self.checker()
        for name in (ALICE, bob):
            await checker.requestAvatarId(Login(name, b"right", HERE))
        await self.database.write(disable, "alice@example.org")
        await self.database.write(remove_account, "bob@example.org")
        self.hasher.verified.clear()
        for name in (ALICE, bob):
            await self.refused(checker, Login(name, b"right", HERE))
        self.assertEqual(len(self.hasher.verified), 2)

    async def test_added_again(self) -> None:
        """An account that was removed and added again with another password does not know the old one."""
        checker = self.checker()
        await checker.requestAvatarId(Login(ALICE, b"right", HERE))
        await self.database.write(remove_account, "alice@example.org")
        await self.add("alice@example.org", "new")
        await self.refused(checker, Login(ALICE, b"right", HERE))


class JoinTests(CheckerCase):
    """Work that is asked for twice at the same time is done once."""

    async def test_identical_logins_share_a_verification(self) -> None:
        """Logins with the same right password, from wherever they come, cost one verification."""
        checker = self.checker()
        self.hasher.gate.clear()
        answers = [checker.requestAvatarId(Login(ALICE, b"right", f"192.0.2.{n}")) for n in range(5)]
        while self.counted.reads < 5 or not self.hasher.verified:
            await tick()
        self.hasher.gate.set()
        self.assertEqual({answer.id for answer in await gatherResults(answers)}, {self.alice})
        self.assertEqual(len(self.hasher.verified), 1)

    async def test_many_sessions_of_one_client(self) -> None:
        """Two hundred sessions of one account that log in at once are all let in, for a few verifications."""
        checker = self.checker()
        answers = [checker.requestAvatarId(Login(ALICE, b"right", HERE)) for _ in range(200)]
        self.assertEqual({answer.id for answer in await gatherResults(answers)}, {self.alice})
        self.assertLessEqual(len(self.hasher.verified), 2)

    async def test_an_office_in_the_morning(self) -> None:
        """Two hundred people behind one address who log in at once are all let in."""
        stored = [CHEAP.hash(b"pass%d" % n) for n in range(200)]

        def hire(txn: Cursor) -> list[int]:
            return [add_account(txn, parse_address(f"user{n}@example.org"), stored[n], 1.0) for n in range(200)]

        numbers = await self.database.write(hire)
        checker = self.checker(verifiers=0)  # as if everybody had one already
        answers = [checker.requestAvatarId(Login(b"user%d@example.org" % n, b"pass%d" % n, HERE)) for n in range(200)]
        self.assertEqual([answer.id for answer in await gatherResults(answers)], numbers)
        self.assertEqual(self.clock.waits, [])


class ThrottledTests(CheckerCase):
    """Guessing is slow, and slow for the guesser only."""

    async def test_waits_grow(self) -> None:
        """Wrong passwords in a row are answered later and later."""
        checker = self.checker()
        for _ in range(3):
            await self.refused(checker, Login(ALICE, b"wrong", HERE))
        self.assertEqual([round(wait) for wait in self.clock.waits], [1, 2, 4])

    async def test_parallel_guesses_do_not_escape(self) -> None:
        """Of many guesses at once two are verified; each other one waits until a wrong answer has been given."""
        checker = self.checker()
        answers = [checker.requestAvatarId(Login(ALICE, b"guess%d" % n, HERE)) for n in range(8)]
        await self.clock.put_off(2)
        self.assertEqual(len(self.hasher.verified), 2)
        self.clock.advance(1.0)
        await self.clock.put_off(3)
        self.assertEqual(len(self.hasher.verified), 3)
        self.assertEqual(sorted(answer.called for answer in answers), [False] * 7 + [True])
        for answer in answers:
            answer.addErrback(lambda failure: failure.trap(TemporaryFailure, WrongLogin))

    async def test_owner_elsewhere_is_answered_at_once(self) -> None:
        """While somebody guesses with all his might, the owner's login from elsewhere does not wait."""
        checker = self.checker()
        for n in range(200):
            guess = checker.requestAvatarId(Login(ALICE, b"guess%d" % n, THERE))
            guess.addErrback(lambda failure: failure.trap(TemporaryFailure, WrongLogin))
        await self.clock.put_off(2)
        waits = len(self.clock.waits)
        self.assertEqual((await checker.requestAvatarId(Login(ALICE, b"right", HERE))).id, self.alice)
        self.assertEqual(len(self.clock.waits), waits)

    async def test_success_forgives(self) -> None:
        """Who mistypes and then gets it right starts anew."""
        checker = self.checker()
        await self.refused(checker, Login(ALICE, b"wrong", HERE))
        await checker.requestAvatarId(Login(ALICE, b"right", HERE))
        await self.refused(checker, Login(ALICE, b"wrong", HERE))
        self.assertEqual(self.clock.waits, [1.0, 1.0])

    async def test_hanging_up_frees_no_place(self) -> None:
        """A guess whose asker has gone is counted, and keeps its place until its answer was due."""
        checker = self.checker()
        first, second, third = (checker.requestAvatarId(Login(ALICE, b"guess%d" % n, HERE)) for n in range(3))
        for answer in (first, second):
            answer.cancel()
            self.failureResultOf(answer, CancelledError)
        await self.clock.put_off(2)
        self.assertEqual(self.clock.waits, [1.0, 2.0])
        self.assertEqual(len(self.hasher.verified), 2)
        self.assertNoResult(third)
        third.addErrback(lambda failure: failure.trap(TemporaryFailure))

    async def test_giving_up_in_line(self) -> None:
        """A login that is cancelled while it waits for its turn is never verified."""
        checker = self.checker()
        answers = [checker.requestAvatarId(Login(ALICE, b"guess%d" % n, HERE)) for n in range(4)]
        answers[2].cancel()
        self.failureResultOf(answers[2], CancelledError)
        await self.clock.put_off(2)
        self.clock.advance(1.0)
        await self.clock.put_off(3)
        self.assertNotIn(b"guess2", [password for _, password in self.hasher.verified])
        for answer in answers:
            answer.addErrback(lambda failure: failure.trap(TemporaryFailure, WrongLogin))

    async def test_full_line(self) -> None:
        """When the line of a network is full, a login is a temporary failure at once, without any work."""
        checker = self.checker(throttle=Throttle(places=Places(for_network=1, for_account=1, line=0)))
        self.hasher.gate.clear()
        first = checker.requestAvatarId(Login(ALICE, b"right", HERE))
        self.failureResultOf(checker.requestAvatarId(Login(ALICE, b"right", HERE)), TemporaryFailure)
        self.assertEqual(self.counted.reads, 1)
        self.hasher.gate.set()
        await first

    async def test_shortened_line(self) -> None:
        """When a network fails again and again, those who came last are told to come back later."""
        places = Places(for_network=1, for_account=1, line=9, short_line=1, patience=1.0)
        checker = self.checker(throttle=Throttle(places=places))
        answers = [checker.requestAvatarId(Login(ALICE, b"guess%d" % n, HERE)) for n in range(4)]
        await self.clock.put_off(1)
        self.assertNoResult(answers[0])
        self.assertNoResult(answers[1])
        for answer in answers[2:]:
            self.failureResultOf(answer, TemporaryFailure)
        for answer in answers[:2]:
            answer.addErrback(lambda failure: failure.trap(TemporaryFailure))


class TroubleTests(CheckerCase):
    """What cannot be told now is a temporary failure, and nobody's fault."""

    async def test_full_queue(self) -> None:
        """When the queue of the hashing pool is full, a login is a temporary failure that counts as nothing."""
        checker = self.checker(threads=1, queue_limit=1)
        await checker._pool.nobody()
        self.hasher.gate.clear()
        answers = [checker.requestAvatarId(Login(ALICE, b"guess%d" % n, f"192.0.2.{n}")) for n in range(2)]
        while checker._pool._pending < 2:
            await tick()
        await self.assertFailure(checker.requestAvatarId(Login(ALICE, b"right", THERE)), TemporaryFailure)
        self.hasher.gate.set()
        await self.clock.put_off(2)
        self.assertEqual((await checker.requestAvatarId(Login(ALICE, b"right", THERE))).id, self.alice)
        for answer in answers:
            answer.addErrback(lambda failure: failure.trap(TemporaryFailure))

    async def test_failing_hasher(self) -> None:
        """A verification that cannot be done now is a temporary failure, is not counted, and heals."""
        checker = self.checker()
        self.hasher.broken = True
        for _ in range(5):
            await self.assertFailure(checker.requestAvatarId(Login(ALICE, b"right", HERE)), TemporaryFailure)
        self.hasher.broken = False
        self.assertEqual((await checker.requestAvatarId(Login(ALICE, b"right", HERE))).id, self.alice)
        self.assertEqual(self.clock.waits, [])

    async def test_closed_database(self) -> None:
        """A database that fails is a StorageFailure for everybody in line, however long the line."""
        checker = self.checker()
        self.hasher.gate.clear()
        answers = [checker.requestAvatarId(Login(ALICE, b"right", HERE)) for _ in range(250)]
        while not self.hasher.verified:
            await tick()
        await self.database.close()
        self.hasher.gate.set()
        for answer in answers[2:]:
            await self.assertFailure(answer, StorageFailure)
        self.assertEqual([answer.id for answer in await gatherResults(answers[:2])], [self.alice] * 2)
        self.assertEqual(checker._throttle.under_way(), 0)

    async def test_stop(self) -> None:
        """Stopping answers who is held back and who is in line, and ends the threads; start makes it work anew."""
        checker = self.checker()
        answers = [checker.requestAvatarId(Login(ALICE, b"guess%d" % n, HERE)) for n in range(5)]
        await self.clock.put_off(2)
        await checker.stop()
        for answer in answers:
            self.failureResultOf(answer, TemporaryFailure)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.failureResultOf(checker.requestAvatarId(Login(ALICE, b"right", HERE)), TemporaryFailure)
        checker.start()
        self.assertEqual((await checker.requestAvatarId(Login(ALICE, b"right", HERE))).id, self.alice)

    async def test_stop_while_verifying(self) -> None:
        """Stopping lets a verification that has begun end, and forgets those that wait for a thread."""
        checker = self.checker(threads=1)
        await checker._pool.nobody()
        self.hasher.gate.clear()
        answers = [checker.requestAvatarId(Login(ALICE, b"guess%d" % n, f"192.0.2.{n}")) for n in range(3)]
        while checker._pool._pending < 3 or not self.hasher.verified:
            await tick()
        stopped = checker.stop()
        self.assertNoResult(stopped)
        self.hasher.gate.set()
        await stopped
        for answer in answers:
            self.failureResultOf(answer, TemporaryFailure)
        self.assertEqual(len(self.hasher.verified), 1)


class SecretsTests(SynchronousTestCase):
    """What is never shown."""

    def test_login(self) -> None:
        """The password is in no representation of the credentials."""
        login = Login(ALICE, b"opensesame", HERE, "smtp")
        self.assertNotIn("opensesame", repr(login) + str(login) + f"{login!r:s}")
        self.assertTrue(IUsernamePassword.providedBy(login))
        self.assertTrue(login.checkPassword(b"opensesame"))
        self.assertFalse(login.checkPassword(b"other"))


class RealmTests(SynchronousTestCase):
    """What the realm refuses."""

    def test_other_interfaces(self) -> None:
        """Who does not ask for IAccount gets nothing."""
        self.assertRaises(NotImplementedError, AccountRealm().requestAvatar, AccountId(1, "a@b.example"), None)

    def test_anonymous(self) -> None:
        """cred's anonymous avatar has no account."""
        self.assertRaises(UnauthorizedLogin, AccountRealm().requestAvatar, (), None, IAccount)


def tick() -> Deferred[None]:
    """One turn of the reactor, for what a thread does without telling us."""
    turn: Deferred[None] = Deferred()
    reactor.callLater(0, turn.callback, None)
    return turn
