"""Where a CA's revocation list can be fetched: the URL that its certificates carry (RFC 5280 section 4.2.1.13).

A private CA keeps its URL in a file beside its certificate, `ca/crl.url`, and whatever it signs names it. Making the
list is `certkit.revocation`; bringing it to the place that was named, and fetching it, is left to others. The hardest
part is that a URL cannot be taken back from a certificate: what no checker could use is refused before it is signed,
and the file is checked again at each use, because people edit files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from cryptography import x509

from mailsvc.certkit.build import NameProblem, general_name
from mailsvc.certkit.files import read
from mailsvc.certkit.inspect import extension
from mailsvc.certkit.places import AuthorityPlaces
from mailsvc.errors import AlreadyExists, MailsvcError

SCHEMES = ("http", "https", "ldap")
LONGEST_URL = 1000
"""Characters; it goes into every certificate, and with it into every handshake."""

_URL = re.compile(r"(?:[A-Za-z0-9._~:/?\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")


def checked_url(url: str) -> str:
    """The URL as it was given, when a certificate can name it as the place of a list. Raises MailsvcError."""
    problem = _problem(url)
    if problem is not None:
        raise MailsvcError(f"{url[:80]!r} cannot be the place of a revocation list: {problem}")
    return url


def kept_url(places: AuthorityPlaces) -> str | None:
    """The URL that a private CA puts into what it signs, None without. Raises MailsvcError for a bad file."""
    if not places.crl_url.exists() and not places.crl_url.is_symlink():
        return None
    source = read(places.crl_url)
    if source.data is None:
        raise MailsvcError(f"{places.crl_url}: {source.problem}")
    try:
        return checked_url(source.data.decode("utf-8", "replace").strip())
    except MailsvcError as error:
        raise MailsvcError(f"{places.crl_url}: {error}; put one URL there, or remove the file") from error


def chosen_url(places: AuthorityPlaces, asked: str | None) -> tuple[str | None, bool]:
    """The URL for what a CA signs, and whether it is new and has to be written down.

    Raises AlreadyExists when the CA is there already and another one (or none) is kept.
    """
    kept = kept_url(places)
    if asked is None or checked_url(asked) == kept:
        return kept, False
    if kept is not None or places.certificate.exists() or places.key.exists():
        has = "none" if kept is None else kept
        raise AlreadyExists(
            f"{places.folder}: there is a private CA already, whose certificates name as the place of its revocation "
            f"list {has}; to change that for those to come, write the URL into {places.crl_url} and leave --crl-url out"
        )
    return asked, True


def points_to(url: str) -> x509.CRLDistributionPoints:
    """The extension that names one URL, for all reasons, of a list that the issuer itself signs."""
    return x509.CRLDistributionPoints([x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)])


def urls_of(certificate: x509.Certificate) -> Iterator[str]:
    """The URLs of revocation lists that a certificate names, whoever made it."""
    for point in extension(certificate, x509.CRLDistributionPoints) or ():
        for name in point.full_name or ():
            if isinstance(name, x509.UniformResourceIdentifier):
                yield name.value


def _problem(url: str) -> str | None:
    if len(url) > LONGEST_URL:
        return f"it is longer than {LONGEST_URL} characters"
    if not _URL.fullmatch(url):
        return "it must be ASCII without spaces and without #; write other characters as %XX"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "its host or port is malformed"
    if parts.scheme not in SCHEMES:
        return f"it must begin with {', '.join(f'{each}://' for each in SCHEMES)}"
    if not host:
        return "it names no host"
    if "@" in parts.netloc:
        return "it names a user, and everybody would read that"
    try:
        general_name(host)
    except NameProblem as problem:
        return str(problem)
    if parts.scheme == "ldap":
        attribute = parts.query.split("?")[0]
        if not parts.path.strip("/") or not attribute or "," in attribute:
            return "of LDAP it needs an entry and one attribute, as ldap://HOST/cn=CA?certificateRevocationList;binary"
    return None
