"""A small internet for tests: addresses, a resolver and other people's mail servers, in namespaces of Linux.

Everything inside has the real ports (25, 53, 443), addresses of the documentation's networks (RFC 5737) on a loopback
interface of its own, and its own ``/etc/resolv.conf``; so the service under test runs with the settings that it always
has, and nothing here can meet anything of the machine, or of a second run beside it.  Needs root, because mail servers
change their user; for anybody else the tests are skipped, and `.ci/run` runs them as root.

The hardest idea is how it ends.  All programs but the service itself are in one PID namespace, whose first process
reads from a pipe of ours.  When that pipe closes, also because the test process was killed, the kernel ends all of them
at once.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.interop.foreground import Foreground
from tests.interop.programs import SECONDS, program, surroundings

NETWORK = "192.0.2"
"""TEST-NET-1; the last octets are given out by whoever starts a server."""

PEERS = Path(os.environ.get("MAILSVC_PEERS", "/usr/local/lib/mailsvc-peers"))
"""Where `.ci/peers` has unpacked the mail servers that cannot be installed beside Postfix."""

_CLONE_NEWNET = 0x40000000
_USERS = ("opensmtpd", "opensmtpq", "Debian-exim")
"""Of the servers that are unpacked and not installed; they exist inside only."""

_BEGIN = """\
set -e
ip link set lo up
for last in {hosts}; do ip address add {network}.$last/32 dev lo; done
for file in resolv.conf passwd group; do mount --bind "{folder}/$file" /etc/$file; done
for place in /run /var/spool /var/lib; do mount -t tmpfs -o mode=755 tmpfs $place; done
if [ -d "{libexec}" ]; then mount --bind "{libexec}" /usr/libexec; fi
echo ready
exec cat
"""


class World:
    """One of them, from its making to `end`.  ``hosts``: the last octets of its addresses."""

    def __init__(self, hosts: Sequence[int]) -> None:
        if os.geteuid() != 0:
            raise SkipTest("mail servers in namespaces of their own need root")
        for needed in ("unshare", "nsenter", "ip", "mount"):
            program(needed)
        self.folder = Path(tempfile.mkdtemp(prefix="mailsvc-world-"))
        self.folder.chmod(0o755)
        self._servers: list[Foreground] = []
        self._files()
        begin = _BEGIN.format(
            hosts=" ".join(map(str, hosts)), network=NETWORK, folder=self.folder, libexec=PEERS / "usr" / "libexec"
        )
        self._holder = subprocess.Popen(
            [program("unshare"), "--net", "--mount", "--pid", "--fork", "--kill-child", "--", "sh", "-c", begin],
            env=surroundings(self.folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        assert self._holder.stdout is not None
        said = self._holder.stdout.readline()
        if said != "ready\n":
            rest = said + self._holder.communicate()[0]
            shutil.rmtree(self.folder, ignore_errors=True)
            if os.environ.get("MAILSVC_REQUIRE_ALL") == "1":
                raise AssertionError(f"there can be no namespaces here: {rest}")
            raise SkipTest(f"there can be no namespaces here: {rest.strip()}")

    def _files(self) -> None:
        (self.folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        people, groups = Path("/etc/passwd").read_text(), Path("/etc/group").read_text()
        for number, name in enumerate(_USERS, 64100):
            if f"\n{name}:" not in people:
                people += f"{name}:x:{number}:{number}::/nonexistent:/usr/sbin/nologin\n"
            if f"\n{name}:" not in groups:
                groups += f"{name}:x:{number}:\n"
        (self.folder / "passwd").write_text(people)
        (self.folder / "group").write_text(groups)

    @property
    def enter(self) -> list[str]:
        """What a command begins with that shall see this network and these files; it stays one process."""
        return [program("nsenter"), f"--target={self._holder.pid}", "--net", "--mount", "--"]

    def start(
        self, name: str, command: Sequence[str], ready: str, *, environment: Mapping[str, str] | None = None
    ) -> Foreground:
        """Start a program, and wait until a line of its output says ``ready``.  It lives as long as the world does."""
        enter = [*self.enter[:-1], f"--pid=/proc/{self._holder.pid}/ns/pid_for_children", "--"]
        server = Foreground(name, [*enter, *command], self.folder, environment)
        self._servers.append(server)
        if ready:
            server.wait(ready)
        return server

    def run(self, *command: str, environment: Mapping[str, str] | None = None, allowed: Sequence[int] = (0,)) -> str:
        """Run a command to its end; its output.  AssertionError when its exit status is another."""
        done = subprocess.run(
            [*self.enter, *command],
            cwd=self.folder,
            env=surroundings(self.folder) | dict(environment or {}),
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )
        if done.returncode not in allowed:
            raise AssertionError(f"{command}: exit status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    @contextmanager
    def inside(self) -> Iterator[None]:
        """While the block runs, sockets that this thread makes are in this network."""
        with open("/proc/thread-self/ns/net") as home, open(f"/proc/{self._holder.pid}/ns/net") as here:
            _enter_network(here.fileno())
            try:
                yield
            finally:
                _enter_network(home.fileno())

    def listens(self, host: str, port: int) -> None:
        """Wait until somebody takes connections there; for programs that do not say when they do."""

        def answers() -> bool:
            with self.inside(), socket.socket() as client:
                client.settimeout(SECONDS / 4)
                return client.connect_ex((host, port)) == 0

        try:
            until(answers, f"nobody listens on {host} port {port}")
        except AssertionError as error:
            last = self._servers[-1]
            raise AssertionError(f"{error}; {last.name} says:\n" + "\n".join(last.log)) from None

    def end(self) -> None:
        """End everything in it."""
        assert self._holder.stdin is not None and self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.wait(SECONDS)
        self._holder.stdout.close()
        for server in self._servers:
            server.join()
        shutil.rmtree(self.folder, ignore_errors=True)


def until(happens: Callable[[], bool], otherwise: str) -> None:
    """Look again and again until it is so; AssertionError after `SECONDS`."""
    end = time.monotonic() + SECONDS
    while not happens():
        if time.monotonic() > end:
            raise AssertionError(otherwise)
        threading.Event().wait(0.05)


def _enter_network(descriptor: int) -> None:
    # os.setns() came with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
