"""The schema's upgrades: numbered, each in one transaction, with a copy of the database kept before the first.
A new database gets all of them in one: there is a whole one or none, and the disk is waited for once.

An upgrade is a file `schema/NNNN_name.sql`.  The table `schema_version` has a row for each that has run;
the highest number is the version.  Upgrades run by themselves when a service starts and, for a new
database, when the command line needs one.  Several upgrades at once keep one copy, of what was there before all of
them; a new database needs none.

The hardest idea: the copy is taken *inside* the transaction of the upgrade, by another connection.  The
open write transaction keeps all others from writing, while the copying connection still sees the last
committed state; so the copy is exactly what the upgrade starts from, and nothing that was acknowledged in
between can be missing from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib import resources

from mailsvc.errors import StartRefused
from mailsvc.storage.dialect import Dialect
from mailsvc.storage.rows import Cursor, one


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What makes schema `number` out of schema `number - 1`; `name` is for people."""

    number: int
    name: str
    sql: str = field(repr=False)


def shipped_upgrades() -> tuple[Upgrade, ...]:
    """The upgrades that belong to this mailsvc, in order."""
    upgrades = []
    for entry in resources.files("mailsvc.storage").joinpath("schema").iterdir():
        number, _, name = entry.name.removesuffix(".sql").partition("_")
        if entry.name.endswith(".sql"):
            upgrades.append(Upgrade(int(number), name, entry.read_text("utf-8")))
    return tuple(sorted(upgrades, key=lambda upgrade: upgrade.number))


def version(dialect: Dialect, cursor: Cursor) -> int:
    """The schema's version, 0 for an empty database; `StartRefused` for another program's."""
    tables = dialect.tables(cursor)
    if not tables:
        return 0
    if "schema_version" not in tables:
        raise StartRefused([f"the database {dialect.name} belongs to another program; give --database another file"])
    (number,) = one(cursor.execute("SELECT COALESCE(MAX(version), 0) FROM schema_version"))
    return int(number)


def pending(dialect: Dialect, cursor: Cursor, upgrades: Sequence[Upgrade]) -> list[Upgrade]:
    """The upgrades that have not run; `StartRefused` when the database is newer than this mailsvc."""
    present = version(dialect, cursor)
    newest = upgrades[-1].number
    if present > newest:
        raise StartRefused(
            [
                f"the database {dialect.name} was upgraded by a newer mailsvc (schema {present}, this knows"
                f" {newest}); install the newer one, or use the copy that was kept: {dialect.name}"
                f"{copy_suffix(newest + 1)}"
            ]
        )
    return [upgrade for upgrade in upgrades if upgrade.number > present]


def bring_up_to_date(dialect: Dialect, upgrades: Sequence[Upgrade], now: float) -> list[str]:
    """Run what is pending and return a sentence for each upgrade of a database that was there.

    Raises `StartRefused`; the database is then as before the upgrade that failed.
    """
    told: list[str] = []
    with (
        closing(dialect.connect(lock_timeout=10)) as connection,
        closing(dialect.cursor(connection)) as cursor,
    ):
        dialect.prepare_upgrade(connection)
        kept = ""
        while True:
            # The next one is chosen inside the transaction: another process may be upgrading too.
            dialect.begin_write(cursor)
            try:
                due = pending(dialect, cursor, upgrades)
                if not due:
                    return told
                if due[0].number == 1:
                    _upgrade(dialect, cursor, due, now)
                    return told
                kept = kept or _keep_copy(dialect, due[0])
                _upgrade(dialect, cursor, due[:1], now)
                told.append(f"the database {dialect.name} has now schema {due[0].number}; a copy from before is {kept}")
            finally:
                if dialect.in_transaction(connection):
                    cursor.execute("ROLLBACK")


def copy_suffix(number: int) -> str:
    """What is added to a database's name for the copy that is kept before upgrade `number`."""
    return f".before-{number:04d}"


def _keep_copy(dialect: Dialect, upgrade: Upgrade) -> str:
    try:
        return dialect.keep_copy(copy_suffix(upgrade.number))
    except (dialect.errors, OSError) as error:
        raise _failed(dialect, upgrade, error) from error


def _upgrade(dialect: Dialect, cursor: Cursor, upgrades: Sequence[Upgrade], now: float) -> None:
    for upgrade in upgrades:
        try:
            _run(dialect, cursor, upgrade, now)
            if upgrade is upgrades[-1]:
                cursor.execute("COMMIT")
        except (dialect.errors, OSError, ValueError) as error:
            raise _failed(dialect, upgrade, error) from error


def _failed(dialect: Dialect, upgrade: Upgrade, error: Exception) -> StartRefused:
    return StartRefused(
        [
            f"the upgrade of the database {dialect.name} to schema {upgrade.number} failed ({error});"
            " it is as before, and needs this cause mended (is there room for a copy of it?)"
        ]
    )


def _run(dialect: Dialect, cursor: Cursor, upgrade: Upgrade, now: float) -> None:
    if upgrade.number == 1:
        cursor.execute(
            "CREATE TABLE schema_version"
            " (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied DOUBLE PRECISION NOT NULL)"
        )
    for statement in dialect.statements(upgrade.sql):
        cursor.execute(statement)
    cursor.execute(
        "INSERT INTO schema_version (version, name, applied) VALUES (?, ?, ?)",
        (upgrade.number, upgrade.name, now),
    )
    broken = dialect.broken_references(cursor)
    if broken:
        raise ValueError(f"{broken} rows would refer to rows that do not exist")
