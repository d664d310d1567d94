"""`mailsvc user add|passwd|list|set|remove|app-password|certificate|grant|revoke-grant`: the people who have a mailbox.

Works on the database, not on the service: a running service reads the rows at every login and every RCPT, so
that what is changed here holds at once.  Which passwords are allowed and how they are kept is
`mailsvc.accounts.passwords`, the rows are `mailsvc.storage.accounts`.

The hardest idea is where a password may come from: a prompt, standard input, or a file, and never an argument,
because every user of the machine can read the arguments of every command.  Prompts and questions go to standard
error, so that standard output holds the answer only.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

import click

from mailsvc.accounts.passwords import hash_password
from mailsvc.cli.access import app_passwords, grant, keep_verifier, revoke_grant
from mailsvc.cli.answers import JSON, answer, answer_rows
from mailsvc.cli.domain import check_domain
from mailsvc.cli.identity import certificates
from mailsvc.cli.main import Common
from mailsvc.cli.secret import new_secret, one_source, password_options
from mailsvc.cli.tables import for_people, for_programs
from mailsvc.directory.quota import in_words, parse_size
from mailsvc.errors import AlreadyExists, MailsvcError, NotFound, StartRefused
from mailsvc.mail.address import Address, parse_address, parse_domain
from mailsvc.storage.accounts import (
    account,
    accounts,
    add_account,
    domain_exists,
    remove_account,
    set_password,
)
from mailsvc.storage.database import offline
from mailsvc.storage.devices import deletes_by_device, set_deletes
from mailsvc.storage.expiry import LONGEST_EXPIRY, own_expire_days, set_expire_days
from mailsvc.storage.rules import set_disabled, set_quota, usage
from mailsvc.storage.senders import check_sender, set_check_sender


@click.group()
def user() -> None:
    """The people who have a mailbox."""


user.add_command(app_passwords)
user.add_command(certificates)
user.add_command(grant)
user.add_command(revoke_grant)


@user.command()
@click.argument("address")
@password_options
@JSON
@click.pass_obj
def add(common: Common, address: str, from_stdin: bool, file: Path | None, as_json: bool) -> None:
    """Add an account for ADDRESS.

    Its domain is added too when it is new. Without an option the password is asked for, twice.
    """
    parsed = parse_address(address)
    parse_domain(parsed.domain)  # no address literal: it cannot be listed or removed as a domain
    one_source(from_stdin, file)
    # Before anybody types a password for nothing; the insertion below is what decides.
    with suppress(StartRefused), offline(common.database, create=False) as txn:
        if account(txn, parsed.key) is not None:
            raise AlreadyExists(f"the account {parsed} exists already; `mailsvc user passwd` changes its password")
    password = new_secret(f"Password for {parsed}", from_stdin, file)
    hashed = hash_password(password)
    scram = common.scram
    with offline(common.database, create=True) as txn:
        domain_added = not domain_exists(txn, parsed.domain)
        add_account(txn, parsed, hashed, time.time())
        if scram:
            keep_verifier(txn, parsed.key, password, hashed)
    if as_json:
        facts = {"address": str(parsed), "domain": parsed.domain, "domain_added": domain_added}
        click.echo(json.dumps(facts))
        return
    if domain_added:
        click.echo(f"The domain {parsed.domain} was added.")
    click.echo(f"The account {parsed} was added.")


@user.command()
@click.argument("address")
@password_options
@JSON
@click.pass_obj
def passwd(common: Common, address: str, from_stdin: bool, file: Path | None, as_json: bool) -> None:
    """Change the password of ADDRESS.

    The old one is refused from the next login on. Without an option the new one is asked for, twice.
    """
    parsed = parse_address(address)
    one_source(from_stdin, file)
    _must_exist(common, parsed)
    password = new_secret(f"Password for {parsed}", from_stdin, file)
    hashed = hash_password(password)
    scram = common.scram
    with offline(common.database, create=False) as txn:
        set_password(txn, parsed.key, hashed, time.time())
        if scram:
            keep_verifier(txn, parsed.key, password, hashed)
    answer(as_json, {"address": str(parsed)}, f"The password of {parsed} was changed.")


@user.command("list")
@click.argument("domain", required=False)
@JSON
@click.pass_obj
def list_users(common: Common, domain: str | None, as_json: bool) -> None:
    """List the accounts, all or those of DOMAIN, with what is in their mailboxes."""
    name = None if domain is None else parse_domain(domain)
    with offline(common.database, create=False) as txn:
        check_domain(txn, name)
        rows = accounts(txn, name)
    answer_rows(
        as_json,
        [
            {
                "address": row.address,
                "messages": row.messages,
                "octets": row.octets,
                "created": for_programs(row.created),
            }
            for row in rows
        ],
        ["address", "messages", "octets", "created (UTC)"],
        [(row.address, row.messages, row.octets, for_people(row.created)) for row in rows],
        "There are no accounts yet; `mailsvc user add ADDRESS` adds one.",
    )


@user.command("set")
@click.argument("address")
@click.option("--disabled", type=click.Choice(["on", "off"]), help="on: neither login nor mail in.")
@click.option("--quota", metavar="SIZE|none|default", help="What the mailbox may hold, like 1G; default: the domain's.")
@click.option("--check-sender", "check", type=click.Choice(["on", "off"]), help="off: it may send as anybody.")
@click.option(
    "--deletes",
    type=click.Choice(["account", "device"]),
    help="device: what a POP3 client deletes stays for the other devices.",
)
@click.option("--expire", metavar="DAYS|never|default", help="After how many days mail is removed.")
@JSON
@click.pass_obj
def set_user(
    common: Common,
    address: str,
    disabled: str | None,
    quota: str | None,
    check: str | None,
    deletes: str | None,
    expire: str | None,
    as_json: bool,
) -> None:
    """Change what the account ADDRESS may.

    What is not given stays as it is.
    """
    parsed = parse_address(address)
    if all(option is None for option in (disabled, quota, check, deletes, expire)):
        raise click.UsageError("nothing to set; give --disabled, --quota, --check-sender, --deletes or --expire")
    octets = None if quota is None else _quota(quota)
    days = None if expire is None else _days(expire)
    with offline(common.database, create=False) as txn:
        if disabled is not None:
            set_disabled(txn, parsed.key, disabled == "on")
        if quota is not None:
            set_quota(txn, parsed.key, octets)
        row = account(txn, parsed.key)
        if row is None:
            raise NotFound(f"there is no account {parsed}; `mailsvc user list` shows them")
        if check is not None:
            set_check_sender(txn, parsed.key, check == "on")
        checked = check_sender(txn, row.id)
        if deletes is not None:
            set_deletes(txn, parsed.key, by_device=deletes == "device")
        if expire is not None:
            set_expire_days(txn, parsed.key, days)
        by_device = deletes_by_device(txn, row.id)
        days = own_expire_days(txn, row.id)
        now = usage(txn, row.id)
    assert now is not None
    if as_json:
        facts = {"address": now.address, "disabled": now.disabled, "quota": now.quota, "used": now.used}
        facts |= {"check_sender": checked, "deletes": "device" if by_device else "account", "expire_days": days}
        click.echo(json.dumps(facts))
        return
    limit = "no quota" if now.quota is None else f"a quota of {in_words(now.quota)}"
    state = "disabled" if now.disabled else "enabled"
    click.echo(f"The account {parsed} is {state}, uses {in_words(now.used)} and has {limit}.")
    if not checked:
        click.echo("It may send as anybody; --check-sender on ends that.")
    if by_device:
        click.echo("What a device deletes stays for its others; --deletes account ends that.")
    if days is not None:
        click.echo(f"Its mail is removed after {days} days." if days else "Its mail is never removed for its age.")


def _quota(text: str) -> int | None:
    """Octets, 0 for none at all, None for the domain's default."""
    if text.lower() in ("none", "default"):
        return 0 if text.lower() == "none" else None
    octets = parse_size(text)
    if not octets:
        raise MailsvcError(f"{text} is no quota; write it like 500M or 2G, none, or default")
    return octets


