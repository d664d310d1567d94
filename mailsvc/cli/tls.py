"""`mailsvc tls policy list|show|override|forget`: what TLS others have shown, and what must be shown instead.

Works on the database, not on the service, which reads the rows at every message.  The rules are `mailsvc.tls.memory`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import click

from mailsvc.cli.answers import JSON, answer
from mailsvc.cli.main import Common
from mailsvc.cli.tables import for_people, for_programs, print_table
from mailsvc.errors import MailsvcError
from mailsvc.mail.address import parse_domain
from mailsvc.storage.database import offline
from mailsvc.storage.tls_policies import (
    MemoryRow,
    OverrideRow,
    forget,
    memories,
    overrides,
    set_override,
)
from mailsvc.tls.levels import Level
from mailsvc.tls.memory import Override

_DAY = 86400.0
_WAYS = {"in": "brings mail", "out": "takes mail"}
_LEVELS = {level.name.lower(): level for level in Level}
_MOST_DAYS = 365


def _direction(*, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--direction",
        type=click.Choice(list(_WAYS)),
        required=required,
        help="in: mail that the domain brings; out: mail that it takes.",
    )


@click.group()
def tls() -> None:
    """What TLS others show, and what they must."""


@tls.group()
def policy() -> None:
    """What domains have shown, and what is wanted of them instead."""


@policy.command("list")
@JSON
@click.pass_obj
def list_policies(common: Common, as_json: bool) -> None:
    """List the domains of which something is remembered, and the overrides."""
    _print(common, None, as_json)


@policy.command()
@click.argument("domain")
@JSON
@click.pass_obj
def show(common: Common, domain: str, as_json: bool) -> None:
    """Show what DOMAIN has shown, and what it must show now."""
    _print(common, parse_domain(domain), as_json)


@policy.command()
@click.argument("domain")
@click.option("--level", type=click.Choice(list(_LEVELS)), required=True, help="What is wanted, no more and no less.")
@click.option("--days", type=click.FloatRange(0, _MOST_DAYS, min_open=True), required=True, help="For how long.")
@_direction(required=True)
@JSON
@click.pass_obj
def override(common: Common, domain: str, level: str, days: float, direction: str, as_json: bool) -> None:
    """Want another level of DOMAIN, for some days.

    plain lets a domain through that has given up TLS for a good reason; encrypted, chain, name and dane want that much
    whatever it has shown. Servers that bring mail can show plain, encrypted and chain (a verified certificate) only.
    """
    name, wanted, now = parse_domain(domain), _LEVELS[level], time.time()
    if direction == "in" and wanted > Level.CHAIN:
        raise MailsvcError(f"a server that brings mail cannot show {level}; the most is chain, a verified certificate")
    made = Override(wanted, now, now + days * _DAY)
    with offline(common.database, create=False) as txn:
        set_override(txn, direction, name, made)
    answer(
        as_json,
        _override_facts(OverrideRow(direction, name, made)),
        f"{name}, when it {_WAYS[direction]}, must be: {wanted.text}; until {for_people(made.until)} UTC.",
    )


@policy.command("forget")
@click.argument("domain")
@_direction(required=False)
@JSON
@click.pass_obj
def forget_domain(common: Common, domain: str, direction: str | None, as_json: bool) -> None:
    """Forget what DOMAIN has shown, and its override."""
    name = parse_domain(domain)
    with offline(common.database, create=False) as txn:
        gone = forget(txn, name, direction)
    answer(
        as_json,
        {"domain": name, "forgotten": gone},
        f"{gone} line{'' if gone == 1 else 's'} about {name} {'is' if gone == 1 else 'are'} forgotten.",
    )


def _print(common: Common, domain: str | None, as_json: bool) -> None:
    now = time.time()
    seconds = common.memory_days * _DAY
    with offline(common.database, create=False) as txn:
        remembered = memories(txn, now, seconds, domain)
        instead = overrides(txn, now, domain)
    if as_json:
        facts = {
            "remembered": [_memory_facts(row, seconds) for row in remembered],
            "overrides": [_override_facts(row) for row in instead],
        }
        click.echo(json.dumps(facts, indent=2))
        return
    if not remembered and not instead:
        click.echo(f"Nothing is remembered{'' if domain is None else f' of {domain}'}.")
        return
    rows = [
        (row.domain, _way(row), row.memory.level.text, f"until {for_people(row.memory.shown + seconds)}")
        for row in remembered
    ]
    rows += [
        (row.domain, _WAYS[row.direction], row.override.level.text, f"override until {for_people(row.override.until)}")
        for row in instead
    ]
    print_table(["domain", "when it", "must be", "how long (UTC)"], sorted(rows))


def _way(row: MemoryRow) -> str:
    return f"{_WAYS[row.direction]}{f' from {row.peer}' if row.peer else ''}"


def _memory_facts(row: MemoryRow, seconds: float) -> dict[str, object]:
    return {
        "domain": row.domain,
        "direction": row.direction,
        "peer": row.peer or None,
        "level": row.memory.level.name.lower(),
        "shown": for_programs(row.memory.shown),
        "until": for_programs(row.memory.shown + seconds),
    }


def _override_facts(row: OverrideRow) -> dict[str, object]:
    return {
        "domain": row.domain,
        "direction": row.direction,
        "level": row.override.level.name.lower(),
        "until": for_programs(row.override.until),
    }
