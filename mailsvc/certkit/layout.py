"""Making a first certs folder: a private CA and, with it, a server certificate; what lies where is `certkit.places`.

`fullchain.pem` has the private CA's certificate at its end. Clients do not need it there, but it shows up in
`openssl s_client -showcerts`, costs half a kilobyte, and is what DANE-TA records refer to (RFC 7671 section
5.2.2).

The hard part is that this may be run twice, or be cut off half-way: nothing that exists is ever overwritten,
everything is checked and made in memory before the first file is written, and what an existing CA can still
do it does.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mailsvc.certkit.authority import Authority, open_authority, record, sign_checked
from mailsvc.certkit.build import general_name, new_authority, server_wanted
from mailsvc.certkit.distribution import chosen_url
from mailsvc.certkit.files import PRIVATE, PUBLIC, make_folder, read, write_new
from mailsvc.certkit.inspect import PRIVATE_AUTHORITY, read_chain, when
from mailsvc.certkit.install import chain_pem
from mailsvc.certkit.keys import KINDS, encode_key, is_encrypted, new_key
from mailsvc.certkit.names import Names, names_of
from mailsvc.certkit.places import (
    AUTHORITY_CERTIFICATE,
    AUTHORITY_FOLDER,
    AUTHORITY_KEY,
    CHAIN,
    KEY,
    AuthorityPlaces,
    Written,
    authority_places,
    place_of,
)
from mailsvc.errors import AlreadyExists, MailsvcError

__all__ = ["AUTHORITY_CERTIFICATE", "AUTHORITY_FOLDER", "AUTHORITY_KEY", "CHAIN", "KEY", "Created", "Written", "create"]


@dataclass(frozen=True, slots=True)
class Created:
    """What `create` did. `written` is empty when everything was there already; `folder` is the server
    certificate's; `crl_url` is what the CA's certificates name as the place of its revocation list."""

    folder: Path
    authority: Path
    authority_encrypted: bool
    names: Names
    not_after: datetime
    written: tuple[Written, ...]
    crl_url: str | None = None


def create(
    certs: Path,
    hostnames: Sequence[str],
    passphrase: bytes | None,
    now: datetime,
    *,
    kind: str = KINDS[0],
    constraints: x509.NameConstraints | None = None,
    crl_url: str | None = None,
) -> Created:
    """Make a private CA, unless there is one, and with it a server certificate for exactly these names.

    The certificate's folder is called like the first name. `passphrase` encrypts a new CA's key and opens an
    existing one's. `kind` is that of the new keys, `constraints` limit a new CA, and what it signs, now and later,
    names `crl_url` as the place of its revocation list. What is there already and fits is left alone. Raises
    MailsvcError, having written nothing, when something is in the way.
    """
    names = tuple(dict.fromkeys(str(general_name(name).value) for name in hostnames))
    if not names:
        raise MailsvcError("name at least one host with --hostname")
    folder = place_of(certs, names[0])
    url, new_url = chosen_url(authority_places(certs), crl_url)
    if existing := _existing(certs, folder, names, now):
        return replace(existing, crl_url=url)
    authority, authority_files = _authority(certs, names[0], passphrase, now, kind, constraints)
    key = new_key(kind)
    certificate = sign_checked(authority.issued, server_wanted(key.public_key(), names), now, url)
    files = [
        # First: a CA that was made before its URL was kept would go on without it.
        *_url_file(authority.places, url if new_url else None),
        *authority_files,
        (Written(folder / KEY, PRIVATE, "the server's private key, not encrypted"), encode_key(key)),
        (
            Written(folder / CHAIN, PUBLIC, "the server's certificate, then the CA's"),
            chain_pem((certificate, *authority.chain)),
        ),
    ]
    make_folder(certs, 0o755)
    make_folder(authority.places.folder)
    kept = record(authority.places, certificate)
    for written, data in files:
        make_folder(written.path.parent)
        write_new(written.path, data, written.mode)
    return Created(
        folder,
        authority.places.certificate,
        _authority_encrypted(certs),
        names_of(certificate),
        certificate.not_valid_after_utc,
        (*(written for written, _ in files), kept),
        url,
    )


def _existing(certs: Path, folder: Path, names: Sequence[str], now: datetime) -> Created | None:
    present = [path for path in (folder / CHAIN, folder / KEY) if path.is_symlink() or path.exists()]
    if not present:
        return None
    again = (
        f"to make a new one, move the folder {folder} away and run this again, or use `mailsvc certs issue --replace`"
    )
    chain, findings = read_chain(read(folder / CHAIN))
    if len(present) < 2 or findings:
        raise AlreadyExists(f"{present[0]}: exists already, but {folder} holds no complete certificate; {again}")
    has, ends = names_of(chain[0]), chain[0].not_valid_after_utc
    if not set(names) <= {*has.hosts, *map(str, has.addresses)}:
        raise AlreadyExists(f"{folder}: there is a certificate already, for other names ({has}); {again}")
    if ends < now:
        raise AlreadyExists(f"{folder}: there is a certificate already, which expired on {when(ends)}; {again}")
    authority = authority_places(certs).certificate
    return Created(folder, authority, _authority_encrypted(certs), has, ends, ())


def _authority(
    certs: Path,
    hostname: str,
    passphrase: bytes | None,
    now: datetime,
    kind: str,
    constraints: x509.NameConstraints | None,
) -> tuple[Authority, list[tuple[Written, bytes]]]:
    places = authority_places(certs)
    if places.certificate.exists() or places.key.exists():
        if constraints is not None:
            raise AlreadyExists(
                f"{places.folder}: there is a private CA already, and what it may speak for cannot be changed; "
                "move it away to make another, or leave --permit out"
            )
        return open_authority(certs, lambda: passphrase, now), []
    # Two CAs of one name and different keys confuse clients that know both: a random part keeps a second try
    # apart.
    name = f"{PRIVATE_AUTHORITY} {secrets.token_hex(4)} of {hostname}"
    made = new_authority(name, now, key=new_key(kind), constraints=constraints)
    state = "encrypted with the passphrase" if passphrase else "not encrypted"
    return Authority(made, (made.certificate,), places), [
        (Written(places.key, PRIVATE, f"the private CA's key, {state}"), encode_key(made.key, passphrase)),
        (
            Written(places.certificate, PUBLIC, "the private CA's certificate, for those who shall trust it"),
            made.certificate.public_bytes(Encoding.PEM),
        ),
    ]


def _url_file(places: AuthorityPlaces, url: str | None) -> list[tuple[Written, bytes]]:
    if url is None:
        return []
    return [(Written(places.crl_url, PUBLIC, "where its revocation list can be fetched"), f"{url}\n".encode("ascii"))]


def _authority_encrypted(certs: Path) -> bool:
    source = read(authority_places(certs).key)
    return source.data is not None and is_encrypted(source.data)
