"""A TLS client that only shakes hands, as a process of its own: what the client costs is not the server's.

``python -m tests.handshakes`` reads a plan as JSON, one on each line of standard input, and answers each with a line of
JSON. A plan with `idle` opens connections and keeps them until the process ends; every other one shakes hands `count`
times, closes in order each time (close_notify from both sides), and tells how many sessions were resumed.

The hardest idea: the two TLS 1.3 tickets come after the handshake (RFC 8446 section 4.6.1), when the client has nothing
to ask. So after each handshake the client waits until something can be read; with that the server has done all of its
work for the handshake, and the client holds a ticket for the next one.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tests.running import ROOT, python_environment

SECONDS = 60.0


@dataclass(frozen=True)
class Plan:
    """What to do, on which port; `starttls` is "smtp", "pop3" or "" for TLS from the first octet.

    `version`: "1.2" or "1.3". `resume`: every handshake but each thread's first offers a ticket. `threads`: so many
    clients at once. `idle`: open `count` connections and keep them; with `plain`, no TLS.
    """

    port: int
    count: int
    starttls: str = ""
    version: str = "1.3"
    resume: bool = False
    threads: int = 4
    idle: bool = False
    plain: bool = False


@dataclass(frozen=True)
class Shaken:
    """What came of it: handshakes that were completed, those of them that were resumed, and the last one's terms."""

    done: int
    resumed: int
    terms: str


def _context(version: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The certificate is not looked at: that would cost time, and only the client's.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = {
        "1.2": ssl.TLSVersion.TLSv1_2,
        "1.3": ssl.TLSVersion.TLSv1_3,
    }[version]
    return context


def _connect(plan: Plan, number: int = 0) -> socket.socket:
    """A connection, from another network of 127.0.0.0/8 every hundred of them, with STARTTLS said where it must be."""
    source = f"127.0.{1 + number // 100}.1"
    connection = socket.create_connection(("127.0.0.1", plan.port), SECONDS, (source, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if plan.starttls or plan.plain:
        _line(connection)
    if plan.starttls:
        connection.sendall({"smtp": b"STARTTLS\r\n", "pop3": b"STLS\r\n"}[plan.starttls])
        _line(connection)
    return connection


def _line(connection: socket.socket) -> bytes:
    said = b""
    while not said.endswith(b"\n"):
        piece = connection.recv(4096)
        if not piece:
            raise ConnectionAbortedError(f"the server closed the connection behind {said!r}")
        said += piece
    return said


def _shake(plan: Plan, context: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSocket:
    secured = context.wrap_socket(_connect(plan), server_hostname="localhost", session=session)
    if plan.version == "1.3":
        secured.setblocking(False)
        select.select([secured], [], [], SECONDS)
        with suppress(ssl.SSLWantReadError):  # only the tickets, which are now in secured.session
            secured.recv(1 << 14)
        secured.settimeout(SECONDS)
    return secured


def _close(secured: ssl.SSLSocket) -> None:
    """Both sides say close_notify; what the server said before that is read and dropped."""
    secured.settimeout(SECONDS)
    while True:
        try:
            secured.unwrap().close()
            return
        except ssl.SSLError as error:
            # unwrap() does not like data that waits before the peer's close_notify.
            if "APPLICATION_DATA_AFTER_CLOSE_NOTIFY" not in str(error):
                raise
            secured.close()
            return


def _client(plan: Plan, count: int) -> Shaken:
    context = _context(plan.version)
    session: ssl.SSLSession | None = None
    resumed, terms = 0, ""
    if plan.resume:
        with _shake(plan, context, None) as first:
            session = first.session
            _close(first)
    for _ in range(count):
        secured = _shake(plan, context, session)
        resumed += bool(secured.session_reused)
        cipher = secured.cipher()
        terms = f"{secured.version()} {cipher[0] if cipher else ''}"
        _close(secured)
    return Shaken(count, resumed, terms)


def shake(plan: Plan) -> Shaken:
    """Run a plan that is not `idle`, in threads of this process."""
    share = plan.count // plan.threads
    with ThreadPoolExecutor(plan.threads) as pool:
        each = list(pool.map(partial(_client, plan), [share] * plan.threads))
    return Shaken(sum(one.done for one in each), sum(one.resumed for one in each), each[0].terms)


def keep(plan: Plan) -> list[socket.socket]:
    """The connections of a plan that is `idle`."""
    if plan.plain:
        return [_connect(plan, number) for number in range(plan.count)]
    context = _context(plan.version)
    kept: list[socket.socket] = []
    for number in range(plan.count):
        secured = context.wrap_socket(_connect(plan, number), server_hostname="localhost")
        if not plan.starttls:
            _line(secured)
        kept.append(secured)
    return kept


class Shaker:
    """The process that runs plans."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, plan: Plan) -> Shaken:
        """Run one plan to its end; AssertionError when it fails."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(plan)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise AssertionError("the client failed; what it said stands above")
        return Shaken(**json.loads(answer))


@contextmanager
def shaker(folder: Path) -> Iterator[Shaker]:
    """A client process, as long as the block runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.handshakes"],
        cwd=folder,
        env=python_environment(ROOT),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stdin is not None
    with process:
        try:
            yield Shaker(process)
            process.stdin.close()
        except BaseException:
            process.kill()
            raise


def main() -> None:
    """Answer plans until standard input ends."""
    kept: list[socket.socket] = []
    for line in sys.stdin:
        plan = Plan(**json.loads(line))
        if plan.idle:
            kept += keep(plan)
            done = Shaken(len(kept), 0, "")
        else:
            done = shake(plan)
        print(json.dumps(asdict(done)), flush=True)


if __name__ == "__main__":
    main()
