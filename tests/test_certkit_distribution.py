"""URLs of revocation lists: which a certificate may carry, and what stands in one that was made elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.build import new_authority, server_wanted, sign
from mailsvc.certkit.distribution import LONGEST_URL, checked_url, points_to, urls_of
from mailsvc.certkit.keys import new_key
from mailsvc.errors import MailsvcError

NOW = datetime.now(UTC)


class UrlTests(SynchronousTestCase):
    """`checked_url`."""

    def test_good_ones(self) -> None:
        """HTTP, HTTPS and LDAP; ports, addresses, queries and escapes; as they were written."""
        for url in (
            "http://ca.example.org/mail.crl",
            "HTTPS://ca.example.org:8443/lists/mail.crl?fresh=1",
            "http://192.0.2.1/crl",
            "http://[2001:db8::1]:80/a%20b",
            "ldap://ldap.example.org/cn=CA,dc=example,dc=org?certificateRevocationList;binary",
        ):
            self.assertEqual(checked_url(url), url)

    def test_bad_ones(self) -> None:
        """Each is refused with its reason."""
        for url, reason in (
            ("", "ASCII"),
            ("ftp://ca.example.org/crl", "must begin with"),
            ("file:///etc/passwd", "must begin with"),
            ("http:///crl", "names no host"),
            ("http://ca.example.org/a b", "without spaces"),
            ("http://ca.example.org/a\nb", "without spaces"),
            ("http://ca.example.org/%zz", "without spaces"),
            ("http://ca.example.org/ä", "ASCII"),
            ("http://ca.example.org/#a", "without #"),
            ("http://me:secret@ca.example.org/", "names a user"),
            ("http://ca.example.org:99999/", "malformed"),
            ("http://[::1/", "malformed"),
            ("http://-a-/", "is not a host name"),
            ("ldap://ldap.example.org", "needs an entry"),
            ("ldap://ldap.example.org/cn=CA", "needs an entry"),
            ("ldap://ldap.example.org/cn=CA?a,b", "needs an entry"),
            ("http://ca.example.org/" + "a" * LONGEST_URL, "longer than"),
        ):
            error = self.assertRaises(MailsvcError, checked_url, url)
            self.assertIn(reason, str(error))

    @settings(deadline=None)
    @given(
        st.text(max_size=60) | st.text(max_size=40).map("http://".__add__) | st.text(max_size=40).map("ldap://".__add__)
    )
    def test_nothing_else_is_raised(self, url: str) -> None:
        """Whatever is given is taken, and then fits into a certificate, or is refused with a sentence."""
        try:
            points_to(checked_url(url))
        except MailsvcError as error:
            self.assertTrue(str(error).isprintable())


class ReadTests(SynchronousTestCase):
    """`urls_of`."""

    def test_what_others_make(self) -> None:
        """Several points, names that are no URL, points that name an issuer only: the URLs are found."""
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "other")])
        url, second = (x509.UniformResourceIdentifier(f"http://{each}.example/crl") for each in "ab")
        points = x509.CRLDistributionPoints(
            [
                x509.DistributionPoint([x509.DirectoryName(name), url], None, None, None),
                x509.DistributionPoint(None, None, None, [x509.DirectoryName(name)]),
                x509.DistributionPoint([second], None, None, None),
            ]
        )
        authority = new_authority("Test CA", NOW)
        wanted = server_wanted(new_key().public_key(), ["a.example"])
        self.assertEqual(list(urls_of(sign(authority, wanted, NOW, points))), [url.value, second.value])
        self.assertEqual(list(urls_of(sign(authority, wanted, NOW))), [])
