"""The wire engine: how TCP cuts a stream must never change what is read from it (DESIGN section 4)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.wire.lines import BareLineFeed, BodyEnd, BodyPiece, Event, Line, LineReader, LineTooLong, stuffed
from tests.memory import byte_by_byte, cut_at, pieces_of

LIMIT = 20

DATA = Line(b"DATA")
BDAT = re.compile(rb"BDAT ([0-9]{1,2})\Z")


def read(segments: Iterable[bytes], *, limit: int = LIMIT) -> list[Event]:
    """The events of a stream in which DATA begins a dotted body and BDAT n a counted one.

    The pieces of a body are joined: how many there are is all that may depend on the segments.
    """
    reader = LineReader(limit)
    events: list[Event] = []
    for segment in segments:
        reader.feed(segment)
        while (event := reader.next_event()) is not None:
            if isinstance(event, BodyPiece):
                assert event.data, "a body piece is never empty"
                if events and isinstance(events[-1], BodyPiece):
                    event = BodyPiece(events.pop().data + event.data)  # type: ignore[union-attr]
            events.append(event)
            if event == DATA:
                reader.read_dotted_body()
            elif isinstance(event, Line) and (bdat := BDAT.match(event.data)):
                reader.read_counted_body(int(bdat[1]))
    return events


def body_of(octets: bytes, cut: Callable[[bytes], Iterable[bytes]] = lambda data: [data]) -> list[Event]:
    """The events of ``octets`` read as a dotted body."""
    return read([b"DATA\r\n", *cut(octets)])[1:]


_PARTS = (
    b"\r\n",
    b"\r",
    b"\n",
    b".",
    b"..",
    b"\r\n.\r\n",
    b"\r\n.",
    b"DATA\r\n",
    b"BDAT 7\r\n",
    b"BDAT 0\r\n",
    b"NOOP\r\n",
    b"x",
    b"y" * (LIMIT - 3),
    b"z" * LIMIT,
    b"\0\xff",
)
_streams = st.lists(st.sampled_from(_PARTS), max_size=30).map(b"".join)
_places = st.lists(st.integers(0, 300), max_size=15)


class SegmentationTests(SynchronousTestCase):
    """One script in every segmentation."""

    @settings(deadline=None, max_examples=500)
    @given(_streams, _places)
    def test_any_cut(self, stream: bytes, places: list[int]) -> None:
        """Whole, byte by byte, and cut anywhere: the same events and the same bodies."""
        expected = read([stream])
        self.assertEqual(read(byte_by_byte(stream)), expected)
        self.assertEqual(read(cut_at(stream, places)), expected)

    @settings(deadline=None)
    @given(_streams, _places)
    def test_nothing_is_lost(self, stream: bytes, places: list[int]) -> None:
        """What was fed has left in events or is pending; `clear` says how much that is, and leaves nothing."""
        reader = LineReader(LIMIT)
        for segment in cut_at(stream, places):
            reader.feed(segment)
        self.assertEqual(reader.pending, len(stream))
        self.assertEqual(reader.clear(), len(stream))
        self.assertEqual((reader.pending, reader.next_event()), (0, None))


class LineTests(SynchronousTestCase):
    """Command lines."""

    def test_lines(self) -> None:
        """A line ends in CRLF; a CR elsewhere is part of it."""
        self.assertEqual(
            read([b"EHLO x\r\n\r\n a \r\na\rb\r\n\r\r\nrest"]),
            [Line(b"EHLO x"), Line(b""), Line(b" a "), Line(b"a\rb"), Line(b"\r")],
        )

    def test_bare_line_feed(self) -> None:
        """A line that ends in LF alone is neither a line nor the beginning of the next (RFC 5321 section 2.3.8)."""
        self.assertEqual(read([b"RSET\nNOOP\r\n\n"]), [BareLineFeed(), Line(b"NOOP"), BareLineFeed()])

    def test_limit(self) -> None:
        """The limit counts the CRLF: a line of exactly that length is taken, one more octet is too long."""
        for cut in (lambda data: [data], byte_by_byte):
            self.assertEqual(read(cut(b"a" * 18 + b"\r\nNOOP\r\n")), [Line(b"a" * 18), Line(b"NOOP")])
            self.assertEqual(read(cut(b"a" * 19 + b"\r\nNOOP\r\n")), [LineTooLong(), Line(b"NOOP")])

    def test_too_long_is_one_event(self) -> None:
        """A line of any length beyond the limit is one event, and nothing of it is kept."""
        reader = LineReader(LIMIT)
        events = []
        for _ in range(1000):
            reader.feed(b"x" * 1000)
            events.append(reader.next_event())
            self.assertLessEqual(reader.pending, 1000)
        self.assertEqual([event for event in events if event is not None], [LineTooLong()])
        reader.feed(b"\r\nNOOP\r\n")
        self.assertEqual(reader.next_event(), Line(b"NOOP"))

    def test_too_long_ends_at_its_own_end(self) -> None:
        """The line after one that was too long is a command again, also when the end was LF alone."""
        self.assertEqual(read([b"x" * 50 + b"\nNOOP\r\n"]), [LineTooLong(), Line(b"NOOP")])

    def test_limit_may_change(self) -> None:
        """A larger limit holds from the next event on, also for octets that are here already."""
        reader = LineReader(LIMIT)
        reader.feed(b"a" * 15)
        self.assertIsNone(reader.next_event())
        reader.line_limit = 100
        reader.feed(b"a" * 60 + b"\r\n")
        self.assertEqual(reader.next_event(), Line(b"a" * 75))
        reader.line_limit = LIMIT
        reader.feed(b"a" * 75 + b"\r\n")
        self.assertEqual(reader.next_event(), LineTooLong())

    def test_clear_ends_a_long_line(self) -> None:
        """After `clear` a line is a line, whatever was half read before."""
        reader = LineReader(LIMIT)
        reader.feed(b"x" * 50)
        self.assertEqual(reader.next_event(), LineTooLong())
        reader.clear()
        reader.feed(b"NOOP\r\n")
        self.assertEqual(reader.next_event(), Line(b"NOOP"))

    def test_many_lines_cost_little(self) -> None:
        """A buffer of many lines is not copied for each of them: 100,000 lines are read in one go."""
        reader = LineReader(LIMIT)
        reader.feed(b"NOOP\r\n" * 100_000)
        number = 0
        while reader.next_event() is not None:
            number += 1
        self.assertEqual((number, reader.pending), (100_000, 0))


class DottedBodyTests(SynchronousTestCase):
    """The body of DATA: only CRLF.CRLF ends it (RFC 5321 sections 2.3.8 and 4.1.1.4)."""

    def test_end(self) -> None:
        """CRLF.CRLF ends the body, the first CRLF belongs to it; or a first line of one dot ends it, empty.

        Rule: Smuggling: only CRLF.CRLF ends DATA
        """
        self.assertEqual(body_of(b"a\r\n.\r\nNOOP\r\n"), [BodyPiece(b"a\r\n"), BodyEnd(), Line(b"NOOP")])
        self.assertEqual(body_of(b".\r\nNOOP\r\n"), [BodyEnd(), Line(b"NOOP")])
        self.assertEqual(body_of(b"\r\n.\r\n"), [BodyPiece(b"\r\n"), BodyEnd()])

    def test_smuggling(self) -> None:
        """No other sequence ends a body, in any segmentation: what SMTP smuggling lives on.

        Rule: Smuggling: only CRLF.CRLF ends DATA
        """
        for fake in (
            b"\n.\n",
            b"\r\n.\n",
            b"\n.\r\n",
            b"\r.\r",
            b"\r.\r\n",
            b"\r\n.\r",
            b"\n.\r",
            b"\r.\n",
            b"\r\r\n.\n",
            b"\r\n.\r\r\n",
            b"\r\n.\0\r\n",
            b"\r\n\0.\r\n",
            b"\r\n. \r\n",
            b"\r\n.\n\r\n",
            b"\r\r.\r\n",
            b"\n\r.\r\n",
            b"\r\n..\r\n",
        ):
            smuggled = b"x" + fake + b"MAIL FROM:<a@b>\r\n"
            for cut in (lambda data: [data], byte_by_byte):
                events = body_of(smuggled + b".\r\n", cut)
                self.assertEqual(len(events), 2, (fake, events))
                self.assertEqual(events[1], BodyEnd(), fake)
                expected = smuggled.replace(b"\r\n.", b"\r\n")
                self.assertEqual(events[0], BodyPiece(expected), fake)

    def test_first_line(self) -> None:
        """At the very beginning, too, only a dot and CRLF end the body."""
        for start in (b".\n", b".\rx", b".. \r", b".x", b".\r\r\n"):
            events = body_of(start + b"\r\n.\r\n")
            self.assertEqual(events, [BodyPiece(start[1:] + b"\r\n"), BodyEnd()], start)

    def test_dots(self) -> None:
        """One dot goes from the beginning of each line that has one, no other dot is touched."""
        self.assertEqual(
            body_of(b"..\r\n...\r\na.\r\n.b\r\n..c\r\n\r\n..\r\n.\r\n"),
            [BodyPiece(b".\r\n..\r\na.\r\nb\r\n.c\r\n\r\n.\r\n"), BodyEnd()],
        )

    def test_little_is_held_back(self) -> None:
        """Of a body only what may become its end stays behind, so that nobody holds a message in memory."""
        reader = LineReader(LIMIT)
        reader.read_dotted_body()
        for _ in range(100):
            reader.feed(b"x" * 10_000 + b"\r\n.")
            reader.next_event()
            self.assertLess(reader.pending, 5)

    def test_clear_ends_a_body(self) -> None:
        """After `clear` lines are read again."""
        reader = LineReader(LIMIT)
        reader.read_dotted_body()
        reader.feed(b"abc")
        reader.clear()
        reader.feed(b"NOOP\r\n")
        self.assertEqual(reader.next_event(), Line(b"NOOP"))


class CountedBodyTests(SynchronousTestCase):
    """A body of a known number of octets."""

    def test_exact(self) -> None:
        """Exactly so many octets are the body, whatever they look like."""
        for cut in (lambda data: [data], byte_by_byte):
            self.assertEqual(
                read(cut(b"BDAT 7\r\n\r\n.\r\n.\nNOOP\r\n")),
                [Line(b"BDAT 7"), BodyPiece(b"\r\n.\r\n.\n"), BodyEnd(), Line(b"NOOP")],
            )

    def test_nothing(self) -> None:
        """A body of no octets ends at once."""
        self.assertEqual(read([b"BDAT 0\r\nNOOP\r\n"]), [Line(b"BDAT 0"), BodyEnd(), Line(b"NOOP")])


_bodies = st.lists(st.sampled_from((b"\r\n", b".", b"..", b"x", b"\r\n.\r\n", b"\xff\0")), max_size=30).map(b"".join)
_sizes = st.lists(st.integers(1, 6), max_size=20)


def stuff(pieces: Iterable[bytes]) -> bytes:
    """A body in pieces, as the servers send it."""
    octets, at_line_start = b"", True
    for piece in pieces:
        octets += stuffed(piece, at_line_start)
        at_line_start = piece.endswith(b"\n") if piece else at_line_start
    return octets


class StuffingTests(SynchronousTestCase):
    """Transparency: RFC 1939 section 3 and RFC 5321 section 4.5.2."""

    @settings(deadline=None, max_examples=300)
    @given(_bodies, _sizes, _places)
    def test_round_trip(self, body: bytes, sizes: list[int], places: list[int]) -> None:
        """A body that is stuffed in any pieces and read in any segments is the same body."""
        body += b"\r\n"
        wire = stuff(pieces_of(body, sizes))
        self.assertEqual(wire, stuff([body]))
        events = body_of(wire + b".\r\nNOOP\r\n", lambda data: cut_at(data, places))
        self.assertEqual(events, [BodyPiece(body), BodyEnd(), Line(b"NOOP")])

    @settings(deadline=None)
    @given(_bodies, _sizes)
    def test_no_line_of_one_dot(self, body: bytes, sizes: list[int]) -> None:
        """No line of a stuffed body is a single dot: nothing in it can end the reply early."""
        lines = stuff(pieces_of(body, sizes)).split(b"\r\n")
        self.assertNotIn(b".", [line.rstrip(b"\r\n") for line in lines])

    def test_examples(self) -> None:
        """Dots at line starts are doubled, at the start of the body too; an empty piece changes nothing."""
        self.assertEqual(stuff([b".\r\n.a\r\nb.\r\n"]), b"..\r\n..a\r\nb.\r\n")
        self.assertEqual(stuff([b"a\r\n", b"", b".\r\n"]), b"a\r\n..\r\n")
        self.assertEqual(stuff([b"a\r", b"\n", b".", b".\r\n"]), b"a\r\n...\r\n")
        self.assertEqual(stuff([b"a", b".\r\n"]), b"a.\r\n")
