"""Attacks on the running service, from a process of their own; `bench/attack.py` measures, a system test looks on.

``python -m tests.attack`` reads its plan as JSON from standard input, writes a line "ready" when the attack stands,
and goes on until the next line of standard input or its end; then it writes what it has done as JSON.

The attackers come from many addresses of 127.0.0.0/8 (Linux lets anybody bind them), as real ones come from many
hosts: else the limit of one address would end each attack at once, and nothing of what lies behind would be seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from tests.running import ROOT, RunningService, python_environment

SECONDS = 600.0
"""No attack lasts longer, whatever happens."""


@dataclass(frozen=True)
class Plan:
    """``kind``: a key of `ATTACKS`.  ``many`` connections at once from ``addresses`` addresses to ``port``."""

    kind: str
    port: int
    many: int
    addresses: int


class Attack:
    """The connections of one plan; ``done`` counts what happened."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.done: Counter[str] = Counter()
        self._standing = 0
        self.stands = asyncio.Event()

    async def connect(self, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection from an address of its own, or shared with a few others."""
        number %= self.plan.addresses
        address = f"127.1.{number // 100}.{number % 100 + 1}"
        reader, writer = await asyncio.open_connection("127.0.0.1", self.plan.port, local_addr=(address, 0), limit=4096)
        self.done["connections"] += 1
        return reader, writer

    def stand(self) -> None:
        """One more connection does what it is meant to do."""
        self._standing += 1
        if self._standing >= self.plan.many:
            self.stands.set()

    async def one(self, number: int) -> None:
        """One attacker: attacks, and comes back when it is thrown out."""
        stood = False
        while True:
            try:
                async with asyncio.timeout(SECONDS):
                    reader, writer = await self.connect(number)
                    with contextlib.closing(writer):
                        steps = ATTACKS[self.plan.kind](self, reader, writer, number)
                        async for _ in steps:
                            if not stood:
                                stood = True
                                self.stand()
            except (OSError, EOFError, TimeoutError):
                self.done["thrown out"] += 1
                await asyncio.sleep(0.05)


async def _greeted(reader: asyncio.StreamReader) -> None:
    line = await reader.readline()
    if not line.startswith(b"220"):
        raise EOFError(line)


async def slow(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> Any:
    """A byte a second: every second connection of a command, the others of a message."""
    await _greeted(reader)
    yield
    if number % 2:
        writer.write(b"EHLO x.example\r\nMAIL FROM:<>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\n")
    while True:
        writer.write(b"E")
        await writer.drain()
        attack.done["octets"] += 1
        await asyncio.sleep(1.0)


async def unread(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> Any:
    """Commands without end, and no reply is ever read."""
    await _greeted(reader)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    yield
    while True:
        writer.write(b"HELP\r\n" * 1000)
        # For ever, as soon as the server reads no more.
        await writer.drain()
        attack.done["commands"] += 1000


async def guess(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> Any:
    """Recipients that do not exist, as fast as they are answered."""
    await _greeted(reader)
    writer.write(b"EHLO x.example\r\nMAIL FROM:<>\r\n")
    yield
    while True:
        name = attack.done["guesses"]
        writer.write(b"".join(b"RCPT TO:<nobody%d.%d@example.org>\r\n" % (number, name + n) for n in range(50)))
        answers = 0
        while answers < 50:
            line = await reader.readuntil(b"\r\n")
            if line.startswith(b"550 5.1.1"):
                answers += 1
                attack.done["guesses"] += 1
            elif line.startswith(b"421"):
                raise EOFError(line)


ATTACKS: dict[str, Any] = {"slow": slow, "unread": unread, "guess": guess}


async def _attack(plan: Plan) -> Counter[str]:
    attack = Attack(plan)
    loop = asyncio.get_running_loop()
    running: list[asyncio.Task[None]] = []
    for number in range(plan.many):
        work: Coroutine[Any, Any, None] = attack.one(number)
        running.append(loop.create_task(work))
        if number % 50 == 49:
            # The backlog of a listening socket is 50.
            await asyncio.sleep(0.02)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(attack.stands.wait(), SECONDS)
    print("ready", flush=True)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(loop.run_in_executor(None, sys.stdin.readline), SECONDS)
    attack.done["at the end"] = attack._standing
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return attack.done


@contextmanager
def attacked(service: RunningService, plan: Plan, done: dict[str, int]) -> Iterator[None]:
    """Meanwhile the service is attacked; afterwards ``done`` tells what the attackers did."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.attack"],
        cwd=ROOT,
        env=python_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(asdict(plan)) + "\n")
        process.stdin.flush()
        if process.stdout.readline() != "ready\n":
            raise AssertionError("the attack did not begin")
        yield
        output, _ = process.communicate("end\n", timeout=180)
        done.update(json.loads(output))
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def main() -> int:
    """Read the plan, attack, tell."""
    plan = Plan(**json.loads(sys.stdin.readline()))
    print(json.dumps(asyncio.run(_attack(plan))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
