"""`mailsvc certs import|staple|export|remove`: certificates on their way in, out and away, in folders and rows.

Commands of the group `mailsvc.cli.certs`. With `--database` they work on the rows of the database that the option
of that name (before the command), the environment or the configuration names; a running service sees it by itself.
What a private key is sealed with there is `mailsvc.tls.sealing`.
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from mailsvc.certkit.bundle import Parts, belonging, take_apart
from mailsvc.certkit.files import PRIVATE, Source, read, replace_all, write_new
from mailsvc.certkit.inspect import read_chain, read_key
from mailsvc.certkit.install import chain_pem
from mailsvc.certkit.install import remove as remove_files
from mailsvc.certkit.keys import encode_key
from mailsvc.certkit.make import Made, judged, receive
from mailsvc.certkit.names import names_of
from mailsvc.certkit.passphrase import passphrase_source
from mailsvc.certkit.pkcs12 import write_pkcs12
from mailsvc.certkit.places import CHAIN, KEY, Written, authority_places, checked_name, place_of
from mailsvc.cli.certs_common import (
    JSON,
    KEY_FILE,
    REPLACE,
    ask,
    file_option,
    from_file,
    opening,
    optional,
    show_made,
    written_json,
    written_lines,
)
from mailsvc.cli.main import Common
from mailsvc.cli.secret import note_of_key_file, sealing
from mailsvc.errors import AlreadyExists, MailsvcError
from mailsvc.storage.certificates import (
    CertificateRow,
    certificate,
    put_certificate,
    put_staple,
    remove_certificate,
)
from mailsvc.storage.database import offline
from mailsvc.tls.ocsp import read_staple
from mailsvc.tls.sealing import SealingKey, seal

_PATH = click.Path(path_type=Path)
_ROWS = click.option("--database", "in_rows", is_flag=True, help="In the database, not in a folder.")


@click.command("import", short_help="Take in a certificate, or a CA's answer.")
@click.argument("paths", metavar="DIR FILE...", nargs=-1, required=True, type=_PATH)
@_ROWS
@click.option("--name", metavar="NAME", help="What to call it. [default: the request's folder, or the first host name]")
@REPLACE
@file_option("--passphrase-file", "The passphrase of what is encrypted in the files (- is standard input).")
@KEY_FILE
@JSON
@click.pass_obj
def import_(
    common: Common,
    paths: tuple[Path, ...],
    in_rows: bool,
    name: str | None,
    replace: bool,
    passphrase_file: Path | None,
    key_passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Take in a certificate: a CA's answer to a request, or one with its key.

    Each FILE is PEM, DER, PKCS#7 or PKCS#12, or a folder with fullchain.pem and privkey.pem. The chain is put in order.
    What the server would refuse is not taken in. With --database there is no DIR, and the key must be among the files.
    """
    files = paths if in_rows else paths[1:]
    if not files:
        raise click.UsageError("name the files to import, after the folder of certificates")
    if in_rows and key_passphrase_file is not None:
        raise click.UsageError("a key in the database is sealed; leave --key-passphrase-file out")
    now = datetime.now(UTC)
    secret = opening("the files", passphrase_file, passphrase_source(os.environ))
    parts = take_apart([source for each in files for source in _sources(each)], secret)
    if parts.findings:
        raise MailsvcError("\n".join((*map(str, parts.findings), "nothing was imported")))
    if in_rows:
        made, notes = _into_rows(common, parts, name, now, replace=replace)
    else:
        made, notes = receive(paths[0], parts, name, optional(key_passphrase_file), now, replace=replace), []
    show_made(made, as_json, *notes)


@click.command("export", short_help="Write a certificate and its key as PKCS#12.")
@click.argument("folder", metavar="NAMEDIR", type=click.Path(path_type=Path, file_okay=False))
@click.argument("out", metavar="FILE", type=_PATH)
@file_option("--out-passphrase-file", "The new file's passphrase (else it is asked for).")
@file_option("--passphrase-file", "The passphrase of the key in NAMEDIR, when that is encrypted.")
@click.option("--compatible", is_flag=True, help="3DES and SHA-1, for old Apple and Windows systems.")
@click.option("--replace", is_flag=True, help="Overwrite FILE.")
@JSON
def export(
    folder: Path,
    out: Path,
    out_passphrase_file: Path | None,
    passphrase_file: Path | None,
    compatible: bool,
    replace: bool,
    as_json: bool,
) -> None:
    """Write a certificate with its key and issuers as one PKCS#12 FILE, for mail programs and appliances.

    NAMEDIR holds fullchain.pem and privkey.pem: DIR/NAME, or DIR/ca/clients/NAME.
    """
    if out.exists() and not replace:
        raise AlreadyExists(f"{out}: exists already and is not overwritten; --replace does that")
    chain, findings = read_chain(read(folder / CHAIN))
    key, key_findings = read_key(
        read(folder / KEY),
        opening(f"the key in {folder}", passphrase_file, passphrase_source(os.environ)),
        cure="give its passphrase with --passphrase-file FILE",
    )
    if findings or key_findings or key is None:
        raise MailsvcError("\n".join(map(str, (*findings, *key_findings))))
    if key.public_key() != chain[0].public_key():
        raise MailsvcError(f"{folder / KEY}: does not fit the certificate in {folder / CHAIN}")
    new = (
        ask("Passphrase for the new file", confirm=True)
        if out_passphrase_file is None
        else from_file(out_passphrase_file)
    )
    data = write_pkcs12(folder.name, key, chain, new, compatible=compatible)
    if replace:
        replace_all([(out, data, PRIVATE)])
    else:
        write_new(out, data, PRIVATE)
    written = Written(out, PRIVATE, "the key, its certificate and the issuers', encrypted with the passphrase")
    click.echo(json.dumps({"written": written_json([written])}) if as_json else "\n".join(written_lines([written])))


