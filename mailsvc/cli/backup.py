"""`mailsvc backup`: domains of other servers that this one is a backup MX for, and backup servers of our own domains.

Works on the database; a running service asks it at every RCPT, and looks every few seconds for lists that it has to
fetch.  What is accepted is `mailsvc.backup.forms`, the rows are `mailsvc.storage.backups` and `mailsvc.storage.offers`.

The hardest idea is that a backup is two things that only work together: mail is accepted, and it has a way to go on
that never leads back here.  So `add` makes the route too (``backup://OUR-NAME``), unless there is one, and `remove`
takes it away again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import click

from mailsvc.backup.keeping import read_file
from mailsvc.backup.keys import make_key, read_key
from mailsvc.backup.listing import list_in_clear, name_of
from mailsvc.backup.place import primary_of
from mailsvc.cli.answers import JSON, answer, answer_rows
from mailsvc.cli.identity import checked_label, key_of, remark, which_key
from mailsvc.cli.main import Common
from mailsvc.cli.tables import for_programs, last_time
from mailsvc.errors import MailsvcError, NotFound
from mailsvc.mail.address import parse_domain
from mailsvc.relay.routes import Route, RouteKind
from mailsvc.relay.url import parse_relay
from mailsvc.storage import backups, offers
from mailsvc.storage.backups import Backup, NewBackup, Source
from mailsvc.storage.database import offline
from mailsvc.storage.routes import RouteRows, add_route, remove_route
from mailsvc.storage.rows import Cursor

_DAYS = 30
_SHOWN = 200
"""Recipients that `show` prints."""

STALE = 86400.0
"""Seconds after which a list that could not be renewed is worth a warning."""


@click.group()
def backup() -> None:
    """Domains of other servers that this one is a backup MX for."""


# -- the backup's side -------------------------------------------------------------------------------------------------


@backup.command()
@click.argument("name", metavar="DOMAIN")
@click.option(
    "--recipients",
    "file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Who gets mail there: a name or an address on each line.",
)
@click.option(
    "--from-primary", "url", metavar="URL", help="Fetch that from the primary: https://HOST:PORT?cert=FOLDER."
)
@click.option(
    "--key-file",
    "key_file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The key of the primary's list, as its `mailsvc backup offer` has written it.",
)
@click.option("--accept-any", is_flag=True, help="Take mail for everybody as long as there has never been a list.")
@click.option("--separator", default="+", metavar="CHARACTER|none", help="Where a detail begins. [default: +]")
@click.option("--keep", default=f"{_DAYS}d", metavar="TIME", help=f"How long mail waits, as 12h or 30d. [{_DAYS}d]")
@JSON
@click.pass_obj
def add(
    common: Common,
    name: str,
    file: Path | None,
    url: str | None,
    key_file: Path | None,
    accept_any: bool,
    separator: str,
    keep: str,
    as_json: bool,
) -> None:
    """Take mail for DOMAIN and hand it over to its better MX hosts.

    Who gets mail there is known from a file, from the primary, or (without either) from a table: `mailsvc backup
    accept ADDRESS`. All others are refused. A file is read again when it changes, a primary is asked every few minutes.
    """
    domain, now = parse_domain(name), time.time()
    if file is not None and url is not None:
        raise click.UsageError("give one of --recipients and --from-primary")
    if accept_any and url is None:
        raise click.UsageError("--accept-any is for --from-primary; with @DOMAIN in it a file takes everybody")
    if (url is None) != (key_file is None):
        raise click.UsageError("--from-primary and --key-file belong together")
    separator = "" if separator == "none" else separator
    if len(separator) > 1:
        raise click.UsageError("--separator is one character, or none")
    hostname = common.in_force().configuration.hostname
    source, place, stamp = Source.TABLE, "", ""
    found = list_in_clear(domain, (), separator=separator, catch_all=False)
    if url is not None and key_file is not None:
        primary_of(url)
        read_key(key_file)
        source, place = Source.PRIMARY, url
    elif file is not None:
        source, place = Source.FILE, str(file.absolute())
        read = read_file(file, domain, separator)
        assert read.found is not None
        found, stamp = read.found, read.stamp
    new = NewBackup(
        domain,
        source,
        _seconds(keep),
        place,
        "" if key_file is None else str(key_file.absolute()),
        accept_any,
        separator,
    )
    with offline(common.database, create=True) as txn:
        backups.add_backup(txn, new, now)
        if source is not Source.PRIMARY:
            backups.put_list(txn, domain, found, stamp, now)
        row = backups.counted(txn, domain)
        known = RouteRows(txn).route(RouteKind.TO, domain)
        if known is None:
            add_route(txn, Route(RouteKind.TO, domain, (parse_relay(f"backup://{hostname}"),)), now)
    if as_json:
        click.echo(json.dumps(_facts(row, now), indent=2))
        return
    click.echo(f"This server is a backup for {domain} now; {_list_in_words(row, now)}.")
    if known is None:
        click.echo(f"Mail goes on to the MX hosts of {domain} that are better than {hostname}.")
    else:
        click.echo(f"Mail goes on by the route that is there: {', '.join(map(str, known.relays))}.")


@backup.command("list")
@JSON
@click.pass_obj
def list_backups(common: Common, as_json: bool) -> None:
    """List the domains, and how old what is known of their recipients is."""
    now = time.time()
    with offline(common.database, create=False) as txn:
        rows = [backups.counted(txn, row.name) for row in backups.backups(txn)]
    answer_rows(
        as_json,
        [_facts(row, now) for row in rows],
        ["domain", "recipients from", "entries", "age of the list", "mail waits"],
        [(row.name, row.source.value, _names(row), _age(row, now), _period(row.keep)) for row in rows],
        "This server is a backup for nobody; `mailsvc backup add DOMAIN` makes it one.",
    )


@backup.command()
@click.argument("name", metavar="DOMAIN")
@JSON
@click.pass_obj
def show(common: Common, name: str, as_json: bool) -> None:
    """Show what is known of DOMAIN and its recipients."""
    domain, now = parse_domain(name), time.time()
    with offline(common.database, create=False) as txn:
        row = backups.counted(txn, domain)
        names = [] if row.is_hashed else [entry[1:] for entry in backups.entries(txn, row.id) if entry[0] == "="]
    if as_json:
        shown = {} if row.is_hashed else {"names": names}
        click.echo(json.dumps({**_facts(row, now), **shown}, indent=2))
        return
    for words, value in _lines(row, now):
        click.echo(f"{words + ':':<17}{value}")
    for each in names[:_SHOWN]:
        click.echo(f"  {each}@{domain}")
    if len(names) > _SHOWN:
        click.echo(f"  and {len(names) - _SHOWN} more (--json has all)")


@backup.command()
@click.argument("name", metavar="DOMAIN")
@JSON
@click.pass_obj
def remove(common: Common, name: str, as_json: bool) -> None:
    """Be no backup for DOMAIN any more.

    Mail that waits for it stays in the queue, and goes out as mail for every other domain does.
    """
    domain = parse_domain(name)
    with offline(common.database, create=False) as txn:
        backups.remove_backup(txn, domain)
        route = RouteRows(txn).route(RouteKind.TO, domain)
        if route is not None and all(relay.scheme.value == "backup" for relay in route.relays):
            remove_route(txn, RouteKind.TO, domain)
    answer(as_json, {"domain": domain}, f"This server is no backup for {domain} any more.")


@backup.command()
@click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True)
@JSON
@click.pass_obj
def accept(common: Common, addresses: Sequence[str], as_json: bool) -> None:
    """Take mail for ADDRESS, in a domain whose recipients stand in a table; @DOMAIN is everybody there."""
    _change(common, addresses, as_json, wanted=True)


@backup.command()
@click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True)
@JSON
@click.pass_obj
def refuse(common: Common, addresses: Sequence[str], as_json: bool) -> None:
    """Take no more mail for ADDRESS, in a domain whose recipients stand in a table."""
    _change(common, addresses, as_json, wanted=False)


def _change(common: Common, addresses: Sequence[str], as_json: bool, *, wanted: bool) -> None:
    now = time.time()
    with offline(common.database, create=False) as txn:
        for address in addresses:
            _change_one(txn, address, now, wanted=wanted)
    answer(
        as_json,
        {"addresses": list(addresses), "accepted": wanted},
        f"Mail for {', '.join(addresses)} is {'taken' if wanted else 'not taken'} from now on.",
    )


def _change_one(txn: Cursor, address: str, now: float, *, wanted: bool) -> None:
    domain = parse_domain(address.rpartition("@")[2])
    row = backups.counted(txn, domain)
    if row.source is not Source.TABLE:
        where = "its file" if row.source is Source.FILE else "its primary"
        raise MailsvcError(f"the recipients of {domain} are known from {where}; change them there")
    name = name_of(address, domain)
    assert name is not None
    names = {entry[1:] for entry in backups.entries(txn, row.id) if entry[0] == "="}
    catch_all = row.rules.catch_all
    if name == "":
        catch_all = wanted
    elif wanted:
        names.add(name)
    elif name.casefold() in names:
        names.discard(name.casefold())
    else:
        raise NotFound(f"{address} is not in the table; `mailsvc backup show {domain}` shows it")
    found = list_in_clear(domain, names, separator=row.rules.separator, catch_all=catch_all)
    backups.put_list(txn, domain, found, "", now)


# -- the primary's side ------------------------------------------------------------------------------------------------


@backup.command()
@click.argument("label")
@click.argument("domains", metavar="DOMAIN...", nargs=-1, required=True)
@which_key
@click.option(
    "--key-file",
    "key_file",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The key that the list is made with; made when it does not exist. The backup server needs a copy.",
)
@JSON
@click.pass_obj
def offer(
    common: Common,
    label: str,
    domains: Sequence[str],
    file: Path | None,
    spki: str | None,
    key_file: Path,
    as_json: bool,
) -> None:
    """Let the backup server LABEL, known by its client certificate, fetch who gets mail in DOMAIN, a domain of ours.

    The list holds no addresses but digests made with the key. The listener is [listen] recipients.
    """
    key = key_of(file, spki)
    names = [parse_domain(name) for name in domains]
    is_new = not key_file.exists()
    with offline(common.database, create=False) as txn:
        offers.add_offer(txn, checked_label(label), key.spki, key.subject, str(key_file.absolute()), names, time.time())
        if is_new:
            make_key(key_file)
        read_key(key_file)
    remark(key)
    if as_json:
        click.echo(json.dumps({"label": label, "spki_sha256": key.spki, "domains": names, "key_file": str(key_file)}))
        return
    click.echo(f"The backup server {label!r} may fetch the list of {', '.join(names)} (key {key.spki}).")
    if is_new:
        click.echo(f"The key {key_file} was made; the backup server needs a copy of it, and nobody else.")
    if not common.configuration.listen.recipients:
        click.echo("mailsvc: warning: [listen] recipients is off, so nobody can fetch anything yet", err=True)


@backup.command("offers")
@JSON
@click.pass_obj
def list_offers(common: Common, as_json: bool) -> None:
    """List the backup servers that may fetch lists."""
    with offline(common.database, create=False) as txn:
        rows = offers.offers(txn)
    answer_rows(
        as_json,
        [
            {
                "label": row.label,
                "domains": list(row.domains),
                "spki_sha256": row.spki,
                "key_file": row.key_file,
                "last_used": None if row.last_used is None else for_programs(row.last_used),
            }
            for row in rows
        ],
        ["label", "domains", "certificate (SPKI SHA-256)", "key of the list", "last fetched (UTC)"],
        [
            (
                row.label,
                ", ".join(row.domains),
                row.spki,
                row.key_file,
                last_time(row.last_used),
            )
            for row in rows
        ],
        "No list is offered to anybody; `mailsvc backup offer` offers one.",
    )


@backup.command()
@click.argument("label")
@JSON
@click.pass_obj
def withdraw(common: Common, label: str, as_json: bool) -> None:
    """Let a backup server fetch no list any more; what it has fetched it keeps."""
    with offline(common.database, create=False) as txn:
        offers.remove_offer(txn, label)
    answer(as_json, {"label": label}, f"The backup server {label!r} may fetch nothing any more.")


# -- in words ----------------------------------------------------------------------------------------------------------


def stale(row: Backup, now: float) -> str:
    """What is wrong with the list of a domain, "" for nothing; for `mailsvc doctor`."""
    if row.got is None:
        then = "everybody there is accepted" if row.accept_any else "mail for it is put off with 451"
        return f"there has never been a list of recipients, so {then}: {row.problem or 'it was not asked for yet'}"
    if row.problem and now - row.got > STALE:
        return f"the list of recipients is {_period(now - row.got)} old: {row.problem}"
    return ""


def _lines(row: Backup, now: float) -> Iterator[tuple[str, str]]:
    yield "domain", row.name
    yield "recipients from", f"{row.source.value} {row.place}".strip()
    if row.key_file:
        yield "key of the list", row.key_file
    yield "list", _list_in_words(row, now)
    if row.problem:
        yield "problem", row.problem
    yield "mail waits", f"{_period(row.keep)} at most"


def _list_in_words(row: Backup, now: float) -> str:
    if row.got is None:
        then = "everybody there is accepted" if row.accept_any else "every recipient is put off with 451"
        return f"there has been no list of recipients yet, and until then {then}"
    if row.rules.catch_all:
        return "every recipient is accepted" + (" but those that the list refuses" if row.refused else "")
    age = "" if row.source is Source.TABLE else f", {_age(row, now)} old"
    return f"the list has {_names(row)} {'entry' if row.accepted == 1 else 'entries'}{age}"


def _names(row: Backup) -> str:
    return "all" if row.rules.catch_all else str(row.accepted)


def _age(row: Backup, now: float) -> str:
    if row.got is None:
        return "no list yet"
    return "-" if row.source is Source.TABLE else _period(max(0.0, now - row.got))


def _facts(row: Backup, now: float) -> dict[str, object]:
    return {
        "domain": row.name,
        "source": row.source.value,
        "place": row.place or None,
        "key_file": row.key_file or None,
        "accept_any": row.accept_any,
        "accepts_all": row.rules.catch_all,
        "entries": row.accepted,
        "refused_entries": row.refused,
        "list_age_seconds": None if row.got is None else max(0, round(now - row.got)),
        "asked": None if row.asked is None else for_programs(row.asked),
        "problem": row.problem or None,
        "keep_seconds": row.keep,
    }


_UNITS = {"m": 60, "h": 3600, "d": 86400}


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([1-9][0-9]{0,4})([mhd])", text)
    if found is None or not 60 <= (seconds := int(found[1]) * _UNITS[found[2]]) <= 366 * 86400:
        raise MailsvcError(f"{text[:20]} is no time that mail may wait; write it like 12h or 30d, 366d at most")
    return float(seconds)


def _period(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.0f} h"
    return f"{timedelta(seconds=seconds).days} days"
