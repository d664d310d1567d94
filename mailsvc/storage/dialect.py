"""Where database products differ, and nothing else: today there is sqlite.

`Dialect` is everything that the rest of the package wants of a product.  PostgreSQL becomes a second class
with these members and a second set of schema files; the row functions stay as they are, because they write
`?` for a parameter (a cursor of that dialect translates), ask for new keys with RETURNING, and use no
function that only one product has.

The hardest idea is what sqlite does after an error.  Most errors undo one statement and leave the
transaction, but a full disk, an I/O error or too little memory may roll back all of it, silently: the next
statement then runs in a transaction of its own and would be kept although its batch has failed
(sqlite.org/lang_transaction.html, "Response To Errors Within A Transaction").  So `in_transaction` asks the
connection, after every error, what is left.
"""

from __future__ import annotations

import os
import pwd
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, Protocol, cast
from urllib.parse import quote, unquote

from mailsvc.errors import StartRefused, StorageFailure
from mailsvc.storage import files
from mailsvc.storage.rows import Cursor, many

OLDEST_SQLITE = (3, 35, 0)
"""The first with RETURNING."""


class Dialect(Protocol):
    """What this package wants of a database product; connections are the driver's, or adbapi's around one."""

    @property
    def driver(self) -> str:
        """The DB-API module's name."""

    @property
    def name(self) -> str:
        """What people call the database."""

    @property
    def errors(self) -> type[Exception]:
        """The root of the driver's errors."""

    def arguments(self, lock_timeout: float) -> Mapping[str, Any]:
        """Keyword arguments for the driver's `connect`; `lock_timeout` in seconds."""

    def connect(self, lock_timeout: float) -> Any:
        """A connection for synchronous work, with the settings of `prepare_writer`."""

    def look(self) -> Any:
        """A connection that changes nothing, not even by being opened; of use while nobody begins to write."""

    def prepare_writer(self, connection: Any) -> None:
        """Settings of a new connection that writes."""

    def prepare_reader(self, connection: Any) -> None:
        """Settings of a new connection that only reads."""

    def prepare_upgrade(self, connection: Any) -> None:
        """Settings of a connection that changes the schema."""

    def cursor(self, connection: Any) -> Cursor:
        """A cursor for row functions."""

    def begin_write(self, cursor: Cursor) -> None:
        """Begin a transaction that can write."""

    def begin_read(self, cursor: Cursor) -> None:
        """Begin a transaction that sees one state of the data."""

    def in_transaction(self, connection: Any) -> bool:
        """Whether the transaction that was begun is still there."""

    def checkpoint(self, connection: Any) -> None:
        """Tidy up before the last connection is closed."""

    def free_octets(self) -> int | None:
        """How much room the disk has left, None when that cannot be told."""

    def reusable_octets(self, connection: Any) -> int:
        """How much room inside the database removed mail has left behind."""

    def failure(self, error: BaseException) -> StorageFailure:
        """The sentence for an error of the driver."""

    def spoils(self, error: BaseException) -> bool:
        """Whether the connection should be opened anew after this error."""

    def obstacles(self) -> list[str]:
        """Why the database cannot be opened or made, as sentences; looks only."""

    def exists(self) -> bool:
        """Whether there is a database already."""

    def create(self) -> None:
        """Make an empty database when there is none.  Raises OSError or the driver's errors."""

    def identity(self) -> object:
        """What stays the same as long as the name means the same database."""

    def log_identity(self) -> object:
        """What stays the same as long as the log of what is committed is the same; None when there is none."""

    def tables(self, cursor: Cursor) -> set[str]:
        """The names of all tables."""

    def statements(self, script: str) -> Iterator[str]:
        """The single statements of a schema file."""

    def broken_references(self, cursor: Cursor) -> int:
        """How many rows refer to rows that do not exist (after an upgrade)."""

    def keep_copy(self, suffix: str) -> str:
        """Keep a copy of the database as it is committed now; return its name."""


def dialect_of(url_or_path: str) -> Dialect:
    """The dialect for `--database`: a file name, or `sqlite:` and a file name; raises `StartRefused`."""
    scheme, colon, rest = url_or_path.partition(":")
    if colon and scheme.lower() in ("postgresql", "postgres"):
        raise StartRefused(["mailsvc cannot keep mail in PostgreSQL yet; give --database a file name, for sqlite"])
    path = url_or_path
    if colon and scheme.lower() == "sqlite":
        path = unquote(rest.removeprefix("//"))
    elif "://" in url_or_path:
        raise StartRefused([f"mailsvc knows no database of the kind {scheme}:; give --database a file name"])
    if not path or path == ":memory:" or "\0" in path:
        raise StartRefused([f"{url_or_path!r} is no place for a database; give --database a file name"])
    try:
        return Sqlite(path)
    except OSError:
        # Only the folder that we stand in is asked for, and it may have been removed since.
        raise StartRefused(
            [f"{path} is relative to a folder that does not exist any more; give --database the whole path"]
        ) from None


