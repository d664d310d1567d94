"""The journal: nobody waits for it, it is bounded, it says what it could not keep, and it ends in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.journal import Journal, Keep, Pace
from mailsvc.mail.channel import TLSFacts
from mailsvc.mail.event import Connected, Dropped, LoginFailed
from mailsvc.storage.devices import Carried
from mailsvc.storage.events import Entry, by_key, by_peer
from mailsvc.storage.rows import many
from tests.memory import MemoryStore, storage_failure

PACE = Pace(buffer=40, share=4, gather=1.0, batch=10, pause=0.25, retry=5.0, prune=60.0)
PEER = "192.0.2.7"


class JournalCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.addCleanup(self.store.connection.close)

    def journal(self, keep: Keep | None = None, pace: Pace = PACE) -> Journal:
        journal = Journal(self.store, self.clock, keep=keep or Keep(), pace=pace, new_session=lambda: 5)
        journal.start()
        self.addCleanup(self.check_end, journal)
        return journal

    def check_end(self, journal: Journal) -> None:
        self.successResultOf(journal.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [], "a timer was left behind")

    def kinds(self) -> list[str]:
        return [kind for (kind,) in many(self.store.connection.execute("SELECT kind FROM event ORDER BY id"))]

    def note(self, journal: Journal, count: int, source: str = "") -> None:
        for number in range(count):
            journal.note(Entry(self.clock.seconds(), Connected("smtp"), number, PEER), source or str(number))

    def dropped(self) -> list[Dropped]:
        rows = self.store.now(by_peer, PEER, since=0, limit=1000)
        self.assertEqual([row for row in rows if isinstance(row.event, Dropped)], [])
        found = [entry.event for entry in self.store.now(by_key, "!dropped", since=0, limit=9)]
        return [event for event in found if isinstance(event, Dropped)]


class Batches(JournalCase):
    def test_gathered(self) -> None:
        """What happens within a second is written together, in its order, in one transaction.

        Rule: Refusals in batches
        """
        journal = self.journal()
        self.note(journal, 3)
        self.clock.advance(0.9)
        self.note(journal, 4)
        self.assertEqual(self.kinds(), [])
        self.clock.advance(0.1)
        self.assertEqual((len(self.kinds()), self.store.calls), (7, ["record"]))

    def test_not_faster_than_the_pace(self) -> None:
        """However much happens, so many rows in so much time and no more: mail comes between."""
        journal = self.journal()
        self.note(journal, 40)
        written = []
        for _ in range(5):
            self.clock.advance(0.25)
            written.append(len(self.kinds()))
        self.assertEqual(written, [10, 20, 30, 40, 40])

    def test_nobody_waits(self) -> None:
        """While the database is busy things are noted on, and nothing is written beside it."""
        journal = self.journal()
        self.store.held = True
        self.note(journal, 3)
        self.clock.advance(2)
        self.note(journal, 3)
        self.clock.advance(100)
        # The other that waits is the pruning.
        self.assertEqual((self.kinds(), self.store.waiting), ([], 2))
        self.store.held = False
        self.store.release()
        self.clock.advance(1)
        self.assertEqual(len(self.kinds()), 6)

    def test_before_the_start(self) -> None:
        """What happens before the database is open is written as soon as it is."""
        journal = Journal(self.store, self.clock, pace=PACE)
        self.note(journal, 3)
        self.clock.advance(100)
        journal.start()
        self.clock.advance(1)
        self.check_end(journal)
        self.assertEqual(len(self.kinds()), 3)


class Bounds(JournalCase):
    def test_dropped_are_counted(self) -> None:
        """What finds no room is counted, and the count is an event: how many, since when.

        Rule: Refusals in batches
        """
        journal = self.journal()
        self.clock.advance(7)
        self.note(journal, 140)
        for _ in range(20):
            self.clock.advance(0.25)
        self.assertEqual((self.kinds().count("connected"), self.dropped()), (40, [Dropped(100, 7.0)]))

    def test_a_flood_pushes_nobody_out(self) -> None:
        """One network has a share of the buffer only, so that what the others do is kept."""
        journal = self.journal()
        self.note(journal, 10_000, "attacker")
        self.note(journal, 5)
        for _ in range(20):
            self.clock.advance(0.25)
        self.assertEqual((self.kinds().count("connected"), self.dropped()), (15, [Dropped(9990, 0.0)]))
        self.assertEqual((len(journal._buffer), dict(journal._held)), (0, {}))

    def test_after_a_failure(self) -> None:
        """When the database cannot write, all is kept in its order and written later, but no more than fits."""
        journal = self.journal()
        self.store.failure = storage_failure()
        self.note(journal, 35)
        self.clock.advance(1)
        self.note(journal, 10)
        for _ in range(10):
            self.clock.advance(1)
        self.assertEqual(self.kinds(), [])
        self.store.failure = None
        for _ in range(100):
            self.clock.advance(0.25)
        self.assertEqual((self.kinds().count("connected"), self.dropped()), (40, [Dropped(5, 1.0)]))
        sessions = many(self.store.connection.execute("SELECT session FROM event WHERE kind = 'connected' ORDER BY id"))
        self.assertEqual([number for (number,) in sessions], [*range(35), *range(5)])

    def test_full_disk(self) -> None:
        """The disk's reserve is not for events."""
        journal = self.journal()
        self.store.room = -1
        self.note(journal, 3)
        self.clock.advance(10)
        self.assertEqual((self.kinds(), self.store.calls), ([], []))
        self.store.room = 1 << 30
        self.clock.advance(5)
        self.assertEqual(len(self.kinds()), 3)

    def test_a_defect_costs_its_batch(self) -> None:
        """A batch that the database takes for wrong is lost, counted, in the log; the next is written."""
        journal = self.journal()
        journal.note(Entry(0.0, Connected("smtp"), peer=object()))  # type: ignore[arg-type]
        self.clock.advance(1)
        self.assertEqual(len(self.flushLoggedErrors()), 1)
        self.note(journal, 1)
        self.clock.advance(5)
        self.assertEqual((self.kinds(), self.dropped()), (["connected", "dropped"], [Dropped(1, 0.0)]))


