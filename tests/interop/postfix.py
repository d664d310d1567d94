"""A Postfix of our own: configuration, queue and log in a folder of the test, nothing of the machine's own Postfix.

It listens nowhere but on a UNIX socket in its queue, so that no port has to be found for it, and runs in the
foreground with its log on standard output (`tests.interop.foreground`).  Postfix starts as root only, because it
changes to its own user for most of its work; for anybody else the tests are skipped, and `.ci/run` runs them as root.

What every Postfix of ours has, also the one that takes mail (`tests.interop.peers`) and the one that is measured
(``bench/postfix.py``), is written by `configure`.
"""

from __future__ import annotations

import os
import re
import shutil
import smtplib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.interop.foreground import Foreground
from tests.interop.programs import SECONDS, program

_SERVICES = """\
postlog   unix-dgram n - n - 1 postlogd
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
error     unix - - n - - error
retry     unix - - n - - error
anvil     unix - - n - 1 anvil
"""

SENDING = """\
in        unix n - n - - smtpd
smtp      unix - - n - - smtp
scache    unix - - n - 1 scache
"""
"""The services of one that takes mail on a UNIX socket, see `socket_of`, and sends it on."""

_STATUS = re.compile(r": to=<([^>]*)>.* status=(\w+) \((.*)\)$")


class Submission(smtplib.LMTP):
    """smtplib on a UNIX socket, which it knows for LMTP only, but with the words of SMTP."""

    ehlo_msg = "ehlo"


def configure(folder: Path, name: str, services: str, settings: str) -> None:
    """Write the configuration of one whose host name is ``name``, and which keeps everything in ``folder``.

    ``services`` are the lines of its master.cf that not all have, ``settings`` those of its main.cf.
    """
    for path in (folder, folder / "etc", folder / "queue", folder / "data"):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
    shutil.chown(folder / "data", "postfix")
    (folder / "etc" / "master.cf").write_text(_SERVICES + services)
    (folder / "etc" / "main.cf").write_text(f"""\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = /dev/stdout
myhostname = {name}
mydestination =
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
notify_classes =
{settings}""")


def socket_of(folder: Path) -> str:
    """Where one with the services `SENDING` takes mail, by SMTP."""
    return str(folder / "queue" / "public" / "in")


def master_of(folder: Path) -> int:
    """The number of its master, once it runs: it makes a session of its own, in which is nobody else.

    FileNotFoundError before.
    """
    return int((folder / "queue" / "pid" / "master.pid").read_text())


class Postfix:
    """One instance, from `start` to `stop`; `transports` has for each domain where its mail goes.

    ``settings`` are further lines of its main.cf.  ``port``: where it listens on loopback besides, 0 for nowhere.
    """

    def __init__(
        self, folder: Path, ca: str, transports: Mapping[str, str], settings: str = "", *, port: int = 0
    ) -> None:
        self.folder = folder
        self.log: list[str] = []
        self._running: Foreground | None = None
        self._program = program("postfix")
        if os.geteuid() != 0:
            raise SkipTest("Postfix starts as root only")
        table = " ".join(f"{{ {domain} = {transport} }}" for domain, transport in transports.items())
        listener = f"127.0.0.1:{port} inet n - n - - smtpd\n" if port else ""
        services = f"{SENDING}lmtp unix - - n - - lmtp\n{listener}"
        configure(
            folder,
            "relay.example.net",
            services,
            f"""\
mynetworks = 127.0.0.0/8
inet_interfaces = loopback-only
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
""",
        )
        shutil.copyfile(ca, folder / "etc" / "ca.pem")

    @property
    def socket(self) -> str:
        """Where it takes mail, by SMTP."""
        return socket_of(self.folder)

    def start(self) -> None:
        """Start it, and wait until it says that it runs."""
        command = [self._program, "-c", str(self.folder / "etc"), "start-fg"]
        self._running = Foreground("Postfix", command, self.folder)
        self.log = self._running.log
        self._running.wait("daemon started")

    def stop(self) -> None:
        """End it and all that it has started."""
        running, self._running = self._running, None
        if running is None:
            return
        groups = []
        with suppress(FileNotFoundError):
            groups.append(master_of(self.folder))
        running.end(*groups)

    def submit(self) -> Submission:
        """A session in which it takes mail."""
        session = Submission(self.socket, local_hostname="client.example.org")
        assert session.sock is not None
        session.sock.settimeout(SECONDS / 4)
        return session

    def results(self, recipients: int) -> dict[str, tuple[str, str]]:
        """What has become of the next so many recipients: address -> status and what the other side said."""
        assert self._running is not None
        found: dict[str, tuple[str, str]] = {}
        while len(found) < recipients:
            match = _STATUS.search(self._running.wait(" status="))
            assert match is not None
            found[match[1]] = (match[2], match[3])
        return found

    def everything(self) -> list[str]:
        """Its whole log, once it was stopped."""
        return self.log
