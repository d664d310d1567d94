"""The running service while it is attacked, and when it has run out of something.  Nothing here is timed."""

from __future__ import annotations

import os
import resource
import socket
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.peer import Peer, send_message
from tests.running import RunningService


def descriptors(pid: int) -> int:
    """How many the process has open (Linux)."""
    return len(os.listdir(f"/proc/{pid}/fd"))


class Descriptors(SynchronousTestCase):
    """No descriptor is left for a new connection."""

    def test_accept_recovers(self) -> None:
        """Who comes is turned away, the open session goes on, one alarm is in the log; then there is room again."""
        if not sys.platform.startswith("linux"):
            raise SkipTest("prlimit(2) and /proc are Linux")
        with tempfile.TemporaryDirectory() as folder, RunningService(Path(folder)) as service:
            [user] = service.add_users("alice@example.org")
            with Peer(service.ports["smtp"], service.ca, tls=False) as before:
                before.reply()
                _, hard = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
                soft = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)[0]
                resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (descriptors(service.pid) - 1, hard))
                try:
                    for _ in range(20):
                        with socket.create_connection(("127.0.0.1", service.ports["smtp"]), timeout=30) as turned_away:
                            self.assertEqual(self._read(turned_away), b"")
                    self.assertEqual(before.smtp(b"NOOP"), b"250 2.0.0 Ok")
                finally:
                    resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (soft, hard))
            with Peer(service.ports["smtp"], service.ca, tls=False) as after:
                self.assertTrue(after.reply()[-1].startswith(b"220 "))
                after.smtp(b"EHLO client.example.net")
                after.smtp(b"STARTTLS")
                after.start_tls()
                after.smtp(b"EHLO client.example.net")
                answer = send_message(after, "eve@example.net", user.address, b"Subject: after\r\n\r\nit goes on\r\n")
                self.assertTrue(answer.startswith(b"250 2.0.0"), answer)
        # The log is complete when the service has ended.
        alarms = [line for line in service.alarms() if "connections are turned away" in line]
        self.assertEqual(len(alarms), 1, service.log_tail())

    @staticmethod
    def _read(connection: socket.socket) -> bytes:
        try:
            return connection.recv(100)
        except ConnectionResetError:
            return b""
