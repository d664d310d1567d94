"""stunnel in a folder of the test: TLS in front of programs that know none, or in front of a server of ours.

It listens on ports of the kernel's choice, which its log tells, or on UNIX sockets.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

from tests.interop.foreground import Foreground
from tests.interop.programs import program

_BOUND = re.compile(r"Service \[(\w+)\] .*bound to 127\.0\.0\.1:(\d+)")


class Stunnel:
    """One stunnel, as long as the block runs; `services` are the sections of its configuration."""

    def __init__(self, folder: Path, services: dict[str, dict[str, str]]) -> None:
        self.ports: dict[str, int] = {}
        self._folder = folder
        self._program = program("stunnel")
        lines = ["foreground = yes", "pid =", "debug = 6"]
        for name, settings in services.items():
            lines += [f"[{name}]", *(f"{key} = {value}" for key, value in settings.items())]
        (folder / "stunnel.conf").write_text("\n".join(lines) + "\n")

    def __enter__(self) -> Self:
        self._running = Foreground("stunnel", [self._program, str(self._folder / "stunnel.conf")], self._folder)
        try:
            self._running.wait("Accepting new connections")
        except AssertionError:
            self.__exit__()
            raise
        found = (_BOUND.search(line) for line in self._running.log)
        self.ports = {match[1]: int(match[2]) for match in found if match}
        return self

    def __exit__(self, *_: object) -> None:
        self._running.end()
