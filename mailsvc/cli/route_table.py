"""`mailsvc route add|list|remove` and `mailsvc route credentials`: the table of routes, and logins at relays.

Commands of the group `mailsvc.cli.route`.  They work on the database; a running service asks it for every message, so
that what is changed here holds for the next attempt.  What a route and a URL mean is `mailsvc.relay.routes` and
`mailsvc.relay.url`.

The hardest idea is what to warn of.  What contradicts itself is no URL at all; what is possible and perhaps not meant
(a fallback to plain text, a password for whoever answers, credentials that are not there yet) is written and told.
"""

from __future__ import annotations

import ipaddress
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from mailsvc.cli.answers import JSON, answer, answer_rows
from mailsvc.cli.main import Common
from mailsvc.cli.secret import mechanism_option, new_secret, note_of_key_file, one_source, password_options, sealing
from mailsvc.cli.tables import for_people, for_programs, print_table
from mailsvc.errors import AlreadyExists, MailsvcError
from mailsvc.mail.address import parse_address, parse_domain
from mailsvc.relay.logins import SECRET_LIMIT, LoginKind, RelayLogin, read_logins
from mailsvc.relay.routes import Route, RouteKind
from mailsvc.relay.url import LABEL, Relay, Scheme, Tls, parse_relay
from mailsvc.storage.accounts import domain_exists
from mailsvc.storage.database import offline
from mailsvc.storage.routes import (
    LoginRow,
    add_route,
    login_row,
    login_rows,
    put_login,
    remove_login,
    remove_route,
    routes,
)
from mailsvc.storage.rows import Cursor
from mailsvc.tls.levels import Level


