"""Line ends, names in a Maildir, mbox and dovecot-uidlist: the pure half of `mailsvc mailbox import|export`."""

from __future__ import annotations

import io
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.errors import MailsvcError
from mailsvc.mailbox import maildir, uidlist
from mailsvc.mailbox.lineends import ToCrlf, ToLf
from mailsvc.mailbox.mbox import NotAnMbox, Quoter, Quoting, Unquoter, entries, from_line
from mailsvc.mailbox.uidlist import UidlFormat, UidListRefused

# What quoting and line ends are about stands close together here.
_TEXT = st.lists(st.sampled_from([b"From ", b">", b"\n", b"\r\n", b"\r", b"F", b"rom", b" ", b"x", b"Fro"])).map(
    b"".join
)
_WIRE = _TEXT.map(lambda text: text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
_PROPER = "".join(map(chr, range(0x21, 0x7F)))
_CUTS = st.lists(st.integers(0, 60))


def cut(text: bytes, places: list[int]) -> list[bytes]:
    """`text` in pieces."""
    edges = sorted({0, len(text), *(place for place in places if place < len(text))})
    return [text[begin:end] for begin, end in pairwise(edges)]


def quoted(text: bytes, places: list[int]) -> bytes:
    """`text` as it stands in an mboxrd."""
    quoter = Quoter()
    return b"".join(map(quoter.feed, cut(text, places))) + quoter.close()


def unquoted(text: bytes, places: list[int], quoting: Quoting = Quoting.MBOXRD) -> bytes:
    """The message whose quoted form is `text`."""
    unquoter = Unquoter(quoting)
    return b"".join(map(unquoter.feed, cut(text, places))) + unquoter.close()


class LineEnds(SynchronousTestCase):
    @settings(deadline=None, max_examples=60)
    @given(_TEXT, _CUTS)
    def test_cuts_change_nothing(self, text: bytes, places: list[int]) -> None:
        """However a message comes in pieces, each LF gets its CR, once."""
        convert = ToCrlf()
        result = b"".join(map(convert.feed, cut(text, places)))
        self.assertEqual(result, text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))

    @settings(deadline=None, max_examples=60)
    @given(_WIRE, _CUTS, _CUTS)
    def test_there_and_back(self, text: bytes, places: list[int], others: list[int]) -> None:
        """LF and back to CRLF is the same message, or `exact` has said that it is not."""
        convert, back = ToLf(), ToCrlf()
        lines = b"".join(map(convert.feed, cut(text, places))) + convert.close()
        self.assertEqual(lines, text.replace(b"\r\n", b"\n"))
        self.assertEqual(convert.exact, b"\r\r\n" not in text)
        if convert.exact:
            self.assertEqual(b"".join(map(back.feed, cut(lines, others))), text)


class Names(SynchronousTestCase):
    def test_what_a_name_tells(self) -> None:
        """The unique part is what stands before the flags, and begins with the time of delivery, or not."""
        self.assertEqual(maildir.unique_part(b"1700000000.M1P2.host,S=3:2,RS"), b"1700000000.M1P2.host,S=3")
        self.assertEqual(maildir.delivered_at(b"1700000000.M1P2.host"), 1700000000.0)
        for name in (b"message", b"17.x", b"1700000000", b"99999999999999999.x"):
            self.assertIsNone(maildir.delivered_at(name), name)

    def test_key_is_of_the_message_not_of_its_flags(self) -> None:
        """A message that was read meanwhile is the same; the same name in a folder is another."""
        self.assertEqual(maildir.source_key("", b"1.x:2,"), maildir.source_key("", b"1.x:2,S"))
        self.assertNotEqual(maildir.source_key("", b"1.x"), maildir.source_key("Archive", b"1.x"))

    def test_our_names(self) -> None:
        """Names of exports are the same each time, are known again, and differ between mailboxes and unique-ids."""
        one = maildir.stem("alice@example.org", 1700000000.9, 7, "7.ab")
        name = maildir.sized(one, 10, 12)
        self.assertEqual(one, maildir.stem("alice@example.org", 1700000000.9, 7, "7.ab"))
        self.assertTrue(maildir.is_ours(name.encode() + b":2,S"))
        self.assertEqual(maildir.beginning_of(name.encode() + b":2,S"), one.encode())
        self.assertNotEqual(one, maildir.stem("bob@example.org", 1700000000.9, 7, "7.ab"))
        self.assertNotEqual(one, maildir.stem("alice@example.org", 1700000000.9, 7, "7.ac"))
        self.assertFalse(maildir.is_ours(b"1700000000.M1P2.mailsvc"))

    def test_folders(self) -> None:
        """A folder is named with or without its dot, with dots or slashes inside; nothing leads out of the Maildir."""
        for text in ("Archive.2024", ".Archive.2024", "Archive/2024"):
            self.assertEqual(maildir.folder_name(text), "Archive.2024")
        for text in ("", ".", "..", "../x", "a/../b", "a..b", "x/", "x\0"):
            self.assertRaises(MailsvcError, maildir.folder_name, text)


