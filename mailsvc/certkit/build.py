"""Making certificates: a private CA, and the server and client certificates that it signs.

Pure: keys, names and the time come in, certificates go out; `certkit.files` writes them. The hardest part is
to be neither too lax nor too strict for the clients that check (RFC 5280, and the CA/Browser baseline that
some of them apply to private CAs as well): names stand in the subjectAltName and nowhere else that matters
(RFC 9525), serial numbers carry 128 random bits, the CA may sign certificates but no other CA (pathlen 0), a
server certificate may serve and do nothing else, it lives 397 days at most unless told and never longer than
its CA, and both begin an hour ago so that a peer whose clock lags agrees.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mailsvc.certkit.inspect import Purpose
from mailsvc.certkit.keys import PrivateKey, new_key
from mailsvc.certkit.names import ascii_host
from mailsvc.errors import MailsvcError

BACKDATED = timedelta(hours=1)
AUTHORITY_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=397)

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_USAGES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}


class NameProblem(MailsvcError):
    """This cannot be a name in a certificate."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and the private key that belongs to it."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate before it is signed: whose key, under which label and names, for what, how long."""

    public_key: CertificatePublicKeyTypes
    common_name: str
    names: tuple[x509.GeneralName, ...]
    purpose: Purpose
    lifetime: timedelta = LEAF_LIFETIME


def new_authority(
    name: str, now: datetime, *, key: PrivateKey | None = None, constraints: x509.NameConstraints | None = None
) -> Issued:
    """A self-signed CA called `name`, good for ten years, whose certificates may not sign further ones.

    With `constraints` it can speak for the names in them only, whatever it signs.
    """
    own = key or new_key()
    subject = subject_called(name)
    identifier = x509.SubjectKeyIdentifier.from_public_key(own.public_key())
    builder = (
        _builder(subject, subject, own.public_key(), now, now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    if constraints is not None:  # critical: RFC 5280 section 4.2.1.10
        builder = builder.add_extension(constraints, critical=True)
    return Issued(builder.sign(own, digest_for(own)), own)


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
    own = key or new_key()
    return Issued(sign(authority, server_wanted(own.public_key(), names, lifetime), now), own)


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
    own = key or new_key()
    return Issued(sign(authority, client_wanted(own.public_key(), common_name, emails, (), lifetime), now), own)


def server_wanted(
    public_key: CertificatePublicKeyTypes, names: Sequence[str], lifetime: timedelta = LEAF_LIFETIME
) -> Wanted:
    """What a server's certificate for these names shall hold. Raises NameProblem."""
    if not names:
        raise NameProblem("a server certificate needs at least one name")
    general = tuple(dict.fromkeys(general_name(name) for name in names))
    return Wanted(public_key, first_name(general), general, "server", lifetime)


def client_wanted(
    public_key: CertificatePublicKeyTypes,
    common_name: str,
    emails: Sequence[str] = (),
    hosts: Sequence[str] = (),
    lifetime: timedelta = LEAF_LIFETIME,
) -> Wanted:
    """What a client's certificate shall hold: a person's mail addresses, a machine's host names. Raises
    NameProblem."""
    if not common_name or not common_name.isprintable():
        raise NameProblem(f"{common_name!r} is not a name for a client; give it a short printable one")
    names = [*map(mail_name, emails), *map(general_name, hosts)]
    return Wanted(public_key, common_name, tuple(dict.fromkeys(names)), "client", lifetime)


def sign(
    authority: Issued, wanted: Wanted, now: datetime, crl: x509.CRLDistributionPoints | None = None
) -> x509.Certificate:
    """The certificate, signed by the CA: an end entity's (no CA), for its one purpose, ending with its CA at the
    latest. `crl` says where the CA's revocation list is, when somebody can fetch it."""
    issuer = authority.certificate
    end = min(now + wanted.lifetime, issuer.not_valid_after_utc)
    builder = (
        _builder(subject_called(wanted.common_name), issuer.subject, wanted.public_key, now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_USAGES[wanted.purpose]]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(wanted.public_key), critical=False)
        .add_extension(issuer_identifier(issuer), critical=False)
    )
    if wanted.names:
        builder = builder.add_extension(x509.SubjectAlternativeName(wanted.names), critical=False)
    if crl is not None:  # not critical: RFC 5280 section 4.2.1.13
        builder = builder.add_extension(crl, critical=False)
    return builder.sign(authority.key, digest_for(authority.key))


def general_name(name: str) -> x509.DNSName | x509.IPAddress:
    """A host name or IP address as a certificate holds it: lower case, A-labels, no final dot. Raises
    NameProblem."""
    text = name.strip()
    try:
        return x509.IPAddress(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        pass
    host = ascii_host(text)
    if host is None:
        raise NameProblem(f"{name!r} is not a host name or an IP address")
    return x509.DNSName(host)


def mail_name(address: str) -> x509.RFC822Name:
    """A mail address as a certificate holds it: ASCII, the domain in lower case and A-labels. Raises
    NameProblem."""
    local, _, domain = address.strip().rpartition("@")
    host = ascii_host(domain)
    if not local or host is None or not (local.isascii() and local.isprintable()) or " " in local:
        raise NameProblem(f"{address!r} is not a mail address that a certificate can hold (local part in ASCII)")
    return x509.RFC822Name(f"{local}@{host}")


def first_name(names: Sequence[x509.GeneralName]) -> str:
    """The name that labels a certificate: its first host name, else its first name."""
    return next((name.value for name in names if isinstance(name, x509.DNSName)), str(names[0].value))


def subject_called(common_name: str) -> x509.Name:
    """A subject of nothing but this common name."""
    # X.520 gives the common name 64 characters. What clients compare is the subjectAltName, so a longer one
    # may be cut.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def digest_for(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | None:
    """The digest that a key of this kind signs with; None where the kind has its own."""
    if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        return None
    return hashes.SHA384() if isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size > 256 else hashes.SHA256()


def issuer_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The AKI of what this CA signs: its own SKI, computed when it was made elsewhere without one."""
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: CertificatePublicKeyTypes, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    start = now.astimezone(UTC).replace(microsecond=0) - BACKDATED
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        # 128 random bits; the leading 1 keeps the length, and with it the serial's place in lists, constant
        # (RFC 5280 section 4.1.2.2 allows 20 octets).
        .serial_number((1 << 128) | secrets.randbits(128))
        .not_valid_before(start)
        .not_valid_after(end.astimezone(UTC).replace(microsecond=0))
    )


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
