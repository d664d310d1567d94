"""The message scanner and the summary: the facts of a message, however it was cut into pieces."""

from __future__ import annotations

import re
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mail.message import MessageScanner, header_fields, summarise
from tests.memory import byte_by_byte, cut_at


class Facts(NamedTuple):
    """What a scanner has to say."""

    size: int
    header_size: int
    received: int
    bare: bool
    longest: int


def scan(*pieces: bytes) -> Facts:
    """The facts of a message in these pieces."""
    scanner = MessageScanner(measure_lines=True)
    for piece in pieces:
        scanner.feed(piece)
    scanner.close()
    return Facts(
        scanner.size,
        scanner.header_size,
        scanner.received_fields,
        scanner.has_bare_line_end,
        scanner.longest_line,
    )


def facts(message: bytes) -> Facts:
    """The same by the definitions, in the simplest way."""
    header = received = fields = 0
    for line in re.findall(rb"[^\n]*\n|[^\n]+\Z", message):
        field = re.match(rb"([!-9;-~]+)[ \t]*:", line[:1000])
        if field or (fields and line[:1] in b" \t"):
            header += len(line)
            if field:
                fields += 1
                received += field[1].lower() == b"received"
            continue
        if line in (b"\r\n", b"\n"):
            header += len(line)
        break
    rest = message.replace(b"\r\n", b"")
    longest = max(len(line.removesuffix(b"\r")) for line in message.split(b"\n"))
    return Facts(len(message), header, received, b"\r" in rest or b"\n" in rest, longest)


# made of the parts on which a scanner can stumble
_PARTS = (
    b"\r\n",
    b"\r",
    b"\n",
    b".",
    b" ",
    b"\t",
    b":",
    b"Received: from x",
    b"received :",
    b"Received",
    b"Subject: s",
    b"X-Long: " + b"y" * 1200,
    b"z" * 1100,
    b"\xff\x00",
    b"text",
)
_messages = st.lists(st.sampled_from(_PARTS), max_size=25).map(b"".join)
_places = st.lists(st.integers(0, 4000), max_size=12)


class SegmentationTests(SynchronousTestCase):
    """A scanner must not notice how the message was cut."""

    @settings(deadline=None, max_examples=300)
    @given(_messages, _places)
    def test_any_cut(self, message: bytes, places: list[int]) -> None:
        """Whole, byte by byte, and cut anywhere give the same facts: those of the definition."""
        expected = facts(message)
        self.assertEqual(scan(message), expected)
        self.assertEqual(scan(*cut_at(message, places)), expected)
        if len(message) < 200:
            self.assertEqual(scan(*byte_by_byte(message)), expected)

    @settings(deadline=None)
    @given(_messages, _places)
    def test_header_size_on_the_way(self, message: bytes, places: list[int]) -> None:
        """On the way the header is never reported larger than what has come, and never shrinks below what is known."""
        scanner = MessageScanner()
        fed = 0
        for piece in cut_at(message, places):
            scanner.feed(piece)
            fed += len(piece)
            self.assertLessEqual(scanner.header_size, fed)


class LineEndTests(SynchronousTestCase):
    """Bare CR and LF (RFC 5321 section 2.3.8)."""

    def test_bare(self) -> None:
        """A CR without LF or an LF without CR is found, wherever the pieces end."""
        for message in (
            b"a\rb\r\n",
            b"a\nb\r\n",
            b"a\n",
            b"\r",
            b"\n",
            b"\r\r\n",
            b"\r\n\n",
            b"\n\r",
            b"\r\n\r",
            b"a\r \n",
        ):
            for pieces in ([message], list(byte_by_byte(message))):
                self.assertTrue(scan(*pieces).bare, pieces)

    def test_proper(self) -> None:
        """CRLF is no bare line end, also when it is cut in two; nor is a last line without an end."""
        for message in (b"", b"\r\n", b"a\r\n\r\nb", b"\r\n\r\n"):
            for pieces in ([message], list(byte_by_byte(message))):
                self.assertFalse(scan(*pieces).bare, pieces)

    def test_balance_is_not_enough(self) -> None:
        """As many CRs as LFs do not make proper line ends."""
        self.assertTrue(scan(b"a\nb\rc\r\n").bare)


class LongestLineTests(SynchronousTestCase):
    """RFC 5322 section 2.1.1: 998 octets without CRLF."""

    def test_lengths(self) -> None:
        """The longest line counts without its CRLF, wherever it stands and however it is cut."""
        for length in (0, 1, 998, 999):
            line = b"x" * length
            for message in (line + b"\r\n", b"a\r\n" * 3 + line + b"\r\nb\r\n", b"s\r\n" + line):
                expected = max(length, *(len(word) for word in message.split(b"\r\n") if word != line), 0)
                self.assertEqual(scan(message).longest, expected)
                self.assertEqual(scan(*byte_by_byte(message)).longest, expected)

    def test_not_asked_for(self) -> None:
        """It is counted only when asked for."""
        scanner = MessageScanner()
        scanner.feed(b"x" * 2000)
        self.assertEqual(scanner.longest_line, 0)


