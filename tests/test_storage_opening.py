"""What `--database` can say, what hinders a start, upgrades, and several processes on one database."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import tempfile
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.errors import AlreadyExists, StartRefused, StorageFailure
from mailsvc.storage import accounts, migrate
from mailsvc.storage.database import Database, offline, problems_of
from mailsvc.storage.dialect import Sqlite, dialect_of
from mailsvc.storage.files import InstanceLock
from mailsvc.storage.migrate import Upgrade
from mailsvc.storage.opening import looking, pending
from mailsvc.storage.rows import many
from tests.storage_cases import ALICE, OfflineCase, add, content, count, deliver, spawn

NEXT = migrate.shipped_upgrades()[-1].number + 1
SECOND = Upgrade(NEXT, "nickname", "-- Who is this?\nALTER TABLE account ADD COLUMN nickname TEXT;\n")
BROKEN = Upgrade(NEXT, "broken", "CREATE TABLE half (x);\nALTER TABLE nowhere ADD COLUMN x;\n")


class Places(SynchronousTestCase):
    def test_spellings(self) -> None:
        """A file can be named by its path or by an sqlite: URL; the name is the real path."""
        here = os.path.realpath(os.curdir)
        self.assertEqual(dialect_of("a.sqlite3").name, f"{here}/a.sqlite3")
        self.assertEqual(dialect_of("sqlite:a%20b").name, f"{here}/a b")
        self.assertEqual(dialect_of("sqlite:///var/mail.db").name, "/var/mail.db")
        self.assertEqual(dialect_of("/odd:name?#%").name, "/odd:name?#%")

    def test_refusals(self) -> None:
        """PostgreSQL, unknown kinds and no file at all are one clear sentence each."""
        for url in ("postgresql://localhost/mail", "postgres:mail"):
            (problem,) = problems_of(url)
            self.assertIn("PostgreSQL yet", problem)
        (problem,) = problems_of("mysql://localhost/mail")
        self.assertIn("mysql", problem)
        for nothing in ("", ":memory:", "sqlite:", "a\0b"):
            (problem,) = problems_of(nothing)
            self.assertIn("is no place for a database", problem)

    def test_folder_that_was_removed(self) -> None:
        """A relative path means nothing in a folder that is gone; that is said, and a whole path is still one."""
        self.addCleanup(os.chdir, os.getcwd())
        folder = os.path.abspath(self.mktemp())
        os.mkdir(folder)
        os.chdir(folder)
        os.rmdir(folder)
        (problem,) = problems_of("mail.db")
        self.assertIn("give --database the whole path", problem)
        self.assertEqual(dialect_of("/var/mail.db").name, "/var/mail.db")


class Statements(SynchronousTestCase):
    @settings(deadline=None)
    @given(st.lists(st.sampled_from(["CREATE TABLE a (\n    x -- ; not yet\n);", "INSERT INTO a VALUES (';');"])))
    def test_split(self, statements: list[str]) -> None:
        """A schema file is cut exactly between its statements, whatever stands in comments and strings."""
        script = "".join(f"-- a comment; with one\n{statement}\n\n" for statement in statements)
        cut = list(Sqlite("x").statements(script))
        self.assertEqual(len(cut), len(statements))
        for piece, statement in zip(cut, statements, strict=True):
            self.assertTrue(piece.endswith(statement))

    def test_unfinished(self) -> None:
        """A schema file that ends inside a statement is refused."""
        self.assertRaises(ValueError, list, Sqlite("x").statements("SELECT 1;\nSELECT 2"))

    def test_shipped(self) -> None:
        """The shipped upgrades are numbered from 1, and no number is given twice."""
        numbers = [upgrade.number for upgrade in migrate.shipped_upgrades()]
        self.assertEqual(numbers[0], 1)
        self.assertEqual(numbers, sorted(set(numbers)))


class Problems(OfflineCase):
    def problem(self) -> str:
        (problem,) = problems_of(self.path)
        refused = self.assertRaises(StartRefused, Database(self.path, reactor).open)
        self.assertEqual(refused.problems, (problem,))
        return problem

    def test_none(self) -> None:
        """A database that can be made, or is there, has no problems, and looking makes no file."""
        self.assertEqual(problems_of(self.path), [])
        self.assertEqual(os.listdir(os.path.dirname(self.path)), [])
        with self.transaction() as txn:
            add(txn)
        before = sorted(os.listdir(os.path.dirname(self.path)))
        self.assertEqual(problems_of(self.path), [])
        self.assertEqual(sorted(os.listdir(os.path.dirname(self.path))), before)

    def test_folder_missing(self) -> None:
        """A folder that is missing is named."""
        self.path = os.path.join(os.path.dirname(self.path), "nowhere", "mail.sqlite3")
        self.assertIn(f"the folder {os.path.dirname(self.path)}", self.problem())

    def test_not_a_file(self) -> None:
        """A folder is no database."""
        os.mkdir(self.path)
        self.assertIn("is not a file", self.problem())

    def test_not_a_database(self) -> None:
        """A file of something else is named and left as it is."""
        with open(self.path, "wb") as file:
            file.write(b"From: somebody\n" * 100)
        self.assertIn("is not a database", self.problem())
        self.assertRaises(StartRefused, self.transaction().__enter__)
        with open(self.path, "rb") as file:
            self.assertEqual(file.read(), b"From: somebody\n" * 100)

    def test_of_another_program(self) -> None:
        """A database of another program is not touched."""
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("CREATE TABLE cookies (x)")
        self.assertIn("belongs to another program", self.problem())

    def test_newer(self) -> None:
        """A database that a newer mailsvc has upgraded is refused, with the copy that would do."""
        database = Database(self.path, reactor, upgrades=(*migrate.shipped_upgrades(), SECOND))
        database.open()
        self.successResultOf(database.close())
        problem = self.problem()
        self.assertIn("newer mailsvc", problem)
        self.assertIn(f"{self.path}.before-{NEXT:04d}", problem)

    def test_not_writable(self) -> None:
        """A folder and a file that may not be written are both named, at once, with the user."""
        folder = self.somebodys_folder()
        with offline(os.path.join(folder, "mail.sqlite3"), create=True) as txn:
            add(txn)
        os.chmod(os.path.join(folder, "mail.sqlite3"), 0o400)
        os.chmod(folder, 0o555)
        lines = self.seen_by_somebody(os.path.join(folder, "mail.sqlite3"))
        self.assertEqual(len(lines), 2, lines)
        self.assertIn(f"the folder {folder} is not writable for the user", lines[0])
        self.assertIn("run this as the user that the service runs as (sudo -u)", lines[0])
        self.assertIn(f"the file {folder}/mail.sqlite3 is not readable and writable", lines[1])

    def test_a_log_that_goes_while_it_is_asked_for(self) -> None:
        """What another process removes meanwhile is not called unreadable."""
        with offline(self.path, create=True) as txn:
            add(txn)
        stopped = Event()

        def come_and_go() -> None:
            while not stopped.is_set():
                Path(f"{self.path}-shm").touch()
                os.unlink(f"{self.path}-shm")

        other = Thread(target=come_and_go)
        other.start()
        try:
            found = {problem for _ in range(500) for problem in problems_of(self.path)}
        finally:
            stopped.set()
            other.join()
        self.assertEqual(found, set())

    def test_not_reachable(self) -> None:
        """A database in a folder that one may not enter is not called missing."""
        folder = self.somebodys_folder()
        os.mkdir(os.path.join(folder, "inner"))
        os.chmod(folder, 0o000)
        (line,) = self.seen_by_somebody(os.path.join(folder, "inner", "mail.sqlite3"))
        self.assertIn("cannot reach the database", line)

    def somebodys_folder(self) -> str:
        """A folder that also another user can see, unlike those that the test runner makes."""
        folder = os.path.realpath(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        self.addCleanup(os.chmod, folder, 0o700)
        return folder

    def seen_by_somebody(self, path: str) -> list[str]:
        """`problems_of(path)` as a user whom permission bits bind, which root is not."""
        process = spawn(
            "import os, sys; from mailsvc.storage.database import problems_of\n"
            "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "print(*problems_of(sys.argv[1]), sep='\\n')",
            path,
        )
        output, _ = process.communicate(timeout=180)
        return output.splitlines()


class Upgrades(OfflineCase):
    def opened(self, *more: Upgrade) -> Database:
        database = Database(self.path, reactor, upgrades=(*migrate.shipped_upgrades(), *more))
        database.open()
        return database

    def test_runs_once_with_a_copy(self) -> None:
        """An upgrade runs by itself, once; a copy from before is kept, whole and private."""
        with self.transaction() as txn:
            message_id = deliver(txn, b"body", add(txn))
        for _ in range(2):
            self.successResultOf(self.opened(SECOND).close())
        with closing(sqlite3.connect(self.path)) as connection:
            self.assertEqual(many(connection.execute("SELECT nickname FROM account")), [(None,)])
            self.assertEqual(
                many(connection.execute("SELECT version, name FROM schema_version")),
                [*((upgrade.number, upgrade.name) for upgrade in migrate.shipped_upgrades()), (NEXT, "nickname")],
            )
        copy = f"{self.path}.before-{NEXT:04d}"
        self.assertEqual(stat.S_IMODE(os.stat(copy).st_mode), 0o600)
        with offline(copy, create=False) as txn:
            self.assertTrue(content(txn, message_id).endswith(b"body"))
        names = {os.path.basename(self.path) + suffix for suffix in ("", ".lock", f".before-{NEXT:04d}")}
        self.assertEqual(set(os.listdir(os.path.dirname(self.path))), names)

    def test_several_upgrades_keep_one_copy(self) -> None:
        """Two upgrades at once keep one copy: of the database before both."""
        with self.transaction() as txn:
            add(txn)
        third = Upgrade(NEXT + 1, "age", "ALTER TABLE account ADD COLUMN age INTEGER;\n")
        self.successResultOf(self.opened(SECOND, third).close())
        copies = {name for name in os.listdir(os.path.dirname(self.path)) if ".before-" in name}
        self.assertEqual(copies, {f"mail.sqlite3.before-{NEXT:04d}"})

    def test_new_database_needs_no_copy(self) -> None:
        """A new database gets all upgrades, and there is nothing to copy before any of them."""
        self.successResultOf(self.opened().close())
        self.assertEqual(sorted(os.listdir(os.path.dirname(self.path))), ["mail.sqlite3", "mail.sqlite3.lock"])

    def test_new_database_is_whole_or_none(self) -> None:
        """Where a new database cannot have all upgrades it gets none, so that nobody meets half a one."""
        refused = self.assertRaises(StartRefused, self.opened, BROKEN)
        self.assertIn(f"to schema {NEXT} failed", str(refused))
        with closing(sqlite3.connect(self.path)) as connection:
            self.assertEqual(many(connection.execute("SELECT name FROM sqlite_master")), [])
        self.successResultOf(self.opened().close())
        self.assertEqual(sorted(os.listdir(os.path.dirname(self.path))), ["mail.sqlite3", "mail.sqlite3.lock"])

    def test_failed_upgrade_changes_nothing(self) -> None:
        """An upgrade that fails is undone as a whole; the old mailsvc can go on, and the lock is free."""
        with self.transaction() as txn:
            add(txn)
        refused = self.assertRaises(StartRefused, self.opened, BROKEN)
        self.assertIn(f"to schema {NEXT} failed", str(refused))
        with self.transaction() as txn:
            names = many(txn.execute("SELECT name FROM sqlite_master WHERE name = 'half'"))
            self.assertEqual(names, [])
        self.successResultOf(self.opened().close())

    def test_upgrade_keeps_references_whole(self) -> None:
        """An upgrade that would leave rows without what they refer to is refused."""
        with self.transaction() as txn:
            add(txn)
        self.assertRaises(StartRefused, self.opened, Upgrade(NEXT, "loss", "DELETE FROM domain;"))
        with self.transaction() as txn:
            self.assertTrue(accounts.domain_exists(txn, ALICE.domain))


class CommandLine(OfflineCase):
    def test_no_database(self) -> None:
        """Without `create` a database that does not exist is a sentence, and is not made."""
        refused = self.assertRaises(StartRefused, offline(self.path, create=False).__enter__)
        self.assertIn(f"there is no database {self.path}", str(refused))
        self.assertFalse(os.path.exists(self.path))

    def test_error_undoes(self) -> None:
        """What the block raises undoes its work and passes."""

        def twice() -> None:
            with self.transaction() as txn:
                add(txn)
                add(txn)

        self.assertRaises(AlreadyExists, twice)
        with self.transaction() as txn:
            self.assertEqual(count(txn, "account"), 0)

    def test_database_error(self) -> None:
        """An error of the database in the block is a StorageFailure, never the driver's."""

        def wrong() -> None:
            with self.transaction() as txn:
                txn.execute("SELECT nothing FROM nowhere")

        self.assertRaises(StorageFailure, wrong)

    def test_beside_a_service(self) -> None:
        """The command line works while a service holds the instance lock, and what it makes is private."""
        self.addCleanup(os.umask, os.umask(0))
        database = Database(self.path, reactor)
        database.open()
        with offline(self.path, create=False) as txn:
            add(txn)
            modes = {os.stat(self.path + suffix).st_mode & 0o777 for suffix in ("", "-wal", "-shm")}
        self.assertEqual(modes, {0o600})
        self.successResultOf(database.close())

    def test_one_state_while_others_write(self) -> None:
        """What is looked at stays as it was, also when it was at rest and others begin to write."""
        with self.transaction() as txn:
            account = add(txn)
            for number in range(50):
                deliver(txn, b"x" * 5000, account, trace_id=f"before-{number}")
        with looking(self.path) as txn:
            first = count(txn, "message_content")
            for number in range(5):
                with self.transaction() as other:
                    other.execute("DELETE FROM mailbox_item WHERE uid % 2")
                    deliver(other, b"y" * 50000, account, trace_id=f"meanwhile-{number}")
            self.assertEqual(count(txn, "message_content"), first)
            self.assertEqual(content(txn, 1)[-5000:], b"x" * 5000)
            self.assertEqual(many(txn.execute("PRAGMA integrity_check")), [("ok",)])
            self.assertRaises(sqlite3.OperationalError, txn.execute, "DELETE FROM message")
        self.assertEqual(os.listdir(os.path.dirname(self.path)), ["mail.sqlite3"])

    def test_a_look_at_a_bad_moment(self) -> None:
        """Somebody who begins to write makes the file seem damaged for one look; the next finds out."""
        with self.transaction() as txn:
            add(txn)
        upgrades = migrate.shipped_upgrades()

        class AtBadMoments(Sqlite):
            looks = 0

            def look(self) -> sqlite3.Connection:
                self.looks += 1
                return super().look() if self.looks > 2 else sqlite3.connect(__file__)

        self.assertEqual(pending(AtBadMoments(self.path), upgrades), [])
        self.assertRaises(sqlite3.DatabaseError, pending, Sqlite(__file__), upgrades)

    def test_open_to_others_is_closed(self) -> None:
        """A database that others could read is closed to them when a service opens it."""
        with self.transaction() as txn:
            add(txn)
        os.chmod(self.path, 0o664)
        database = Database(self.path, reactor)
        database.open()
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o660)
        self.successResultOf(database.close())


