"""Which credential answers to which name."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.build import server_certificate
from mailsvc.certkit.keys import new_key
from mailsvc.tls.credential import Credential, make_credential
from mailsvc.tls.table import make_table
from tests.pki import authority, credential

NOW = datetime.now(UTC)


def made(folder: str, names: Sequence[str], days: int = 100) -> Credential:
    issued = server_certificate(authority(), names, NOW, lifetime=timedelta(days=days))
    return make_credential(folder, (issued.certificate, authority().certificate), issued.key)


MAIL = made("mail", ["mail.example.org", "smtp.example.org", "192.0.2.1"])
WILD = made("wild", ["*.example.org", "*.example.net"])
OTHER = made("other", ["mail.example.com"])
TABLE = make_table([OTHER, WILD, MAIL], "mail.example.org")


class LookupTests(SynchronousTestCase):
    """`CredentialTable.lookup`."""

    def test_exact_then_wildcard_then_default(self) -> None:
        """SNI in any case, with or without a final dot; what nobody covers gets the default."""
        for name, folder in (
            ("mail.example.org", "mail"),
            ("SMTP.Example.ORG.", "mail"),
            ("pop.example.org", "wild"),
            ("a.example.net", "wild"),
            ("mail.example.com", "other"),
            ("a.b.example.org", "mail"),
            ("example.net", "mail"),
            ("", "mail"),
            (None, "mail"),
        ):
            self.assertEqual(TABLE.lookup(name).name, folder, name)

    def test_the_default_covers_the_hostname(self) -> None:
        """By an exact name, a wildcard, or an address; without one it is the first."""
        for hostname, folder in (
            ("mail.example.com", "other"),
            ("x.example.net", "wild"),
            ("192.0.2.1", "mail"),
            ("nobody.example", "other"),
        ):
            self.assertEqual(make_table([OTHER, WILD, MAIL], hostname).default.name, folder)

    def test_where_two_cover_one_name(self) -> None:
        """The folder of that name wins, then the longer life, whatever the order."""
        short, long = made("x", ["a.example.org"], 10), made("y", ["a.example.org"], 20)
        named = made("a.example.org", ["a.example.org"], 5)
        for order in ([short, long], [long, short]):
            self.assertEqual(make_table(order, "z").lookup("a.example.org").name, "y")
            self.assertEqual(make_table([*order, named], "a.example.org").default.name, "a.example.org")

    def test_an_empty_table_cannot_be_made(self) -> None:
        """Every table has a default."""
        self.assertRaises(ValueError, make_table, [], "a")

    @given(st.one_of(st.none(), st.text()))
    @settings(deadline=None)
    def test_any_name_gets_a_credential(self, name: str | None) -> None:
        """The lookup runs inside OpenSSL's callback and must never raise."""
        self.assertIn(TABLE.lookup(name), TABLE.credentials)


class CredentialTests(SynchronousTestCase):
    """`make_credential`."""

    def test_a_key_that_does_not_fit_is_refused(self) -> None:
        """A credential that exists works."""
        self.assertRaises(ValueError, make_credential, "a", (credential().certificate,), new_key())

    def test_no_key_in_a_repr(self) -> None:
        """Tables get logged."""
        self.assertNotIn("key=", repr(MAIL))
        self.assertNotIn("key=", repr(TABLE))
