"""A credential: a certificate chain with the private key that fits it, and the names that it speaks for.

A value, complete and judged before it exists (`certkit.inspect` did that, `tls.sources` brings the files):
whoever holds one need not ask again whether the key fits. Making OpenSSL use it is left to `tls.server`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mailsvc.certkit.keys import PrivateKey
from mailsvc.certkit.names import Names, names_of
from mailsvc.tls.ocsp import Staple


@dataclass(frozen=True, slots=True)
class Credential:
    """What one name's folder, or one row, holds.

    `name` is the folder's or the row's, for people; `chain` begins with the server's own certificate; `names` are
    those of its subjectAltName; `sources` are the files it came from, `origin` is the source that had them; `staple`
    is what OCSP says of it, if that is known.
    """

    name: str
    chain: tuple[x509.Certificate, ...]
    key: PrivateKey = field(repr=False)
    names: Names
    sources: tuple[Path, ...] = ()
    origin: str = ""
    staple: Staple | None = None

    @property
    def leaf(self) -> x509.Certificate:
        """The server's own certificate."""
        return self.chain[0]

    @property
    def not_after(self) -> datetime:
        """When the first certificate of the chain ends."""
        return min(certificate.not_valid_after_utc for certificate in self.chain)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the server's certificate: 32 octets."""
        return hashlib.sha256(self.leaf.public_bytes(Encoding.DER)).digest()


def make_credential(
    name: str,
    chain: tuple[x509.Certificate, ...],
    key: PrivateKey,
    sources: tuple[Path, ...] = (),
    *,
    origin: str = "",
    staple: Staple | None = None,
) -> Credential:
    """A credential whose names are read from its certificate. Raises ValueError when the key does not fit."""
    if chain[0].public_key() != key.public_key():
        raise ValueError(f"the key of {name} does not fit its certificate")
    return Credential(name, chain, key, names_of(chain[0]), sources, origin, staple)
