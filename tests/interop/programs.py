"""How the interoperability tests run other people's programs.

Each runs in a home of its own, with an environment of its own, and ends by itself or is ended: no test waits for a
program longer than its time limit.  A program that is not installed skips the test by name, and fails it where
``MAILSVC_REQUIRE_ALL=1`` says that everything must be there.
"""

from __future__ import annotations

import os
import pty
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from mailsvc.certkit.build import new_authority
from tests.running import RunningService, User, new_user, shared_service

SECONDS = 180.0
"""The time limit of a program: far more than it needs, on a machine that does much else."""

_PLACES = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin", "/bin"))


def program(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """The path of an installed program; skips the test when there is none, or fails it."""
    path = shutil.which(name, path=_PLACES)
    if path is not None:
        return path
    if environ.get("MAILSVC_REQUIRE_ALL") == "1":
        raise AssertionError(f"{name} is not installed, and MAILSVC_REQUIRE_ALL=1 says that it must be")
    raise SkipTest(f"{name} is not installed")


@dataclass(frozen=True)
class Done:
    """What a program said, and its exit status."""

    status: int
    output: bytes
    errors: bytes

    @property
    def text(self) -> str:
        """Both streams, for people."""
        return (self.output + self.errors).decode("utf-8", "replace")


def run(arguments: list[str], *, home: Path, stdin: bytes = b"", environment: dict[str, str] | None = None) -> Done:
    """Run a program to its end, in `home`; AssertionError with what it said when it passes its time limit."""
    process = subprocess.Popen(
        arguments,
        cwd=home,
        env=surroundings(home) | (environment or {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(stdin, SECONDS)
    except subprocess.TimeoutExpired:
        _end(process)
        output, errors = process.communicate()
        said = (output + errors).decode("utf-8", "replace")
        raise AssertionError(f"{arguments} did not end in {SECONDS} s; it said: {said}") from None
    return Done(process.returncode, output, errors)


def run_on_terminal(arguments: list[str], *, home: Path) -> Done:
    """Run a program that wants a terminal, on a pseudo-terminal where nobody types."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            arguments,
            cwd=home,
            env=surroundings(home),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
    finally:
        os.close(theirs)
    limit = threading.Timer(SECONDS, _end, [process])
    limit.start()
    said = b""
    try:
        # EIO is how a pseudo-terminal says that the last program on it has ended.
        with suppress(OSError):
            while piece := os.read(ours, 65536):
                said += piece
        status = process.wait(SECONDS)
    finally:
        limit.cancel()
        os.close(ours)
    return Done(status, said, b"")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End our child and what it started itself: its session has nobody else in it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def surroundings(home: Path) -> dict[str, str]:
    """The whole environment of a program."""
    return {"PATH": _PLACES, "HOME": str(home), "LC_ALL": "C", "TERM": "xterm", "MAIL": "/dev/null"}


def login_name() -> str:
    """Who runs the tests; root is as good as anybody."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


class InteropCase(SynchronousTestCase):
    """A test against the running service of its class, with an account and a home that nobody else has.

    Whatever the programs do, the service's log must stay free of errors and tracebacks.
    """

    options: tuple[str, ...] = ()
    """Of the service."""
    service: RunningService
    user: User
    home: Path

    def setUp(self) -> None:
        self.service = shared_service(type(self), self.options)
        self.home = Path(tempfile.mkdtemp(prefix="mailsvc-home-"))
        self.addCleanup(shutil.rmtree, self.home, ignore_errors=True)
        self.user = new_user(self.service)
        self.addCleanup(self._assert_no_alarm, len(self.service.log))

    def _assert_no_alarm(self, since: int) -> None:
        self.assertEqual(self.service.alarms(since), [])

    def port(self, listener: str) -> int:
        """The port of one of the service's listeners."""
        return self.service.ports[listener]

    def write(self, name: str, text: str | bytes) -> Path:
        """A file in the home of this test, for its owner only."""
        path = self.home / name
        path.touch(0o600)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def other_ca(self) -> str:
        """The certificate of a CA that has signed nothing here."""
        other = new_authority("somebody else's CA", datetime.now(UTC))
        return str(self.write("other.pem", other.certificate.public_bytes(Encoding.PEM)))

    def succeeds(self, done: Done) -> Done:
        """Assert that the program says it went well."""
        self.assertEqual(done.status, 0, f"{done.text}\n--- the service:\n{self.service.log_tail()}")
        return done
