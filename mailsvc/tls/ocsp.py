"""OCSP stapling: whether the response that lies beside a certificate may be shown to clients (RFC 6960, RFC 6066).

Nothing is fetched here.  Whoever renews the certificate puts `ocsp.der` beside it (`openssl ocsp -respout`, certbot's
hooks); without it, or with one that is not good, the certificate is served without a staple.

The hardest idea: a staple must be right at the moment when it is shown, not when it was read.  So a `Staple` carries
its end, and `current` is asked at each handshake.  And a response proves nothing unless its signer may speak for the
issuer (section 4.2.2.2): the issuer itself, or a responder whose certificate the issuer signed for just that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from mailsvc.certkit.inspect import when

CLOCKS_DIFFER = timedelta(minutes=5)
LONGEST = timedelta(days=14)
"""A response that names no end is good for so long at most."""


@dataclass(frozen=True, slots=True)
class Staple:
    """A response that was found good, as DER; ``until`` is in seconds since the epoch."""

    der: bytes = field(repr=False)
    until: float

    def current(self, now: float) -> bytes:
        """What to show at ``now`` (seconds since the epoch): the response, or b"" when its time is over."""
        return self.der if now < self.until else b""


def read_staple(der: bytes, chain: tuple[x509.Certificate, ...], now: datetime) -> tuple[Staple | None, str]:
    """The staple in these octets for ``chain``, or None and why it cannot be shown (no period at its end).

    ``now`` is aware of its time zone.
    """
    if len(chain) < 2:
        return None, "it cannot be checked without the issuer's certificate behind the server's"
    leaf, issuer = chain[:2]
    try:
        response = ocsp.load_der_ocsp_response(der)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return None, f"the responder gave no answer ({response.response_status.name.lower()})"
        singles = [each for each in response.responses if _is_about(each, leaf, issuer)]
        if not singles:
            return None, "it is about another certificate"
        single = singles[0]
        if single.certificate_status is ocsp.OCSPCertStatus.REVOKED:
            revoked = single.revocation_time_utc
            return None, f"it says that the certificate was revoked{f' on {when(revoked)}' if revoked else ''}"
        if single.certificate_status is not ocsp.OCSPCertStatus.GOOD:
            return None, "the responder does not know the certificate"
        start = single.this_update_utc
        end = single.next_update_utc or start + LONGEST
        if start > now + CLOCKS_DIFFER:
            return None, f"it is not valid before {when(start)}"
        if end <= now:
            return None, f"it ended on {when(end)}"
        if not _is_signed(response, issuer, now):
            return None, "its signature is not one of the certificate's issuer"
    except Exception:  # ValueError mostly; a parser for files from anywhere has more in store
        return None, "it is no OCSP response in DER, or a damaged one"
    return Staple(der, end.timestamp()), ""


def _is_about(single: ocsp.OCSPSingleResponse, leaf: x509.Certificate, issuer: x509.Certificate) -> bool:
    if single.serial_number != leaf.serial_number:
        return False
    digest = hashes.Hash(single.hash_algorithm)
    digest.update(leaf.issuer.public_bytes())
    # RFC 6960 section 4.1.1: of the BIT STRING's value, without tag, length and the count of unused bits.
    return digest.finalize() == single.issuer_name_hash and single.issuer_key_hash == _key_hash(
        issuer, single.hash_algorithm
    )


def _key_hash(issuer: x509.Certificate, algorithm: hashes.HashAlgorithm) -> bytes:
    key = issuer.public_key()
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if isinstance(key, ec.EllipticCurvePublicKey):
        encoding, form = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    elif isinstance(key, rsa.RSAPublicKey):
        form = serialization.PublicFormat.PKCS1
    elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        encoding, form = serialization.Encoding.Raw, serialization.PublicFormat.Raw
    digest = hashes.Hash(algorithm)
    digest.update(key.public_bytes(encoding, form))
    return digest.finalize()


def _is_signed(response: ocsp.OCSPResponse, issuer: x509.Certificate, now: datetime) -> bool:
    if _signed_by(response, issuer):
        return True
    return any(_speaks_for(each, issuer, now) and _signed_by(response, each) for each in response.certificates)


def _speaks_for(responder: x509.Certificate, issuer: x509.Certificate, now: datetime) -> bool:
    try:
        responder.verify_directly_issued_by(issuer)
        usage = responder.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    in_time = responder.not_valid_before_utc <= now <= responder.not_valid_after_utc
    return in_time and ExtendedKeyUsageOID.OCSP_SIGNING in usage


def _signed_by(response: ocsp.OCSPResponse, signer: x509.Certificate) -> bool:
    key, algorithm = signer.public_key(), response.signature_hash_algorithm
    try:
        if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(response.signature, response.tbs_response_bytes)
        elif algorithm is None or algorithm.name in ("md5", "sha1"):
            return False
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(response.signature, response.tbs_response_bytes, padding.PKCS1v15(), algorithm)
        else:
            return False
    except InvalidSignature:
        return False
    return True
