"""What there is in a certs folder, and what its private CA has signed: `mailsvc certs list`, as values.

A look, not a judgement: `mailsvc certs verify` gives that, and the server's gate. The state of an entry is the one
word that decides whether somebody has to do something.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography import x509

from mailsvc.certkit.authority import current_list, records
from mailsvc.certkit.describe import key_kind
from mailsvc.certkit.files import read
from mailsvc.certkit.inspect import EXPIRES_SOON, Chain, printable, read_chain, when
from mailsvc.certkit.keys import key_words
from mailsvc.certkit.names import Names, names_of
from mailsvc.certkit.places import AUTHORITY_FOLDER, CHAIN, KEY, REQUEST, authority_places
from mailsvc.certkit.requests import names_of_request, read_request
from mailsvc.certkit.revocation import is_of, revocation_of
from mailsvc.errors import MailsvcError

Kind = Literal["server", "client", "ca", "request", "issued", "row"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One certificate or request. `place` is a path, or says that it is a row; `not_after` is None for what has no
    end (a request)."""

    kind: Kind
    name: str
    place: str
    names: tuple[str, ...]
    key: str
    issuer: str
    serial: str
    not_after: datetime | None
    state: str

    def as_json(self) -> dict[str, object]:
        """The same as plain values; the date in the form of RFC 3339."""
        end = None if self.not_after is None else f"{self.not_after:%Y-%m-%dT%H:%M:%SZ}"
        facts = {each: getattr(self, each) for each in ("kind", "name", "place", "key", "issuer", "serial", "state")}
        return {**facts, "names": list(self.names), "not_after": end}


def folder_entries(certs: Path, now: datetime) -> list[Entry]:
    """The private CA, the servers' and clients' certificates, and the requests that wait for an answer."""
    places = authority_places(certs)
    revoked = _list_of(certs)
    entries: list[Entry] = []
    if places.certificate.exists():
        entries.append(_entry("ca", AUTHORITY_FOLDER, places.certificate, None, now, ()))
    for kind, above in (("server", certs), ("client", places.clients)):
        for folder in _folders(above):
            if folder == places.folder:
                continue
            if (folder / CHAIN).exists() or (folder / KEY).exists():
                entries.append(_entry(kind, folder.name, folder / CHAIN, folder / KEY, now, revoked))  # type: ignore[arg-type]
            if (folder / REQUEST).exists():
                entries.append(_request(folder))
    return entries


def issued_entries(certs: Path, now: datetime) -> list[Entry]:
    """Every certificate that the private CA wrote down, oldest first, with what became of it."""
    places, revoked = authority_places(certs), _list_of(certs)
    return [
        entry_of("issued", label(each), str(places.record(each.serial_number)), (each,), now, revoked)
        for each in records(places)
    ]


def entry_of(
    kind: Kind,
    name: str,
    place: str,
    chain: Chain,
    now: datetime,
    revoked: Sequence[x509.CertificateRevocationList] = (),
) -> Entry:
    """The entry of a chain that is not empty."""
    leaf = chain[0]
    return Entry(
        kind,
        printable(name),
        place,
        _shown(names_of(leaf)),
        key_kind(leaf),
        printable(leaf.issuer.rfc4514_string()),
        f"{leaf.serial_number:x}",
        min(each.not_valid_after_utc for each in chain),
        state_of(chain, now, revoked),
    )


def state_of(chain: Chain, now: datetime, revoked: Sequence[x509.CertificateRevocationList] = ()) -> str:
    """ "good", "expires in 20 days", "expired", "not valid yet", or "revoked on ... (reason)"."""
    for each in revoked:
        if each.issuer == chain[0].issuer and (entry := revocation_of(each, chain[0].serial_number)):
            return f"revoked on {entry[0]:%Y-%m-%d} ({entry[1]})"
    if any(now < each.not_valid_before_utc for each in chain):
        return "not valid yet"
    left = min(each.not_valid_after_utc for each in chain) - now
    if left.total_seconds() < 0:
        return "expired"
    if left < EXPIRES_SOON:
        return f"expires in {left.days} day{'s' * (left.days != 1)}"
    return "good"


def revoked_findings(certs: Path, chain: Chain) -> list[str]:
    """What the folder's own CA says against a certificate of its: sentences, empty when it says nothing."""
    return [
        f"was revoked by its CA on {when(entry[0])} ({entry[1]}); renew it: mailsvc certs issue {certs}/ --renew NAME"
        for each in _list_of(certs)
        if chain and each.issuer == chain[0].issuer and (entry := revocation_of(each, chain[0].serial_number))
    ]


def label(certificate: x509.Certificate) -> str:
    """The common name, for people, or else the whole subject."""
    common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return printable(str(common[0].value) if common else certificate.subject.rfc4514_string())


def _entry(
    kind: Kind,
    name: str,
    path: Path,
    key: Path | None,
    now: datetime,
    revoked: Sequence[x509.CertificateRevocationList],
) -> Entry:
    chain, findings = read_chain(read(path))
    if not chain:
        return Entry(kind, printable(name), str(path.parent), (), "", "", "", None, findings[0].text)
    entry = entry_of(kind, name, str(path if key is None else path.parent), chain, now, revoked)
    if key is not None and not key.exists():
        return replace(entry, state=f"without its {KEY}")
    return entry


def _request(folder: Path) -> Entry:
    try:
        request = read_request(read(folder / REQUEST))
    except MailsvcError as problem:
        return Entry("request", printable(folder.name), str(folder), (), "", "", "", None, str(problem))
    kind = key_words(request.public_key())
    names = _shown(names_of_request(request))
    return Entry("request", printable(folder.name), str(folder), names, kind, "", "", None, "waits for its CA's answer")


def _list_of(certs: Path) -> tuple[x509.CertificateRevocationList, ...]:
    """The own CA's list when there is one that this CA signed; a damaged one is told of where it matters."""
    places = authority_places(certs)
    try:
        revoked = current_list(places)
    except MailsvcError:
        return ()
    chain, _ = read_chain(read(places.certificate))
    return (revoked,) if revoked is not None and chain and is_of(revoked, chain[0]) else ()


def _folders(above: Path) -> Iterator[Path]:
    try:
        yield from sorted(path for path in above.iterdir() if path.is_dir() and not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise MailsvcError(f"{above}: cannot be read ({error.strerror}); check who may enter it") from error


def _shown(names: Names) -> tuple[str, ...]:
    return tuple(printable(name) for name in (*names.hosts, *map(str, names.addresses), *names.emails))
