"""What sending mail out costs, beside Postfix with the same messages and the same smtp-sink.  See README.rst.

python bench/relay.py [--rounds 5] [--small 2000] [--many 200] [--large 200] [--rst FILE]
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.pop3 import message, print_table, settled
from bench.postfix import Postfix, obstacle
from mailsvc.mail.message import Summary
from mailsvc.relay.routes import Route, RouteKind
from mailsvc.relay.url import parse_relay
from mailsvc.storage import mailboxes, outbound
from mailsvc.storage.opening import offline
from mailsvc.storage.outbound import NewOutbound
from mailsvc.storage.routes import add_route
from tests.running import RunningService

SENDER = "alice@example.org"
SECONDS = 600.0
LATER = 10 * 365 * 86400.0


@dataclass(frozen=True)
class Task:
    """So many messages of this size, to so many recipients each."""

    name: str
    messages: int
    size: int
    recipients: int

    def addresses(self) -> list[str]:
        """To whom."""
        return [f"bob{number}@example.net" for number in range(self.recipients)]

    def contents(self) -> Iterator[bytes]:
        """What."""
        return (message(number, self.size) for number in range(self.messages))


class Ours:
    """mailsvc: its rows are stored as the acceptance of a message stores them, for a day far away, and then are due."""

    def __init__(self, service: RunningService) -> None:
        self.service = service

    @property
    def pid(self) -> int:
        """The only process."""
        return self.service.pid

    def queue_up(self, messages: Iterator[bytes], sender: str, recipients: Sequence[str]) -> None:
        """See `Postfix.queue_up`."""
        now = time.time()
        rows = [NewOutbound(each, sender, account=sender, release_at=now + LATER) for each in recipients]
        with offline(str(self.service.database), create=True) as txn:
            for number, octets in enumerate(messages):
                size = octets.index(b"\r\n\r\n") + 4
                summary = Summary(len(octets), size, sha256(octets).hexdigest(), None, None, None, None)
                new = mailboxes.NewMessage(f"BENCH{number}", sender, now, b"", summary)
                pieces = range(size, len(octets), mailboxes.PART_LIMIT)
                body = [octets[start : start + mailboxes.PART_LIMIT] for start in pieces]
                outbound.enqueue(txn, mailboxes.deliver(txn, new, octets[:size], body, []), rows, now)

    def release(self) -> None:
        """See `Postfix.release`."""
        now = time.time()
        with offline(str(self.service.database), create=True) as txn:
            txn.execute("UPDATE outbound SET due = ?, changed = ?, age = 0", (now, now))
            txn.execute("UPDATE outbound_destination SET due = ?", (now,))
            txn.execute("UPDATE outbound_change SET number = number + 1")

    def sent(self) -> int:
        """See `Postfix.sent`."""
        with closing(sqlite3.connect(f"file:{self.service.database}?mode=ro", uri=True)) as connection:
            [(count,)] = connection.execute("SELECT COUNT(*) FROM event WHERE kind = 'relayed'")
        return int(count)


@dataclass
class Measured:
    """What one task cost one server, round by round: seconds of CPU, seconds of wall time."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


def sink(port: int) -> subprocess.Popen[bytes]:
    """Postfix's smtp-sink, which takes everything and keeps nothing."""
    program = shutil.which("smtp-sink", path="/usr/sbin:/usr/bin")
    if program is None:
        raise SystemExit("smtp-sink is missing (Debian: postfix)")
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen([program, *user, f"127.0.0.1:{port}", "1000"])
    end = time.monotonic() + SECONDS / 60
    while True:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return process
        if time.monotonic() > end or process.poll() is not None:
            raise RuntimeError(f"smtp-sink does not listen on port {port}")
        time.sleep(0.05)


