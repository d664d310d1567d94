"""The real service as a subprocess, for tests and measurements that want the whole of it.

`RunningService` starts `twistd -n --pidfile= mailsvc` on loopback ports that the kernel chooses, in a folder of its
own, and reads its log until it says which ports those are: nobody ever sleeps or guesses a port.  What it started it
ends: by SIGTERM with a time limit, or by SIGKILL when that is what is tested; never anything else.

`shared_service` is one such service per test class.  trial calls no ``setUpClass``, so the service of a class is
started by its first test and ended when the first test of another class asks for its own, or when the process ends.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from mailsvc.accounts.passwords import hash_password
from mailsvc.mail.address import parse_address
from mailsvc.storage import accounts
from mailsvc.storage.opening import offline
from tests.pki import HOSTNAME, Certs, make_certs

ROOT = Path(__file__).resolve().parent.parent
LISTENERS = ("smtp", "submission", "submissions", "pop3", "pop3s")
PASSWORD = "wonder land: 1"
"""Of every account that is made here; with what clients like to stumble over, a space and a colon."""

START_SECONDS = 180.0
STOP_SECONDS = 120.0
"""Limits, not expectations: a busy machine may be slow, and a test that hangs must end."""

_LISTENING = re.compile(r"mailsvc#info\] (\w+) +listening on 127\.0\.0\.1:(\d+)")
_ALARMING = re.compile(r"Traceback|#(?:error|critical)\]|Unhandled", re.IGNORECASE)
_TRACE = re.compile(
    rb"Return-Path: <[^>\r\n]*>\r\nDelivered-To: [^\r\n]*\r\nReceived: from [^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*"
)


@dataclass(frozen=True)
class User:
    """An account and how to use it."""

    address: str
    password: str = PASSWORD


def python_environment(root: Path = ROOT, **more: str) -> dict[str, str]:
    """The environment for a subprocess that shall find mailsvc in `root`, and no setting of this process."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAILSVC_", "PYTHONPATH"))}
    return clean | {"PYTHONPATH": str(root), "COLUMNS": "100"} | more


