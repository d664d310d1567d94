"""Revocation lists: the CRL that a private CA signs, and reading anybody's (RFC 5280 section 5).

The list itself is the only record of what was revoked: the next one is made from the one before, with its
number one higher. The hardest part is the end of a list's life. A checker that is handed a list past its
nextUpdate must not believe it, so a strict one then refuses *every* certificate of that CA: whoever makes
lists has to go on making them, and `list_problems` warns before that day.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mailsvc.certkit.build import BACKDATED, Issued, digest_for, issuer_identifier
from mailsvc.certkit.files import Source
from mailsvc.certkit.inspect import EXPIRES_SOON, when
from mailsvc.certkit.pem import blocks, what_else
from mailsvc.errors import MailsvcError

LIST_LIFETIME = timedelta(days=365)

REASONS = {
    "unspecified": x509.ReasonFlags.unspecified,
    "key-compromise": x509.ReasonFlags.key_compromise,
    "affiliation-changed": x509.ReasonFlags.affiliation_changed,
    "superseded": x509.ReasonFlags.superseded,
    "cessation": x509.ReasonFlags.cessation_of_operation,
    "privilege-withdrawn": x509.ReasonFlags.privilege_withdrawn,
}
"""Why a certificate may be revoked, as the command says it."""


def new_list(
    authority: Issued,
    before: x509.CertificateRevocationList | None,
    serials: Sequence[int],
    reason: str,
    now: datetime,
    lifetime: timedelta = LIST_LIFETIME,
) -> x509.CertificateRevocationList:
    """The CA's next list: all that stood in the one before, and these serial numbers. One that stands there
    already keeps its date and reason. Expired certificates stay in it: a date is not worth forgetting a theft."""
    moment = now.astimezone(UTC).replace(microsecond=0)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(moment - BACKDATED)
        .next_update(min(moment + lifetime, authority.certificate.not_valid_after_utc))
        .add_extension(x509.CRLNumber(_number(before) + 1), critical=False)
        .add_extension(issuer_identifier(authority.certificate), critical=False)
    )
    for entry in before or ():
        builder = builder.add_revoked_certificate(entry)
    known = {entry.serial_number for entry in before or ()}
    for serial in dict.fromkeys(serials):
        if serial in known:
            continue
        entry_builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment)
        if reason != "unspecified":  # which RFC 5280 section 5.3.1 wants left out
            entry_builder = entry_builder.add_extension(x509.CRLReason(REASONS[reason]), critical=False)
        builder = builder.add_revoked_certificate(entry_builder.build())
    return builder.sign(authority.key, digest_for(authority.key))


def list_pem(revoked: x509.CertificateRevocationList) -> bytes:
    """The list as PEM."""
    return revoked.public_bytes(Encoding.PEM)


def read_lists(source: Source) -> tuple[x509.CertificateRevocationList, ...]:
    """The revocation lists in a file, PEM or DER. Raises MailsvcError."""
    if source.data is None:
        raise MailsvcError(f"{source.path}: {source.problem}")
    found = [block.text for block in blocks(source.data) if block.label == "X509 CRL"]
    if not found and source.data[:1] != b"\x30":
        raise MailsvcError(f"{source.path}: has no revocation list in it: it {what_else(source.data)}")
    try:
        if found:
            return tuple(x509.load_pem_x509_crl(text) for text in found)
        return (x509.load_der_x509_crl(source.data),)
    except Exception as error:  # ValueError mostly; a parser for files from anywhere has more in store
        raise MailsvcError(
            f"{source.path}: holds a revocation list that is damaged; get it from its CA again"
        ) from error


def list_problems(
    revoked: x509.CertificateRevocationList, issuer: x509.Certificate, now: datetime
) -> list[tuple[Literal["error", "warning"], str]]:
    """What is wrong with a list: not this CA's, not valid yet, or past its time; a warning 21 days before that."""
    if not is_of(revoked, issuer):
        return [("error", "is not signed by the CA that it names; get the list from that CA again")]
    if revoked.last_update_utc > now:
        return [("error", f"is not valid before {when(revoked.last_update_utc)}; check this machine's clock")]
    end = revoked.next_update_utc
    if end is None:
        return []
    cure = "get or make a new one (`mailsvc certs revoke DIR` makes that of a private CA)"
    if end < now:
        return [("error", f"is out of date since {when(end)}, so nothing that its CA signed can be believed; {cure}")]
    if end - now < EXPIRES_SOON:
        return [("warning", f"is good until {when(end)} only; {cure}")]
    return []


def is_of(revoked: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    """Whether this CA signed the list."""
    try:
        return revoked.issuer == issuer.subject and revoked.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def revocation_of(revoked: x509.CertificateRevocationList, serial: int) -> tuple[datetime, str] | None:
    """When and why the list revokes the certificate of this serial number; None when it does not."""
    entry = revoked.get_revoked_certificate_by_serial_number(serial)
    if entry is None:
        return None
    try:
        flag = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    except x509.ExtensionNotFound:
        flag = x509.ReasonFlags.unspecified
    if flag is x509.ReasonFlags.remove_from_crl:
        return None
    words = {each: name.replace("-", " ") for name, each in REASONS.items()}
    return entry.revocation_date_utc, words.get(flag, flag.value)


def _number(revoked: x509.CertificateRevocationList | None) -> int:
    if revoked is None:
        return 0
    try:
        return revoked.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0
