"""Judging certificates and keys: every finding of a file, in sentences that name the cure.

Pure: files come as `files.Source` values, the time and the reading user as arguments, and nothing stops at
the first mistake, so that a postmaster mends a setup in one round. `tls.sources` walks a folder with this,
`mailsvc certs verify` prints what it found. What OpenSSL would accept is not
the measure: an error is what makes clients that check refuse (RFC 5280 section 4, RFC 9525), or what gives
the key away; a warning is what will hurt later, or hurts some.

The hardest rule is who may read a private key; it stands in `check_private`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from mailsvc.certkit.files import Reader, Source
from mailsvc.certkit.keys import KeyEncrypted, KeyPassphraseWrong, KeyProblem, PrivateKey, load_key
from mailsvc.certkit.names import names_of
from mailsvc.certkit.pem import blocks, what_else
from mailsvc.errors import MailsvcError

EXPIRES_SOON = timedelta(days=21)
CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})
PASSPHRASE_CURE = (
    "give its passphrase in a file that MAILSVC_KEY_PASSPHRASE_FILE names, or as the systemd credential key-passphrase"
)

PRIVATE_AUTHORITY = "mailsvc private CA"
"""How the name of a CA that `certs init` made begins."""

Passphrase = Callable[[], bytes | None]
"""Asked only when a key is encrypted: the passphrase, or None when there is no source for one. May raise
MailsvcError."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake or worry: what it is about (a file or folder) and a sentence with the cure."""

    severity: Literal["error", "warning"]
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}"


Chain = tuple[x509.Certificate, ...]
Purpose = Literal["server", "client"]
"""What the bearer of a certificate does in TLS."""
Extension = TypeVar("Extension", bound=x509.ExtensionType)


def check_private(source: Source, reader: Reader) -> list[Finding]:
    """Whether only those who must can read the file that holds a private key.

    Nobody else may have any right, and the group none but to read. The group may read when that is how *we*
    read it: the file is another user's and the group one of ours (Debian's `ssl-cert`: root:ssl-cert 0640),
    or it is root's, and its group is root's too or we are root and cannot tell. A group that may read a file
    of our own is a mistake.
    """
    if source.data is None and source.problem is not None:
        return []
    mode, path = source.mode, shlex.quote(str(source.path))
    if mode & 0o007:
        text = f"can be read or changed by other users (mode {mode:04o}); run: chmod 600 {path}"
        return [Finding("error", str(source.path), text)]
    by_group = (source.uid != reader.uid and source.gid in reader.groups) or (
        source.uid == 0 and (source.gid == 0 or reader.uid == 0)
    )
    if mode & 0o030 or (mode & 0o040 and not by_group):
        text = f"can be read or changed by its group (mode {mode:04o}); run: chmod 600 {path}"
        return [Finding("error", str(source.path), text)]
    return []


def read_chain(source: Source) -> tuple[Chain, list[Finding]]:
    """The certificates in a fullchain.pem. The chain is empty when there is a finding."""
    path = str(source.path)
    if source.data is None:
        return (), [Finding("error", path, source.problem or "cannot be read")]
    found = [block for block in blocks(source.data) if block.is_certificate]
    if not found:
        text = (
            f"has no certificate in it: it {what_else(source.data)}; put the certificate and its issuers here, as PEM"
        )
        return (), [Finding("error", path, text)]
    chain: list[x509.Certificate] = []
    for number, block in enumerate(found, 1):
        try:
            certificate = x509.load_pem_x509_certificate(block.text)
            _touch(certificate)
        except Exception:  # ValueError mostly; a parser for files from anywhere has more in store
            text = f"certificate {number} in it is damaged or malformed; get the file again from who issued it"
            return (), [Finding("error", path, text)]
        chain.append(certificate)
    return tuple(chain), []


