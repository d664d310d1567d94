"""Files of every form that CAs send, made by the `openssl` program, taken apart; PKCS#12 both ways."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.build import server_certificate
from mailsvc.certkit.bundle import Parts, assemble, belonging, take_apart
from mailsvc.certkit.files import Source
from mailsvc.certkit.keys import KINDS, encode_key, new_key
from mailsvc.certkit.pkcs12 import read_pkcs12, write_pkcs12
from mailsvc.errors import MailsvcError
from tests.pki import authority, credential, openssl
from tests.test_certkit_inspect import SAN, forged

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CHAIN = (credential().certificate, authority().certificate)
SECRET = b"correct horse"


def none() -> None:
    return None


class BundleTests(SynchronousTestCase):
    """`take_apart`, `assemble`, `belonging`."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        for name, data in (
            ("leaf.pem", CHAIN[0].public_bytes(Encoding.PEM)),
            ("ca.pem", CHAIN[1].public_bytes(Encoding.PEM)),
            ("key.pem", encode_key(credential().key)),
            ("pass", SECRET + b"\n"),
        ):
            (self.folder / name).write_bytes(data)

    def apart(self, *names: str, passphrase: bytes | None = None) -> Parts:
        return take_apart([Source(Path(name), (self.folder / name).read_bytes()) for name in names], lambda: passphrase)

    def test_every_form(self) -> None:
        """PEM, DER and PKCS#7 give certificates, PEM and DER keys; each thing is counted once."""
        folder = self.folder
        openssl("x509", "-in", folder / "leaf.pem", "-outform", "DER", "-out", folder / "leaf.der")
        both = ("-certfile", folder / "ca.pem", "-certfile", folder / "leaf.pem")
        for form in ("PEM", "DER"):
            openssl("crl2pkcs7", "-nocrl", *both, "-outform", form, "-out", folder / f"{form}.p7b")
            self.assertEqual(set(self.apart(f"{form}.p7b").certificates), set(CHAIN))
        key = credential().key
        (folder / "key.der").write_bytes(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
        parts = self.apart("leaf.der", "ca.pem", "leaf.pem", "key.der", "key.pem", "PEM.p7b")
        self.assertEqual((parts.certificates, len(parts.keys), parts.findings), (CHAIN, 1, ()))
        self.assertEqual(parts.keys[0].public_key(), CHAIN[0].public_key())

    def test_openssls_pkcs12(self) -> None:
        """Modern and legacy, with the right, a wrong and no passphrase."""
        folder = self.folder
        made = ("-inkey", folder / "key.pem", "-in", folder / "leaf.pem", "-certfile", folder / "ca.pem")
        for name, more in (("new.p12", ()), ("old.p12", ("-legacy",))):
            openssl("pkcs12", "-export", *made, "-passout", f"file:{folder / 'pass'}", *more, "-out", folder / name)
            parts = self.apart(name, passphrase=SECRET)
            self.assertEqual((set(parts.certificates), len(parts.keys)), (set(CHAIN), 1))
            for passphrase, fact in ((None, "needs its passphrase"), (b"x", "does not open")):
                (finding,) = self.apart(name, passphrase=passphrase).findings
                self.assertIn(fact, str(finding))

    def test_what_is_nothing_of_this(self) -> None:
        """Each file has its own finding, and the others are read all the same."""
        for name, data in (("text", b"hello"), ("junk", b"\x30\x03abc"), ("damaged", b"\x30\x82\x01\x00\x02\x01\x03")):
            (self.folder / name).write_bytes(data)
        parts = self.apart("text", "junk", "damaged", "leaf.pem")
        self.assertEqual([each.subject for each in parts.findings], ["text", "junk", "damaged"])
        self.assertEqual(parts.certificates, CHAIN[:1])

    @given(st.binary(max_size=200))
    @settings(deadline=None)
    def test_any_bytes_are_judged(self, data: bytes) -> None:
        """Whatever a file holds, there is a finding and no exception."""
        for variant in (data, b"\x30" + data, b"-----BEGIN PKCS7-----\n" + data + b"\n-----END PKCS7-----\n"):
            self.assertEqual(len(take_apart([Source(Path("x"), variant)], none).findings), 1)

    def test_the_order_is_by_signatures(self) -> None:
        """Whatever the order of the pool, the chain is leaf, issuer, issuer's issuer; the rest is left over."""
        leaf, ca = CHAIN
        stranger = forged(SAN).certificate
        self.assertEqual(assemble(leaf, [stranger, ca, leaf]), ((leaf, ca), (stranger,)))
        self.assertEqual(assemble(leaf, []), ((leaf,), ()))

    def test_which_belong_together(self) -> None:
        """One pair; none and two are refused."""
        key = credential().key
        self.assertEqual(belonging([key], CHAIN), (key, CHAIN[0]))
        self.assertRaises(MailsvcError, belonging, [new_key()], CHAIN)
        again = server_certificate(authority(), ["b.example"], datetime.now(UTC), key=key, lifetime=timedelta(days=1))
        self.assertRaises(MailsvcError, belonging, [key], [*CHAIN, again.certificate])


class Pkcs12Tests(SynchronousTestCase):
    """`write_pkcs12` for the `openssl` program, and for ourselves."""

    def test_openssl_opens_it(self) -> None:
        """For each kind of key; with AES-256, or 3DES for those who need it."""
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "pass").write_bytes(SECRET + b"\n")
        for kind in KINDS:
            if kind in ("rsa-3072", "rsa-4096"):
                continue  # seconds each, and nothing new
            issued = server_certificate(authority(), ["a.example.org"], datetime.now(UTC), key=new_key(kind))
            for compatible, word in ((False, "AES-256-CBC"), (True, "pbeWithSHA1And3-KeyTripleDES-CBC")):
                chain = (issued.certificate, authority().certificate)
                data = write_pkcs12("alice", issued.key, chain, SECRET, compatible=compatible, rounds=10)
                (folder / "a.p12").write_bytes(data)
                arguments = ("pkcs12", "-in", folder / "a.p12", "-passin", f"file:{folder / 'pass'}", "-noenc", "-info")
                said = openssl(*arguments)
                self.assertEqual((said.count("BEGIN CERTIFICATE"), said.count("BEGIN PRIVATE KEY")), (2, 1))
                self.assertIn(word, said)
                self.assertIn("friendlyName: alice", said)
                key, found = read_pkcs12(data, SECRET)
                self.assertEqual((key and key.public_key(), found), (issued.key.public_key(), chain))

    def test_never_without_a_passphrase(self) -> None:
        """The file holds a private key and travels."""
        self.assertRaises(MailsvcError, write_pkcs12, "a", credential().key, CHAIN, b"")
