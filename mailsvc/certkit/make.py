"""Certificates made into their folders: issued, renewed, requested from another CA, and its answer taken in.

Everything is checked and made in memory before the first file is written, and a finding that is an error means
that nothing was written. The hardest question is which key is used again. A renewal makes a new key unless
told `same_key` (for pins and TLSA records that name it); an encrypted key stays encrypted, with the same
passphrase; and the key of a request is never opened at all: it is found by the public key in the request
beside it, and moves as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from mailsvc.certkit.authority import Authority, issue
from mailsvc.certkit.build import BACKDATED, LEAF_LIFETIME, Wanted, client_wanted, general_name, server_wanted
from mailsvc.certkit.bundle import Parts, assemble, belonging
from mailsvc.certkit.files import PRIVATE, PUBLIC, make_folder, read, replace_all, write_new
from mailsvc.certkit.inspect import (
    Chain,
    Finding,
    Passphrase,
    check_chain,
    common_name,
    extension,
    issued_by,
    read_chain,
    read_key,
)
from mailsvc.certkit.install import Installed, install, kept_folder, must_be_free
from mailsvc.certkit.inventory import label
from mailsvc.certkit.keys import KINDS, PrivateKey, encode_key, is_encrypted, kind_of, new_key
from mailsvc.certkit.names import names_of
from mailsvc.certkit.places import (
    CHAIN,
    KEY,
    REQUEST,
    REQUEST_KEY,
    Written,
    authority_places,
    checked_name,
    place_of,
)
from mailsvc.certkit.requests import make_request, read_request, request_pem
from mailsvc.errors import AlreadyExists, MailsvcError, NotFound


@dataclass(frozen=True, slots=True)
class Made:
    """A certificate that was made or taken in: its chain, where it lies, the files, and what is worth knowing."""

    chain: Chain
    folder: Path
    written: tuple[Written, ...]
    kept: Path | None = None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Manner:
    """How a key and certificate are made: kind of key, lifetime, whether old files may be replaced, whether their
    key stays; `passphrase` encrypts the new key, or opens the old one."""

    kind: str | None = None
    lifetime: timedelta | None = None
    replace: bool = False
    same_key: bool = False


def issue_server(
    certs: Path, authority: Authority, hostnames: Sequence[str], manner: Manner, passphrase: bytes | None, now: datetime
) -> Made:
    """A server certificate for exactly these names, in the folder of the first. Raises MailsvcError."""
    if not hostnames:
        raise MailsvcError("name at least one host with --hostname")
    folder = place_of(certs, str(general_name(hostnames[0]).value))
    key, pem = _key(folder, manner, lambda: passphrase, passphrase)
    wanted = server_wanted(key.public_key(), hostnames, manner.lifetime or LEAF_LIFETIME)
    return _issue(certs, authority, wanted, folder, pem, manner, now)


def issue_client(
    certs: Path,
    authority: Authority,
    name: str,
    emails: Sequence[str],
    hostnames: Sequence[str],
    manner: Manner,
    passphrase: bytes | None,
    now: datetime,
) -> Made:
    """A client certificate called `name`, in `ca/clients/NAME`. Raises MailsvcError."""
    folder = authority_places(certs).clients / checked_name(name)
    key, pem = _key(folder, manner, lambda: passphrase, passphrase)
    wanted = client_wanted(key.public_key(), name, emails, hostnames, manner.lifetime or LEAF_LIFETIME)
    return _issue(certs, authority, wanted, folder, pem, manner, now)


def renew(certs: Path, authority: Authority, name: str, manner: Manner, passphrase: Passphrase, now: datetime) -> Made:
    """The certificate called `name`, server's or client's, once more: same names, purpose and (unless told) length
    and kind of key; the old files are kept.

    `passphrase` is asked only when its key is encrypted; the new one is encrypted with it too. Raises NotFound, or
    MailsvcError when it is not this CA's.
    """
    folder = next(
        (each for each in (place_of(certs, name), authority_places(certs).clients / name) if (each / CHAIN).exists()),
        None,
    )
    if folder is None:
        raise NotFound(f"there is no certificate called {name} in {certs}; `mailsvc certs list` shows what there is")
    chain, findings = read_chain(read(folder / CHAIN))
    if findings:
        raise MailsvcError(str(findings[0]))
    old = chain[0]
    if not issued_by(old, authority.certificate):
        raise MailsvcError(
            f"{folder / CHAIN}: was issued by {old.issuer.rfc4514_string()}, not by this CA; renew it there, "
            "or give its names with --hostname and --replace"
        )
    key_source = read(folder / KEY)
    secret = None
    if key_source.data is not None and is_encrypted(key_source.data):
        secret = passphrase()
        if secret is None:
            raise MailsvcError(
                f"{folder / KEY}: is encrypted, and the new key shall be too; "
                "give its passphrase with --key-passphrase-file FILE"
            )
    chosen = Manner(
        manner.kind or kind_of(old.public_key()),
        manner.lifetime or old.not_valid_after_utc - old.not_valid_before_utc - BACKDATED,
        True,
        manner.same_key,
    )
    key, pem = _key(folder, chosen, lambda: secret, secret)
    usage = extension(old, x509.ExtendedKeyUsage) or ()
    names = extension(old, x509.SubjectAlternativeName) or ()
    wanted = Wanted(
        key.public_key(),
        label(old),
        tuple(names),
        "client" if ExtendedKeyUsageOID.CLIENT_AUTH in usage else "server",
        chosen.lifetime or LEAF_LIFETIME,
    )
    return _issue(certs, authority, wanted, folder, pem, chosen, now)


def request(
    certs: Path, hostnames: Sequence[str], manner: Manner, passphrase: bytes | None
) -> tuple[x509.CertificateSigningRequest, tuple[Written, ...]]:
    """A key and a request for a server certificate, waiting in the folder of the first name beside what may be in
    use there. With `same_key` the request is for the key in use. Raises MailsvcError."""
    if not hostnames:
        raise MailsvcError("name at least one host with --hostname")
    folder = place_of(certs, str(general_name(hostnames[0]).value))
    waiting = [path for path in (folder / REQUEST, folder / REQUEST_KEY) if path.exists()]
    if waiting and not manner.replace:
        raise AlreadyExists(
            f"{waiting[0]}: a request waits for its answer already; --replace makes a new one, with which an answer to "
            "the old one is worth nothing"
        )
    key, pem = _key(folder, manner, lambda: passphrase, passphrase)
    made = make_request(key, hostnames)
    make_folder(certs, 0o755)
    make_folder(folder)
    files = [(folder / REQUEST, request_pem(made), PUBLIC)]
    written = [Written(folder / REQUEST, PUBLIC, "the request, for the CA")]
    if not manner.same_key:
        state = "encrypted" if passphrase else "not encrypted"
        files.insert(0, (folder / REQUEST_KEY, pem, PRIVATE))
        written.insert(0, Written(folder / REQUEST_KEY, PRIVATE, f"its private key, {state}"))
    else:
        (folder / REQUEST_KEY).unlink(missing_ok=True)
    if manner.replace:
        replace_all(files)
    else:
        for path, data, mode in files:
            write_new(path, data, mode)
    return made, tuple(written)


def receive(
    certs: Path, parts: Parts, name: str | None, passphrase: bytes | None, now: datetime, *, replace: bool
) -> Made:
    """Take in what a CA sent: the certificate goes with its key, its issuers in order behind it.

    The key is among `parts`, or waits in the certs folder: with the request, or in use (a renewal with the same
    key). `passphrase` encrypts a key that is among `parts`. Raises MailsvcError with every error that the server
    would have, and then nothing was written.
    """
    key_pem: bytes | None
    if parts.keys:
        key, leaf = belonging(parts.keys, parts.certificates)
        key_pem, home = encode_key(key, passphrase), None
    else:
        leaf, home, key_pem = _waiting(certs, parts.certificates)
    hosts = names_of(leaf)
    first = name or (home.name if home else next(iter((*hosts.hosts, *map(str, hosts.addresses))), None))
    if first is None:
        raise MailsvcError("the certificate names no host in its subjectAltName; clients would refuse it")
    folder = place_of(certs, first)
    chain, findings = judged(leaf, parts, folder / CHAIN, now)
    must_be_free(folder, replace=replace)
    make_folder(certs, 0o755)
    done = install(folder, chain, key_pem, "the server", now, replace=replace, kept_in=kept_folder(certs))
    if home is not None:
        for each in (home / REQUEST, home / REQUEST_KEY):
            each.unlink(missing_ok=True)
    return Made(chain, folder, done.written, done.kept, findings)


def judged(leaf: x509.Certificate, parts: Parts, path: Path, now: datetime) -> tuple[Chain, tuple[Finding, ...]]:
    """The chain of `leaf` from these parts, and the warnings about it. Raises MailsvcError with all errors."""
    chain, unused = assemble(leaf, parts.certificates)
    findings = [*parts.findings, *check_chain(chain, path, now)]
    if errors := [str(each) for each in findings if each.severity == "error"]:
        raise MailsvcError("\n".join((*errors, "nothing was imported")))
    findings += [
        Finding("warning", str(path), f"{common_name(each)} does not belong to the chain and was left out")
        for each in unused
    ]
    return chain, tuple(findings)


def _issue(
    certs: Path, authority: Authority, wanted: Wanted, folder: Path, pem: bytes, manner: Manner, now: datetime
) -> Made:
    must_be_free(folder, replace=manner.replace)
    certificate, kept = issue(authority, wanted, now)
    chain = (certificate, *authority.chain)
    if folder.parent != certs:
        make_folder(folder.parent)
    done: Installed = install(
        folder, chain, pem, f"the {wanted.purpose}", now, replace=manner.replace, kept_in=kept_folder(certs)
    )
    return Made(chain, folder, (*done.written, kept), done.kept)


def _key(folder: Path, manner: Manner, opening: Passphrase, closing: bytes | None) -> tuple[PrivateKey, bytes]:
    """The key to use and its PEM: a new one, or the folder's own when it shall stay, byte by byte."""
    if not manner.same_key:
        key = new_key(manner.kind or KINDS[0])
        return key, encode_key(key, closing)
    source = read(folder / KEY)
    found, findings = read_key(source, opening, cure="give its passphrase with --key-passphrase-file FILE")
    if found is None or source.data is None:
        raise MailsvcError(str(findings[0]))
    return found, source.data


def _waiting(certs: Path, certificates: Sequence[x509.Certificate]) -> tuple[x509.Certificate, Path, bytes]:
    """The certificate for which a key waits in the certs folder, that folder, and the key as it lies there."""
    for folder in sorted(path for path in certs.glob("*") if path.is_dir()):
        for public, key_path in _public_keys(folder):
            leaf = next((each for each in certificates if each.public_key() == public), None)
            source = read(key_path)
            if leaf is not None and source.data is not None:
                return leaf, folder, source.data
    raise MailsvcError(
        f"no key in {certs} belongs to these certificates, neither one that waits with a request nor one in use; "
        "give the key's file too, or make a request first (`mailsvc certs request`)"
    )


def _public_keys(folder: Path) -> list[tuple[object, Path]]:
    """The public keys whose private halves lie in a folder, as its request and its certificate tell them."""
    found: list[tuple[object, Path]] = []
    if (folder / REQUEST).exists():
        asked = read_request(read(folder / REQUEST)).public_key()
        found.append((asked, folder / (REQUEST_KEY if (folder / REQUEST_KEY).exists() else KEY)))
    chain, _ = read_chain(read(folder / CHAIN))
    return [*found, *((each.public_key(), folder / KEY) for each in chain[:1])]
