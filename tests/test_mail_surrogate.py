"""The surrogate of a whole message: MIME parts at all levels, in pieces of any size, and how long it is."""

from __future__ import annotations

import email

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mail.downgrade import LONGEST
from mailsvc.mail.surrogate import HEADER_LIMIT, Downgrader, surrogate_growth


def crlf(text: str) -> bytes:
    return text.encode().replace(b"\n", b"\r\n")


def surrogate(header: bytes, *body: bytes) -> bytes:
    downgrader = Downgrader()
    pieces = [downgrader.feed(piece) for piece in (header, *body)]
    given_ = b"".join([*pieces, downgrader.close()])
    assert downgrader.growth == len(given_) - len(header) - sum(map(len, body))
    return given_


TOKENS = (b"--b", b"\r\n", b"--", b"-", b"\xff", b"X: \xff", b"x", b" ", b"--b--", b"Content-Type: message/global")

LINES = [
    *("Subject: x\n", "\n", "--b\n", "--b--\n", "Content-Type: multipart/mixed; boundary=b\n", "text\n"),
    *(" more\n", "--", "-"),
]

REPORT = """From: ö <a@b.example>
Content-Type: multipart/report; report-type=delivery-status; boundary="B 1"

before ö
--B 1
Content-Type: text/plain; name="ü"

--B ö
--B 1 \t
Content-Type: message/global-delivery-status

Reporting-MTA: dns; x

Final-Recipient: utf-8; ö@b.example
Diagnostic-Code: smtp; 550 nö

--B 1
content-type: Message/Global;
 x=1

Subject: böse
Content-Type: multipart/digest; boundary=B2

--B2

Subject: dïgest

höhö
--B2--
Subject: ö
--B 1--
Subject: ö
"""
REPORT_IN_ASCII = """From: =?utf-8?b?w7Y=?= <a@b.example>
Content-Type: multipart/report; report-type=delivery-status; boundary="B 1"

before ö
--B 1
Content-Type: text/plain; name*=utf-8''%C3%BC

--B ö
--B 1 \t
Content-Type: message/delivery-status

Reporting-MTA: dns; x

Final-Recipient: utf-8; \\x{F6}@b.example
Diagnostic-Code: smtp; 550 =?utf-8?b?bsO2?=

--B 1
content-type: message/rfc822;
 x=1

Subject: =?utf-8?q?b=C3=B6se?=
Content-Type: multipart/digest; boundary=B2

--B2

Subject: =?utf-8?q?d=C3=AFgest?=

höhö
--B2--
Subject: ö
--B 1--
Subject: ö
"""


