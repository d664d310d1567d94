"""The service's database on the real reactor: when Deferreds fire, what an error leaves, how it ends."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.trial.unittest import TestCase

from mailsvc.errors import NotFound, StartRefused, StorageFailure
from mailsvc.storage import accounts, mailboxes
from mailsvc.storage.database import BATCH_JOBS, Database, offline
from mailsvc.storage.rows import Cursor, one
from tests.storage_cases import ALICE, BOB, HEADER, TRACE, add, content, count, deliver, make_database, new_message


class Case(TestCase):
    timeout = 60

    def setUp(self) -> None:
        folder = os.path.realpath(self.mktemp())
        os.makedirs(folder)
        self.path = os.path.join(folder, "mail.sqlite3")
        make_database(self.path)
        self.database = Database(self.path, reactor, lock_timeout=0.2)
        self.database.open()
        self.addCleanup(self.database.close)

    async def limit(self, *, pages_more: int | None) -> None:
        """Let the "disk" have room for so many pages more, or plenty."""

        def set_limit(txn: Cursor) -> None:
            (pages,) = one(txn.execute("PRAGMA page_count"))
            most = 1_000_000_000 if pages_more is None else pages + pages_more
            txn.execute(f"PRAGMA max_page_count = {most}").fetchall()

        await self.database.write(set_limit)

    async def domains(self) -> list[str]:
        return [row.name for row in await self.database.read(accounts.domains)]


class FakeReactor:
    """The part of a reactor that thread pools touch; it "runs" for a moment only."""

    def __init__(self) -> None:
        self._starts: list[Callable[[], object]] = []
        self._ends: list[Callable[[], object]] = []

    def callWhenRunning(self, start: Callable[[], object]) -> object:
        self._starts.append(start)
        return start

    def addSystemEventTrigger(self, _phase: str, _event: str, end: Callable[[], object]) -> object:
        self._ends.append(end)
        return end

    def removeSystemEventTrigger(self, trigger: object) -> None:
        pass

    def run_and_end(self) -> None:
        for start in self._starts:
            start()
        for end in self._ends:
            end()


def echo(txn: Cursor, number: int) -> int:
    """A job without work."""
    return number


async def failure_of(deferred: Deferred[Any]) -> BaseException | None:
    """What `deferred` failed with, None when it did not."""
    try:
        await deferred
    except BaseException as error:
        return error
    return None


class Writing(Case):
    async def test_committed_when_fired(self) -> None:
        """When the Deferred fires, another process sees the row."""
        await self.database.write(accounts.add_domain, "example.org", 0.0)
        with offline(self.path, create=False) as txn:
            self.assertTrue(accounts.domain_exists(txn, "example.org"))

    async def test_order(self) -> None:
        """Deferreds fire in the order of the calls, over more than one batch."""
        fired: list[int] = []
        calls = [self.database.write(echo, number).addCallback(fired.append) for number in range(2 * BATCH_JOBS + 3)]
        await gatherResults(calls)
        self.assertEqual(fired, list(range(2 * BATCH_JOBS + 3)))

    async def test_failing_job_is_alone(self) -> None:
        """An error of one job reaches its caller as it was and leaves its neighbours alone."""
        calls: list[Deferred[Any]] = [
            self.database.write(accounts.add_domain, "a", 0.0),
            self.database.write(accounts.remove_domain, "b"),
            self.database.write(accounts.add_domain, "c", 0.0),
        ]
        results = await gatherResults([Deferred.fromCoroutine(failure_of(call)) for call in calls])
        self.assertEqual([type(result) for result in results], [type(None), NotFound, type(None)])
        self.assertEqual(await self.domains(), ["a", "c"])

    async def test_callback_may_write(self) -> None:
        """A callback that writes again is served; it does not wait for itself."""
        first = self.database.write(accounts.add_domain, "a", 0.0)
        first.addCallback(lambda _: self.database.write(accounts.add_domain, "b", 0.0))
        await first
        self.assertEqual(await self.domains(), ["a", "b"])

    async def test_cancelled_in_queue(self) -> None:
        """A queued job whose Deferred is cancelled is not done, and its neighbours are."""
        running = self.database.write(accounts.add_domain, "a", 0.0)
        cancelled = self.database.write(accounts.add_domain, "b", 0.0)
        last = self.database.write(accounts.add_domain, "c", 0.0)
        cancelled.cancel()
        self.assertIsInstance(await failure_of(cancelled), CancelledError)
        await gatherResults([running, last])
        self.assertEqual(await self.domains(), ["a", "c"])

    async def test_cancelled_while_running(self) -> None:
        """Cancelling a job that has begun breaks nothing."""
        running = self.database.write(accounts.add_domain, "a", 0.0)
        running.cancel()
        self.assertIsInstance(await failure_of(running), CancelledError)
        await self.database.write(accounts.add_domain, "b", 0.0)
        self.assertIn("b", await self.domains())

    async def test_delivery(self) -> None:
        """A message of several MB goes in and comes out part by part, byte for byte."""
        alice = await self.database.write(add)
        pieces = [bytes([number]) * mailboxes.PART_LIMIT for number in range(20)]
        new = new_message(b"".join(pieces))
        message_id = await self.database.write(mailboxes.deliver, new, HEADER, iter(pieces), [alice])
        whole = await self.database.read(content, message_id)
        self.assertEqual(whole, TRACE + HEADER + b"".join(pieces))
        (item,) = await self.database.read(mailboxes.snapshot, alice)
        self.assertEqual(await self.database.write(mailboxes.delete_items, alice, [item.uid]), 1)
        self.assertEqual(await self.database.read(count, "message_content"), 0)


class Trouble(Case):
    async def test_disk_full(self) -> None:
        """With a full disk a delivery is a StorageFailure that says so; with room again it works, unaided."""
        alice = await self.database.write(add)
        await self.limit(pages_more=10)
        error = await failure_of(self.database.write(deliver, b"x" * 100_000, alice))
        self.assertIsInstance(error, StorageFailure)
        self.assertIn("is full", str(error))
        self.assertEqual(len(await self.database.read(mailboxes.snapshot, alice)), 0)
        await self.database.write(deliver, b"small", alice)
        await self.limit(pages_more=None)
        await self.database.write(deliver, b"x" * 100_000, alice)
        self.assertEqual(len(await self.database.read(mailboxes.snapshot, alice)), 2)

    async def test_acknowledged_under_full_disk(self) -> None:
        """Of many deliveries to a disk that fills up, exactly the acknowledged ones are there.

        Rule: ENOSPC
        """
        alice = await self.database.write(add)
        await self.limit(pages_more=60)
        calls = [
            Deferred.fromCoroutine(failure_of(self.database.write(deliver, b"y" * 3000, alice, trace_id=str(n))))
            for n in range(100)
        ]
        errors = await gatherResults(calls)
        self.assertEqual({type(error) for error in errors}, {type(None), StorageFailure})
        acknowledged = [str(number) for number, error in enumerate(errors) if error is None]

        def trace_ids(txn: Cursor) -> list[str]:
            return [row[0] for row in txn.execute("SELECT trace_id FROM message ORDER BY id").fetchall()]

        self.assertEqual(await self.database.read(trace_ids), acknowledged)

    async def test_reserve(self) -> None:
        """The disk has room for little and not for everything; a closed database has room for nothing."""
        self.assertTrue(self.database.has_room_for(1))
        self.assertFalse(self.database.has_room_for(2**62))
        await self.database.close()
        self.assertFalse(self.database.has_room_for(1))

    async def test_locked_by_another(self) -> None:
        """While another process holds the write lock, writing fails and reading works; afterwards both do."""
        with offline(self.path, create=False) as txn:
            accounts.add_domain(txn, "cli.example", 0.0)
            error = await failure_of(self.database.write(accounts.add_domain, "a", 0.0))
            self.assertIsInstance(error, StorageFailure)
            self.assertIn("locked by another process", str(error))
            self.assertEqual(await self.domains(), [])
        await self.database.write(accounts.add_domain, "a", 0.0)
        self.assertEqual(await self.domains(), ["a", "cli.example"])

    async def test_file_moved_away(self) -> None:
        """When the file is moved, nothing is acknowledged into nowhere; moved back, it works again."""
        await self.database.write(echo, 1)
        os.rename(self.path, self.path + ".moved")
        error = await failure_of(self.database.write(accounts.add_domain, "a", 0.0))
        self.assertIsInstance(error, StorageFailure)
        self.assertIn("moved, removed or replaced", str(error))
        os.rename(self.path + ".moved", self.path)
        await self.database.write(accounts.add_domain, "b", 0.0)
        self.assertEqual(await self.domains(), ["b"])

    async def test_replaced_by_a_copy(self) -> None:
        """A copy that is put in the file's place is not written to."""
        await self.database.write(echo, 1)
        shutil.copy(self.path, self.path + ".copy")
        os.rename(self.path + ".copy", self.path)
        error = await failure_of(self.database.write(accounts.add_domain, "a", 0.0))
        self.assertIsInstance(error, StorageFailure)

    async def test_log_removed(self) -> None:
        """Nothing is acknowledged into a log without a name; what it held is written back when we close in order."""
        await self.database.write(accounts.add_domain, "a", 0.0)
        os.unlink(self.path + "-wal")
        error = await failure_of(self.database.write(accounts.add_domain, "b", 0.0))
        self.assertIsInstance(error, StorageFailure)
        self.assertIn("stop mailsvc in order", str(error))
        await self.database.close()
        with offline(self.path, create=False) as txn:
            self.assertEqual([row.name for row in accounts.domains(txn)], ["a"])

    async def test_connection_spoiled(self) -> None:
        """A connection that broke under us is opened anew for the next transaction."""

        def break_it(txn: Any) -> None:
            txn.connection.close()

        self.assertIsInstance(await failure_of(self.database.write(break_it)), StorageFailure)
        await self.database.write(accounts.add_domain, "a", 0.0)
        self.assertIsInstance(await failure_of(self.database.read(break_it)), StorageFailure)
        for _ in range(8):
            self.assertEqual(await self.domains(), ["a"])

    async def test_reader_cannot_write(self) -> None:
        """A function that writes is refused by `read`."""
        error = await failure_of(self.database.read(accounts.add_domain, "a", 0.0))
        self.assertIsInstance(error, StorageFailure)
        self.assertEqual(await self.domains(), [])


