"""Making certificates: a private CA, and the server and client certificates that it signs.

Pure: keys, names and the time come in, certificates go out; `certkit.files` writes them. The hardest part is
to be neither too lax nor too strict for the clients that check (RFC 5280, and the CA/Browser baseline that
some of them apply to private CAs as well): names stand in the subjectAltName and nowhere else that matters
(RFC 9525), serial numbers carry 128 random bits, the CA may sign certificates but no other CA (pathlen 0), a
server certificate may serve and do nothing else, it lives 397 days at most and never longer than its CA, and
both begin an hour ago so that a peer whose clock lags agrees.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mailsvc.certkit.keys import PrivateKey, new_key
from mailsvc.errors import MailsvcError

BACKDATED = timedelta(hours=1)
AUTHORITY_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=397)

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class NameProblem(MailsvcError):
    """This cannot be a name in a certificate."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and the private key that belongs to it."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)


def new_authority(name: str, now: datetime, *, key: PrivateKey | None = None) -> Issued:
    """A self-signed CA called `name`, good for ten years, whose certificates may not sign further ones."""
    own = key or new_key()
    subject = _subject(name)
    identifier = x509.SubjectKeyIdentifier.from_public_key(own.public_key())
    builder = (
        _builder(subject, subject, own, now, now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    return Issued(builder.sign(own, _digest(own)), own)


def server_certificate(
    authority: Issued,
    names: Sequence[str],
    now: datetime,
    *,
    key: PrivateKey | None = None,
    lifetime: timedelta = LEAF_LIFETIME,
) -> Issued:
    """A certificate for serving TLS as exactly these names: host names (a wildcard's first label may be `*`)
    and IP addresses.

    It ends with its CA when that comes sooner. Raises NameProblem for an empty list or what is no name.
    """
    if not names:
        raise NameProblem("a server certificate needs at least one name")
    general = list(dict.fromkeys(general_name(name) for name in names))
    first = next((name.value for name in general if isinstance(name, x509.DNSName)), str(general[0].value))
    return _leaf(authority, first, general, ExtendedKeyUsageOID.SERVER_AUTH, now, key, lifetime)


def client_certificate(
    authority: Issued,
    common_name: str,
    now: datetime,
    *,
    emails: Sequence[str] = (),
    key: PrivateKey | None = None,
    lifetime: timedelta = LEAF_LIFETIME,
) -> Issued:
    """A certificate for a TLS client, called `common_name`, with its mail addresses as subjectAltName. It
    cannot serve."""
    general: list[x509.GeneralName] = [x509.RFC822Name(email) for email in emails]
    return _leaf(authority, common_name, general, ExtendedKeyUsageOID.CLIENT_AUTH, now, key, lifetime)


def general_name(name: str) -> x509.DNSName | x509.IPAddress:
    """A host name or IP address as a certificate holds it: lower case, A-labels, no final dot. Raises
    NameProblem."""
    text = name.strip()
    try:
        return x509.IPAddress(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        pass
    text = text.removesuffix(".")
    try:
        ascii_text = text.lower() if text.isascii() else text.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise NameProblem(f"{name!r} is not a host name or an IP address") from error
    labels = ascii_text.split(".")
    checked = labels[1:] if labels[0] == "*" and len(labels) > 2 else labels
    if len(ascii_text) > 253 or not all(_is_label(label) for label in checked) or checked[-1].isdigit():
        raise NameProblem(f"{name!r} is not a host name or an IP address")
    return x509.DNSName(ascii_text)


def _is_label(label: str) -> bool:
    return (
        0 < len(label) <= 63
        and label.isascii()
        and all(char.isalnum() or char in "-_" for char in label)
        and label[0] != "-"
        and label[-1] != "-"
    )


def _leaf(
    authority: Issued,
    common_name: str,
    names: Sequence[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    now: datetime,
    key: PrivateKey | None,
    lifetime: timedelta,
) -> Issued:
    own = key or new_key()
    issuer = authority.certificate
    end = min(now + lifetime, issuer.not_valid_after_utc)
    builder = (
        _builder(_subject(common_name), issuer.subject, own, now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .add_extension(_issuer_identifier(issuer), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Issued(builder.sign(authority.key, _digest(authority.key)), own)


def _issuer_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:  # a CA that was made elsewhere
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    start = now.astimezone(UTC).replace(microsecond=0) - BACKDATED
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        # 128 random bits; the leading 1 keeps the length, and with it the serial's place in lists, constant
        # (RFC 5280 section 4.1.2.2 allows 20 octets).
        .serial_number((1 << 128) | secrets.randbits(128))
        .not_valid_before(start)
        .not_valid_after(end.astimezone(UTC).replace(microsecond=0))
    )


def _subject(common_name: str) -> x509.Name:
    # X.520 gives the common name 64 characters. What clients compare is the subjectAltName, so a longer one
    # may be cut.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _digest(key: PrivateKey) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else hashes.SHA256()


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    # digitalSignature is all that a key does in TLS 1.3 and in the ECDHE suites of 1.2 (RFC 8446 section
    # 4.4.2.2).
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )
