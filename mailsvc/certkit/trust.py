"""Would a careful peer believe this chain? Against given CAs and revocation lists, every finding at once.

OpenSSL's own check ends at its first error, and says it in a word ("unable to get local issuer certificate").
This one goes through everything that RFC 5280 section 6 asks of a path: each link's signature, dates, right to
issue, path length, name constraints, unknown critical extensions, revocation; and through what the bearer must
be: strong, made for its purpose, named right. Each finding is a sentence with the cure.

The hardest question is how far to trust a checker that we wrote. No further than needed: what it finds in order
is shown to OpenSSL too, and OpenSSL's word stands. So it can be too strict, never too lax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from OpenSSL import crypto

from mailsvc.certkit.bundle import assemble
from mailsvc.certkit.constraints import constrained_names, constraints_of, outside
from mailsvc.certkit.inspect import (
    Chain,
    Finding,
    Purpose,
    check_chain,
    common_name,
    extension,
    is_self_signed,
    issued_by,
    may_issue,
    printable,
    weak_key,
    when,
)
from mailsvc.certkit.names import names_of
from mailsvc.certkit.revocation import is_of, list_problems, revocation_of

_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.POLICY_CONSTRAINTS,
        ExtensionOID.INHIBIT_ANY_POLICY,
    }
)
"""What may be critical: a path whose critical parts one does not understand must be refused (section 4.2)."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What a verifier believes: CAs, the name of where they come from (for sentences), revocation lists."""

    roots: Chain
    place: str
    lists: tuple[x509.CertificateRevocationList, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The path that was found, from the certificate to the CA, and what is wrong; good without an error."""

    path: Chain
    findings: tuple[Finding, ...]

    @property
    def good(self) -> bool:
        """Whether a careful peer accepts it."""
        return not any(each.severity == "error" for each in self.findings)


def check_trust(
    chain: Chain,
    path: Path,
    trust: Trust,
    now: datetime,
    *,
    purpose: Purpose = "server",
    hostname: str | None = None,
) -> Verdict:
    """Judge a chain (of `inspect.read_chain`, not empty) that lies in `path`, as a peer who trusts `trust` and wants
    to talk with `hostname`."""
    subject = str(path)
    findings = check_chain(chain, path, now, purpose=purpose)
    full = _complete(chain, trust.roots)
    errors: list[str] = []
    if full[-1] not in trust.roots:
        errors += _no_anchor(full[-1], trust)
    errors += _links(full, len(chain), now)
    errors += _lengths(full)
    errors += _uses(full, purpose)
    errors += _constraints(full)
    errors += _criticals(full)
    if hostname is not None and not names_of(chain[0]).cover(hostname):
        errors.append(f"does not cover {printable(hostname)} (it covers: {printable(str(names_of(chain[0])))})")
    findings += [Finding("error", subject, text) for text in errors]
    findings += _revocations(full, trust, subject, now)
    if not any(each.severity == "error" for each in findings) and (refusal := _openssl(full, trust, now)):
        findings.append(Finding("error", subject, f"is refused by OpenSSL: {refusal}"))
    return Verdict(full, tuple(dict.fromkeys(findings)))


def _complete(chain: Chain, roots: Sequence[x509.Certificate]) -> Chain:
    """The chain up to a trusted CA where there is one: the first of its certificates that is trusted, or was
    issued by one that is, ends it."""
    for number, each in enumerate(chain, 1):
        if each in roots:
            return chain[:number]
        if anchor := next((root for root in roots if issued_by(each, root)), None):
            more, _ = assemble(anchor, roots)
            return (*chain[:number], *more)
    return chain


def _no_anchor(last: x509.Certificate, trust: Trust) -> list[str]:
    issuer = printable(last.issuer.rfc4514_string())
    digest = last.signature_hash_algorithm
    if is_self_signed(last):
        return [f"ends at {issuer}, which is not among the CAs in {trust.place}; trust it there, or use one that is"]
    if not any(root.subject == last.issuer for root in trust.roots):
        return [
            f"was issued by {issuer}, which is neither in the file nor among the CAs in {trust.place}; "
            "append the missing certificate to the file, or trust that CA"
        ]
    if digest is not None and digest.name in ("md5", "sha1"):
        return []  # such a signature is not even looked at; that it is there is a finding of its own
    return [
        f"says that {issuer} issued it, and the CA of that name in {trust.place} did not sign it: "
        "another CA of the same name did, or the certificate was changed"
    ]


def _links(full: Chain, given: int, now: datetime) -> list[str]:
    """What those that were added from the trusted CAs are worth; `check_chain` has looked at the others."""
    texts = []
    for issuer in full[given:] if given < len(full) else ():
        name = common_name(issuer)
        if not may_issue(issuer):
            texts.append(f"was issued by {name}, which is not a CA's certificate and must not issue others")
        if now > issuer.not_valid_after_utc:
            texts.append(f"was issued by {name}, which expired on {when(issuer.not_valid_after_utc)}; get a new one")
        elif now < issuer.not_valid_before_utc:
            texts.append(f"was issued by {name}, which is not valid before {when(issuer.not_valid_before_utc)}")
        if weak := weak_key(issuer.public_key()):
            texts.append(f"was issued by {name}, which {weak}")
    # an expired root inside the file is a warning to a server; to one who trusts that very copy it is the end
    for number, each in enumerate(full[:given]):
        if number and is_self_signed(each) and now > each.not_valid_after_utc:
            texts.append(f"ends at {common_name(each)}, which expired on {when(each.not_valid_after_utc)}")
    return texts


def _lengths(full: Chain) -> list[str]:
    texts = []
    for number, each in enumerate(full):
        limit = extension(each, x509.BasicConstraints)
        # intermediates between it and the bearer; self-issued ones (a CA's new key) do not count
        between = sum(1 for other in full[1:number] if other.subject != other.issuer)
        if number and limit is not None and limit.path_length is not None and between > limit.path_length:
            texts.append(
                f"has {between} CA(s) below {common_name(each)}, which allows {limit.path_length}; "
                "get a certificate from that CA itself"
            )
    return texts


def _uses(full: Chain, purpose: Purpose) -> list[str]:
    """CAs that are made for something else: OpenSSL and the browsers take a CA's extended key usage as a limit."""
    right = ExtendedKeyUsageOID.SERVER_AUTH if purpose == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
    return [
        f"was issued by way of {common_name(each)}, whose extended key usage does not allow {purpose}s; "
        "get a certificate from another CA"
        for each in full[1:]
        if (usage := extension(each, x509.ExtendedKeyUsage)) is not None
        and not {right, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usage)
    ]


def _constraints(full: Chain) -> list[str]:
    texts = []
    for number, each in enumerate(full[1:], 1):
        limits = constraints_of(each)
        if limits is None:
            continue
        for below in full[:number]:
            names = [str(name.value) for name in constrained_names(below) if outside(limits, name)]
            if names:
                texts.append(
                    f"names {printable(', '.join(names))}, for which {common_name(each)} may not speak "
                    "(its name constraints); get that name from another CA"
                )
    return texts


def _criticals(full: Chain) -> list[str]:
    return [
        f"{common_name(each)} has a critical extension ({found.oid.dotted_string}) that nobody here understands; "
        "get a certificate without it"
        for each in full
        for found in each.extensions
        if found.critical and found.oid not in _UNDERSTOOD
    ]


def _revocations(full: Chain, trust: Trust, subject: str, now: datetime) -> list[Finding]:
    findings: list[Finding] = []
    issuers = [(each, full[number + 1]) for number, each in enumerate(full[:-1])]
    for certificate, issuer in issuers:
        for revoked in (each for each in trust.lists if each.issuer == issuer.subject):
            findings += [
                Finding(severity, f"the revocation list of {common_name(issuer)}", text)
                for severity, text in list_problems(revoked, issuer, now)
            ]
            if is_of(revoked, issuer) and (entry := revocation_of(revoked, certificate.serial_number)):
                moment, reason = entry
                which = "" if certificate == full[0] else f"{common_name(certificate)} "
                text = f"{which}was revoked on {when(moment)} ({reason}); get a new certificate with a new key"
                findings.append(Finding("error", subject, text))
    return findings


def _openssl(full: Chain, trust: Trust, now: datetime) -> str | None:
    store = crypto.X509Store()
    store.set_time(now.astimezone(UTC).replace(tzinfo=None))
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    for root in trust.roots:
        if root in full:
            store.add_cert(crypto.X509.from_cryptography(root))
    others = [crypto.X509.from_cryptography(each) for each in full[1:]]
    context = crypto.X509StoreContext(store, crypto.X509.from_cryptography(full[0]), others)
    try:
        context.verify_certificate()
    except crypto.X509StoreContextError as error:
        return str(error)
    return None
