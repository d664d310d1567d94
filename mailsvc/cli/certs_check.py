"""`mailsvc certs verify|list`: what is wrong with certificates, and what there is.

Commands of the group `mailsvc.cli.certs`. A folder is judged as the server judges it at its start (`tls.sources`),
a file as a careful peer would (`certkit.trust`), against given CAs or those that this machine trusts.
"""

from __future__ import annotations

import json
import os
import ssl
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import click
from cryptography.utils import CryptographyDeprecationWarning

from mailsvc.certkit.authority import current_list
from mailsvc.certkit.describe import describe, key_kind
from mailsvc.certkit.files import Source, current_reader, read
from mailsvc.certkit.inspect import (
    Chain,
    Finding,
    Passphrase,
    check_fit,
    check_private,
    common_name,
    read_chain,
    read_key,
    when,
)
from mailsvc.certkit.inventory import Entry, entry_of, folder_entries, issued_entries, revoked_findings
from mailsvc.certkit.passphrase import PassphraseSource, passphrase_source
from mailsvc.certkit.places import authority_places
from mailsvc.certkit.revocation import list_problems, read_lists
from mailsvc.certkit.trust import Trust, check_trust
from mailsvc.cli.certs_common import JSON, file_option, findings_json, from_file
from mailsvc.cli.main import Common
from mailsvc.cli.tables import print_table
from mailsvc.errors import MailsvcError
from mailsvc.storage.certificates import certificates
from mailsvc.storage.dialect import dialect_of
from mailsvc.storage.opening import looking
from mailsvc.tls.credential import Credential
from mailsvc.tls.roots import RootsFile, RootsFolder
from mailsvc.tls.roots import Trust as TrustedRoots
from mailsvc.tls.sources import read_folder
from mailsvc.tls.verify import read_roots

_PATH = click.Path(path_type=Path)


