"""`mailsvc certs issue|request|revoke`: what a private CA does, and asking another CA.

Commands of the group `mailsvc.cli.certs`. What they do is in `certkit.make` and `certkit.authority`.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from mailsvc.certkit.authority import issue as sign_and_record
from mailsvc.certkit.authority import named_certificate, open_authority
from mailsvc.certkit.authority import revoke as revoke_them
from mailsvc.certkit.describe import describe_list, describe_request
from mailsvc.certkit.files import PUBLIC, read, write_new
from mailsvc.certkit.inspect import common_name, when
from mailsvc.certkit.install import chain_pem
from mailsvc.certkit.make import Made, Manner, issue_client, issue_server, renew
from mailsvc.certkit.make import request as make_request
from mailsvc.certkit.passphrase import passphrase_source
from mailsvc.certkit.places import Written
from mailsvc.certkit.requests import read_request, request_pem, wanted_from
from mailsvc.certkit.revocation import REASONS
from mailsvc.cli.certs_common import (
    AUTHORITY_FILE,
    FOLDER,
    JSON,
    KEY_FILE,
    KIND,
    REPLACE,
    SAME_KEY,
    authority_source,
    opening,
    optional,
    show_made,
    written_json,
    written_lines,
)
from mailsvc.errors import AlreadyExists

LONGEST_SERVER = 825
"""Days: Apple's programs refuse a server's certificate that lives longer, also one of a private CA."""


@click.command(short_help="Have the private CA sign a certificate.")
@FOLDER
@click.option("--hostname", "hostnames", metavar="NAME", multiple=True, help="A name to cover; again for more.")
@click.option("--client", metavar="NAME", help="A client's certificate, called NAME, instead of a server's.")
@click.option("--email", "emails", metavar="ADDRESS", multiple=True, help="With --client: a mail address of it.")
@click.option("--renew", "renewed", metavar="NAME", help="Make the certificate called NAME once more.")
@click.option("--request", "asked", metavar="FILE", type=click.Path(path_type=Path), help="Sign this request (CSR).")
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="With --request: where the answer goes.")
@KIND
@click.option("--days", type=click.IntRange(1, 3650), help="How long it is good. [default: 397]")
@SAME_KEY
@REPLACE
@AUTHORITY_FILE
@KEY_FILE
@JSON
def issue(
    folder: Path,
    hostnames: tuple[str, ...],
    client: str | None,
    emails: tuple[str, ...],
    renewed: str | None,
    asked: Path | None,
    out: Path | None,
    kind: str | None,
    days: int | None,
    same_key: bool,
    replace: bool,
    passphrase_file: Path | None,
    key_passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Have the private CA in DIR/ca sign a certificate.

    A server's with --hostname goes to DIR/NAME, a client's with --client to DIR/ca/clients/NAME, each with a new key.
    --renew does either once more. --request signs for a key that is elsewhere. Nothing is overwritten unless told.
    """
    _check_usage(hostnames, client, emails, renewed, asked, out, kind, same_key)
    if days is not None and days > LONGEST_SERVER and client is None:
        raise click.UsageError(
            f"a server's certificate may live {LONGEST_SERVER} days at most: some clients refuse more"
        )
    if str(passphrase_file) == "-" == str(key_passphrase_file):
        raise click.UsageError("standard input holds one passphrase only; give the other in a file")
    if out is not None and out.exists():
        raise AlreadyExists(f"{out}: exists already and is not overwritten; give another file with --out")
    now = datetime.now(UTC)
    authority = open_authority(folder, opening("the private CA's key", passphrase_file, authority_source()), now)
    lifetime = None if days is None else timedelta(days=days)
    manner = Manner(kind, lifetime, replace, same_key)
    if renewed is not None:
        secret = opening("the certificate's key", key_passphrase_file, passphrase_source(os.environ))
        made = renew(folder, authority, renewed, manner, secret, now)
    elif asked is not None and out is not None:
        default = {} if lifetime is None else {"lifetime": lifetime}
        wanted = wanted_from(read_request(read(asked)), client=client, hostnames=hostnames, emails=emails, **default)
        certificate, kept = sign_and_record(authority, wanted, now)
        chain = (certificate, *authority.chain)
        write_new(out, chain_pem(chain), PUBLIC)
        made = Made(chain, out.parent, (Written(out, PUBLIC, "the certificate, then its issuers'"), kept))
    elif client is not None:
        passphrase = optional(key_passphrase_file)
        made = issue_client(folder, authority, client, emails, hostnames, manner, passphrase, now)
    else:
        made = issue_server(folder, authority, hostnames, manner, optional(key_passphrase_file), now)
    show_made(made, as_json, *_advice(made, kind))


