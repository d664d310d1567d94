"""`mailsvc doctor`: what is wrong with this service, each thing in a sentence with its cure.

It looks at what the service would look at, with the same functions: the settings, the certificates of all sources
through the same gate, the database; and at the running service from outside, as a client: whether each listener
answers, and whether the certificates that it shows are those that lie on the disk and in the rows.  That last
comparison is how a refused renewal shows, however long ago it was refused.

The hardest idea: the service may have been started with options that this command cannot see.  So it takes the same
ones, and what it cannot know it calls "not tried" and never good.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Literal

import click
from cryptography.hazmat.primitives.serialization import Encoding

from mailsvc.certkit.inspect import printable, when
from mailsvc.cli import listening
from mailsvc.cli.answers import JSON
from mailsvc.cli.backup import stale
from mailsvc.cli.listening import NotServed, NotTried, Place
from mailsvc.cli.main import Common
from mailsvc.config import Configuration, load
from mailsvc.errors import MailsvcError, StartRefused
from mailsvc.mail.address import Address
from mailsvc.storage import backups
from mailsvc.storage.aliases import resolution
from mailsvc.storage.opening import glancing, problems_of
from mailsvc.surroundings import surroundings
from mailsvc.tls.live import SCHEMA, certificate_sources
from mailsvc.tls.policy import Asking
from mailsvc.tls.published import check, local_lookup
from mailsvc.tls.sources import read_sources
from mailsvc.tls.table import CredentialTable, make_table
from mailsvc.tls.trust import list_remarks, trust_source

LISTENERS = ("smtp", "submission", "submissions", "lmtp", "pop3", "pop3s")
_BACKUP_SCHEMA = 15
MOST_NAMES = 100
"""Names that are asked for at one listener: a handshake each, one after the other."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    area: str
    severity: Literal["ok", "note", "warning", "error"]
    text: str


@click.command()
@click.option("--certs", metavar="DIR", help="The folder of certificates, as for `twistd mailsvc`.")
@click.option("--hostname", metavar="NAME", help="The name of the service, as for `twistd mailsvc`.")
@click.option("--smtp", metavar="ENDPOINT", multiple=True, help="As for `twistd mailsvc`; so are the next ones.")
@click.option("--submission", metavar="ENDPOINT", multiple=True)
@click.option("--submissions", metavar="ENDPOINT", multiple=True)
@click.option("--lmtp", metavar="ENDPOINT", multiple=True)
@click.option("--pop3", metavar="ENDPOINT", multiple=True)
@click.option("--pop3s", metavar="ENDPOINT", multiple=True)
@JSON
@click.pass_obj
def doctor(
    common: Common, /, certs: str | None, hostname: str | None, as_json: bool, **endpoints: tuple[str, ...]
) -> int:
    """See what is wrong with this service, and how to mend it.

    Looks at the settings, the certificates, the database, and at the listeners of the running service. Give it the
    options that the service was started with. Exit status 1 when there is an error.
    """
    options: dict[str, object] = {"certs": certs, "hostname": hostname, "database": common.database_option}
    options |= {f"listen.{name}": list(given) for name, given in endpoints.items() if given}
    checks = list(examined(common.file, options, os.environ, datetime.now(UTC)))
    errors = sum(each.severity == "error" for each in checks)
    warnings = sum(each.severity == "warning" for each in checks)
    if as_json:
        found = [{"area": each.area, "severity": each.severity, "text": each.text} for each in checks]
        click.echo(json.dumps({"ok": not errors, "checks": found}, indent=2))
    else:
        for each in checks:
            click.echo(f"{each.severity:<8} {each.area}: {each.text}")
        click.echo(f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}.")
    return 1 if errors else 0


def examined(
    file: str | None, options: Mapping[str, object], environ: Mapping[str, str], now: datetime
) -> Iterator[Check]:
    """Everything that was looked at, in an order that puts causes first."""
    try:
        in_force = load(file, options, surroundings(), environ)
    except StartRefused as refused:
        yield from (Check("settings", "error", printable(problem)) for problem in refused.problems)
        return
    configuration = in_force.configuration
    yield Check("settings", "ok", f"they are right ({file or 'no file: defaults and environment only'})")
    yield from (Check("settings", "warning", printable(remark)) for remark in in_force.remarks)
    yield from _database(configuration)
    yield from _backups(configuration, now)
    table, found = _certificates(configuration, environ, now)
    yield from found
    yield from _clients(configuration, now)
    yield from _listeners(configuration, table)


def _database(configuration: Configuration) -> Iterator[Check]:
    name = configuration.database
    problems = problems_of(name)
    if problems:
        yield from (Check("database", "error", printable(problem)) for problem in problems)
        return
    try:
        with glancing(name, SCHEMA) as txn:
            if txn is None:
                text = f"{name} does not exist yet, or waits for an upgrade; the next start makes it"
                yield Check("database", "note", printable(text))
                return
            yield Check("database", "ok", printable(f"{name} can be opened"))
            postmaster = Address("postmaster", configuration.hostname)
            to = resolution(txn, postmaster, hostname=configuration.hostname, programs=configuration.delivery.pipes)
    except MailsvcError as problem:
        yield Check("database", "error", printable(str(problem)))
        return
    if to.refusal is not None:
        text = f"nobody gets mail for {postmaster}, nor what this service has to tell; add a user"
        yield Check("postmaster", "warning", text)
    else:
        reached = [str(mailbox.address) for mailbox in to.accounts] + [str(pipe.program) for pipe in to.programs]
        reached += map(str, to.remotes)
        yield Check("postmaster", "ok", printable(f"mail for {postmaster} goes to {', '.join(reached)}"))


