"""A certs folder: what lies where in it.

::

    NAME/fullchain.pem      a server's certificate, then its issuers (the layout of certbot's `live` folder)
    NAME/privkey.pem        its key, 0600
    NAME/request.pem        a request that waits for a CA's answer; not looked at by the server
    NAME/request.key        its key, 0600, which becomes privkey.pem when the answer comes
    ca/ca.pem               the private CA's certificate: give it to the mail programs that shall trust it
    ca/ca.key               its key, 0600; encrypted when a passphrase was given
    ca/crl.pem              its revocation list
    ca/crl.url              where that can be fetched, when its certificates shall say so
    ca/issued/SERIAL.pem    each certificate that it signed, so that one that is lost can still be revoked
    ca/clients/NAME/        client certificates with their keys, to be carried to where they are used
    .replaced/NAME-TIME/    what was there before a certificate was replaced

The server passes over `ca` and whatever begins with a dot. What is for others than the server lies there for this
reason: nothing that a command writes can become a finding at the next start.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mailsvc.errors import MailsvcError

AUTHORITY_FOLDER = "ca"
AUTHORITY_CERTIFICATE = "ca.pem"
AUTHORITY_KEY = "ca.key"
CHAIN = "fullchain.pem"
KEY = "privkey.pem"
REQUEST = "request.pem"
REQUEST_KEY = "request.key"
REPLACED = ".replaced"


@dataclass(frozen=True, slots=True)
class Written:
    """One file that was made."""

    path: Path
    mode: int
    what: str


@dataclass(frozen=True, slots=True)
class AuthorityPlaces:
    """Where the private CA of a certs folder keeps its things."""

    folder: Path

    @property
    def certificate(self) -> Path:
        """Its own certificate."""
        return self.folder / AUTHORITY_CERTIFICATE

    @property
    def key(self) -> Path:
        """Its key."""
        return self.folder / AUTHORITY_KEY

    @property
    def revoked(self) -> Path:
        """Its revocation list."""
        return self.folder / "crl.pem"

    @property
    def crl_url(self) -> Path:
        """The file with the URL of that list."""
        return self.folder / "crl.url"

    @property
    def issued(self) -> Path:
        """The folder of what it signed."""
        return self.folder / "issued"

    @property
    def clients(self) -> Path:
        """The folder of client certificates."""
        return self.folder / "clients"

    def record(self, serial: int) -> Path:
        """Where the certificate of this serial number is kept."""
        return self.issued / f"{serial:x}.pem"


def authority_places(certs: Path) -> AuthorityPlaces:
    """The private CA's places in a certs folder."""
    return AuthorityPlaces(certs / AUTHORITY_FOLDER)


def place_of(certs: Path, name: str) -> Path:
    """The folder of the certificate called `name`: that in the certs folder, or `ca/clients/NAME`.

    The name is one path component that begins with no dot; a wildcard's folder is its domain. Raises MailsvcError.
    """
    folder = checked_name(name.removeprefix("*."))
    if folder == AUTHORITY_FOLDER:
        raise MailsvcError(f"{certs / folder} is the place of the private CA; give a full host name with --hostname")
    return certs / folder


def checked_name(name: str) -> str:
    """A name that can be a folder's. Raises MailsvcError for one that would lead elsewhere."""
    if not name or name.startswith((".", "-")) or "/" in name or not name.isprintable() or len(name.encode()) > 200:
        raise MailsvcError(
            f"{name!r} cannot be the name of a folder; give a short one without / and without a dot first"
        )
    return name