def twistd(*arguments: str) -> list[str]:
    """The command line of twistd: the script beside our Python, or what it does where there is none."""
    script = Path(sys.executable).with_name("twistd")
    if script.exists():
        return [sys.executable, str(script), *arguments]
    return [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", *arguments]


class RunningService:
    """One mailsvc process and its folder; a context manager that ends the process.

    `folder` gets the database, and the certificates when `certs` brings none; `options` are added to the command
    line of `twistd mailsvc`, `root` is where Python finds mailsvc, `prefix` a command that becomes the one behind it.
    May be started again after it was ended.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        certs: Certs | None = None,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        root: Path = ROOT,
        prefix: Sequence[str] = (),
    ) -> None:
        self.folder = Path(folder).absolute()
        self.folder.mkdir(exist_ok=True)
        self.certs = certs or make_certs(self.folder / "certs")
        self.database = self.folder / "mail.sqlite3"
        self.ports: dict[str, int] = {}
        self.log: list[str] = []
        self._options = tuple(options)
        self._prefix = tuple(prefix)
        self._environment = python_environment(root, **(environment or {}))
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        if self._process is None:
            self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill() if kind is not None else self.stop()

    @property
    def ca(self) -> str:
        """The file with the CA's certificate, for clients."""
        return str(self.certs.ca)

    @property
    def pid(self) -> int:
        """The number of the running process."""
        assert self._process is not None, "the service is not running"
        return self._process.pid

    def command(self) -> list[str]:
        """The command line; each listener gets a port from the kernel unless the options say otherwise."""
        given = " ".join(self._options)
        ports = [f"--{name}=tcp:0:interface=127.0.0.1" for name in LISTENERS if f"--{name}=" not in given]
        settings = [f"--certs={self.certs.folder}", f"--database={self.database}", f"--hostname={HOSTNAME}"]
        return [*self._prefix, *twistd("-n", "--pidfile=", "mailsvc", *settings, *ports, *self._options)]

    def start(self) -> Self:
        """Start the process and wait until it listens; raises AssertionError with its log when it does not."""
        self.spawn()
        if not self._ready.wait(START_SECONDS) or not self.ports:
            self.kill()
            raise AssertionError("the service did not start:\n" + self.log_tail())
        return self

    def spawn(self) -> None:
        """Start the process and do not wait for anything."""
        assert self._process is None, "the service runs already"
        self._ready.clear()
        self.ports.clear()
        self._process = subprocess.Popen(
            self.command(),
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read_log, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def _read_log(self, lines: Iterable[str]) -> None:
        ports: dict[str, int] = {}
        for line in lines:
            self.log.append(line.rstrip("\n"))
            if found := _LISTENING.search(line):
                ports[found[1]] = int(found[2])
            elif "mail is kept in" in line:
                self.ports.update(ports)
                self._ready.set()
        self._ready.set()

    def stop(self) -> int:
        """End the process in order; AssertionError when it does not end in time.

        The exit status is -SIGTERM: twistd, when it is done, ends itself by the signal that stopped it.
        """
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """End the process at once, as a power cut would."""
        return self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals | None) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        if number is not None:
            process.send_signal(number)
        try:
            status = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            what = "the service did not end" if number is None else f"{number.name} did not end the service"
            raise AssertionError(f"{what}:\n" + self.log_tail()) from None
        finally:
            assert self._reader is not None and process.stdout is not None
            self._reader.join(STOP_SECONDS)
            process.stdout.close()
        return status

    def wait(self) -> int:
        """Wait for a process that ends by itself, and for the last line of its log; its exit status."""
        assert self._process is not None, "the service is not running"
        return self._end(None)

    def log_tail(self, lines: int = 40) -> str:
        """The end of the log."""
        return "\n".join(self.log[-lines:])

    def alarms(self, since: int = 0) -> list[str]:
        """Lines of the log, from number `since` on, that tell of a defect: errors and tracebacks."""
        return [line for line in self.log[since:] if _ALARMING.search(line)]

    def add_users(self, *addresses: str) -> list[User]:
        """Add accounts to the database, whether the service runs or not; all with `PASSWORD`."""
        with offline(str(self.database), create=True) as txn:
            for address in addresses:
                accounts.add_account(txn, parse_address(address), _hash(), 0.0)
        return [User(address) for address in addresses]

    def peak_kib(self) -> int:
        """The most memory that the process has had, in KiB (VmHWM; Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1])

    def cpu_seconds(self) -> float:
        """User and system time of the process so far (Linux)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@cache
def _hash() -> str:
    return hash_password(PASSWORD)


class _Shared:
    """The service that is running now for some test class, if any."""

    def __init__(self) -> None:
        self.owner: type | None = None
        self.service: RunningService | None = None
        self.numbers = count(1)
        atexit.register(self.end)

    def of(self, owner: type, options: Sequence[str]) -> RunningService:
        if self.owner is not owner or self.service is None:
            self.end()
            service = RunningService(tempfile.mkdtemp(prefix="mailsvc-test-"), options=options)
            try:
                self.service = service.start()
            except BaseException:
                shutil.rmtree(service.folder, ignore_errors=True)
                raise
            self.owner = owner
        return self.service

    def end(self) -> None:
        service, self.service = self.service, None
        if service is not None:
            try:
                service.stop()
            finally:
                shutil.rmtree(service.folder, ignore_errors=True)


_shared = _Shared()


def shared_service(owner: type, options: Sequence[str] = ()) -> RunningService:
    """The running service of the test class `owner`, with these options of ``twistd mailsvc``."""
    return _shared.of(owner, options)


def new_user(service: RunningService) -> User:
    """An account that no other test has."""
    [user] = service.add_users(f"user{next(_shared.numbers)}@example.org")
    return user


def after_trace(fetched: bytes) -> bytes:
    """What was sent, without the two trace fields that the service puts on top.

    Raises AssertionError when they are not exactly there.
    """
    found = _TRACE.match(fetched)
    assert found is not None, f"no trace fields on top of {fetched[:300]!r}"
    return fetched[found.end() :]


def crlf(text: bytes) -> bytes:
    """A message with the line ends of the wire, from one with those of Unix (a CRLF that is there already stays)."""
    return re.sub(rb"(?<!\r)\n", b"\r\n", text)