def read_key(
    source: Source, passphrase: Passphrase, *, cure: str = PASSPHRASE_CURE
) -> tuple[PrivateKey | None, list[Finding]]:
    """The private key in a privkey.pem, decrypted when it has to be. None when there is a finding."""
    path = str(source.path)
    if source.data is None:
        return None, [Finding("error", path, source.problem or "cannot be read")]
    found = [block for block in blocks(source.data) if block.is_private_key]
    if len(found) != 1:
        what = f"holds {len(found)} private keys" if found else f"has no private key in it: it {what_else(source.data)}"
        return None, [Finding("error", path, f"{what}; put the one key that fits the certificate here, as PEM")]
    try:
        try:
            return load_key(found[0].text), []
        except KeyEncrypted:
            secret = passphrase()
            if secret is None:
                return None, [Finding("error", path, f"is encrypted and there is no passphrase for it; {cure}")]
            return load_key(found[0].text, secret), []
    except KeyPassphraseWrong:
        return None, [Finding("error", path, f"is encrypted and the passphrase given does not open it; {cure}")]
    except KeyProblem as problem:
        return None, [Finding("error", path, f"{problem}; put the key that fits the certificate here, as PEM")]
    except MailsvcError as problem:
        return None, [Finding("error", path, f"is encrypted and its passphrase could not be had: {problem}")]


def check_fit(chain: Chain, key: PrivateKey, chain_path: Path, key_path: Path) -> list[Finding]:
    """Whether the key belongs to the first certificate; when it belongs to a later one, says that."""
    if not chain or key.public_key() == chain[0].public_key():
        return []
    for number, certificate in enumerate(chain[1:], 2):
        if key.public_key() == certificate.public_key():
            text = f"is in the wrong order: the server's own certificate is number {number} and must be the first"
            return [Finding("error", str(chain_path), text)]
    text = f"does not fit the certificate in {chain_path}; put the two files there that were made together"
    return [Finding("error", str(key_path), text)]


def check_chain(chain: Chain, path: Path, now: datetime, *, purpose: Purpose = "server") -> list[Finding]:
    """Order, dates, strength and purpose of the certificates of one file. `chain` must come from
    `read_chain`."""
    subject = str(path)
    findings = [Finding("error", subject, text) for text in _order(chain)]
    for number, certificate in enumerate(chain):
        which = "" if number == 0 else f"certificate {number + 1} ({common_name(certificate)}) "
        root = number > 0 and is_self_signed(certificate)
        for severity, text in _dates(certificate, path, now):
            # Clients use their own copy of a root, so what it says about itself here matters to nobody.
            findings.append(Finding("warning" if root else severity, subject, which + text))
        findings += [Finding("error", subject, which + text) for text in _strength(certificate, root)]
    findings += [Finding("error", subject, text) for text in _purpose(chain[0], purpose)] if chain else []
    findings += [Finding("warning", subject, text) for text in _worries(chain)]
    return findings


def covering(chains: Sequence[Chain], hostname: str) -> list[Chain]:
    """Those chains whose first certificate covers the host name."""
    return [chain for chain in chains if chain and names_of(chain[0]).cover(hostname)]


def is_self_signed(certificate: x509.Certificate) -> bool:
    """Whether it is its own issuer, as roots are."""
    return certificate.issuer == certificate.subject and issued_by(certificate, certificate)


def may_issue(certificate: x509.Certificate) -> bool:
    """Whether it is a CA's: its basic constraints say so and its key usage, if any, allows signing
    certificates."""
    constraints = extension(certificate, x509.BasicConstraints)
    usage = extension(certificate, x509.KeyUsage)
    return constraints is not None and constraints.ca and (usage is None or usage.key_cert_sign)


def common_name(certificate: x509.Certificate) -> str:
    """The subject in a form for people, without control characters."""
    return printable(certificate.subject.rfc4514_string()) or "without a subject"


def printable(text: str) -> str:
    """The text with what a terminal might obey replaced: certificates come from anywhere."""
    return "".join(char if char.isprintable() else "?" for char in text)


def when(moment: datetime) -> str:
    """A certificate's date for people; `moment` is in UTC."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _touch(certificate: x509.Certificate) -> None:
    # cryptography parses most parts when they are asked for: ask for all that is used later, so that it fails
    # here.
    certificate.public_key()
    certificate.subject.rfc4514_string()
    certificate.issuer.rfc4514_string()
    names_of(certificate)
    for kind in (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.AuthorityInformationAccess):
        extension(certificate, kind)


def extension(certificate: x509.Certificate, kind: type[Extension]) -> Extension | None:
    """The certificate's extension of this kind, None without."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer` has the name that the certificate says, and the key that signed it."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _order(chain: Chain) -> list[str]:
    texts = []
    for number, (certificate, issuer) in enumerate(pairwise(chain), 1):
        if not issued_by(certificate, issuer):
            texts.append(
                f"is in the wrong order, or has a certificate that does not belong: number {number + 1} "
                f"({common_name(issuer)}) did not issue number {number} ({common_name(certificate)}); "
                "put the server's certificate first and then, each after the one that it issued, its issuers"
            )
        elif not may_issue(issuer):
            texts.append(
                f"certificate {number + 1} ({common_name(issuer)}) is not a CA's and must not issue others; "
                "get the certificate from a CA, or with `mailsvc certs init`"
            )
    return texts


