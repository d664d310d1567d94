"""`mailsvc user certificate add|list|revoke`: client certificates that log in as an account (SASL EXTERNAL).

Works on the database: a running service reads the rows at every login, and again at every MAIL.  `Key` is what
`mailsvc relay-client` shares: which certificate is meant, as a PEM file or as the fingerprint of its key.

The hardest idea is what is added: the key and not the certificate.  A renewed certificate with the same key goes on
working, and it makes no difference who has signed it; what else is wrong with it is said now and decided at each login.
So the dates in the certificate bind nobody who has the key, for he can sign another around it: ``--until`` does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from mailsvc.certkit.files import read
from mailsvc.certkit.inspect import may_issue, printable, read_chain
from mailsvc.cli.answers import JSON, answer
from mailsvc.cli.main import Common
from mailsvc.cli.tables import for_people, for_programs, last_time, print_table
from mailsvc.errors import MailsvcError
from mailsvc.mail.address import parse_address
from mailsvc.storage import identities
from mailsvc.storage.database import offline
from mailsvc.tls.recheck import Purpose, check_again, spki_digest

LONGEST_LABEL = 64
"""Characters of a label."""


@dataclass(frozen=True, slots=True)
class Key:
    """The key of a certificate: its fingerprint, what the certificate calls itself ("" when it was not seen), and what
    speaks against it as a client's."""

    spki: str
    subject: str = ""
    remarks: tuple[str, ...] = ()


