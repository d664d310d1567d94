"""Bad certificates for tests: some forty ways in which a chain must not pass, each made here, anew for every process.

`bad_certificates(purpose)` gives the same table for servers and for clients; what is only wrong about a
server's names is left out for clients. Each row says what kind of finding it must give and words of its
sentence. What no library would make (MD5, a subjectAltName of garbage) is made by changing the bytes and
signing them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from mailsvc.certkit.keys import PrivateKey, new_key
from mailsvc.tls.recheck import Purpose
from mailsvc.tls.roots import NoRoots, OnlyThese, Trust

HOST = "mail.example.org"
DAY = timedelta(days=1)
GARBAGE = b"\x30\x03\x82\x20x"
"""A SEQUENCE whose name says that it is longer than all."""


@dataclass(frozen=True)
class Made:
    """A certificate with its key, which may issue others."""

    certificate: x509.Certificate
    key: PrivateKey


@dataclass(frozen=True)
class Bad:
    """One row: what is presented, what is trusted, and what must be said.

    `chain` begins with the peer's certificate. `name` is what the client asks for. `kind` and `depth` are those
    of the finding that must be among those told, `words` stand in its sentence.
    """

    title: str
    chain: tuple[x509.Certificate, ...]
    key: PrivateKey
    trust: Trust
    kind: str
    words: str
    depth: int = 0
    name: str = HOST
    names_only: bool = False


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@cache
def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def root(title: str = "root", *, bits: int = 0) -> Made:
    """A good root, the same for each title."""
    return make(None, title, ca=True, key=rsa_key(bits) if bits else None)


def san(*names: str, raw: Sequence[x509.GeneralName] = ()) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([*(x509.DNSName(name) for name in names), *raw])


def make(
    issuer: Made | None,
    subject: str,
    *,
    ca: bool = False,
    path_length: int | None = None,
    names: x509.ExtensionType | None = None,
    usage: x509.ObjectIdentifier | None = None,
    signs: bool = True,
    start: timedelta = -DAY,
    end: timedelta = 30 * DAY,
    key: PrivateKey | None = None,
    extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> Made:
    """A certificate like those that are good, but for what is asked for. Without an issuer it signs itself."""
    own = key or new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    issuer_name, signer_key = (issuer.certificate.subject, issuer.key) if issuer else (name, own)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer_name)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() + start)
        .not_valid_after(now() + end)
        .add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .add_extension(key_usage(signature=signs and not ca, issue=signs and ca), critical=True)
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if names is not None:
        builder = builder.add_extension(names, critical=False)
    for value, critical in extra:
        builder = builder.add_extension(value, critical=critical)
    return Made(builder.sign(signer_key, hashes.SHA256()), own)


def key_usage(*, signature: bool, issue: bool) -> x509.KeyUsage:
    agree = not signature and not issue  # some usage must be there
    return x509.KeyUsage(signature, False, False, False, agree, issue, issue, False, False)


def signed_with(
    certificate: x509.Certificate, issuer: rsa.RSAPrivateKey, digest: hashes.HashAlgorithm
) -> x509.Certificate:
    """The certificate with a signature that no library makes any more: RSA with MD5 or SHA-1."""
    sha256 = bytes.fromhex("06092a864886f70d01010b")
    old = {"md5": b"\x04", "sha1": b"\x05"}[digest.name]
    algorithm = b"\x30\x0d" + sha256[:-1] + old + b"\x05\x00"
    tbs = certificate.tbs_certificate_bytes.replace(sha256, sha256[:-1] + old)
    signature = issuer.sign(tbs, padding.PKCS1v15(), digest)
    return x509.load_der_x509_certificate(sequence(tbs + algorithm + der(3, b"\0" + signature)))


def damaged(certificate: x509.Certificate) -> x509.Certificate:
    """The certificate with one bit of its text changed."""
    data = certificate.public_bytes(Encoding.DER)
    serial = certificate.serial_number.to_bytes((certificate.serial_number.bit_length() + 7) // 8, "big")
    return x509.load_der_x509_certificate(data.replace(serial, serial[:-1] + bytes([serial[-1] ^ 1]), 1))


def sequence(content: bytes) -> bytes:
    return der(0x30, content)


def der(tag: int, content: bytes) -> bytes:
    size = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag]) + (bytes([len(content)]) if len(content) < 128 else bytes([128 + len(size)]) + size) + content


def crl(
    issuer: Made, *revoked: x509.Certificate, signer: Made | None = None, end: timedelta = 30 * DAY
) -> x509.CertificateRevocationList:
    """A revocation list in the name of `issuer`."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now() - 10 * DAY)
        .next_update(now() + end)
        .add_extension(x509.CRLNumber(1), critical=False)
    )
    for each in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(each.serial_number).revocation_date(now() - DAY)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign((signer or issuer).key, hashes.SHA256())