class Mbox(SynchronousTestCase):
    def found(self, text: bytes, quoting: Quoting = Quoting.MBOXRD) -> list[bytes]:
        """The messages of an mbox, still quoted."""
        return [text[entry.begin : entry.end] for entry in entries(io.BytesIO(text), quoting)]

    @settings(deadline=None, max_examples=60)
    @given(_TEXT, _CUTS, _CUTS)
    def test_quoting_is_undone(self, text: bytes, places: list[int], others: list[int]) -> None:
        """mboxrd: whatever a message holds, quoted and unquoted it is the same, however it is cut."""
        inside = quoted(text, places)
        self.assertNotRegex(inside, rb"(?m)^From ")
        self.assertEqual(inside, quoted(text, []))
        self.assertEqual(unquoted(inside, others), text)

    @settings(deadline=None, max_examples=60)
    @given(_TEXT, _CUTS)
    def test_mboxo(self, text: bytes, places: list[int]) -> None:
        """mboxo: exactly one ">" before "From " goes, at the beginning of a line only."""
        wanted = b"\n".join(line[1:] if line.startswith(b">From ") else line for line in text.split(b"\n"))
        self.assertEqual(unquoted(text, places, Quoting.MBOXO), wanted)

    @settings(deadline=None, max_examples=60)
    @given(st.lists(_TEXT.map(lambda text: b"Subject: x\n\n" + text.replace(b"\r", b"") + b"\n"), max_size=5))
    def test_files_are_taken_apart(self, messages: list[bytes]) -> None:
        """As many messages come out as went in, each what it was."""
        file = b"".join(from_line("", 1e9) + quoted(message, []) + b"\n" for message in messages)
        self.assertEqual([unquoted(inside, []) for inside in self.found(file)], messages)

    def test_from_line(self) -> None:
        """Sender and time are read from the forms of several programs, and only from a line with a date."""
        for line, sender, moment in (
            (b"From alice@example.org Tue Nov 14 22:13:20 2023", "alice@example.org", 1700000000),
            (b"From alice@example.org  Tue Nov 14 22:13:20 2023\r", "alice@example.org", 1700000000),
            (b"From alice@example.org Tue Nov 14 23:13:20 2023 +0100", "alice@example.org", 1700000000),
            (b"From 17@xxx Tue Nov 14 22:13:20 +0000 2023", "17@xxx", 1700000000),
            (b"From MAILER-DAEMON Tue Nov 14 22:13 2023", "MAILER-DAEMON", 1699999980),
            (b"From a b Tue Nov 14 22:13:20 GMT 2023", "a b", 1700000000),
            (b"From Tue Nov 14 22:13:20 2023", "", 1700000000),
        ):
            [entry] = entries(io.BytesIO(line + b"\nx\n"), Quoting.MBOXRD)
            self.assertEqual((entry.sender, entry.received_at), (sender, moment), line)
        for line in (b"From here on", b"From a Tue Nov 44 22:13:20 2023", b"from a Tue Nov 14 22:13:20 2023", b"x"):
            self.assertRaises(NotAnMbox, self.found, line + b"\n")

    def test_our_from_line(self) -> None:
        """What we write is read again; a sender that would spoil the line is left out."""
        for sender, read in (("a@example.org", "a@example.org"), ("", "MAILER-DAEMON"), ('"a b"@x', "MAILER-DAEMON")):
            [entry] = entries(io.BytesIO(from_line(sender, 1700000000.7)), Quoting.MBOXRD)
            self.assertEqual((entry.sender, entry.received_at), (read, 1700000000))
        self.assertEqual(from_line("a\nFrom x", 0), from_line("", 0))

    def test_prose_is_no_separator(self) -> None:
        """A line "From here on" ends no message, also behind an empty line."""
        file = from_line("", 0) + b"Subject: x\n\n\nFrom here on\n\n"
        self.assertEqual(self.found(file), [b"Subject: x\n\n\nFrom here on\n"])

    def test_edges(self) -> None:
        """Empty files, messages without anything, missing empty lines and CRLF."""
        line = from_line("", 0)
        self.assertEqual(self.found(b""), [])
        self.assertEqual(self.found(line), [b""])
        self.assertEqual(self.found(b"\n\n" + line + b"a\n" + line + b"b"), [b"a\n", b"b"])
        self.assertEqual(self.found(line + b"a\r\n\r\n" + line + b"b\n\n\n"), [b"a\r\n", b"b\n\n"])
        long = b"x" * 70_000 + line
        self.assertEqual(self.found(line + long), [long])

    def test_content_length(self) -> None:
        """mboxcl2: Content-Length counts when a message or the end follows there, else the next From_ line does."""
        inner = b"text\n" + from_line("evil@example.org", 0) + b"more\n"
        for length, wanted in ((len(inner), 2), (len(inner) - 1, 3), (0, 3), (10**9, 3)):
            header = b"Subject: x\nContent-Length: %d\n\n" % length
            file = from_line("", 0) + header + inner + b"\n" + from_line("", 0) + b"b\n"
            self.assertEqual(len(self.found(file, Quoting.MBOXCL2)), wanted, length)
        self.assertEqual(self.found(from_line("", 0) + b"Content-Length: 2\n\na\n", Quoting.MBOXCL2)[0][-2:], b"a\n")

    def test_content_length_swallows_nothing(self) -> None:
        """In the other forms a sender's Content-Length that reaches over the next message has no effect."""
        other = from_line("", 0) + b"Subject: secret\n\nfor somebody else\n\n"
        file = from_line("", 0) + b"Content-Length: %d\n\n" % len(other) + other
        for quoting in (Quoting.MBOXRD, Quoting.MBOXO):
            self.assertEqual(len(self.found(file, quoting)), 2)

    def test_digests(self) -> None:
        """The digest is of the message and its From_ line, not of its place."""
        one, two = from_line("", 0) + b"a\n\n", from_line("", 0) + b"b\n\n"
        first, second = (list(entries(io.BytesIO(file), Quoting.MBOXRD)) for file in (one + two, two + one))
        self.assertEqual([entry.digest for entry in first], [entry.digest for entry in reversed(second)])
        self.assertNotEqual(first[0].digest, first[1].digest)