class End(JournalCase):
    def test_stop_writes_all(self) -> None:
        """At the end everything is written that was noted, without any pause."""
        journal = self.journal()
        self.note(journal, 37)
        self.successResultOf(journal.stop())
        self.assertEqual(len(self.kinds()), 37)
        self.note(journal, 1)
        self.assertEqual(len(self.kinds()), 37)

    def test_stop_waits_for_the_batch_under_way(self) -> None:
        """`stop` has its answer after the last row is committed."""
        journal = self.journal()
        self.store.held = True
        self.note(journal, 15)
        self.clock.advance(1)
        stopped = journal.stop()
        self.assertNoResult(stopped)
        self.store.release()
        self.store.release()
        self.successResultOf(stopped)
        self.assertEqual(len(self.kinds()), 15)

    def test_stop_with_a_broken_database(self) -> None:
        """A database that cannot write does not hold up the end."""
        journal = self.journal()
        self.store.failure = storage_failure()
        self.note(journal, 15)
        self.successResultOf(journal.stop())

    def test_without_a_store(self) -> None:
        """A journal without a database writes the log only."""
        journal = Journal(None, self.clock)
        journal.start()
        self.note(journal, 15)
        self.assertEqual((self.clock.getDelayedCalls(), len(journal._buffer)), ([], 0))
        self.successResultOf(journal.stop())


class Pruning(JournalCase):
    def test_by_age_and_count(self) -> None:
        """Once a minute the oldest go, slice after slice, until what is left may stay.

        Rule: Old events are pruned by age and count
        """
        self.store.connection.executemany(
            "INSERT INTO event (time, kind, detail) VALUES (?, 'connected', '{}')", [(t / 100,) for t in range(3000)]
        )
        self.clock.advance(86_400)
        self.journal(Keep(days=1 - 5 / 86_400, rows=2000))
        self.clock.advance(59)
        self.assertEqual(len(self.kinds()), 3000)
        for _ in range(10):
            self.clock.advance(0.5)
        # At 60 seconds all older than 65 seconds after the beginning are too old, so all.
        self.assertEqual(len(self.kinds()), 0)

    def test_by_count(self) -> None:
        """No more than so many rows stay."""
        self.store.connection.executemany(
            "INSERT INTO event (time, kind, detail) VALUES (?, 'connected', '{}')", [(float(t),) for t in range(3000)]
        )
        self.journal(Keep(days=1, rows=1200))
        for _ in range(70):
            self.clock.advance(1)
        self.assertEqual(len(self.kinds()), 1200)
        self.assertEqual(self.store.calls.count("prune"), 5)

    def test_failure(self) -> None:
        """A database that fails now is asked again later."""
        self.journal()
        self.store.failure = storage_failure()
        self.clock.advance(60)
        self.store.failure = None
        self.clock.advance(60)
        self.assertEqual(self.store.calls, ["prune", "prune"])