def trusting(
    *roots: Made, crls: Sequence[x509.CertificateRevocationList] = (), pins: frozenset[str] = frozenset()
) -> Trust:
    return Trust(OnlyThese(tuple(each.certificate for each in roots)), tuple(crls), pins)


@cache
def bad_certificates(purpose: Purpose) -> tuple[Bad, ...]:
    """The table for servers or for clients."""
    rows = [*_names(purpose), *_dates_and_purpose(purpose), *_issuers(purpose), *_strength(purpose), *_lists(purpose)]
    return tuple(row for row in rows if purpose is Purpose.SERVER or not row.names_only)


def good_leaf(issuer: Made, purpose: Purpose, **changes: object) -> Made:
    """A leaf that passes, unless `changes` (arguments of `make`) say otherwise."""
    email = x509.RFC822Name("joe@example.org")
    arguments: dict[str, object] = {"names": san(HOST, raw=[email]), "usage": purpose.value, **changes}
    return make(issuer, "leaf.example.org", **arguments)  # type: ignore[arg-type]


def _row(
    title: str, leaf: Made, kind: str, words: str, *above: Made, trust: Trust | None = None, **more: object
) -> Bad:
    chain = (leaf.certificate, *(each.certificate for each in above))
    return Bad(title, chain, leaf.key, trust or trusting(root()), kind, words, **more)  # type: ignore[arg-type]


def _names(purpose: Purpose) -> list[Bad]:
    def named(title: str, names: x509.ExtensionType | None, kind: str, words: str, name: str = HOST) -> Bad:
        leaf = make(root(), HOST, names=names, usage=purpose.value)
        return _row(title, leaf, kind, words, name=name, names_only=True)

    raw = x509.UnrecognizedExtension
    nul = raw(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, sequence(der(0x82, b"mail.example.org\0.evil.example")))
    return [
        named("a common name and no subjectAltName", None, "no-names", "a common name does not count"),
        named("a mail address only", san(raw=[x509.RFC822Name("a@example.org")]), "no-names", "names no host in its"),
        named("another host", san("www.example.org"), "wrong-name", "is for www.example.org, not for mail.example.org"),
        named(
            "a longer name", san("mail.example.org.evil.example"), "wrong-name", "is for mail.example.org.evil.exampl"
        ),
        named("a name with a NUL in it", nul, "malformed", "cannot be read or are not allowed"),
        named("a wildcard for two labels", san("*.org"), "malformed", "a wildcard in a wrong place"),
        named("a wildcard in the middle", san("mail.*.org"), "malformed", "a wildcard in a wrong place"),
        named("a wildcard alone", san("*"), "malformed", "a wildcard in a wrong place"),
        named("a wildcard for part of a label", san("m*.example.org"), "wrong-name", "is for m*.example.org, not"),
        named("a wildcard one level too high", san("*.example.org"), "wrong-name", "for a.mail", name=f"a.{HOST}"),
        named("an IP address as a host name", san("192.0.2.1"), "malformed", "count for 192.0.2.1", name="192.0.2.1"),
        named("a host name for an IP address", san(HOST), "wrong-name", "not for 192.0.2.7", name="192.0.2.7"),
        _row(
            "a subjectAltName of garbage",
            make(root(), HOST, names=raw(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, GARBAGE), usage=purpose.value),
            "malformed",
            "malformed",
        ),
    ]


