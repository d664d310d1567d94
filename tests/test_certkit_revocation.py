"""Revocation lists, read by the `openssl` program, and requests (CSR) both ways."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.build import Issued, NameProblem, new_authority, server_certificate, sign
from mailsvc.certkit.files import Source
from mailsvc.certkit.keys import new_key
from mailsvc.certkit.names import names_of
from mailsvc.certkit.requests import make_request, read_request, request_pem, wanted_from
from mailsvc.certkit.revocation import is_of, list_pem, list_problems, new_list, read_lists, revocation_of
from mailsvc.errors import MailsvcError
from tests.pki import openssl

NOW = datetime.now(UTC)
PLACE = Path("a.pem")


@cache
def authority() -> Issued:
    return new_authority("Test CA", NOW)


class ListTests(SynchronousTestCase):
    """`new_list` and what is read from it."""

    def test_openssl_reads_it_and_refuses_what_is_revoked(self) -> None:
        """`openssl crl` verifies the signature; `openssl verify -crl_check` believes the list."""
        folder = Path(self.mktemp())
        folder.mkdir()
        good, bad = (server_certificate(authority(), ["a.example.org"], NOW).certificate for _ in range(2))
        made = new_list(authority(), None, [bad.serial_number], "key-compromise", NOW)
        (folder / "ca.pem").write_bytes(authority().certificate.public_bytes(Encoding.PEM))
        (folder / "crl.pem").write_bytes(list_pem(made))
        text = openssl("crl", "-in", folder / "crl.pem", "-CAfile", folder / "ca.pem", "-noout", "-text")
        for fact in ("verify OK", f"{bad.serial_number:X}", "Key Compromise", "CRL Number", "Version 2"):
            self.assertIn(fact, text)
        check = ("verify", "-crl_check", "-CAfile", folder / "ca.pem", "-CRLfile", folder / "crl.pem")
        for certificate, name in ((good, "good"), (bad, "bad")):
            (folder / name).write_bytes(certificate.public_bytes(Encoding.PEM))
        self.assertIn("OK", openssl(*check, folder / "good"))
        self.assertIn("revoked", str(self.assertRaises(AssertionError, openssl, *check, folder / "bad")))

    def test_the_next_list_keeps_what_stood_in_the_one_before(self) -> None:
        """Its number is one higher; a serial number given again keeps its date and reason.

        RFC 5280 section 5.2.3.
        """
        first = new_list(authority(), None, [5], "superseded", NOW)
        second = new_list(authority(), first, [5, 6, 6], "unspecified", NOW + timedelta(days=1))
        self.assertEqual(sorted(each.serial_number for each in second), [5, 6])
        self.assertEqual(revocation_of(second, 5), (NOW.replace(microsecond=0), "superseded"))
        self.assertEqual((revocation_of(second, 6) or (0, ""))[1], "unspecified")
        self.assertIsNone(revocation_of(second, 7))
        number = second.extensions.get_extension_for_class(x509.CRLNumber).value
        self.assertEqual(number, x509.CRLNumber(2))

    def test_its_life(self) -> None:
        """Another CA's, not valid yet, nearly over, over: each its sentence; a list over its time is an error."""
        made, ca = new_list(authority(), None, [], "unspecified", NOW, timedelta(days=100)), authority().certificate
        other = new_authority("Test CA", NOW).certificate
        self.assertEqual(list_problems(made, ca, NOW), [])
        for issuer, now, severity, fact in (
            (other, NOW, "error", "is not signed by the CA that it names"),
            (ca, NOW - timedelta(days=1), "error", "is not valid before"),
            (ca, NOW + timedelta(days=90), "warning", "only"),
            (ca, NOW + timedelta(days=101), "error", "out of date"),
        ):
            ((got, text),) = list_problems(made, issuer, now)
            self.assertEqual(got, severity)
            self.assertIn(fact, text)
        self.assertFalse(is_of(made, other))

    def test_files(self) -> None:
        """PEM, DER, and a sentence for anything else."""
        made = new_list(authority(), None, [1], "unspecified", NOW)
        for data in (list_pem(made), made.public_bytes(Encoding.DER)):
            self.assertEqual(read_lists(Source(PLACE, data)), (made,))
        for data in (b"", b"hello", b"\x30\x00", list_pem(made).replace(b"M", b"N")):
            self.assertIn("a.pem: ", str(self.assertRaises(MailsvcError, read_lists, Source(PLACE, data))))
        self.assertRaises(MailsvcError, read_lists, Source(PLACE, None, "does not exist"))


class RequestTests(SynchronousTestCase):
    """`make_request`, `read_request`, `wanted_from`."""

    def test_openssl_verifies_it(self) -> None:
        """The signature, the names, and a certificate that openssl makes of it."""
        for key in (new_key(), new_key("ecdsa-p384"), new_key("rsa-2048")):
            pem = request_pem(make_request(key, ["Mail.Example.org", "127.0.0.1"]))
            text = openssl("req", "-verify", "-noout", "-text", stdin=pem)
            self.assertIn("verify OK", text)
            self.assertIn("DNS:mail.example.org, IP Address:127.0.0.1", text)

    def test_what_cannot_be_asked_for(self) -> None:
        """No names, no such name, a key that public CAs do not sign."""
        self.assertRaises(NameProblem, make_request, new_key(), [])
        self.assertRaises(NameProblem, make_request, new_key(), ["a b"])
        self.assertIn("Ed25519", str(self.assertRaises(NameProblem, make_request, new_key("ed25519"), ["a.example"])))

    def test_openssls_requests_are_read(self) -> None:
        """Made by `openssl req`, in PEM and in DER; signed, only names and key of it count."""
        folder = Path(self.mktemp())
        folder.mkdir()
        made = ("req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "key", "-subj", "/CN=a.example.org")
        wish = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "subjectAltName=DNS:a.example.org")
        for form in ("PEM", "DER"):
            openssl(*made, *wish, "-outform", form, "-out", folder / "csr")
            request = read_request(Source(PLACE, (folder / "csr").read_bytes()))
            certificate = sign(authority(), wanted_from(request), NOW)
            self.assertEqual(names_of(certificate).hosts, ("a.example.org",))
            basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
            self.assertFalse(basic.ca)

    def test_what_we_do_not_sign(self) -> None:
        """A weak key, no name, a wrong signature, damage, two requests: each a sentence."""
        empty = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        nameless = empty.sign(new_key(), hashes.SHA256())
        self.assertIn("asks for no host", str(self.assertRaises(NameProblem, wanted_from, nameless)))
        self.assertEqual(wanted_from(nameless, hostnames=["b.example"]).common_name, "b.example")
        small = rsa.generate_private_key(65537, 1024)
        request = make_request(small, ["a.example.org"])
        self.assertIn("weak key", str(self.assertRaises(MailsvcError, wanted_from, request)))
        der = bytearray(make_request(new_key(), ["a.example.org"]).public_bytes(Encoding.DER))
        der[-1] ^= 1
        good = request_pem(request)
        for data, fact in (
            (bytes(der), "signature is wrong"),
            (b"\x30\x00", "damaged"),
            (good * 2, "holds 2 requests"),
            (b"hello", "has no certificate request"),
        ):
            self.assertIn(fact, str(self.assertRaises(MailsvcError, read_request, Source(PLACE, data))))
