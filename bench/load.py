"""How much mail, at what cost: the two loads of issue 2 against a fresh service.  See README.rst for the method.

python bench/load.py [--sessions 200] [--messages 50] [--size 4096] [--large 10] [--large-size 25]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.load import Sent, noops, send, stored
from tests.running import RunningService

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Load:
    """One row of the table."""

    name: str
    sessions: int
    messages: int
    size: int


@dataclass(frozen=True)
class Measured:
    """What a load cost; times in seconds, memory in MiB, latencies in milliseconds."""

    sent: Sent
    lost: int
    cpu: float
    idle_peak: float
    peak: float
    latencies: list[float]


def measure(load: Load, users: int, *, probe: bool) -> Measured:
    """Run `load` against a service that has just been started, and look afterwards whether all of it is there."""
    with tempfile.TemporaryDirectory(prefix="mailsvc-bench-") as folder, RunningService(Path(folder)) as service:
        people = service.add_users(*(f"user{number}@example.org" for number in range(users)))
        idle = service.peak_kib() / 1024
        latencies: list[float] = []
        cpu = service.cpu_seconds()
        if probe:
            with noops(service, people[0], latencies):
                sent = send(service, people, sessions=load.sessions, messages=load.messages, size=load.size)
        else:
            sent = send(service, people, sessions=load.sessions, messages=load.messages, size=load.size)
        cpu = service.cpu_seconds() - cpu
        peak = service.peak_kib() / 1024
        missing = Counter(sent.accepted.items())
        missing.subtract(stored(service.database))
        lost = sum(abs(difference) for difference in missing.values())
        return Measured(sent, lost, cpu, idle, peak, [1000 * latency for latency in latencies])


def percentile(values: list[float], percent: int) -> float:
    """The value that `percent` of all are not above."""
    if not values:
        return float("nan")
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def print_table(rows: list[tuple[Load, Measured]]) -> None:
    """For people; one load a column."""
    lines: list[tuple[str, list[str]]] = [
        ("sessions x messages", [f"{load.sessions} x {load.messages}" for load, _ in rows]),
        ("message size", [f"{load.size / 1024:,.0f} KiB" for load, _ in rows]),
        ("accepted", [f"{len(m.sent.accepted):,}" for _, m in rows]),
        ("errors", [f"{len(m.sent.errors)}" for _, m in rows]),
        ("not stored exactly once", [f"{m.lost}" for _, m in rows]),
        ("login of all", [f"{m.sent.login_seconds:.2f} s" for _, m in rows]),
        ("messages", [f"{m.sent.seconds:.2f} s" for _, m in rows]),
        ("messages a second", [f"{len(m.sent.accepted) / m.sent.seconds:,.0f}" for _, m in rows]),
        ("MiB a second", [f"{len(m.sent.accepted) * load.size / MEGABYTE / m.sent.seconds:,.0f}" for load, m in rows]),
        ("CPU of the service", [f"{m.cpu:.2f} s" for _, m in rows]),
        ("CPU a message", [f"{1000 * m.cpu / max(1, len(m.sent.accepted)):.2f} ms" for _, m in rows]),
        ("memory at start", [f"{m.idle_peak:.0f} MiB" for _, m in rows]),
        ("peak memory", [f"{m.peak:.0f} MiB" for _, m in rows]),
        ("NOOPs of another session", [f"{len(m.latencies):,}" for _, m in rows]),
        ("NOOP p50", [f"{statistics.median(m.latencies or [float('nan')]):.1f} ms" for _, m in rows]),
        ("NOOP p99", [f"{percentile(m.latencies, 99):.1f} ms" for _, m in rows]),
        ("NOOP max", [f"{max(m.latencies, default=float('nan')):.1f} ms" for _, m in rows]),
    ]
    print(f"{'':<26}" + "".join(f"{load.name:>22}" for load, _ in rows))
    for name, cells in lines:
        print(f"{name:<26}" + "".join(f"{cell:>22}" for cell in cells))


def main() -> int:
    """Measure and print; status 1 when something was refused or lost."""
    parser = argparse.ArgumentParser(description="Load a fresh mailsvc on loopback and print what it cost.")
    parser.add_argument("--sessions", type=int, default=200, help="concurrent sessions with small messages (200)")
    parser.add_argument("--messages", type=int, default=50, help="messages that each of them sends (50)")
    parser.add_argument("--size", type=int, default=4096, help="octets of a small message (4096)")
    parser.add_argument("--users", type=int, default=20, help="accounts that share the sessions (20)")
    parser.add_argument("--large", type=int, default=10, help="large messages at once (10)")
    parser.add_argument("--large-size", type=int, default=25, help="their size in MiB (25)")
    parser.add_argument("--no-probe", action="store_true", help="without the session that says NOOP")
    options = parser.parse_args()
    loads = [
        Load("many small", options.sessions, options.messages, options.size),
        Load("large at once", options.large, 1, options.large_size * MEGABYTE),
    ]
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}, in {tempfile.gettempdir()}"
    )
    rows = [(load, measure(load, options.users, probe=not options.no_probe)) for load in loads if load.sessions]
    print_table(rows)
    for _, measured in rows:
        for error in measured.sent.errors[:10]:
            print(f"error: {error}", file=sys.stderr)
    return 1 if any(measured.sent.errors or measured.lost for _, measured in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
