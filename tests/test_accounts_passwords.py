"""Passwords: the rules, the hashes, and what is remembered of a login that was right."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.accounts.passwords import (
    ARGON2,
    LONGEST,
    Argon2,
    PasswordRefused,
    Remembered,
    fingerprint,
    hash_password,
    needs_rehash,
    password_octets,
    verify,
)

CHEAP = Argon2(memory_kib=8, passes=1)


class RulesTests(SynchronousTestCase):
    """What may be a password."""

    def test_empty(self) -> None:
        """An empty password is refused."""
        self.assertRaises(PasswordRefused, password_octets, "")

    def test_length_counts_octets(self) -> None:
        """1024 octets are the most, counted in UTF-8."""
        self.assertEqual(len(password_octets("x" * LONGEST)), LONGEST)
        self.assertRaises(PasswordRefused, password_octets, "x" * (LONGEST + 1))
        self.assertRaises(PasswordRefused, password_octets, "é" * (LONGEST // 2 + 1))

    def test_unsendable(self) -> None:
        """NUL, CR and LF are refused, as is what has no UTF-8 form."""
        for text in ("a\0b", "a\rb", "a\nb", "a\udc80b"):
            self.assertRaises(PasswordRefused, password_octets, text)

    def test_refusal_does_not_repeat_the_password(self) -> None:
        """The sentence of a refusal never holds the password."""
        error = self.assertRaises(PasswordRefused, hash_password, "opensesame\n", CHEAP)
        self.assertNotIn("opensesame", str(error))

    def test_no_preparation(self) -> None:
        """Two spellings of the same letter are two passwords: nothing is normalised."""
        self.assertNotEqual(password_octets("\u00e9"), password_octets("e\u0301"))


class HashTests(SynchronousTestCase):
    """argon2id as we use it."""

    @settings(deadline=None, max_examples=30)
    @given(st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=60))
    def test_only_the_password_fits(self, password: str, other: str) -> None:
        """A hash fits its own password and no other; a password that the rules refuse has no hash."""
        try:
            stored = hash_password(password, CHEAP)
        except PasswordRefused:
            return
        self.assertTrue(verify(stored, password, CHEAP))
        self.assertEqual(verify(stored, other, CHEAP), other == password)

    def test_default_cost(self) -> None:
        """What mailsvc stores is argon2id with 19 MiB, 2 passes and 1 lane."""
        stored = hash_password("opensesame")
        self.assertTrue(stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$"), stored)
        self.assertTrue(verify(stored, "opensesame"))
        self.assertFalse(needs_rehash(stored))

    def test_salted(self) -> None:
        """The same password gives another hash each time."""
        self.assertNotEqual(hash_password("same", CHEAP), hash_password("same", CHEAP))

    def test_other_costs_ask_for_a_new_hash(self) -> None:
        """A hash made with other parameters still fits, and is said to need a new one."""
        stored = hash_password("old", CHEAP)
        self.assertTrue(needs_rehash(stored, ARGON2))
        self.assertTrue(ARGON2.verify(stored, b"old"))

    def test_octets_that_are_not_utf8_fit_nothing(self) -> None:
        """A password that arrives in another encoding is wrong, not an error."""
        self.assertFalse(CHEAP.verify(hash_password("é", CHEAP), b"\xe9"))

    def test_damaged_hash(self) -> None:
        """A damaged hash is recognised as such, and fits nothing."""
        for stored in ("", "x", "$1$abc$def", "$argon2id$"):
            self.assertFalse(CHEAP.recognises(stored), stored)
            self.assertFalse(CHEAP.verify(stored, b"x"), stored)
        self.assertTrue(CHEAP.recognises(hash_password("x", CHEAP)))


class RememberedTests(SynchronousTestCase):
    """What is kept of a login that was right."""

    key = b"k" * 32

    @settings(deadline=None)
    @given(*[st.binary(max_size=8), st.text("$ab", max_size=8), st.binary(max_size=8)] * 2)
    def test_no_two_triples_share_a_fingerprint(
        self, identity: bytes, stored: str, password: bytes, identity2: bytes, stored2: str, password2: bytes
    ) -> None:
        """Moving octets between identity, hash and password gives another fingerprint."""
        same = (identity, stored, password) == (identity2, stored2, password2)
        first = fingerprint(self.key, identity, stored, password)
        self.assertEqual(first == fingerprint(self.key, identity2, stored2, password2), same)

    def test_key_matters(self) -> None:
        """Another process has another key and so other fingerprints."""
        self.assertNotEqual(fingerprint(b"a", b"i", "s", b"p"), fingerprint(b"b", b"i", "s", b"p"))

    def test_lifetime_runs_from_the_verification(self) -> None:
        """An entry ends `lifetime` seconds after it was added, however often it was used."""
        remembered = Remembered(300.0)
        remembered.add(1, b"digest", 1000.0)
        self.assertTrue(remembered.holds(1, b"digest", 1299.9))
        self.assertFalse(remembered.holds(1, b"digest", 1300.0))
        self.assertEqual(len(remembered), 0)

    def test_a_clock_set_back_forgets(self) -> None:
        """When the clock was set back nobody knows how old an entry is, so it no longer counts."""
        remembered = Remembered(300.0)
        remembered.add(1, b"digest", 1000.0)
        self.assertFalse(remembered.holds(1, b"digest", 999.0))

    def test_another_digest_or_account(self) -> None:
        """Only the account's own last digest is held."""
        remembered = Remembered(300.0)
        remembered.add(1, b"first", 0.0)
        self.assertFalse(remembered.holds(1, b"other", 0.0))
        self.assertFalse(remembered.holds(2, b"first", 0.0))
        remembered.add(1, b"second", 0.0)
        self.assertFalse(remembered.holds(1, b"first", 0.0))
        self.assertTrue(remembered.holds(1, b"second", 0.0))

    def test_bounded(self) -> None:
        """Past the limit the account that was not used for longest is forgotten."""
        remembered = Remembered(300.0, limit=2)
        remembered.add(1, b"1", 0.0)
        remembered.add(2, b"2", 0.0)
        self.assertTrue(remembered.holds(1, b"1", 1.0))
        remembered.add(3, b"3", 2.0)
        self.assertEqual([remembered.holds(n, b"%d" % n, 3.0) for n in (1, 2, 3)], [True, False, True])

    def test_zero_remembers_nothing(self) -> None:
        """A lifetime of 0 turns remembering off."""
        remembered = Remembered(0.0)
        remembered.add(1, b"1", 0.0)
        self.assertEqual(len(remembered), 0)
