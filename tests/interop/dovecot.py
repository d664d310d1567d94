"""A Dovecot of our own: configuration, mail and log in a folder of the test, nothing of the machine's own Dovecot.

It serves POP3 on a loopback port to one user, whose Maildir is ``mail`` in the folder, and runs in the foreground with
its log on standard error (`tests.interop.foreground`).  Dovecot starts as root only, because its login processes change
to a user of their own; for anybody else the tests are skipped, and `.ci/run` runs them as root.
"""

from __future__ import annotations

import os
import poplib
import pwd
import socket
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.interop.foreground import Foreground
from tests.interop.programs import SECONDS, program

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
        self._running: Foreground | None = None
        self._log: list[str] = []
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
        command = [self._program, "-F", "-c", str(self.folder / "dovecot.conf")]
        self._running = Foreground("Dovecot", command, self.folder)
        self._log = self._running.log
        self._running.wait("starting up")

    def stop(self) -> None:
        """End it and all that it has started."""
        running, self._running = self._running, None
        if running is not None:
            running.end()

    def session(self) -> poplib.POP3:
        """A session of its user."""
        session = poplib.POP3("127.0.0.1", self.port, timeout=SECONDS / 2)
        session.user("alice")
        session.pass_("secret")
        return session

    def rest_of_log(self) -> list[str]:
        """What it has said since it was started; after `stop`."""
        return self._log


def fetch_all(session: poplib.POP3) -> dict[str, bytes]:
    """All messages by their UIDLs, in the order in which the server has them, with CRLF; then QUIT."""
    found = {}
    for line in session.uidl()[1]:
        number, _, uidl = line.decode("ascii").partition(" ")
        found[uidl] = b"".join(text + b"\r\n" for text in session.retr(int(number))[1])
    session.quit()
    return found
