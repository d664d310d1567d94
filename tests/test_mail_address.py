"""Addresses: what the grammar lets in, what it keeps out, and that whatever is in can be written back."""

from __future__ import annotations

import string

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.errors import MailsvcError
from mailsvc.mail.address import (
    Address,
    AddressError,
    parse_address,
    parse_address_literal,
    parse_domain,
)

GOOD = {
    "alice@example.org": ("alice", "example.org"),
    "Alice.B+tag@EXAMPLE.Org": ("Alice.B+tag", "example.org"),
    "!#$%&'*+-/=?^_`{|}~@example.org": ("!#$%&'*+-/=?^_`{|}~", "example.org"),
    '"with space"@example.org': ('"with space"', "example.org"),
    '"a@b"@example.org': ('"a@b"', "example.org"),
    r'"a\"b\\"@example.org': (r'"a\"b\\"', "example.org"),
    '""@example.org': ('""', "example.org"),
    "a@b": ("a", "b"),
    "postmaster@[192.0.2.1]": ("postmaster", "[192.0.2.1]"),
    "a@[IPv6:2001:DB8:0::1]": ("a", "[IPv6:2001:db8::1]"),
    "a@[ipv6:::1]": ("a", "[IPv6:::1]"),
    "a@xn--mnchen-3ya.de": ("a", "xn--mnchen-3ya.de"),
    "a@MÜNCHEN.de": ("a", "xn--mnchen-3ya.de"),
    "käthe@example.org": ("käthe", "example.org"),
    "a" * 64 + "@example.org": ("a" * 64, "example.org"),
    "a@" + ".".join(["b" * 63] * 3) + ".c" * 30: ("a", ".".join(["b" * 63] * 3) + ".c" * 30),
}

BAD = (
    "",
    "@",
    "alice",
    "alice@",
    "@example.org",
    "a b@example.org",
    " a@example.org",
    "a@example.org ",
    "a@ example.org",
    ".a@example.org",
    "a.@example.org",
    "a..b@example.org",
    "a@b@example.org",
    '"a"b@example.org',
    '"a@example.org',
    'a"@example.org',
    '"a"b"@example.org',
    '"a\\"@example.org',
    "<a@example.org>",
    "a(comment)@example.org",
    "a,b@example.org",
    "a:b@example.org",
    "a;b@example.org",
    "a\\b@example.org",
    "a[b@example.org",
    "a@example..org",
    "a@.example.org",
    "a@example.org.",
    "a@-example.org",
    "a@example-.org",
    "a@exa_mple.org",
    "a@192.0.2.1",
    "a@example.123",
    "a@[192.0.2.1",
    "a@192.0.2.1]",
    "a@[192.0.2.256]",
    "a@[192.0.2.01]",
    "a@[2001:db8::1]",
    "a@[IPv6:192.0.2.1]",
    "a@[IPv6:fe80::1%eth0]",
    "a@[]",
    "a@[",
    "a@[x-mailsvc:1]",
    "a" * 65 + "@example.org",
    "ü" * 33 + "@example.org",
    "a@" + "b" * 64 + ".org",
    "a" * 64 + "@" + ".".join(["b" * 60] * 4),
    "a@" + ".".join(["b"] * 200),
    "a\r\n@example.org",
    "a\n@example.org",
    '"a\r\nb"@example.org',
    '"a\0b"@example.org',
    '"a\\\nb"@example.org',
    '"a\tb"@example.org',
    "a\x7f@example.org",
    '"a\x7f"@example.org',
    '"a\\\x7f"@example.org',
    "a\x80@example.org",
    "a\x85@example.org",
    "a\u2028@example.org",
    "a\u2029b@example.org",
    "a\ud800@example.org",
    "a\ue000@example.org",
    "a@exa\u200bmple\r.org",
    "a@\u0660.\u0661",
    "a@xn--\u00fc.de",
)

