"""`mailsvc route explain`: step by step where an address leads, and what its sender would be told.

It asks the same resolver on the same tables as the service does at RCPT, so that what it says is what happens; the
settings that matter (our host name, programs) are those of `--config`.
"""

from __future__ import annotations

import json

import click

from mailsvc.cli.main import Common
from mailsvc.directory import quota
from mailsvc.directory.resolve import Resolution
from mailsvc.directory.tables import Mailbox
from mailsvc.errors import MailsvcError
from mailsvc.mail.address import parse_address
from mailsvc.mail.reply import Reply
from mailsvc.storage.aliases import resolution
from mailsvc.storage.database import offline


@click.group()
def route() -> None:
    """Where mail goes."""


@route.command()
@click.argument("address")
@click.option("--size", metavar="SIZE", help="Of a message of that size, like 10M: does it fit the quota?")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
@click.pass_obj
def explain(common: Common, address: str, size: str | None, as_json: bool) -> None:
    """Show step by step where mail for ADDRESS leads."""
    parsed = parse_address(address)
    octets = 0 if size is None else quota.parse_size(size)
    if octets is None:
        raise MailsvcError(f"{size} is no size; write it like 500K, 10M or 1G")
    configuration = common.in_force().configuration
    with offline(common.database, create=False) as txn:
        found = resolution(txn, parsed, hostname=configuration.hostname, programs=configuration.delivery.pipes)
    refusal = found.refusal or quota.refusal(found, octets)
    if as_json:
        click.echo(json.dumps(_facts(found, refusal), indent=2))
        return
    for step in found.steps:
        click.echo(f"{'  ' * step.depth}{step.address} {step.text}")
    if refusal is not None:
        click.echo(f"Mail for {parsed} is refused: {refusal}")
        return
    click.echo(f"Mail for {parsed} goes to:")
    for account in found.accounts:
        click.echo(f"  {account.address} ({_fill(account)})")
    for pipe in found.programs:
        click.echo(f"  {pipe.program}")


def _fill(account: Mailbox) -> str:
    if account.quota is None:
        return f"{quota.in_words(account.used)} used, no quota"
    return f"{quota.in_words(account.used)} of {quota.in_words(account.quota)} used"


def _facts(found: Resolution, refusal: Reply | None) -> dict[str, object]:
    return {
        "address": str(found.address),
        "steps": [{"address": step.address, "depth": step.depth, "text": step.text} for step in found.steps],
        "accounts": [
            {"address": str(account.address), "used": account.used, "quota": account.quota}
            for account in found.accounts
        ],
        "programs": [list(pipe.program.argv) for pipe in found.programs],
        "remotes": [str(remote) for remote in found.remotes],
        "refusal": None if refusal is None else str(refusal),
    }
