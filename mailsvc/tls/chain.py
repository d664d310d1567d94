"""What OpenSSL found wrong with a peer's certificates, in sentences.

OpenSSL reports an error of its chain check as a number and a depth. `explain` turns that into a
`ChainFinding`: one word for machines, and a sentence that names the certificate, the date and the cure.
Recording the numbers is left to `mailsvc.tls.verify`, looking at the same chain a second time without
OpenSSL to `mailsvc.tls.recheck`, and what a finding costs to `mailsvc.tls.levels`.

The hardest part is that one mistake gives several numbers (a certificate without a known issuer is also one
whose signature cannot be checked), and that one number may mean two mistakes (a server that forgot its
intermediate certificate looks like one of an unknown CA). `merged` drops what says nothing new, and the
sentences name both cures where both are possible (RFC 5280 section 6.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID
from OpenSSL.SSL import X509VerificationCodes as Code

from mailsvc.certkit.inspect import when
from mailsvc.mail.channel import safe_text

EE_KEY_TOO_SMALL, CA_KEY_TOO_SMALL, CA_MD_TOO_WEAK = 66, 67, 68
"""OpenSSL's numbers for what its security level forbids; pyOpenSSL has no names for them."""

SENTENCE_LIMIT = 400
"""Characters of a finding's sentence."""


@dataclass(frozen=True, slots=True)
class ChainFinding:
    """One thing that is wrong with a certificate of a chain.

    `kind` is one word for machines, of KINDS. `depth` counts from the peer's own certificate (0) to the root.
    `text` is the sentence, printable ASCII of at most SENTENCE_LIMIT characters. Make one with `finding`.
    """

    kind: str
    depth: int
    text: str

    def __str__(self) -> str:
        return self.text


KINDS = frozenset(
    {
        "crl",  # a revocation list that cannot be used
        "expired",
        "extension",  # a critical one that is unknown, or one that is not allowed there
        "incomplete-chain",  # the peer did not send the issuer, and nobody here knows it
        "malformed",
        "name-constraints",  # a CA signed a name that it may not sign
        "no-certificate",
        "no-names",  # no subjectAltName with a host in it
        "not-a-ca",
        "not-yet-valid",
        "other",
        "path-length",
        "pin",
        "purpose",  # extended key usage and key usage
        "revoked",
        "self-signed",
        "signature",
        "unknown-ca",
        "unverifiable",  # the session was resumed and nothing is known of its first check
        "weak-key",
        "weak-signature",
        "wrong-name",
    }
)


def finding(kind: str, depth: int, text: str) -> ChainFinding:
    """A finding whose text is safe to print; the names in it come from strangers. ValueError for no kind of ours."""
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of finding")
    return ChainFinding(kind, depth, safe_text(text, SENTENCE_LIMIT))


def merged(findings: Iterable[ChainFinding]) -> tuple[ChainFinding, ...]:
    """The findings in the order of the depths, the first of each kind at each depth."""
    first: dict[tuple[str, int], ChainFinding] = {}
    for each in findings:
        first.setdefault((each.kind, each.depth), each)
    return tuple(sorted(first.values(), key=lambda each: each.depth))


def label(certificate: x509.Certificate) -> str:
    """How a sentence calls a certificate: its subject, or its first host name, or its serial number."""
    try:
        subject = certificate.subject.rfc4514_string()
    except ValueError:
        subject = ""
    return safe_text(subject or f"serial number {certificate.serial_number:x}", 120)


def issuer_label(certificate: x509.Certificate) -> str:
    """How a sentence calls the issuer that a certificate names."""
    try:
        return safe_text(certificate.issuer.rfc4514_string() or "an issuer without a name", 120)
    except ValueError:
        return "an issuer whose name cannot be read"


def explain(number: int, depth: int, certificate: x509.Certificate | None) -> ChainFinding | None:
    """The finding that OpenSSL's error `number` at `depth` means; None when another number says it already.

    `certificate` is the one at that depth, None when it cannot even be parsed.
    """
    if number == Code.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
        return None  # OpenSSL says it behind "no issuer", and that has the sentence
    if certificate is None:
        return finding("malformed", depth, f"certificate {depth + 1} of the chain is malformed and cannot be read")
    say = _SENTENCES.get(number)
    if say is None:
        return finding("other", depth, f"{label(certificate)}: the chain check failed with OpenSSL's error {number}")
    kind, words = say
    if number == Code.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY and depth == 0:
        kind, words = "incomplete-chain", _incomplete
    return finding(kind, depth, f"{label(certificate)} {words(certificate) if callable(words) else words}")


