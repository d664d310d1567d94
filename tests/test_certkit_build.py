"""What `certkit.build` makes, seen by us and by the `openssl` program."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.build import (
    NameProblem,
    client_certificate,
    general_name,
    new_authority,
    server_certificate,
)
from mailsvc.certkit.names import names_of
from tests.pki import openssl

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class AuthorityTests(SynchronousTestCase):
    """A private CA."""

    def test_lives_ten_years_and_began_an_hour_ago(self) -> None:
        """A peer whose clock is an hour behind accepts it at once."""
        authority = new_authority("Test CA", NOW).certificate
        self.assertEqual(authority.not_valid_before_utc, NOW - timedelta(hours=1))
        self.assertEqual(authority.not_valid_after_utc, NOW + timedelta(days=3650))

    def test_may_sign_certificates_but_no_further_ca(self) -> None:
        """Basic constraints are critical with path length 0; key usage is keyCertSign and cRLSign only."""
        extensions = new_authority("Test CA", NOW).certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints)
        self.assertTrue(constraints.critical)
        self.assertEqual(constraints.value, x509.BasicConstraints(ca=True, path_length=0))
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        self.assertTrue(usage.key_cert_sign and usage.crl_sign)
        self.assertFalse(usage.digital_signature)

    def test_its_key_is_not_in_its_repr(self) -> None:
        """A traceback or a log line that shows the value shows no key."""
        self.assertNotIn("key=", repr(new_authority("Test CA", NOW)))


class LeafTests(SynchronousTestCase):
    """Server and client certificates."""

    def setUp(self) -> None:
        self.authority = new_authority("Test CA", NOW)

    def test_names_are_exactly_those_given(self) -> None:
        """The subjectAltName has each name once, as DNS or IP, and nothing is added."""
        made = server_certificate(self.authority, ["Mail.Example.ORG", "::1", "127.0.0.1", "mail.example.org."], NOW)
        self.assertEqual(str(names_of(made.certificate)), "mail.example.org, ::1, 127.0.0.1")

    def test_a_server_certificate_serves_and_nothing_else(self) -> None:
        """Extended key usage is serverAuth alone, it is no CA, and it ends after 397 days."""
        made = server_certificate(self.authority, ["a.example.org"], NOW).certificate
        usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        self.assertEqual(list(usage), [ExtendedKeyUsageOID.SERVER_AUTH])
        self.assertFalse(made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
        self.assertEqual(made.not_valid_after_utc, NOW + timedelta(days=397))

    def test_a_client_certificate_cannot_serve(self) -> None:
        """Extended key usage is clientAuth alone and the names are mail addresses."""
        made = client_certificate(self.authority, "Alice", NOW, emails=["alice@example.org"]).certificate
        usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        self.assertEqual(list(usage), [ExtendedKeyUsageOID.CLIENT_AUTH])
        self.assertEqual(names_of(made).emails, ("alice@example.org",))

    def test_it_ends_with_its_ca_at_the_latest(self) -> None:
        """A leaf that outlives its issuer would break at a date that it does not show."""
        late = NOW + timedelta(days=3600)
        made = server_certificate(self.authority, ["a.example.org"], late).certificate
        self.assertEqual(made.not_valid_after_utc, self.authority.certificate.not_valid_after_utc)

    def test_serial_numbers_are_random_and_of_one_length(self) -> None:
        """128 random bits, 17 octets in all, positive."""
        serials = {
            server_certificate(self.authority, ["a.example.org"], NOW).certificate.serial_number for _ in range(20)
        }
        self.assertEqual(len(serials), 20)
        self.assertEqual({serial.bit_length() for serial in serials}, {129})

    def test_other_kinds_of_keys_sign_and_serve(self) -> None:
        """RSA and Ed25519 keys may be given for both ends."""
        rsa_key = rsa.generate_private_key(65537, 2048)
        authority = new_authority("Ed CA", NOW, key=ed25519.Ed25519PrivateKey.generate())
        made = server_certificate(authority, ["a.example.org"], NOW, key=rsa_key)
        made.certificate.verify_directly_issued_by(authority.certificate)
        self.assertEqual(made.certificate.public_key(), rsa_key.public_key())

    def test_a_name_over_64_characters_is_whole_where_it_counts(self) -> None:
        """The common name is cut to what X.520 allows, the subjectAltName is not."""
        name = f"{'a' * 60}.{'b' * 60}.example.org"
        made = server_certificate(self.authority, [name], NOW).certificate
        self.assertEqual(names_of(made).hosts, (name,))

    def test_no_name_is_refused(self) -> None:
        """A certificate for nobody cannot be asked for."""
        self.assertRaises(NameProblem, server_certificate, self.authority, [], NOW)

    def test_openssl_verifies_for_the_right_purpose_and_name_only(self) -> None:
        """`openssl verify` with strict checks accepts the name and the purpose, and no other."""
        folder = Path(self.mktemp())
        folder.mkdir()
        made = server_certificate(self.authority, ["mail.example.org", "*.pop.example.org", "127.0.0.1"], NOW)
        (folder / "ca.pem").write_bytes(self.authority.certificate.public_bytes(Encoding.PEM))
        (folder / "leaf.pem").write_bytes(made.certificate.public_bytes(Encoding.PEM))
        common: list[str | Path] = [
            "verify",
            "-x509_strict",
            "-attime",
            str(int(NOW.timestamp())),
            "-CAfile",
            folder / "ca.pem",
        ]
        leaf = folder / "leaf.pem"
        for check in (
            ["-verify_hostname", "mail.example.org"],
            ["-verify_hostname", "x.pop.example.org"],
            ["-verify_ip", "127.0.0.1"],
            ["-purpose", "sslserver"],
        ):
            self.assertIn("OK", openssl(*common, *check, leaf))
        for check in (["-verify_hostname", "example.org"], ["-purpose", "sslclient"]):
            self.assertRaises(AssertionError, openssl, *common, *check, leaf)

    def test_openssl_shows_every_extension(self) -> None:
        """`openssl x509 -text` lists them in its words."""
        made = server_certificate(self.authority, ["mail.example.org", "::1"], NOW)
        text = openssl("x509", "-noout", "-text", stdin=made.certificate.public_bytes(Encoding.PEM))
        for fact in (
            "Version: 3",
            "ecdsa-with-SHA256",
            "prime256v1",
            "CA:FALSE",
            "Digital Signature",
            "TLS Web Server Authentication",
            "Subject Key Identifier",
            "Authority Key Identifier",
            "DNS:mail.example.org, IP Address:0:0:0:0:0:0:0:1",
            "Not Before: Mar  1 11:00:00 2026 GMT",
        ):
            self.assertIn(fact, text)


class NameTests(SynchronousTestCase):
    """What may be a name in a certificate."""

    def test_names_become_what_certificates_hold(self) -> None:
        """Lower case, A-labels, addresses as addresses."""
        for text, held in (
            ("Mail.Example.ORG.", "mail.example.org"),
            ("localhost", "localhost"),
            ("*.example.org", "*.example.org"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("192.0.2.1", "192.0.2.1"),
        ):
            self.assertEqual(str(general_name(text).value), held)

    def test_what_is_no_name_is_refused(self) -> None:
        """One sentence with the word that was given."""
        bad = ["", ".", "a b", "a..b", "-a.example", "a-.example", "*", "*.org", "a.*.org", "x@y", "a/b", "300.1.1.1"]
        for name in [*bad, "a" * 64, "ü" * 70, "a." * 130 + "org", "a\nb", "a\0"]:
            error = self.assertRaises(NameProblem, general_name, name)
            self.assertIn("is not a host name or an IP address", str(error))

    @given(st.text(max_size=80))
    @settings(deadline=None)
    def test_any_text_is_a_name_or_refused(self, text: str) -> None:
        """No text makes it fail in another way, and what it makes is ASCII."""
        try:
            name = general_name(text)
        except NameProblem:
            return
        self.assertTrue(str(name.value).isascii())
