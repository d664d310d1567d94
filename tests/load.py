"""Load for the running service, from processes of its own: what the client costs is not the service's.

``python -m tests.load send`` opens many submission sessions at once (STARTTLS, AUTH), waits until all of them are
logged in, lets all send their messages one after the other, each waiting for every reply, and tells what was accepted.
``python -m tests.load noop`` is one session that says NOOP on a fixed schedule and tells how long each answer took.
Both read their plan as JSON from standard input and write their result as JSON to standard output.

The hardest idea is the schedule of the NOOPs.  A client that sends the next one when the last was answered asks less
often when the service is slow, and so measures little of the time that is interesting ("coordinated omission").  Here
NOOP number n is due at n times the interval, and its latency counts from then, also when it could not be sent because
the one before was not answered yet.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import select
import sqlite3
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from tests.peer import plain, submission_session
from tests.running import ROOT, RunningService, User, after_trace, python_environment

SECONDS = 1200.0
"""The time limit of a whole load."""

_CHUNK = 1 << 16


@dataclass(frozen=True)
class Plan:
    """What `send` shall do: session i is user i modulo their number, and mails to itself."""

    port: int
    ca: str
    users: Sequence[str]
    password: str = field(repr=False)
    sessions: int
    messages: int
    size: int


@dataclass(frozen=True)
class Sent:
    """What came of it: Message-ID -> SHA-256 of what was accepted; errors as sentences.

    `login_seconds`: until all sessions were logged in; `seconds`: from then until all had their last reply.
    """

    accepted: dict[str, str]
    errors: list[str]
    login_seconds: float
    seconds: float


@cache
def _lines(size: int) -> bytes:
    """Lines of base64, as attachments have them."""
    octets = random.Random(size).randbytes(57 * (size // 78 + 1))
    return b"".join(base64.b64encode(octets[at : at + 57]) + b"\r\n" for at in range(0, len(octets), 57))


def load_message(name: str, size: int, sender: str) -> bytes:
    """The message called `name`, of about `size` octets, in the name of `sender`, who logs in to send it.

    No two names have the same bytes anywhere but by chance.
    """
    header = (
        f"Message-ID: <{name}@load.example.org>\r\nDate: Fri, 20 Nov 2026 12:00:00 +0000\r\n"
        f"From: {sender}\r\nSubject: {name}\r\n\r\n"
    ).encode()
    begin = random.Random(name).randrange(1, 76)
    lines = _lines(size)
    whole = lines[begin : len(lines) - 2] + b"\r\n" + hashlib.sha256(name.encode()).hexdigest().encode() + b"\r\n"
    return header + whole


async def _session(plan: Plan, number: int, all_logged_in: asyncio.Barrier, sent: Sent) -> float:
    """One session; returns when its messages began, on the clock of the loop."""
    user = plan.users[number % len(plan.users)]
    messages = [(name := f"{number}.{n}", load_message(name, plan.size, user)) for n in range(plan.messages)]
    reader, writer = await asyncio.open_connection("127.0.0.1", plan.port)

    async def says(code: str, data: bytes = b"") -> None:
        for at in range(0, len(data), _CHUNK):
            writer.write(data[at : at + _CHUNK])
            await writer.drain()
        while True:
            line = (await reader.readuntil(b"\r\n")).decode("ascii", "replace")
            if line[3:4] != "-":
                break
        if not line.startswith(code):
            raise AssertionError(f"session {number}: {line.strip()} for {data[:60]!r}")

    await says("220")
    await says("250", b"EHLO load.example.org\r\n")
    await says("220", b"STARTTLS\r\n")
    await writer.start_tls(_context(plan.ca), server_hostname="localhost")
    await says("250", b"EHLO load.example.org\r\n")
    await says("235", plain(user, plan.password) + b"\r\n")
    await all_logged_in.wait()
    began = asyncio.get_running_loop().time()
    for name, message in messages:
        await says("250", f"MAIL FROM:<{user}> SIZE={len(message)}\r\n".encode())
        await says("250", f"RCPT TO:<{user}>\r\n".encode())
        await says("354", b"DATA\r\n")
        await says("250", message + b".\r\n")
        sent.accepted[f"<{name}@load.example.org>"] = hashlib.sha256(message).hexdigest()
    await says("221", b"QUIT\r\n")
    writer.close()
    return began


@cache
def _context(ca: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca)


async def _send(plan: Plan) -> Sent:
    accepted: dict[str, str] = {}
    errors: list[str] = []
    sent = Sent(accepted, errors, 0.0, 0.0)
    barrier = asyncio.Barrier(plan.sessions)
    _lines(plan.size)
    clock = asyncio.get_running_loop().time
    start = clock()
    began = start
    tasks = [asyncio.create_task(_session(plan, number, barrier, sent)) for number in range(plan.sessions)]
    for task in asyncio.as_completed(tasks):
        try:
            began = max(began, await task)
        except (OSError, AssertionError, EOFError, asyncio.BrokenBarrierError) as error:
            errors.append(f"{type(error).__name__}: {error}")
            await barrier.abort()
    return Sent(accepted, errors, began - start, clock() - began)


def send(service: RunningService, users: Sequence[User], *, sessions: int, messages: int, size: int) -> Sent:
    """Run `send` in a process of its own against `service`."""
    plan = Plan(
        service.ports["submission"],
        service.ca,
        [user.address for user in users],
        users[0].password,
        sessions,
        messages,
        size,
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.load", "send"],
        input=json.dumps(asdict(plan)),
        cwd=service.folder,
        env=python_environment(ROOT),
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError(f"the load client failed: {done.stderr}")
    return Sent(**json.loads(done.stdout))


def _noops(port: int, ca: str, user: str, password: str, interval: float) -> list[float]:
    """Seconds from when each NOOP was due to its answer, until standard input ends."""
    latencies: list[float] = []
    with submission_session(port, ca, user, password, tls=False) as peer:
        print("ready", flush=True)
        start = time.perf_counter()
        while True:
            due = start + len(latencies) * interval
            if select.select([sys.stdin], [], [], max(0.0, due - time.perf_counter()))[0]:
                return latencies
            said = peer.smtp(b"NOOP")
            latencies.append(time.perf_counter() - due)
            if not said.startswith(b"250 "):
                raise AssertionError(said)


@contextmanager
def noops(service: RunningService, user: User, latencies: list[float], *, interval: float = 0.05) -> Iterator[None]:
    """While the block runs another session says NOOP every `interval` seconds; `latencies` gets the answers' times."""
    plan = json.dumps([service.ports["submission"], service.ca, user.address, user.password, interval])
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.load", "noop"],
        cwd=service.folder,
        env=python_environment(ROOT),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stdin is not None and process.stdout is not None
    with process:
        try:
            process.stdin.write(plan + "\n")
            process.stdin.flush()
            if process.stdout.readline() != "ready\n":
                raise AssertionError("the NOOP session did not start")
            yield
            process.stdin.close()
            latencies.extend(json.loads(process.stdout.read()))
        except BaseException:
            process.kill()
            raise