def _dates_and_purpose(purpose: Purpose) -> list[Bad]:
    other = Purpose.CLIENT if purpose is Purpose.SERVER else Purpose.SERVER
    day = f"{now() - 5 * DAY:%Y-%m-%d}"
    tomorrow = f"{now() + 2 * DAY:%Y-%m-%d}"
    lacks = "serverAuth" if purpose is Purpose.SERVER else "clientAuth"
    stale = make(root(), "stale CA", ca=True, start=-50 * DAY, end=-5 * DAY)
    old_root = make(None, "old root", ca=True, start=-50 * DAY, end=-5 * DAY)
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")
    return [
        _row("expired", good_leaf(root(), purpose, start=-50 * DAY, end=-5 * DAY), "expired", f"expired on {day}"),
        _row(
            "not yet valid", good_leaf(root(), purpose, start=2 * DAY), "not-yet-valid", f"not valid before {tomorrow}"
        ),
        _row(
            "an expired intermediate",
            good_leaf(stale, purpose),
            "expired",
            f"CN=stale CA expired on {day}",
            stale,
            depth=1,
        ),
        _row("an expired root", good_leaf(old_root, purpose), "expired", "old root", trust=trusting(old_root), depth=1),
        _row("the other side's certificate", good_leaf(root(), purpose, usage=other.value), "purpose", lacks),
        _row(
            "for signing code",
            good_leaf(root(), purpose, usage=ExtendedKeyUsageOID.CODE_SIGNING),
            "purpose",
            lacks,
        ),
        _row("a key that may not sign", good_leaf(root(), purpose, signs=False), "purpose", "key usage"),
        _row(
            "a critical extension that is unknown",
            good_leaf(root(), purpose, extra=[(unknown, True)]),
            "extension",
            "critical extension",
        ),
        _row(
            "pinned to another key",
            good_leaf(root(), purpose),
            "pin",
            "pinned",
            trust=trusting(root(), pins=frozenset({"0" * 64})),
        ),
    ]


def _issuers(purpose: Purpose) -> list[Bad]:
    foreign, middle = root("foreign root"), make(root(), "middle CA", ca=True)
    alone = make(None, HOST, names=san(HOST), usage=purpose.value)
    no_ca = make(root(), "no CA", usage=purpose.value)
    no_sign = make(root(), "CA that may not sign", ca=True, signs=False)
    narrow = make(root(), "narrow CA", ca=True, path_length=0)
    below = make(narrow, "CA below", ca=True)
    impostor = make(None, "root", ca=True)
    outside = x509.NameConstraints([x509.DNSName("example.net")], None)
    inside = x509.NameConstraints(None, [x509.DNSName("example.org")])
    permitted = make(root(), "permitted CA", ca=True, extra=[(outside, True)])
    excluded = make(root(), "excluded CA", ca=True, extra=[(inside, True)])
    changed = good_leaf(root(), purpose)
    return [
        _row(
            "an unknown CA that is sent",
            good_leaf(foreign, purpose),
            "unknown-ca",
            "is the root of the chain",
            foreign,
            depth=1,
        ),
        _row(
            "an unknown CA that is not sent",
            good_leaf(foreign, purpose),
            "incomplete-chain",
            "issued by CN=foreign root",
        ),
        _row("self-signed", alone, "self-signed", "is self-signed"),
        _row(
            "an intermediate that is not sent", good_leaf(middle, purpose), "incomplete-chain", "issued by CN=middle CA"
        ),
        _row(
            "nobody is trusted",
            good_leaf(root(), purpose),
            "unknown-ca",
            "root of the chain",
            root(),
            trust=Trust(NoRoots()),
            depth=1,
        ),
        _row("issued by a leaf", good_leaf(no_ca, purpose), "not-a-ca", "CN=no CA is not a CA's", no_ca, depth=1),
        _row(
            "issued without keyCertSign",
            good_leaf(no_sign, purpose),
            "not-a-ca",
            "CN=CA that may not sign",
            no_sign,
            depth=1,
        ),
        _row(
            "a path that is too long",
            good_leaf(below, purpose),
            "path-length",
            "CN=narrow CA allows 0 CAs below it and has 1",
            below,
            narrow,
            depth=2,
        ),
        _row(
            "a name outside the permitted",
            good_leaf(permitted, purpose),
            "name-constraints",
            "permitted names",
            permitted,
        ),
        _row("a name among the excluded", good_leaf(excluded, purpose), "name-constraints", "excluded names", excluded),
        _row(
            "changed after signing",
            Made(damaged(changed.certificate), changed.key),
            "signature",
            "CN=root: it was changed",
        ),
        _row(
            "signed by an impostor of the root", good_leaf(impostor, purpose), "signature", "it was changed, or forged"
        ),
    ]


