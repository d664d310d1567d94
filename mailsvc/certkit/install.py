"""Putting a certificate and its key into their folder, in place of others, and taking them away.

A private key is never lost by accident: what is there stays unless the caller says `replace`, and then the old
files are kept under `.replaced`, which the server passes over. The hardest part is that two files cannot change
at once. Both new ones are complete on the disk before the first takes its name, so a reader who comes between
the two (some microseconds) finds a key that does not fit, and a server that watches the folder keeps what it has
and looks again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from mailsvc.certkit.files import PRIVATE, PUBLIC, make_folder, read, replace_all, write_new
from mailsvc.certkit.inspect import Chain
from mailsvc.certkit.places import CHAIN, KEY, REPLACED, REQUEST, REQUEST_KEY, Written
from mailsvc.errors import AlreadyExists, MailsvcError, NotFound


@dataclass(frozen=True, slots=True)
class Installed:
    """What was written, and where the files that had to go are kept (None when there were none)."""

    written: tuple[Written, ...]
    kept: Path | None = None


def chain_pem(chain: Chain) -> bytes:
    """A fullchain.pem."""
    return b"".join(each.public_bytes(Encoding.PEM) for each in chain)


def must_be_free(folder: Path, *, replace: bool) -> None:
    """Raise AlreadyExists when a certificate or key is there and nobody said that it may go."""
    there = [path for path in (folder / CHAIN, folder / KEY) if path.is_symlink() or path.exists()]
    if there and not replace:
        raise AlreadyExists(
            f"{there[0]}: exists already; --replace puts the new one in its place and keeps the old one"
        )
    if replace and folder.is_symlink():
        raise MailsvcError(f"{folder}: is a link to {os.readlink(folder)}; replace the files there, or remove the link")


def install(
    folder: Path, chain: Chain, key_pem: bytes, what: str, now: datetime, *, replace: bool, kept_in: Path
) -> Installed:
    """Write `folder/fullchain.pem` and `folder/privkey.pem`; `what` the certificate is, in words. Old ones go to
    a folder of their own in `kept_in` when `replace` says so, else AlreadyExists is raised and nothing changed."""
    must_be_free(folder, replace=replace)
    make_folder(folder)
    kept = _keep(folder, kept_in, now)
    files = [(folder / KEY, key_pem, PRIVATE), (folder / CHAIN, chain_pem(chain), PUBLIC)]
    state = "encrypted" if b"ENCRYPTED" in key_pem else "not encrypted"
    written = (
        Written(folder / KEY, PRIVATE, f"{what}'s private key, {state}"),
        Written(folder / CHAIN, PUBLIC, f"{what}'s certificate" + (", then its issuers'" if len(chain) > 1 else "")),
    )
    if replace:
        replace_all(files)
    else:
        for path, data, mode in files:
            write_new(path, data, mode)
    return Installed(written, kept)


def remove(folder: Path, *, own: Sequence[str] = (CHAIN, KEY, REQUEST, REQUEST_KEY, "ocsp.der")) -> list[Path]:
    """Delete the files of a certificate and its folder; what is not ours is left, and then the folder too. Raises
    NotFound when there is nothing, MailsvcError for a link (certbot's)."""
    if folder.is_symlink():
        raise MailsvcError(
            f"{folder}: is a link to {os.readlink(folder)}; remove the link, or what it leads to, itself"
        )
    there = [folder / name for name in own if (folder / name).is_symlink() or (folder / name).exists()]
    if not there:
        raise NotFound(f"{folder}: there is no certificate, key or request; `mailsvc certs list` shows what there is")
    if links := [path for path in there if path.is_symlink()]:
        raise MailsvcError(
            f"{links[0]}: is a link to {os.readlink(links[0])}; who put it there (certbot?) has to remove it"
        )
    try:
        for path in there:
            path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
    except OSError as error:
        raise MailsvcError(
            f"{error.filename}: cannot be removed ({error.strerror}); check the folder's owner"
        ) from error
    return there


def _keep(folder: Path, kept_in: Path, now: datetime) -> Path | None:
    old = [source for name in (KEY, CHAIN) if (source := read(folder / name)).data is not None]
    if not old:
        return None
    make_folder(kept_in)
    stamp = f"{folder.name}-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    number, place = 1, kept_in / stamp
    while not make_folder(place):
        number += 1
        place = kept_in / f"{stamp}-{number}"
    for source in old:
        write_new(place / source.path.name, source.data or b"", PRIVATE if source.path.name == KEY else PUBLIC)
    return place


def kept_folder(certs: Path) -> Path:
    """Where a certs folder keeps what was replaced."""
    return certs / REPLACED