class Reading(Case):
    async def test_snapshot(self) -> None:
        """A read sees one state, although a write is committed in its middle."""
        alice = await self.database.write(add)

        def twice(txn: Cursor) -> tuple[int, int]:
            before = count(txn, "message")
            with offline(self.path, create=False) as other:
                deliver(other, b"x", alice)
            return before, count(txn, "message")

        self.assertEqual(await self.database.read(twice), (0, 0))
        self.assertEqual(await self.database.read(count, "message"), 1)

    async def test_error_passes(self) -> None:
        """What a reading function raises comes as it was."""
        self.assertIsInstance(await failure_of(self.database.read(accounts.set_password, "k", "h", 0.0)), NotFound)

    async def test_concurrent(self) -> None:
        """More reads than connections are all served."""
        results = await gatherResults([self.database.read(echo, n) for n in range(50)])
        self.assertEqual(results, list(range(50)))


class Closing(Case):
    async def test_finishes_what_was_asked(self) -> None:
        """Closing waits for what is queued and running; the rows are there and the log is empty."""
        calls = [self.database.write(accounts.add_domain, f"d{n}", 0.0) for n in range(300)]
        read = self.database.read(echo, 1)
        await self.database.close()
        for call in (*calls, read):
            self.successResultOf(call)
        self.assertFalse(os.path.exists(self.path + "-wal"))
        with offline(self.path, create=False) as txn:
            self.assertEqual(count(txn, "domain"), 300)

    async def test_refuses_after(self) -> None:
        """Calls fail at once while closing and after, instead of hanging; close can be called again."""
        closing = self.database.close()
        self.failureResultOf(self.database.write(accounts.domains), StorageFailure)
        await self.database.close()
        self.failureResultOf(self.database.read(accounts.domains), StorageFailure)
        self.successResultOf(closing)

    async def test_lock_is_released(self) -> None:
        """After close another instance may open, and the same object may too."""
        await self.database.write(accounts.add_domain, "a", 0.0)
        await self.database.close()
        other = Database(self.path, reactor)
        other.open()
        self.addCleanup(other.close)
        refused = self.assertRaises(StartRefused, self.database.open)
        self.assertIn("uses this database", str(refused))
        await other.close()
        self.database.open()
        self.assertEqual(await self.domains(), ["a"])

    async def test_before_the_reactor_runs(self) -> None:
        """A database can be opened and closed without a reactor that runs: a start may fail elsewhere."""
        await self.database.close()
        reactor = FakeReactor()
        early = Database(self.path, reactor)
        early.open()
        self.successResultOf(early.close())
        self.database.open()

    async def test_after_the_reactor_ended(self) -> None:
        """When the reactor's end has taken the threads away, what was queued fails instead of hanging."""
        await self.database.close()
        reactor = FakeReactor()
        late = Database(self.path, reactor)
        late.open()
        reactor.run_and_end()
        taken = late.write(accounts.add_domain, "a", 0.0)
        queued = late.write(accounts.add_domain, "b", 0.0)
        self.successResultOf(late.close())
        self.failureResultOf(queued, StorageFailure)
        self.assertNoResult(taken)
        self.database.open()
        self.assertEqual(await self.domains(), [])

    async def test_never_opened(self) -> None:
        """A database that was never opened can be closed, and refuses calls."""
        never = Database(self.path, reactor)
        self.successResultOf(never.close())
        self.failureResultOf(never.read(accounts.domains), StorageFailure)
        self.assertEqual(never.name, self.path)


class Permissions(Case):
    async def test_bits(self) -> None:
        """All files of the database are for the owner only, whatever the umask is."""
        await self.database.close()
        shutil.rmtree(os.path.dirname(self.path))
        os.makedirs(os.path.dirname(self.path))
        self.addCleanup(os.umask, os.umask(0))
        self.database.open()
        await self.database.write(add, BOB)
        await self.database.read(accounts.account, ALICE.key)
        modes = {suffix: oct(os.stat(self.path + suffix).st_mode & 0o777) for suffix in ("", "-wal", "-shm", ".lock")}
        self.assertEqual(modes, dict.fromkeys(modes, "0o600"))