@click.command(short_help="Make a request (CSR) for another CA.")
@FOLDER
@click.option("--hostname", "hostnames", metavar="NAME", multiple=True, required=True, help="A name; again for more.")
@KIND
@SAME_KEY
@click.option("--replace", is_flag=True, help="Forget a request that waits already, with its key.")
@KEY_FILE
@JSON
def request(
    folder: Path,
    hostnames: tuple[str, ...],
    kind: str | None,
    same_key: bool,
    replace: bool,
    key_passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Make a key and a request (CSR) for a public CA; both wait in DIR/NAME.

    What the server uses there is not touched. `mailsvc certs import DIR FILE` takes the CA's answer in.
    """
    if kind is not None and same_key:
        raise click.UsageError("--key and --same-key exclude each other")
    made, written = make_request(
        folder, hostnames, Manner(kind, None, replace, same_key), optional(key_passphrase_file)
    )
    facts = describe_request(made)
    if as_json:
        pem = request_pem(made).decode("ascii")
        click.echo(json.dumps({"written": written_json(written), **facts, "request": pem}, indent=2))
        return
    names = facts["names"]
    shown = ", ".join(names) if isinstance(names, list) else ""
    place = written[-1].path
    next_step = f"Next: give {place} to the CA, and take its answer in with: mailsvc certs import {folder}/ ANSWER"
    click.echo("\n".join([*written_lines(written), f"The request asks for {shown}.", next_step]))


@click.command(short_help="Revoke certificates of the private CA.")
@FOLDER
@click.argument("what", metavar="[WHAT]...", nargs=-1)
@click.option("--reason", type=click.Choice(tuple(REASONS)), default="unspecified", help="Why.", show_default=True)
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="How long the list is good.")
@AUTHORITY_FILE
@JSON
def revoke(
    folder: Path, what: tuple[str, ...], reason: str, days: int, passphrase_file: Path | None, as_json: bool
) -> None:
    """Revoke certificates of the private CA: sign its list, DIR/ca/crl.pem, with WHAT in it.

    WHAT is a serial number, a certificate's file, or a name: of a folder, of a client, or one that is covered (then
    every certificate that was issued for it). Without WHAT the list is only signed anew, before the old one ends.
    """
    now = datetime.now(UTC)
    chosen = [each for one in what for each in named_certificate(folder, one)]
    authority = open_authority(folder, opening("the private CA's key", passphrase_file, authority_source()), now)
    made, written = revoke_them(authority, chosen, reason, now, timedelta(days=days))
    if as_json:
        serials = [f"{each.serial_number:x}" for each in chosen]
        click.echo(json.dumps({"written": written_json([written]), "chosen": serials, **describe_list(made)}, indent=2))
        return
    lines = [f"{common_name(each)}, serial {each.serial_number:x}, is revoked." for each in dict.fromkeys(chosen)]
    end = made.next_update_utc
    count = len(list(made))
    lines += written_lines([written])
    lines.append(
        f"The list has {count} certificate{'s' * (count != 1)} and is good until {'' if end is None else when(end)}; "
        f"before that day run: mailsvc certs revoke {folder}/"
    )
    click.echo("\n".join(lines))


def _check_usage(
    hostnames: tuple[str, ...],
    client: str | None,
    emails: tuple[str, ...],
    renewed: str | None,
    asked: Path | None,
    out: Path | None,
    kind: str | None,
    same_key: bool,
) -> None:
    if renewed is not None and (hostnames or client or emails or asked):
        raise click.UsageError("--renew takes names from the old certificate; leave the other options out")
    if not (hostnames or client or renewed or asked):
        raise click.UsageError("say what to issue: --hostname, --client, --renew or --request")
    if (asked is None) != (out is None):
        raise click.UsageError("--request and --out go together")
    if asked is not None and (kind is not None or same_key):
        raise click.UsageError("the key of a request is that of the request; leave --key and --same-key out")
    if emails and client is None:
        raise click.UsageError("--email is for a --client")
    if kind is not None and same_key:
        raise click.UsageError("--key and --same-key exclude each other")


def _advice(made: Made, kind: str | None) -> list[str]:
    if made.folder.parent.name == "clients":
        return [f"Next: give it to the client, for many as one file: mailsvc certs export {made.folder} FILE.p12"]
    if kind == "ed25519":
        return ["Note: many mail programs cannot check Ed25519 (Apple's, Windows'); ECDSA P-256 works everywhere."]
    return []