def stored(database: Path) -> Counter[tuple[str, str]]:
    """How often each (Message-ID, SHA-256 behind the trace headers) lies in a maildrop, by the content itself."""
    found: Counter[tuple[str, str]] = Counter()
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT message.id, message_id_header, message.size, item.size, item.prefix FROM message"
            " LEFT JOIN mailbox_item AS item ON item.message_id = message.id"
        )
        for message_id, name, size, item_size, prefix in rows:
            parts = connection.execute(
                "SELECT data FROM message_content WHERE message_id = ? ORDER BY part", (message_id,)
            )
            content = b"".join(data for (data,) in parts)
            if len(content) != size or prefix is None:
                raise AssertionError(f"message {message_id}: {len(content)} octets of {size}, prefix {prefix!r}")
            if item_size != size + len(prefix):
                raise AssertionError(f"message {message_id}: {item_size} octets in a maildrop, {size} and {prefix!r}")
            found[name, hashlib.sha256(after_trace(prefix + content)).hexdigest()] += 1
    return found


def main() -> None:
    """Do what the argument says, with the plan from standard input."""
    if sys.argv[1:] == ["send"]:
        print(json.dumps(asdict(asyncio.run(_send(Plan(**json.load(sys.stdin)))))))
    else:
        print(json.dumps(_noops(*json.loads(sys.stdin.readline()))))


if __name__ == "__main__":
    main()
