"""stunnel in a folder of the test: TLS in front of programs that know none, or in front of a server of ours.

It listens on ports of the kernel's choice, which its log tells, or on UNIX sockets.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from tests.interop.programs import SECONDS, program, surroundings

_BOUND = re.compile(r"Service \[(\w+)\] .*bound to 127\.0\.0\.1:(\d+)")


class Stunnel:
    """One stunnel, as long as the block runs; `services` are the sections of its configuration."""

    def __init__(self, folder: Path, services: dict[str, dict[str, str]]) -> None:
        self.ports: dict[str, int] = {}
        self.log: list[str] = []
        self._folder = folder
        self._program = program("stunnel")
        self._ready = threading.Event()
        lines = ["foreground = yes", "pid =", "debug = 6"]
        for name, settings in services.items():
            lines += [f"[{name}]", *(f"{key} = {value}" for key, value in settings.items())]
        (folder / "stunnel.conf").write_text("\n".join(lines) + "\n")

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [self._program, str(self._folder / "stunnel.conf")],
            cwd=self._folder,
            env=surroundings(self._folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stderr,), daemon=True)
        self._reader.start()
        if not self._ready.wait(SECONDS) or self._process.poll() is not None:
            self.__exit__()
            raise AssertionError("stunnel did not start:\n" + "\n".join(self.log))
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(SECONDS)
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _read(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.log.append(line.rstrip("\n"))
            if found := _BOUND.search(line):
                self.ports[found[1]] = int(found[2])
            elif "Accepting new connections" in line:
                self._ready.set()
        self._ready.set()