def send(server: Ours | Postfix, task: Task) -> tuple[float, float]:
    """CPU and wall time from the release of the messages until the last one was taken."""
    server.queue_up(task.contents(), SENDER, task.addresses())
    wanted = server.sent() + task.messages * task.recipients
    before = settled(server.pid)
    server.release()
    start = time.perf_counter()
    while server.sent() < wanted:
        if time.perf_counter() - start > SECONDS:
            raise RuntimeError(f"{type(server).__name__}: {wanted - server.sent()} recipients of {task.name} are left")
        time.sleep(0.05)
    wall = time.perf_counter() - start
    return settled(server.pid) - before, wall


def measure(
    servers: dict[str, Ours | Postfix], tasks: Sequence[Task], rounds: int, tell: Callable[[str], None]
) -> dict[Task, dict[str, Measured]]:
    """Each task with each server, `rounds` times in turn after one that is not counted."""
    found = {task: {server: Measured() for server in servers} for task in tasks}
    for counted in range(rounds + 1):
        for task in tasks:
            for name, server in servers.items():
                cpu, wall = send(server, task)
                tell(f"{'round ' + str(counted) if counted else 'warm-up'}: {task.name}: {name}: {cpu:.2f} {wall:.2f}")
                if counted:
                    found[task][name].cpu.append(cpu)
                    found[task][name].wall.append(wall)
    return found


def table(found: dict[Task, dict[str, Measured]]) -> Iterator[list[str]]:
    """The rows: task; of each server CPU (median and range), messages a second of CPU, wall time; then the ratio."""
    for task, by_server in found.items():
        cells = [task.name]
        rates = []
        for measured in by_server.values():
            middle, low, high = statistics.median(measured.cpu), min(measured.cpu), max(measured.cpu)
            rates.append(task.messages / middle)
            cells += [f"{middle:.2f} ({low:.2f} to {high:.2f})", f"{rates[-1]:,.0f}"]
            cells.append(f"{statistics.median(measured.wall):.2f}")
        cells.append(f"{rates[0] / rates[1]:.2f}" if len(rates) == 2 else "-")
        yield cells


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure outgoing mail of mailsvc and of Postfix on loopback.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (5)")
    parser.add_argument("--small", type=int, default=2000, help="messages of 4 KiB to one recipient (2000)")
    parser.add_argument("--many", type=int, default=200, help="messages of 4 KiB to 20 recipients (200)")
    parser.add_argument("--large", type=int, default=200, help="messages of 1 MiB (200)")
    parser.add_argument("--without-postfix", action="store_true", help="measure mailsvc alone")
    parser.add_argument("--verbose", action="store_true", help="print each round")
    parser.add_argument("--rst", type=Path, help="write the table to this file, too")
    options = parser.parse_args()
    tasks = [
        Task(f"{options.small:,} x 4 KiB", options.small, 4096, 1),
        Task(f"{options.many:,} x 4 KiB to 20 recipients", options.many, 4096, 20),
        Task(f"{options.large:,} x 1 MiB", options.large, 1 << 20, 1),
    ]
    tasks = [task for task in tasks if task.messages]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-")))
        folder.chmod(0o755)
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port: int = unused.getsockname()[1]
        taking = sink(port)
        stack.callback(taking.wait)
        stack.callback(taking.kill)
        ours = RunningService(folder / "mailsvc")
        ours.add_users(SENDER)
        with offline(str(ours.database), create=True) as txn:
            add_route(txn, Route(RouteKind.DEFAULT, "", (parse_relay(f"smtp://127.0.0.1:{port}"),)), time.time())
        stack.enter_context(ours)
        servers: dict[str, Ours | Postfix] = {"mailsvc": Ours(ours)}
        why_not = "Postfix is not measured, as was asked for." if options.without_postfix else obstacle()
        version = ""
        if why_not is None:
            theirs = stack.enter_context(Postfix(folder / "postfix", port))
            servers["Postfix"] = theirs
            version = f", Postfix {theirs.version}"
        else:
            print(why_not)
        found = measure(servers, tasks, options.rounds, print if options.verbose else lambda line: None)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}{version}")
    head = ["task", *(cell for name in servers for cell in (f"{name}: CPU s", "a CPU s", "wall s")), "ratio"]
    print_table(head, list(table(found)), options.rst)
    return 0


if __name__ == "__main__":
    sys.exit(main())
