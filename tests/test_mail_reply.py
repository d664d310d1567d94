"""Replies on the wire: one piece, hyphens where they belong, and nothing in them that breaks the dialogue."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mail.reply import reply

_LINE = re.compile(rb"[2-5][0-9][0-9][ -][ -~]*\r\n")


class ReplyTests(SynchronousTestCase):
    """RFC 5321 section 4.2 and RFC 2034 section 4."""

    def test_one_line(self) -> None:
        """Code, space, enhanced status code, space, text, CRLF."""
        self.assertEqual(reply(250, "2.1.0", "Sender ok").encode(), b"250 2.1.0 Sender ok\r\n")

    def test_without_status(self) -> None:
        """Greeting, EHLO and 354 have no enhanced status code (RFC 2034 section 4)."""
        self.assertEqual(reply(354, "", "Go ahead").encode(), b"354 Go ahead\r\n")

    def test_empty_challenge(self) -> None:
        """The empty challenge of AUTH PLAIN keeps its space (RFC 4954 section 4)."""
        self.assertEqual(reply(334, "", "").encode(), b"334 \r\n")

    def test_many_lines(self) -> None:
        """Every line but the last has a hyphen, and each repeats the status code (RFC 2034 section 4)."""
        self.assertEqual(
            reply(214, "2.0.0", "one", "two", "three").encode(),
            b"214-2.0.0 one\r\n214-2.0.0 two\r\n214 2.0.0 three\r\n",
        )

    def test_for_the_log(self) -> None:
        """str() is one line."""
        self.assertEqual(str(reply(214, "2.0.0", "one", "two")), "214-2.0.0 one / 214 2.0.0 two")

    def test_is_error(self) -> None:
        """4xx and 5xx refuse, 2xx and 3xx do not."""
        self.assertEqual([reply(code, "", "").is_error for code in (250, 354, 421, 550)], [False, False, True, True])

    @settings(deadline=None)
    @given(st.integers(200, 559), st.sampled_from(("", "2.0.0", "5.7.1")), st.lists(st.text(), min_size=1, max_size=4))
    def test_text_cannot_break_the_dialogue(self, code: int, enhanced: str, texts: list[str]) -> None:
        """Whatever the text holds (line ends, controls, other scripts): as many lines, all printable ASCII."""
        octets = reply(code, enhanced, *texts).encode()
        lines = octets.splitlines(keepends=True)
        self.assertEqual(len(lines), len(texts))
        for line in lines:
            self.assertTrue(_LINE.fullmatch(line), line)
        self.assertEqual([line[3:4] for line in lines], [b"-"] * (len(lines) - 1) + [b" "])

    @settings(deadline=None)
    @given(st.integers(0, 3000))
    def test_length(self, length: int) -> None:
        """A reply line has at most 512 octets with its CRLF (RFC 5321 section 4.5.3.1.5), whatever was put into it."""
        for line in reply(555, "5.5.4", "x" * length, "y" * length).encode().splitlines(keepends=True):
            self.assertLessEqual(len(line), 512)
            self.assertTrue(line.endswith(b"\r\n"))
