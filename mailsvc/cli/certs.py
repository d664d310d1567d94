"""`mailsvc certs init|verify|show`: a first private CA, every finding about a folder, and what is in a file.

Nothing here asks a question, so that scripts and `make run` can use it; a passphrase comes from a file. What
is done and found is in `certkit` and `tls.sources`: this module is their words for people, and `--json` for
programs. Exit status: 0, 1 when the answer is no (a finding that is an error, something in the way), 2 for a
wrong command line.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from mailsvc.certkit.describe import describe, key_kind
from mailsvc.certkit.files import Source, read
from mailsvc.certkit.inspect import Finding, Passphrase, read_chain, when
from mailsvc.certkit.layout import AUTHORITY_CERTIFICATE, CHAIN, Created, create
from mailsvc.certkit.passphrase import PassphraseSource, first_line, passphrase_source
from mailsvc.errors import MailsvcError
from mailsvc.tls.credential import Credential
from mailsvc.tls.sources import read_folder


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def certs() -> None:
    """Make, check and show certificates."""


@certs.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--hostname",
    "hostnames",
    metavar="NAME",
    multiple=True,
    required=True,
    help="A host name or IP address that the certificate covers; give it again for more. The first names the folder.",
)
@click.option(
    "--passphrase-file",
    metavar="FILE",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Encrypt the private CA's key with the first line of FILE (- is standard input); also opens an existing one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def init(folder: Path, hostnames: tuple[str, ...], passphrase_file: Path | None, as_json: bool) -> None:
    """Make a private CA and a server certificate in DIR.

    Nothing is asked and nothing that exists is overwritten. With a private CA in DIR/ca already, only the
    server certificate is made: to renew one, move its folder away and run this again.
    """
    passphrase = None if passphrase_file is None else _passphrase(passphrase_file)
    created = create(folder, hostnames, passphrase, datetime.now(UTC))
    click.echo(json.dumps(_created_json(created), indent=2) if as_json else "\n".join(_created_lines(created, folder)))


@certs.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--hostname", metavar="NAME", help="Also check that a certificate in DIR covers this name.")
@click.option(
    "--passphrase-file",
    metavar="FILE",
    type=click.Path(path_type=Path, allow_dash=True),
    help="The passphrase of encrypted server keys (else MAILSVC_KEY_PASSPHRASE_FILE says where it is).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def verify(folder: Path, hostname: str | None, passphrase_file: Path | None, as_json: bool) -> None:
    """Check every certificate and key in DIR as the server does at its start; exit status 1 when it would
    refuse."""
    now = datetime.now(UTC)
    report = read_folder(folder, hostname, _source(passphrase_file), now)
    if as_json:
        good = [_credential_json(each) for each in report.credentials]
        findings = [{"severity": each.severity, "subject": each.subject, "text": each.text} for each in report.findings]
        click.echo(json.dumps({"ok": not report.errors, "certificates": good, "findings": findings}, indent=2))
    else:
        for credential in report.credentials:
            click.echo(f"ok       {_credential_line(credential, folder, now)}")
        for finding in report.findings:
            click.echo(f"{finding.severity:<8} {finding}")
        click.echo(_summary(report.errors, report.warnings))
    if report.errors:
        raise click.exceptions.Exit(1)


@certs.command()
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the certificates as JSON.")
def show(path: Path, as_json: bool) -> None:
    """Show names, issuer, dates, key and fingerprints of each certificate in a file, or in a certs folder."""
    files = _certificate_files(path) if path.is_dir() else [path]
    if not files:
        raise MailsvcError(f"{path}: there is no certificate in this folder")
    shown: list[dict[str, object]] = []
    problems: list[Finding] = []
    for file in files:
        chain, found = read_chain(read(file))
        problems += found
        for number, certificate in enumerate(chain, 1):
            description = describe(certificate)
            shown.append({"file": str(file), "number": number, **description.as_json()})
            if not as_json:
                click.echo(f"{file}, certificate {number} of {len(chain)}")
                click.echo("".join(f"  {line}\n" for line in description.lines()))
    if as_json:
        click.echo(json.dumps(shown, indent=2))
    if problems:
        raise MailsvcError("\n".join(map(str, problems)))


def _created_lines(created: Created, folder: Path) -> list[str]:
    if not created.written:
        return [
            f"Nothing to do: {created.folder} has a certificate for {created.names}, "
            f"valid until {when(created.not_after)}."
        ]
    width = max(len(str(each.path)) for each in created.written)
    lines = [f"{each.path!s:<{width}}  {each.mode:04o}  {each.what}" for each in created.written]
    state = "is encrypted" if created.authority_encrypted else "is NOT encrypted (--passphrase-file would do that)"
    return [
        *lines,
        f"The private CA's key {state}; keep it where others cannot read it.",
        f"The certificate covers {created.names} and is valid until {when(created.not_after)}.",
        f"Mail programs trust this server once they are given {created.authority}.",
        f"Next: twistd -n mailsvc --certs {folder}/ --hostname {created.folder.name}",
    ]


def _created_json(created: Created) -> dict[str, object]:
    return {
        "written": [
            {"path": str(each.path), "mode": f"{each.mode:04o}", "what": each.what} for each in created.written
        ],
        "folder": str(created.folder),
        "ca": str(created.authority),
        "ca_key_encrypted": created.authority_encrypted,
        "names": [*created.names.hosts, *map(str, created.names.addresses)],
        "not_after": when(created.not_after),
    }


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


def _summary(errors: tuple[Finding, ...], warnings: tuple[Finding, ...]) -> str:
    if not errors and not warnings:
        return "Everything is in order."
    counts = f"{len(errors)} error{'s' * (len(errors) != 1)}, {len(warnings)} warning{'s' * (len(warnings) != 1)}"
    return f"{counts}: the server {'would not start' if errors else 'would start'}."


def _certificate_files(folder: Path) -> list[Path]:
    """The files of a certs folder, of one NAME folder, or else whatever certificate files lie there."""
    own = [folder / name for name in (CHAIN, AUTHORITY_CERTIFICATE) if (folder / name).exists()]
    below = sorted(
        path for name in (CHAIN, AUTHORITY_CERTIFICATE) for path in folder.glob(f"*/{name}") if path.exists()
    )
    return own + below or sorted(path for end in ("pem", "crt", "cer") for path in folder.glob(f"*.{end}"))


def _source(file: Path | None) -> Passphrase:
    if file is None:
        return passphrase_source(os.environ)
    if str(file) != "-":
        return PassphraseSource(file)
    passphrase = _passphrase(file)
    return lambda: passphrase


def _passphrase(file: Path) -> bytes:
    if str(file) == "-":
        return first_line(Source(Path("standard input"), sys.stdin.buffer.read(4096)))
    return first_line(read(file))