class Sqlite:
    """One sqlite file; `name` is its real path, the same however it was reached."""

    driver = "sqlite3"
    errors = sqlite3.Error

    def __init__(self, path: str) -> None:
        self.name = os.path.realpath(path)
        self._folder = os.path.dirname(self.name)

    def arguments(self, lock_timeout: float) -> Mapping[str, Any]:
        # mode=rw: a name without a file is an error, not a reason to make a new, empty, readable-for-all
        # database.
        return {
            "database": self._uri("rw"),
            "uri": True,
            "timeout": lock_timeout,
            "isolation_level": None,
            "check_same_thread": False,
        }

    def connect(self, lock_timeout: float) -> sqlite3.Connection:
        connection: sqlite3.Connection = sqlite3.connect(**self.arguments(lock_timeout))
        try:
            self.prepare_writer(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def look(self) -> sqlite3.Connection:
        # "immutable" makes no -wal and -shm; a log that is there must be read, though, as a service may be
        # running.
        mode = "ro" if os.path.exists(self.name + "-wal") else "ro&immutable=1"
        return sqlite3.connect(self._uri(mode), uri=True, isolation_level=None, timeout=5)

    def _uri(self, mode: str) -> str:
        return f"file:{quote(os.fsencode(self.name))}?mode={mode}"

    def prepare_writer(self, connection: sqlite3.Connection) -> None:
        _set(
            connection,
            "synchronous = FULL",  # every COMMIT waits for the disk: no 250 before
            "fullfsync = ON",  # macOS: really for the disk, not for its cache
            "foreign_keys = ON",
            # Debian builds sqlite so that it writes zeroes over all that is freed: a delete costs as much
            # as the delivery did. FAST overwrites only in pages that are written anyway.
            "secure_delete = FAST",
            "trusted_schema = OFF",
            "cache_size = -4096",  # KiB; what a large message changes beyond that goes to the log early
            "wal_autocheckpoint = 1000",  # pages
            "journal_size_limit = 67108864",  # a burst of large mail must not leave a large log for ever
        )

    def prepare_reader(self, connection: sqlite3.Connection) -> None:
        _set(connection, "query_only = ON", "trusted_schema = OFF", "cache_size = -2048")

    def prepare_upgrade(self, connection: sqlite3.Connection) -> None:
        # Rebuilding a table that others refer to needs this (sqlite.org/lang_altertable.html, section 7).
        _set(connection, "foreign_keys = OFF")

    def cursor(self, connection: Any) -> Cursor:
        return cast(Cursor, connection.cursor())

    def begin_write(self, cursor: Cursor) -> None:
        # IMMEDIATE: a transaction that reads first and then wants to write fails at once when another has
        # written meanwhile, whatever the lock timeout says.
        cursor.execute("BEGIN IMMEDIATE")

    def begin_read(self, cursor: Cursor) -> None:
        cursor.execute("BEGIN")

    def in_transaction(self, connection: Any) -> bool:
        return bool(connection.in_transaction)

    def checkpoint(self, connection: Any) -> None:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def free_octets(self) -> int | None:
        try:
            status = os.statvfs(self._folder)
        except OSError:
            return None
        return status.f_bavail * status.f_frsize

    def reusable_octets(self, connection: Any) -> int:
        ((pages,),) = connection.execute("PRAGMA freelist_count").fetchall()
        ((size,),) = connection.execute("PRAGMA page_size").fetchall()
        return int(pages) * int(size)

    def failure(self, error: BaseException) -> StorageFailure:
        wanted = _SENTENCES.get(_code(error), "the database {name} could not do it ({error})")
        return StorageFailure(wanted.format(name=self.name, error=error))

    def spoils(self, error: BaseException) -> bool:
        # A lock goes away, a disk gets room; after anything else a fresh connection is the better bet.
        return _code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CONSTRAINT)

    def obstacles(self) -> list[str]:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            return [f"mailsvc needs sqlite 3.35 or newer, and this Python has {sqlite3.sqlite_version}"]
        folder, name = self._folder, self.name
        try:
            is_folder = stat.S_ISDIR(os.stat(folder).st_mode)
            mode = os.stat(name).st_mode if os.path.lexists(name) else None
        except FileNotFoundError:
            return [f"the folder {folder} for the database {os.path.basename(name)} does not exist; make it"]
        except OSError as error:
            return [f"{_user()} cannot reach the database {name} ({error.strerror}); mend its folder's rights"]
        if not is_folder or not (mode is None or stat.S_ISREG(mode)):
            return [f"{name} is not a file; give --database the name of a file"]
        problems = []
        if not _may(folder, os.W_OK | os.X_OK):
            problems.append(
                f"the folder {folder} is not writable for {_user()}, and the database keeps its log there;"
                " run this as the user that the service runs as (sudo -u), or name a file elsewhere with --database"
            )
        for path in (name, name + "-wal", name + "-shm"):
            if _is_closed(path):
                problems.append(
                    f"the file {path} is not readable and writable for {_user()};"
                    " run this as the user that the service runs as (sudo -u), or change its owner"
                )
        return problems

    def exists(self) -> bool:
        return os.path.exists(self.name) and os.path.getsize(self.name) > 0

    def create(self) -> None:
        files.create_private(self.name)
        files.close_to_others(self.name, self.name + "-wal", self.name + "-shm")
        with closing(self.connect(10)) as connection:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StartRefused(
                [f"the disk of the database {self.name} does not allow a write-ahead log; use a local disk"]
            )

    def identity(self) -> object:
        return files.identity(self.name)

    def log_identity(self) -> object:
        # sqlite keeps the file from the first transaction until the last connection is closed.
        return files.identity(self.name + "-wal")

    def tables(self, cursor: Cursor) -> set[str]:
        rows = many(cursor.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))
        return {name for (name,) in rows if not name.startswith("sqlite_")}

    def statements(self, script: str) -> Iterator[str]:
        # Not executescript(): it commits first, and the whole upgrade is to be one transaction.
        statement = ""
        for line in script.splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                yield statement.strip()
                statement = ""
        if any(line.strip() and not line.lstrip().startswith("--") for line in statement.splitlines()):
            raise ValueError(f"the schema ends inside a statement: {statement.strip()[:80]}")

    def broken_references(self, cursor: Cursor) -> int:
        return len(many(cursor.execute("PRAGMA foreign_key_check")))

    def keep_copy(self, suffix: str) -> str:
        copy = self.name + suffix
        partial = copy + ".partial"
        if os.path.exists(partial):
            os.unlink(partial)
        files.create_private(partial)
        with closing(self.look()) as source, closing(sqlite3.connect(partial)) as target:
            source.backup(target)
        os.replace(partial, copy)
        files.sync_folder(self._folder)
        return copy