# what a peer or a user might write, with the troublemakers often
_characters = st.one_of(
    st.sampled_from('@".\\<>[]: \t\r\n\0\x7f\x80\x85\u2028-_'),
    st.sampled_from(string.ascii_letters + string.digits),
    st.characters(),
)
_anything = st.text(_characters, max_size=80)

_atoms = st.text(st.sampled_from(string.ascii_letters + string.digits + "!#$%&'*+-/=?^_`{|}~"), min_size=1, max_size=10)
_quoted = st.lists(
    st.one_of(
        st.sampled_from([c for c in map(chr, range(32, 127)) if c not in '"\\']),
        st.sampled_from([f"\\{chr(c)}" for c in range(32, 127)]),
    ),
    max_size=20,
).map(lambda parts: f'"{"".join(parts)}"')
_local_parts = st.one_of(st.lists(_atoms, min_size=1, max_size=4).map(".".join), _quoted)
_labels = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,20}[A-Za-z0-9])?\Z", fullmatch=True)
_domains = st.lists(_labels, min_size=1, max_size=4).map(lambda labels: ".".join([*labels, "org"]))


class GrammarTests(SynchronousTestCase):
    """RFC 5321 section 4.1.2 and RFC 6531 section 3.3."""

    def test_good(self) -> None:
        """Valid addresses give their two parts: the local part as written, the domain in its one form.

        Rule: Addresses: the grammar and its limits
        """
        for text, parts in GOOD.items():
            address = parse_address(text)
            self.assertEqual((address.local_part, address.domain), parts, text)

    def test_bad(self) -> None:
        """Everything else is refused with a sentence in printable ASCII, and with no other error."""
        for text in BAD:
            error = self.assertRaises(AddressError, parse_address, text)
            self.assertTrue(str(error).isascii() and str(error).isprintable(), text)
            self.assertLess(len(str(error)), 250, text)

    def test_errors_are_ours(self) -> None:
        """An address that does not parse is one of the errors that users read."""
        self.assertTrue(issubclass(AddressError, MailsvcError))

    def test_without_utf8(self) -> None:
        """Without SMTPUTF8 an address is ASCII only, also where its domain could be written in A-labels."""
        for text in ("käthe@example.org", "a@münchen.de", '"ü"@example.org'):
            self.assertRaises(AddressError, parse_address, text, utf8=False)
        self.assertEqual(parse_address("a@example.org", utf8=False), Address("a", "example.org"))

    def test_is_ascii(self) -> None:
        """Whether SMTPUTF8 is needed depends on the local part: the domain is in A-labels always."""
        self.assertTrue(parse_address("a@münchen.de").is_ascii)
        self.assertFalse(parse_address("ü@example.org").is_ascii)

    def test_octets_not_characters(self) -> None:
        """Limits count octets of UTF-8 (RFC 6531 section 3.3).

        Rule: Addresses: the grammar and its limits
        """
        self.assertEqual(parse_address("ü" * 32 + "@example.org").local_part, "ü" * 32)
        self.assertRaises(AddressError, parse_address, "ü" * 32 + "a@example.org")

    def test_whole_limit(self) -> None:
        """An address has at most 254 octets, so that with angle brackets it is a path of 256.

        Rule: Addresses: the grammar and its limits
        """
        domain = ".".join(["b" * 60, "b" * 60, "b" * 60, "b" * 6])
        self.assertEqual(len(str(parse_address("a" * 64 + "@" + domain))), 254)
        self.assertRaises(AddressError, parse_address, "a" * 64 + "@" + domain + "b")


