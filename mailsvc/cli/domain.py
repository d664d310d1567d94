"""`mailsvc domain add|list|remove`: the domains for which mail is taken.

Works on the database, not on the service: what is changed here holds from the next RCPT on (a running service
reads its tables each time).  What a domain may look like is `mailsvc.mail.address`, the rows are
`mailsvc.storage.accounts`.
"""

from __future__ import annotations

import json
import time

import click

from mailsvc.cli.main import Common
from mailsvc.cli.tables import for_people, for_programs, print_table
from mailsvc.mail.address import parse_domain
from mailsvc.storage.accounts import add_domain, domains, remove_domain
from mailsvc.storage.database import offline


@click.group()
def domain() -> None:
    """The domains for which mail is taken."""


@domain.command()
@click.argument("name", metavar="DOMAIN")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
@click.pass_obj
def add(common: Common, name: str, as_json: bool) -> None:
    """Take mail for DOMAIN.

    Its accounts are added with `mailsvc user add`, which adds a new domain too.
    """
    name = parse_domain(name)
    with offline(common.database, create=True) as txn:
        add_domain(txn, name, time.time())
    if as_json:
        click.echo(json.dumps({"domain": name}))
    else:
        click.echo(f"The domain {name} was added.")


@domain.command("list")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
@click.pass_obj
def list_domains(common: Common, as_json: bool) -> None:
    """List the domains with how many accounts each has."""
    with offline(common.database, create=False) as txn:
        rows = domains(txn)
    if as_json:
        facts = [{"domain": row.name, "accounts": row.accounts, "created": for_programs(row.created)} for row in rows]
        click.echo(json.dumps(facts, indent=2))
    elif rows:
        print_table(
            ["domain", "accounts", "created (UTC)"],
            [(row.name, row.accounts, for_people(row.created)) for row in rows],
        )
    else:
        click.echo("There are no domains yet; `mailsvc domain add DOMAIN` adds one.")


@domain.command()
@click.argument("name", metavar="DOMAIN")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
@click.pass_obj
def remove(common: Common, name: str, as_json: bool) -> None:
    """Take no more mail for DOMAIN.

    Refused while it has accounts: removing mail is `mailsvc user remove`, one account at a time.
    """
    name = parse_domain(name)
    with offline(common.database, create=False) as txn:
        remove_domain(txn, name)
    if as_json:
        click.echo(json.dumps({"domain": name}))
    else:
        click.echo(f"The domain {name} was removed.")
