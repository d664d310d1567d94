"""A service to play with: a folder of its own, real commands run in it, a real `twistd` as a child.

Nothing in here knows what will be done with the service. It is started as a user starts it, with options, on ports
that the system chooses, and what it says on its standard output is all that is known of it.

The hardest idea is the end: whatever happens (an exception, Ctrl-C, SIGTERM, a terminal that is closed) the child is
stopped and the folder removed. So signals become exceptions, the child is in a session of its own (Ctrl-C reaches only
us, and we stop it in order), and nobody can interrupt the tidying.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from time import monotonic

import mailsvc
from mailsvc.errors import MailsvcError

START_SECONDS = 120.0
STOP_SECONDS = 60.0
_TWISTD = "from twisted.scripts.twistd import run; run()"
_LISTENING = re.compile(r"\[mailsvc#info\] (\w+) +listening on [^ ]*:(\d+)$")
_READY = re.compile(r"\[mailsvc#info\] mail is kept in ")


def _environment() -> Mapping[str, str]:
    """Ours, without what would configure the service, and with this very mailsvc in front."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MAILSVC_")}
    ours.pop("CREDENTIALS_DIRECTORY", None)
    root = str(Path(mailsvc.__file__).resolve().parent.parent)
    return ours | {"PYTHONPATH": os.pathsep.join(filter(None, [root, ours.get("PYTHONPATH")]))}


class Service:
    """A running `twistd mailsvc`. `ports` by the listeners' names, `log` what it has said so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.ports: dict[str, int] = {}
        self.log: list[str] = []
        self._process = process
        self._unread: SimpleQueue[str | None] = SimpleQueue()
        # A thread, so that the child never waits for us to read its log.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log.append(line.rstrip("\n"))
            self._unread.put(self.log[-1])
        self._unread.put(None)

    def wait_until_ready(self) -> None:
        """Read the log up to the line that says that all is open. Raises MailsvcError."""
        deadline = monotonic() + START_SECONDS
        while True:
            try:
                line = self._unread.get(timeout=max(0.0, deadline - monotonic()))
            except Empty:
                raise MailsvcError(f"the service did not start within {START_SECONDS:.0f} seconds") from None
            if line is None:
                raise MailsvcError(f"the service did not start, twistd ended with status {self._process.wait()}")
            if found := _LISTENING.search(line):
                self.ports.setdefault(found[1], int(found[2]))
            if _READY.search(line):
                return

    def stop(self) -> bool:
        """Ask it to end, and wait; return whether it did so in order. A second time does nothing more."""
        if self._process.returncode is None:
            self._process.terminate()
        try:
            status = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._reader.join(STOP_SECONDS)
        # twistd ends by the signal that it was asked with.
        return status in (0, -signal.SIGTERM)


class Playground:
    """A temporary folder in which commands run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.service: Service | None = None

    def command(self, arguments: Sequence[str], stdin: str = "") -> str:
        """Run `mailsvc` with these arguments, return what it printed. Raises MailsvcError when it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "mailsvc", *arguments],
            cwd=self.folder,
            env=_environment(),
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            timeout=START_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise MailsvcError(f"`mailsvc {' '.join(arguments)}` ended with status {done.returncode}: {done.stdout}")
        return done.stdout

    def start(self, arguments: Sequence[str]) -> Service:
        """Run `twistd` with these arguments; returns when it serves."""
        process = subprocess.Popen(
            [sys.executable, "-c", _TWISTD, *arguments],
            cwd=self.folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            start_new_session=True,
        )
        self.service = Service(process)
        self.service.wait_until_ready()
        return self.service


@contextmanager
def playground() -> Iterator[Playground]:
    """A playground that is gone afterwards, with everything that was started in it. For the main thread."""
    with _signals(signal.default_int_handler):
        folder = TemporaryDirectory(prefix="mailsvc-demo-")
        place = Playground(Path(folder.name))
        try:
            yield place
        finally:
            with _signals(signal.SIG_IGN):
                if place.service is not None:
                    place.service.stop()
                folder.cleanup()


@contextmanager
def _signals(handler: Callable[..., object] | signal.Handlers) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP are handled so meanwhile, but for those that we were told to ignore (nohup)."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    changed = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
    for number in changed:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in changed.items():
            signal.signal(number, old)
