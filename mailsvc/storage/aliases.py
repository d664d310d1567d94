"""Aliases as rows, and the tables that the resolver walks through, inside one transaction.

`resolution` is `mailsvc.directory.resolve.resolve` on what the transaction sees: one snapshot, so that an answer is
never put together from before and after a change.  Which definitions are sensible is judged by whoever adds them
(`mailsvc.cli.alias`); the walk is bounded whatever stands here.

The hardest idea: a target is compared by `target_key`, so that `Bob@Example.ORG` and `bob@example.org` are one target,
while what the postmaster wrote stays what is shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mailsvc.directory.resolve import Resolution, resolve
from mailsvc.directory.tables import AliasEntry, DomainRules, Mailbox, Program, Target
from mailsvc.errors import AlreadyExists, NotFound
from mailsvc.mail.address import Address, parse_address
from mailsvc.storage import rules
from mailsvc.storage.rows import Cursor, Row, many, maybe


@dataclass(frozen=True, slots=True)
class AliasRow:
    """One line of the list: an alias and one of its targets; `created` is seconds since the epoch."""

    address: Address
    target: Target
    created: float


def add_alias(txn: Cursor, address: Address, targets: Iterable[Target], now: float) -> list[Target]:
    """Let `address` lead to `targets` too, return those that are new.

    `NotFound` when its domain is not ours, `AlreadyExists` when no target is new.
    """
    domain = maybe(txn.execute("SELECT id FROM domain WHERE name = ?", (address.domain,)))
    if domain is None:
        raise NotFound(f"the domain {address.domain} is not ours; `mailsvc domain add {address.domain}` adds it")
    added = []
    for target in targets:
        row = maybe(
            txn.execute(
                "INSERT INTO alias (domain_id, address, key, kind, target, target_key, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key, kind, target_key) DO NOTHING RETURNING id",
                (domain[0], str(address), address.key, *_columns(target), now),
            )
        )
        if row is not None:
            added.append(target)
    if not added:
        raise AlreadyExists(f"the alias {address} leads there already")
    return added


def remove_alias(txn: Cursor, address: Address, targets: Sequence[Target] = ()) -> int:
    """Remove these targets of an alias (all, when none is named), return how many; `NotFound` when one is not there.

    An alias whose last target goes is gone.
    """
    if not targets:
        removed = len(many(txn.execute("DELETE FROM alias WHERE key = ? RETURNING id", (address.key,))))
        if not removed:
            raise NotFound(f"there is no alias {address}; `mailsvc alias list` shows them")
        return removed
    for target in targets:
        kind, _, target_key = _columns(target)
        row = maybe(
            txn.execute(
                "DELETE FROM alias WHERE key = ? AND kind = ? AND target_key = ? RETURNING id",
                (address.key, kind, target_key),
            )
        )
        if row is None:
            raise NotFound(f"the alias {address} does not lead to {target}; `mailsvc alias list` shows where it does")
    return len(targets)


def aliases(txn: Cursor, domain: str | None = None) -> list[AliasRow]:
    """The aliases of `domain`, or all, each with every target on a line."""
    rows = many(
        txn.execute(
            "SELECT alias.address, alias.kind, alias.target, alias.created"
            " FROM alias JOIN domain ON domain.id = alias.domain_id"
            " WHERE CAST(? AS TEXT) IS NULL OR domain.name = ?"
            " ORDER BY domain.name, alias.key, alias.kind, alias.target_key",
            (domain, domain),
        )
    )
    return [AliasRow(parse_address(address), _target(kind, text), created) for address, kind, text, created in rows]


def resolution(txn: Cursor, address: Address, *, hostname: str = "", programs: bool = False) -> Resolution:
    """Where `address` leads now; see `mailsvc.directory.resolve.resolve`."""
    return resolve(address, TableRows(txn), hostname=hostname, programs=programs)


def leads_to(txn: Cursor, address: Address, account_id: int) -> bool:
    """Whether mail for `address` reaches this account (among others, perhaps): its own address, one with a detail, an
    alias, the catch-all."""
    return any(mailbox.id == account_id for mailbox in resolution(txn, address).accounts)


def addresses_leading_to(txn: Cursor, account_id: int) -> list[Address]:
    """The aliases that lead to this account, by address.  Walks through every alias: for people, not for a RCPT."""
    names = {row.address.key: row.address for row in aliases(txn)}
    return [names[key] for key in sorted(names) if leads_to(txn, names[key], account_id)]


class TableRows:
    """`mailsvc.directory.tables.Tables`, read in one transaction.

    What was read is remembered as long as the object lives, which must not be longer than the transaction.
    """

    def __init__(self, txn: Cursor) -> None:
        self._txn = txn
        self._domains: dict[str, DomainRules | None] = {}
        self._aliases: dict[str, AliasEntry | None] = {}
        self._mailboxes: dict[str, Mailbox | None] = {}

    def domain(self, name: str) -> DomainRules | None:
        """The rules of a domain, None when it is not ours."""
        if name not in self._domains:
            self._domains[name] = rules.domain_rules(self._txn, name)
        return self._domains[name]

    def alias(self, key: str) -> AliasEntry | None:
        """The alias of this key."""
        if key not in self._aliases:
            self._aliases[key] = _entry(self._txn, key)
        return self._aliases[key]

    def mailbox(self, key: str) -> Mailbox | None:
        """The account of this key, also one that is disabled."""
        if key not in self._mailboxes:
            self._mailboxes[key] = _mailbox(maybe(self._txn.execute(f"{_MAILBOX} WHERE account.key = ?", (key,))))
        return self._mailboxes[key]

    def without_dots(self, key: str, domain: str) -> Sequence[str]:
        """The keys of aliases and accounts of `domain` that are `key` when dots in the name do not count."""
        bare = key.replace(".", "")
        found = many(
            self._txn.execute(
                "SELECT account.key FROM account JOIN domain ON domain.id = account.domain_id"
                " WHERE domain.name = ? AND replace(account.key, '.', '') = ?"
                " UNION SELECT alias.key FROM alias JOIN domain ON domain.id = alias.domain_id"
                " WHERE domain.name = ? AND replace(alias.key, '.', '') = ?",
                (domain, bare, domain, bare),
            )
        )
        return [other for (other,) in found]

    def oldest(self, domain: str | None) -> Mailbox | None:
        """The oldest account of `domain` (of all domains for None) that is not disabled."""
        row = maybe(
            self._txn.execute(
                f"{_MAILBOX} WHERE account.disabled = 0 AND (CAST(? AS TEXT) IS NULL OR domain.name = ?)"
                " ORDER BY account.id LIMIT 1",
                (domain, domain),
            )
        )
        return _mailbox(row)


_MAILBOX = (
    "SELECT account.id, account.address, account.disabled, account.used_octets,"
    " COALESCE(account.quota, domain.default_quota)"
    " FROM account JOIN domain ON domain.id = account.domain_id"
)


def _mailbox(row: Row | None) -> Mailbox | None:
    if row is None:
        return None
    account_id, address, disabled, used, quota = row
    return Mailbox(account_id, parse_address(address), bool(disabled), used, quota or None)


def _entry(txn: Cursor, key: str) -> AliasEntry | None:
    rows = many(
        txn.execute("SELECT address, kind, target FROM alias WHERE key = ? ORDER BY address, kind, target", (key,))
    )
    if not rows:
        return None
    return AliasEntry(parse_address(rows[0][0]), tuple(_target(kind, text) for _, kind, text in rows))


def _columns(target: Target) -> tuple[str, str, str]:
    """kind, target, target_key"""
    if isinstance(target, Program):
        text = json.dumps(list(target.argv))
        return "pipe", text, text
    return "address", str(target), target.key


def _target(kind: str, text: str) -> Target:
    return Program(tuple(json.loads(text))) if kind == "pipe" else parse_address(text)
