"""Private keys and passwords for relays that lie in a database: sealed with a key that does not.

The sealing key is 32 random octets, written as 64 hexadecimal digits in a file of its own (`[certificates] key_file`)
or given by systemd as the credential `certificate-key`.  A copy of the database, its backups and whoever can only read
its rows get nothing; whoever has both has the private keys, and that is the whole of the promise.

The hardest idea is what else is sealed: the row's name and what it is the name of (`Purpose`) go into the seal as
associated data (AES-256-GCM, NIST SP 800-38D), so a sealed key that is moved into another row does not open there.
Nonces are random: 96 bits are enough for far more seals than a mail service makes in its life (2^32 with one key).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mailsvc.certkit.files import PRIVATE, current_reader, read, write_new
from mailsvc.certkit.inspect import check_private
from mailsvc.certkit.passphrase import CREDENTIALS
from mailsvc.errors import MailsvcError

CREDENTIAL = "certificate-key"
"""The name of the credential in a systemd unit (LoadCredential=)."""

_FORM = b"\x01"
_NONCE = 12
_DIGITS = re.compile(rb"[0-9A-Fa-f]{64}")


@dataclass(frozen=True, slots=True)
class SealingKey:
    """What private keys are sealed with: 32 octets.  ``name`` tells keys apart and gives nothing away."""

    octets: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """Sixteen hexadecimal digits that belong to this key."""
        return hashlib.sha256(b"mailsvc sealing key\0" + self.octets).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Purpose:
    """What rows of one kind seal: what binds a seal to the kind, and the words for people."""

    binding: bytes
    what: str
    cure: str


CERTIFICATE = Purpose(b"mailsvc certificate\0", "its private key", "import the certificate again")
RELAY_LOGIN = Purpose(b"mailsvc relay login\0", "the secret of the credentials", "add the credentials again")


def seal(key: SealingKey, name: str, private: bytes, purpose: Purpose = CERTIFICATE) -> bytes:
    """``private`` (the PEM text of a private key, say), sealed for the row called ``name``."""
    nonce = os.urandom(_NONCE)
    return _FORM + nonce + AESGCM(key.octets).encrypt(nonce, private, _bound_to(name, purpose))


def unseal(key: SealingKey, name: str, sealed: bytes, purpose: Purpose = CERTIFICATE) -> bytes:
    """What `seal` was given.  Raises MailsvcError when it was another key, another name, or the seal is broken."""
    nonce, rest = sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :]
    if sealed[:1] != _FORM or len(rest) < 16:
        raise MailsvcError(f"{purpose.what} was not sealed by this mailsvc; {purpose.cure}")
    try:
        return AESGCM(key.octets).decrypt(nonce, rest, _bound_to(name, purpose))
    except InvalidTag:
        raise MailsvcError(f"{purpose.what} is damaged or from another row; {purpose.cure}") from None


def sealing_key(key_file: Path | str, environ: Mapping[str, str]) -> SealingKey | None:
    """The key in ``key_file`` ("" when none is named), or else in systemd's credential; None when neither is given.

    Raises MailsvcError when it is given and cannot be used: missing, readable for others, or no 64 digits.
    """
    guarded = not key_file
    path = Path(key_file)
    if guarded:
        folder = environ.get(CREDENTIALS)
        if not folder or not os.path.exists(Path(folder) / CREDENTIAL):
            return None
        # The mode shows an access list's mask there.
        path = Path(folder) / CREDENTIAL
    source = read(path)
    if source.data is None:
        raise MailsvcError(f"{path}: the key for private keys in the database {source.problem}")
    for finding in () if guarded else check_private(source, current_reader()):
        raise MailsvcError(str(finding))
    digits = source.data.strip()
    if not _DIGITS.fullmatch(digits):
        raise MailsvcError(
            f"{path}: holds no key for private keys in the database; it must be 64 hexadecimal digits and nothing"
            f" else (openssl rand -hex 32)"
        )
    return SealingKey(bytes.fromhex(digits.decode("ascii")))


def make_key_file(path: Path) -> SealingKey:
    """Write a new key file, mode 0600, and return its key.  Raises AlreadyExists or MailsvcError."""
    key = SealingKey(os.urandom(32))
    write_new(path, key.octets.hex().encode() + b"\n", PRIVATE)
    return key


def _bound_to(name: str, purpose: Purpose) -> bytes:
    return purpose.binding + name.encode("utf-8", "surrogatepass")
