"""A Dovecot of our own: configuration, mail and log in a folder of the test, nothing of the machine's own Dovecot.

It serves POP3 on a loopback port to one user, whose Maildir is ``mail`` in the folder, and runs in the foreground with
its log on standard error: what it does is read, never waited for by the clock.  Dovecot starts as root only, because
its login processes change to a user of their own; for anybody else the tests are skipped, and `.ci/run` runs them as
root.
"""

from __future__ import annotations

import os
import poplib
import pwd
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.interop.programs import SECONDS, program, surroundings

_OWNER = "nobody"
"""Whose files the mail is; Dovecot gives no mail of root's to anybody."""


class Dovecot:
    """One instance, from `start` to `stop`; `uidl_format` is its ``pop3_uidl_format``."""

    def __init__(self, folder: Path, uidl_format: str = "%08Xu%08Xv") -> None:
        self._program = program("dovecot")
        if os.geteuid() != 0:
            raise SkipTest("Dovecot starts as root only")
        if not Path("/usr/lib/dovecot/pop3").exists():
            program("dovecot-pop3d")  # skips, or fails where everything must be there
        self.folder = folder
        self.log: list[str] = []
        self._said: queue.Queue[str | None] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        with socket.create_server(("127.0.0.1", 0)) as unused:
            self.port: int = unused.getsockname()[1]
        owner = pwd.getpwnam(_OWNER)
        for path in (folder, self.maildir):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
        (folder / "dovecot.conf").write_text(f"""\
base_dir = {folder}/run
state_dir = {folder}/run
instance_name = mailsvc-test
log_path = /dev/stderr
protocols = pop3
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
mail_location = maildir:{self.maildir}:INDEX=MEMORY
pop3_uidl_format = {uidl_format}
mail_uid = {owner.pw_uid}
mail_gid = {owner.pw_gid}
passdb {{
  driver = static
  args = password=secret
}}
userdb {{
  driver = static
  args = home={folder}
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {self.port}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
""")

    @property
    def maildir(self) -> Path:
        """The Maildir that it serves."""
        return self.folder / "mail"

    def own(self) -> None:
        """Give the Maildir to the user as whom Dovecot reads it."""
        owner = pwd.getpwnam(_OWNER)
        for path in (self.maildir, *self.maildir.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)

    def start(self) -> None:
        """Start it, and wait until it says that it runs."""
        self.own()
        self._process = subprocess.Popen(
            [self._program, "-F", "-c", str(self.folder / "dovecot.conf")],
            cwd=self.folder,
            env=surroundings(self.folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stderr,), daemon=True)
        self._reader.start()
        self._wait("starting up")

    def stop(self) -> None:
        """End it and all that it has started."""
        process, self._process = self._process, None
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS / 4)
        assert self._reader is not None and process.stderr is not None
        self._reader.join(SECONDS)
        process.stderr.close()

    def session(self) -> poplib.POP3:
        """A session of its user."""
        session = poplib.POP3("127.0.0.1", self.port, timeout=SECONDS / 2)
        session.user("alice")
        session.pass_("secret")
        return session

    def rest_of_log(self) -> list[str]:
        """What it has said since it was started; after `stop`."""
        while line := self._said.get(timeout=SECONDS):
            self.log.append(line)
        return self.log

    def _read(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._said.put(line.rstrip("\n"))
        self._said.put(None)

    def _wait(self, wanted: str) -> None:
        """Read the log until it says `wanted`; AssertionError when it does not in time."""
        end = time.monotonic() + SECONDS
        while True:
            try:
                line = self._said.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError("Dovecot did not do what it should; it said:\n" + "\n".join(self.log))
            self.log.append(line)
            if wanted in line:
                return


def fetch_all(session: poplib.POP3) -> dict[str, bytes]:
    """All messages by their UIDLs, in the order in which the server has them, with CRLF; then QUIT."""
    found = {}
    for line in session.uidl()[1]:
        number, _, uidl = line.decode("ascii").partition(" ")
        found[uidl] = b"".join(text + b"\r\n" for text in session.retr(int(number))[1])
    session.quit()
    return found
