"""The downgrade memory's rules and rows."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.errors import NotFound
from mailsvc.storage.tls_policies import demanded, forget, memories, note_shown, overrides, set_override
from mailsvc.tls.levels import Level
from mailsvc.tls.memory import RENEW_SECONDS, Memory, Override, demand, learned
from tests.memory import empty_database

DAYS = 3 * 86400.0
LEVELS = st.sampled_from(list(Level))


class Rules(SynchronousTestCase):
    """`demand` and `learned`."""

    def test_nothing_is_wanted_of_a_stranger(self) -> None:
        """Of whom nothing is remembered, plain text is taken."""
        self.assertIs(demand(None, None, 0.0, DAYS).level, Level.PLAIN)

    def test_what_was_shown_is_wanted_for_the_time(self) -> None:
        """A memory holds until its time is over, and not a moment longer."""
        memory = Memory(Level.ENCRYPTED, 100.0)
        self.assertIs(demand(memory, None, 99.0 + DAYS, DAYS).level, Level.ENCRYPTED)
        self.assertIs(demand(memory, None, 100.0 + DAYS, DAYS).level, Level.PLAIN)

    def test_an_override_comes_first_and_ends(self) -> None:
        """An override lowers or raises what is wanted, until it ends."""
        memory = Memory(Level.NAME, 0.0)
        self.assertIs(demand(memory, Override(Level.PLAIN, 0.0, 10.0), 9.0, DAYS).level, Level.PLAIN)
        self.assertIs(demand(memory, Override(Level.DANE, 0.0, 10.0), 9.0, DAYS).level, Level.DANE)
        self.assertIs(demand(memory, Override(Level.PLAIN, 0.0, 10.0), 10.0, DAYS).level, Level.NAME)

    def test_the_same_again_is_written_once_an_hour(self) -> None:
        """A sender of thousands of messages costs a row an hour."""
        memory = Memory(Level.ENCRYPTED, 0.0)
        self.assertIsNone(learned(memory, Level.ENCRYPTED, RENEW_SECONDS - 1, DAYS))
        self.assertEqual(learned(memory, Level.ENCRYPTED, RENEW_SECONDS, DAYS), Memory(Level.ENCRYPTED, RENEW_SECONDS))

    @given(st.sampled_from(list(Level)[1:]), LEVELS, st.floats(0, 2 * DAYS), st.none() | LEVELS)
    @settings(deadline=None)
    def test_never_lowered_while_it_holds(self, known: Level, seen: Level, now: float, wanted: Level | None) -> None:
        """Whatever is seen, the memory's level does not fall before its time is over; and plain teaches nothing."""
        memory = Memory(known, 0.0)
        after = learned(memory, seen, now, DAYS) or memory
        if now < DAYS:
            self.assertGreaterEqual(after.level, known)
            self.assertGreaterEqual(demand(after, None, now, DAYS).level, demand(memory, None, now, DAYS).level)
        if seen is Level.PLAIN:
            self.assertEqual(after, memory)


class Rows(SynchronousTestCase):
    """The two tables."""

    def setUp(self) -> None:
        connection = empty_database()
        self.addCleanup(connection.close)
        self.txn: Any = connection.cursor()

    def shown(self, domain: str, peer: str, seen: Level, now: float) -> None:
        note_shown(self.txn, "in", domain, peer, seen, now, DAYS)

    def wanted(self, domain: str, peer: str, now: float, direction: str = "in") -> Level:
        return demanded(self.txn, direction, domain, peer, now, DAYS).level

    def test_of_one_domain_from_one_network(self) -> None:
        """What one host has shown says nothing of the domain from elsewhere, of another domain, or of the way out."""
        self.shown("example.org", "192.0.2.1", Level.ENCRYPTED, 0.0)
        self.assertIs(self.wanted("example.org", "192.0.2.1", 1.0), Level.ENCRYPTED)
        self.assertIs(self.wanted("example.org", "192.0.2.2", 1.0), Level.PLAIN)
        self.assertIs(self.wanted("example.net", "192.0.2.1", 1.0), Level.PLAIN)
        self.assertIs(self.wanted("example.org", "", 1.0, "out"), Level.PLAIN)

    def test_an_override_is_of_the_whole_domain(self) -> None:
        """An override holds for every network that the domain's mail comes from, and is replaced by the next."""
        self.shown("example.org", "192.0.2.1", Level.ENCRYPTED, 0.0)
        set_override(self.txn, "in", "example.org", Override(Level.CHAIN, 0.0, 50.0))
        set_override(self.txn, "in", "example.org", Override(Level.PLAIN, 0.0, 100.0))
        self.assertIs(self.wanted("example.org", "192.0.2.1", 60.0), Level.PLAIN)
        self.assertIs(self.wanted("example.org", "192.0.2.1", 100.0), Level.ENCRYPTED)
        self.assertEqual([row.override.level for row in overrides(self.txn, 60.0)], [Level.PLAIN])
        self.assertEqual(overrides(self.txn, 100.0), [])

    def test_old_rows_go(self) -> None:
        """What has been forgotten leaves the table when something new comes."""
        for number in range(30):
            self.shown(f"d{number}.example", "192.0.2.1", Level.ENCRYPTED, 0.0)
        for number in range(2):
            self.shown(f"new{number}.example", "192.0.2.1", Level.ENCRYPTED, DAYS + number)
        (left,) = self.txn.execute("SELECT COUNT(*) FROM tls_memory").fetchone()
        self.assertEqual(left, 2)

    def test_forget(self) -> None:
        """A domain is forgotten with its override; what nobody knows is said."""
        self.shown("example.org", "192.0.2.1", Level.ENCRYPTED, 0.0)
        set_override(self.txn, "out", "example.org", Override(Level.PLAIN, 0.0, 50.0))
        self.assertEqual(forget(self.txn, "example.org", "in"), 1)
        self.assertEqual(forget(self.txn, "example.org"), 1)
        self.assertEqual(memories(self.txn, 0.0, DAYS), [])
        self.assertRaises(NotFound, forget, self.txn, "example.org")
