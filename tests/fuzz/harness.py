"""Runs a target over its corpus and over inputs that a mutator makes, and watches: errors, time, memory.

What is not shown by a run: that there is nothing to be found.  A run without findings says how many inputs it had.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from time import monotonic, process_time

from tests.fuzz.mutator import Mutator
from tests.fuzz.target import Target

TIME_LIMIT = 1.0
"""Seconds of processor for one input; the longest inputs have some 68,000 octets."""

HANG = 30
"""Seconds after which an input is given up, in which case the run is, too."""

GROWTH_LIMIT = 32 << 20
"""Octets by which the process may have grown since it was warm."""

_WARM = 20_000
_MOST_FINDINGS = 10


class Hang(BaseException):
    """An input did not come to an end; not an Exception, so that no parser takes it for its own."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An input and what is wrong with it."""

    data: bytes
    trouble: str
    where: str


@dataclass
class Report:
    """What a run has seen.  Times are seconds of processor; ``grown``: octets, None where nobody can tell."""

    target: str
    inputs: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    slowest_input: bytes = b""
    grown: int | None = None
    outcomes: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found, neither in time nor in memory."""
        return not self.findings and self.slowest <= TIME_LIMIT and (self.grown or 0) <= GROWTH_LIMIT

    def __str__(self) -> str:
        grown = "unknown" if self.grown is None else f"{self.grown / 1024:+.0f} KiB"
        lines = [
            f"{self.target}: {self.inputs} inputs in {self.seconds:.0f} s, {len(self.outcomes)} kinds,"
            f" slowest {self.slowest * 1000:.1f} ms ({len(self.slowest_input)} octets), memory {grown},"
            f" {len(self.findings)} findings"
        ]
        if self.slowest > TIME_LIMIT:
            lines.append(f"  TOO SLOW: {self.slowest_input[:200]!r}...")
        if (self.grown or 0) > GROWTH_LIMIT:
            lines.append("  GROWS")
        lines += [f"  {each.trouble} ({each.where})\n    {each.data[:500]!r}" for each in self.findings]
        return "\n".join(lines)


def run(
    target: Target,
    *,
    inputs: int,
    seed: int = 0,
    seconds: float = float("inf"),
    progress: Callable[[Report], None] | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Report:
    """The corpus, and then mutations until there were ``inputs`` in all or ``seconds`` (by the clock) have passed."""
    report = Report(target.name)
    begun, until = process_time(), monotonic() + seconds
    mutator = Mutator(target, seed)
    warm: int | None = None
    for data in _inputs(target, mutator):
        _try(target, data, report, mutator)
        report.inputs += 1
        if report.inputs == _WARM:
            warm = resident()
        if report.inputs % 1000 == 0:
            alive()
            report.seconds = process_time() - begun
            if progress is not None and report.inputs % 100_000 == 0:
                progress(report)
            if monotonic() > until:
                break
        if report.inputs >= inputs or len(report.findings) >= _MOST_FINDINGS:
            break
    report.seconds = process_time() - begun
    now = resident()
    report.grown = None if warm is None or now is None else now - warm
    return report


def _inputs(target: Target, mutator: Mutator) -> Iterator[bytes]:
    yield from target.corpus()
    while True:
        yield mutator.next()


def _try(target: Target, data: bytes, report: Report, mutator: Mutator) -> None:
    before = process_time()
    try:
        outcome = target.check(data)
    except Exception as error:
        finding = finding_of(target, data, error)
        if all((finding.trouble[:60], finding.where) != (each.trouble[:60], each.where) for each in report.findings):
            report.findings.append(finding)
    except Hang:
        report.findings.append(Finding(data, f"does not end within {HANG} seconds", target.name))
        raise
    else:
        if outcome not in report.outcomes:
            report.outcomes.add(outcome)
            mutator.keep(data)
    spent = process_time() - before
    if spent > report.slowest:
        report.slowest, report.slowest_input = spent, data


def finding_of(target: Target, data: bytes, error: Exception) -> Finding:
    """The finding, with the smallest input that still shows it."""
    where = _where(error)

    def still(smaller: bytes) -> bool:
        try:
            target.check(smaller)
        except Exception as other:
            return type(other) is type(error) and _where(other) == where
        return False

    return Finding(smallest(data, still), f"{type(error).__name__}: {error}", where)


def smallest(data: bytes, still: Callable[[bytes], bool]) -> bytes:
    """``data`` without what can be left out."""
    size = len(data) // 2
    while size:
        start = 0
        while start < len(data):
            smaller = data[:start] + data[start + size :]
            if still(smaller):
                data = smaller
            else:
                start += size
        size //= 2
    return data


def _where(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}, line {frame.lineno}"


def resident() -> int | None:
    """Octets of this process in memory, garbage not counted; None where /proc does not tell."""
    gc.collect()
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


@contextmanager
def hangs_are_found(target: Target) -> Iterator[Callable[[], None]]:
    """Gives a function to call now and then: not called for `HANG` seconds means that an input hangs."""

    def hang(number: int, frame: object) -> None:
        print(f"{target.name}: an input hangs", file=sys.stderr)
        raise Hang

    before = signal.signal(signal.SIGALRM, hang)
    try:

        def alive() -> None:
            signal.setitimer(signal.ITIMER_REAL, HANG)

        alive()
        yield alive
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def keep(target: Target, finding: Finding) -> Path:
    """Write a finding into the corpus, where the ordinary suite tries it from now on."""
    path = target.folder / f"found-{sha256(finding.data).hexdigest()[:10]}"
    path.write_bytes(finding.data)
    return path