HEADER = b"3 V1275660208 N31 G3085f01b7f11094c501100008c4a11c1\n"


class UidLists(SynchronousTestCase):
    def test_version_3(self) -> None:
        """Uids, names without flags, own unique-ids, orders and GUIDs are read; other fields do not matter."""
        found = uidlist.parse(
            [HEADER, b"7 Gmine W26 :1.a,S=22:2,S\n", b"12 Pown-uidl O3 :2.b\n", b"20 P :3.c\n", b"30 :4.d e\n"]
        )
        self.assertEqual((found.validity, found.next_uid, found.problems), (1275660208, 31, ()))
        self.assertEqual(
            list(found.records.values()),
            [
                uidlist.Record(7, b"1.a,S=22", None, None, "mine"),
                uidlist.Record(12, b"2.b", "own-uidl", 3, None),
                uidlist.Record(20, b"3.c", "", None, None),
                uidlist.Record(30, b"4.d e"),
            ],
        )

    def test_version_1(self) -> None:
        """The list of an old Dovecot is read, too."""
        found = uidlist.parse([b"1 1275660208 30\n", b"1 1.a\n", b"2 2.b:2,S\n"])
        self.assertEqual([record.name for record in found.records.values()], [b"1.a", b"2.b"])

    def test_damaged_lines_are_left_out(self) -> None:
        """One bad line costs one message its unique-id, and is told of."""
        bad = [b"\n", b"x :n\n", b"7\n", b"7 \n", b"7 :\n", b"0 :n\n", b"7 n\n", b"99999999999 :n\n"]
        for line in bad:
            found = uidlist.parse([HEADER, b"5 :a\n", line, b"9 :b\n"])
            self.assertEqual(list(found.records), [b"a", b"b"], line)
            self.assertEqual(len(found.problems), 1, line)
        found = uidlist.parse([HEADER, b"9 :a\n", b"7 :b\n"])
        self.assertEqual(list(found.records), [b"a"])

    def test_other_files_are_refused(self) -> None:
        """What does not begin as a list is none."""
        for line in (b"", b"root:x:0:0\n", b"2 V1 N1\n", b"3 N1 G1\n", b"3 Vx N1\n", b"1 1\n", b"1 a b\n"):
            self.assertRaises(UidListRefused, uidlist.parse, [line])

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.binary(max_size=40)))
    def test_any_octets(self, lines: list[bytes]) -> None:
        """Whatever stands in the lines, each is read or left out."""
        found = uidlist.parse([HEADER, *lines])
        self.assertLessEqual(len(found.records) + len(found.problems), len(lines))

    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(
            st.tuples(st.text("09azAZ.,=_-", min_size=1, max_size=30), st.text(_PROPER, min_size=1, max_size=70)),
            unique_by=lambda pair: pair[0],
        )
    )
    def test_written_and_read(self, pairs: list[tuple[str, str]]) -> None:
        """What we write is read again as the same, whatever characters a unique-id has."""
        records = [uidlist.Record(uid, name.encode(), uidl) for uid, (name, uidl) in enumerate(pairs, 1)]
        found = uidlist.parse(uidlist.written(5, len(pairs) + 1, "f" * 32, records))
        self.assertEqual((list(found.records.values()), found.problems), (records, ()))

    def test_order(self) -> None:
        """Messages with an order come first, by that, and all others by uid."""
        records = [
            uidlist.Record(uid, b"n", None, order) for uid, order in ((1, 5), (2, 2), (3, None), (4, 9), (8, None))
        ]
        self.assertEqual([record.uid for record in sorted(records, key=uidlist.pop3_order)], [2, 1, 4, 3, 8])

    def test_formats(self) -> None:
        """What a Dovecot 2.3.19 made of these formats (tests/interop/test_dovecot.py asks the one that is here)."""
        for text, wanted in (
            ("%08Xu%08Xv", "000000074c0907b0"),
            ("%v-%u", "1275660208-7"),
            ("%f", "1700000000.M0P12.host,S=22"),
            ("%g", "myguid"),
            ("%Mf", "c108730a3a105fcee5a95db2ea02f13a"),
            ("%-4f|%.5f|%3.4f|%5f", "1700|17000|0000|17000"),
            ("%Uf%Lf", "1700000000.M0P12.HOST,S=221700000000.m0p12.host,s=22"),
            ("%Rf%%", "22=S,tsoh.21P0M.0000000071%"),
            ("%5u|%05u|%-05u|%2.3v|%2.05v|%-3.2v|%.-2v", "7|00007|00007|756|75660208|20|12756602"),
            ("%XMu|%Tu", "8f14e45fceea167a5a36dedd4bea2543|7"),
        ):
            found = UidlFormat.parse(text).expand(
                uid=7, validity=1275660208, name="1700000000.M0P12.host,S=22", guid="myguid"
            )
            self.assertEqual(found, wanted, text)

    def test_formats_that_are_refused(self) -> None:
        """What mailsvc cannot follow is refused, never guessed."""
        for text in ("%m", "%{uid}", "%Hu", "%Nu", "%x", "%", "%08", "%08Xu%"):
            self.assertRaises(UidListRefused, UidlFormat.parse, text)

    def test_own_unique_ids_come_first(self) -> None:
        """A message's own unique-id is before the format; an empty one means the file's name."""
        form = UidlFormat.parse("%u")
        for uidl, wanted in ((None, "7"), ("own", "own"), ("", "1.a")):
            self.assertEqual(uidlist.uidl_of(uidlist.Record(7, b"1.a", uidl), 1, form), wanted)

    def test_proper_unique_ids(self) -> None:
        """1 to 70 characters from 0x21 to 0x7e (RFC 1939 section 7)."""
        for text, proper in (
            ("x", True),
            ("x" * 70, True),
            ("", False),
            ("x" * 71, False),
            ("a b", False),
            ("é", False),
        ):
            self.assertEqual(uidlist.is_uidl(text), proper, text)
