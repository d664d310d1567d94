"""A Postfix for measurements: its own folder, everything by one relay on loopback, mail held back until it is released.

The one of `tests.interop.postfix` is made to be asked what became of each recipient; this one is made to be fast.  What
is not said here is Postfix's default: 20 connections to one destination, beginning with 5, connections that are kept
while there is more for the same destination, queue files without fsync when they go.
"""

from __future__ import annotations

import os
import shutil
import signal
import smtplib
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_SERVICES = """\
postlog   unix-dgram n - n - 1 postlogd
in        unix n - n - - smtpd
cleanup   unix n - n - 0 cleanup
pickup    unix n - n 60 1 pickup
qmgr      unix n - n 300 1 qmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
smtp      unix - - n - - smtp
error     unix - - n - - error
retry     unix - - n - - error
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
"""
_SECONDS = 300.0
_AT_ONCE = 8


class _OnSocket(smtplib.LMTP):
    """smtplib on a UNIX socket, which it knows for LMTP only, but with the words of SMTP."""

    ehlo_msg = "ehlo"


def obstacle() -> str | None:
    """Why there can be no Postfix here, as a sentence; None when there can."""
    if shutil.which("postfix", path="/usr/sbin:/usr/bin") is None:
        return "Postfix is not measured: it is not installed (Debian: postfix)."
    if os.geteuid() != 0:
        return "Postfix is not measured: it starts as root only, and this is not root."
    return None


class Postfix:
    """One instance; a context manager that ends it.  All its mail goes to ``port`` of 127.0.0.1."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        for path in (folder, folder / "etc", folder / "queue", folder / "data"):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
        shutil.chown(folder / "data", "postfix")
        (folder / "etc" / "master.cf").write_text(_SERVICES)
        (folder / "etc" / "main.cf").write_text(f"""\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = /dev/stdout
myhostname = mail.example.org
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = loopback-only
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
notify_classes =
relayhost = [127.0.0.1]:{port}
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_end_of_data_restrictions = check_sender_access static:HOLD
smtp_host_lookup = native
message_size_limit = 0
""")

    def __enter__(self) -> Self:
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["/usr/sbin/postfix", "-c", str(self.folder / "etc"), "start-fg"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._until(lambda: b"daemon started" in (self.folder / "log").read_bytes())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        groups = [process.pid]
        with suppress(FileNotFoundError):
            groups.append(self.pid)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for group in groups:
                with suppress(ProcessLookupError):
                    os.killpg(group, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS / 10)

    @property
    def pid(self) -> int:
        """Its master, whose children do everything."""
        return int((self.folder / "queue" / "pid" / "master.pid").read_text())

    @property
    def version(self) -> str:
        """Of the program."""
        said = subprocess.run(
            ["/usr/sbin/postconf", "-h", "mail_version"], capture_output=True, text=True, check=True
        ).stdout
        return said.strip()

    def sent(self) -> int:
        """To how many recipients it has sent so far."""
        return (self.folder / "log").read_bytes().count(b" status=sent ")

    def queue_up(self, messages: Iterable[bytes], sender: str, recipients: Sequence[str]) -> None:
        """Let it accept these messages, and hold them."""

        def submit(some: Sequence[bytes]) -> None:
            with _OnSocket(
                str(self.folder / "queue" / "public" / "in"), local_hostname="client.example.org"
            ) as session:
                for message in some:
                    session.sendmail(sender, list(recipients), message)

        every = list(messages)
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            list(threads.map(submit, [every[first::_AT_ONCE] for first in range(min(_AT_ONCE, len(every)))]))

    def release(self) -> None:
        """What is held may go, from now on."""
        for command in (["postsuper", "-H", "ALL"], ["postqueue", "-f"]):
            program = f"/usr/sbin/{command[0]}"
            subprocess.run(
                [program, "-c", str(self.folder / "etc"), *command[1:]], stderr=subprocess.DEVNULL, check=True
            )

    def _until(self, happens: Callable[[], bool]) -> None:
        end = time.monotonic() + _SECONDS / 10
        while not happens():
            if time.monotonic() > end:
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.05)
