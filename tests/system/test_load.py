"""Many sessions at once, and large messages at once: everything is taken, once, unchanged.

How fast is `bench/load.py`'s question; nothing here depends on time.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.load import noops, send, stored
from tests.peer import pop3_session
from tests.running import RunningService, after_trace

MEGABYTE = 1 << 20


class Load(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.mkdtemp(prefix="mailsvc-load-")
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        self.service = RunningService(Path(folder)).start()
        self.addCleanup(self.service.stop)
        self.users = self.service.add_users(*(f"user{number}@example.org" for number in range(20)))

    def test_two_hundred_sessions_send_fifty_messages_each(self) -> None:
        """10,000 messages of 4 KiB: no error, and every one is stored once with the bytes that were sent."""
        sent = send(self.service, self.users, sessions=200, messages=50, size=4096)
        self.assertEqual(sent.errors, [])
        self.assertEqual(len(sent.accepted), 200 * 50)
        differences = Counter(sent.accepted.items())
        differences.subtract(stored(self.service.database))
        self.assertEqual([item for item in differences.items() if item[1]], [])
        self.assertEqual(self.service.alarms(), [])

    def test_ten_large_messages_at_once(self) -> None:
        """Ten of 25 MiB are stored and fetched again with the same SHA-256; another session says NOOP meanwhile."""
        answered: list[float] = []
        with noops(self.service, self.users[-1], answered):
            sent = send(self.service, self.users[:10], sessions=10, messages=1, size=25 * MEGABYTE)
        self.assertEqual(sent.errors, [])
        self.assertGreater(len(answered), 0)
        fetched = []
        for user in self.users[:10]:
            port = self.service.ports["pop3s"]
            with pop3_session(port, self.service.ca, user.address, user.password, tls=True) as peer:
                self.assertTrue(peer.pop3(b"RETR 1").startswith(b"+OK"))
                fetched.append(hashlib.sha256(after_trace(peer.dotted())).hexdigest())
                self.assertTrue(peer.pop3(b"RETR 2").startswith(b"-ERR"))
        self.assertEqual(len(set(fetched)), 10)
        self.assertEqual(sorted(fetched), sorted(sent.accepted.values()))
        self.assertEqual(self.service.alarms(), [])
