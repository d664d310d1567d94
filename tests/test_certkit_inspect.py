"""Bad certificates and keys, each with the sentence that it gets; nothing here touches a file system."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.build import Issued, client_certificate, new_authority, server_certificate
from mailsvc.certkit.files import Reader, Source
from mailsvc.certkit.inspect import (
    Chain,
    check_chain,
    check_fit,
    check_private,
    is_self_signed,
    printable,
    read_chain,
    read_key,
)
from mailsvc.certkit.keys import PrivateKey, encode_key, new_key
from mailsvc.errors import MailsvcError
from tests.pki import openssl

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CHAIN = Path("certs/a/fullchain.pem")
KEY = Path("certs/a/privkey.pem")
US = Reader(1000, frozenset({1000, 110}))
ROOT = Reader(0, frozenset({0}))


@cache
def authority() -> Issued:
    return new_authority("Test CA", NOW)


@cache
def good() -> Issued:
    return server_certificate(authority(), ["a.example.org"], NOW)


def forged(
    *extensions: x509.ExtensionType,
    issuer: Issued | None = None,
    key: PrivateKey | None = None,
    subject: str = "forged",
) -> Issued:
    """A certificate with exactly these extensions; self-signed without an issuer."""
    own = key or new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(own.public_key())
        .serial_number(7)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=100))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return Issued(builder.sign(issuer.key if issuer else own, hashes.SHA256()), own)


SAN = x509.SubjectAlternativeName([x509.DNSName("a.example.org")])
AIA = x509.AuthorityInformationAccess(
    [
        x509.AccessDescription(
            AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier("http://ca.example/ca.der")
        )
    ]
)


def chain(*issued: Issued) -> Chain:
    return tuple(each.certificate for each in issued)


def pem(*issued: Issued) -> bytes:
    return b"".join(each.certificate.public_bytes(Encoding.PEM) for each in issued)


def said(certificates: Chain, now: datetime = NOW) -> list[str]:
    return [f"{each.severity} {each}" for each in check_chain(certificates, CHAIN, now)]


class ChainTests(SynchronousTestCase):
    """`check_chain`."""

    def expect(self, certificates: Chain, *facts: str, now: datetime = NOW) -> None:
        """Exactly these findings, each containing the fact and the file."""
        findings = said(certificates, now)
        self.assertEqual(len(findings), len(facts), findings)
        for finding, fact in zip(findings, facts, strict=True):
            self.assertIn(fact, finding)
            self.assertIn(f"{CHAIN}: ", finding)

    def test_what_certs_init_makes_has_no_finding(self) -> None:
        """With the CA's certificate behind it and without."""
        self.expect(chain(good(), authority()))
        self.expect(chain(good()))

    def test_dates(self) -> None:
        """Expired and not yet valid are errors, the last three weeks are a warning with the days left."""
        end = NOW + timedelta(days=397)
        self.expect(chain(good()), now=end - timedelta(days=22))
        self.expect(chain(good()), "warning", now=end - timedelta(days=20, hours=1))
        self.expect(
            chain(good()), "expires in 20 days, on 2027-04-02 12:00 UTC; renew it", now=end - timedelta(days=20)
        )
        self.expect(chain(good()), "expires in 1 day, on", now=end - timedelta(days=1))
        self.expect(chain(good()), "expires in less than a day", now=end - timedelta(minutes=1))
        self.expect(chain(good()), "error certs/a/fullchain.pem: expired on", now=end + timedelta(seconds=1))
        self.expect(chain(good()), "error certs/a/fullchain.pem: is not valid before", now=NOW - timedelta(days=1))

    def test_an_issuers_dates_count_a_roots_do_not(self) -> None:
        """An expired intermediate stops clients; an expired root at the end is a warning, they use their own
        copy."""
        later = NOW + timedelta(days=200)
        root = forged(x509.BasicConstraints(True, None), subject="Old root")
        leaf = server_certificate(
            Issued(root.certificate, root.key), ["a.example.org"], NOW, lifetime=timedelta(days=300)
        )
        self.assertEqual(leaf.certificate.not_valid_after_utc, root.certificate.not_valid_after_utc)
        middle = forged(x509.BasicConstraints(True, None), issuer=root, subject="Middle")
        below = forged(SAN, issuer=middle)
        self.expect(chain(below, middle, root), "error", "error", "warning", now=later)
        self.assertIn("certificate 2 (CN=Middle) expired", said(chain(below, middle, root), later)[1])

    def test_the_cure_for_our_own_ca_is_a_command(self) -> None:
        """Nobody has to look up how a private certificate is renewed."""
        ours = new_authority("mailsvc private CA 1234 of a.example.org", NOW)
        leaf = server_certificate(ours, ["a.example.org", "127.0.0.1"], NOW)
        self.expect(
            chain(leaf),
            "renew it: mailsvc certs issue certs/ --renew a",
            now=NOW + timedelta(days=398),
        )

    def test_order(self) -> None:
        """Each certificate must be issued by the next: swapped, foreign and repeated ones are named."""
        other = new_authority("Test CA", NOW)
        self.expect(chain(good(), other), "number 2 (CN=Test CA) did not issue number 1 (CN=a.example.org)")
        self.expect(chain(good(), good()), "number 2 (CN=a.example.org) did not issue number 1")
        self.expect(
            chain(good(), authority(), good()), "number 3 (CN=a.example.org) did not issue number 2 (CN=Test CA)"
        )

    def test_an_issuer_must_be_a_ca(self) -> None:
        """A certificate that was issued by a server's certificate is worth nothing."""
        self.expect(chain(forged(SAN, issuer=good()), good()), "certificate 2 (CN=a.example.org) is not a CA's")

    def test_a_leaf_whose_issuer_is_missing_is_a_warning(self) -> None:
        """Only when the certificate says where its issuer can be fetched: a private root's need not be
        sent."""
        self.expect(
            chain(forged(SAN, AIA, issuer=authority())), "warning certs/a/fullchain.pem: lacks the certificate of its"
        )
        self.expect(chain(forged(SAN, AIA, issuer=authority()), authority()))

    def test_names(self) -> None:
        """A common name is no name, and a mail address is none that a server has."""
        mail = x509.SubjectAlternativeName([x509.RFC822Name("a@example.org")])
        for extensions in ((), (mail,)):
            self.expect(chain(forged(*extensions, issuer=authority())), "error certs/a/fullchain.pem: names no host")

    def test_purpose(self) -> None:
        """A client's certificate does not serve; without extended key usage, or with any, a certificate
        does."""
        client = client_certificate(authority(), "a.example.org", NOW, emails=["a@example.org"])
        self.expect(chain(client), "names no host", "lacks serverAuth")
        for usages in ([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE], [ExtendedKeyUsageOID.SERVER_AUTH]):
            self.expect(chain(forged(SAN, x509.ExtendedKeyUsage(usages), issuer=authority())))
        usage = x509.KeyUsage(False, False, True, False, False, False, False, False, False)
        self.expect(chain(forged(SAN, usage, issuer=authority())), "lacks digitalSignature")

    def test_weak_keys(self) -> None:
        """RSA under 2048 bits, and curves that clients do not take."""
        short = rsa.generate_private_key(65537, 1024)
        self.expect(chain(forged(SAN, issuer=authority(), key=short)), "weak key (RSA with 1024 bits)")
        odd = ec.generate_private_key(ec.SECP256K1())
        self.expect(chain(forged(SAN, issuer=authority(), key=odd)), "curve secp256k1")
        self.expect(chain(forged(SAN, issuer=authority(), key=rsa.generate_private_key(65537, 2048))))

    def test_a_weak_signature(self) -> None:
        """SHA-1 under a certificate is refused by every client; what a root says about itself does not
        matter."""
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "ca.pem").write_bytes(pem(authority()))
        (folder / "ca.key").write_bytes(encode_key(authority().key))
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "old")])
        wish = x509.CertificateSigningRequestBuilder().subject_name(name).sign(new_key(), hashes.SHA256())
        (folder / "old.csr").write_bytes(wish.public_bytes(Encoding.PEM))
        common: list[str | Path] = ["-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-days", "36500"]
        openssl("x509", "-req", "-in", folder / "old.csr", "-sha1", *common, "-out", folder / "sha1.pem")
        certificates, findings = read_chain(Source(CHAIN, (folder / "sha1.pem").read_bytes()))
        self.assertEqual(findings, [])
        now = certificates[0].not_valid_before_utc
        self.assertIn("signed with SHA1", " ".join(said(certificates, now)))

    def test_self_signed_is_a_warning(self) -> None:
        """It works for those who were given it."""
        self.expect(chain(forged(SAN)), "warning certs/a/fullchain.pem: is self-signed")
        self.assertFalse(is_self_signed(good().certificate))

    def test_no_control_character_reaches_the_terminal(self) -> None:
        """A certificate may hold any text; a name in it must not move the cursor."""
        self.assertEqual(printable("a\x1b[2Jb\nc"), "a?[2Jb?c")
        evil = forged(SAN, subject="a\x1b[2J", issuer=authority())
        self.assertNotIn("\x1b", " ".join(said(chain(evil, evil))))

    @given(st.lists(st.sampled_from([0, 1, 2, 3]), max_size=5))
    @settings(deadline=None, max_examples=30)
    def test_any_sequence_is_judged(self, picks: Sequence[int]) -> None:
        """No arrangement of certificates makes the check itself fail."""
        pool = (good(), authority(), forged(SAN), forged(issuer=good()))
        check_chain(chain(*(pool[pick] for pick in picks)), CHAIN, NOW)


