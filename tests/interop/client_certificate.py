"""A client certificate in files, a service that asks for one, and `mailsvc probe` as a client that shows it."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from mailsvc.certkit.build import Issued, client_certificate
from mailsvc.certkit.files import PRIVATE, PUBLIC, write_new
from mailsvc.certkit.keys import encode_key
from tests.interop.programs import Done, run
from tests.pki import authority
from tests.running import python_environment


@dataclass(frozen=True)
class Shown:
    """Where the certificate is, with its key in a file of its own."""

    certificate: Path
    key: Path


@cache
def _issued(name: str) -> Issued:
    return client_certificate(authority(), name, datetime.now(UTC))


def shown(folder: Path, name: str = "relay.example.net") -> Shown:
    """Write a client certificate of the tests' CA, and its key."""
    issued = _issued(name)
    files = Shown(folder / "client.pem", folder / "client-key.pem")
    write_new(files.certificate, issued.certificate.public_bytes(Encoding.PEM), PUBLIC)
    write_new(files.key, encode_key(issued.key), PRIVATE)
    return files


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    # Removed when the tests end and nobody refers to it any more.
    return tempfile.TemporaryDirectory(prefix="mailsvc-asking-")


@cache
def asking(mode: str = "ask") -> tuple[str, ...]:
    """Options of a service whose MX listener asks for certificates of the tests' CA."""
    folder = Path(_folder().name)
    roots = folder / f"{mode}.pem"
    roots.write_bytes(authority().certificate.public_bytes(Encoding.PEM))
    settings = folder / f"{mode}.toml"
    settings.write_text(f'[client_certificates.smtp]\nmode = "{mode}"\nroots = "{roots}"\n')
    return (f"--config={settings}",)


def probe(home: Path, port: int, ca: str, *options: str) -> Done:
    """`mailsvc probe`: our own client, with the name localhost verified."""
    place = ("--servername", "localhost", "--ca", ca, f"127.0.0.1:{port}")
    return run(
        [sys.executable, "-m", "mailsvc", "probe", "--timeout=120", *options, *place],
        home=home,
        environment=python_environment(),
    )
