"""Whether a server's certificates match its TLSA records (RFC 6698, RFC 7671, RFC 7672): a pure function.

Looking the records up, and believing them only when DNSSEC signed them, is left to the caller: everything
here takes the records as true. For SMTP only the usages DANE-TA(2) and DANE-EE(3) count (RFC 7672 section
3.1); a record with another usage, an unknown selector or matching type, or a digest of the wrong length is
"unusable" and is passed over.

The hardest idea is how little DANE-EE asks: the key matches, and neither names nor dates nor issuers are
looked at (RFC 7672 section 3.1.1), because the record itself says all that a CA would. DANE-TA asks for all
of them: from the certificate that matches down to the server's own each must be signed by the one above, in
time, and the server's must cover one of the names (section 3.1.2).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mailsvc.tls.chain import ChainFinding
from mailsvc.tls.recheck import Purpose, check_again, check_name

DANE_TA, DANE_EE = 2, 3
CERT, SPKI = 0, 1
FULL, SHA256, SHA512 = 0, 1, 2
_LENGTHS = {SHA256: 32, SHA512: 64}
CHAIN_LIMIT = 20
"""Certificates of a chain that are looked at: each costs a signature check."""


@dataclass(frozen=True, slots=True)
class TLSARecord:
    """One TLSA record (RFC 6698 section 2.1): certificate usage, selector, matching type, and the data."""

    usage: int
    selector: int
    matching: int
    data: bytes

    @property
    def usable(self) -> bool:
        """Whether the record can decide about an SMTP server (RFC 7672 section 3.1)."""
        if self.usage not in (DANE_TA, DANE_EE) or self.selector not in (CERT, SPKI) or not self.data:
            return False
        return self.matching == FULL or _LENGTHS.get(self.matching) == len(self.data)

    def __str__(self) -> str:
        shown = self.data.hex()
        return f"{self.usage} {self.selector} {self.matching} {shown if len(shown) <= 128 else shown[:125] + '...'}"


@dataclass(frozen=True, slots=True)
class DaneMatch:
    """`record` is the one that matches, None when none does. `usable` says how many could have decided: with
    none usable DANE says nothing about the certificate, and TLS stays mandatory (RFC 7672 section 2.2).
    `findings` tells why a DANE-TA record that is in the chain did not count."""

    record: TLSARecord | None = None
    usable: int = 0
    findings: tuple[ChainFinding, ...] = field(default=())

    @property
    def matched(self) -> bool:
        """Whether DANE verified the server."""
        return self.record is not None


def match_tlsa(
    chain: Sequence[x509.Certificate], records: Iterable[TLSARecord], names: Sequence[str], now: datetime
) -> DaneMatch:
    """The first record that verifies the server that sent `chain` (its own certificate first, as sent).

    `names`: the names that a certificate may cover for DANE-TA: the TLSA base domain and, for SMTP, the
    next-hop domain (RFC 7672 section 3.2.2). Never raises.
    """
    usable = agile([record for record in records if record.usable])
    findings: list[ChainFinding] = []
    if not chain:
        return DaneMatch(None, len(usable))
    for record in usable:
        if record.usage == DANE_EE:
            if _fits(record, chain[0]):
                return DaneMatch(record, len(usable))
            continue
        for path in _paths(record, chain[:CHAIN_LIMIT]):
            against = (*check_again(path, Purpose.SERVER, now), *_names(path[0], names))
            if not against:
                return DaneMatch(record, len(usable))
            findings += against
    return DaneMatch(None, len(usable), tuple(dict.fromkeys(findings)))


def agile(records: Sequence[TLSARecord]) -> tuple[TLSARecord, ...]:
    """Without the records that a stronger digest of the same usage and selector makes superfluous (RFC 7671
    section 9). DANE-EE stands first: it is the cheaper to check."""
    strongest: dict[tuple[int, int], int] = {}
    for record in records:
        key = record.usage, record.selector
        strongest[key] = max(strongest.get(key, FULL), record.matching)
    kept = [each for each in records if each.matching in (FULL, strongest[each.usage, each.selector])]
    return tuple(sorted(kept, key=lambda each: -each.usage))


def _paths(record: TLSARecord, chain: Sequence[x509.Certificate]) -> list[list[x509.Certificate]]:
    """The ways from the server's certificate up to one that the record means."""
    path = [chain[0]]
    rest = list(chain[1:])
    if record.selector == CERT and record.matching == FULL:
        # The record holds the certificate itself, so that the server need not send it (RFC 7671 section 5.2.2).
        try:
            rest.append(x509.load_der_x509_certificate(record.data))
        except ValueError:
            return []
    found = []
    while True:
        if len(path) > 1 and _fits(record, path[-1]):
            found.append(list(path))
        following = next((each for each in rest if each not in path and _issued(path[-1], each)), None)
        if following is None:
            return found
        path.append(following)


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:
        return False
    return True


def _names(certificate: x509.Certificate, names: Sequence[str]) -> tuple[ChainFinding, ...]:
    answers = [check_name(certificate, name) for name in names]
    # Without any name to compare there is nothing that could pass.
    return () if any(not answer for answer in answers) else (answers or [check_name(certificate, "")])[0]


def _fits(record: TLSARecord, certificate: x509.Certificate) -> bool:
    try:
        if record.selector == CERT:
            data = certificate.public_bytes(Encoding.DER)
        else:
            data = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except Exception:  # a key that cannot be read matches nothing
        return False
    digest = {SHA256: hashlib.sha256, SHA512: hashlib.sha512}.get(record.matching)
    return hmac.compare_digest(data if digest is None else digest(data).digest(), record.data)