class Surrogates(SynchronousTestCase):
    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.integers(1, 60), max_size=80), st.booleans())
    def test_parts_and_reports(self, cuts: list[int], all_small: bool) -> None:
        """All headers are ASCII, at every level, however the message is cut; bodies and what lies between stay."""
        header, end, body = crlf(REPORT).partition(b"\r\n\r\n")
        pieces, start = [], 0
        for cut in [1] * len(body) if all_small else cuts:
            pieces.append(body[start : start + cut])
            start += cut
        self.assertEqual(surrogate(header + end, *pieces, body[start:]), crlf(REPORT_IN_ASCII))

    def test_a_surrogate_needs_none(self) -> None:
        """What comes out is left alone when it comes in again."""
        header, end, body = crlf(REPORT_IN_ASCII).partition(b"\r\n\r\n")
        self.assertEqual(surrogate(header + end, body), crlf(REPORT_IN_ASCII))
        self.assertFalse(surrogate_growth([header + end, body]).needed)

    @settings(deadline=None)
    @given(
        st.lists(
            st.sampled_from(
                [
                    "Subject: x\n",
                    "\n",
                    "--b\n",
                    "--b--\n",
                    "Content-Type: multipart/mixed; boundary=b\n",
                    "text\n",
                    " more\n",
                    "--",
                    "-",
                ]
            ),
            max_size=30,
        )
    )
    def test_ascii_is_not_touched(self, lines: list[str]) -> None:
        """Every octet of a message in ASCII is as it was, whatever its structure."""
        body = crlf("".join(lines))
        for header in (b"", b"Subject: x\r\n\r\n", b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"):
            self.assertEqual(surrogate(header, body), header + body)
            self.assertEqual(surrogate_growth([header, body]).needed, False)

    def test_a_body_alone_needs_no_surrogate(self) -> None:
        """Eight bits in a body are what MIME says they are; a body without structure is not even looked at."""
        downgrader = Downgrader()
        header = crlf("Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n")
        self.assertEqual(downgrader.feed(header), header)
        self.assertTrue(downgrader.settled)
        self.assertFalse(surrogate_growth([header, "ö".encode()]).needed)

    def test_the_header_of_a_part_alone_is_enough(self) -> None:
        """A name of an attachment in raw UTF-8 makes a message an internationalised one (RFC 6532 section 3)."""
        header = crlf("Content-Type: multipart/mixed; boundary=b\n\n")
        body = crlf('--b\nContent-Disposition: attachment; filename="ü"\n\nx\n--b--\n')
        growth = surrogate_growth([header, body])
        self.assertTrue(growth.needed)
        given_ = surrogate(header, body)
        self.assertEqual(len(given_), len(header + body) + growth.octets)
        self.assertIn("ü", [attachment.get_filename() for attachment in email.message_from_bytes(given_).walk()])

    def test_what_is_encoded_is_not_looked_into(self) -> None:
        """A message/global in base64 keeps its type: message/rfc822 may not be encoded (RFC 2046 section 5.2.1)."""
        header = crlf("Subject: ö\nContent-Type: message/global\nContent-Transfer-Encoding: base64\n\n")
        self.assertIn(b"message/global", surrogate(header, b"w7Y=\r\n"))

    def test_headers_without_end_are_bounded(self) -> None:
        """Whatever a part's header is made of, what is held is bounded, and what is given is ASCII."""
        header = crlf("Content-Type: multipart/mixed; boundary=b\n\n--b\n")
        for piece in (b"X: " + b"\xff" * 70000, b"X: \xff\r\n" * 6000):
            downgrader = Downgrader()
            given_ = downgrader.feed(header[: header.index(b"--b")]) + downgrader.feed(b"--b\r\n")
            for _ in range(8):
                given_ += downgrader.feed(piece)
                self.assertLess(len(downgrader._held) + len(downgrader._block), HEADER_LIMIT + len(piece))
            given_ += downgrader.feed(b"\r\n\r\n--b--\r\n") + downgrader.close()
            self.assertTrue(given_.isascii())
        self.assertTrue(surrogate(b"X: \xff\r\n" * 100000 + b"\r\n").isascii())

    def test_what_is_downgraded_is_bounded(self) -> None:
        """Whatever is inside a message: so many octets of fields are looked at closely, so many more encoded, and
        of the rest nothing is; the message's own header has as much for itself. Short fields cost more than they have.

        Rule: POP3: what a surrogate costs is bounded
        """
        to = b"To: " + "a@ö.org,".encode() * 2000 + b"a@b\r\n"
        header = to + crlf("Content-Type: multipart/digest; boundary=b\n\n")
        parts = [crlf("--b\n\n") + to + crlf("\n")] * 12
        given_ = surrogate(header, *parts)
        self.assertTrue(given_.isascii())
        own, *inside = given_.split(crlf("--b\n\n"))
        self.assertEqual(own.count(b"@xn--nda.org"), 2000)
        closely = [part.count(b"@xn--nda.org") for part in inside]
        self.assertEqual(closely, [2000] * (LONGEST // len(to)) + [0] * (12 - LONGEST // len(to)))
        self.assertEqual(
            [b"=?utf-8?" in part for part in inside].count(True), HEADER_LIMIT // len(to) - sum(map(bool, closely))
        )
        self.assertEqual([b"a@??.org" in part for part in inside].count(True), 12 - HEADER_LIMIT // len(to))
        short = surrogate(b"A: \xc3\xb6\r\n" * 10_000 + b"\r\n")
        self.assertLess(short.count(b"=?utf-8?"), HEADER_LIMIT // 50)

    def test_effort_is_bounded(self) -> None:
        """Behind so many lines of parts' headers, or that begin like a boundary, all passes as it is."""
        header = crlf("Content-Type: multipart/mixed; boundary=b\n\n--b\n\n")
        part = crlf("--b\nX: ö\n\n")
        for lines, looked_at in ((b"--b\r\nX: x\r\n\r\n" * 10_000, True), (b"--b\r\nX: x\r\n\r\n" * 30_000, False)):
            given_ = surrogate(header, lines, part)
            self.assertEqual(given_.endswith(crlf("--b\nX: =?utf-8?b?w7Y=?=\n\n")), looked_at)
        self.assertTrue(surrogate(header, b"--\r\n" * 900_000, part).endswith(b"?=\r\n\r\n"))
        self.assertTrue(surrogate(header, b"--\r\n" * 1_100_000, part).endswith(part))

    def test_a_part_may_have_no_empty_line(self) -> None:
        """Its body begins where no field is, or a boundary comes instead."""
        header = crlf("Content-Type: multipart/mixed; boundary=b\n\n")
        body = crlf("--b\nSubject: ö\nbödy\n--b\nSubject: ü\n--b--\n")
        expected = crlf("--b\nSubject: =?utf-8?b?w7Y=?=\nbödy\n--b\nSubject: =?utf-8?b?w7w=?=\n--b--\n")
        self.assertEqual(surrogate(header, body), header + expected)
        self.assertEqual(surrogate(header, body[: body.rindex(b"\r\n--b--")]), header + expected[:-9])

    @settings(deadline=None)
    @given(st.lists(st.sampled_from(TOKENS)), st.integers(1, 20))
    def test_any_cut_gives_the_same(self, tokens: list[bytes], cut: int) -> None:
        """The pieces in which a message lies in the database change nothing."""
        header = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
        body = b"".join(tokens)
        pieces = [body[start : start + cut] for start in range(0, len(body), cut)]
        self.assertEqual(surrogate(header, *pieces), surrogate(header, body))
