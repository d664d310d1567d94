"""`mailsvc user app-password ...`, `user grant`, `user revoke-grant`: what opens an account, and as whom it may send.

Commands of the group `mailsvc.cli.user`, in a file of their own.  What they change is in force from the next login and
the next message on, also in a service that is running.

The hardest idea: an app password is shown once.  It goes to standard output, alone on its line, so that a script can
take it; everything else that is said with it goes to standard error.
"""

from __future__ import annotations

import json
import secrets
import time

import click

from mailsvc.accounts.app_passwords import PROTOCOLS, RANDOM, app_password, digest
from mailsvc.cli.answers import JSON, answer, answer_rows
from mailsvc.cli.identity import checked_label
from mailsvc.cli.main import Common
from mailsvc.cli.tables import for_people, for_programs, last_time
from mailsvc.mail.address import parse_address, parse_domain
from mailsvc.sasl.scram import ITERATIONS, NoVerifier, Salting, make_verifier, salt_of
from mailsvc.storage import credentials, senders
from mailsvc.storage.database import offline
from mailsvc.storage.rows import Cursor


def keep_verifier(txn: Cursor, key: str, password: str, stored: str) -> None:
    """Put the SCRAM verifier of a new password beside its hash `stored`, if there can be one."""
    try:
        verifier = make_verifier(password, salting(txn, key))
    except NoVerifier:
        return  # a password that only PLAIN can carry; it works like any other
    credentials.add_verifier(txn, key, stored, verifier.to_text(), time.time())


def salting(txn: Cursor, key: str) -> Salting:
    """What the verifiers of an account are made with."""
    return Salting(salt_of(credentials.salt_key(txn, secrets.token_bytes(32)), key), ITERATIONS)


@click.group("app-password")
def app_passwords() -> None:
    """Passwords for single programs or devices, revoked one by one."""


@app_passwords.command("add")
@click.argument("address")
@click.option("--label", "-l", required=True, help="What it is for, like 'phone'; one of a kind.")
@click.option("--only", type=click.Choice(PROTOCOLS), help="Good for this protocol only.")
@JSON
@click.pass_obj
def add_app_password(common: Common, address: str, label: str, only: str | None, as_json: bool) -> None:
    """Make an app password for ADDRESS and show it, once.

    It opens the account like its own password does, until it is revoked.
    """
    parsed = parse_address(address)
    checked_label(label)
    made = app_password(secrets.token_bytes(RANDOM))
    with offline(common.database, create=False) as txn:
        verifier = make_verifier(made, salting(txn, parsed.key)).to_text()
        credentials.add_app_password(
            txn, parsed.key, label, only or "", digest(made.encode("ascii")), verifier, time.time()
        )
    if as_json:
        click.echo(json.dumps({"address": str(parsed), "label": label, "only": only, "password": made}))
        return
    click.echo(f"The app password {label!r} of {parsed}, which is not shown again:", err=True)
    click.echo(made)


@app_passwords.command("list")
@click.argument("address")
@JSON
@click.pass_obj
def list_app_passwords(common: Common, address: str, as_json: bool) -> None:
    """List the app passwords of ADDRESS, and when each was used last."""
    parsed = parse_address(address)
    with offline(common.database, create=False) as txn:
        rows = credentials.app_passwords(txn, parsed.key)
    answer_rows(
        as_json,
        [
            {
                "label": row.label,
                "only": row.only or None,
                "created": for_programs(row.created),
                "last_used": None if row.last_used is None else for_programs(row.last_used),
            }
            for row in rows
        ],
        ["label", "only", "created (UTC)", "last used (UTC)"],
        [
            (
                row.label,
                row.only,
                for_people(row.created),
                last_time(row.last_used),
            )
            for row in rows
        ],
        f"{parsed} has no app passwords; `mailsvc user app-password add` makes one.",
    )


@app_passwords.command("revoke")
@click.argument("address")
@click.option("--label", "-l", required=True, help="Which one.")
@JSON
@click.pass_obj
def revoke_app_password(common: Common, address: str, label: str, as_json: bool) -> None:
    """Take an app password of ADDRESS back; it opens nothing any more, at once."""
    parsed = parse_address(address)
    with offline(common.database, create=False) as txn:
        credentials.revoke_app_password(txn, parsed.key, label)
    answer(as_json, {"address": str(parsed), "label": label}, f"The app password {label!r} of {parsed} was revoked.")


_ANY = click.option("--any", "anybody", is_flag=True, help="Any sender at all.")


@click.command("grant")
@click.argument("address")
@click.argument("sender", required=False)
@_ANY
@JSON
@click.pass_obj
def grant(common: Common, address: str, sender: str | None, anybody: bool, as_json: bool) -> None:
    """Let ADDRESS send as SENDER too: an address, or @DOMAIN for all of a domain.

    Its own address and the aliases that lead to it need no grant. Without SENDER the grants are listed.
    """
    parsed = parse_address(address)
    with offline(common.database, create=False) as txn:
        if sender is not None or anybody:
            senders.grant(txn, parsed.key, _sender(sender, anybody), time.time())
        granted = senders.grants(txn, parsed.key)
    if as_json:
        click.echo(json.dumps({"address": str(parsed), "grants": granted}))
    elif granted:
        click.echo(f"{parsed} may send as itself and as {', '.join(map(senders.shown, granted))}.")
    else:
        click.echo(f"{parsed} may send as itself only.")


@click.command("revoke-grant")
@click.argument("address")
@click.argument("sender", required=False)
@_ANY
@JSON
@click.pass_obj
def revoke_grant(common: Common, address: str, sender: str | None, anybody: bool, as_json: bool) -> None:
    """Take the grant of SENDER back from ADDRESS."""
    parsed = parse_address(address)
    which = _sender(sender, anybody)
    with offline(common.database, create=False) as txn:
        senders.revoke_grant(txn, parsed.key, which)
    answer(
        as_json,
        {"address": str(parsed), "revoked": which},
        f"{parsed} may no longer send as {senders.shown(which)} by a grant.",
    )


def _sender(sender: str | None, anybody: bool) -> str:
    """The text that stands in the table."""
    if (sender is None) != anybody:
        raise click.UsageError("give one of SENDER and --any")
    if sender is None:
        return senders.ANY
    return f"@{parse_domain(sender[1:])}" if sender.startswith("@") else parse_address(sender).key