class HeaderTests(SynchronousTestCase):
    """Where the header ends."""

    def test_examples(self) -> None:
        """Header and body by example; together they are always the whole message."""
        for header, body in (
            (b"Subject: x\r\n\r\n", b"body\r\n"),
            (b"Subject: x\r\n", b""),
            (b"Subject: x", b""),
            (b"\r\n", b"body: text\r\n"),
            (b"\r\n", b"\r\nbody\r\n"),
            (b"", b""),
            (b"", b"no header here\r\n\r\nText: text\r\n"),
            (b"", b" folded first\r\nSubject: x\r\n\r\n"),
            (b"A: b\r\n", b"no field\r\nSubject: x\r\n\r\n"),
            (b"A: b\r\n c\r\n\td\r\n\r\n", b" e\r\n"),
            (b"A: b\r\n \r\n\r\n", b"whitespace only continues a field\r\n"),
            (b"A :b\r\n\r\n", b"obsolete white space\r\n"),
            (b"A:\r\n\r\n", b"."),
            (b"", b"\xc3\xa4: not ASCII\r\n\r\n"),
            (b"", b": no name\r\n\r\n"),
            (b"", b"From alice Thu Jan  1 00:00:00 1970\r\nSubject: x\r\n\r\n"),
            (b"A: " + b"b" * 5000 + b"\r\n\r\n", b"x"),
            (b"", b"b" * 5000 + b": \r\n\r\n"),
        ):
            for pieces in ([header + body], list(byte_by_byte(header + body))):
                self.assertEqual(scan(*pieces).header_size, len(header), header + body)

    def test_endless_header_line_is_seen(self) -> None:
        """A header line that does not end counts while it comes, so that a limit on the header can stop it."""
        scanner = MessageScanner()
        scanner.feed(b"Subject: ")
        for _ in range(100):
            scanner.feed(b"x" * 1000)
        self.assertEqual(scanner.header_size, 100_009)

    def test_memory_is_bounded(self) -> None:
        """Of an endless first line only a beginning is kept."""
        scanner = MessageScanner()
        for _ in range(1000):
            scanner.feed(b"x" * 1000)
        self.assertLess(len(scanner._prefix), 2000)

    def test_received_fields(self) -> None:
        """Received fields count in the header only, whatever their case, and folded ones once."""
        message = b"Received: a\r\n by b\r\nRECEIVED:c\r\nX-Received: d\r\nReceived-SPF: e\r\n\r\nReceived: body\r\n"
        self.assertEqual(scan(message).received, 2)

    def test_a_hundred_and_one(self) -> None:
        """The count goes on as far as the header does."""
        self.assertEqual(scan(b"Received: x\r\n" * 101 + b"\r\n").received, 101)


class SummaryTests(SynchronousTestCase):
    """The columns that the database keeps."""

    def test_fields(self) -> None:
        """Name in lower case and the unfolded value, in the order in which they stand."""
        header = b"Subject: a\r\n b\r\nX-Empty:\r\nFROM:  Alice <a@example.org> \r\nsubject: second\r\n\r\n"
        self.assertEqual(
            list(header_fields(header)),
            [
                (b"subject", b"a b"),
                (b"x-empty", b""),
                (b"from", b"Alice <a@example.org>"),
                (b"subject", b"second"),
            ],
        )

    def test_summary(self) -> None:
        """The first field of each name counts; what is missing is None."""
        header = b"Subject: one\r\nSubject: two\r\nMessage-ID: <m@x>\r\nFrom: =?utf-8?q?=C3=A4?=\r\n\r\n"
        summary = summarise(header, size=1000, sha256="ff")
        self.assertEqual(
            (summary.size, summary.header_size, summary.sha256, summary.subject, summary.from_, summary.date),
            (1000, len(header), "ff", "one", "=?utf-8?q?=C3=A4?=", None),
        )
        self.assertEqual(summary.message_id, "<m@x>")

    def test_long_and_odd_values(self) -> None:
        """A value is cut to 998 characters; octets that are no UTF-8 become replacement characters."""
        summary = summarise(b"Subject: " + b"x" * 5000 + b"\r\nDate: \xff\r\n\r\n", size=0, sha256="")
        self.assertEqual((len(summary.subject or ""), summary.date), (998, "\ufffd"))

    @settings(deadline=None)
    @given(_messages)
    def test_any_header(self, header: bytes) -> None:
        """No header makes it fail, and no value holds a line end that was a fold."""
        for name, value in header_fields(header):
            self.assertTrue(name)
            self.assertNotIn(b"\r\n", value)
        summarise(header, size=len(header), sha256="")
