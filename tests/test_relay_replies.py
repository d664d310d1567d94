"""The reply reader of the client side: any segmentation, strict where a lie could hide."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.relay.replies import LINE_LIMIT, LINES_LIMIT, Dialect, PeerReply, ReplyError, ReplyReader, readable
from tests.memory import cut_at

GREETING = b"220 mail.example.org ESMTP\r\n"
EHLO = b"250-mail.example.org\r\n250-SIZE 1000\r\n250-STARTTLS\r\n250 HELP\r\n"


def read(octets: bytes, dialect: Dialect = Dialect.SMTP) -> list[PeerReply]:
    """All replies in these octets."""
    reader = ReplyReader(dialect)
    reader.feed(octets)
    return drain(reader)


def drain(reader: ReplyReader) -> list[PeerReply]:
    found = []
    while (reply := reader.next_reply()) is not None:
        found.append(reply)
    return found


class SmtpReplies(SynchronousTestCase):
    """RFC 5321 section 4.2."""

    def test_one_line_and_many(self) -> None:
        """A reply is its code and its lines without code and separator."""
        self.assertEqual(
            read(GREETING + EHLO),
            [
                PeerReply(220, ("mail.example.org ESMTP",)),
                PeerReply(250, ("mail.example.org", "SIZE 1000", "STARTTLS", "HELP")),
            ],
        )

    def test_what_only_looks_odd(self) -> None:
        """No text, no space, LF alone and octets beyond ASCII change nothing of the meaning."""
        self.assertEqual(
            read(b"250\r\n250 \r\n250-a\n250\n554 no \xff\x1b[2J\r\n"),
            [
                PeerReply(250, ("",)),
                PeerReply(250, ("",)),
                PeerReply(250, ("a", "")),
                PeerReply(554, (r"no \xff\x1b[2J",)),
            ],
        )

    def test_what_is_no_reply(self) -> None:
        """Another code within a reply, signs, short codes, codes that do not exist and other protocols are refused."""
        for octets in (
            b"250-a\r\n251 b\r\n",
            b"+22 hello\r\n",
            b"25 hello\r\n",
            b"2500 hello\r\n",
            b"150 hello\r\n",
            b"600 hello\r\n",
            b"250_hello\r\n",
            "\u0662\u0665\u0660 hello\r\n".encode(),
            b"HTTP/1.1 400 Bad Request\r\n",
            b"\r\n",
            b" 250 hello\r\n",
        ):
            self.assertRaises(ReplyError, read, octets)

    def test_without_end(self) -> None:
        """A line, a reply and a flood that do not end are cut off."""
        reader = ReplyReader()
        self.assertRaises(ReplyError, reader.feed, b"250 " + b"x" * LINE_LIMIT)
        self.assertRaises(ReplyError, read, b"250 " + b"x" * LINE_LIMIT + b"\r\n")
        self.assertRaises(ReplyError, read, b"250-x\r\n" * (LINES_LIMIT + 1))
        self.assertRaises(ReplyError, ReplyReader().feed, b"250 x\r\n" * 10_000)

    def test_what_was_sent_too_early_is_seen(self) -> None:
        """What stands behind a reply, whole or not, in the middle of another or not, is unread.

        Rule: Nothing behind the 220 of STARTTLS is read, on the client's side
        """
        for behind in (b"2", b"250 ok\r\n", b"250-ok\r\n", b"\n"):
            reader = ReplyReader()
            reader.feed(b"220 go ahead\r\n" + behind)
            self.assertEqual(reader.next_reply(), PeerReply(220, ("go ahead",)))
            self.assertGreater(reader.unread, 0)
        reader = ReplyReader()
        reader.feed(b"250-first\r\n")
        self.assertIsNone(reader.next_reply())
        self.assertGreater(reader.unread, 0)

    def test_enhanced_code(self) -> None:
        """An enhanced status code counts when its class is that of the code (RFC 2034 section 4)."""
        told = [
            PeerReply(code, (text,)).enhanced for code, text in ((550, "5.1.1 no"), (250, "2.0.0"), (250, "5.1.1 x"))
        ]
        self.assertEqual(told, ["5.1.1", "2.0.0", ""])

    @given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8))
    @settings(deadline=None)
    def test_any_segmentation(self, junk: bytes, places: list[int]) -> None:
        """Replies do not depend on where the segments are cut, and nothing but `ReplyError` is ever raised."""
        octets = GREETING + EHLO + junk

        def outcome(pieces: list[bytes]) -> tuple[list[PeerReply], bool]:
            reader = ReplyReader()
            found: list[PeerReply] = []
            try:
                for piece in pieces:
                    reader.feed(piece)
                    while (reply := reader.next_reply()) is not None:
                        found.append(reply)
            except ReplyError:
                return found, True
            return found, False

        self.assertEqual(outcome([octets]), outcome(cut_at(octets, places)))
        self.assertEqual(outcome([octets]), outcome([octets[n : n + 1] for n in range(len(octets))]))


class OtherDialects(SynchronousTestCase):
    """POP3 and IMAP, as far as a probe needs them."""

    def test_pop3(self) -> None:
        """+OK and -ERR, and a list up to its dot."""
        reader = ReplyReader(Dialect.POP3)
        reader.feed(b"+OK ready\r\n+OK list\r\nSTLS\r\n..x\r\n.\r\n-ERR no\r\n")
        self.assertEqual(reader.next_reply(), PeerReply(200, ("ready",)))
        self.assertEqual(reader.next_reply(), PeerReply(200, ("list",)))
        self.assertEqual(reader.next_lines(), ("STLS", ".x"))
        self.assertEqual(reader.next_reply(), PeerReply(500, ("no",)))
        self.assertRaises(ReplyError, read, b"220 x\r\n", Dialect.POP3)

    def test_imap(self) -> None:
        """Untagged lines come before the tagged one; PREAUTH is no greeting to go on with."""
        reader = ReplyReader(Dialect.IMAP)
        reader.feed(b"* OK ready\r\n* CAPABILITY IMAP4rev1 STARTTLS\r\na1 OK done\r\n")
        self.assertEqual(reader.next_reply(), PeerReply(200, ("* OK ready",)))
        answer = reader.next_reply(b"a1")
        assert answer is not None
        self.assertEqual(answer.lines, ("* CAPABILITY IMAP4rev1 STARTTLS", "a1 OK done"))
        self.assertFalse(read(b"* PREAUTH welcome\r\n", Dialect.IMAP)[0].is_positive)
        self.assertRaises(ReplyError, read, b"220 x\r\n", Dialect.IMAP)

    def test_readable(self) -> None:
        """Nothing of a stranger moves a terminal's cursor."""
        self.assertEqual(readable(b"a\x1b\r\n\xc3"), r"a\x1b\x0d\x0a\xc3")
