"""What a normal sender notices of an attack: the time of its messages before and during.  See README.rst.

python bench/attack.py [--seconds 10] [--slow 1000] [--unread 40] [--guess 40]

Everything stays on loopback, and each attack ends after ``--seconds``.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.attack import Plan, attacked
from tests.peer import Peer, send_message
from tests.running import RunningService, User

GOAL = 2.0
"""So many times its undisturbed time may a normal sender's message take."""

_BODY = b"From: bob@example.net\r\nSubject: hello\r\n\r\n" + (b"x" * 76 + b"\r\n") * 50


def message_time(service: RunningService, user: User) -> float:
    """Seconds for a whole message as another server brings it: connection, STARTTLS, MAIL to the 250, QUIT."""
    began = time.perf_counter()
    with Peer(service.ports["smtp"], service.ca, tls=False) as peer:
        assert peer.reply()[-1].startswith(b"220 ")
        peer.smtp(b"EHLO sender.example.net")
        peer.smtp(b"STARTTLS")
        peer.start_tls()
        peer.smtp(b"EHLO sender.example.net")
        answer = send_message(peer, "bob@example.net", user.address, _BODY)
        assert answer.startswith(b"250 2.0.0"), answer
        peer.smtp(b"QUIT")
    return time.perf_counter() - began


def message_times(service: RunningService, user: User, seconds: float) -> list[float]:
    """The times of the messages of one sender, ten a second where that is possible, for so many seconds."""
    times = []
    end = time.perf_counter() + seconds
    while (now := time.perf_counter()) < end:
        times.append(message_time(service, user))
        time.sleep(max(0.0, now + 0.1 - time.perf_counter()))
    return times


def measure(plan_of: tuple[str, int, int], seconds: float) -> float:
    """One attack on a fresh service; prints a line and returns the ratio of the medians."""
    kind, many, addresses = plan_of
    with tempfile.TemporaryDirectory(prefix="mailsvc-bench-") as folder:
        settings = Path(folder) / "mailsvc.toml"
        # Loopback is trusted by default; here it stands for the Internet.
        settings.write_text('tls = "optional"\n[limits]\ntrusted = []\n')
        with RunningService(Path(folder), options=[f"--config={settings}"]) as service:
            [user] = service.add_users("alice@example.org")
            message_times(service, user, 1.0)
            before = message_times(service, user, seconds)
            done: dict[str, int] = {}
            cpu = service.cpu_seconds()
            with attacked(service, Plan(kind, service.ports["smtp"], many, addresses), done):
                during = message_times(service, user, seconds)
            cpu = service.cpu_seconds() - cpu
            peak = service.peak_kib() / 1024
    ratio = statistics.median(during) / statistics.median(before)
    print(
        f"{kind:<8}{many:>6}{_milliseconds(before):>22}{_milliseconds(during):>22}{ratio:>8.2f}"
        f"{cpu:>9.1f} s{peak:>7.0f} MiB   {done}"
    )
    return ratio


def _milliseconds(times: list[float]) -> str:
    worst = sorted(times)[min(len(times) - 1, len(times) * 95 // 100)]
    return f"{1000 * statistics.median(times):.1f} / {1000 * worst:.1f} ms"


def main() -> int:
    """Measure and print; status 1 when a ratio is above the goal."""
    parser = argparse.ArgumentParser(description="Attack a fresh mailsvc on loopback and time a normal sender.")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (10, at most 60)")
    parser.add_argument("--slow", type=int, default=1000, help="connections that send a byte a second (1000)")
    parser.add_argument("--unread", type=int, default=40, help="connections that never read (40)")
    parser.add_argument("--guess", type=int, default=40, help="connections that guess recipients (40)")
    options = parser.parse_args()
    seconds = min(60.0, options.seconds)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    print(
        f"{'attack':<8}{'many':>6}{'before p50 / p95':>22}{'during p50 / p95':>22}{'ratio':>8}{'CPU':>11}{'memory':>11}"
    )
    attacks = [("slow", options.slow, 1000), ("unread", options.unread, 10), ("guess", options.guess, 10)]
    ratios = [measure(attack, seconds) for attack in attacks if attack[1]]
    return 0 if all(ratio <= GOAL for ratio in ratios) else 1


if __name__ == "__main__":
    sys.exit(main())
