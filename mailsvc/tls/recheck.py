"""The second look at a peer's certificates, without OpenSSL: dates, signatures, issuers, purpose, strength,
names, pins.

When a verify callback lets a handshake go on over an error, OpenSSL's own verdict is fine afterwards; and the
usual options of a TLS client take a certificate without a subjectAltName for any name at all. So after every
handshake the chain is looked at again here, and only what both looks agree on counts. Which roots are trusted
is OpenSSL's part alone (`mailsvc.tls.verify`); what a finding costs stands in `mailsvc.tls.levels`.

The rule that matters most: whatever cannot be read is a finding, never a pass. Each check therefore catches
every exception of the parsers below it (RFC 5280 section 6.1, RFC 9525 section 6).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import Enum
from itertools import pairwise
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from service_identity import VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address

from mailsvc.certkit.inspect import CURVES, is_self_signed, may_issue
from mailsvc.certkit.names import names_of, normal
from mailsvc.mail.channel import safe_text
from mailsvc.tls.chain import ChainFinding, expired, finding, label, merged, not_yet_valid

Chain = Sequence[x509.Certificate]
Extension = TypeVar("Extension", bound=x509.ExtensionType)

WEAK_HASHES = frozenset({"md5", "sha1"})
NAMES_SHOWN = 5


class Purpose(Enum):
    """What a certificate is presented for; the value is the extended key usage that allows it."""

    SERVER = ExtendedKeyUsageOID.SERVER_AUTH
    CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


def spki_digest(certificate: x509.Certificate) -> str:
    """SHA-256 of the public key (SubjectPublicKeyInfo, RFC 7469 section 2.4): 64 lower-case hexadecimal digits."""
    encoded = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()


def check_again(chain: Chain, purpose: Purpose, now: datetime) -> tuple[ChainFinding, ...]:
    """Everything that is wrong with the chain, which begins with the peer's certificate and ends with its root.

    Whether the root is a trusted one is not asked. `now` is aware of its time zone.
    """
    findings: list[ChainFinding] = []
    for depth, certificate in enumerate(chain):
        try:
            findings += _one(chain, depth, certificate, purpose, now)
        except Exception:  # parsers of what strangers send have more in store than their documentation tells
            text = f"{label(certificate)} has a part that is malformed; its owner must get a well-formed one"
            findings.append(finding("malformed", depth, text))
    weak = {each.depth for each in findings if each.kind == "weak-signature"}
    for depth, (certificate, issuer) in enumerate(pairwise(chain)):
        if depth in weak:
            continue  # cryptography does not even check those, and the finding is there
        try:
            certificate.verify_directly_issued_by(issuer)
        except Exception:
            text = f"{label(certificate)} has a signature that is not of {label(issuer)}: it was changed, or forged"
            findings.append(finding("signature", depth, f"{text}; do not trust it"))
    return merged(findings)


def check_name(certificate: x509.Certificate, server_name: str) -> tuple[ChainFinding, ...]:
    """What speaks against this certificate for a server of that name: a host name or an IP address.

    A common name counts for nothing (RFC 9525 section 2). No finding means that `service_identity` and
    `certkit.names` both found the name; any exception of either is a finding.
    """
    try:
        names = names_of(certificate)
        hosts = [*names.hosts, *map(str, names.addresses)]
        if not hosts:
            text = (
                f"{label(certificate)} names no host in its subjectAltName, and a common name does not count "
                "(RFC 9525); its owner must get one with the host names in its subjectAltName"
            )
            return (finding("no-names", 0, text),)
        _verify_name(certificate, server_name)
        if names.cover(server_name):
            return ()
        return (_wrong_name(hosts, server_name),)
    except VerificationError:
        return (_wrong_name(hosts, server_name),)
    except Exception:
        text = (
            f"{label(certificate)} has names that cannot be read or are not allowed (a malformed subjectAltName, or "
            f"a wildcard in a wrong place), so it does not count for {server_name}; its owner must get a "
            "well-formed one"
        )
        return (finding("malformed", 0, text),)


def is_pinned(certificate: x509.Certificate, pins: frozenset[str]) -> bool:
    """Whether the certificate's public key is one of these (each as `spki_digest` gives it)."""
    try:
        digest = spki_digest(certificate)
    except Exception:
        return False
    return any(hmac.compare_digest(digest, pin) for pin in pins)


