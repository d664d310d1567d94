"""Whom a check of certificates trusts, as values: the system's roots, a file, a folder, given CAs, or nobody.

Values only, so that they can be compared, kept in a policy and made from a relay's URL; reading the files is
left to `mailsvc.tls.verify`. The choice that surprises: roots that somebody *named* (a file, a folder, a CA)
are trusted alone, without the system's, and may be any certificate: an intermediate CA, or the server's own
self-signed one. The system's roots are trusted only as roots.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509


@dataclass(frozen=True, slots=True)
class SystemRoots:
    """The roots that this machine trusts (`/etc/ssl/certs`, or what SSL_CERT_FILE and SSL_CERT_DIR name)."""


@dataclass(frozen=True, slots=True)
class RootsFile:
    """All certificates in one PEM file, and no others."""

    path: Path


@dataclass(frozen=True, slots=True)
class RootsFolder:
    """All certificates in the files `*.pem`, `*.crt` and `*.cer` (each PEM) of a folder, and no others."""

    path: Path


@dataclass(frozen=True, slots=True)
class OnlyThese:
    """Exactly these certificates."""

    certificates: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class NoRoots:
    """Nobody: only a pin or a TLSA record can verify a peer, or an account that knows the certificate's key."""


Roots = SystemRoots | RootsFile | RootsFolder | OnlyThese | NoRoots


@dataclass(frozen=True, slots=True)
class Trust:
    """Roots, what their CAs took back, and pinned keys.

    `crls`: a certificate whose issuer has a list here is checked against it (RFC 5280 section 6.3), every
    certificate of the chain, and fails when the list is out of date; issuers without a list are not asked
    for one. `pins`: SHA-256 of public keys, 64 lower-case hexadecimal digits, as `mailsvc certs show`
    prints them. With roots a pin is an additional demand; with `NoRoots` it alone verifies the peer, whatever
    name and dates its certificate has. Raises ValueError for what is no such digest.
    """

    roots: Roots = field(default_factory=SystemRoots)
    crls: tuple[x509.CertificateRevocationList, ...] = field(default=(), hash=False)  # they have no hash
    pins: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for pin in self.pins:
            if len(pin) != 64 or not set(pin) <= set("0123456789abcdef"):
                raise ValueError(f"{pin!r} is no pin: give the SPKI SHA-256 that `mailsvc certs show` prints")
