"""Throw-away certificates for tests: one private CA per process, and folders as `mailsvc --certs` wants them.

Made once and kept, because tests ask often; nothing here is ever trusted by anything but a test. Keys are
ECDSA P-256, so that making one takes well under a millisecond.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from unittest import SkipTest

from cryptography.hazmat.primitives.serialization import Encoding

from mailsvc.certkit.build import Issued, new_authority, server_certificate
from mailsvc.certkit.files import PRIVATE, PUBLIC, make_folder, write_new
from mailsvc.certkit.keys import encode_key

HOSTNAME = "mail.example.org"


@dataclass(frozen=True)
class Certs:
    """A certs folder that was written: give `folder` to the server and `ca` to the client."""

    folder: Path
    ca: Path
    hostname: str


@cache
def authority() -> Issued:
    """The CA of this test process."""
    return new_authority("mailsvc test CA", datetime.now(UTC))


@cache
def credential(names: tuple[str, ...] = (HOSTNAME,)) -> Issued:
    """A server certificate for these names, signed by `authority()`, with its key."""
    return server_certificate(authority(), names, datetime.now(UTC))


def chain_pem(issued: Issued, issuer: Issued | None = None) -> bytes:
    """A fullchain.pem: the certificate, then its issuer's."""
    issuer = issuer or authority()
    return issued.certificate.public_bytes(Encoding.PEM) + issuer.certificate.public_bytes(Encoding.PEM)


def make_certs(
    directory: Path | str, hostname: str = HOSTNAME, also: Sequence[str] = ("localhost", "127.0.0.1")
) -> Certs:
    """Write `directory/ca/ca.pem` and `directory/HOSTNAME/{fullchain,privkey}.pem`; the certificate covers
    `also`, too."""
    folder = Path(directory)
    for each in (folder, folder / "ca", folder / hostname):
        make_folder(each)
    issued = credential((hostname, *also))
    write_new(folder / "ca" / "ca.pem", authority().certificate.public_bytes(Encoding.PEM), PUBLIC)
    write_new(folder / hostname / "fullchain.pem", chain_pem(issued), PUBLIC)
    write_new(folder / hostname / "privkey.pem", encode_key(issued.key), PRIVATE)
    return Certs(folder, folder / "ca" / "ca.pem", hostname)


def openssl(*arguments: str | Path, stdin: bytes = b"") -> str:
    """What the `openssl` program prints (both streams). Fails unless its exit status is 0; skips where it is
    missing."""
    program = shutil.which("openssl")
    if program is None:
        if os.environ.get("MAILSVC_REQUIRE_ALL"):
            raise AssertionError("the openssl program is missing")
        raise SkipTest("the openssl program is missing")
    done = subprocess.run([program, *map(str, arguments)], input=stdin, capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    if done.returncode != 0:
        raise AssertionError(f"openssl {' '.join(map(str, arguments))}: exit status {done.returncode}: {said}")
    return said
