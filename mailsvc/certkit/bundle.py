"""Whatever a CA sends, taken apart: certificates and keys out of files of any common form, the chain in order.

The answer to a request comes as PEM or DER, as one file or as three, as PKCS#7 (.p7b) or, with a key that
somebody else made, as PKCS#12; the certificates stand in any order, with roots nobody asked for, or without
the one that is needed. `take_apart` reads them all, `assemble` finds the certificate that belongs to a key and
puts behind it what issued it, link by link, by signatures and not by file names or positions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs7

from mailsvc.certkit.files import Source
from mailsvc.certkit.inspect import Chain, Finding, Passphrase, is_self_signed, issued_by, read_chain, read_key
from mailsvc.certkit.keys import PrivateKey
from mailsvc.certkit.pem import blocks, what_else
from mailsvc.certkit.pkcs12 import read_pkcs12
from mailsvc.errors import MailsvcError

LONGEST_CHAIN = 16
"""Certificates; what is longer is a mistake, or somebody's try."""

_CURE = "give the right one with --passphrase-file FILE"


@dataclass(frozen=True, slots=True)
class Parts:
    """What was found in some files, each thing once."""

    certificates: Chain = ()
    keys: tuple[PrivateKey, ...] = field(default=(), repr=False)
    findings: tuple[Finding, ...] = ()


def take_apart(sources: Sequence[Source], passphrase: Passphrase) -> Parts:
    """All certificates and private keys in these files; a finding for each file that has neither, or cannot be
    read. `passphrase` is asked only for what is encrypted."""
    certificates: list[x509.Certificate] = []
    keys: list[PrivateKey] = []
    findings: list[Finding] = []
    for source in sources:
        try:
            key, chain = _one(source, passphrase)
        except MailsvcError as problem:
            findings.append(Finding("error", str(source.path), str(problem)))
            continue
        certificates += [each for each in chain if each not in certificates]
        if key is not None and all(key.public_key() != each.public_key() for each in keys):
            keys.append(key)
    return Parts(tuple(certificates), tuple(keys), tuple(findings))


def assemble(leaf: x509.Certificate, pool: Sequence[x509.Certificate]) -> tuple[Chain, Chain]:
    """The chain that begins with `leaf` and goes on, issuer by issuer, as far as `pool` has them; and those of
    the pool that do not belong to it."""
    chain = [leaf]
    while len(chain) < LONGEST_CHAIN and not is_self_signed(chain[-1]):
        issuer = next((each for each in pool if each not in chain and issued_by(chain[-1], each)), None)
        if issuer is None:
            break
        chain.append(issuer)
    return tuple(chain), tuple(each for each in pool if each not in chain)


def belonging(
    keys: Sequence[PrivateKey], certificates: Sequence[x509.Certificate]
) -> tuple[PrivateKey, x509.Certificate]:
    """The one key and certificate that belong together. Raises MailsvcError when there is no such pair, or more
    than one."""
    pairs = [(key, each) for key in keys for each in certificates if each.public_key() == key.public_key()]
    if not pairs:
        raise MailsvcError(
            "none of the certificates belongs to the key; import them with the key that they were made for"
        )
    if len(pairs) > 1:
        raise MailsvcError(f"{len(pairs)} certificates belong to a key here; import one at a time")
    return pairs[0]


def _one(source: Source, passphrase: Passphrase) -> tuple[PrivateKey | None, Chain]:
    """One file. Raises MailsvcError with the end of a sentence that begins with its path."""
    if source.data is None:
        raise MailsvcError(source.problem or "cannot be read")
    if source.data[:1] == b"\x30":
        return _binary(source.data, source.path, passphrase)
    found = blocks(source.data)
    chain: Chain = ()
    key: PrivateKey | None = None
    if any(block.is_certificate for block in found):
        chain, findings = read_chain(source)
        _raise(findings)
    for block in found:
        if block.label in ("PKCS7", "CMS"):
            chain += _pkcs7(pkcs7.load_pem_pkcs7_certificates, block.text.replace(b"CMS-----", b"PKCS7-----"))
    if any(block.is_private_key for block in found):
        key, findings = read_key(source, passphrase, cure=_CURE)
        _raise(findings)
    if key is None and not chain:
        raise MailsvcError(f"has neither a certificate nor a private key in it: it {what_else(source.data)}")
    return key, chain


def _binary(data: bytes, path: Path, passphrase: Passphrase) -> tuple[PrivateKey | None, Chain]:
    try:
        pem = x509.load_der_x509_certificate(data).public_bytes(serialization.Encoding.PEM)
    except Exception:  # a parser for files from anywhere; the next form is tried
        pass
    else:
        chain, findings = read_chain(Source(path, pem))
        _raise(findings)
        return None, chain
    try:
        return None, _pkcs7(pkcs7.load_der_pkcs7_certificates, data)
    except MailsvcError:
        pass
    try:
        key = serialization.load_der_private_key(data, None)
    except TypeError:
        raise MailsvcError(
            "is an encrypted key in binary form (DER); turn it into PEM first: openssl pkey -inform DER"
        ) from None
    except Exception:  # as above
        pass
    else:
        if not isinstance(key, PrivateKey):
            raise MailsvcError(f"holds a key of a kind that cannot serve TLS ({type(key).__name__})")
        return key, ()
    if not _is_pkcs12(data):
        raise MailsvcError("is in a binary form that is no certificate, key, PKCS#7 or PKCS#12; get it as PEM")
    try:
        return read_pkcs12(data, None)  # some have no passphrase
    except MailsvcError:
        secret = passphrase()
        if secret is None:
            raise MailsvcError(f"is a PKCS#12 file that needs its passphrase; {_CURE}") from None
        return read_pkcs12(data, secret)


def _pkcs7(load: Callable[[bytes], list[x509.Certificate]], data: bytes) -> Chain:
    try:
        with warnings.catch_warnings():
            # Windows and others write BER where DER is due; cryptography reads it, and says so to the wrong person.
            warnings.simplefilter("ignore", UserWarning)
            return tuple(load(data))
    except Exception as error:  # as above
        raise MailsvcError("holds a PKCS#7 structure that is damaged; get it from the CA again") from error


def _is_pkcs12(data: bytes) -> bool:
    # PFX ::= SEQUENCE { version INTEGER (3), ... }: RFC 7292 section 4. The length takes 1 to 5 octets.
    return b"\x02\x01\x03" in data[2:9]


def _raise(findings: Sequence[Finding]) -> None:
    if findings:
        raise MailsvcError("; ".join(each.text for each in findings))