class FileTests(SynchronousTestCase):
    """`read_chain`, `read_key`, `check_fit`: what a file is instead of what it should be."""

    def chain_of(self, data: bytes) -> str:
        certificates, findings = read_chain(Source(CHAIN, data))
        self.assertEqual((certificates, len(findings)), ((), 1))
        return str(findings[0])

    def key_of(self, data: bytes, passphrase: Callable[[], bytes | None] = lambda: None) -> str:
        key, findings = read_key(Source(KEY, data), passphrase)
        self.assertEqual((key, len(findings)), (None, 1))
        return str(findings[0])

    def test_files_that_hold_something_else(self) -> None:
        """Each names what is there."""
        der = good().certificate.public_bytes(Encoding.DER)
        for data, fact in (
            (b"", "it is empty"),
            (b" \n", "it is empty"),
            (der, "binary form (DER or PKCS#12)"),
            (b"hello", "is not a PEM file"),
            (pem(good())[:200], "is cut off"),
            (encode_key(good().key), "it holds private key"),
            (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate 1 in it is damaged"),
            (pem(good()) + pem(good()).replace(b"M", b"N"), "certificate 2 in it is damaged"),
        ):
            self.assertIn(fact, self.chain_of(data))
        self.assertIn("it holds certificate", self.key_of(pem(good())))
        self.assertIn("holds 2 private keys", self.key_of(encode_key(new_key()) * 2))
        self.assertIn(
            "cannot be understood", self.key_of(b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----")
        )

    def test_text_around_the_blocks_is_allowed(self) -> None:
        """`openssl x509 -text` output, Windows line ends, a byte order mark, EC parameters before the key."""
        data = b"\xef\xbb\xbfCertificate:\n    Data:\n" + pem(good(), authority()) + b"\ntrailing"
        for variant in (data, data.replace(b"\n", b"\r\n")):
            self.assertEqual(read_chain(Source(CHAIN, variant)), (chain(good(), authority()), []))
        parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
        key, findings = read_key(Source(KEY, parameters + encode_key(good().key)), lambda: None)
        self.assertIsNotNone(key)
        self.assertEqual(findings, [])

    def test_encrypted_keys(self) -> None:
        """No source, a wrong passphrase and a source that fails are three sentences, each with the cure; the
        right one opens."""
        sealed = encode_key(good().key, b"secret", rounds=10)

        def failing() -> bytes | None:
            raise MailsvcError("/run/pass: does not exist")

        self.assertIn("MAILSVC_KEY_PASSPHRASE_FILE", self.key_of(sealed))
        self.assertIn("the passphrase given does not open it", self.key_of(sealed, lambda: b"wrong"))
        self.assertIn("could not be had: /run/pass: does not exist", self.key_of(sealed, failing))
        key, findings = read_key(Source(KEY, sealed), lambda: b"secret")
        self.assertEqual((key and key.public_key(), findings), (good().key.public_key(), []))

    def test_the_passphrase_is_asked_for_only_when_needed(self) -> None:
        """A plain key needs no source, also when there is a broken one."""

        def never() -> bytes | None:
            raise AssertionError("asked")

        self.assertEqual(read_key(Source(KEY, encode_key(good().key)), never)[1], [])

    def test_fit(self) -> None:
        """Another key, and the key of a certificate further down, are told apart."""
        self.assertEqual(check_fit(chain(good(), authority()), good().key, CHAIN, KEY), [])
        (other,) = check_fit(chain(good()), new_key(), CHAIN, KEY)
        self.assertEqual(other.subject, str(KEY))
        self.assertIn("does not fit the certificate in certs/a/fullchain.pem", other.text)
        (order,) = check_fit(chain(authority(), good()), good().key, CHAIN, KEY)
        self.assertIn(
            "certs/a/fullchain.pem: is in the wrong order: the server's own certificate is number 2", str(order)
        )

    @given(st.binary(max_size=400))
    @settings(deadline=None)
    def test_any_bytes_are_judged(self, data: bytes) -> None:
        """Whatever a file holds, there is a finding and no exception."""
        block = b"-----BEGIN CERTIFICATE-----\n" + data + b"\n-----END CERTIFICATE-----\n"
        for variant in (data, block, block.replace(b"CERTIFICATE", b"PRIVATE KEY")):
            self.assertEqual(len(read_chain(Source(CHAIN, variant))[1]), 1)
            self.assertEqual(len(read_key(Source(KEY, variant), lambda: None)[1]), 1)


class PrivateTests(SynchronousTestCase):
    """`check_private`: who may read a key."""

    def test_the_rule(self) -> None:
        """Mode, owner, group, and who reads: allowed or not."""
        for mode, uid, gid, reader, allowed in (
            (0o600, 1000, 1000, US, True),
            (0o400, 1000, 1000, US, True),
            (0o644, 1000, 1000, US, False),
            (0o604, 1000, 1000, US, False),
            (0o602, 1000, 1000, US, False),
            (0o640, 1000, 1000, US, False),  # our own file: the group is not how we read it
            (0o640, 0, 110, US, True),  # Debian's ssl-cert
            (0o440, 0, 110, US, True),
            (0o660, 0, 110, US, False),
            (0o640, 1001, 110, US, True),  # an ACME client of its own user
            (0o640, 0, 100, US, False),  # a group that is not ours
            (0o440, 0, 0, US, True),  # a systemd credential: the group bits are an access list's mask
            (0o640, 0, 110, ROOT, True),
            (0o640, 1001, 110, ROOT, False),
            (0o644, 0, 0, ROOT, False),
        ):
            findings = check_private(Source(KEY, b"", None, mode, uid, gid), reader)
            self.assertEqual(not findings, allowed, (oct(mode), uid, gid))
            for finding in findings:
                self.assertEqual(finding.severity, "error")
                self.assertIn(f"(mode {mode:04o}); run: chmod 600 certs/a/privkey.pem", finding.text)

    def test_a_path_with_spaces_can_be_pasted(self) -> None:
        """The cure is a command that works."""
        (finding,) = check_private(Source(Path("my certs/key"), b"", None, 0o644), US)
        self.assertIn("chmod 600 'my certs/key'", finding.text)

    def test_a_file_that_could_not_be_read_is_not_judged_twice(self) -> None:
        """Its finding comes from reading it."""
        self.assertEqual(check_private(Source(KEY, None, "does not exist", 0o777), US), [])
