"""Somebody else's program that stays in the foreground: what it says, line by line, and its end.

What such a program does is read, never waited for by the clock: a thread takes its lines as they come, and a test goes
on when it has said what is waited for.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.interop.programs import SECONDS, surroundings


class Foreground:
    """One of them, from its start to `end`, in a session of its own.  ``log``: the lines that it has said so far."""

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log: list[str] = []
        self._said: queue.Queue[str | None] = queue.Queue()
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=surroundings(folder) | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log.append(line.rstrip("\n"))
            self._said.put(self.log[-1])
        self._said.put(None)

    def wait(self, wanted: str) -> str:
        """The next line that it says with this in it; AssertionError when none comes in time."""
        end = time.monotonic() + SECONDS
        while True:
            try:
                line = self._said.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"{self.name} did not say {wanted!r}; it said:\n" + "\n".join(self.log))
            if wanted in line:
                return line

    def end(self, *groups: int) -> None:
        """End it and all that it has started; ``groups`` are further process groups that are its own."""
        end_groups(self._process, *groups)
        self.join()

    def join(self) -> None:
        """Wait for its end, which has been brought about, and for its last line."""
        self._process.wait(SECONDS)
        self._reader.join(SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()


def end_groups(process: subprocess.Popen[str] | subprocess.Popen[bytes], *groups: int) -> None:
    """End a child that leads a process group, and these groups: first they are asked to, then they have to."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for group in (process.pid, *groups):
            with suppress(ProcessLookupError):
                os.killpg(group, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS / 12)
