"""The running service while it is attacked, and when it has run out of something.  Nothing here is timed."""

from __future__ import annotations

import resource
import socket
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.attack import Plan, attacked
from tests.peer import Peer, send_message
from tests.running import RunningService


def message_from_elsewhere(service: RunningService, recipient: str) -> bytes:
    """A message as another server brings it; the answer at its end."""
    with Peer(service.ports["smtp"], service.ca, tls=False) as peer:
        assert peer.reply()[-1].startswith(b"220 ")
        peer.smtp(b"EHLO client.example.net")
        peer.smtp(b"STARTTLS")
        peer.start_tls()
        peer.smtp(b"EHLO client.example.net")
        return send_message(peer, "eve@example.net", recipient, b"Subject: hello\r\n\r\nit goes on\r\n")


TURNED_AWAY = 20
"""Connections that must find no descriptor."""


class Descriptors(SynchronousTestCase):
    """No descriptor is left for a new connection."""

    def test_accept_recovers(self) -> None:
        """Who comes is turned away, the open session goes on, one alarm is in the log; then there is room again.

        Rule: EMFILE
        """
        if not sys.platform.startswith("linux"):
            raise SkipTest("prlimit(2) and /proc are Linux")
        with tempfile.TemporaryDirectory() as folder, RunningService(Path(folder)) as service:
            [user] = service.add_users("alice@example.org")
            with Peer(service.ports["smtp"], service.ca, tls=False) as before:
                before.reply()
                soft, hard = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
                limit = max(int(entry.name) for entry in Path(f"/proc/{service.pid}/fd").iterdir()) + 1
                resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (limit, hard))
                try:
                    # Descriptors below the limit may be free, now or whenever a file is closed, and then one more is
                    # served.  Who is served is held: of more connections than the limit, the rest are turned away.
                    with ExitStack() as held:
                        greetings = [self._greeting(service.ports["smtp"], held) for _ in range(limit + TURNED_AWAY)]
                        self.assertEqual(set(greetings) - {b"220 mail.example.org ESMTP\r\n"}, {b""})
                        self.assertGreaterEqual(greetings.count(b""), TURNED_AWAY)
                        self.assertEqual(before.smtp(b"NOOP"), b"250 2.0.0 Ok")
                finally:
                    resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (soft, hard))
            answer = message_from_elsewhere(service, user.address)
            self.assertTrue(answer.startswith(b"250 2.0.0"), answer)
        # The log is complete when the service has ended.
        alarms = [line for line in service.alarms() if "connections are turned away" in line]
        self.assertEqual(len(alarms), 1, service.log_tail())

    @staticmethod
    def _greeting(port: int, held: ExitStack) -> bytes:
        """What a new connection, left open, is greeted with; nothing when it is closed at once."""
        connection = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=180))
        try:
            return connection.recv(100)
        except ConnectionResetError:
            return b""


class Attacks(SynchronousTestCase):
    """What attackers do is bounded, and meanwhile mail is taken.  How fast is measured by bench/attack.py."""

    def attack(self, kind: str, many: int, addresses: int, messages: int) -> dict[str, int]:
        """Send so many messages while the service is attacked; what the attackers did."""
        if not sys.platform.startswith("linux"):
            raise SkipTest("only Linux lets anybody bind any address of 127.0.0.0/8")
        done: dict[str, int] = {}
        with tempfile.TemporaryDirectory() as folder:
            settings = Path(folder) / "mailsvc.toml"
            settings.write_text('tls = "optional"\n[limits]\ntrusted = []\n')
            with RunningService(Path(folder), options=[f"--config={settings}"]) as service:
                [user] = service.add_users("alice@example.org")
                with attacked(service, Plan(kind, service.ports["smtp"], many, addresses), done):
                    for _ in range(messages):
                        answer = message_from_elsewhere(service, user.address)
                        self.assertTrue(answer.startswith(b"250 2.0.0"), answer)
                self.assertLess(service.peak_kib(), 300 * 1024)
            self.assertEqual(service.alarms(), [], service.log_tail())
        return done

    def test_slow_loris(self) -> None:
        """Hundreds of connections that send a byte a second.

        Rule: Slow loris, silent reader, flood of unknown recipients
        """
        done = self.attack("slow", 300, 300, 5)
        self.assertEqual(done["connections"], 300)

    def test_never_reads(self) -> None:
        """Clients that send commands without end and read no reply are thrown out.

        Rule: Slow loris, silent reader, flood of unknown recipients
        """
        done = self.attack("unread", 20, 10, 5)
        self.assertGreaterEqual(done["connections"], 20)

    def test_guesses_recipients(self) -> None:
        """Each session is ended after ten unknown recipients, and its network has to wait.

        Rule: Slow loris, silent reader, flood of unknown recipients
        """
        done = self.attack("guess", 20, 10, 20)
        self.assertLess(done["guesses"], 2000)

    def test_one_address(self) -> None:
        """One address that holds all the connections it may have keeps nobody else out."""
        done = self.attack("slow", 50, 1, 2)
        self.assertEqual(done["connections"], 50)
