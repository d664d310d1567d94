"""A Dovecot for measurements: its own folder and port, POP3 over TLS with a certificate that is given, several users.

The one of `tests.interop.dovecot` is made to be asked for UIDLs; this one is made to be fast, so that the comparison
is with Dovecot at its best: login processes that serve many connections (``service_count = 0``), passwords in clear
that cost nothing to check, indexes on disk, and Maildir file names that say the sizes (``S=``, ``W=``), as Dovecot's
own delivery writes them, so that LIST opens no file.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.interop.foreground import end_groups
from tests.pki import Certs

_OWNER = "nobody"
_SECONDS = 30.0


def obstacle() -> str | None:
    """Why there can be no Dovecot here, as a sentence; None when there can."""
    if shutil.which("dovecot") is None or not Path("/usr/lib/dovecot/pop3").exists():
        return "Dovecot is not measured: it is not installed (Debian: dovecot-pop3d)."
    if os.geteuid() != 0:
        return "Dovecot is not measured: it starts as root only, and this is not root."
    return None


class Dovecot:
    """One instance; a context manager that ends it.

    Its mail is in Maildirs, or with `sdbox` in Dovecot's own format, converted from them at the start.
    """

    def __init__(self, folder: Path, certs: Certs, users: Iterable[str], password: str, *, sdbox: bool = False) -> None:
        self.folder = folder
        self._users = list(users)
        self._sdbox = sdbox
        owner = pwd.getpwnam(_OWNER)
        self._owner = (owner.pw_uid, owner.pw_gid)
        folder.mkdir()
        folder.chmod(0o755)
        with socket.create_server(("127.0.0.1", 0)) as unused:
            self.port: int = unused.getsockname()[1]
        secret = b64encode(password.encode()).decode()
        (folder / "users").write_text("".join(f"{user}:{{PLAIN.b64}}{secret}\n" for user in self._users))
        (folder / "dovecot.conf").write_text(f"""\
base_dir = {folder}/run
state_dir = {folder}/run
instance_name = mailsvc-bench
log_path = {folder}/log
protocols = pop3
listen = 127.0.0.1
ssl = required
ssl_cert = <{certs.folder / certs.hostname / "fullchain.pem"}
ssl_key = <{certs.folder / certs.hostname / "privkey.pem"}
mail_location = {"sdbox" if sdbox else "maildir"}:{folder}/{"sdbox" if sdbox else "mail"}/%u
mail_uid = {owner.pw_uid}
mail_gid = {owner.pw_gid}
first_valid_uid = 1
namespace {{
  inbox = yes
  separator = /
}}
passdb {{
  driver = passwd-file
  args = {folder}/users
}}
userdb {{
  driver = static
  args = home={folder}/home/%u
}}
service pop3-login {{
  service_count = 0
  process_min_avail = 1
  inet_listener pop3 {{
    port = 0
  }}
  inet_listener pop3s {{
    port = {self.port}
    ssl = yes
  }}
}}
""")

    def fill(self, user: str, messages: Iterable[bytes]) -> None:
        """Put messages into the user's Maildir, in this order, with LF as Dovecot's own delivery writes them."""
        maildir = self.folder / "mail" / user
        for name in ("cur", "new", "tmp"):
            (maildir / name).mkdir(parents=True)
        for number, message in enumerate(messages, 1):
            stored = message.replace(b"\r\n", b"\n")
            name = f"{1_700_000_000 + number}.M{number}P1.bench,S={len(stored)},W={len(message)}:2,"
            (maildir / "cur" / name).write_bytes(stored)

    def __enter__(self) -> Self:
        for path in (self.folder / "mail", *(self.folder / "mail").rglob("*")):
            os.chown(path, *self._owner)
        for name in ("home", "sdbox"):
            (self.folder / name).mkdir()
            os.chown(self.folder / name, *self._owner)
        self._process = subprocess.Popen(
            ["dovecot", "-F", "-c", str(self.folder / "dovecot.conf")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + _SECONDS
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                self._convert()
                return self
            if time.monotonic() > end or self._process.poll() is not None:
                self.__exit__(None, None, None)
                raise RuntimeError("Dovecot did not start:\n" + self.said())
            time.sleep(0.05)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        end_groups(self._process)

    def _convert(self) -> None:
        for user in self._users if self._sdbox else ():
            doveadm = ["doveadm", "-c", str(self.folder / "dovecot.conf"), "backup", "-u", user, "-R"]
            subprocess.run([*doveadm, f"maildir:{self.folder}/mail/{user}"], check=True, capture_output=True)

    @property
    def pid(self) -> int:
        """The number of its master process."""
        return self._process.pid

    def said(self) -> str:
        """The end of its log."""
        log = self.folder / "log"
        return log.read_text("utf-8", "replace")[-4000:] if log.exists() else ""