def _dates(certificate: x509.Certificate, path: Path, now: datetime) -> list[tuple[Literal["error", "warning"], str]]:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start:
        return [("error", f"is not valid before {when(start)}; check this machine's clock, or wait until then")]
    if now > end:
        return [("error", f"expired on {when(end)}; {_renewal(certificate, path)}")]
    if end - now < EXPIRES_SOON:
        days = (end - now).days
        left = f"in {days} day{'s' * (days != 1)}" if days else "in less than a day"
        return [("warning", f"expires {left}, on {when(end)}; {_renewal(certificate, path)}")]
    return []


def _renewal(certificate: x509.Certificate, path: Path) -> str:
    if not certificate.issuer.rfc4514_string().startswith(f"CN={PRIVATE_AUTHORITY}"):
        return "renew it (with `certbot renew`, or at the CA that issued it)"
    folder = shlex.quote(str(path.parent.parent))
    return f"renew it: mailsvc certs issue {folder}/ --renew {shlex.quote(path.parent.name)}"


def weak_key(key: CertificatePublicKeyTypes) -> str | None:
    """Why TLS clients refuse a key of this kind or size, with the cure; None when they do not."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < 2048:
            return f"has a weak key (RSA with {key.key_size} bits); get one with ECDSA P-256 or RSA 2048 bits or more"
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in CURVES:
            return f"has a key on the curve {key.curve.name}, which most clients refuse; get one with ECDSA P-256"
    elif not isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return "has a key of a kind that cannot serve TLS; get one with ECDSA P-256 or RSA"
    return None


def _strength(certificate: x509.Certificate, root: bool) -> list[str]:
    weak = weak_key(certificate.public_key())
    texts = [] if weak is None else [weak]
    algorithm = certificate.signature_hash_algorithm
    if not root and algorithm is not None and algorithm.name in ("md5", "sha1"):
        texts.append(f"is signed with {algorithm.name.upper()}, which clients refuse; get one signed with SHA-256")
    return texts


def _purpose(leaf: x509.Certificate, purpose: Purpose) -> list[str]:
    texts = []
    names = names_of(leaf)
    if purpose == "server" and not names.hosts and not names.addresses:
        texts.append(
            "names no host in its subjectAltName, and clients look nowhere else (RFC 9525); "
            "get one with the host names in its subjectAltName"
        )
    usage = extension(leaf, x509.ExtendedKeyUsage)
    right, word = (
        (ExtendedKeyUsageOID.SERVER_AUTH, "serverAuth")
        if purpose == "server"
        else (ExtendedKeyUsageOID.CLIENT_AUTH, "clientAuth")
    )
    if usage is not None and not {right, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usage):
        texts.append(f"is not made for {purpose}s (its extended key usage lacks {word}); get a {purpose} certificate")
    basic = extension(leaf, x509.KeyUsage)
    if basic is not None and not basic.digital_signature:
        texts.append(f"may not sign handshakes (its key usage lacks digitalSignature); get a {purpose} certificate")
    return texts


def _worries(chain: Chain) -> list[str]:
    if not chain:
        return []
    leaf = chain[0]
    if is_self_signed(leaf):
        return ["is self-signed: only clients that were given this very certificate can check it; get one from a CA"]
    access = extension(leaf, x509.AuthorityInformationAccess) or ()
    # A private CA's certificate is often issued by the root itself; one that says where to fetch its issuer
    # is not.
    fetch = any(each.access_method == AuthorityInformationAccessOID.CA_ISSUERS for each in access)
    if len(chain) == 1 and fetch:
        return [
            f"lacks the certificate of its issuer ({printable(leaf.issuer.rfc4514_string())}), without which many "
            "clients cannot check it; append that to the file (certbot's fullchain.pem has it, cert.pem has not)"
        ]
    return []
