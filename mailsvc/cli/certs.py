"""`mailsvc certs`: make, request, take in, check, show, revoke and remove certificates.

The group, and the two commands that stand at the beginning: `init`, and `show` for any file. The others are in
modules of their own: `mailsvc.cli.certs_make`, `mailsvc.cli.certs_move`, `mailsvc.cli.certs_check`. What is done and
found is in `certkit`: these modules are its words for people, and `--json` for programs. Exit status: 0, 1 when the
answer is no (a finding that is an error, something in the way), 2 for a wrong command line.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from mailsvc.certkit.bundle import take_apart
from mailsvc.certkit.constraints import permitting
from mailsvc.certkit.describe import describe, describe_key, describe_list, describe_request
from mailsvc.certkit.files import Source, read
from mailsvc.certkit.inspect import Finding, read_chain, when
from mailsvc.certkit.keys import KINDS, is_encrypted, load_key
from mailsvc.certkit.layout import Created, create
from mailsvc.certkit.pem import blocks
from mailsvc.certkit.places import AUTHORITY_CERTIFICATE, CHAIN, authority_places
from mailsvc.certkit.requests import read_request
from mailsvc.certkit.revocation import read_lists
from mailsvc.cli.certs_check import list_certificates, verify
from mailsvc.cli.certs_common import (
    AUTHORITY_FILE,
    FOLDER,
    JSON,
    KIND,
    ask,
    authority_source,
    from_file,
    opening,
    written_json,
    written_lines,
)
from mailsvc.cli.certs_make import issue, request, revoke
from mailsvc.cli.certs_move import export, import_, remove, staple
from mailsvc.errors import MailsvcError


class _InOrder(click.Group):
    """Commands in the order in which they are met, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"]})
def certs() -> None:
    """Make, check and show certificates."""


@certs.command()
@FOLDER
@click.option(
    "--hostname",
    "hostnames",
    metavar="NAME",
    multiple=True,
    required=True,
    help="A host name or IP address that the certificate covers; give it again for more. The first names the folder.",
)
@click.option(
    "--permit",
    "permitted",
    metavar="DOMAIN|NETWORK",
    multiple=True,
    help="Limit the private CA to this domain (with all below it) or IP network; again for more.",
)
@click.option(
    "--crl-url", metavar="URL", help="Where the private CA's revocation list will be; its certificates name it."
)
@KIND
@AUTHORITY_FILE
@click.option("--ask-passphrase", is_flag=True, help="Ask for a passphrase to encrypt the private CA's key with.")
@JSON
def init(
    folder: Path,
    hostnames: tuple[str, ...],
    permitted: tuple[str, ...],
    crl_url: str | None,
    kind: str | None,
    passphrase_file: Path | None,
    ask_passphrase: bool,
    as_json: bool,
) -> None:
    """Make a private CA and a server certificate in DIR.

    Nothing that exists is overwritten, and nothing is asked unless told. The CA's key is encrypted when there is a
    passphrase. With a private CA in DIR/ca already, only the server certificate is made.
    """
    if ask_passphrase and passphrase_file is not None:
        raise click.UsageError("--ask-passphrase and --passphrase-file exclude each other")
    limits = permitting(permitted) if permitted else None
    passphrase = _authority_passphrase(folder, passphrase_file, ask_passphrase)
    now = datetime.now(UTC)
    created = create(folder, hostnames, passphrase, now, kind=kind or KINDS[0], constraints=limits, crl_url=crl_url)
    click.echo(json.dumps(_created_json(created), indent=2) if as_json else "\n".join(_created_lines(created, folder)))


@certs.command(short_help="Show what is in a file or folder.")
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@JSON
def show(path: Path, as_json: bool) -> None:
    """Show what is in a file, or in a certs folder: certificates, a request, a revocation list, a key.

    Of certificates names, issuer, dates, key, uses and fingerprints; of a private key only what is public of it.
    """
    files = _certificate_files(path) if path.is_dir() else [path]
    if not files:
        raise MailsvcError(f"{path}: there is no certificate in this folder")
    shown: list[dict[str, object]] = []
    problems: list[Finding] = []
    for file in files:
        source = read(file)
        other = _other(source)
        if other is not None:
            shown.append({"file": str(file), **other})
            if not as_json:
                click.echo(f"{file}, {other['kind']}")
                click.echo("".join(f"  {line}\n" for line in _lines(other)))
            continue
        if (source.data or b"")[:1] == b"\x30":  # DER or PKCS#7, as `openssl x509 -inform DER` shows it
            parts = take_apart([source], lambda: None)
            chain, found = parts.certificates, list(parts.findings)
        else:
            chain, found = read_chain(source)
        problems += found
        for number, certificate in enumerate(chain, 1):
            description = describe(certificate)
            shown.append({"file": str(file), "number": number, "kind": "certificate", **description.as_json()})
            if not as_json:
                click.echo(f"{file}, certificate {number} of {len(chain)}")
                click.echo("".join(f"  {line}\n" for line in description.lines()))
    if as_json:
        click.echo(json.dumps(shown, indent=2))
    if problems:
        raise MailsvcError("\n".join(map(str, problems)))


