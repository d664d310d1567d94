"""Private keys: make one, write it as PEM with or without a passphrase, read one without ever prompting.

Files and their modes are left to `certkit.files`, the verdict on a key's strength to `certkit.inspect`. Two
things here are worth knowing. OpenSSL, and pyOpenSSL with it, asks the terminal when an encrypted key comes
without a passphrase, which hangs a daemon; `load_key` goes through `cryptography`, which raises. And
`cryptography` encrypts PKCS#8 with 2048 rounds of PBKDF2, which a graphics card undoes for any passphrase
that a person can remember; `encode_key` therefore writes the PBES2 structure (RFC 8018 appendix A.4) itself,
with the rounds that OWASP recommends for PBKDF2-HMAC-SHA256.
"""

from __future__ import annotations

import base64
import hashlib
import os

from cryptography.hazmat.primitives import padding, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from mailsvc.errors import MailsvcError

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
"""The kinds of key that can serve TLS 1.2 and 1.3."""

PublicKey = CertificatePublicKeyTypes
"""Whatever a certificate may hold, those that cannot serve included."""

KINDS = ("ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-3072", "rsa-4096", "ed25519")
"""What `new_key` makes; the first is the one to take."""

KDF_ROUNDS = 600_000
"""PBKDF2-HMAC-SHA256 rounds for a key that is written: some 0.2 s for us once, the same again for each
guess."""


class KeyProblem(MailsvcError):
    """This is no private key that can be used."""


class KeyEncrypted(KeyProblem):
    """The key is encrypted and no passphrase was given."""


class KeyPassphraseWrong(KeyProblem):
    """The key is encrypted and the passphrase given does not open it."""


def new_key(kind: str = KINDS[0]) -> PrivateKey:
    """A fresh key of one of KINDS.

    ECDSA P-256 is the kind that every TLS client of the last ten years accepts, and the cheapest to sign with.
    RSA serves older ones; Ed25519 is unknown to many mail programs. Raises ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no kind of key {kind!r}")
    family, _, size = kind.partition("-")
    if family == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=int(size))
    if family == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1() if size == "p256" else ec.SECP384R1())


def kind_of(key: PrivateKey | PublicKey) -> str | None:
    """Which of KINDS a key is; None when it is another."""
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        name = f"rsa-{key.key_size}"
    elif isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        name = {"secp256r1": "ecdsa-p256", "secp384r1": "ecdsa-p384"}.get(key.curve.name, "")
    else:
        name = "ed25519" if isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey) else ""
    return name if name in KINDS else None


def key_words(key: PrivateKey | PublicKey) -> str:
    """The kind of a key in words: "ECDSA secp256r1 (P-256)", "RSA 2048 bits", "Ed25519"."""
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        return f"RSA {key.key_size} bits"
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        nist = {"secp256r1": " (P-256)", "secp384r1": " (P-384)", "secp521r1": " (P-521)"}
        return f"ECDSA {key.curve.name}{nist.get(key.curve.name, '')}"
    return type(key).__name__.removesuffix("PublicKey").removesuffix("PrivateKey").removeprefix("_")


def encode_key(key: PrivateKey, passphrase: bytes | None = None, *, rounds: int = KDF_ROUNDS) -> bytes:
    """The key as PKCS#8 PEM, encrypted (PBES2: PBKDF2-HMAC-SHA256, AES-256-CBC) when a passphrase is
    given."""
    plain = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    if passphrase is None:
        return _pem(b"PRIVATE KEY", plain)
    if not passphrase:
        raise ValueError("an empty passphrase protects nothing")
    salt, iv = os.urandom(16), os.urandom(16)
    encryptor = Cipher(
        algorithms.AES(hashlib.pbkdf2_hmac("sha256", passphrase, salt, rounds, 32)), modes.CBC(iv)
    ).encryptor()
    padder = padding.PKCS7(128).padder()
    sealed = encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()
    derivation = _sequence(_PBKDF2, _sequence(_octets(salt), _integer(rounds), _sequence(_HMAC_SHA256, _NULL)))
    scheme = _sequence(_PBES2, _sequence(derivation, _sequence(_AES_256_CBC, _octets(iv))))
    return _pem(b"ENCRYPTED PRIVATE KEY", _sequence(scheme, _octets(sealed)))


def load_key(pem: bytes, passphrase: bytes | None = None) -> PrivateKey:
    """The key in a PEM block of any of OpenSSL's forms. A passphrase that the key does not need is not an
    error.

    Raises KeyEncrypted, KeyPassphraseWrong, or KeyProblem with what is wrong; never prompts.
    """
    encrypted = is_encrypted(pem)
    if encrypted and not passphrase:
        raise KeyEncrypted("is encrypted and no passphrase was given")
    try:
        key = serialization.load_pem_private_key(pem, passphrase if encrypted else None)
    except Exception as error:  # ValueError, UnsupportedAlgorithm, and what its parser thinks of next
        if encrypted:
            raise KeyPassphraseWrong("is encrypted and the passphrase does not open it") from error
        raise KeyProblem("holds a private key that cannot be understood") from error
    if not isinstance(key, PrivateKey):
        raise KeyProblem(f"holds a key of a kind that cannot serve TLS ({type(key).__name__})")
    return key


def is_encrypted(pem: bytes) -> bool:
    """Whether a private key's PEM block says that it is encrypted (PKCS#8, or the old `openssl genrsa -des3`
    form)."""
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in pem or b"Proc-Type: 4,ENCRYPTED" in pem


def _pem(label: bytes, der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return b"\n".join([b"-----BEGIN %s-----" % label, *lines, b"-----END %s-----" % label, b""])


def _der(tag: int, content: bytes) -> bytes:
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _sequence(*parts: bytes) -> bytes:
    return _der(0x30, b"".join(parts))


def _octets(value: bytes) -> bytes:
    return _der(0x04, value)


def _integer(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


_NULL = b"\x05\x00"
_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_PBKDF2 = bytes.fromhex("06092a864886f70d01050c")
_HMAC_SHA256 = bytes.fromhex("06082a864886f70d0209")
_AES_256_CBC = bytes.fromhex("060960864801650304012a")