def _clients(configuration: Configuration, now: datetime) -> Iterator[Check]:
    """The CAs and revocation lists for client certificates, of the listeners that ask for them."""
    try:
        read = trust_source(configuration).read()
    except StartRefused as refused:
        yield from (Check("clients", "error", printable(problem)) for problem in refused.problems)
        return
    for name, policy in read.policies.items():
        if policy.clients.asking is Asking.OFF:
            continue
        remarks = list_remarks(policy.clients.trust, now)
        yield from (Check("clients", how, printable(f"{name}: {text}")) for how, text in remarks)
        if not any(how == "error" for how, _ in remarks):
            yield Check("clients", "ok", f"{name}: what client certificates are checked with is there")


def _backups(configuration: Configuration, now: datetime) -> Iterator[Check]:
    """What is known of the recipients in the domains that we are a backup MX for."""
    try:
        with glancing(configuration.database, _BACKUP_SCHEMA) as txn:
            rows = [] if txn is None else backups.backups(txn)
    except MailsvcError:
        return  # `_database` has told of it
    for row in rows:
        wrong = stale(row, now.timestamp())
        text = wrong or "this server is a backup for it, and knows its recipients"
        yield Check("backup", "warning" if wrong else "ok", printable(f"{row.name}: {text}"))


def _certificates(
    configuration: Configuration, environ: Mapping[str, str], now: datetime
) -> tuple[CredentialTable | None, list[Check]]:
    report = read_sources(certificate_sources(configuration, environ), configuration.hostname, now)
    checks = [Check("certificates", each.severity, printable(str(each))) for each in report.findings]
    lookup = local_lookup()
    for each in report.credentials:
        text = f"{each.name} of {each.origin} is for {each.names}, until {when(each.not_after)}"
        checks.append(Check("certificates", "ok", printable(text)))
        fit = check(each, configuration.hostname, lookup, now)
        if fit.unfit:
            checks.append(Check("certificates", "error", printable(f"{each.name}: {fit.unfit}")))
        elif fit.remark:
            checks.append(Check("certificates", "note", printable(f"{each.name}: {fit.remark}")))
        elif fit.matched:
            checks.append(Check("certificates", "ok", f"{printable(each.name)}: matches {', '.join(fit.matched)}"))
    if not report.credentials:
        return None, checks
    return make_table(report.credentials, configuration.hostname), checks


def _listeners(configuration: Configuration, table: CredentialTable | None) -> Iterator[Check]:
    served: list[tuple[str, Place]] = []
    checks: list[Check] = []
    for field in fields(configuration.listen):
        for endpoint in getattr(configuration.listen, field.name) if field.name in LISTENERS else ():
            area = f"{field.name} {endpoint}"
            try:
                served.append((field.name, place_of := listening.place_of(endpoint)))
                checks += _listener(field.name, area, place_of, table, first=len(served) == 1)
            except NotTried as why:
                checks.append(Check(area, "note", f"it was not tried: {why}"))
    silent = [each for each in checks if each.severity == "error" and "nobody answers" in each.text]
    if served and len(silent) == len(served):
        text = "no listener answers: the service does not run, or was started with other options; give them to doctor"
        yield Check("listeners", "error", text)
        checks = [each for each in checks if each not in silent]
    yield from checks


def _listener(name: str, area: str, place: Place, table: CredentialTable | None, *, first: bool) -> Sequence[Check]:
    further = 0
    try:
        if name == "lmtp":
            listening.greeting(name, place)
            return [Check(area, "ok", f"it answers at {place}")]
        shown: dict[str | None, bytes] = {None: listening.certificate(name, place, None)}
        if first and table is not None:
            # All listeners share one table: one of them is asked for every name.
            names, further = names_to_ask(table)
            shown |= {host: listening.certificate(name, place, host) for host in names}
    except NotServed as why:
        return [Check(area, "error", printable(f"{place}: {why}"))]
    wrong = [_differs(asked, der, table) for asked, der in shown.items() if table is not None]
    found = [Check(area, "error", printable(text)) for text in wrong if text]
    compared = (
        "with the certificates that are there" if table is not None else "its certificate has none to compare with"
    )
    found = found or [Check(area, "ok", f"it answers at {place}, {compared}")]
    if further:
        text = f"{further} further names were not asked for, for each certificate the first ones were; `mailsvc probe`"
        found.append(Check(area, "note", f"{text} with --servername asks for any"))
    return found


def names_to_ask(table: CredentialTable) -> tuple[list[str], int]:
    """The names that a listener is asked for, at most MOST_NAMES, and how many further ones there are.

    One of each certificate comes first, then a second of each, and so on; what is below a wildcard stands for it.
    """
    turns: dict[str, int] = {}
    asked: list[tuple[int, str]] = []
    for host in table.by_name:
        name = host.replace("*", "any", 1) if host.startswith("*.") else host
        whose = table.lookup(name).fingerprint.hex()
        turns[whose] = turns.get(whose, 0) + 1
        asked.append((turns[whose], name))
    names = list(dict.fromkeys(name for _, name in sorted(asked, key=lambda each: each[0])))
    return names[:MOST_NAMES], max(0, len(names) - MOST_NAMES)


def _differs(asked: str | None, der: bytes, table: CredentialTable) -> str:
    """What is wrong with the certificate that was shown to a client that asked for a name; "" when it is right."""
    wanted = table.lookup(asked)
    if der == wanted.leaf.public_bytes(Encoding.DER):
        return ""
    whom = f"a client that asks for {asked}" if asked else "a client that asks for no name"
    return (
        f"{whom} is shown another certificate (SHA-256 {hashlib.sha256(der).hexdigest()[:16]}) than {wanted.name} of"
        f" {wanted.origin} ({wanted.fingerprint.hex()[:16]}): the service has not taken it; its log and"
        " `mailsvc why certificates` say why, and SIGHUP makes it look again"
    )