def _verify_name(certificate: x509.Certificate, server_name: str) -> None:
    bare = server_name.strip("[]")
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        verify_certificate_hostname(certificate, normal(server_name))
    else:
        verify_certificate_ip_address(certificate, bare)


def _wrong_name(hosts: Sequence[str], server_name: str) -> ChainFinding:
    shown = ", ".join(safe_text(host, 60) for host in hosts[:NAMES_SHOWN])
    more = f" and {len(hosts) - NAMES_SHOWN} more" if len(hosts) > NAMES_SHOWN else ""
    text = f"the certificate is for {shown}{more}, not for {server_name}; use a name that it covers, or get one for it"
    return finding("wrong-name", 0, text)


def _one(
    chain: Chain, depth: int, certificate: x509.Certificate, purpose: Purpose, now: datetime
) -> Iterator[ChainFinding]:
    name = label(certificate)
    root = depth == len(chain) - 1 and is_self_signed(certificate)
    if now < certificate.not_valid_before_utc:
        yield finding("not-yet-valid", depth, f"{name} {not_yet_valid(certificate)}")
    if now > certificate.not_valid_after_utc:
        yield finding("expired", depth, f"{name} {expired(certificate)}")
    if weak := weak_key(certificate):
        text = f"{name} has {weak}; its owner must get one with ECDSA P-256 or RSA 2048 bits or more"
        yield finding("weak-key", depth, text)
    algorithm = certificate.signature_hash_algorithm
    # Nobody checks a root's own signature: it is trusted because it is in the list.
    if not root and algorithm is not None and algorithm.name in WEAK_HASHES:
        text = f"{name} is signed with {algorithm.name.upper()}, which can be forged"
        yield finding("weak-signature", depth, f"{text}; its owner must get one signed with SHA-256")
    if depth == 0:
        yield from _leaf(certificate, purpose)
    elif not (may_issue(certificate) or (root and certificate.version is x509.Version.v1)):
        text = f"{name} is not a CA's certificate and must not issue others"
        yield finding("not-a-ca", depth, f"{text}; its owner must get one from a CA that follows RFC 5280")
    else:
        limit = extension(certificate, x509.BasicConstraints)
        # Self-issued certificates in the middle do not count (RFC 5280 section 4.2.1.9).
        below = sum(each.subject != each.issuer for each in chain[1:depth])
        if limit is not None and limit.path_length is not None and below > limit.path_length:
            text = f"{name} allows {limit.path_length} CAs below it and has {below}"
            yield finding("path-length", depth, f"{text}; its owner must get one from a CA that follows RFC 5280")


def _leaf(certificate: x509.Certificate, purpose: Purpose) -> Iterator[ChainFinding]:
    name, role = label(certificate), "servers" if purpose is Purpose.SERVER else "clients"
    usage = extension(certificate, x509.ExtendedKeyUsage)
    if usage is not None and not {purpose.value, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usage):
        lacks = "serverAuth" if purpose is Purpose.SERVER else "clientAuth"
        text = f"{name} is not made for {role} (its extended key usage lacks {lacks})"
        yield finding("purpose", 0, f"{text}; its owner must get one that is")
    basic = extension(certificate, x509.KeyUsage)
    if basic is not None and not basic.digital_signature:
        text = f"{name} may not sign handshakes (its key usage lacks digitalSignature)"
        yield finding("purpose", 0, f"{text}; its owner must get one that may")


def weak_key(certificate: x509.Certificate) -> str | None:
    """What is weak about the certificate's key, as the end of a sentence; None for a good one."""
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return None if key.key_size >= 2048 else f"a weak key (RSA with {key.key_size} bits)"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return None if key.curve.name in CURVES else f"a key on the curve {key.curve.name}"
    known = isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey)
    return None if known else "a key of a kind that does not serve TLS"


def extension(certificate: x509.Certificate, kind: type[Extension]) -> Extension | None:
    """The value of an extension; None when there is none. ValueError and its kin when it cannot be read."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