def _strength(purpose: Purpose) -> list[Bad]:
    small_ca = make(root(), "small CA", ca=True, key=rsa_key(1024))
    odd_ca = make(root(), "odd CA", ca=True, key=ec.generate_private_key(ec.SECP256K1()))
    strong = root("RSA root", bits=2048)
    assert isinstance(strong.key, rsa.RSAPrivateKey)
    leaf, middle = good_leaf(strong, purpose), make(strong, "SHA-1 CA", ca=True)
    md5 = Made(signed_with(leaf.certificate, strong.key, hashes.MD5()), leaf.key)
    sha1 = Made(signed_with(leaf.certificate, strong.key, hashes.SHA1()), leaf.key)
    sha1_ca = Made(signed_with(middle.certificate, strong.key, hashes.SHA1()), middle.key)
    trust = trusting(strong)
    return [
        _row("a weak key", good_leaf(root(), purpose, key=rsa_key(1024)), "weak-key", "RSA with 1024 bits"),
        _row("a CA's weak key", good_leaf(small_ca, purpose), "weak-key", "CN=small CA", small_ca, depth=1),
        _row("a CA's odd curve", good_leaf(odd_ca, purpose), "weak-key", "secp256k1", odd_ca, depth=1),
        _row("signed with MD5", md5, "weak-signature", "signed with MD5", trust=trust),
        _row("signed with SHA-1", sha1, "weak-signature", "signed with SHA1", trust=trust),
        _row(
            "an intermediate signed with SHA-1",
            good_leaf(sha1_ca, purpose),
            "weak-signature",
            "SHA-1 CA",
            sha1_ca,
            trust=trust,
            depth=1,
        ),
    ]


def _lists(purpose: Purpose) -> list[Bad]:
    leaf, middle = good_leaf(root(), purpose), make(root(), "taken back CA", ca=True)
    other = make(None, "root", ca=True)
    return [
        _row("revoked", leaf, "revoked", "was revoked", trust=trusting(root(), crls=[crl(root(), leaf.certificate)])),
        _row(
            "an intermediate that was revoked",
            good_leaf(middle, purpose),
            "revoked",
            "CN=taken back CA",
            middle,
            trust=trusting(root(), crls=[crl(root(), middle.certificate)]),
            depth=1,
        ),
        _row("a list out of date", leaf, "crl", "out of date", trust=trusting(root(), crls=[crl(root(), end=-DAY)])),
        _row(
            "a list that another signed",
            leaf,
            "crl",
            "not signed by its CA",
            trust=trusting(root(), crls=[crl(root(), signer=other)]),
        ),
    ]
