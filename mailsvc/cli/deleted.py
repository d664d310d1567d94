"""`mailsvc mailbox deleted|undelete|devices`: what was deleted, how it comes back, and on whose behalf it was deleted.

Commands of the group `mailsvc.cli.mailbox`.  They work on the database beside a running service; many messages come
back in many short transactions.  The rows are `mailsvc.storage.deleted` and `mailsvc.storage.devices`.

The hardest idea: a message that comes back is a new one to every mail program, because it gets another unique-id.  With
the old one a program that keeps book of what it has fetched would never show it again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import click

from mailsvc.cli.answers import JSON, answer, answer_rows
from mailsvc.cli.main import Common
from mailsvc.cli.story import visible
from mailsvc.cli.tables import for_people, for_programs, print_table
from mailsvc.cli.why import Since
from mailsvc.errors import MailboxFull, NotFound
from mailsvc.mail.address import Address, parse_address
from mailsvc.mail.event import LIST_LIMIT, Undeleted
from mailsvc.storage import events
from mailsvc.storage.accounts import account
from mailsvc.storage.database import offline
from mailsvc.storage.deleted import DeletedItem, deleted_items, undelete
from mailsvc.storage.devices import deletes_by_device, devices
from mailsvc.storage.opening import looking
from mailsvc.storage.rows import Cursor
from mailsvc.storage.rules import usage

_AT_ONCE = LIST_LIMIT
"""Messages that come back in one transaction: as many as one event names."""


@click.command("deleted")
@click.argument("address")
@click.option(
    "--since", type=Since(), metavar="TIME", help="Only what was deleted since: 30m, 2h, 7d, 2026-11-20 (UTC)."
)
@JSON
@click.pass_obj
def list_deleted(common: Common, address: str, since: float | None, as_json: bool) -> None:
    """List the deleted messages of ADDRESS that can come back."""
    parsed = parse_address(address)
    with looking(common.database) as txn:
        rows = deleted_items(txn, _account_id(txn, parsed), since or 0.0)
    days = common.pop3.undelete_days
    answer_rows(
        as_json,
        [_facts(row, days) for row in rows],
        ["id", "deleted (UTC)", "how", "octets", "from", "subject"],
        [
            (
                str(row.uid),
                for_people(row.deleted),
                _how(row),
                row.size,
                visible((row.sender or "")[:60]),
                visible((row.subject or "")[:80]),
            )
            for row in rows
        ],
        f"{parsed} has no deleted messages that can come back.",
    )


@click.command("undelete")
@click.argument("address")
@click.option("--all", "everything", is_flag=True, help="All deleted messages.")
@click.option("--since", type=Since(), metavar="TIME", help="What was deleted since: 30m, 2h, 7d, 2026-11-20 (UTC).")
@click.option("--id", "uids", type=int, multiple=True, metavar="ID", help="This one; may be said several times.")
@click.option("--ignore-quota", is_flag=True, help="Also beyond the quota.")
@JSON
@click.pass_obj
def undelete_messages(
    common: Common,
    address: str,
    everything: bool,
    since: float | None,
    uids: tuple[int, ...],
    ignore_quota: bool,
    as_json: bool,
) -> None:
    """Bring deleted messages of ADDRESS back.

    They come back as new messages: every mail program fetches them again, and every device sees them.
    """
    if everything + (since is not None) + bool(uids) != 1:
        raise click.UsageError("say what is to come back: --all, --since TIME, or --id ID")
    parsed = parse_address(address)
    wanted = list(dict.fromkeys(uids))
    with looking(common.database) as txn:
        found = deleted_items(txn, _account_id(txn, parsed), since or 0.0)
    if wanted:
        there = {row.uid for row in found}
        if missing := [str(uid) for uid in wanted if uid not in there]:
            raise NotFound(
                f"{parsed} has no deleted message {', '.join(missing)}; `mailsvc mailbox deleted {parsed}` shows them"
            )
        found = [row for row in found if row.uid in wanted]
    if not found:
        raise NotFound(f"{parsed} has no deleted messages{'' if since is None else ' of that time'} that can come back")
    count = _bring_back(common, parsed, found, ignore_quota)
    answer(
        as_json,
        {"address": str(parsed), "messages": count},
        f"{count:,} {'message' if count == 1 else 'messages'} of {parsed} came back.",
    )


@click.command("devices")
@click.argument("address")
@JSON
@click.pass_obj
def list_devices(common: Common, address: str, as_json: bool) -> None:
    """List what ADDRESS fetches its mail with.

    A device is a password: the account's own, or an app password. Where deleting is by device (`mailsvc user set
    --deletes device`), "fetched" and "deleted" count the messages that are still in the mailbox.
    """
    parsed = parse_address(address)
    with looking(common.database) as txn:
        account_id = _account_id(txn, parsed)
        rows, by_device = devices(txn, account_id), deletes_by_device(txn, account_id)
    in_use_since = time.time() - common.pop3.device_days * 86_400
    if as_json:
        facts = [
            {
                "device": row.credential,
                "label": row.label,
                "first_login": for_programs(row.first_login),
                "last_login": for_programs(row.last_login),
                "in_use": row.last_login >= in_use_since,
                "fetched": row.fetched,
                "deleted": row.deleted,
            }
            for row in rows
        ]
        click.echo(json.dumps({"address": str(parsed), "by_device": by_device, "devices": facts}, indent=2))
        return
    if rows:
        print_table(
            ["device", "last login (UTC)", "in use", "fetched", "deleted"],
            [
                (
                    _device(row.credential, row.label),
                    for_people(row.last_login),
                    "yes" if row.last_login >= in_use_since else "no",
                    row.fetched,
                    row.deleted,
                )
                for row in rows
            ],
        )
    else:
        click.echo(f"Nobody has fetched the mail of {parsed} yet.")
    if not by_device:
        click.echo("What one of them deletes is deleted for all; `mailsvc user set --deletes device` changes that.")


def _bring_back(common: Common, address: Address, found: Sequence[DeletedItem], ignore_quota: bool) -> int:
    """How many came back; `MailboxFull` when not all of them fit, with what did fit brought back."""
    count = 0
    for start in range(0, len(found), _AT_ONCE):
        rows = found[start : start + _AT_ONCE]
        now = time.time()
        with offline(common.database, create=False) as txn:
            account_id = _account_id(txn, address)
            fitting = rows if ignore_quota else _fitting(txn, account_id, rows)
            back = undelete(txn, account_id, [row.uid for row in fitting], now)
            if back:
                event = Undeleted(str(address), len(back), tuple(message_id for message_id, _ in back))
                events.record(txn, [events.Entry(now, event)])
        count += len(back)
        if len(fitting) < len(rows):
            raise MailboxFull(
                f"{count:,} of {len(found):,} messages came back, then the quota of {address} was used up;"
                " --ignore-quota brings back the rest"
            )
    return count


def _fitting(txn: Cursor, account_id: int, rows: Sequence[DeletedItem]) -> Sequence[DeletedItem]:
    """The first of these that the quota has room for."""
    now = usage(txn, account_id)
    if now is None or now.quota is None:
        return rows
    used = now.used
    for number, row in enumerate(rows):
        used += row.size
        if used > now.quota:
            return rows[:number]
    return rows


def _account_id(txn: Cursor, address: Address) -> int:
    row = account(txn, address.key)
    if row is None:
        raise NotFound(f"there is no account {address}; `mailsvc user list` shows them")
    return row.id


def _facts(row: DeletedItem, days: int) -> dict[str, object]:
    return {
        "id": row.uid,
        "uidl": row.uidl,
        "deleted": for_programs(row.deleted),
        "until": for_programs(row.deleted + days * 86_400),
        "why": row.why,
        "device": row.credential or None,
        "label": row.label,
        "received": for_programs(row.received_at),
        "octets": row.size,
        "from": row.sender,
        "subject": row.subject,
    }


def _how(row: DeletedItem) -> str:
    if row.why == "expired":
        return "by age"
    return f"by {_device(row.credential, row.label)}" if row.credential else "by all devices"


def _device(credential: str, label: str | None) -> str:
    return f"app password {visible(label)}" if label is not None else visible(credential)
