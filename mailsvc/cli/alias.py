"""`mailsvc alias add|list|remove`: addresses that lead elsewhere.

Works on the database, not on the service: what is changed here holds from the next RCPT on.  Where an address leads is
`mailsvc.directory.resolve`'s affair, the rows are `mailsvc.storage.aliases`.

The hardest idea is what to refuse.  A loop is refused, because nobody can mean it.  All else that will not work *now*
(a target without an account, a program while they are switched off) is taken with a warning: people set things up in
any order.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterator

import click

from mailsvc.cli.answers import JSON, answer_rows
from mailsvc.cli.domain import check_domain
from mailsvc.cli.main import Common
from mailsvc.cli.tables import for_programs
from mailsvc.directory.loops import loop_from
from mailsvc.directory.tables import Program, Target
from mailsvc.errors import MailsvcError
from mailsvc.mail.address import Address, parse_address, parse_domain
from mailsvc.storage.aliases import TableRows, add_alias, aliases, remove_alias, resolution
from mailsvc.storage.database import offline
from mailsvc.storage.rows import Cursor

_PIPE = click.option(
    "--pipe",
    "commands",
    metavar="COMMAND",
    multiple=True,
    help="A program as a target: its full path and its arguments, in one word. Quotes hold words together; "
    "there is no shell.",
)


@click.group()
def alias() -> None:
    """Addresses that lead elsewhere."""


@alias.command()
@click.argument("address")
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@_PIPE
@JSON
@click.pass_obj
def add(common: Common, address: str, targets: tuple[str, ...], commands: tuple[str, ...], as_json: bool) -> None:
    """Let mail for ADDRESS go to each TARGET.

    A TARGET is an address, of this server or of another. What ADDRESS led to before stays. An account of the same
    name gets no mail any more, unless ADDRESS itself is among the targets.
    """
    parsed = parse_address(address)
    wanted = _targets(targets, commands)
    for target in wanted:
        if isinstance(target, Program) and not os.path.isabs(target.argv[0]):
            raise MailsvcError(f"{target.argv[0]} is no full path of a program; write it from / on")
    pipes = any(isinstance(target, Program) for target in wanted) and common.in_force().configuration.delivery.pipes
    with offline(common.database, create=False) as txn:
        added = add_alias(txn, parsed, wanted, time.time())
        _refuse_loop(txn, parsed)
        warnings = list(_warnings(txn, parsed, added, pipes=pipes))
    if as_json:
        facts = {"alias": str(parsed), "added": [_plain(target) for target in added], "warnings": warnings}
        click.echo(json.dumps(facts))
        return
    click.echo(f"Mail for {parsed} now goes to {', '.join(map(str, added))}.")
    for warning in warnings:
        click.echo(f"mailsvc: warning: {warning}", err=True)


@alias.command("list")
@click.argument("domain", required=False)
@JSON
@click.pass_obj
def list_aliases(common: Common, domain: str | None, as_json: bool) -> None:
    """List the aliases, all or those of DOMAIN, with every target on a line."""
    name = None if domain is None else parse_domain(domain)
    with offline(common.database, create=False) as txn:
        check_domain(txn, name)
        rows = aliases(txn, name)
    answer_rows(
        as_json,
        [{"alias": str(row.address), **_plain(row.target), "created": for_programs(row.created)} for row in rows],
        ["alias", "leads to"],
        [(str(row.address), str(row.target)) for row in rows],
        "There are no aliases yet; `mailsvc alias add ADDRESS TARGET` adds one.",
    )


@alias.command()
@click.argument("address")
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@_PIPE
@JSON
@click.pass_obj
def remove(common: Common, address: str, targets: tuple[str, ...], commands: tuple[str, ...], as_json: bool) -> None:
    """Let mail for ADDRESS go to TARGET no more.

    Without a TARGET the whole alias is removed.
    """
    parsed = parse_address(address)
    wanted = _targets(targets, commands) if targets or commands else []
    with offline(common.database, create=False) as txn:
        removed = remove_alias(txn, parsed, wanted)
        is_left = any(row.address.key == parsed.key for row in aliases(txn, parsed.domain))
    if as_json:
        click.echo(json.dumps({"alias": str(parsed), "removed": removed, "left": is_left}))
    elif is_left:
        click.echo(f"Mail for {parsed} goes to {', '.join(map(str, wanted))} no more.")
    else:
        click.echo(f"The alias {parsed} was removed.")


def _targets(texts: tuple[str, ...], commands: tuple[str, ...]) -> list[Target]:
    found: list[Target] = [parse_address(text) for text in texts]
    for command in commands:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise MailsvcError(f"{command!r} is no command: {error}") from None
        if not words or any("\0" in word for word in words):
            raise MailsvcError(f"{command!r} is no command; name a program")
        found.append(Program(tuple(words)))
    if not found:
        raise click.UsageError("name a TARGET or a program with --pipe")
    return found


def _refuse_loop(txn: Cursor, address: Address) -> None:
    ring = loop_from(address, TableRows(txn))
    if ring:
        raise MailsvcError(f"that would go in a circle: {' -> '.join(map(str, ring))}; nothing was changed")
    refusal = resolution(txn, address).refusal
    if refusal is not None and refusal.enhanced == "5.4.6":
        raise MailsvcError(f"{address} would lead to itself only; nothing was changed")


def _warnings(txn: Cursor, address: Address, added: list[Target], *, pipes: bool) -> Iterator[str]:
    tables = TableRows(txn)
    if tables.mailbox(address.key) is not None:
        found = resolution(txn, address)
        if not any(mailbox.address.key == address.key for mailbox in found.accounts):
            yield f"the account {address} gets no mail any more; `mailsvc alias add {address} {address}` keeps a copy"
    for target in added:
        if isinstance(target, Program):
            if not os.access(target.argv[0], os.X_OK) or os.path.isdir(target.argv[0]):
                yield f"{target.argv[0]} is not there, or cannot be run"
            if not pipes:
                yield "programs get no mail until the configuration says pipes = true in its section [delivery]"
        elif tables.domain(target.domain) is None:
            continue  # other servers know for themselves
        elif (refusal := resolution(txn, target).refusal) is not None and refusal.code == 451:
            yield f"{target} leads too far: mail for {address} is put off"
        elif refusal is not None:
            yield f"{target} gets no mail now ({refusal}); `mailsvc route explain {target}` shows why"


def _plain(target: Target) -> dict[str, object]:
    if isinstance(target, Program):
        return {"kind": "pipe", "command": list(target.argv)}
    return {"kind": "address", "target": str(target)}
