"""PKCS#12 files (.p12, .pfx; RFC 7292): what mail programs import, and what some CAs and appliances export.

Such a file carries a private key across machines, so it is written only with a passphrase, encrypted with
AES-256 and PBKDF2 (PBES2), which every OpenSSL since 1.1, GnuTLS, NSS (Thunderbird), Java 8u301 and Windows
since 2019 read. The weak place of the format is elsewhere: its checksum is made with 2048 rounds only, whatever
the encryption has, so a passphrase that a person would choose can be guessed; take a long random one. The
keychains of older Apple systems know only 3DES with SHA-1: `compatible` writes that, and who takes it should
keep the file no longer than the import takes.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import KeySerializationEncryption, PrivateFormat, pkcs12

from mailsvc.certkit.keys import PrivateKey
from mailsvc.errors import MailsvcError

ROUNDS = 20_000
"""PBKDF2 rounds of each part. More would cost both sides time and an attacker none: see above."""


def write_pkcs12(
    name: str,
    key: PrivateKey,
    chain: Sequence[x509.Certificate],
    passphrase: bytes,
    *,
    compatible: bool = False,
    rounds: int = ROUNDS,
) -> bytes:
    """The file: the key, its certificate (the first of `chain`) and the issuers, under this friendly name.

    Raises MailsvcError for an empty passphrase.
    """
    if not passphrase:
        raise MailsvcError("a PKCS#12 file holds a private key: give a passphrase for it")
    encryption: KeySerializationEncryption = (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(rounds)
        .key_cert_algorithm(
            pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC if compatible else pkcs12.PBES.PBESv2SHA256AndAES256CBC
        )
        .hmac_hash(hashes.SHA1() if compatible else hashes.SHA256())
        .build(passphrase)
    )
    return pkcs12.serialize_key_and_certificates(
        name.encode("utf-8"), key, chain[0], list(chain[1:]) or None, encryption
    )


def read_pkcs12(data: bytes, passphrase: bytes | None) -> tuple[PrivateKey | None, tuple[x509.Certificate, ...]]:
    """The key and the certificates, the key's own first. Raises MailsvcError with the end of a sentence ("is
    ...")."""
    try:
        key, own, others = pkcs12.load_key_and_certificates(data, passphrase)
    except Exception as error:  # ValueError for a wrong passphrase and for damage alike, and more
        if passphrase is None:
            raise MailsvcError("is a PKCS#12 file that needs its passphrase (or is damaged)") from error
        raise MailsvcError("is a PKCS#12 file that the passphrase given does not open (or it is damaged)") from error
    if key is not None and not isinstance(key, PrivateKey):
        raise MailsvcError(f"holds a key of a kind that cannot serve TLS ({type(key).__name__})")
    return key, (*((own,) if own else ()), *others)