for _command in (issue, request, import_, staple, export, verify, list_certificates, revoke, remove):
    certs.add_command(_command)


def _authority_passphrase(folder: Path, file: Path | None, ask_first: bool) -> bytes | None:
    """What opens the CA's key that is there, or encrypts the one that will be made."""
    there = read(authority_places(folder).key)
    if there.data is not None:
        return opening("the private CA's key", file, authority_source())() if is_encrypted(there.data) else None
    if ask_first:
        return ask("Passphrase for the private CA's key", confirm=True)
    return authority_source()() if file is None else from_file(file)


def _other(source: Source) -> dict[str, object] | None:
    """What a file holds that is no certificate; None when it has one, or nothing that is known."""
    labels = [block.label for block in blocks(source.data or b"")]
    if any(block.is_certificate for block in blocks(source.data or b"")):
        return None
    if any(label.endswith("CERTIFICATE REQUEST") for label in labels):
        return {"kind": "request", **describe_request(read_request(source))}
    if "X509 CRL" in labels:
        return {"kind": "revocation list", **describe_list(read_lists(source)[0])}
    keys = [block.text for block in blocks(source.data or b"") if block.is_private_key]
    if len(keys) == 1 and is_encrypted(keys[0]):
        return {"kind": "private key", "encrypted": True}
    if len(keys) == 1:
        return {"kind": "private key", "encrypted": False, **describe_key(load_key(keys[0]))}
    return None


def _lines(facts: dict[str, object]) -> list[str]:
    lines = []
    for name, value in facts.items():
        if name == "kind" or value is None:
            continue
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [f"{name:<13} " + ", ".join(map(str, each.values())) for each in value]
        else:
            shown = ", ".join(map(str, value)) or "none" if isinstance(value, list) else value
            lines.append(
                f"{name.replace('_', ' '):<13} {'yes' if value is True else 'no' if value is False else shown}"
            )
    return lines


def _created_lines(created: Created, folder: Path) -> list[str]:
    if not created.written:
        return [
            f"Nothing to do: {created.folder} has a certificate for {created.names}, "
            f"valid until {when(created.not_after)}."
        ]
    state = "is encrypted" if created.authority_encrypted else "is NOT encrypted (--passphrase-file would do that)"
    return [
        *written_lines(created.written),
        f"The private CA's key {state}; keep it where others cannot read it.",
        f"The certificate covers {created.names} and is valid until {when(created.not_after)}.",
        f"Mail programs trust this server once they are given {created.authority}.",
        *_list_lines(created, folder),
        f"Next: twistd -n mailsvc --certs {folder}/ --hostname {created.folder.name}",
    ]


def _created_json(created: Created) -> dict[str, object]:
    return {
        "written": written_json(created.written),
        "folder": str(created.folder),
        "ca": str(created.authority),
        "ca_key_encrypted": created.authority_encrypted,
        "names": [*created.names.hosts, *map(str, created.names.addresses)],
        "not_after": when(created.not_after),
        "crl_url": created.crl_url,
    }


def _list_lines(created: Created, folder: Path) -> list[str]:
    if created.crl_url is None:
        return []
    return [
        f"The CA's certificates name {created.crl_url} as the place of its revocation list, so put one there: "
        f"mailsvc certs revoke {folder}/ makes it."
    ]


def _certificate_files(folder: Path) -> list[Path]:
    """The files of a certs folder, of one NAME folder, or else whatever certificate files lie there."""
    own = [folder / name for name in (CHAIN, AUTHORITY_CERTIFICATE) if (folder / name).exists()]
    below = sorted(
        path for name in (CHAIN, AUTHORITY_CERTIFICATE) for path in folder.glob(f"*/{name}") if path.exists()
    )
    return own + below or sorted(path for end in ("pem", "crt", "cer") for path in folder.glob(f"*.{end}"))
