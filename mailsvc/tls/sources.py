"""Where certificates come from: a folder of folders, and rows of the database; and the first table made of them.

`certs/NAME/{fullchain,privkey}.pem` is the layout of certbot's `live` folder, links and all; an OCSP response may lie
beside them as `ocsp.der`. Each file is read once and judged on the bytes that were read, so a renewal that replaces
files meanwhile can at worst give a pair that does not fit, and that is a finding. At a start all findings of all
sources are collected before it is refused. The judgements themselves are in `mailsvc.tls.gate` and `certkit.inspect`.

This module knows what lies where, which is its hard part: to tell a folder that is broken from one that is not meant
for us, and to name the cure for each way in which a path can be slightly wrong. A further source (a directory server,
a secret store) is one more class with the three members of `CredentialSource`; docs/certificates.rst has one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mailsvc.certkit.files import Reader, Source, current_reader, read
from mailsvc.certkit.inspect import Chain, Finding, Passphrase, check_private, covering
from mailsvc.certkit.layout import AUTHORITY_FOLDER, AUTHORITY_KEY, CHAIN, KEY
from mailsvc.certkit.names import names_of
from mailsvc.certkit.passphrase import PassphraseSource, passphrase_source
from mailsvc.errors import MailsvcError, StartRefused
from mailsvc.storage.certificates import CertificateRow
from mailsvc.tls.credential import Credential
from mailsvc.tls.gate import Candidate, CredentialSource, Found, Judged, first_of_each_name, judge
from mailsvc.tls.sealing import SealingKey, unseal
from mailsvc.tls.table import CredentialTable, make_table

__all__ = [
    "FolderReport",
    "FolderSource",
    "RowSource",
    "load_table",
    "passphrase_source",
    "read_folder",
    "read_sources",
]

STAPLE = "ocsp.der"


@dataclass(frozen=True, slots=True)
class FolderReport:
    """What a certs folder holds: the credentials without an error, and every finding in the order of the
    folders."""

    credentials: tuple[Credential, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that refuse the start."""
        return tuple(each for each in self.findings if each.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that only want attention."""
        return tuple(each for each in self.findings if each.severity == "warning")


class FolderSource:
    """The folder `certs`; `hostname` only goes into the cure for an empty one."""

    def __init__(
        self, certs: Path | str, passphrase: Passphrase, *, hostname: str | None = None, reader: Reader | None = None
    ) -> None:
        self.folder = Path(certs)
        self._passphrase = passphrase
        self._hostname = hostname
        self._reader = reader

    @property
    def origin(self) -> str:
        """The folder's path."""
        return str(self.folder)

    def state(self) -> object:
        """Which files there are, where links lead, and when they were changed last."""
        try:
            folders = sorted(entry.path for entry in os.scandir(self.folder) if not entry.name.startswith("."))
        except OSError as error:
            return error.errno
        return tuple((path, *(_stamp(os.path.join(path, name)) for name in (CHAIN, KEY, STAPLE))) for path in folders)

    def read(self) -> Found:
        """Every folder in it that holds one of the two files, and what is wrong with the rest."""
        folder = self.folder
        cure = _cure(folder, self._hostname)
        try:
            names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        except FileNotFoundError:
            return self._nothing(
                f"this folder for certificates does not exist; make it and a private CA with: {cure}", fatal=False
            )
        except NotADirectoryError:
            return self._nothing("is not a folder; give the folder that holds a folder NAME per certificate")
        except OSError as error:
            return self._nothing(
                f"this folder cannot be read ({error.strerror}); let the user that mailsvc runs as read it"
            )
        findings: list[Finding] = []
        candidates: list[Candidate] = []
        ignored: list[Finding] = []
        self._check_around(findings)
        for path in (folder / name for name in names if name != AUTHORITY_FOLDER):
            # os.path, because methods of Path raise for a folder that this user may not enter (until Python 3.14).
            if os.path.islink(path) and not os.path.exists(path):
                broken = Source(path, problem=_dead_link(path))
                candidates.append(Candidate(path.name, broken, broken, self.origin))
            elif os.path.isdir(path):
                pair = [path / CHAIN, path / KEY]
                if not any(map(os.path.lexists, pair)) and os.access(path, os.X_OK):
                    ignored.append(Finding("warning", str(path), f"holds neither {CHAIN} nor {KEY} and is passed over"))
                else:
                    candidates.append(self._candidate(path))
        text = f"holds no certificate; make a private CA and one with: {cure}"
        if {CHAIN, KEY} & set(names):
            text = f"holds {CHAIN} or {KEY} itself; give the folder above it, {folder.absolute().parent}"
        return Found(tuple(candidates), (*findings, *ignored), Finding("error", str(folder), text))

    def _candidate(self, path: Path) -> Candidate:
        staple = path / STAPLE
        return Candidate(
            path.name,
            read(path / CHAIN),
            read(path / KEY),
            self.origin,
            read(staple) if os.path.exists(staple) else None,
            self._passphrase,
        )

    def _nothing(self, text: str, *, fatal: bool = True) -> Found:
        finding = Finding("error", str(self.folder), text)
        return Found(findings=(finding,) if fatal else (), nothing=finding)

    def _check_around(self, findings: list[Finding]) -> None:
        """The folder's own mode, and what lies in it or belongs to it beside the certificates."""
        who = self._reader or current_reader()
        folder = self.folder
        mode = stat.S_IMODE(folder.stat().st_mode)
        if mode & 0o002 and not mode & stat.S_ISVTX:
            text = f"every user can change what is in it (mode {mode:04o}); run: chmod o-w {folder}"
            findings.append(Finding("warning", str(folder), text))
        if isinstance(self._passphrase, PassphraseSource):
            findings += self._passphrase.findings(who)
        _check_authority_key(folder / AUTHORITY_FOLDER / AUTHORITY_KEY, who, findings)


class RowSource:
    """The rows of the database.

    `rows` reads them and `revisions` says what they are, both in a thread; both may raise MailsvcError. `key` opens
    the private keys: it is asked each time, so that a key file may be put right while the service runs.
    """

    origin = "the database"

    def __init__(
        self,
        rows: Callable[[], Sequence[CertificateRow]],
        revisions: Callable[[], object],
        key: Callable[[], SealingKey | None],
    ) -> None:
        self._rows = rows
        self._revisions = revisions
        self._key = key

    def state(self) -> object:
        """The revisions of the rows."""
        try:
            return self._revisions()
        except MailsvcError as problem:
            return str(problem)

    def read(self) -> Found:
        """All rows, their keys opened."""
        try:
            rows = self._rows()
            key = self._key() if rows else None
        except MailsvcError as problem:
            return Found(findings=(Finding("error", self.origin, str(problem)),))
        return Found(tuple(self._candidate(row, key) for row in rows))

    def _candidate(self, row: CertificateRow, key: SealingKey | None) -> Candidate:
        place = Path(f"the certificate {row.name} in the database")
        staple = None if row.staple is None else Source(place, row.staple)
        return Candidate(
            row.name,
            Source(place, row.chain),
            _opened(place, row, key),
            self.origin,
            staple,
            renewal="renew it and put the new one in with `mailsvc certs import --database`",
        )


def _opened(place: Path, row: CertificateRow, key: SealingKey | None) -> Source:
    if key is None:
        problem = (
            "has a private key that cannot be opened, because there is no key for private keys in the database; "
            "name its file with [certificates] key_file, or give it as the systemd credential certificate-key"
        )
    elif key.name != row.sealed_by:
        problem = (
            f"has a private key that was sealed with another key ({row.sealed_by}, and not {key.name}); "
            "name the right file with [certificates] key_file, or import the certificate again"
        )
    else:
        try:
            return Source(place, unseal(key, row.name, row.sealed_key))
        except MailsvcError as broken:
            problem = str(broken)
    return Source(place, problem=problem)


def load_table(
    sources: Sequence[CredentialSource],
    hostname: str,
    now: datetime,
    *,
    warn: Callable[[Finding], None] = lambda finding: None,
) -> CredentialTable:
    """The first table: all certificates of all sources, whose default covers `hostname`.

    `now` is aware of its time zone. Raises StartRefused with every error; `warn` is called with each warning.
    """
    report = read_sources(sources, hostname, now)
    for finding in report.warnings:
        warn(finding)
    if report.errors:
        raise StartRefused([str(finding) for finding in report.errors])
    return make_table(report.credentials, hostname)


def read_sources(sources: Sequence[CredentialSource], hostname: str, now: datetime) -> FolderReport:
    """Everything that the sources have, in the order of their precedence, and every finding about it."""
    found = [source.read() for source in sources]
    # The first is the folder, and the cure for a host name that nothing covers is a folder more.
    return _report(found, hostname, now, current_reader(), sources[0].origin)


def read_folder(
    certs: Path | str,
    hostname: str | None,
    passphrase: Passphrase,
    now: datetime,
    *,
    reader: Reader | None = None,
) -> FolderReport:
    """Everything in the folder and every finding about it. Without a `hostname` nothing is said about
    coverage."""
    source = FolderSource(certs, passphrase, hostname=hostname, reader=reader)
    return _report([source.read()], hostname, now, reader or current_reader(), source.origin)


def _report(found: Sequence[Found], hostname: str | None, now: datetime, reader: Reader, where: str) -> FolderReport:
    judged = [judge(candidate, now, reader) for each in found for candidate in each.candidates]
    counted, hidden = first_of_each_name(judged)
    findings = [finding for each in found for finding in each.findings]
    findings += [*hidden, *(finding for each in counted for finding in each.findings)]
    if not counted and not any(each.severity == "error" for each in findings):
        findings += [each.nothing for each in found if each.nothing is not None][:1]
    elif hostname is not None and (uncovered := _uncovered(counted, hostname)):
        text = (
            f"no certificate in it covers the hostname {hostname} (they cover: {uncovered}); "
            f"set the hostname to one of these, or make a certificate with: {_cure(Path(where), hostname)}"
        )
        findings.append(Finding("error", where, text))
    return FolderReport(tuple(each.credential for each in counted if each.credential is not None), tuple(findings))


def _uncovered(judged: Sequence[Judged], hostname: str) -> str:
    """The names that there are, when the host name is not among them; "" when it is, or nobody can tell."""
    chains: list[Chain] = [each.chain for each in judged]
    if not chains or not all(chains) or covering(chains, hostname):
        return ""
    return ", ".join(dict.fromkeys(str(names_of(chain[0])) for chain in chains))


def _cure(folder: Path, hostname: str | None) -> str:
    return f"mailsvc certs init {folder}/ --hostname {hostname or 'NAME'}"


def _dead_link(path: Path) -> str:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        why = "does not exist"
    except OSError as error:
        why = f"cannot be reached ({error.strerror})"
    else:
        why = "did not exist a moment ago"
    try:
        return f"is a link to {os.readlink(path)}, which {why}; mend or remove it"
    except OSError:
        return f"is a link to what {why}; mend or remove it"


def _stamp(path: str) -> tuple[object, ...]:
    try:
        status = os.stat(path)
    except OSError as error:
        return (error.errno,)
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _check_authority_key(path: Path, reader: Reader, findings: list[Finding]) -> None:
    try:
        status = path.stat()
    except OSError:
        return  # there is none, or it is kept where this user cannot see it: so much the better
    source = Source(path, b"", None, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
    findings += check_private(source, reader)
