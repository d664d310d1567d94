"""`mailsvc domain add|list|set|show|remove`: the domains for which mail is taken, and what each does with names.

Works on the database, not on the service: what is changed here holds from the next RCPT on (a running service
reads its tables each time).  What a domain may look like is `mailsvc.mail.address`, the rows are
`mailsvc.storage.accounts`.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import click

from mailsvc.cli.answers import JSON, answer, answer_rows
from mailsvc.cli.main import Common
from mailsvc.cli.tables import for_people, for_programs
from mailsvc.directory.quota import in_words, parse_size
from mailsvc.directory.resolve import NOT_OURS
from mailsvc.directory.tables import DomainRules
from mailsvc.errors import MailsvcError, NotFound
from mailsvc.mail.address import Address, parse_address, parse_domain
from mailsvc.storage.accounts import add_domain, domain_exists, domains, remove_domain
from mailsvc.storage.aliases import resolution
from mailsvc.storage.database import offline
from mailsvc.storage.rows import Cursor
from mailsvc.storage.rules import domain_rules, set_domain_rules


@click.group()
def domain() -> None:
    """The domains for which mail is taken."""


@domain.command()
@click.argument("name", metavar="DOMAIN")
@JSON
@click.pass_obj
def add(common: Common, name: str, as_json: bool) -> None:
    """Take mail for DOMAIN.

    Its accounts are added with `mailsvc user add`, which adds a new domain too.
    """
    name = parse_domain(name)
    with offline(common.database, create=True) as txn:
        add_domain(txn, name, time.time())
    answer(as_json, {"domain": name}, f"The domain {name} was added.")


@domain.command("list")
@JSON
@click.pass_obj
def list_domains(common: Common, as_json: bool) -> None:
    """List the domains with how many accounts each has."""
    with offline(common.database, create=False) as txn:
        rows = domains(txn)
    answer_rows(
        as_json,
        [{"domain": row.name, "accounts": row.accounts, "created": for_programs(row.created)} for row in rows],
        ["domain", "accounts", "created (UTC)"],
        [(row.name, row.accounts, for_people(row.created)) for row in rows],
        "There are no domains yet; `mailsvc domain add DOMAIN` adds one.",
    )


@domain.command()
@click.argument("name", metavar="DOMAIN")
@JSON
@click.pass_obj
def remove(common: Common, name: str, as_json: bool) -> None:
    """Take no more mail for DOMAIN.

    Refused while it has accounts: removing mail is `mailsvc user remove`, one account at a time.
    """
    name = parse_domain(name)
    with offline(common.database, create=False) as txn:
        remove_domain(txn, name)
    answer(as_json, {"domain": name}, f"The domain {name} was removed.")


_SEPARATORS = "+-_=.#~%!*/^$&|"


@domain.command("set")
@click.argument("name", metavar="DOMAIN")
@click.option("--separator", metavar="CHARACTER|none", help="Where a detail begins: alice+shop is alice. [default: +]")
@click.option("--dots", type=click.Choice(["count", "ignore"]), help="Whether a.lice is alice. [default: count]")
@click.option("--case", type=click.Choice(["ignore", "exact"]), help="Whether Alice is alice. [default: ignore]")
@click.option("--catch-all", metavar="ADDRESS|none", help="Who gets mail for names that nobody has. [default: none]")
@click.option("--postmaster", metavar="ADDRESS|none", help="Who gets mail for postmaster and abuse if nobody is.")
@click.option("--default-quota", metavar="SIZE|none", help="What each account may hold, like 1G. [default: none]")
@JSON
@click.pass_obj
def set_rules(common: Common, /, name: str, as_json: bool, **wanted: str | None) -> None:
    """Change what DOMAIN does with names.

    What is not given stays as it is.
    """
    name = parse_domain(name)
    changes = {option: _change(option, text) for option, text in wanted.items() if text is not None}
    if not changes:
        raise click.UsageError("nothing to set; `mailsvc domain show` shows what is in force")
    with offline(common.database, create=False) as txn:
        rules = replace(_rules(txn, name), **dict(changes.values()))
        if rules.ignore_dots and rules.separator == ".":
            raise MailsvcError("dots cannot be ignored and begin a detail; give another --separator")
        set_domain_rules(txn, rules)
        warnings = []
        for address in (rules.catch_all, rules.postmaster):
            refusal = None if address is None else resolution(txn, address).refusal
            if refusal is not None and refusal is not NOT_OURS:
                warnings.append(f"{address} gets no mail now ({refusal}); `mailsvc route explain` shows why")
    if as_json:
        click.echo(json.dumps({**_facts(rules), "warnings": warnings}))
        return
    click.echo(f"The rules of {name} were changed.")
    for warning in warnings:
        click.echo(f"mailsvc: warning: {warning}", err=True)


@domain.command()
@click.argument("name", metavar="DOMAIN")
@JSON
@click.pass_obj
def show(common: Common, name: str, as_json: bool) -> None:
    """Show what DOMAIN does with names."""
    with offline(common.database, create=False) as txn:
        rules = _rules(txn, parse_domain(name))
    if as_json:
        click.echo(json.dumps(_facts(rules), indent=2))
        return
    quota = "none" if rules.default_quota is None else in_words(rules.default_quota)
    for words, value in [
        ("domain", rules.name),
        ("separator", rules.separator or "none"),
        ("dots", "ignore" if rules.ignore_dots else "count"),
        ("case", "exact" if rules.exact_case else "ignore"),
        ("catch-all", str(rules.catch_all or "none")),
        ("postmaster", str(rules.postmaster or "the catch-all, else the oldest account")),
        ("default quota", quota),
    ]:
        click.echo(f"{words + ':':<15}{value}")


def _rules(txn: Cursor, name: str) -> DomainRules:
    rules = domain_rules(txn, name)
    if rules is None:
        raise NotFound(f"there is no domain {name}; `mailsvc domain list` shows them")
    return rules


def check_domain(txn: Cursor, name: str | None) -> None:
    """Raise `NotFound` unless ``name`` is a domain of ours, or None: all of them."""
    if name is not None and not domain_exists(txn, name):
        raise NotFound(f"there is no domain {name}; `mailsvc domain list` shows them")


def _change(option: str, text: str) -> tuple[str, Any]:
    """The field of the rules that an option changes, and its new value."""
    none = text.lower() == "none"
    match option:
        case "separator":
            if not none and (len(text) != 1 or text not in _SEPARATORS):
                raise MailsvcError(f"{text!r} is no separator; give one of {' '.join(_SEPARATORS)} or none")
            return "separator", "" if none else text
        case "dots":
            return "ignore_dots", text == "ignore"
        case "case":
            return "exact_case", text == "exact"
        case "default_quota":
            return "default_quota", None if none else _quota(text)
        case _:
            address: Address | None = None if none else parse_address(text)
            return option, address


def _quota(text: str) -> int:
    octets = parse_size(text)
    if not octets:
        raise MailsvcError(f"{text} is no quota; write it like 500M or 2G, or none")
    return octets


def _facts(rules: DomainRules) -> dict[str, object]:
    return {
        "domain": rules.name,
        "separator": rules.separator,
        "dots": "ignore" if rules.ignore_dots else "count",
        "case": "exact" if rules.exact_case else "ignore",
        "catch_all": None if rules.catch_all is None else str(rules.catch_all),
        "postmaster": None if rules.postmaster is None else str(rules.postmaster),
        "default_quota": rules.default_quota,
    }
