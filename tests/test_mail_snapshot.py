"""A maildrop in columns: the same as a list of items, in a few dozen octets a message."""

from __future__ import annotations

import sys

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mail.snapshot import BLOCK, MaildropItem, Snapshot

_UIDLS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=70)
_ITEMS = st.lists(
    st.builds(MaildropItem, st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1), st.integers(0, 2**40), _UIDLS),
    max_size=20,
)


class SnapshotTests(SynchronousTestCase):
    """Columns and rows say the same."""

    @settings(deadline=None)
    @given(_ITEMS, st.sampled_from((1, 40, 100)), st.integers(-30, 30), st.integers(-30, 30))
    def test_like_a_list(self, items: list[MaildropItem], times: int, begin: int, end: int) -> None:
        """Length, order, single items from both ends and slices are those of a list, in one block and in several."""
        items = items * times
        found = Snapshot.of(items)
        self.assertEqual((len(found), list(found)), (len(items), items))
        self.assertEqual(found[begin:end], items[begin:end])
        for index in (begin, end, len(items) - 1, -len(items)):
            if -len(items) <= index < len(items):
                self.assertEqual(found[index], items[index])
            else:
                self.assertRaises(IndexError, found.__getitem__, index)

    def test_blocks_are_full(self) -> None:
        """Only the last block may be short: a gap would give messages the UIDLs of others."""
        row = (1, 1, 1, "a")
        for blocks in ([[row], [row]], [[row] * (BLOCK + 1)], [[row] * BLOCK, [row], []]):
            self.assertRaises(ValueError, Snapshot, blocks)
        self.assertEqual(len(Snapshot([[row] * BLOCK, [row]])), BLOCK + 1)
        self.assertEqual(len(Snapshot([[]])), 0)

    def test_memory(self) -> None:
        """A message with a UIDL of ours takes less than 56 octets."""
        many = 100_000
        items = (MaildropItem(uid, 2 * uid, 4000, f"{uid}.{uid:016x}") for uid in range(1, many + 1))
        found = Snapshot.of(items)
        columns = (found.uids, found.message_ids, found.sizes, found._uidls, *found._uidls)
        self.assertLess(sum(map(sys.getsizeof, columns)), 56 * many)
