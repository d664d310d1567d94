"""The fuzz targets in the ordinary suite: the whole corpus, and a few mutations that are the same each time."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz.harness import hangs_are_found, resident, run, smallest
from tests.fuzz.mutator import Mutator
from tests.fuzz.target import Target, cuts
from tests.fuzz.targets import TARGETS

INPUTS = 1500
"""For each target; `make fuzz` has a million."""


class FuzzTests(SynchronousTestCase):
    """A method for each target is added below."""

    def hold(self, target: Target) -> None:
        """Nothing is found, and it was looked for in the corpus at least."""
        corpus = target.corpus()
        self.assertGreater(len(corpus), 5, f"the corpus of {target.name}")
        report = run(target, inputs=len(corpus) + INPUTS)
        self.assertEqual([str(finding) for finding in report.findings], [], str(report))
        self.assertGreater(len(report.outcomes), 8, "an input is mostly of one kind: it tests nothing")

    def test_the_corpus_is_small(self) -> None:
        """Somebody can read what is in it: no file is long."""
        for target in TARGETS.values():
            files = target.corpus()
            self.assertLess(max(map(len, files)), 5000, target.name)


class HarnessTests(SynchronousTestCase):
    """The harness would find something."""

    def broken(self) -> Target:
        """A parser that stumbles over two octets."""

        def check(data: bytes) -> str:
            if b"\0" in data and b'"' in data:
                raise KeyError("a mistake")
            return "taken" if data.startswith(b"a") else "refused"

        return Target("address", check, lambda random: b"abc", (b"a",))

    def test_a_mistake_is_found(self) -> None:
        """An exception that is not documented is a finding, once, with the smallest input that shows it."""
        report = run(self.broken(), inputs=20_000)
        [finding] = report.findings
        self.assertEqual((sorted(finding.data), report.is_clean), (sorted(b'\0"'), False))
        self.assertIn("KeyError", str(report))

    def test_slow_inputs_and_growth_are_not_clean(self) -> None:
        """A report that is too slow, or grew, says so."""
        report = run(TARGETS["address"], inputs=10)
        self.assertTrue(report.is_clean)
        report.slowest = 2.0
        self.assertFalse(report.is_clean)
        report.slowest, report.grown = 0.0, 1 << 30
        self.assertFalse(report.is_clean)
        self.assertIn("GROWS", str(report))

    def test_repeatable(self) -> None:
        """The same seed gives the same inputs, another seed others; the cuts follow from the input."""
        for target in TARGETS.values():
            first, second, other = ([mutator.next() for _ in range(50)] for mutator in _mutators(target, 1, 1, 2))
            self.assertEqual(first, second)
            self.assertNotEqual(first, other)
        self.assertEqual((cuts(b"abcdef"), b"".join(cuts(b"abcdef"))), (cuts(b"abcdef"), b"abcdef"))

    def test_a_hang_ends(self) -> None:
        """The alarm is set while a run lasts, and not after it."""
        with hangs_are_found(TARGETS["address"]) as alive:
            alive()
            self.assertGreater(signal.getitimer(signal.ITIMER_REAL)[0], 0)
        self.assertEqual(signal.getitimer(signal.ITIMER_REAL)[0], 0)

    def test_smallest(self) -> None:
        """What can be left out is left out."""
        noise = bytes(Random(1).choices(b"xyz", k=100))
        self.assertEqual(smallest(noise + b"A" + noise + b"B", lambda data: b"A" in data and b"B" in data), b"AB")

    def test_memory_is_measured(self) -> None:
        """Where /proc tells."""
        self.assertGreater(resident() or 1, 0)


def _mutators(target: Target, *seeds: int) -> Iterator[Mutator]:
    return (Mutator(target, seed) for seed in seeds)


def _add(target: Target) -> None:
    def method(self: FuzzTests) -> None:
        self.hold(target)

    method.__name__ = f"test_{target.name}"
    method.__qualname__ = f"FuzzTests.{method.__name__}"
    method.__doc__ = f"The target {target.name}: {(target.check.__doc__ or '').splitlines()[0]}"
    setattr(FuzzTests, method.__name__, method)


for _target in TARGETS.values():
    _add(_target)
