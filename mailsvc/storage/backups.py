"""Domains that we are a backup for, as rows: where their recipients are known from, and the list in use.

Plain functions of a cursor.  What an entry is and what a list means is `mailsvc.backup.forms`; this module only keeps
it.  The hardest idea is the age of a list: `Backup.got` is when the list was last *known to be* the newest, not when it
changed, because a list that has been the same for a year and was confirmed a minute ago is a minute old.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from mailsvc.backup.forms import NameRules, RecipientList, Verdict, judge
from mailsvc.errors import AlreadyExists, MailsvcError, NotFound
from mailsvc.mail.address import Address
from mailsvc.storage import outbound
from mailsvc.storage.accounts import domain_exists
from mailsvc.storage.rows import Cursor, Row, many, maybe, one

MOST_DOMAINS = 10_000
"""Each is asked for its list every few minutes."""


class Source(Enum):
    """Where valid recipients are known from."""

    TABLE = "table"
    FILE = "file"
    PRIMARY = "primary"


@dataclass(frozen=True, slots=True)
class NewBackup:
    """A domain to be a backup for; the columns of schema 15.  ``keep``: seconds."""

    name: str
    source: Source
    keep: float
    place: str = ""
    key_file: str = ""
    accept_any: bool = False
    separator: str = ""


@dataclass(frozen=True, slots=True)
class Backup:
    """A row; the columns of the same names in schema 15.  ``accepted``, ``refused``: entries in its list."""

    id: int
    name: str
    source: Source
    place: str
    key_file: str
    accept_any: bool
    keep: float
    created: float
    rules: NameRules
    stamp: str
    got: float | None
    asked: float | None
    problem: str
    accepted: int = 0
    refused: int = 0

    @property
    def is_hashed(self) -> bool:
        """Whether its entries need a key."""
        return self.source is Source.PRIMARY


def add_backup(txn: Cursor, new: NewBackup, now: float) -> None:
    """`AlreadyExists`; `MailsvcError` for a domain of ours, or past `MOST_DOMAINS`."""
    if domain_exists(txn, new.name):
        raise MailsvcError(f"{new.name} is a domain of ours, with mailboxes here; a backup is for another server's")
    (present,) = one(txn.execute("SELECT COUNT(*) FROM backup_domain"))
    if present >= MOST_DOMAINS:
        raise MailsvcError(f"this server is the backup of {present} domains already; remove one that is not used")
    row = maybe(
        txn.execute(
            "INSERT INTO backup_domain (name, source, place, key_file, accept_any, keep, created, separator)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO NOTHING RETURNING id",
            (
                *(new.name, new.source.value, new.place, new.key_file, int(new.accept_any), new.keep, now),
                new.separator,
            ),
        )
    )
    if row is None:
        raise AlreadyExists(f"this server is a backup for {new.name} already; remove that first to change it")


def remove_backup(txn: Cursor, domain: str) -> None:
    """`NotFound`.  Mail that waits for the domain still goes out."""
    txn.execute("DELETE FROM backup_domain WHERE name = ?", (domain,))
    if txn.rowcount != 1:
        raise _not_there(domain)


def backup(txn: Cursor, domain: str) -> Backup | None:
    """The row of a domain, without counting its entries; None when we are no backup for it."""
    row = maybe(txn.execute(f"SELECT {_COLUMNS} FROM backup_domain WHERE name = ?", (domain,)))
    return None if row is None else _backup(row)


def backups(txn: Cursor) -> list[Backup]:
    """All of them by name, without counting entries."""
    return [_backup(row) for row in many(txn.execute(f"SELECT {_COLUMNS} FROM backup_domain ORDER BY name"))]


def counted(txn: Cursor, domain: str) -> Backup:
    """The row with the numbers of its entries; `NotFound`."""
    row = maybe(
        txn.execute(
            f"SELECT {_COLUMNS},"
            " (SELECT COUNT(*) FROM backup_recipient WHERE backup_id = backup_domain.id AND accepted = 1),"
            " (SELECT COUNT(*) FROM backup_recipient WHERE backup_id = backup_domain.id AND accepted = 0)"
            " FROM backup_domain WHERE name = ?",
            (domain,),
        )
    )
    if row is None:
        raise _not_there(domain)
    return _backup(row)


def keep_of(txn: Cursor, domain: str) -> float | None:
    """How long mail for a domain that we are a backup for is kept, in seconds; None for every other domain."""
    row = maybe(txn.execute("SELECT keep FROM backup_domain WHERE name = ?", (domain,)))
    return None if row is None else float(row[0])


def entries(txn: Cursor, number: int) -> list[str]:
    """The accepted entries of a list, in their order."""
    rows = many(
        txn.execute("SELECT entry FROM backup_recipient WHERE backup_id = ? AND accepted = 1 ORDER BY entry", (number,))
    )
    return [entry for (entry,) in rows]


def put_list(txn: Cursor, domain: str, found: RecipientList, stamp: str, now: float) -> int:
    """Take a list into use, and return how many entries differ from the one before; `NotFound`.

    Only what differs is written: a list is fetched every few minutes and hardly ever changes.
    """
    row = _there(txn, domain)
    wanted = dict.fromkeys(found.accepted, 1) | dict.fromkeys(found.refused, 0)
    rows = many(txn.execute("SELECT entry, accepted FROM backup_recipient WHERE backup_id = ?", (row.id,)))
    present: dict[str, int] = dict(rows)
    gone = [(row.id, each) for each, accepted in present.items() if wanted.get(each) != accepted]
    new = [(row.id, each, accepted) for each, accepted in wanted.items() if present.get(each) != accepted]
    txn.executemany("DELETE FROM backup_recipient WHERE backup_id = ? AND entry = ?", gone)
    for some in _slices(new):
        txn.executemany("INSERT INTO backup_recipient (backup_id, entry, accepted) VALUES (?, ?, ?)", some)
    rules = found.rules
    txn.execute(
        "UPDATE backup_domain SET separator = ?, ignore_dots = ?, exact_case = ?, catch_all = ?, rewrites = ?,"
        " stamp = ?, got = ?, asked = ?, problem = '' WHERE id = ?",
        (
            *(rules.separator, int(rules.ignore_dots), int(rules.exact_case), int(rules.catch_all)),
            *(int(rules.rewrites), stamp, now, now, row.id),
        ),
    )
    return len({each for _, each in gone} | {each for _, each, _ in new})


def note_same(txn: Cursor, domain: str, now: float) -> None:
    """The list in use is still the newest."""
    txn.execute("UPDATE backup_domain SET got = ?, asked = ?, problem = '' WHERE name = ?", (now, now, domain))


def note_problem(txn: Cursor, domain: str, problem: str, now: float) -> None:
    """There was no newer list to be had; the last good one stays."""
    txn.execute("UPDATE backup_domain SET asked = ?, problem = ? WHERE name = ?", (now, problem[:500], domain))


def verdict(txn: Cursor, address: Address, key: bytes | None) -> Verdict | None:
    """What follows for a recipient, None when we are no backup for its domain.  ``key``: for lists that need one."""
    row = backup(txn, address.domain)
    if row is None:
        return None
    if row.got is None:
        return Verdict.ACCEPT if row.accept_any else Verdict.LATER
    if row.is_hashed and key is None:
        return Verdict.LATER

    def known(entry: str) -> bool | None:
        found = maybe(
            txn.execute("SELECT accepted FROM backup_recipient WHERE backup_id = ? AND entry = ?", (row.id, entry))
        )
        return None if found is None else bool(found[0])

    return judge(address, row.rules, known, key if row.is_hashed else None)


def primary_is_back(txn: Cursor, destination: str, now: float) -> int:
    """A primary answers again: what could not be handed over is due now.  How many recipients were."""
    count = 0
    while some := outbound.hurry(txn, destination, now):
        count += some
    if count:
        # A queue that leaves the destination alone for a while looks at it again.
        txn.execute("UPDATE outbound_change SET number = number + 1 WHERE id = 1")
    return count


_COLUMNS = (
    "id, name, source, place, key_file, accept_any, keep, created, stamp, got, asked, problem,"
    " separator, ignore_dots, exact_case, catch_all, rewrites"
)


def _backup(row: Row) -> Backup:
    number, name, source, place, key_file, accept_any, keep, created, stamp, got, asked, problem = row[:12]
    separator, *flags = row[12:17]
    rules = NameRules(separator, *map(bool, flags))
    known = (stamp, got, asked, problem)
    counts = tuple(row[17:])
    return Backup(
        number, name, Source(source), place, key_file, bool(accept_any), keep, created, rules, *known, *counts
    )


def _there(txn: Cursor, domain: str) -> Backup:
    row = backup(txn, domain)
    if row is None:
        raise _not_there(domain)
    return row


def _not_there(domain: str) -> NotFound:
    return NotFound(f"this server is no backup for {domain}; `mailsvc backup list` shows for which it is")


def _slices(rows: Iterable[tuple[int, str, int]]) -> Iterator[list[tuple[int, str, int]]]:
    left = iter(rows)
    while some := list(islice(left, 1000)):
        yield some
