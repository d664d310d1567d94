"""Loops among aliases, found when they are defined."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.directory.loops import loop_from
from mailsvc.mail.address import parse_address
from tests.test_directory_resolve import Memory, tables


class Loops(SynchronousTestCase):
    def loop(self, memory: Memory, start: str) -> list[str]:
        return [str(address) for address in loop_from(parse_address(start), memory)]

    def test_none(self) -> None:
        """Accounts, chains and two ways to one place are no loops, nor is an alias that keeps a copy."""
        memory = tables(
            aliases={
                "x@a.org": ["y@a.org", "z@a.org"],
                "y@a.org": ["alice@a.org", "w@a.org"],
                "z@a.org": ["w@a.org"],
                "w@a.org": ["far@c.org"],
                "alice@a.org": ["alice@a.org", "bob@a.org"],
            }
        )
        for start in ("x@a.org", "alice@a.org", "bob@a.org", "nobody@a.org", "x@c.org"):
            self.assertEqual(self.loop(memory, start), [])

    def test_found(self) -> None:
        """The loop is told from where it begins, also through details and the catch-all.

        Rule: Aliases: loops found at definition
        """
        memory = tables(aliases={"x@a.org": ["bob@a.org", "y+1@a.org"], "y@a.org": ["z@b.org"], "z@b.org": ["y@a.org"]})
        self.assertEqual(self.loop(memory, "x@a.org"), ["y+1@a.org", "z@b.org", "y+1@a.org"])
        memory = tables(aliases={"x@a.org": ["anybody@a.org"]}, catch_all=parse_address("x@a.org"))
        self.assertEqual(self.loop(memory, "x@a.org"), ["x@a.org", "anybody@a.org", "x@a.org"])
        self.assertEqual(self.loop(tables(aliases={"x@a.org": ["x@a.org"]}), "x@a.org"), [])

    def test_long_chain(self) -> None:
        """A chain of thousands neither ends the search nor the interpreter."""
        chain = {f"x{n}@a.org": [f"x{n + 1}@a.org"] for n in range(5000)}
        self.assertEqual(self.loop(tables(aliases=chain), "x0@a.org"), [])

    @settings(deadline=None, max_examples=200)
    @given(st.dictionaries(st.sampled_from("pqrs"), st.lists(st.sampled_from("pqrst"), min_size=1, unique=True)))
    def test_found_when_there_is_one(self, graph: dict[str, list[str]]) -> None:
        """A loop is found exactly when some alias on the way can be reached from itself; what is told is one."""
        memory = tables(["t@a.org"], {f"{n}@a.org": [f"{t}@a.org" for t in graph[n]] for n in graph})
        edges = {name: {target for target in graph[name] if target != name} for name in graph}
        for name in graph:
            found = [str(address)[0] for address in loop_from(parse_address(f"{name}@a.org"), memory)]
            ways = {name} | _reachable(edges, name)
            self.assertEqual(bool(found), any(place in _reachable(edges, place) for place in ways))
            if found:
                self.assertEqual(found[0], found[-1])
                self.assertTrue(all(after in edges[before] for before, after in pairwise(found)))


def _reachable(edges: dict[str, set[str]], start: str) -> set[str]:
    reached: set[str] = set()
    pending = set(edges.get(start, ()))
    while pending:
        reached |= pending
        pending = {target for place in pending for target in edges.get(place, ())} - reached
    return reached
