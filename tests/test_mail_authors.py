"""Who a message says it is from: every address found, everything unclear refused."""

from __future__ import annotations

import contextlib
import email.utils

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mail.address import AddressError
from mailsvc.mail.authors import LONGEST_FIELD, MOST_ADDRESSES, AuthorsError, address_list, authors

ME, BOSS = "me@example.org", "boss@example.org"


class AddressListTests(SynchronousTestCase):
    """RFC 5322 section 3.4."""

    def found(self, text: str) -> list[str]:
        return [str(address) for address in address_list(text)]

    def test_forms(self) -> None:
        """Each form of one address, with all that may stand around it."""
        for text in (
            ME, f"<{ME}>", f"Me <{ME}>", f'"Me, Myself" <{ME}>', f"Me J. Self <{ME}>", f"{ME} (it's me)",
            f"(a (nested) \\( comment) {ME}", f" Me\r\n\t<{ME}>", f'"boss@example.org" <{ME}>',
            f"=?utf-8?q?J=C3=B6rg?= <{ME}>", f"Jörg <{ME}>", f"<{ME}>,", f", {ME} ,,", f"< {ME} >", f"(x)<{ME}>(y)",
        ):  # fmt: skip
            self.assertEqual(self.found(text), [ME], text)

    def test_several(self) -> None:
        """Lists and groups (RFC 6854), with names that hold what separates."""
        for text in (
            f"{ME}, {BOSS}", f"Me <{ME}>,Boss<{BOSS}>", f"Team: {ME}, Boss <{BOSS}>;", f"Team:{ME};, Other: {BOSS};",
            f'"a;b": <{ME}>,, {BOSS} ; ,',
        ):  # fmt: skip
            self.assertEqual(self.found(text), [ME, BOSS], text)

    def test_quoted_local_part(self) -> None:
        """A local part in quotes may hold what it likes."""
        self.assertEqual(self.found('"a b@c"@example.org'), ['"a b@c"@example.org'])

    def test_no_address(self) -> None:
        """Nothing, and a group of nobody, are no address."""
        for text in ("", " ", "undisclosed-recipients:;", ","):
            self.assertEqual(self.found(text), [], text)

    def test_refused(self) -> None:
        """Where mail programs could differ, nothing is read at all."""
        for text in (
            f"{BOSS} <{ME}>", f"Boss {BOSS} <{ME}>", f"<{BOSS}> <{ME}>", f"<{ME}> {BOSS}", f"{BOSS} {ME}", f"<{ME}",
            f"{ME}>", f"<<{ME}>>", f"<@a.example,@b.example:{ME}>", "me @ example.org", "me@example . org",
            "me(comment)@example.org", f"Team: {ME}", f"a:b:{ME};;", f"{ME};", f'"Me <{ME}>', f"Me) <{ME}>",
            f"(Me <{ME}>", "(" * 30 + ")" * 30 + ME, f"\0{ME}", f"Me\x07 <{ME}>", "Me", "<>", "Me <>", f":{ME};",
            f"<{ME}>:{BOSS};", f"Me [x] <{ME}> [", f"Me \\<{BOSS}\\> <{ME}>", f"{ME}:;", f"<{ME},{BOSS}>",
        ):  # fmt: skip
            with self.assertRaises((ValueError, AddressError), msg=text):
                address_list(text)

    @given(st.text(alphabet='ab@.<>,:;()"\\ \t\r\n[]\0é=?-', max_size=60))
    @settings(deadline=None, max_examples=1000)
    @example('"a"@b')
    def test_garbage(self, text: str) -> None:
        """Any text is a list of addresses or refused."""
        with contextlib.suppress(ValueError, AddressError):
            address_list(text)

    @given(
        st.lists(
            st.tuples(
                st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
                st.sampled_from([ME, BOSS, "x.y+z@a.example"]),
            ),
            min_size=1,
            max_size=5,
        )
    )
    @settings(deadline=None)
    def test_as_python_writes_it(self, pairs: list[tuple[str, str]]) -> None:
        """What `email.utils.formataddr` writes for any names is read to the same addresses."""
        text = ", ".join(email.utils.formataddr(pair) for pair in pairs)
        self.assertEqual(self.found(text), [address for _, address in pairs])

    def test_no_text_is_slow(self) -> None:
        """A field of the greatest size, of whatever makes parsers go back, is read once."""
        for piece in ("(", '"', "<", "a ", ",", "\\", "(a)", "[", "a@", '""', " ."):
            with self.assertRaises((ValueError, AddressError)):
                address_list(piece * (LONGEST_FIELD // len(piece)) + "!(")


class AuthorsTests(SynchronousTestCase):
    """The fields of a header."""

    def found(self, header: bytes) -> list[str]:
        return [str(address) for address in authors(header)]

    def test_fields(self) -> None:
        """From, Sender and their Resent forms count, in whatever case, folded, and as often as they come."""
        header = (
            b"To: x@example.net\r\nFROM: =?utf-8?q?Me?=\r\n <me@example.org>\r\nReply-To: y@example.net\r\n"
            b"Sender : s@example.org\r\nfrom: boss@example.org\r\nResent-From: r@example.org\r\n"
            b"Resent-Sender: t@example.org\r\n\r\n"
        )
        self.assertEqual(self.found(header), [ME, "s@example.org", BOSS, "r@example.org", "t@example.org"])

    def test_none(self) -> None:
        """A header without any of them names nobody."""
        self.assertEqual(self.found(b"Subject: x\r\n\r\n"), [])

    def test_refused(self) -> None:
        """A field without an address, not in UTF-8, too long, or one of too many addresses."""
        many = b", ".join([b"me@example.org"] * (MOST_ADDRESSES + 1))
        for value in (
            b"",
            b"nobody:;",
            b"J\xf6rg <me@example.org>",
            b"(" + b"a" * LONGEST_FIELD + b") me@example.org",
            many,
        ):
            with self.assertRaises(AuthorsError, msg=repr(value[:40])):
                authors(b"From: " + value + b"\r\n\r\n")