def briefly(found: ChainFinding, certificate: x509.Certificate | None) -> str:
    """The finding in a few words, for a header and a table; `certificate` is the one that it is about."""
    words = _BRIEF.get(found.kind, found.kind)
    if certificate is not None and found.kind == "expired":
        words = f"expired {certificate.not_valid_after_utc:%Y-%m-%d}"
    elif certificate is not None and found.kind == "not-yet-valid":
        words = f"not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"
    return words if found.depth == 0 else f"its CA: {words}"


def expired(certificate: x509.Certificate) -> str:
    """The sentence's end for a certificate whose time is over."""
    return f"expired on {when(certificate.not_valid_after_utc)}; its owner must renew it"


def not_yet_valid(certificate: x509.Certificate) -> str:
    """The sentence's end for a certificate whose time has not begun."""
    start = when(certificate.not_valid_before_utc)
    return f"is not valid before {start}; check the clock of this machine, or wait until then"


def _incomplete(certificate: x509.Certificate) -> str:
    fetch = ""
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except (x509.ExtensionNotFound, ValueError, x509.DuplicateExtension):
        access = None
    for each in access or ():
        if each.access_method == AuthorityInformationAccessOID.CA_ISSUERS:
            fetch = f" (its CA offers it at {safe_text(str(each.access_location.value), 80)})"
            break
    return (
        f"was issued by {issuer_label(certificate)}, whose certificate was not sent{fetch} and is not among the "
        "trusted roots; the peer must send its whole chain, or that CA must be made a trusted root here"
    )


def _unknown_issuer(certificate: x509.Certificate) -> str:
    return (
        f"was issued by {issuer_label(certificate)}, which is not among the trusted roots; "
        "if that CA is to be trusted, add it to the roots"
    )


def _unknown_root(certificate: x509.Certificate) -> str:
    return "is the root of the chain and not among the trusted ones; if it is to be trusted, add it to the roots"


def _revoked(certificate: x509.Certificate) -> str:
    return (
        f"(serial number {certificate.serial_number:x}) was revoked by its CA; its owner must get a new one, "
        "with a new key"
    )


_BRIEF = {
    "crl": "revocation list cannot be used",
    "extension": "extension not allowed",
    "incomplete-chain": "unknown CA",
    "name-constraints": "name not allowed to its CA",
    "not-a-ca": "not a CA",
    "not-yet-valid": "not valid yet",
    "path-length": "chain too long",
    "purpose": "not made for this use",
    "signature": "bad signature",
    "unknown-ca": "unknown CA",
    "unverifiable": "not checked",
    "weak-key": "weak key",
    "weak-signature": "weak signature",
}
"""Where the kind's own name does not say it."""

_ASK_CA = "its owner must get one from a CA that follows RFC 5280"
_NEW_CRL = "fetch the CA's new revocation list"
_STRONGER = "its owner must get one with ECDSA P-256 or RSA 2048 bits or more"

