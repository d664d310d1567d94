"""`mailsvc route`: where mail goes, inside and out.

`route explain` tells the whole way of an address in words: through aliases to maildrops and programs, and for what
leads elsewhere by which route, over which relays, and what the channel to each must be.  It asks the same functions on
the same tables as the service does, so that what it says is what happens; the settings that matter (our host name,
programs) are those of `--config`.  It asks no DNS and connects to nobody.

The commands that change the table are in `mailsvc.cli.route_table`; `mailsvc.cli.route_test` does connect.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import click

from mailsvc.backup.judging import in_words
from mailsvc.backup.keys import read_key
from mailsvc.cli.answers import JSON
from mailsvc.cli.main import Common
from mailsvc.cli.route_table import add, credentials, list_routes, remove
from mailsvc.cli.route_test import test_route
from mailsvc.directory import quota
from mailsvc.directory.resolve import NOT_OURS, Resolution, Step
from mailsvc.directory.tables import Mailbox
from mailsvc.errors import MailsvcError
from mailsvc.mail.address import Address, parse_address
from mailsvc.mail.reply import Reply
from mailsvc.relay.logins import read_logins
from mailsvc.relay.routes import Plan, relays_of
from mailsvc.relay.url import Relay
from mailsvc.storage.backups import backup, verdict
from mailsvc.storage.database import offline
from mailsvc.storage.forwarding import led
from mailsvc.storage.routes import login_row, planned
from mailsvc.storage.rows import Cursor


class _InOrder(click.Group):
    """Commands in the order in which they are met, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder)
def route() -> None:
    """Where mail goes."""


for _command in (add, list_routes, remove, credentials, test_route):
    route.add_command(_command)


@dataclass(frozen=True, slots=True)
class _Way:
    """How mail for one address elsewhere goes out; ``missing``: labels of credentials that are not there."""

    recipient: Address
    plan: Plan
    missing: tuple[str, ...]


@route.command()
@click.argument("address")
@click.option("--size", metavar="SIZE", help="Of a message of that size, like 10M: does it fit the quota?")
@click.option("--from", "sender", metavar="ADDRESS", help="Of a message from that sender: routes may go by it.")
@click.option("--account", metavar="ADDRESS", help="Of a message that this account hands in: routes may go by it.")
@JSON
@click.pass_obj
def explain(
    common: Common, address: str, size: str | None, sender: str | None, account: str | None, as_json: bool
) -> None:
    """Show step by step where mail for ADDRESS leads.

    For mail that leaves this server: by which route, and what the channel must be.
    """
    parsed = parse_address(address)
    octets = 0 if size is None else quota.parse_size(size)
    if octets is None:
        raise MailsvcError(f"{size} is no size; write it like 500K, 10M or 1G")
    reverse = None if sender is None else parse_address(sender)
    login = None if account is None else parse_address(account)
    configuration = common.in_force().configuration
    with offline(common.database, create=False) as txn:
        pipes = configuration.delivery.pipes
        found = led(txn, parsed, hostname=configuration.hostname, programs=pipes, now=time.time())
        if found.refusal is NOT_OURS:
            found = _at_a_backup(txn, found)
        file = configuration.relay.credentials_file
        ways = [_way(txn, remote, reverse, login, file) for remote in found.remotes]
    refusal = found.refusal or quota.refusal(found, octets)
    if as_json:
        click.echo(json.dumps(_facts(found, refusal, ways), indent=2))
        return
    for line in _lines(found, refusal, ways):
        click.echo(line)


def _at_a_backup(txn: Cursor, found: Resolution) -> Resolution:
    """The same, when this server is a backup MX for the domain of the address."""
    row = backup(txn, found.address.domain)
    if row is None:
        return found
    key = None
    if row.is_hashed:
        with suppress(MailsvcError):  # then it is put off, as the service does
            key = read_key(Path(row.key_file))
    known = verdict(txn, found.address, key)
    assert known is not None
    refusal, words = in_words(known)
    return replace(found, refusal=refusal, steps=(*found.steps, Step(str(found.address), 0, words)))


def _lines(found: Resolution, refusal: Reply | None, ways: list[_Way]) -> Iterator[str]:
    for step in found.steps:
        yield f"{'  ' * step.depth}{step.address} {step.text}"
    if refusal is not None:
        yield f"Mail for {found.address} is refused: {refusal}"
        if refusal is not NOT_OURS:
            return
        yield "From users who have logged in, and from relay clients, it is taken."
    elif found.accounts or found.programs:
        yield f"Mail for {found.address} goes to:"
        for account in found.accounts:
            yield f"  {account.address} ({_fill(account)})"
        for pipe in found.programs:
            yield f"  {pipe.program}"
    for way in ways:
        yield f"Mail for {way.recipient} goes out:"
        for sentence in way.plan.steps:
            yield f"  {sentence}"
        for label in way.missing:
            yield f"  but there are no credentials {label}: mail waits until there are"


def _way(txn: Cursor, recipient: Address, sender: Address | None, login: Address | None, file: str) -> _Way:
    plan = planned(txn, recipient, sender, login)
    labels = dict.fromkeys(relay.label for relay in _relays(plan) if relay.label is not None)
    in_file = read_logins(Path(file)) if file and labels else {}
    missing = tuple(label for label in labels if label not in in_file and login_row(txn, label) is None)
    return _Way(recipient, plan, missing)


def _relays(plan: Plan) -> Iterator[Relay]:
    for target in plan.targets:
        yield from relays_of(target)


def _fill(account: Mailbox) -> str:
    if account.quota is None:
        return f"{quota.in_words(account.used)} used, no quota"
    return f"{quota.in_words(account.used)} of {quota.in_words(account.quota)} used"


def _facts(found: Resolution, refusal: Reply | None, ways: list[_Way]) -> dict[str, object]:
    return {
        "address": str(found.address),
        "steps": [{"address": step.address, "depth": step.depth, "text": step.text} for step in found.steps],
        "accounts": [
            {"address": str(account.address), "used": account.used, "quota": account.quota}
            for account in found.accounts
        ],
        "programs": [list(pipe.program.argv) for pipe in found.programs],
        "remotes": [str(remote) for remote in found.remotes],
        "out": [
            {
                "recipient": str(way.recipient),
                "route": way.plan.route,
                "at_once": way.plan.at_once,
                "steps": list(way.plan.steps),
                "relays": [{"url": str(relay), "at_least": relay.required.name.lower()} for relay in _relays(way.plan)],
                "missing_credentials": list(way.missing),
            }
            for way in ways
        ],
        "refusal": None if refusal is None else str(refusal),
    }
