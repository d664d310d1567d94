"""A certs folder: what lies where in it, and making a first one with a private CA.

certs/ca/ca.pem                the private CA's certificate: give it to the mail programs that shall trust it
certs/ca/ca.key                its key, 0600; encrypted when a passphrase was given certs/NAME/fullchain.pem
the server's certificate, then its issuers (the layout of certbot's `live` folder) certs/NAME/privkey.pem
its key, 0600

`fullchain.pem` has the private CA's certificate at its end. Clients do not need it there, but it shows up in
`openssl s_client -showcerts`, costs half a kilobyte, and is what DANE-TA records refer to (RFC 7671 section
5.2.2).

The hard part is that this may be run twice, or be cut off half-way: nothing that exists is ever overwritten,
everything is checked and made in memory before the first file is written, and what an existing CA can still
do it does, which makes "remove certs/NAME and run it again" the way to renew.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from mailsvc.certkit.build import Issued, general_name, new_authority, server_certificate
from mailsvc.certkit.files import PRIVATE, PUBLIC, make_folder, read, write_new
from mailsvc.certkit.inspect import PRIVATE_AUTHORITY, may_issue, read_chain, read_key, when
from mailsvc.certkit.keys import encode_key, is_encrypted
from mailsvc.certkit.names import Names, names_of
from mailsvc.errors import AlreadyExists, MailsvcError

AUTHORITY_FOLDER = "ca"
AUTHORITY_CERTIFICATE = "ca.pem"
AUTHORITY_KEY = "ca.key"
CHAIN = "fullchain.pem"
KEY = "privkey.pem"


@dataclass(frozen=True, slots=True)
class Written:
    """One file that was made."""

    path: Path
    mode: int
    what: str


@dataclass(frozen=True, slots=True)
class Created:
    """What `create` did. `written` is empty when everything was there already; `folder` is the server
    certificate's."""

    folder: Path
    authority: Path
    authority_encrypted: bool
    names: Names
    not_after: datetime
    written: tuple[Written, ...]


def create(certs: Path, hostnames: Sequence[str], passphrase: bytes | None, now: datetime) -> Created:
    """Make a private CA, unless there is one, and with it a server certificate for exactly these names.

    The certificate's folder is called like the first name. `passphrase` encrypts a new CA's key and opens an
    existing one's. What is there already and fits is left alone. Raises MailsvcError, having written nothing,
    when something is in the way.
    """
    names = tuple(dict.fromkeys(str(general_name(name).value) for name in hostnames))
    if not names:
        raise MailsvcError("name at least one host with --hostname")
    folder = certs / names[0].removeprefix("*.")
    if folder.name == AUTHORITY_FOLDER:
        raise MailsvcError(f"{folder} is the place of the private CA; give a full host name with --hostname")
    if existing := _existing(certs, folder, names, now):
        return existing
    authority, authority_files = _authority(certs, names[0], passphrase, now)
    issued = server_certificate(authority, names, now)
    chain = b"".join(each.public_bytes(Encoding.PEM) for each in (issued.certificate, authority.certificate))
    files = [
        *authority_files,
        (Written(folder / KEY, PRIVATE, "the server's private key, not encrypted"), encode_key(issued.key)),
        (Written(folder / CHAIN, PUBLIC, "the server's certificate, then the CA's"), chain),
    ]
    make_folder(certs, 0o755)
    for written, data in files:
        make_folder(written.path.parent)
        write_new(written.path, data, written.mode)
    return Created(
        folder,
        certs / AUTHORITY_FOLDER / AUTHORITY_CERTIFICATE,
        _authority_encrypted(certs),
        names_of(issued.certificate),
        issued.certificate.not_valid_after_utc,
        tuple(written for written, _ in files),
    )


def _existing(certs: Path, folder: Path, names: Sequence[str], now: datetime) -> Created | None:
    present = [path for path in (folder / CHAIN, folder / KEY) if path.is_symlink() or path.exists()]
    if not present:
        return None
    again = f"to make a new one, move the folder {folder} away and run this again"
    chain, findings = read_chain(read(folder / CHAIN))
    if len(present) < 2 or findings:
        raise AlreadyExists(f"{present[0]}: exists already, but {folder} holds no complete certificate; {again}")
    has, ends = names_of(chain[0]), chain[0].not_valid_after_utc
    if not set(names) <= {*has.hosts, *map(str, has.addresses)}:
        raise AlreadyExists(f"{folder}: there is a certificate already, for other names ({has}); {again}")
    if ends < now:
        raise AlreadyExists(f"{folder}: there is a certificate already, which expired on {when(ends)}; {again}")
    authority = certs / AUTHORITY_FOLDER / AUTHORITY_CERTIFICATE
    return Created(folder, authority, _authority_encrypted(certs), has, ends, ())


def _authority(
    certs: Path, hostname: str, passphrase: bytes | None, now: datetime
) -> tuple[Issued, list[tuple[Written, bytes]]]:
    certificate_path = certs / AUTHORITY_FOLDER / AUTHORITY_CERTIFICATE
    key_path = certs / AUTHORITY_FOLDER / AUTHORITY_KEY
    if certificate_path.exists() or key_path.exists():
        return _load_authority(certificate_path, key_path, passphrase, now), []
    # Two CAs of one name and different keys confuse clients that know both: a random part keeps a second try
    # apart.
    made = new_authority(f"{PRIVATE_AUTHORITY} {secrets.token_hex(4)} of {hostname}", now)
    state = "encrypted with the passphrase" if passphrase else "not encrypted"
    return made, [
        (Written(key_path, PRIVATE, f"the private CA's key, {state}"), encode_key(made.key, passphrase)),
        (
            Written(certificate_path, PUBLIC, "the private CA's certificate, for those who shall trust it"),
            made.certificate.public_bytes(Encoding.PEM),
        ),
    ]


def _load_authority(certificate_path: Path, key_path: Path, passphrase: bytes | None, now: datetime) -> Issued:
    chain, findings = read_chain(read(certificate_path))
    key_source = read(key_path)
    if passphrase is None and key_source.data is not None and is_encrypted(key_source.data):
        raise MailsvcError(
            f"{key_path}: the private CA's key is encrypted; give its passphrase with --passphrase-file FILE"
        )
    key, key_findings = read_key(key_source, lambda: passphrase, cure="give the right one with --passphrase-file FILE")
    if findings or key_findings or key is None:
        said = "; ".join(str(finding) for finding in (*findings, *key_findings))
        raise MailsvcError(f"the private CA in {key_path.parent} cannot be used: {said}")
    certificate = chain[0]
    if certificate.public_key() != key.public_key():
        raise MailsvcError(
            f"{key_path}: does not fit {certificate_path}; put the two files there that were made together"
        )
    if not may_issue(certificate):
        raise MailsvcError(f"{certificate_path}: is not a CA's certificate and cannot issue others")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        ends = when(certificate.not_valid_after_utc)
        raise MailsvcError(
            f"{certificate_path}: the private CA is not valid now (it ends on {ends}); "
            f"move {certificate_path.parent} away and run this again to make a new one"
        )
    return Issued(certificate, key)


def _authority_encrypted(certs: Path) -> bool:
    source = read(certs / AUTHORITY_FOLDER / AUTHORITY_KEY)
    return source.data is not None and is_encrypted(source.data)
