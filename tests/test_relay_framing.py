"""What the content becomes on its way out: the same as a simple reference says, for any octets in any segmentation."""

from __future__ import annotations

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from mailsvc.relay.framing import Dotted, Straight, Unsendable

_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")

TRICKY = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"..", b"a", b"\0", b"\xff", b"\r\n.", b"\t"])).map(
    b"".join
)
LINES = st.lists(st.sampled_from([b"\r\n", b".", b"a", b"\xe4" * 300, b"\0", b"\r\n.", b"\r\n..", b"b" * 700])).map(
    b"".join
)
CONTENTS = st.one_of(TRICKY, LINES, st.binary(max_size=200))
CUTS = st.lists(st.integers(min_value=0, max_value=3000), max_size=20)


def pieces(content: bytes, cuts: list[int]) -> list[bytes]:
    """The content cut at these places, empty pieces among them."""
    places = sorted(min(cut, len(content)) for cut in cuts)
    return [content[start:end] for start, end in zip([0, *places], [*places, len(content)], strict=True)]


def framed(framing: Straight, parts: list[bytes]) -> bytes | None:
    """What is sent; None when it is refused."""
    try:
        return b"".join([*map(framing.feed, parts), framing.end()])
    except Unsendable:
        return None


def reference(content: bytes, *, dotted: bool) -> bytes | None:
    """RFC 5321 section 4.5.2, line by line; None for a content that must not be sent (section 2.3.8)."""
    if _BARE.search(content):
        return None
    if content and not content.endswith(b"\r\n"):
        content += b"\r\n"
    if not dotted:
        return content
    lines = content.split(b"\r\n")[:-1]
    return b"".join((b"." + line if line.startswith(b".") else line) + b"\r\n" for line in lines) + b".\r\n"


class Framing(TestCase):
    """`mailsvc.relay.framing`."""

    @settings(deadline=None, max_examples=300)
    @given(CONTENTS, CUTS)
    @example(b"a\r\n.b\r\n", [2])
    @example(b"a\r\n.b\r\n", [3])
    @example(b"\r", [1])
    @example(b"\r\r", [])
    @example(b"a\r\nb\r", [2, 5])
    @example(b"." * 2000 + b"\r\n." * 2000, [1999, 2001])
    def test_any_octets_in_any_segmentation(self, content: bytes, cuts: list[int]) -> None:
        """DATA and BDAT carry what the reference says, or nothing where it says that the content must not be sent."""
        parts = pieces(content, cuts)
        self.assertEqual(framed(Dotted(), parts), reference(content, dotted=True))
        self.assertEqual(framed(Straight(), parts), reference(content, dotted=False))

    @settings(deadline=None)
    @given(CONTENTS, CUTS)
    @example(b"\r\r", [])
    def test_nothing_leaves_before_its_line_ends_are_proven(self, content: bytes, cuts: list[int]) -> None:
        """What has been given out when a content is refused has no CR or LF alone, not even at its end."""
        framing, sent = Straight(), b""
        try:
            for part in pieces(content, cuts):
                sent += framing.feed(part)
        except Unsendable:
            pass
        self.assertIsNone(_BARE.search(sent))
        self.assertTrue(content.startswith(sent))

    @settings(deadline=None)
    @given(st.lists(st.sampled_from([b".", b"x", b"\r\n", b"\r\n.", b"." * 40, b"x" * 600]), max_size=60))
    def test_many_dots_and_few_are_doubled_alike(self, parts: list[bytes]) -> None:
        """Where dots are so dense that lines are searched for instead, the outcome is the same."""
        content = b"".join(parts)
        self.assertEqual(framed(Dotted(), [content]), reference(content, dotted=True))

    def test_content_without_an_end_gets_one(self) -> None:
        """The last line is closed, an empty content is the dot alone."""
        self.assertEqual(framed(Dotted(), [b"a"]), b"a\r\n.\r\n")
        self.assertEqual(framed(Dotted(), []), b".\r\n")
        self.assertEqual(framed(Straight(), []), b"")

    def test_the_refusals_say_which(self) -> None:
        """A line end in the middle and one at the end are refused in words of their own, for good (5.6.0)."""
        with self.assertRaisesRegex(Unsendable, "not CRLF") as middle:
            Straight().feed(b"a\nb")
        self.assertEqual(middle.exception.enhanced, "5.6.0")
        framing = Dotted()
        framing.feed(b"a\r")
        with self.assertRaisesRegex(Unsendable, "ends in a CR"):
            framing.end()
