"""A Postfix for measurements: its own folder, everything by one relay on loopback, mail held back until it is released.

The one of `tests.interop.postfix` is made to be asked what became of each recipient; this one is made to be fast.  What
is not said here is Postfix's default: 20 connections to one destination, beginning with 5, connections that are kept
while there is more for the same destination, queue files without fsync when they go.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.interop.foreground import end_groups
from tests.interop.postfix import SENDING, Submission, configure, master_of, socket_of

_SECONDS = 30.0
_AT_ONCE = 8


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
        configure(
            folder,
            "mail.example.org",
            f"{SENDING}pickup unix n - n 60 1 pickup\n",
            f"""\
mynetworks = 127.0.0.0/8
inet_interfaces = loopback-only
relayhost = [127.0.0.1]:{port}
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_end_of_data_restrictions = check_sender_access static:HOLD
smtp_host_lookup = native
message_size_limit = 0
""",
        )

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
        groups = []
        with suppress(FileNotFoundError):
            groups.append(self.pid)
        end_groups(process, *groups)

    @property
    def pid(self) -> int:
        """Its master, whose children do everything."""
        return master_of(self.folder)

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
            with Submission(socket_of(self.folder), local_hostname="client.example.org") as session:
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
        end = time.monotonic() + _SECONDS
        while not happens():
            if time.monotonic() > end:
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.05)
