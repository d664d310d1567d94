"""What a domain does with names, and what an account may: the columns that `mailsvc domain set` and `user set` change.

The counter `account.used_octets` is added to by `mailsvc.storage.mailboxes` in the statements that add and remove
items; here it is compared with the quota.

The hardest idea: RCPT can only guess.  Between RCPT and the end of DATA other messages arrive, and the declared size
may be missing.  So `over_quota` asks again in the transaction that stores, where nobody else writes, and what it says
is final.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mailsvc.directory.tables import DomainRules
from mailsvc.errors import NotFound
from mailsvc.mail.address import Address, parse_address
from mailsvc.storage.rows import Cursor, maybe


@dataclass(frozen=True, slots=True)
class Usage:
    """How full an account is.  Octets; `quota` is the one in force, None for no limit; `own_quota` as it is set for
    the account itself: None for the domain's default, 0 for no limit."""

    account_id: int
    address: str
    disabled: bool
    used: int
    quota: int | None
    own_quota: int | None
    warned: bool


def domain_rules(txn: Cursor, domain: str) -> DomainRules | None:
    """The rules of `domain`, None when it is not ours."""
    row = maybe(
        txn.execute(
            "SELECT name, separator, ignore_dots, exact_case, catch_all, postmaster, default_quota"
            " FROM domain WHERE name = ?",
            (domain,),
        )
    )
    if row is None:
        return None
    name, separator, ignore_dots, exact_case, catch_all, postmaster, default_quota = row
    return DomainRules(
        name,
        separator,
        bool(ignore_dots),
        bool(exact_case),
        None if catch_all is None else parse_address(catch_all),
        None if postmaster is None else parse_address(postmaster),
        default_quota,
    )


def set_domain_rules(txn: Cursor, rules: DomainRules) -> None:
    """Let `rules` hold for the domain of their name; `NotFound` when it is not ours."""
    row = maybe(
        txn.execute(
            "UPDATE domain SET separator = ?, ignore_dots = ?, exact_case = ?, catch_all = ?, postmaster = ?,"
            " default_quota = ? WHERE name = ? RETURNING id",
            (
                rules.separator,
                int(rules.ignore_dots),
                int(rules.exact_case),
                _text(rules.catch_all),
                _text(rules.postmaster),
                rules.default_quota,
                rules.name,
            ),
        )
    )
    if row is None:
        raise NotFound(f"there is no domain {rules.name}; `mailsvc domain list` shows them")


def set_disabled(txn: Cursor, key: str, disabled: bool) -> None:
    """Disable an account (no login, no mail in) or enable it again; `NotFound`."""
    _changed(txn.execute("UPDATE account SET disabled = ? WHERE key = ? RETURNING id", (int(disabled), key)), key)


def set_quota(txn: Cursor, key: str, quota: int | None) -> None:
    """Set an account's quota in octets: None is the domain's default, 0 none at all; `NotFound`.

    Another quota is another reason to warn.
    """
    _changed(
        txn.execute("UPDATE account SET quota = ?, quota_warned = 0 WHERE key = ? RETURNING id", (quota, key)), key
    )


def usage(txn: Cursor, account_id: int) -> Usage | None:
    """How full an account is, None when it is gone."""
    row = maybe(txn.execute(f"{_USAGE} WHERE account.id = ?", (account_id,)))
    if row is None:
        return None
    identity, address, disabled, used, quota, own_quota, warned = row
    return Usage(identity, address, bool(disabled), used, quota or None, own_quota, bool(warned))


def over_quota(txn: Cursor, account_ids: Sequence[int], octets: int) -> list[str]:
    """The addresses of the accounts that cannot hold `octets` more."""
    found = (usage(txn, account_id) for account_id in account_ids)
    return [row.address for row in found if row is not None and row.quota is not None and row.used + octets > row.quota]


def set_warned(txn: Cursor, account_id: int, warned: bool) -> None:
    """Note that an account was told that it is nearly full, or that it may be told again."""
    txn.execute("UPDATE account SET quota_warned = ? WHERE id = ?", (int(warned), account_id))


_USAGE = (
    "SELECT account.id, account.address, account.disabled, account.used_octets,"
    " COALESCE(account.quota, domain.default_quota), account.quota, account.quota_warned"
    " FROM account JOIN domain ON domain.id = account.domain_id"
)


def _changed(txn: Cursor, key: str) -> None:
    if maybe(txn) is None:
        raise NotFound(f"there is no account {key}; `mailsvc user list` shows them")


def _text(address: Address | None) -> str | None:
    return None if address is None else str(address)
