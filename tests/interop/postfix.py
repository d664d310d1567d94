"""A Postfix of our own: configuration, queue and log in a folder of the test, nothing of the machine's own Postfix.

It listens nowhere but on a UNIX socket in its queue, so that no port has to be found for it, and runs in the
foreground with its log on standard output: what it does is read, never waited for by the clock.  Postfix starts as
root only, because it changes to its own user for most of its work; for anybody else the tests are skipped, and
`.ci/run` runs them as root.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import smtplib
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.interop.programs import SECONDS, program, surroundings

_SERVICES = """\
postlog   unix-dgram n - n - 1 postlogd
in        unix n - n - - smtpd
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
verify    unix - - n - 1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
smtp      unix - - n - - smtp
lmtp      unix - - n - - lmtp
error     unix - - n - - error
retry     unix - - n - - error
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
"""
_STATUS = re.compile(r": to=<([^>]*)>.* status=(\w+) \((.*)\)$")


class Submission(smtplib.LMTP):
    """smtplib on a UNIX socket, which it knows for LMTP only, but with the words of SMTP."""

    ehlo_msg = "ehlo"


class Postfix:
    """One instance, from `start` to `stop`; `transports` has for each domain where its mail goes.

    ``settings`` are further lines of its main.cf.  ``port``: where it listens on loopback besides, 0 for nowhere.
    """

    def __init__(
        self, folder: Path, ca: str, transports: Mapping[str, str], settings: str = "", *, port: int = 0
    ) -> None:
        self.folder = folder
        self.log: list[str] = []
        self._said: queue.Queue[str | None] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._program = program("postfix")
        if os.geteuid() != 0:
            raise SkipTest("Postfix starts as root only")
        for path in (folder, folder / "etc", folder / "queue", folder / "data"):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
        shutil.chown(folder / "data", "postfix")
        shutil.copyfile(ca, folder / "etc" / "ca.pem")
        table = " ".join(f"{{ {domain} = {transport} }}" for domain, transport in transports.items())
        listener = f"127.0.0.1:{port} inet n - n - - smtpd\n" if port else ""
        (folder / "etc" / "master.cf").write_text(_SERVICES + listener)
        (folder / "etc" / "main.cf").write_text(f"""\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = /dev/stdout
myhostname = relay.example.net
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = loopback-only
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
notify_classes =
relay_domains = {", ".join(transports)}
transport_maps = inline:{{ {table} }}
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_host_lookup = native
smtp_tls_CAfile = {folder}/etc/ca.pem
smtp_tls_security_level = secure
smtp_tls_secure_cert_match = nexthop
smtp_tls_loglevel = 1
lmtp_host_lookup = native
lmtp_tls_CAfile = {folder}/etc/ca.pem
lmtp_tls_security_level = may
lmtp_tls_loglevel = 1
{settings}
""")

    @property
    def socket(self) -> str:
        """Where it takes mail, by SMTP."""
        return str(self.folder / "queue" / "public" / "in")

    def start(self) -> None:
        """Start it, and wait until it says that it runs."""
        self._process = subprocess.Popen(
            [self._program, "-c", str(self.folder / "etc"), "start-fg"],
            cwd=self.folder,
            env=surroundings(self.folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        self._wait(lambda line: "daemon started" in line)

    def stop(self) -> None:
        """End it and all that it has started.

        Its master makes a session of its own and writes its number into our queue; nobody else is in that session.
        """
        process, self._process = self._process, None
        if process is None:
            return
        groups = [process.pid]
        with suppress(FileNotFoundError):
            groups.append(int((self.folder / "queue" / "pid" / "master.pid").read_text()))
        for number in (signal.SIGTERM, signal.SIGKILL):
            for group in groups:
                with suppress(ProcessLookupError):
                    os.killpg(group, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS / 4)
        assert self._reader is not None and process.stdout is not None
        self._reader.join(SECONDS)
        process.stdout.close()

    def submit(self) -> Submission:
        """A session in which it takes mail."""
        session = Submission(self.socket, local_hostname="client.example.org")
        assert session.sock is not None
        session.sock.settimeout(SECONDS / 4)
        return session

    def results(self, recipients: int) -> dict[str, tuple[str, str]]:
        """What has become of the next so many recipients: address -> status and what the other side said."""
        found: dict[str, tuple[str, str]] = {}
        while len(found) < recipients:
            match = _STATUS.search(self._wait(lambda line: " status=" in line))
            assert match is not None
            found[match[1]] = (match[2], match[3])
        return found

    def everything(self) -> list[str]:
        """Its whole log, once it was stopped."""
        while (line := self._said.get_nowait()) is not None:
            self.log.append(line)
        return self.log

    def _read(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._said.put(line.rstrip("\n"))
        self._said.put(None)

    def _wait(self, wanted: Callable[[str], bool]) -> str:
        """The next line of the log that is wanted; AssertionError when none comes in time."""
        end = time.monotonic() + SECONDS
        while True:
            try:
                line = self._said.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError("Postfix did not do what it should; it said:\n" + "\n".join(self.log))
            self.log.append(line)
            if wanted(line):
                return line
