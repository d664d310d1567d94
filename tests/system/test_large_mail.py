"""A message of 50 MB for several clients at once: each gets all of it, and the service holds a piece for each."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mail.address import parse_address
from mailsvc.mail.message import Summary
from mailsvc.storage import accounts, mailboxes
from mailsvc.storage.opening import offline
from tests.peer import pop3_session
from tests.running import RunningService

HEADER = b"Subject: large\r\n\r\n"
PARTS = 200
"""Of 256 KiB each."""
SESSIONS = 4
BOUND_KIB = 28 * 1024
"""A seventh of what the sessions fetch together: some 15 MiB, half of them what the database keeps of its pages."""


def parts() -> Iterator[bytes]:
    """The body of the message: lines, some of them with a dot first, and no two parts the same."""
    for number in range(PARTS):
        line = b".%07d %s\r\n" % (number, b"x" * 53)
        yield line * (mailboxes.PART_LIMIT // len(line))


class LargeMail(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.mkdtemp(prefix="mailsvc-large-")
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        self.service = RunningService(Path(folder))
        self.users = self.service.add_users(*(f"user{number}@example.org" for number in range(SESSIONS)))
        with offline(str(self.service.database), create=False) as txn:
            size = len(HEADER) + sum(map(len, parts()))
            summary = Summary(size, len(HEADER), "", None, None, None, None)
            new = mailboxes.NewMessage("large", "", 0.0, b"", summary)
            rows = [accounts.account(txn, parse_address(user.address).key) for user in self.users]
            mailboxes.deliver(txn, new, HEADER, parts(), [row.id for row in rows if row is not None])
        self.service.start()
        self.addCleanup(self.service.stop)

    def test_memory_is_bounded(self) -> None:
        """Four sessions fetch 50 MB each, three of them read nothing until the first has all: memory stays small."""
        digest = sha256(HEADER)
        for piece in parts():
            digest.update(piece)
        wanted = digest.hexdigest()
        port = self.service.ports["pop3s"]
        peers = []
        for user in self.users:
            peer = pop3_session(port, self.service.ca, user.address, user.password, tls=True)
            self.addCleanup(peer.close)
            peers.append(peer)
        # The peak counts from here on: checking the passwords took more than what is measured.
        Path(f"/proc/{self.service.pid}/clear_refs").write_text("5")
        before = self.service.peak_kib()
        for peer in peers:
            peer.send(b"RETR 1\r\n")
        for peer in peers:
            self.assertTrue(peer.line().startswith(b"+OK"))
            self.assertEqual(sha256(peer.dotted()).hexdigest(), wanted)
            self.assertEqual(peer.pop3(b"QUIT")[:3], b"+OK")
        self.assertLess(self.service.peak_kib() - before, BOUND_KIB)
        self.assertEqual(self.service.alarms(), [])
