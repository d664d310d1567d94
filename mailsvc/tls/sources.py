"""Certificates from a folder, every one judged, as the table that the server uses.

`certs/NAME/{fullchain,privkey}.pem` is the layout of certbot's `live` folder, links and all. Each file is
read once and judged on the bytes that were read, so a renewal that replaces files meanwhile can at worst give
a pair that does not fit, and that is a finding. All findings of all folders are collected before the start is
refused. The judgements themselves are in `certkit.inspect`; this module knows what lies where, which is its
hard part: to tell a folder that is broken from one that is not meant for us, and to name the cure for each
way in which a path can be slightly wrong.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mailsvc.certkit.files import Reader, Source, current_reader, read
from mailsvc.certkit.inspect import (
    Chain,
    Finding,
    Passphrase,
    check_chain,
    check_fit,
    check_private,
    covering,
    read_chain,
    read_key,
)
from mailsvc.certkit.layout import AUTHORITY_FOLDER, AUTHORITY_KEY, CHAIN, KEY
from mailsvc.certkit.names import names_of
from mailsvc.certkit.passphrase import PassphraseSource, passphrase_source
from mailsvc.errors import StartRefused
from mailsvc.tls.credential import Credential, make_credential
from mailsvc.tls.table import CredentialTable, make_table

__all__ = ["FolderReport", "load_folder", "passphrase_source", "read_folder"]


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


def _ignore(finding: Finding) -> None:
    return None


def load_folder(
    certs: Path | str,
    hostname: str,
    passphrase: Passphrase,
    now: datetime,
    *,
    reader: Reader | None = None,
    warn: Callable[[Finding], None] = _ignore,
) -> CredentialTable:
    """The table of the certificates in this folder, whose default covers `hostname`.

    `now` is aware of its time zone. Raises StartRefused with every error; `warn` is called with each warning.
    """
    report = read_folder(certs, hostname, passphrase, now, reader=reader)
    for finding in report.warnings:
        warn(finding)
    if report.errors:
        raise StartRefused([str(finding) for finding in report.errors])
    return make_table(report.credentials, hostname)


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
    folder = Path(certs)
    who = reader or current_reader()
    cure = f"mailsvc certs init {folder}/ --hostname {hostname or 'NAME'}"
    try:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        return _nothing(folder, f"this folder for certificates does not exist; make it and a private CA with: {cure}")
    except NotADirectoryError:
        return _nothing(folder, "is not a folder; give the folder that holds a folder NAME per certificate")
    except OSError as error:
        return _nothing(
            folder, f"this folder cannot be read ({error.strerror}); let the user that mailsvc runs as read it"
        )

    findings: list[Finding] = []
    credentials: list[Credential] = []
    chains: list[Chain] = []
    _check_folder(folder, findings)
    if isinstance(passphrase, PassphraseSource):
        findings += passphrase.findings(who)
    _check_authority_key(folder / AUTHORITY_FOLDER / AUTHORITY_KEY, who, findings)
    ignored: list[Finding] = []
    for path in (folder / name for name in names if name != AUTHORITY_FOLDER):
        if path.is_symlink() and not path.exists():
            text = f"is a link to {os.readlink(path)}, which does not exist; mend or remove it"
            findings.append(Finding("error", str(path), text))
        elif path.is_dir():
            pair = [path / CHAIN, path / KEY]
            if not any(each.exists() or each.is_symlink() for each in pair) and os.access(path, os.X_OK):
                ignored.append(Finding("warning", str(path), f"holds neither {CHAIN} nor {KEY} and is passed over"))
                continue
            chain, credential, found = _read_pair(path, passphrase, now, who)
            chains.append(chain)
            credentials += [credential] if credential else []
            findings += found
    if not chains and not any(each.severity == "error" for each in findings):
        if {CHAIN, KEY} & set(names):
            text = f"holds {CHAIN} or {KEY} itself; give the folder above it, {folder.absolute().parent}"
            return _nothing(folder, text)
        findings.append(Finding("error", str(folder), f"holds no certificate; make a private CA and one with: {cure}"))
    elif hostname is not None and all(chains) and chains and not covering(chains, hostname):
        have = ", ".join(dict.fromkeys(str(names_of(chain[0])) for chain in chains))
        text = (
            f"no certificate in it covers the hostname {hostname} (they cover: {have}); "
            f"set the hostname to one of these, or make a certificate with: {cure}"
        )
        findings.append(Finding("error", str(folder), text))
    return FolderReport(tuple(credentials), (*findings, *ignored))


def _nothing(folder: Path, text: str) -> FolderReport:
    return FolderReport((), (Finding("error", str(folder), text),))


def _read_pair(
    folder: Path, passphrase: Passphrase, now: datetime, reader: Reader
) -> tuple[Chain, Credential | None, list[Finding]]:
    chain_source, key_source = read(folder / CHAIN), read(folder / KEY)
    chain, findings = read_chain(chain_source)
    findings += check_chain(chain, chain_source.path, now)
    key, key_findings = read_key(key_source, passphrase)
    findings += check_private(key_source, reader) + key_findings
    if b"PRIVATE KEY-----" in (chain_source.data or b""):
        findings += check_private(chain_source, reader)
    if key is not None:
        findings += check_fit(chain, key, chain_source.path, key_source.path)
    if key is None or not chain or any(each.severity == "error" for each in findings):
        return chain, None, findings
    return chain, make_credential(folder.name, chain, key, (chain_source.path, key_source.path)), findings


def _check_folder(folder: Path, findings: list[Finding]) -> None:
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o002 and not mode & stat.S_ISVTX:
        text = f"every user can change what is in it (mode {mode:04o}); run: chmod o-w {folder}"
        findings.append(Finding("warning", str(folder), text))


def _check_authority_key(path: Path, reader: Reader, findings: list[Finding]) -> None:
    try:
        status = path.stat()
    except OSError:
        return  # there is none, or it is kept where this user cannot see it: so much the better
    source = Source(path, b"", None, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
    findings += check_private(source, reader)
