"""Private keys in and out, with the `openssl` program as the other party."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.keys import (
    KeyEncrypted,
    KeyPassphraseWrong,
    KeyProblem,
    PrivateKey,
    encode_key,
    is_encrypted,
    load_key,
    new_key,
)
from tests.pki import openssl

FAST = 10
"""PBKDF2 rounds where the test is not about them."""


class KeyTests(SynchronousTestCase):
    """`encode_key` and `load_key`."""

    def test_every_kind_comes_back(self) -> None:
        """Plain and encrypted, for each kind of key."""
        kinds: tuple[PrivateKey, ...] = (
            new_key(),
            ec.generate_private_key(ec.SECP384R1()),
            rsa.generate_private_key(65537, 2048),
            ed25519.Ed25519PrivateKey.generate(),
            ed448.Ed448PrivateKey.generate(),
        )
        for key in kinds:
            self.assertEqual(load_key(encode_key(key)).public_key(), key.public_key())
            sealed = encode_key(key, b"secret", rounds=FAST)
            self.assertEqual(load_key(sealed, b"secret").public_key(), key.public_key())

    def test_openssl_opens_what_was_encrypted(self) -> None:
        """The PBES2 structure is the standard's: `openssl pkey` takes it, with the passphrase only."""
        sealed = encode_key(new_key(), "pässwort with spaces".encode())
        self.assertIn("P-256", openssl("pkey", "-passin", "pass:pässwort with spaces", "-noout", "-text", stdin=sealed))
        self.assertRaises(AssertionError, openssl, "pkey", "-passin", "pass:other", "-noout", stdin=sealed)

    def test_the_rounds_of_the_derivation_are_written(self) -> None:
        """600,000 rounds of PBKDF2 with HMAC-SHA256, then AES-256-CBC."""
        text = openssl("asn1parse", stdin=encode_key(new_key(), b"secret"))
        for fact in ("PBES2", "PBKDF2", ":0927C0", "hmacWithSHA256", "aes-256-cbc"):
            self.assertIn(fact, text)

    def test_openssl_keys_of_every_form_are_read(self) -> None:
        """The forms that `openssl` writes, old and new, plain and encrypted."""
        key = new_key()
        pem = encode_key(key)
        forms = {
            "traditional": ["ec"],
            "traditional, encrypted": ["ec", "-des3", "-passout", "pass:secret"],
            "PKCS#8, encrypted": ["pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", "pass:secret"],
        }
        for name, arguments in forms.items():
            said = openssl(*arguments, stdin=pem).encode()
            block = said[said.index(b"-----BEGIN") : said.rindex(b"-----") + 5]
            self.assertEqual(is_encrypted(block), "encrypted" in name)
            self.assertEqual(load_key(block, b"secret").public_key(), key.public_key(), name)

    def test_an_encrypted_key_without_a_passphrase_is_an_error_not_a_prompt(self) -> None:
        """Nothing reads the terminal: an exception of its own type comes at once."""
        sealed = encode_key(new_key(), b"secret", rounds=FAST)
        self.assertRaises(KeyEncrypted, load_key, sealed)
        self.assertRaises(KeyEncrypted, load_key, sealed, b"")

    def test_a_wrong_passphrase_is_an_error_of_its_own(self) -> None:
        """And it does not contain what was tried."""
        sealed = encode_key(new_key(), b"secret", rounds=FAST)
        error = self.assertRaises(KeyPassphraseWrong, load_key, sealed, b"wrong-one")
        self.assertNotIn("wrong-one", str(error))

    def test_an_empty_passphrase_is_not_taken_for_encryption(self) -> None:
        """It would look protected and not be."""
        self.assertRaises(ValueError, encode_key, new_key(), b"")

    def test_what_cannot_serve_tls_is_refused(self) -> None:
        """A DSA key, and bytes that are no key."""
        odd = dsa.generate_private_key(1024).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.assertIn("cannot serve TLS", str(self.assertRaises(KeyProblem, load_key, odd)))
        broken = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
        self.assertIn("cannot be understood", str(self.assertRaises(KeyProblem, load_key, broken)))