def _days(text: str) -> int | None:
    """0 for never, None for the default of the configuration."""
    if text.lower() in ("never", "default"):
        return 0 if text.lower() == "never" else None
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= LONGEST_EXPIRY):
        raise MailsvcError(
            f"{text} is no number of days from 1 to {LONGEST_EXPIRY}; write it like 90, never, or default"
        )
    return int(text)


@user.command()
@click.argument("address")
@click.option("--yes", is_flag=True, help="Do not ask.")
@JSON
@click.pass_obj
def remove(common: Common, address: str, yes: bool, as_json: bool) -> None:
    """Remove the account ADDRESS and all its mail.

    Its domain stays.
    """
    parsed = parse_address(address)
    _must_exist(common, parsed)
    if not yes:
        click.confirm(f"Remove {parsed} and all its mail?", abort=True, err=True)
    with offline(common.database, create=False) as txn:
        messages = remove_account(txn, parsed.key)
    if as_json:
        click.echo(json.dumps({"address": str(parsed), "messages": messages}))
    else:
        noun = "message" if messages == 1 else "messages"
        click.echo(f"The account {parsed} was removed, with {messages} {noun}.")


def _must_exist(common: Common, address: Address) -> None:
    with offline(common.database, create=False) as txn:
        if account(txn, address.key) is None:
            raise NotFound(f"there is no account {address}; `mailsvc user list` shows them")