def _selector(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of which one says what the route goes by."""
    for option in (
        click.option("--default", "everything", is_flag=True, help="For all that no other route is for."),
        click.option("--from", "sender", metavar="ADDRESS|DOMAIN", help="By the sender (MAIL FROM)."),
        click.option("--account", metavar="ADDRESS", help="By the account that handed the message in."),
        click.option("--to", "domain", metavar="DOMAIN", help="By the recipient's domain; *.DOMAIN for all below it."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@_selector
@click.option(
    "--weight", "weights", metavar="N", type=int, multiple=True, help="One for each URL: shared out, not in turn."
)
@click.option("--at-once", metavar="N", type=int, help="The most conversations at a time, in each process.")
@click.option("--replace", is_flag=True, help="In the place of the route that is there.")
@JSON
@click.pass_obj
def add(
    common: Common,
    urls: tuple[str, ...],
    weights: tuple[int, ...],
    at_once: int | None,
    domain: str | None,
    account: str | None,
    sender: str | None,
    everything: bool,
    replace: bool,
    as_json: bool,
) -> None:
    """Let mail go by way of URL; when there are several, in turn until one answers.

    \b
    smtp+tls://HOST  STARTTLS when it is offered, else PLAIN TEXT (not as in
                     OpenSMTPD since 6.4, where TLS is mandatory with it)
    smtp://HOST      plain text
    tls://HOST       STARTTLS, or not at all
    smtps://HOST     TLS from the first octet, port 465, or not at all
    ssl://HOST       STARTTLS, else TLS from the first octet, or not at all
    lmtp://HOST      LMTP; lmtp:///PATH for a UNIX socket
    backup://NAME    we are the backup MX called NAME: to better MX hosts

    Without HOST the MX hosts of the recipient's domain are meant. LABEL@ before HOST logs in with the credentials of
    that label. Behind a ?, joined by &: verify=none|chain|name, ca=FILE, cert=NAME, pin=SHA256.
    """
    kind, key = _chosen(domain, account, sender, everything)
    route = Route(kind, key, tuple(parse_relay(url) for url in urls), weights, at_once)
    file = common.configuration.relay.credentials_file
    with offline(common.database, create=False) as txn:
        replaced = add_route(txn, route, time.time(), replace=replace)
        warnings = list(_warnings(txn, route, file))
    if as_json:
        click.echo(json.dumps({**_facts(route), "replaced": replaced, "warnings": warnings}, indent=2))
        return
    click.echo(f"The route {route.name} {'was replaced' if replaced else 'was added'}; mail goes")
    for relay in route.relays:
        click.echo(f"  {relay.in_words}")
    if route.at_once is not None:
        click.echo(f"  {route.limit_in_words}")
    for warning in warnings:
        click.echo(f"mailsvc: warning: {warning}", err=True)


@click.command("list")
@JSON
@click.pass_obj
def list_routes(common: Common, as_json: bool) -> None:
    """List the routes, in the order in which they are looked for."""
    with offline(common.database, create=False) as txn:
        found = routes(txn)
    if as_json:
        click.echo(json.dumps([_facts(route) for route in found], indent=2))
        return
    if not found:
        click.echo("There are no routes: mail goes to the MX hosts of its domain, with TLS when they have it.")
        return
    lines = []
    for route in found:
        for place, relay in enumerate(route.relays):
            order = f"weight {route.weights[place]}" if route.weights else str(place + 1)
            most = "" if route.at_once is None else str(route.at_once)
            lines.append((route.name, order if len(route.relays) > 1 else "", most, str(relay)))
    print_table(["route", "order", "at once", "URL"], lines)


@click.command()
@_selector
@JSON
@click.pass_obj
def remove(
    common: Common, domain: str | None, account: str | None, sender: str | None, everything: bool, as_json: bool
) -> None:
    """Remove a route; its mail then goes by the next that fits."""
    kind, key = _chosen(domain, account, sender, everything)
    with offline(common.database, create=False) as txn:
        remove_route(txn, kind, key)
    name = " ".join((kind.value, key)).strip()
    answer(as_json, {"route": name, "removed": True}, f"The route {name} was removed.")


@click.group()
def credentials() -> None:
    """As whom we log in at relays."""


@credentials.command("add")
@click.argument("label")
@click.option("--user", metavar="NAME", default="", help="The name to log in with.")
@click.option(
    "--kind",
    type=click.Choice([kind.value for kind in LoginKind]),
    default=LoginKind.PASSWORD.value,
    help="password (the default), token (OAuth 2), or certificate: none but our client certificate.",
)
@password_options
@mechanism_option
@click.option("--replace", is_flag=True, help="In the place of those of this label.")
@JSON
@click.pass_obj
def add_credentials(
    common: Common,
    label: str,
    user: str,
    kind: str,
    from_stdin: bool,
    file: Path | None,
    mechanisms: tuple[str, ...],
    replace: bool,
    as_json: bool,
) -> None:
    """Keep credentials under LABEL, which URLs name: tls://LABEL@HOST.

    The password is sealed with a key that is not in the database. Without an option it is asked for, twice.
    """
    one_source(from_stdin, file)
    if not LABEL.match(label):
        raise MailsvcError("a label has letters, digits and . _ - only, 64 at most")
    with offline(common.database, create=True) as txn:
        if not replace and login_row(txn, label) is not None:
            raise AlreadyExists(f"there are credentials {label} already; --replace puts these in their place")
    if kind == LoginKind.CERTIFICATE.value:
        if from_stdin or file is not None:
            raise click.UsageError("credentials of the kind certificate have no password")
        login, key, made = RelayLogin(label, LoginKind.CERTIFICATE, user, mechanisms=mechanisms), None, None
    else:
        secret = new_secret(f"The {kind} of {label}", from_stdin, file, SECRET_LIMIT)
        login = RelayLogin(label, LoginKind(kind), user, secret, tuple(dict.fromkeys(mechanisms)))
        key, made = sealing(common)
    with offline(common.database, create=True) as txn:
        replaced = put_login(txn, login, key, time.time())
    if as_json:
        facts = {"label": label, "kind": kind, "user": user, "replaced": replaced}
        click.echo(json.dumps({**facts, "key_file": None if made is None else str(made)}))
        return
    click.echo(f"The credentials {label} were {'replaced' if replaced else 'added'}.")
    if made is not None:
        click.echo(f"{made} is a new key, with which they are sealed. {note_of_key_file(made)}")


@credentials.command("list")
@JSON
@click.pass_obj
def list_credentials(common: Common, as_json: bool) -> None:
    """List the labels, without what is secret."""
    file = common.configuration.relay.credentials_file
    in_file = read_logins(Path(file)) if file else {}
    with offline(common.database, create=False) as txn:
        rows = login_rows(txn)
    facts: list[dict[str, str | None]] = [
        {
            "label": login.label,
            "kind": login.kind.value,
            "user": login.user,
            "mechanisms": _words(login),
            "where": file,
            "changed": None,
        }
        for _, login in sorted(in_file.items())
    ]
    hidden = {row.label for row in rows} & set(in_file)
    for row in rows:
        where = "the database, not used" if row.label in hidden else "the database"
        moment = for_programs(row.changed) if as_json else for_people(row.changed)
        known = {"label": row.label, "kind": row.kind.value, "user": row.user, "mechanisms": _words(row)}
        facts.append({**known, "where": where, "changed": moment})
    answer_rows(
        as_json,
        facts,
        ["label", "kind", "user", "mechanisms", "where", "changed"],
        [[each or "" for each in f.values()] for f in facts],
        "There are no credentials yet; `mailsvc route credentials add LABEL --user NAME` adds some.",
    )


def _words(login: RelayLogin | LoginRow) -> str | None:
    return " ".join(login.mechanisms) or None


@credentials.command("remove")
@click.argument("label")
@JSON
@click.pass_obj
def remove_credentials(common: Common, label: str, as_json: bool) -> None:
    """Forget the credentials of LABEL; refused while a route uses them."""
    with offline(common.database, create=False) as txn:
        remove_login(txn, label)
    answer(as_json, {"label": label, "removed": True}, f"The credentials {label} were removed.")


def _chosen(domain: str | None, account: str | None, sender: str | None, everything: bool) -> tuple[RouteKind, str]:
    given = [each for each in (domain, account, sender) if each is not None]
    if len(given) + everything != 1:
        raise click.UsageError("say what the route is for with one of --to, --account, --from, --default")
    if domain is not None:
        star = "*." if domain.startswith("*.") else ""
        return RouteKind.TO, star + parse_domain(domain.removeprefix("*."))
    if account is not None:
        return RouteKind.ACCOUNT, parse_address(account).key
    if sender is not None:
        return RouteKind.FROM, parse_address(sender).key if "@" in sender else parse_domain(sender)
    return RouteKind.DEFAULT, ""


def _facts(route: Route) -> dict[str, object]:
    weights = route.weights or (None,) * len(route.relays)
    return {
        "route": route.name,
        "by": route.kind.value,
        "key": route.key,
        "at_once": route.at_once,
        "relays": [
            {"url": str(relay), "weight": weight, "meaning": relay.in_words, "at_least": relay.required.name.lower()}
            for relay, weight in zip(route.relays, weights, strict=True)
        ],
    }


def _warnings(txn: Cursor, route: Route, file: str) -> Iterator[str]:
    if route.kind is RouteKind.TO and domain_exists(txn, route.key):
        yield f"{route.key} is a domain of ours: its mail is delivered here, and the route is never asked"
    for relay in route.relays:
        if relay.scheme is Scheme.SMTP_TLS:
            yield (
                f"{relay} falls back to plain text when TLS is not offered or fails; tls:// never does"
                " (in OpenSMTPD since 6.4 smtp+tls means what tls:// means here)"
            )
        elif relay.tls is Tls.NEVER and not relay.path and not _is_loopback(relay.host):
            yield f"{relay} sends mail in plain text: everybody on the way can read and change it"
        if relay.label is not None:
            yield from _warnings_of_login(txn, relay, relay.label, file)
        if relay.ca is not None and not os.access(relay.ca, os.R_OK):
            yield f"{relay.ca} is not there, or cannot be read: mail for this relay waits until it can"


def _warnings_of_login(txn: Cursor, relay: Relay, label: str, file: str) -> Iterator[str]:
    if relay.required is Level.ENCRYPTED:
        yield f"{relay} checks no certificate: whoever answers there gets the password"
    if login_row(txn, label) is None and not (file and label in read_logins(Path(file))):
        yield f"there are no credentials {label} yet; `mailsvc route credentials add {label} --user NAME` adds them"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