class Connections(JournalCase):
    def test_each_method_keeps_its_event(self) -> None:
        """What a server says about its connection is kept with the connection's number and the client's address."""
        connection = self.journal().connection("smtp", "::ffff:192.0.2.7")
        steps: list[tuple[Callable[..., Any], tuple[Any, ...], str]] = [
            (connection.connected, (), "connected"),
            (connection.secured, (TLSFacts("TLSv1.3", "AES", 256, None, None),), "secured"),
            (connection.injected, (4,), "injected"),
            (connection.logged_in, ("alice@example.org",), "logged in"),
            (connection.login_failed, ("alice@example.org",), "login failed"),
            (connection.refused, ("MAIL", "550 no"), "refused"),
            (connection.unavailable, ("login", storage_failure()), "unavailable"),
            (connection.noted, ("There is no relay.", "bob@example.net"), "noted"),
            (connection.disconnected, ("closed",), "disconnected"),
        ]
        for method, arguments, _ in steps:
            method(*arguments)
        connection.maildrop_closed("alice@example.org", "password", retrieved=1, done=Carried(0, 0, by_device=False))
        self.clock.advance(1)
        found = self.store.now(by_peer, PEER, since=0, limit=20)[::-1]
        self.assertEqual([entry.event.kind for entry in found], [*(kind for _, _, kind in steps), "maildrop closed"])
        self.assertEqual({entry.session for entry in found}, {5})

    def test_accepted_is_the_transactions(self) -> None:
        """An acceptance is logged here and kept by the transaction, not twice."""
        self.journal().connection("smtp", PEER).accepted("T", "a@x.org", ["b@x.org"], 5)
        self.clock.advance(5)
        self.assertEqual(self.kinds(), [])

    def test_handshake_that_failed(self) -> None:
        """A connection that ends during its handshake tells so; one that got through does not."""
        journal = self.journal()
        connection = journal.connection("smtp", PEER)
        connection.handshake_begun()
        self.clock.advance(1.5)
        connection.disconnected("no shared cipher")
        other = journal.connection("smtp", PEER)
        other.handshake_begun()
        other.secured(TLSFacts("TLSv1.3", "AES", 256, None, None))
        other.disconnected("done")
        self.clock.advance(1)
        self.assertEqual(self.kinds(), ["handshake failed", "disconnected", "secured", "disconnected"])

    def test_a_password_in_the_wrong_place(self) -> None:
        """A login name that is no address may be a password: it is not kept (promise H)."""
        connection = self.journal().connection("smtp", PEER)
        for name in ("open sesame", "Alice@example.org", "x" * 10_000 + "@example.org"):
            connection.login_failed(name)
        self.clock.advance(1)
        found = [entry.event for entry in self.store.now(by_peer, PEER, since=0, limit=9)[::-1]]
        self.assertEqual(found, [LoginFailed(""), LoginFailed("Alice@example.org"), LoginFailed("")])

    def test_defect(self) -> None:
        """A mistake of our own keeps its name; the words of the exception may be the client's."""
        self.journal().connection("smtp", PEER).defect(Failure(ConnectionLost("secret")))
        self.flushLoggedErrors(ConnectionLost)
        self.clock.advance(1)
        ((detail,),) = many(self.store.connection.execute("SELECT detail FROM event"))
        self.assertEqual(detail, '{"what": "ConnectionLost"}')

    def test_turned_away(self) -> None:
        """A client too many is noted under its address."""
        self.journal().turned_away("smtp", PEER, "too many connections")
        self.clock.advance(1)
        (entry,) = self.store.now(by_peer, PEER, since=0, limit=9)
        self.assertEqual((entry.event.kind, entry.session), ("turned away", None))


class Never(JournalCase):
    def test_a_store_that_never_answers(self) -> None:
        """A write without an end costs memory for the buffer, and nothing else."""

        class Stuck(MemoryStore):
            def write(self, *_args: Any, **_kwargs: Any) -> Deferred[Any]:
                return Deferred()

        self.store = Stuck(self.clock)
        journal = Journal(self.store, self.clock, pace=PACE)
        journal.start()
        for _ in range(50):
            self.note(journal, 20)
            self.clock.advance(1)
        self.assertEqual(len(journal._buffer), 40)


class SessionsInTheLog(JournalCase):
    """Connections, handshakes and ends as lines of the log."""

    def lines_of_a_session(self, *, log_sessions: bool) -> list[str]:
        journal = Journal(self.store, self.clock, log_sessions=log_sessions)
        told: list[LogEvent] = []
        observer = cast(ILogObserver, told.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        connection = journal.connection("smtp", PEER)
        connection.connected()
        connection.secured(TLSFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256, "X25519", "mx.example.org"))
        connection.disconnected("closed")
        self.assertEqual(sum(journal.counts.values()), 3)
        return [formatEvent(event) for event in told if event["log_namespace"] == "mailsvc"]

    def test_off(self) -> None:
        """Nobody has to pay for lines that nobody asked for; the events are kept all the same."""
        self.assertEqual(self.lines_of_a_session(log_sessions=False), [])

    def test_on(self) -> None:
        """Who asks for them gets three lines, with the name that the client asked for."""
        connected, secured, disconnected = self.lines_of_a_session(log_sessions=True)
        self.assertIn(f"connection from {PEER}", connected)
        self.assertIn("name asked for: mx.example.org", secured)
        self.assertIn("disconnected: closed", disconnected)
