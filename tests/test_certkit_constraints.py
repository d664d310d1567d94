"""Name constraints: what a limited CA may speak for, by our rule and by the `openssl` program's."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.authority import sign_checked
from mailsvc.certkit.build import NameProblem, client_wanted, new_authority, server_wanted, sign
from mailsvc.certkit.constraints import in_words, outside, permitting
from mailsvc.certkit.keys import new_key
from mailsvc.errors import MailsvcError
from tests.pki import openssl

NOW = datetime.now(UTC)
DOMAIN = permitting(["example.org"])
BOTH = permitting(["example.org", "10.0.0.0/8"])


class OutsideTests(SynchronousTestCase):
    """`permitting` and `outside`."""

    def test_the_rule(self) -> None:
        """A domain includes what is below it and mail addresses there; kinds that nobody permitted are closed.

        RFC 5280 section 4.2.1.10.
        """
        for name, domain, both in (
            (x509.DNSName("example.org"), False, False),
            (x509.DNSName("a.b.example.org"), False, False),
            (x509.DNSName("*.example.org"), False, False),
            (x509.DNSName("badexample.org"), True, True),
            (x509.DNSName("example.org.evil.net"), True, True),
            (x509.RFC822Name("alice@example.org"), False, False),
            (x509.RFC822Name("alice@mail.example.org"), False, False),
            (x509.RFC822Name("alice@example.com"), True, True),
            (x509.IPAddress(ipaddress.ip_address("10.1.2.3")), True, False),
            (x509.IPAddress(ipaddress.ip_address("192.0.2.1")), True, True),
            (x509.IPAddress(ipaddress.ip_address("::1")), True, True),
        ):
            self.assertEqual((outside(DOMAIN, name), outside(BOTH, name)), (domain, both), name)

    def test_what_is_no_limit(self) -> None:
        """Neither domain nor network, a wildcard, networks alone: a sentence."""
        for names in (["a b"], ["*.example.org"], ["10.0.0.0/8"], ["10.0.0.1/8", "example.org"]):
            self.assertRaises(MailsvcError, permitting, names)

    def test_words(self) -> None:
        """Each domain once."""
        self.assertEqual(in_words(DOMAIN), "example.org; not any IP address")
        self.assertEqual(in_words(BOTH), "example.org, 10.0.0.0/8")

    @given(st.lists(st.sampled_from(["a", "b", "example", "org"]), min_size=1, max_size=4))
    @settings(deadline=None)
    def test_below_a_domain_is_by_whole_labels(self, labels: list[str]) -> None:
        """A name is inside exactly when its last labels are the domain's."""
        self.assertEqual(outside(DOMAIN, x509.DNSName(".".join(labels))), labels[-2:] != ["example", "org"])


class OpensslTests(SynchronousTestCase):
    """The same verdicts from the `openssl` program, and nothing signed that it would refuse."""

    def test_openssl_agrees(self) -> None:
        """What `sign_checked` refuses, `openssl verify` refuses when it is signed all the same."""
        folder = Path(self.mktemp())
        folder.mkdir()
        for number, limits in enumerate((DOMAIN, BOTH)):
            ca = new_authority("Limited CA", NOW, constraints=limits)
            (folder / "ca.pem").write_bytes(ca.certificate.public_bytes(Encoding.PEM))
            for wanted in (
                server_wanted(new_key().public_key(), ["mail.example.org"]),
                server_wanted(new_key().public_key(), ["mail.example.com"]),
                server_wanted(new_key().public_key(), ["mail.example.org", "10.0.0.1"]),
                client_wanted(new_key().public_key(), "alice", ["alice@example.org"]),
                client_wanted(new_key().public_key(), "alice", ["alice@example.com"]),
                client_wanted(new_key().public_key(), "host.example.com"),
                client_wanted(new_key().public_key(), "host.example.org"),
            ):
                leaf = folder / "leaf.pem"
                leaf.write_bytes(sign(ca, wanted, NOW).public_bytes(Encoding.PEM))
                try:
                    sign_checked(ca, wanted, NOW)
                except NameProblem as problem:
                    self.assertIn("may not speak for", str(problem))
                    self.assertRaises(AssertionError, openssl, "verify", "-CAfile", folder / "ca.pem", leaf)
                else:
                    self.assertIn("OK", openssl("verify", "-x509_strict", "-CAfile", folder / "ca.pem", leaf), number)

    def test_the_extension_is_critical(self) -> None:
        """As RFC 5280 demands: who does not understand it must refuse."""
        found = new_authority("x", NOW, constraints=DOMAIN).certificate.extensions
        self.assertTrue(found.get_extension_for_class(x509.NameConstraints).critical)
