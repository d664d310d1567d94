"""Certificates and what goes with them, in words: what `mailsvc certs show` prints, as values that turn into text or
JSON.

The fingerprints are the two that people compare: SHA-256 of the certificate (as `openssl x509 -fingerprint
-sha256`), and SHA-256 of its public key (SPKI), which stays when a certificate is renewed with its key, and
which pins and TLSA 3 1 1 records hold. Of a private key only its kind and that second fingerprint are ever shown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from mailsvc.certkit.constraints import constraints_of, in_words
from mailsvc.certkit.distribution import urls_of
from mailsvc.certkit.inspect import extension, may_issue, printable, when
from mailsvc.certkit.keys import PrivateKey, key_words
from mailsvc.certkit.names import Names, names_of
from mailsvc.certkit.requests import names_of_request
from mailsvc.certkit.revocation import revocation_of

_EXTENDED = {
    ExtendedKeyUsageOID.SERVER_AUTH: "TLS server",
    ExtendedKeyUsageOID.CLIENT_AUTH: "TLS client",
    ExtendedKeyUsageOID.EMAIL_PROTECTION: "S/MIME",
    ExtendedKeyUsageOID.CODE_SIGNING: "code signing",
    ExtendedKeyUsageOID.OCSP_SIGNING: "OCSP signing",
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE: "anything",
}
_USAGES = {
    "digital_signature": "digital signature",
    "content_commitment": "non-repudiation",
    "key_encipherment": "key encipherment",
    "data_encipherment": "data encipherment",
    "key_agreement": "key agreement",
    "key_cert_sign": "certificate signing",
    "crl_sign": "CRL signing",
}


@dataclass(frozen=True, slots=True)
class Description:
    """What a person wants to know about one certificate. Dates are in UTC, fingerprints, identifiers and serial
    lower-case hexadecimal; empty is what the certificate does not say."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: str
    not_after: str
    key: str
    authority: bool
    serial: str
    sha256: str
    spki_sha256: str
    signature: str = ""
    key_usage: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()
    path_length: int | None = None
    limited_to: str = ""
    subject_key: str = ""
    authority_key: str = ""
    crl_urls: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """The same as plain values."""
        facts = asdict(self)
        return {each: list(value) if isinstance(value, tuple) else value for each, value in facts.items()}

    def lines(self) -> list[str]:
        """The same as lines for people."""
        pairs = (self.sha256[at : at + 2] for at in range(0, len(self.sha256), 2))
        rows = (
            ("subject", self.subject + (" (a CA)" if self.authority else "")),
            ("issuer", self.issuer),
            ("names", ", ".join(self.names) or "none"),
            ("limited to", self.limited_to),
            ("valid", f"{self.not_before} to {self.not_after}"),
            ("key", self.key),
            ("signed with", self.signature),
            ("key usage", ", ".join(self.key_usage)),
            ("good for", ", ".join(self.purposes)),
            ("CAs below it", "" if self.path_length is None else str(self.path_length or "none")),
            ("serial", self.serial),
            ("subject key", self.subject_key),
            ("issuer key", self.authority_key),
            ("list at", ", ".join(self.crl_urls)),
            ("SHA-256", ":".join(pairs).upper()),
            ("SPKI SHA-256", self.spki_sha256),
        )
        return [f"{name:<13} {value}" for name, value in rows if value]


def describe(certificate: x509.Certificate) -> Description:
    """The description of a certificate that `inspect.read_chain` took."""
    basic = extension(certificate, x509.BasicConstraints)
    extended = extension(certificate, x509.ExtendedKeyUsage)
    subject_key = extension(certificate, x509.SubjectKeyIdentifier)
    authority_key = extension(certificate, x509.AuthorityKeyIdentifier)
    limits = constraints_of(certificate)
    return Description(
        printable(certificate.subject.rfc4514_string()),
        printable(certificate.issuer.rfc4514_string()),
        _shown(names_of(certificate)),
        when(certificate.not_valid_before_utc),
        when(certificate.not_valid_after_utc),
        key_kind(certificate),
        may_issue(certificate),
        f"{certificate.serial_number:x}",
        hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest(),
        spki_sha256(certificate.public_key()),
        _signature(certificate.signature_hash_algorithm, certificate.signature_algorithm_oid),
        tuple(_usages(extension(certificate, x509.KeyUsage))),
        tuple(_EXTENDED.get(each, each.dotted_string) for each in extended or ()),
        None if basic is None else basic.path_length,
        "" if limits is None else printable(in_words(limits)),
        "" if subject_key is None else subject_key.digest.hex(),
        "" if authority_key is None or authority_key.key_identifier is None else authority_key.key_identifier.hex(),
        tuple(map(printable, urls_of(certificate))),
    )


def describe_request(request: x509.CertificateSigningRequest) -> dict[str, object]:
    """What a request asks for."""
    return {
        "subject": printable(request.subject.rfc4514_string()),
        "names": list(_shown(names_of_request(request))),
        "key": key_words(request.public_key()),
        "spki_sha256": spki_sha256(request.public_key()),
    }


def describe_key(key: PrivateKey) -> dict[str, object]:
    """What may be known of a private key: its kind, and the fingerprint by which its certificate is found."""
    return {"key": key_words(key), "spki_sha256": spki_sha256(key.public_key())}


def describe_list(revoked: x509.CertificateRevocationList) -> dict[str, object]:
    """A revocation list: whose, from when to when, and what stands in it."""
    try:
        number: int | None = revoked.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        number = None
    entries = []
    for each in revoked:
        found = revocation_of(revoked, each.serial_number)
        if found is not None:
            entries.append({"serial": f"{each.serial_number:x}", "date": when(found[0]), "reason": found[1]})
    end = revoked.next_update_utc
    return {
        "issuer": printable(revoked.issuer.rfc4514_string()),
        "number": number,
        "not_before": when(revoked.last_update_utc),
        "not_after": None if end is None else when(end),
        "revoked": entries,
    }


def spki_sha256(key: CertificatePublicKeyTypes) -> str:
    """SHA-256 of a public key (its SubjectPublicKeyInfo), in hexadecimal: what a pin or a TLSA 3 1 1 record holds."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def key_kind(certificate: x509.Certificate) -> str:
    """The kind of the public key: "ECDSA secp256r1 (P-256)", "RSA 2048 bits", "Ed25519"."""
    return key_words(certificate.public_key())


def _usages(usage: x509.KeyUsage | None) -> Iterator[str]:
    if usage is not None:
        yield from (words for name, words in _USAGES.items() if getattr(usage, name))


def _signature(digest: hashes.HashAlgorithm | None, oid: x509.ObjectIdentifier) -> str:
    name = str(getattr(oid, "_name", oid.dotted_string))
    family = next((each for each in ("RSASSA-PSS", "ECDSA", "RSA", "DSA") if each.lower() in name.lower()), name)
    return family.capitalize() if digest is None else f"{family} with {digest.name.upper().replace('SHA', 'SHA-')}"


def _shown(names: Names) -> tuple[str, ...]:
    return tuple(printable(name) for name in (*names.hosts, *map(str, names.addresses), *names.emails))