@click.command(short_help="Check certificates and tell every finding.")
@click.argument("path", metavar="DIR|FILE", type=_PATH)
@click.option("--hostname", metavar="NAME", help="Also check that a certificate covers this name.")
@click.option("--ca", "roots", metavar="FILE|DIR", type=_PATH, help="Trust these CAs only, not this machine's. (FILE)")
@click.option("--crl", "lists", metavar="FILE", type=_PATH, multiple=True, help="A CA's revocation list. (FILE)")
@click.option("--key", "key_file", metavar="FILE", type=_PATH, help="Check that this private key belongs to it. (FILE)")
@click.option("--purpose", type=click.Choice(("server", "client")), help="What it is for. [default: server] (FILE)")
@click.option("--at", "at", metavar="DATE", type=click.DateTime(("%Y-%m-%d",)), help="Judge as of this day. (FILE)")
@file_option(
    "--passphrase-file",
    "The passphrase of encrypted keys (else MAILSVC_KEY_PASSPHRASE_FILE says where it is).",
)
@JSON
def verify(
    path: Path,
    hostname: str | None,
    roots: Path | None,
    lists: tuple[Path, ...],
    key_file: Path | None,
    purpose: Literal["server", "client"] | None,
    at: datetime | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Check certificates and tell every finding; exit status 1 when one is an error.

    A folder DIR of certificates and keys is checked as the server does at its start. The certificate in a FILE (with
    its issuers) is checked as somebody does who is shown it: against CAs, revocation lists, a name and a purpose.
    """
    now = datetime.now(UTC)
    if path.is_dir() or not path.exists():
        if roots or lists or key_file or purpose or at:
            raise click.UsageError("the options marked (FILE) are for a file with a certificate, not for a folder")
        _verify_folder(path, hostname, _source(passphrase_file), now, as_json)
        return
    moment = now if at is None else at.replace(tzinfo=UTC)
    place, trusted = _trusted(roots)
    crls = tuple(each for file in lists for each in read_lists(read(file)))
    chain, findings = read_chain(read(path))
    way: Chain = ()
    if chain:
        trust = Trust(trusted, place, crls)
        verdict = check_trust(chain, path, trust, moment, purpose=purpose or "server", hostname=hostname)
        way, findings = verdict.path, [*verdict.findings]
    if key_file is not None and chain:
        source = read(key_file)
        key, more = read_key(source, _source(passphrase_file), cure="give it with --passphrase-file FILE")
        findings += [*check_private(source, current_reader()), *more]
        findings += [] if key is None else check_fit(chain, key, path, key_file)
    errors = [each for each in findings if each.severity == "error"]
    if as_json:
        shown = [describe(each).as_json() for each in way]
        click.echo(json.dumps({"ok": not errors, "path": shown, "findings": findings_json(findings)}, indent=2))
    else:
        for number, each in enumerate(way):
            click.echo(
                f"{'issuer' if number else 'subject':<8} {common_name(each)}, until {when(each.not_valid_after_utc)}"
            )
        for finding in findings:
            click.echo(f"{finding.severity:<8} {finding}")
        click.echo(
            _told(errors, findings, f"a careful {'server' if purpose == 'client' else 'client'} would", "accept it")
        )
    if errors:
        raise click.exceptions.Exit(1)


@click.command("list", short_help="List certificates and requests.")
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option("--issued", is_flag=True, help="What the private CA has signed, and what became of it.")
@JSON
@click.pass_obj
def list_certificates(common: Common, folder: Path | None, issued: bool, as_json: bool) -> None:
    """List what there is: certificates and requests in DIR (else the configured folder), rows of the database.

    The state says what to look at; `mailsvc certs verify` says what is wrong and what to do.
    """
    now = datetime.now(UTC)
    configuration = common.configuration
    certs = configuration.certs if folder is None else folder
    if folder is not None and not certs.is_dir():
        raise MailsvcError(f"{certs}: there is no such folder; give the folder of certificates")
    entries = (
        issued_entries(certs, now) if issued else [*folder_entries(certs, now), *_rows(configuration.database, now)]
    )
    if as_json:
        click.echo(json.dumps([each.as_json() for each in entries], indent=2))
    elif entries:
        rows = [
            (each.kind, each.name, ", ".join(each.names), each.key, _day(each), each.state, each.place)
            for each in entries
        ]
        if issued:
            rows = [(*row[:-1], each.serial) for row, each in zip(rows, entries, strict=True)]
        print_table(["kind", "name", "names", "key", "until", "state", "serial" if issued else "place"], rows)
    elif issued:
        click.echo(f"No private CA in {certs} has signed anything.")
    else:
        click.echo(f"There are no certificates in {certs} or in the database; `mailsvc certs init` makes a first one.")


def _verify_folder(folder: Path, hostname: str | None, passphrase: Passphrase, now: datetime, as_json: bool) -> None:
    report = read_folder(folder, hostname, passphrase, now)
    findings = [*report.findings, *_authority_findings(folder, report.credentials, now)]
    errors = [each for each in findings if each.severity == "error"]
    if as_json:
        good = [_credential_json(each) for each in report.credentials]
        click.echo(json.dumps({"ok": not errors, "certificates": good, "findings": findings_json(findings)}, indent=2))
    else:
        for credential in report.credentials:
            click.echo(f"ok       {_credential_line(credential, folder, now)}")
        for finding in findings:
            click.echo(f"{finding.severity:<8} {finding}")
        click.echo(_told(errors, findings, "the server would", "start"))
    if errors:
        raise click.exceptions.Exit(1)


def _authority_findings(folder: Path, credentials: tuple[Credential, ...], now: datetime) -> list[Finding]:
    """What the private CA says: warnings, because the server starts with what its clients may yet refuse."""
    places = authority_places(folder)
    findings = [
        Finding("warning", str(each.sources[0] if each.sources else each.name), text)
        for each in credentials
        for text in revoked_findings(folder, each.chain)
    ]
    try:
        revoked = current_list(places)
    except MailsvcError as problem:
        return [*findings, Finding("warning", str(places.revoked), str(problem).partition(": ")[2])]
    chain, _ = read_chain(read(places.certificate))
    if revoked is not None and chain:
        findings += [Finding("warning", str(places.revoked), text) for _, text in list_problems(revoked, chain[0], now)]
    return findings


def _rows(database: str, now: datetime) -> list[Entry]:
    """The rows, none when there is no database yet: `certs` works without one."""
    if not dialect_of(database).exists():
        return []
    with looking(database) as txn:
        rows = certificates(txn)
    entries = []
    for row in rows:
        place = f"the database, {row.name}"
        chain, findings = read_chain(Source(Path(place), row.chain))
        if chain:
            entries.append(entry_of("row", row.name, place, chain, now))
        else:
            entries.append(Entry("row", row.name, place, (), "", "", "", None, findings[0].text))
    return entries


def _trusted(roots: Path | None) -> tuple[str, Chain]:
    """The CAs to believe, and what to call them."""
    if roots is not None:
        return str(roots), read_roots(TrustedRoots(RootsFolder(roots) if roots.is_dir() else RootsFile(roots)))
    paths = ssl.get_default_verify_paths()
    found: list[Chain] = []
    with warnings.catch_warnings():
        # An old root with the serial number 0 is not worth a line on everybody's terminal.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        if paths.cafile:
            found.append(read_roots(TrustedRoots(RootsFile(Path(paths.cafile)))))
        elif paths.capath:
            found.append(read_roots(TrustedRoots(RootsFolder(Path(paths.capath)))))
    return "this machine's list of CAs", tuple({each: None for chain in found for each in chain})


def _told(errors: list[Finding], findings: list[Finding], who: str, does: str) -> str:
    if not findings:
        return "Everything is in order."
    others = len(findings) - len(errors)
    counts = f"{len(errors)} error{'s' * (len(errors) != 1)}, {others} warning{'s' * (others != 1)}"
    return f"{counts}: {who} {'not ' if errors else ''}{does}."


def _day(entry: Entry) -> str:
    return "" if entry.not_after is None else f"{entry.not_after:%Y-%m-%d}"


def _credential_line(credential: Credential, folder: Path, now: datetime) -> str:
    place, until = folder / credential.name, when(credential.not_after)
    days = (credential.not_after - now).days
    return f"{place}: covers {credential.names}; {key_kind(credential.leaf)}; until {until} ({days} days)"


def _credential_json(credential: Credential) -> dict[str, object]:
    return {
        "name": credential.name,
        "files": [str(each) for each in credential.sources],
        "chain": [describe(each).as_json() for each in credential.chain],
    }


def _source(file: Path | None) -> Passphrase:
    if file is None:
        return passphrase_source(os.environ)
    if str(file) != "-":
        return PassphraseSource(file)
    passphrase = from_file(file)
    return lambda: passphrase
