"""Quota: who is full, when a warning is due, what it says, and how sizes are written."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes, policy

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.directory.quota import FULL, in_words, must_warn, parse_size, refusal, warning
from mailsvc.directory.resolve import Resolution
from mailsvc.directory.tables import Mailbox
from mailsvc.mail.address import parse_address

ALICE = parse_address("alice@example.org")


def _resolution(*mailboxes: Mailbox) -> Resolution:
    return Resolution(ALICE, (), mailboxes, (), (), None, True, False)


class Refusal(SynchronousTestCase):
    def test_declared_size(self) -> None:
        """What fits exactly is taken; without a declared size there must be room for something."""
        half_full = _resolution(Mailbox(1, ALICE, used=50, quota=100))
        self.assertEqual([refusal(half_full, size) for size in (0, 50, 51)], [None, None, FULL])
        full = _resolution(Mailbox(1, ALICE, used=100, quota=100))
        self.assertEqual(refusal(full, 0), FULL)

    def test_any_of_several(self) -> None:
        """One full account holds up an alias; accounts without a quota are never full."""
        free = Mailbox(1, ALICE, used=10**12)
        full = Mailbox(2, ALICE, used=7, quota=5)
        self.assertEqual(refusal(_resolution(free), 10**9), None)
        self.assertEqual(refusal(_resolution(free, full), 1), FULL)

    def test_reserved_names(self) -> None:
        """Mail for postmaster and abuse is taken all the same."""
        full = _resolution(Mailbox(2, ALICE, used=7, quota=5))
        self.assertEqual(refusal(replace(full, is_reserved=True), 10), None)


class Warning(SynchronousTestCase):
    def test_once(self) -> None:
        """From nine tenths on, once, and again only when it has been below eight tenths.

        Rule: Quota: one warning at 90 %
        """
        for before, after, warned, due in [
            (0, 899, False, False),
            (0, 900, False, True),
            (950, 960, True, False),
            (800, 900, True, False),
            (799, 900, True, True),
        ]:
            self.assertEqual(must_warn(before, after, 1000, warned=warned), due, (before, after, warned))

    def test_text(self) -> None:
        """The warning is a message that mail programs read, and that no vacation program answers."""
        header, body = warning(
            "jörg@example.org", 950, 1000, hostname="mail.example.org", trace_id="T1", now=1_700_000_000.0
        )
        message = message_from_bytes(header + body, policy=policy.default)
        self.assertEqual(message["subject"], "Your mailbox is 95 % full")
        self.assertEqual(message["auto-submitted"], "auto-generated")
        self.assertIn("jörg@example.org", message.get_content())
        self.assertEqual(len((header + body).split(b"\r\n")), (header + body).count(b"\n") + 1)


class Sizes(SynchronousTestCase):
    def test_spellings(self) -> None:
        """Sizes are octets, or a number with a unit."""
        for text, octets in [
            ("1048576", 1048576),
            ("1M", 1048576),
            ("1 MiB", 1048576),
            ("1.5g", 3 << 29),
            ("2TB", 2 << 40),
            ("0", 0),
            ("", None),
            ("-1", None),
            ("1X", None),
            ("M", None),
            ("1e9", None),
            ("nan", None),
            ("1.2.3", None),
            ("٣", None),
        ]:
            self.assertEqual(parse_size(text), octets, text)

    @settings(deadline=None)
    @given(st.text(max_size=12))
    def test_any_text(self, text: str) -> None:
        """Any text is a size or is not; it never is an error."""
        size = parse_size(text)
        self.assertTrue(size is None or size >= 0)

    def test_in_words(self) -> None:
        """People see the unit that fits."""
        self.assertEqual([in_words(n) for n in (7, 1536, 5 << 30)], ["7 octets", "1.5 KiB", "5 GiB"])