def which_key(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which certificate is meant; read them with `key_of`."""
    file = click.option(
        "--certificate",
        "file",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The certificate (PEM); the first in the file.",
    )
    spki = click.option("--spki", metavar="HEX", help="The fingerprint of its key instead (`mailsvc certs show FILE`).")
    return file(spki(command))


def key_of(file: Path | None, spki: str | None) -> Key:
    """What the options say; raises `MailsvcError` or a usage error."""
    if (file is None) == (spki is None):
        raise click.UsageError("give one of --certificate and --spki")
    if spki is not None:
        return Key(identities.fingerprint(spki))
    assert file is not None
    chain, findings = read_chain(read(file))
    if not chain:
        raise MailsvcError("; ".join(map(str, findings)))
    leaf = chain[0]
    if may_issue(leaf):
        raise MailsvcError(
            f"{file}: the first certificate in it is a CA's; give the client's own (a CA that may vouch for addresses"
            " is the setting certificate_cas under [accounts])"
        )
    against = check_again(chain[:1], Purpose.CLIENT, datetime.now(UTC))
    return Key(spki_digest(leaf), printable(leaf.subject.rfc4514_string()), tuple(map(str, against)))


def checked_label(label: str) -> str:
    """The label; `MailsvcError` for one that cannot be shown."""
    if not (label.isprintable() and label.strip() and len(label) <= LONGEST_LABEL):
        raise MailsvcError(f"a label is 1 to {LONGEST_LABEL} printable characters")
    return label


def end_of(day: datetime | None, now: float) -> float | None:
    """The end of that day, UTC, as seconds since the epoch; `MailsvcError` for one that is over."""
    if day is None:
        return None
    end = (day.replace(tzinfo=UTC) + timedelta(days=1)).timestamp()
    if end <= now:
        raise MailsvcError(f"{day:%Y-%m-%d} is over already; give the last day on which the certificate shall log in")
    return end


def remark(key: Key) -> None:
    """Say on standard error what speaks against a certificate."""
    for text in key.remarks:
        click.echo(f"As it is now, it will be refused: {text}.", err=True)


@click.group("certificate")
def certificates() -> None:
    """Client certificates that log in without a password."""


@certificates.command("add")
@click.argument("address")
@which_key
@click.option("--label", "-l", required=True, help="What it is, like 'laptop'; one of a kind.")
@click.option(
    "--until",
    metavar="YYYY-MM-DD",
    type=click.DateTime(["%Y-%m-%d"]),
    help="The last day (UTC), whatever the certificate says.",
)
@click.option("--again", is_flag=True, help="Also a key that was revoked before.")
@JSON
@click.pass_obj
def add(
    common: Common,
    address: str,
    file: Path | None,
    spki: str | None,
    label: str,
    until: datetime | None,
    again: bool,
    as_json: bool,
) -> None:
    """Let a client certificate log in as ADDRESS.

    What is added is its key: a later certificate with the same key logs in, too. With --until it does so for a time.

    The listener must ask for certificates: mode = "ask" under [client_certificates.submission].
    """
    parsed, key, now = parse_address(address), key_of(file, spki), time.time()
    end = end_of(until, now)
    with offline(common.database, create=False) as txn:
        identities.add_certificate(
            txn, parsed.key, checked_label(label), key.spki, key.subject, now, again=again, until=end
        )
    remark(key)
    last = f" until {until:%Y-%m-%d}" if until is not None else ""
    answer(
        as_json,
        {
            "address": str(parsed),
            "label": label,
            "spki_sha256": key.spki,
            "until": None if end is None else for_programs(end),
        },
        f"The certificate {label!r} logs in as {parsed} from now on{last} (key {key.spki}).",
    )


@certificates.command("list")
@click.argument("address")
@JSON
@click.pass_obj
def list_certificates(common: Common, address: str, as_json: bool) -> None:
    """List the certificates of ADDRESS, and those that were revoked."""
    parsed = parse_address(address)
    with offline(common.database, create=False) as txn:
        known = identities.certificates_of(txn, parsed.key)
        revoked = identities.revoked_keys_of(txn, parsed.key)
    if as_json:
        facts = [
            *({**known_facts(each), "until": _until(each), "revoked": None} for each in known),
            *(
                {
                    "label": each.label or None,
                    "spki_sha256": each.spki,
                    "subject": each.subject or None,
                    "revoked": for_programs(each.revoked),
                }
                for each in revoked
            ),
        ]
        click.echo(json.dumps(facts, indent=2))
    elif known or revoked:
        now = time.time()
        rows = [(each.label, each.subject, each.spki, _state(each, now), last_time(each.last_used)) for each in known]
        rows += [(each.label, each.subject, each.spki, f"revoked {for_people(each.revoked)}", "") for each in revoked]
        print_table(["label", "subject", "key (SPKI SHA-256)", "state (UTC)", "last used (UTC)"], rows)
    else:
        click.echo(f"{parsed} has no certificates; `mailsvc user certificate add` adds one.")


@certificates.command("revoke")
@click.argument("address")
@click.option("--label", "-l", help="Which one.")
@which_key
@JSON
@click.pass_obj
def revoke(common: Common, address: str, label: str | None, file: Path | None, spki: str | None, as_json: bool) -> None:
    """Take a certificate of ADDRESS back: its key opens nothing any more, whoever vouches for it.

    By its label; or by the file or the fingerprint, for one that logs in because a CA vouches for its address.
    """
    parsed, now = parse_address(address), time.time()
    if sum(each is not None for each in (label, file, spki)) != 1:
        raise click.UsageError("give one of --label, --certificate and --spki")
    with offline(common.database, create=False) as txn:
        if label is not None:
            gone = identities.revoke_certificate(txn, parsed.key, label, now).spki
        else:
            key = key_of(file, spki)
            identities.revoke_key(txn, parsed.key, key.spki, now, key.subject)
            gone = key.spki
    answer(
        as_json,
        {"address": str(parsed), "spki_sha256": gone},
        f"The key {gone} was revoked; no session of {parsed} begins with it any more.",
    )


def known_facts(each: identities.KnownCertificate) -> dict[str, object]:
    """A certificate for programs."""
    return {
        "label": each.label,
        "spki_sha256": each.spki,
        "subject": each.subject or None,
        "created": for_programs(each.created),
        "last_used": None if each.last_used is None else for_programs(each.last_used),
    }


def _until(each: identities.KnownCertificate) -> str | None:
    return None if each.until is None else for_programs(each.until)


def _state(each: identities.KnownCertificate, now: float) -> str:
    if each.until is None:
        return "good"
    return f"{'good until' if now < each.until else 'over since'} {for_people(each.until)}"