_SENTENCES: dict[int, tuple[str, str | Callable[[x509.Certificate], str]]] = {
    Code.ERR_CERT_HAS_EXPIRED: ("expired", expired),
    Code.ERR_CERT_NOT_YET_VALID: ("not-yet-valid", not_yet_valid),
    Code.ERR_DEPTH_ZERO_SELF_SIGNED_CERT: (
        "self-signed",
        "is self-signed and not among the trusted roots; its owner must get one from a CA, or it must be made a "
        "trusted root here",
    ),
    Code.ERR_SELF_SIGNED_CERT_IN_CHAIN: ("unknown-ca", _unknown_root),
    Code.ERR_UNABLE_TO_GET_ISSUER_CERT: ("unknown-ca", _unknown_issuer),
    Code.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY: ("unknown-ca", _unknown_issuer),
    Code.ERR_CERT_UNTRUSTED: ("unknown-ca", "is not trusted for this purpose; choose another root"),
    Code.ERR_CERT_REJECTED: ("unknown-ca", "is marked as not to be trusted for this purpose; choose another root"),
    Code.ERR_CERT_SIGNATURE_FAILURE: (
        "signature",
        "has a signature that does not fit: it was changed, or another key signed it; do not trust it",
    ),
    Code.ERR_UNABLE_TO_DECRYPT_CERT_SIGNATURE: ("signature", f"has a signature that cannot be checked; {_ASK_CA}"),
    Code.ERR_UNABLE_TO_DECODE_ISSUER_PUBLIC_KEY: (
        "signature",
        f"cannot be checked, because its issuer's key cannot be read; {_ASK_CA}",
    ),
    Code.ERR_ERROR_IN_CERT_NOT_BEFORE_FIELD: ("malformed", f"has a first date that cannot be read; {_ASK_CA}"),
    Code.ERR_ERROR_IN_CERT_NOT_AFTER_FIELD: ("malformed", f"has a last date that cannot be read; {_ASK_CA}"),
    Code.ERR_CERT_CHAIN_TOO_LONG: ("path-length", "is at the end of a chain that is too long; send a shorter chain"),
    Code.ERR_CERT_REVOKED: ("revoked", _revoked),
    Code.ERR_INVALID_CA: ("not-a-ca", f"is not a CA's certificate and must not issue others; {_ASK_CA}"),
    Code.ERR_KEYUSAGE_NO_CERTSIGN: (
        "not-a-ca",
        f"must not issue others (its key usage lacks keyCertSign); {_ASK_CA}",
    ),
    Code.ERR_INVALID_NON_CA: ("not-a-ca", f"is a CA's where none is allowed; {_ASK_CA}"),
    Code.ERR_PATH_LENGTH_EXCEEDED: (
        "path-length",
        f"has more CAs below it than its basic constraints allow (path length); {_ASK_CA}",
    ),
    Code.ERR_INVALID_PURPOSE: (
        "purpose",
        "is not made for this use (its key usage or extended key usage forbids it); its owner must get one that is",
    ),
    Code.ERR_KEYUSAGE_NO_DIGITAL_SIGNATURE: (
        "purpose",
        "may not sign handshakes (its key usage lacks digitalSignature); its owner must get one that may",
    ),
    Code.ERR_PERMITTED_VIOLATION: (
        "name-constraints",
        f"has a name that its CA must not issue (outside the CA's permitted names); {_ASK_CA}",
    ),
    Code.ERR_EXCLUDED_VIOLATION: (
        "name-constraints",
        f"has a name that its CA must not issue (among the CA's excluded names); {_ASK_CA}",
    ),
    Code.ERR_SUBTREE_MINMAX: ("name-constraints", f"is under name constraints that cannot be applied; {_ASK_CA}"),
    Code.ERR_UNSUPPORTED_CONSTRAINT_TYPE: (
        "name-constraints",
        f"is under name constraints of an unknown type; {_ASK_CA}",
    ),
    Code.ERR_UNSUPPORTED_CONSTRAINT_SYNTAX: (
        "name-constraints",
        f"is under name constraints that cannot be read; {_ASK_CA}",
    ),
    Code.ERR_UNSUPPORTED_NAME_SYNTAX: (
        "name-constraints",
        f"has a name that cannot be held against the CA's name constraints; {_ASK_CA}",
    ),
    Code.ERR_UNHANDLED_CRITICAL_EXTENSION: (
        "extension",
        f"has a critical extension that nobody here understands; {_ASK_CA}",
    ),
    Code.ERR_INVALID_EXTENSION: ("extension", f"has an extension that is malformed or contradicts itself; {_ASK_CA}"),
    Code.ERR_INVALID_POLICY_EXTENSION: ("extension", f"has policies that cannot be read; {_ASK_CA}"),
    Code.ERR_PROXY_CERTIFICATES_NOT_ALLOWED: ("extension", f"is a proxy certificate; {_ASK_CA}"),
    Code.ERR_UNABLE_TO_GET_CRL: ("crl", f"cannot be checked for revocation: no list of its CA is here; {_NEW_CRL}"),
    Code.ERR_CRL_HAS_EXPIRED: ("crl", f"cannot be checked for revocation: its CA's list is out of date; {_NEW_CRL}"),
    Code.ERR_CRL_NOT_YET_VALID: (
        "crl",
        "cannot be checked for revocation: its CA's list is from the future; check the clock of this machine",
    ),
    Code.ERR_CRL_SIGNATURE_FAILURE: (
        "crl",
        f"cannot be checked for revocation: the list was not signed by its CA; {_NEW_CRL}",
    ),
    Code.ERR_UNABLE_TO_GET_CRL_ISSUER: (
        "crl",
        f"cannot be checked for revocation: who signed the list is unknown; {_NEW_CRL}",
    ),
    Code.ERR_KEYUSAGE_NO_CRL_SIGN: (
        "crl",
        "cannot be checked for revocation: its CA may not sign lists (its key usage lacks cRLSign); "
        "leave the list out, or get a CA that may",
    ),
    Code.ERR_DIFFERENT_CRL_SCOPE: (
        "crl",
        f"cannot be checked for revocation: the list is for other certificates; {_NEW_CRL}",
    ),
    EE_KEY_TOO_SMALL: ("weak-key", f"has a weak key; {_STRONGER}"),
    CA_KEY_TOO_SMALL: ("weak-key", f"is a CA's with a weak key; {_STRONGER}"),
    CA_MD_TOO_WEAK: ("weak-signature", "is signed with a weak hash; its owner must get one signed with SHA-256"),
}