_SENTENCES = {
    sqlite3.SQLITE_BUSY: "the database {name} is kept locked by another process; end that (lsof names it)",
    sqlite3.SQLITE_FULL: "the disk of the database {name} is full; make room and mailsvc goes on by itself",
    sqlite3.SQLITE_READONLY: "the database {name} cannot be written; make file, folder and disk writable",
    sqlite3.SQLITE_IOERR: "the disk of the database {name} fails ({error}); look for its errors",
    sqlite3.SQLITE_CORRUPT: "the database {name} is damaged ({error}); restore it from a copy",
    sqlite3.SQLITE_NOTADB: "the file {name} is not a database; give --database another file",
    sqlite3.SQLITE_CANTOPEN: "the database {name} cannot be opened; is it there, and may mailsvc write it?",
    sqlite3.SQLITE_NOMEM: "there is no memory left for the database {name}; give mailsvc more",
}


def _code(error: BaseException) -> int:
    # The low byte is the kind, the rest tells more of it (SQLITE_IOERR_WRITE, ...). Errors of Python's own
    # have none.
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


def _set(connection: sqlite3.Connection, *settings: str) -> None:
    for setting in settings:
        connection.execute(f"PRAGMA {setting}").fetchall()


def _may(path: str, rights: int) -> bool:
    return os.access(path, rights, effective_ids=os.access in os.supports_effective_ids)


def _is_closed(path: str) -> bool:
    """Whether there is a file that its mode keeps from us.

    SQLite's -wal and -shm come and go with other processes, and access(2) says the same of a file that is gone as of
    one that is closed; so its mode must say it, too.
    """
    if _may(path, os.R_OK | os.W_OK):
        return False
    try:
        found = os.stat(path)
    except OSError:
        return False
    if found.st_uid == os.geteuid():
        wanted = stat.S_IRUSR | stat.S_IWUSR
    elif found.st_gid in (os.getegid(), *os.getgroups()):
        wanted = stat.S_IRGRP | stat.S_IWGRP
    else:
        wanted = stat.S_IROTH | stat.S_IWOTH
    return found.st_mode & wanted != wanted


def _user() -> str:
    try:
        return f"the user {pwd.getpwuid(os.geteuid()).pw_name}"
    except KeyError:
        return f"the user with the number {os.geteuid()}"
