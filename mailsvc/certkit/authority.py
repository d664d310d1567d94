"""A private CA that lies in files: opened for one piece of work, and its records kept.

`certkit.build` signs whatever it is given; here is what a CA owes to those who trust it. It does not sign what
its own name constraints forbid (nobody would believe it, and the mistake shows at the peer, days later), and it
writes down each certificate that it signed *before* anybody gets it: one that was lost or stolen can then be
revoked by its serial number, its name, or its file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mailsvc.certkit.build import Issued, NameProblem, Wanted, sign
from mailsvc.certkit.constraints import as_hosts, constraints_of, in_words, outside
from mailsvc.certkit.distribution import kept_url, points_to
from mailsvc.certkit.files import PUBLIC, locked, make_folder, read, replace_all, write_new
from mailsvc.certkit.inspect import Chain, Passphrase, common_name, issued_by, may_issue, read_chain, read_key, when
from mailsvc.certkit.keys import is_encrypted
from mailsvc.certkit.places import AuthorityPlaces, Written, authority_places, checked_name
from mailsvc.certkit.revocation import LIST_LIFETIME, list_pem, new_list, read_lists
from mailsvc.errors import MailsvcError, NotFound


@dataclass(frozen=True, slots=True)
class Authority:
    """An opened CA: what signs, the certificates that go behind what it signed, where it lies, and the URL of its
    revocation list, which what it signs then names."""

    issued: Issued
    chain: Chain
    places: AuthorityPlaces
    crl_url: str | None = None

    @property
    def certificate(self) -> x509.Certificate:
        """The CA's own certificate."""
        return self.issued.certificate


def open_authority(certs: Path, passphrase: Passphrase, now: datetime) -> Authority:
    """The private CA of a certs folder; `passphrase` is asked only when its key is encrypted. Raises MailsvcError
    with everything that keeps it from signing."""
    places = authority_places(certs)
    if not places.certificate.exists() and not places.key.exists():
        raise NotFound(
            f"{places.folder}: there is no private CA; `mailsvc certs init` makes one with a first server certificate"
        )
    chain, findings = read_chain(read(places.certificate))
    key_source = read(places.key)
    secret = passphrase() if key_source.data is not None and is_encrypted(key_source.data) else None
    if secret is None and key_source.data is not None and is_encrypted(key_source.data):
        raise MailsvcError(
            f"{places.key}: the private CA's key is encrypted; give its passphrase with --passphrase-file FILE"
        )
    key, key_findings = read_key(key_source, lambda: secret, cure="give the right one with --passphrase-file FILE")
    if findings or key_findings or key is None:
        said = "; ".join(str(finding) for finding in (*findings, *key_findings))
        raise MailsvcError(f"the private CA in {places.folder} cannot be used: {said}")
    certificate = chain[0]
    if certificate.public_key() != key.public_key():
        raise MailsvcError(
            f"{places.key}: does not fit {places.certificate}; put the two files there that were made together"
        )
    if not may_issue(certificate):
        raise MailsvcError(f"{places.certificate}: is not a CA's certificate and cannot issue others")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        ends = when(certificate.not_valid_after_utc)
        raise MailsvcError(
            f"{places.certificate}: the private CA is not valid now (it ends on {ends}); "
            f"move {places.folder} away and run `mailsvc certs init` to make a new one"
        )
    return Authority(Issued(certificate, key), chain, places, kept_url(places))


def issue(authority: Authority, wanted: Wanted, now: datetime) -> tuple[x509.Certificate, Written]:
    """Sign what is wanted and write it down. Raises NameProblem for a name that this CA may not speak for."""
    certificate = sign_checked(authority.issued, wanted, now, authority.crl_url)
    return certificate, record(authority.places, certificate)