class RoundTripTests(SynchronousTestCase):
    """What was parsed can be written and read again."""

    @settings(deadline=None)
    @given(_local_parts, _domains)
    def test_valid_addresses_are_accepted(self, local_part: str, domain: str) -> None:
        """Every address that the grammar makes (within the limits) parses, to itself."""
        address = parse_address(f"{local_part}@{domain}")
        self.assertEqual(str(address), f"{local_part}@{domain.lower()}")
        self.assertEqual(parse_address(str(address)), address)

    @settings(deadline=None, max_examples=400)
    @given(_anything)
    def test_any_text(self, text: str) -> None:
        """Any text is refused with `AddressError`, or parses to something that parses to itself.

        Rule: Addresses: written back unchanged
        """
        try:
            address = parse_address(text)
        except AddressError:
            return
        self.assertEqual(parse_address(str(address)), address)

    @settings(deadline=None, max_examples=400)
    @given(st.text(_characters, max_size=8), st.text(_characters, min_size=1, max_size=4), st.sampled_from((0, 1, 2)))
    def test_nothing_unprintable_ever(self, ordinary: str, spice: str, place: int) -> None:
        """Nothing with CR, LF, NUL or another control character is accepted, wherever it stands.

        Rule: No NUL, CR or LF reaches a header
        """
        for control in ("\r", "\n", "\0", "\t", "\x1b", "\x7f", "\x80", "\x9f", "\u2028"):
            inserted = spice[: place // 2] + control + spice[place // 2 :]
            for text in (f"{ordinary}{inserted}@example.org", f'"{inserted}"@example.org', f"a@{inserted}.org"):
                try:
                    accepted = str(parse_address(text))
                except AddressError:
                    continue
                # A domain goes through IDNA, which drops some characters; what is kept must be clean.
                self.assertTrue(accepted.isprintable() and control not in accepted, repr(accepted))

    @settings(deadline=None)
    @given(_local_parts, _domains)
    def test_key(self, local_part: str, domain: str) -> None:
        """The key is the same for all spellings: case of either part, with quotes or without."""
        address = parse_address(f"{local_part}@{domain}")
        self.assertEqual(parse_address(f"{local_part.swapcase()}@{domain.upper()}").key, address.key)
        if not local_part.startswith('"'):
            self.assertEqual(parse_address(f'"{local_part}"@{domain}').key, address.key)
            escaped = "".join(f"\\{character}" for character in local_part[:10]) + local_part[10:]
            self.assertEqual(parse_address(f'"{escaped}"@{domain}').key, address.key)

    def test_keys_differ(self) -> None:
        """Different mailboxes have different keys: only quotes and case are taken away."""
        texts = ["a@b", "a.b@c", '"a b"@c', '"a@b"@c', r'"a\\"@c', r'"\""@c', '""@c', "a+x@c", "ab@c"]
        self.assertEqual(len({parse_address(text).key for text in texts}), len(texts))


class DomainTests(SynchronousTestCase):
    """`parse_domain` and `parse_address_literal`, which others use alone."""

    def test_domains(self) -> None:
        """A domain is given in lower case and as A-labels, however it was written."""
        self.assertEqual(parse_domain("Example.ORG"), "example.org")
        self.assertEqual(parse_domain("bücher.example"), "xn--bcher-kva.example")
        self.assertEqual(parse_domain("BÜCHER。example"), "xn--bcher-kva.example")

    def test_no_literal(self) -> None:
        """A literal is no domain of ours."""
        for text in ("[192.0.2.1]", "192.0.2.1", "", ".", "a..b", "a b", "a/b", "-", "a" * 256, "ü" * 300, "1", "a.1"):
            self.assertRaises(AddressError, parse_domain, text)

    @settings(deadline=None)
    @given(_anything)
    def test_any_domain(self, text: str) -> None:
        """Any text is refused with `AddressError` or gives a name that stays as it is."""
        try:
            name = parse_domain(text)
        except AddressError:
            return
        self.assertEqual(parse_domain(name), name)
        self.assertTrue(set(name) <= set(string.ascii_lowercase + string.digits + "-."), name)

    @settings(deadline=None)
    @given(st.one_of(st.ip_addresses(), _anything))
    def test_any_literal(self, inner: object) -> None:
        """Every IP address has a literal, in one form; everything else is refused."""
        for text in (f"[{inner}]", f"[IPv6:{inner}]"):
            try:
                literal = parse_address_literal(text)
            except AddressError:
                continue
            self.assertEqual(parse_address_literal(literal), literal)
