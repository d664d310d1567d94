"""The primary's side of a backup MX, as rows: who may fetch the list of which domains, and what the list is made of.

Plain functions of a cursor.  The hardest idea is where the truth comes from: every name of a domain goes through the
same resolver that answers RCPT (`mailsvc.storage.aliases.resolution`), so that an alias that leads nowhere, a disabled
account or a program that may not run is told to the backup as what it is.  That takes a while for many names, so they
come in slices, each of which is a transaction of its own; a name that changes in between is right in the next list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mailsvc.backup.forms import NameRules, name_rules
from mailsvc.directory.resolve import NOT_OURS
from mailsvc.directory.tables import RESERVED
from mailsvc.errors import AlreadyExists, MailsvcError, NotFound
from mailsvc.mail.address import Address, parse_address
from mailsvc.storage.accounts import domain_exists
from mailsvc.storage.aliases import resolution
from mailsvc.storage.identities import fingerprint, revoked_key
from mailsvc.storage.rows import Cursor, Row, many, maybe, one
from mailsvc.storage.rules import domain_rules

MOST_OFFERS = 100

SLICE = 200
"""Names in one transaction."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A backup server that may fetch lists; the columns of schema 15, and its domains by name."""

    id: int
    label: str
    spki: str
    subject: str
    key_file: str
    created: float
    last_used: float | None
    domains: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Head:
    """What is said of a domain as a whole.  ``reserved``: of postmaster and abuse, whether their mail is taken."""

    rules: NameRules
    reserved: tuple[tuple[str, bool], ...]


def add_offer(
    txn: Cursor, label: str, spki: str, subject: str, key_file: str, domains: Sequence[str], now: float
) -> None:
    """Let the server with the key ``spki`` fetch the lists of these domains.

    `AlreadyExists`; `NotFound` for a domain that is not ours; `MailsvcError` for a revoked key.
    """
    checked = fingerprint(spki)
    for domain in domains:
        if not domain_exists(txn, domain):
            raise NotFound(f"the domain {domain} is not ours; `mailsvc domain list` shows those that are")
    (present,) = one(txn.execute("SELECT COUNT(*) FROM backup_offer"))
    if present >= MOST_OFFERS:
        raise MailsvcError(f"{present} servers may fetch lists already; withdraw one that is not used any more")
    if revoked_key(txn, checked) is not None:
        raise MailsvcError("this key was revoked as that of a user; the server needs a certificate with a new key")
    known = maybe(txn.execute("SELECT label FROM backup_offer WHERE label = ? OR spki = ?", (label, checked)))
    if known is not None:
        raise AlreadyExists(f"there is the backup server {known[0]!r} with this label or this key; withdraw it first")
    (number,) = one(
        txn.execute(
            "INSERT INTO backup_offer (label, spki, subject, key_file, created) VALUES (?, ?, ?, ?, ?) RETURNING id",
            (label, checked, subject, key_file, now),
        )
    )
    txn.executemany(
        "INSERT INTO backup_offer_domain (offer_id, domain) VALUES (?, ?)",
        [(number, domain) for domain in dict.fromkeys(domains)],
    )


def offers(txn: Cursor) -> list[Offer]:
    """All of them by label."""
    rows = many(
        txn.execute("SELECT id, label, spki, subject, key_file, created, last_used FROM backup_offer ORDER BY label")
    )
    return [_offer(txn, row) for row in rows]


def offer_to(txn: Cursor, spki: str) -> Offer | None:
    """The backup server with this key, unless the key is revoked."""
    if not spki or revoked_key(txn, spki) is not None:
        return None
    row = maybe(
        txn.execute(
            "SELECT id, label, spki, subject, key_file, created, last_used FROM backup_offer WHERE spki = ?", (spki,)
        )
    )
    return None if row is None else _offer(txn, row)


def remove_offer(txn: Cursor, label: str) -> None:
    """`NotFound`.  What the server has fetched it keeps."""
    txn.execute("DELETE FROM backup_offer WHERE label = ?", (label,))
    if txn.rowcount != 1:
        raise NotFound(f"there is no backup server {label!r}; `mailsvc backup offers` shows them")


def note_fetch(txn: Cursor, number: int, now: float) -> None:
    """A backup server has fetched a list just now."""
    txn.execute("UPDATE backup_offer SET last_used = ? WHERE id = ?", (now, number))


def head(txn: Cursor, domain: str, *, hostname: str, programs: bool) -> Head | None:
    """What is said of a domain as a whole, None when it is not ours."""
    rules = domain_rules(txn, domain)
    if rules is None:
        return None

    def accepted(address: Address) -> bool:
        return is_accepted(txn, address, hostname=hostname, programs=programs)

    # An alias may lead elsewhere, and so may a catch-all.
    catch_all = rules.catch_all is not None and accepted(rules.catch_all)
    rewrites = maybe(txn.execute("SELECT 1 FROM forward_secret WHERE id = 1")) is not None
    reserved = tuple((name, accepted(Address(name, domain))) for name in sorted(RESERVED))
    return Head(name_rules(rules, catch_all=catch_all, rewrites=rewrites), reserved)


def names(
    txn: Cursor, domain: str, after: str, *, hostname: str, programs: bool, limit: int = SLICE
) -> tuple[list[tuple[str, bool]], str]:
    """Some names of accounts and aliases behind the key ``after``, each with whether mail for it is taken; and the key
    to go on from, "" at the end."""
    keys = many(
        txn.execute(
            "SELECT account.key FROM account JOIN domain ON domain.id = account.domain_id"
            " WHERE domain.name = ? AND account.key > ?"
            " UNION SELECT alias.key FROM alias JOIN domain ON domain.id = alias.domain_id"
            " WHERE domain.name = ? AND alias.key > ? ORDER BY 1 LIMIT ?",
            (domain, after, domain, after, limit),
        )
    )
    found = []
    for (key,) in keys:
        rows = many(
            txn.execute(
                "SELECT address FROM account WHERE key = ? UNION SELECT address FROM alias WHERE key = ?", (key, key)
            )
        )
        for address in (parse_address(text) for (text,) in rows):
            found.append((address.name, is_accepted(txn, address, hostname=hostname, programs=programs)))
    return found, keys[-1][0] if len(keys) == limit else ""


def is_accepted(txn: Cursor, address: Address, *, hostname: str, programs: bool) -> bool:
    """Whether RCPT would take the address, now or later (a temporary refusal is the primary's own affair)."""
    refusal = resolution(txn, address, hostname=hostname, programs=programs).refusal
    return refusal is None or refusal is NOT_OURS or refusal.code < 500


def _offer(txn: Cursor, row: Row) -> Offer:
    number, label, spki, subject, key_file, created, last_used = row
    return Offer(number, label, spki, subject, key_file, created, last_used, _domains(txn, number))


def _domains(txn: Cursor, number: int) -> tuple[str, ...]:
    rows = many(txn.execute("SELECT domain FROM backup_offer_domain WHERE offer_id = ? ORDER BY domain", (number,)))
    return tuple(domain for (domain,) in rows)
