"""`mailsvc queue list|show|hold|release|flush|reroute|remove`: mail that waits to go out.

Works on the database beside a running service, which learns of a change within a second.  The rows are
`mailsvc.storage.outbound_admin`; how a message went so far is `mailsvc why ID`.

The hardest idea is a queue of a million rows: nothing is read or changed in one piece.  Rows are looked for in the
order of their numbers and changed some hundreds at a time, so that mail keeps flowing in between; what comes into the
queue while the command runs is not touched.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import click

from mailsvc.cli.answers import JSON
from mailsvc.cli.main import Common
from mailsvc.cli.story import visible
from mailsvc.cli.tables import for_people, for_programs, print_table
from mailsvc.cli.why import Since
from mailsvc.errors import NotFound
from mailsvc.mail.address import parse_address, parse_domain
from mailsvc.relay.url import parse_relay
from mailsvc.storage import outbound_admin
from mailsvc.storage.opening import looking, offline
from mailsvc.storage.outbound_admin import QueuedRow, Selection
from mailsvc.storage.rows import Cursor

_AT_ONCE = 300
"""Rows of one transaction."""


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What was asked for, and whether anything was."""

    selection: Selection
    is_everything: bool


def _selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options by which rows are chosen, as one argument ``chosen``."""

    @click.argument("ids", metavar="[ID]...", nargs=-1)
    @click.option("--domain", metavar="DOMAIN", help="Recipients in this domain.")
    @click.option("--to", "recipient", metavar="ADDRESS", help="This recipient.")
    @click.option("--from", "sender", metavar="ADDRESS", help='This sender; "<>" for reports, which have none.')
    @click.option("--account", metavar="ADDRESS", help="Submitted by this account.")
    @click.option(
        "--older", "before", type=Since(), metavar="TIME", help="Queued before: 30m, 2h, 7d ago, 2026-11-20 (UTC)."
    )
    @wraps(command)
    def with_selection(
        *args: Any,
        ids: tuple[str, ...],
        domain: str | None,
        recipient: str | None,
        sender: str | None,
        account: str | None,
        before: float | None,
        **others: Any,
    ) -> None:
        selection = Selection(
            ids,
            None if domain is None else parse_domain(domain),
            None if recipient is None else parse_address(recipient),
            None if sender is None else _sender(sender),
            None if account is None else parse_address(account),
            before,
        )
        command(*args, chosen=_Chosen(selection, selection == Selection()), **others)

    return with_selection


def _sender(text: str) -> str:
    return "" if text in ("", "<>") else str(parse_address(text))


_ALL = click.option("--all", "everything", is_flag=True, help="Everything in the queue.")


@click.group()
def queue() -> None:
    """Mail that waits to go out.

    An ID is the number of a recipient in the queue, or the id of a message, which stands for all its recipients.
    """


@queue.command("list")
@_selecting
@click.option("--held", is_flag=True, help="Only what is held.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, help="No more than that.")
@JSON
@click.pass_obj
def list_queue(common: Common, chosen: _Chosen, held: bool, limit: int, as_json: bool) -> None:
    """List what waits, a line for each recipient, the oldest first."""
    selection = chosen.selection
    if held:
        selection = replace(selection, held=True)
    now = time.time()
    with looking(common.database) as txn:
        rows = outbound_admin.select(txn, selection, now, limit + 1)
        totals = outbound_admin.totals(txn, now)
    is_cut, rows = len(rows) > limit, rows[:limit]
    if as_json:
        click.echo(json.dumps([_facts(row) for row in rows], indent=2))
        return
    if rows:
        print_table(
            ["number", "message", "queued (UTC)", "tries", "next (UTC)", "recipient", "why it waits"],
            [
                (
                    str(row.id),
                    row.trace_id,
                    for_people(row.created),
                    row.attempts,
                    _next(row),
                    visible(row.recipient),
                    visible(row.last_text[:100]),
                )
                for row in rows
            ],
        )
    elif totals.rows:
        click.echo("Nothing in the queue is like that.")
    else:
        click.echo("The queue is empty.")
    if is_cut:
        click.echo(f"More than {limit:,} recipients; --limit shows more of them.")
    elif len(rows) > 1:
        click.echo(f"{totals.rows:,} recipients of {totals.messages:,} messages wait, {totals.held:,} of them held.")


@queue.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@JSON
@click.pass_obj
def show(common: Common, ids: tuple[str, ...], as_json: bool) -> None:
    """Show all that is known of a recipient, or of the recipients of a message."""
    with looking(common.database) as txn:
        rows = outbound_admin.select(txn, Selection(ids), time.time(), 10_000)
    if not rows:
        raise NotFound(f"nothing in the queue is {' or '.join(map(visible, ids))}; `mailsvc queue list` shows what is")
    if as_json:
        click.echo(json.dumps([_facts(row) for row in rows], indent=2))
        return
    for number, row in enumerate(rows):
        if number:
            click.echo()
        for name, value in _lines(row):
            click.echo(f"{name + ':':<15}{visible(value)}")


def _changing(name: str, text: str, change: Callable[[Cursor, Sequence[QueuedRow], float], int], done: str) -> None:
    """A command that does one thing to the rows that are chosen."""

    def command(common: Common, chosen: _Chosen, as_json: bool, everything: bool = False) -> None:
        _change(common, chosen, everything, change, done, as_json)

    command.__doc__ = text
    decorated: Callable[..., None] = click.pass_obj(_selecting(_ALL(JSON(command))))
    queue.command(name)(decorated)


_changing(
    "hold",
    """Try these no more until they are released.

    What is being sent at this moment may still go out.
    """,
    outbound_admin.hold,
    "held",
)
_changing("release", "Try held mail again, at once.", outbound_admin.release, "released")
_changing(
    "flush",
    """Try these now and not at their own time.

    What is held stays held.
    """,
    outbound_admin.flush,
    "will be tried now",
)
_changing(
    "remove",
    """Remove these from the queue: they are not delivered, and their senders hear nothing.

    What is being sent at this moment may still go out.
    """,
    outbound_admin.remove,
    "removed",
)


@queue.command()
@_selecting
@_ALL
@click.option("--via", metavar="URL", help="The relay, as in `mailsvc route add`: tls://relay.example.net for example.")
@click.option("--by-routes", is_flag=True, help="As the routes say, again.")
@JSON
@click.pass_obj
def reroute(common: Common, chosen: _Chosen, everything: bool, via: str | None, by_routes: bool, as_json: bool) -> None:
    """Send these by another relay than the routes say, at once."""
    if (via is None) is not by_routes:
        raise click.UsageError("say where to: --via URL, or --by-routes")
    url = "" if via is None else str(parse_relay(via))

    def change(txn: Cursor, rows: Sequence[QueuedRow], now: float) -> int:
        return outbound_admin.reroute(txn, rows, url, now)

    _change(common, chosen, everything, change, f"will go by {url}" if url else "will go by the routes", as_json)


def _change(
    common: Common,
    chosen: _Chosen,
    everything: bool,
    change: Callable[[Cursor, Sequence[QueuedRow], float], int],
    done: str,
    as_json: bool,
) -> None:
    if chosen.is_everything is not everything:
        raise click.UsageError("say which: an ID, --domain, --to, --from, --account, --older, or else --all")
    found = changed = 0
    for rows in _slices(common, chosen.selection):
        with offline(common.database, create=False) as txn:
            # What was found may have gone meanwhile.
            still = outbound_admin.select(txn, Selection(tuple(str(row.id) for row in rows)), time.time(), len(rows))
            changed += change(txn, still, time.time())
        found += len(rows)
    if chosen.selection.ids and not found:
        ids = " or ".join(map(visible, chosen.selection.ids))
        raise NotFound(f"nothing in the queue is {ids}; `mailsvc queue list` shows what is")
    if as_json:
        click.echo(json.dumps({"found": found, "changed": changed}))
        return
    others = f"; {found - changed:,} others needed no change" if found > changed else ""
    click.echo(f"{changed:,} {'recipient' if changed == 1 else 'recipients'} {done}{others}.")


def _slices(common: Common, selection: Selection) -> Iterator[list[QueuedRow]]:
    """The rows that are there now, some hundreds at a time."""
    after, last = 0, None
    while True:
        with looking(common.database) as txn:
            # By number and not by time: the clock may have been set back since they came.
            last = outbound_admin.last_number(txn) if last is None else last
            rows = outbound_admin.select(txn, selection, time.time(), _AT_ONCE, after)
        if not rows:
            return
        after = rows[-1].id
        if old := [row for row in rows if row.id <= last]:
            yield old


def _next(row: QueuedRow) -> str:
    return for_people(row.due) if row.state == "waiting" and row.due is not None else row.state


def _lines(row: QueuedRow) -> Iterator[tuple[str, str]]:
    yield "number", str(row.id)
    yield "message", f"{row.trace_id}, {row.size:,} octets"
    yield "from", f"<{row.sender}>" + (f", submitted by {row.account}" if row.account else "")
    yield "to", f"<{row.recipient}>"
    if row.subject is not None:
        yield "subject", row.subject[:200]
    yield "queued", f"{for_people(row.created)} UTC"
    yield "state", row.state if row.state != "waiting" else f"waiting, next attempt {_next(row)} UTC"
    yield "destination", row.destination + (f", by {row.via}" if row.via else "")
    yield "attempts", f"{row.attempts:,}"
    if row.duplicate_possible:
        yield "note", "a process had begun with it and did not say what came of it; it may have arrived"
    if row.attempts:
        yield "last attempt", f"{row.last_host}: {row.last_text}" if row.last_host else row.last_text


def _facts(row: QueuedRow) -> dict[str, object]:
    return {
        "number": row.id,
        "message": row.trace_id,
        "state": row.state,
        "sender": row.sender,
        "recipient": row.recipient,
        "account": row.account or None,
        "size": row.size,
        "queued": for_programs(row.created),
        "next": for_programs(row.due) if row.state == "waiting" and row.due is not None else None,
        "destination": row.destination,
        "via": row.via or None,
        "attempts": row.attempts,
        "duplicate_possible": row.duplicate_possible,
        "last_host": row.last_host or None,
        "last_text": row.last_text or None,
    }