def sign_checked(issuer: Issued, wanted: Wanted, now: datetime, crl_url: str | None = None) -> x509.Certificate:
    """Sign, unless the CA's name constraints forbid a name. Raises NameProblem."""
    limits = constraints_of(issuer.certificate)
    if limits is not None:
        names = [*wanted.names, *as_hosts(wanted.names, [wanted.common_name])]
        forbidden = [str(name.value) for name in names if outside(limits, name)]
        if forbidden:
            raise NameProblem(
                f"{common_name(issuer.certificate)} may not speak for {', '.join(forbidden)}: "
                f"it is limited to {in_words(limits)}"
            )
    return sign(issuer, wanted, now, None if crl_url is None else points_to(crl_url))


def record(places: AuthorityPlaces, certificate: x509.Certificate) -> Written:
    """Keep a certificate that was signed."""
    make_folder(places.issued)
    path = places.record(certificate.serial_number)
    write_new(path, certificate.public_bytes(Encoding.PEM), PUBLIC)
    return Written(path, PUBLIC, "the CA's record of it, for a later revocation")


def records(places: AuthorityPlaces) -> list[x509.Certificate]:
    """All certificates that are written down, oldest first; files that are none are passed over."""
    found = []
    for path in sorted(places.issued.glob("*.pem")):
        chain, _ = read_chain(read(path))
        found += list(chain[:1])
    return sorted(found, key=lambda each: each.not_valid_before_utc)


def current_list(places: AuthorityPlaces) -> x509.CertificateRevocationList | None:
    """The CA's revocation list, None when it never made one. Raises MailsvcError when it is there and damaged."""
    source = read(places.revoked)
    if source.data is None and not places.revoked.exists():
        return None
    return read_lists(source)[0]


def revoke(
    authority: Authority,
    certificates: Sequence[x509.Certificate],
    reason: str,
    now: datetime,
    lifetime: timedelta = LIST_LIFETIME,
) -> tuple[x509.CertificateRevocationList, Written]:
    """Sign and write the CA's next list, with these certificates in it. Raises MailsvcError when one of them is not
    this CA's."""
    for each in certificates:
        if not issued_by(each, authority.certificate):
            raise MailsvcError(
                f"the certificate {common_name(each)} was not issued by {common_name(authority.certificate)}, "
                "and only its own CA can revoke it"
            )
    serials = [each.serial_number for each in certificates]
    with locked(authority.places.folder):  # what another command revokes meanwhile must not be lost
        made = new_list(authority.issued, current_list(authority.places), serials, reason, now, lifetime)
        replace_all([(authority.places.revoked, list_pem(made), PUBLIC)])
    return made, Written(authority.places.revoked, PUBLIC, "the private CA's revocation list")


def named_certificate(certs: Path, what: str) -> list[x509.Certificate]:
    """The certificates of the private CA that somebody means: by serial number, by file, by the name of a folder or
    client, by a name that they cover.

    A name means every one that was ever issued for it: it cannot be told from outside which of them a thief has.
    Raises NotFound.
    """
    places = authority_places(certs)
    if "/" in what or what.endswith((".pem", ".crt", ".cer")):
        chain, findings = read_chain(read(Path(what)))
        if findings:
            raise MailsvcError(str(findings[0]))
        return list(chain[:1])
    all_issued = records(places)
    digits = what.replace(":", "").lower().lstrip("0")
    found = [each for each in all_issued if f"{each.serial_number:x}" == digits]
    if found:
        return found
    name = checked_name(what.removeprefix("*."))
    for folder in (places.clients / name, certs / name):
        chain, _ = read_chain(read(folder / "fullchain.pem"))
        found += [each for each in chain[:1] if each not in found]
    found += [each for each in all_issued if each not in found and what in _labels(each)]
    if not found:
        raise NotFound(f"no certificate of the private CA is called {what}; `mailsvc certs list --issued` shows them")
    return found


def _labels(certificate: x509.Certificate) -> set[str]:
    labels = {str(each.value) for each in certificate.subject}
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return labels
    return labels | {str(name.value) for name in names}