@click.command(short_help="Remove a certificate, or a request.")
@click.argument("names", metavar="DIR NAME", nargs=-1, required=True)
@_ROWS
@click.option("--yes", is_flag=True, help="Do not ask.")
@JSON
@click.pass_obj
def remove(common: Common, names: tuple[str, ...], in_rows: bool, yes: bool, as_json: bool) -> None:
    """Remove the certificate called NAME and its key for good, or the request that waits there.

    NAME is a folder of DIR, or a client of its private CA. With --database there is no DIR. To make one worthless that
    others may have, revoke it first.
    """
    if len(names) != (1 if in_rows else 2):
        raise click.UsageError("give DIR and NAME, or with --database only NAME")
    name = names[-1]
    if in_rows:
        with offline(common.database, create=False) as txn:
            if certificate(txn, name) is None:
                remove_certificate(txn, name)  # which says that there is none
        _confirm(f"the certificate {name} and its key from the database", yes)
        with offline(common.database, create=False) as txn:
            remove_certificate(txn, name)
        removed = [f"{name} in the database"]
    else:
        certs = Path(names[0])
        folder = place_of(certs, name)
        client = authority_places(certs).clients / checked_name(name)
        if not folder.exists() and client.exists():
            folder = client
        _confirm(f"{folder} with its key", yes)
        removed = [str(path) for path in remove_files(folder)]
    if as_json:
        click.echo(json.dumps({"removed": removed}, indent=2))
    else:
        click.echo("\n".join(f"Removed {each}." for each in removed))


@click.command(short_help="Put an OCSP response beside a certificate in the database.")
@click.argument("name")
@click.argument("file", required=False, type=_PATH)
@JSON
@click.pass_obj
def staple(common: Common, name: str, file: Path | None, as_json: bool) -> None:
    """Put the OCSP response in FILE (DER) beside the certificate NAME in the database; without FILE it has none.

    What the server would not show is not taken in. Beside a certificate in a folder the response is a file, ocsp.der.
    """
    with offline(common.database, create=False) as txn:
        row = certificate(txn, name)
        if row is None:
            put_staple(txn, name, None, time.time())  # which says that there is none
            return
        response = None if file is None else _response(read(file), row, datetime.now(UTC))
        put_staple(txn, name, response, time.time())
    if as_json:
        click.echo(json.dumps({"name": name, "staple": response is not None}))
    else:
        has = "has no OCSP response any more" if response is None else "has this OCSP response now"
        click.echo(f"The certificate {name} in the database {has}.")


def _response(source: Source, row: CertificateRow, now: datetime) -> bytes:
    if source.data is None:
        raise MailsvcError(f"{source.path}: {source.problem}")
    chain, _ = read_chain(Source(Path(row.name), row.chain))
    good, why = read_staple(source.data, chain, now)
    if good is None:
        raise MailsvcError(f"{source.path}: this OCSP response is not one for {row.name}: {why}")
    return source.data


def _confirm(what: str, yes: bool) -> None:
    if not yes:
        click.confirm(f"Remove {what}?", abort=True, err=True)


def _sources(path: Path) -> list[Source]:
    if not path.is_dir():
        return [read(path)]
    return [read(path / name) for name in (CHAIN, KEY)]


def _into_rows(
    common: Common, parts: Parts, name: str | None, now: datetime, *, replace: bool
) -> tuple[Made, list[str]]:
    if not parts.keys:
        raise MailsvcError(
            "there is no private key among the files; give it too (DIR/NAME/request.key after a request)"
        )
    key, leaf = belonging(parts.keys, parts.certificates)
    names = names_of(leaf)
    called = name or next(iter((*names.hosts, *map(str, names.addresses))), None)
    if called is None:
        raise MailsvcError("the certificate names no host in its subjectAltName; clients would refuse it")
    called = checked_name(called)
    place = Path(f"the certificate {called} in the database")
    chain, findings = judged(leaf, parts, place, now)
    sealing_with, written, notes = _sealing(common)
    sealed = seal(sealing_with, called, encode_key(key))
    with offline(common.database, create=True) as txn:
        if not replace and certificate(txn, called) is not None:
            raise AlreadyExists(f"{place}: exists already; --replace puts the new one in its place")
        put_certificate(txn, CertificateRow(called, chain_pem(chain), sealed, sealing_with.name), time.time())
    return Made(chain, place, written, None, findings), [f"It is {place}.", *notes]


def _sealing(common: Common) -> tuple[SealingKey, tuple[Written, ...], list[str]]:
    """The key for private keys in rows, the file that was made for it, and what must be known of that."""
    found, made = sealing(common)
    if made is None:
        return found, (), []
    return found, (Written(made, PRIVATE, "a new key for private keys in the database"),), [note_of_key_file(made)]