HOLD = """
import sys
from twisted.internet import reactor
from mailsvc.storage.database import Database
Database(sys.argv[1], reactor).open()
print("open", flush=True)
sys.stdin.read()
"""


class Processes(OfflineCase):
    def refusal(self, path: str) -> str:
        return str(self.assertRaises(StartRefused, Database(path, reactor).open))

    def test_second_instance_is_refused_until_the_first_is_killed(self) -> None:
        """The second mailsvc on a database is told the number of the first; SIGKILL of that frees it."""
        first = spawn(HOLD, self.path)
        assert first.stdout is not None
        self.assertEqual(first.stdout.readline(), "open\n")
        try:
            link = self.path + ".link"
            os.symlink(self.path, link)
            for path in (self.path, link, os.path.relpath(self.path)):
                self.assertIn(f"another mailsvc, process {first.pid}, uses this database", self.refusal(path))
            self.assertEqual(os.stat(self.path + ".lock").st_mode & 0o777, 0o600)
        finally:
            first.kill()
            first.communicate(timeout=180)
        database = Database(self.path, reactor)
        database.open()
        self.successResultOf(database.close())

    def test_lock_in_one_process(self) -> None:
        """The lock also holds against the same process, and release can be repeated."""
        lock = InstanceLock(self.path)
        self.assertIn(f"process {os.getpid()}", str(self.assertRaises(StartRefused, InstanceLock, self.path)))
        lock.release()
        lock.release()
        InstanceLock(self.path).release()

    def test_the_name_of_a_lock(self) -> None:
        """The next one that holds a lock gets the same name, and another one while the first holds a file that was
        removed under it."""
        lock = InstanceLock(self.path)
        name = lock.name
        self.assertRegex(name, "^[0-9a-fx]+$")
        lock.release()
        lock = InstanceLock(self.path)
        self.assertEqual(lock.name, name)
        os.unlink(self.path + ".lock")
        second = InstanceLock(self.path)
        self.assertNotEqual(second.name, lock.name)
        second.release()
        lock.release()

    def test_lock_file_that_cannot_be(self) -> None:
        """A lock file that cannot be opened is named; a symlink there is not followed."""
        os.symlink("/nowhere", self.path + ".lock")
        self.assertIn(f"the lock file {self.path}.lock cannot be opened", self.refusal(self.path))
