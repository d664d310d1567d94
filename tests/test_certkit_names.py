"""Which certificate covers which name (RFC 9525)."""

from __future__ import annotations

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.names import Names, normal, wildcard_for

NAMES = Names(
    ("mail.example.org", "*.pop.example.org", "xn--bcher-kva.example"),
    (ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::1")),
    ("postmaster@example.org",),
)


class CoverTests(SynchronousTestCase):
    """`Names.cover`."""

    def test_what_is_covered(self) -> None:
        """Case, a final dot, U-labels and the spelling of an address do not matter."""
        for name in (
            "mail.example.org",
            "MAIL.example.ORG.",
            "a.pop.example.org",
            "bücher.example",
            "192.0.2.1",
            "2001:DB8:0::1",
            "[2001:db8::1]",
        ):
            self.assertTrue(NAMES.cover(name), name)

    def test_what_is_not_covered(self) -> None:
        """A wildcard stands for exactly one label; an address is no host name; a mail address covers
        nothing."""
        for name in (
            "example.org",
            "pop.example.org",
            "a.b.pop.example.org",
            ".pop.example.org",
            "192.0.2.2",
            "postmaster@example.org",
            "",
        ):
            self.assertFalse(NAMES.cover(name), name)

    def test_no_names_cover_nothing(self) -> None:
        """Where Twisted takes a certificate without a subjectAltName for anybody's, this does not."""
        self.assertFalse(Names().cover("mail.example.org"))

    @given(st.text(max_size=300))
    @settings(deadline=None)
    def test_any_text_may_be_asked_for(self, text: str) -> None:
        """Whatever a client sends as a name gets an answer."""
        self.assertIn(NAMES.cover(text), (True, False))
        wildcard_for(normal(text))
