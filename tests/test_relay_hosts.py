"""Which hosts of a domain are tried, in which order."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.relay.hosts import MOST_ADDRESSES, MOST_HOSTS, Exchanger, NoHosts, ordered_addresses, ordered_hosts

EXCHANGERS = st.lists(
    st.builds(Exchanger, st.integers(0, 4), st.sampled_from([f"mx{n}.example" for n in range(12)] + ["us.example"]))
)


def hosts(*found: tuple[int, str], ours: tuple[str, ...] = (), backup: bool = False) -> tuple[str, ...] | NoHosts:
    return ordered_hosts("d.example", [Exchanger(*each) for each in found], ours, Random(1), backup=backup)


class Hosts(SynchronousTestCase):
    """RFC 5321 section 5.1."""

    def test_by_preference(self) -> None:
        """The lowest preference comes first, each host once."""
        self.assertEqual(
            hosts((20, "b.example"), (10, "a.example"), (30, "a.example"), (30, "c.example")),
            ("a.example", "b.example", "c.example"),
        )

    def test_equals_share(self) -> None:
        """Hosts of one preference come in every order."""
        found = [Exchanger(10, "a.example"), Exchanger(10, "b.example")]
        seen = {ordered_hosts("d.example", found, (), Random(seed)) for seed in range(20)}
        self.assertEqual(seen, {("a.example", "b.example"), ("b.example", "a.example")})

    def test_without_mx(self) -> None:
        """A domain without MX records is its own host."""
        self.assertEqual(hosts(), ("d.example",))

    def test_null_mx(self) -> None:
        """A null MX is a refusal for ever; beside others it counts as nothing (RFC 7505 section 3)."""
        refused = hosts((0, ""))
        self.assertEqual((refused.permanent, refused.enhanced), (True, "5.1.10"))  # type: ignore[union-attr]
        self.assertEqual(hosts((0, ""), (10, "a.example")), ("a.example",))

    def test_we_are_one_of_them(self) -> None:
        """Only hosts that are better than we are tried; without one the mail was to be here."""
        records = (10, "a.example"), (20, "us.example"), (20, "b.example"), (30, "c.example")
        self.assertEqual(hosts(*records, ours=("us.example",)), ("a.example",))
        refused = hosts((10, "us.example"), (20, "b.example"), ours=("us.example",))
        self.assertEqual((refused.permanent, refused.enhanced), (True, "5.4.6"))  # type: ignore[union-attr]
        self.assertEqual(hosts(ours=("d.example",)).enhanced, "5.4.6")  # type: ignore[union-attr]

    def test_backup(self) -> None:
        """A backup that is the best, or none of them, waits until somebody mends the records."""
        for records in (((10, "us.example"),), ((10, "a.example"),)):
            refused = hosts(*records, ours=("us.example",), backup=True)
            self.assertEqual((refused.permanent, refused.enhanced), (False, "4.4.4"))  # type: ignore[union-attr]
        found = hosts((10, "a.example"), (20, "us.example"), ours=("us.example",), backup=True)
        self.assertEqual(found, ("a.example",))

    @given(EXCHANGERS, st.integers())
    @settings(deadline=None)
    def test_never_back_to_us(self, found: list[Exchanger], seed: int) -> None:
        """Whatever the records say: never ourselves, never one that is not better than we, in order, bounded, once."""
        chosen = ordered_hosts("d.example", found, ("us.example",), Random(seed))
        if isinstance(chosen, NoHosts):
            self.assertTrue(any(each.host == "us.example" for each in found))
            return
        own = min((each.preference for each in found if each.host == "us.example"), default=99)
        best = [min((e.preference for e in found if e.host == host), default=0) for host in chosen]
        self.assertNotIn("us.example", chosen)
        self.assertTrue(all(each < own for each in best))
        self.assertEqual(best, sorted(best))
        self.assertLessEqual(len(chosen), MOST_HOSTS)
        self.assertEqual(len(set(chosen)), len(chosen))


class Addresses(SynchronousTestCase):
    """RFC 5321 section 5.2, RFC 8305 section 4."""

    def test_in_turn(self) -> None:
        """IPv6 first, then the families in turn."""
        self.assertEqual(
            ordered_addresses(["192.0.2.1", "2001:db8::1"], Random(1)),
            ("2001:db8::1", "192.0.2.1"),
        )
        mixed = ordered_addresses([f"2001:db8::{n}" for n in range(9)] + ["192.0.2.1"], Random(1))
        self.assertEqual(mixed[1], "192.0.2.1")
        self.assertEqual(len(mixed), MOST_ADDRESSES)

    def test_what_is_none(self) -> None:
        """What is no address is no host to connect to."""
        self.assertEqual(ordered_addresses(["x", "", "192.0.2.1", "192.0.2.1"], Random(1)), ("192.0.2.1",))
