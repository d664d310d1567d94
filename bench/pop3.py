"""What handing mail out costs, beside Dovecot with the same messages and the same certificate.  See README.rst.

python bench/pop3.py [--rounds 5] [--listed 20000] [--small 1000] [--large 50] [--huge 100000] [--rst FILE]
"""

from __future__ import annotations

import argparse
import os
import platform
import poplib
import random
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.dovecot import Dovecot, obstacle
from mailsvc.mail.address import parse_address
from mailsvc.mail.message import Summary
from mailsvc.storage import accounts, mailboxes
from mailsvc.storage.opening import offline
from tests.pki import HOSTNAME, make_certs
from tests.running import PASSWORD, RunningService

LISTED, SMALL, LARGE, HUGE = "listed@example.org", "small@example.org", "large@example.org", "huge@example.org"
TICKS = os.sysconf("SC_CLK_TCK")


def message(number: int, size: int) -> bytes:
    """A message of `size` octets with lines of text, here and there a dot at a line's start; always the same."""
    header = (
        f"From: Alice <alice@example.net>\r\nTo: Bob <bob@example.org>\r\nSubject: message {number}\r\n"
        f"Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-ID: <{number}.{size}@example.net>\r\n\r\n"
    ).encode()
    dice = random.Random(number * 1_000_003 + size)
    letters = dice.randbytes(60).hex().encode()
    lines = [letters[start : start + 76] for start in range(40)]
    body = b"".join(line + b"\r\n" for line in lines) + b".a line with a dot\r\n"
    missing = size - len(header)
    body = body * (missing // len(body) + 1)
    return header + body[: missing - 2].removesuffix(b"\r").ljust(missing - 2, b"x") + b"\r\n"


def fill(database: Path, address: str, messages: Iterator[bytes]) -> None:
    """Put messages into a maildrop of mailsvc: the rows that a delivery makes, without trace fields."""
    with offline(str(database), create=True) as txn:
        account = accounts.account(txn, parse_address(address).key)
        assert account is not None
        for octets in messages:
            size = octets.index(b"\r\n\r\n") + 4
            summary = Summary(len(octets), size, sha256(octets).hexdigest(), None, None, None, None)
            new = mailboxes.NewMessage("bench", "", time.time(), b"", summary)
            pieces = range(size, len(octets), mailboxes.PART_LIMIT)
            body = [octets[start : start + mailboxes.PART_LIMIT] for start in pieces]
            mailboxes.deliver(txn, new, octets[:size], body, [account.id])


class Client:
    """One POP3 session over implicit TLS; says a command when it has read the last reply."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        raw = socket.create_connection(("127.0.0.1", port), 60)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(raw, server_hostname=HOSTNAME)
        self.buffer = bytearray(1 << 18)
        self.read(b"\r\n")

    def read(self, end: bytes) -> bytes:
        """A reply; of a long one only its last 5 octets are kept."""
        tail = b""
        first = True
        while True:
            got = self.socket.recv_into(self.buffer)
            if not got:
                raise RuntimeError("the server has hung up")
            if first and not self.buffer.startswith(b"+OK"):
                raise RuntimeError(bytes(self.buffer[:got]).decode("utf-8", "replace"))
            first = False
            tail = tail[-5:] + bytes(self.buffer[max(0, got - 5) : got])
            if tail.endswith(end):
                return tail

    def ask(self, command: str, end: bytes = b"\r\n") -> None:
        """Say it, and read the reply."""
        self.socket.sendall(command.encode() + b"\r\n")
        self.read(end)

    def log_in(self, address: str) -> None:
        """USER, PASS."""
        self.ask(f"USER {address}")
        self.ask(f"PASS {PASSWORD}")


def listing(port: int, context: ssl.SSLContext, sessions: int) -> None:
    """So many sessions, each with login, STAT, UIDL and LIST."""
    for _ in range(sessions):
        client = Client(port, context)
        with closing(client.socket):
            client.log_in(LISTED)
            client.ask("STAT")
            client.ask("UIDL", b"\r\n.\r\n")
            client.ask("LIST", b"\r\n.\r\n")
            client.ask("QUIT")


def login(port: int, context: ssl.SSLContext, address: str, sessions: int) -> None:
    """So many sessions that only look how much there is: what a connection and opening a maildrop cost."""
    for _ in range(sessions):
        client = Client(port, context)
        with closing(client.socket):
            client.log_in(address)
            client.ask("STAT")
            client.ask("QUIT")


def fetching(port: int, context: ssl.SSLContext, address: str, messages: int, sessions: int) -> None:
    """So many sessions that fetch them all."""
    for _ in range(sessions):
        client = Client(port, context)
        with closing(client.socket):
            client.log_in(address)
            for number in range(1, messages + 1):
                client.ask(f"RETR {number}", b"\r\n.\r\n")
            client.ask("QUIT")


def handed_out(port: int, context: ssl.SSLContext, counts: dict[str, int]) -> dict[tuple[str, int], list[bytes]]:
    """The first, a middle and the last message of each account."""
    found = {}
    for address, count in counts.items():
        with closing(poplib.POP3_SSL("127.0.0.1", port, context=context)) as session:
            session.user(address)
            session.pass_(PASSWORD)
            for number in {1, (count + 1) // 2, count} - {0}:
                found[address, number] = session.retr(number)[1]
            session.quit()
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, of its children, and of those that have ended (Linux)."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat.parent.name) == pid or int(fields[1]) == pid:
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / TICKS


@dataclass
class Measured:
    """What one task cost one server, round by round: seconds of CPU, seconds of wall time."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


Task = Callable[[int, ssl.SSLContext], None]


def measure(
    servers: dict[str, tuple[int, int]], tasks: dict[str, Task], rounds: int, context: ssl.SSLContext
) -> dict[str, dict[str, Measured]]:
    """Each task with each server (name to port and process number), `rounds` times in turn after one that is not
    counted."""
    found = {task: {server: Measured() for server in servers} for task in tasks}
    for counted in range(rounds + 1):
        for task, work in tasks.items():
            for server, (port, pid) in servers.items():
                before, start = settled(pid), time.perf_counter()
                work(port, context)
                wall = time.perf_counter() - start
                cpu = settled(pid) - before
                if counted:
                    measured = found[task][server]
                    measured.cpu.append(cpu)
                    measured.wall.append(wall)
    return found


def settled(pid: int) -> float:
    """`cpu_seconds` once the server has nothing more to do."""
    last = cpu_seconds(pid)
    while True:
        time.sleep(0.2)
        now = cpu_seconds(pid)
        if now - last <= 0.01:
            return now
        last = now


def table(found: dict[str, dict[str, Measured]]) -> Iterator[list[str]]:
    """The rows: task, and of each server the median of CPU with its range, and wall; then the ratio."""
    for task, by_server in found.items():
        cells = [task]
        for measured in by_server.values():
            middle, low, high = statistics.median(measured.cpu), min(measured.cpu), max(measured.cpu)
            cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
            cells.append(f"{statistics.median(measured.wall):.2f}")
        medians = [statistics.median(measured.cpu) for measured in by_server.values()]
        cells.append(f"{medians[0] / max(medians[1], 0.01):.2f}" if len(medians) == 2 else "-")
        yield cells


def print_table(head: list[str], rows: list[list[str]], rst: Path | None) -> None:
    """For people on the terminal, and as a table of reStructuredText when a file is named."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    heading = "  ".join(cell.ljust(width) for cell, width in zip(head, widths, strict=True)).rstrip()
    text = "\n".join([rule, heading, rule, *lines, rule])
    print(text)
    if rst is not None:
        rst.write_text(text + "\n")


def main() -> int:
    """Measure and print; status 1 when the servers did not hand out the same."""
    parser = argparse.ArgumentParser(description="Measure POP3 of mailsvc and of Dovecot on loopback.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (5)")
    parser.add_argument("--listed", type=int, default=20_000, help="messages of the maildrop that is listed (20000)")
    parser.add_argument("--huge", type=int, default=100_000, help="messages of the maildrop that is opened (100000)")
    parser.add_argument("--sessions", type=int, default=20, help="sessions that open or list one in each round (20)")
    parser.add_argument("--small", type=int, default=1000, help="messages of 4 KiB (1000)")
    parser.add_argument("--large", type=int, default=50, help="messages of 1 MiB (50)")
    parser.add_argument("--fetches", type=int, default=5, help="sessions that fetch everything in each round (5)")
    parser.add_argument("--without-dovecot", action="store_true", help="measure mailsvc alone")
    parser.add_argument("--sdbox", action="store_true", help="Dovecot's mail in its own format instead of Maildir")
    parser.add_argument("--rst", type=Path, help="write the table to this file, too")
    options = parser.parse_args()
    mails = {
        LISTED: [message(number, 600 + number % 900) for number in range(options.listed)],
        SMALL: [message(number, 4096) for number in range(options.small)],
        LARGE: [message(number, 1 << 20) for number in range(options.large)],
        HUGE: [message(number, 300) for number in range(options.huge)],
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pop3-bench-")))
        folder.chmod(0o755)
        certs = make_certs(folder / "certs")
        ours = RunningService(folder / "mailsvc", certs=certs)
        ours.add_users(*mails)
        for address, messages in mails.items():
            fill(ours.database, address, iter(messages))
        stack.enter_context(ours)
        servers = {"mailsvc": (ours.ports["pop3s"], ours.pid)}
        why_not = "Dovecot is not measured, as was asked for." if options.without_dovecot else obstacle()
        if why_not is None:
            theirs = Dovecot(folder / "dovecot", certs, mails, PASSWORD, sdbox=options.sdbox)
            for address, messages in mails.items():
                theirs.fill(address, iter(messages))
            stack.enter_context(theirs)
            servers["Dovecot"] = (theirs.port, theirs.pid)
        else:
            print(why_not)
        counts = {address: len(messages) for address, messages in mails.items()}
        mails.clear()
        context = ssl.create_default_context(cafile=ours.ca)
        same = [handed_out(port, context, counts) for port, _ in servers.values()]
        if same[0] != same[-1]:
            print("the servers do not hand out the same messages", file=sys.stderr)
            return 1
        tasks: dict[str, Task] = {
            f"{options.sessions} x login, STAT of {options.large}": partial(
                login, address=LARGE, sessions=options.sessions
            ),
            f"{options.sessions} x login, STAT of {options.huge:,}": partial(
                login, address=HUGE, sessions=options.sessions
            ),
            f"{options.sessions} x login, STAT, UIDL, LIST of {options.listed:,}": partial(
                listing, sessions=options.sessions
            ),
            f"{options.fetches} x RETR of {options.small:,} x 4 KiB": partial(
                fetching, address=SMALL, messages=options.small, sessions=options.fetches
            ),
            f"{options.fetches} x RETR of {options.large:,} x 1 MiB": partial(
                fetching, address=LARGE, messages=options.large, sessions=options.fetches
            ),
        }
        for name, (port, _) in servers.items():
            with closing(Client(port, context).socket) as tls:
                print(f"{name}: {tls.version()} {(tls.cipher() or ('?',))[0]}")
        found = measure(servers, tasks, options.rounds, context)
    version = (
        subprocess.run(["dovecot", "--version"], capture_output=True, text=True, check=False)
        if (len(servers) == 2)
        else None
    )
    print(
        f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION} (client), {os.cpu_count()} cores,"
        f" {platform.machine()}" + (f", Dovecot {version.stdout.strip()}" if version else "")
    )
    head = ["task", *(cell for name in servers for cell in (f"{name}: CPU s", "wall s")), "CPU ratio"]
    print_table(head, list(table(found)), options.rst)
    return 0


if __name__ == "__main__":
    sys.exit(main())
