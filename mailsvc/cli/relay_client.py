"""`mailsvc relay-client add|list|remove`: machines that hand in mail without a login, by their client certificates.

For a printer, a monitoring host, another mail server of ours: things that have a key and nobody to type a password.
Works on the database: a running service asks it at every MAIL.

What it grants is stated when it is added: as whom the machine may send.  There is no default, because a machine that
may send as anybody is the one thing that a thief of its key wants.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click

from mailsvc.cli.answers import JSON, answer, answer_rows
from mailsvc.cli.identity import checked_label, key_of, known_facts, remark, which_key
from mailsvc.cli.main import Common
from mailsvc.cli.tables import last_time
from mailsvc.mail.address import parse_address, parse_domain
from mailsvc.storage import identities, senders
from mailsvc.storage.database import offline


@click.group("relay-client")
def relay_client() -> None:
    """Machines that hand in mail without a login."""


@relay_client.command()
@click.argument("label")
@which_key
@click.option("--sender", "wanted", metavar="ADDRESS|@DOMAIN", multiple=True, help="As whom it may send; repeatable.")
@click.option("--any", "anybody", is_flag=True, help="It may send as anybody.")
@JSON
@click.pass_obj
def add(
    common: Common,
    label: str,
    file: Path | None,
    spki: str | None,
    wanted: Sequence[str],
    anybody: bool,
    as_json: bool,
) -> None:
    """Let the machine with a client certificate hand in mail on the submission listeners, without a login.

    The listener must ask for certificates: mode = "ask" under [client_certificates.submission].
    """
    key = key_of(file, spki)
    if bool(wanted) == anybody:
        raise click.UsageError("say as whom it may send: --sender ADDRESS, --sender @DOMAIN, or --any")
    granted = [senders.ANY] if anybody else list(map(_sender, wanted))
    with offline(common.database, create=True) as txn:
        identities.add_relay_client(txn, checked_label(label), key.spki, key.subject, granted, time.time())
    remark(key)
    shown = ", ".join(map(senders.shown, granted))
    answer(
        as_json,
        {"label": label, "spki_sha256": key.spki, "senders": granted},
        f"The relay client {label!r} may hand in mail as {shown} from now on (key {key.spki}).",
    )


@relay_client.command("list")
@JSON
@click.pass_obj
def list_relay_clients(common: Common, as_json: bool) -> None:
    """List the machines."""
    with offline(common.database, create=False) as txn:
        rows = identities.relay_clients(txn)
    answer_rows(
        as_json,
        [{**known_facts(each), "senders": list(each.senders)} for each in rows],
        ["label", "may send as", "subject", "key (SPKI SHA-256)", "last used (UTC)"],
        [
            (
                each.label,
                ", ".join(map(senders.shown, each.senders)),
                each.subject,
                each.spki,
                last_time(each.last_used),
            )
            for each in rows
        ],
        "There are no relay clients; `mailsvc relay-client add` adds one.",
    )


@relay_client.command()
@click.argument("label")
@JSON
@click.pass_obj
def remove(common: Common, label: str, as_json: bool) -> None:
    """Take the permission of a machine back; its next message is refused."""
    with offline(common.database, create=False) as txn:
        identities.remove_relay_client(txn, label)
    answer(as_json, {"label": label}, f"The relay client {label!r} was removed.")


def _sender(text: str) -> str:
    """The text that stands in the table."""
    return f"@{parse_domain(text[1:])}" if text.startswith("@") else parse_address(text).key
