"""A certificate in words: what `mailsvc certs show` prints, as a value that turns into text or JSON.

The fingerprints are the two that people compare: SHA-256 of the certificate (as `openssl x509 -fingerprint
-sha256`), and SHA-256 of its public key (SPKI), which stays when a certificate is renewed with its key, and
which pins and TLSA 3 1 1 records hold.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mailsvc.certkit.inspect import may_issue, printable, when
from mailsvc.certkit.keys import key_words
from mailsvc.certkit.names import names_of


@dataclass(frozen=True, slots=True)
class Description:
    """What a person wants to know about one certificate. Dates are in UTC, fingerprints and serial lower-case
    hexadecimal."""

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

    def as_json(self) -> dict[str, object]:
        """The same as plain values."""
        return {**asdict(self), "names": list(self.names)}

    def lines(self) -> list[str]:
        """The same as lines for people."""
        pairs = (self.sha256[at : at + 2] for at in range(0, len(self.sha256), 2))
        rows = (
            ("subject", self.subject + (" (a CA)" if self.authority else "")),
            ("issuer", self.issuer),
            ("names", ", ".join(self.names) or "none"),
            ("valid", f"{self.not_before} to {self.not_after}"),
            ("key", self.key),
            ("serial", self.serial),
            ("SHA-256", ":".join(pairs).upper()),
            ("SPKI SHA-256", self.spki_sha256),
        )
        return [f"{name:<13} {value}" for name, value in rows]


def describe(certificate: x509.Certificate) -> Description:
    """The description of a certificate that `inspect.read_chain` took."""
    names = names_of(certificate)
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Description(
        printable(certificate.subject.rfc4514_string()),
        printable(certificate.issuer.rfc4514_string()),
        tuple(printable(name) for name in (*names.hosts, *map(str, names.addresses), *names.emails)),
        when(certificate.not_valid_before_utc),
        when(certificate.not_valid_after_utc),
        key_kind(certificate),
        may_issue(certificate),
        f"{certificate.serial_number:x}",
        hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest(),
        hashlib.sha256(spki).hexdigest(),
    )


def key_kind(certificate: x509.Certificate) -> str:
    """The kind of the public key: "ECDSA secp256r1 (P-256)", "RSA 2048 bits", "Ed25519"."""
    return key_words(certificate.public_key())
