"""SIGKILL of a queue at random moments: every message is sent or reported, and twice only where nobody could know."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import mailsvc
from mailsvc.storage.database import offline
from tests.relay_world import store_message

KILLS = 25
MESSAGES = 4000
LONGEST_LIFE = 0.5
"""Seconds from the queue's start to its kill, at most."""
LIMIT = 600.0
"""Seconds until the last one has sent what is left, at most; some are enough."""


class KilledQueue(SynchronousTestCase):
    """One database, one process after the other."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.database = self.folder / "mail.sqlite3"
        self.journal = self.folder / "arrived"
        with offline(str(self.database), create=True) as txn:
            for number in range(MESSAGES):
                name = "no" if number % 10 == 0 else "yes"
                recipients = [f"{name}{number}.{part}@d{number % 40}.example.net" for part in range(1 + number % 2)]
                store_message(txn, f"T{number}", recipients, "alice@example.org", 500, time.time(), {})

    def live(self, generation: int, seconds: float | None) -> None:
        """Run a queue for so long, or until it has nothing to do any more, and kill it."""
        command = [sys.executable, "-m", "tests.queue_process", str(self.database), str(self.journal), str(generation)]
        root = Path(mailsvc.__file__).resolve().parent.parent
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as process:
            assert process.stdout is not None
            try:
                self.assertEqual(process.stdout.readline(), b"running\n")
                if seconds is not None:
                    threading.Event().wait(seconds)
                else:
                    deadline = time.monotonic() + LIMIT
                    while self.count("SELECT COUNT(*) FROM outbound") and time.monotonic() < deadline:
                        threading.Event().wait(0.1)
            finally:
                process.kill()

    def count(self, query: str) -> int:
        with closing(sqlite3.connect(self.database)) as connection:
            return int(connection.execute(query).fetchone()[0])

    def test_killed(self) -> None:
        """After any number of kills everything has arrived or was reported once; what arrived twice did so in two
        lives, and only what the first one was in the middle of.

        Rule: A queue that is killed loses nothing, and repeats only what nobody could know
        """
        in_the_middle = 0
        for generation in range(KILLS):
            self.live(generation, random.uniform(0.0, LONGEST_LIFE))
            if not self.count("SELECT COUNT(*) FROM outbound"):
                break  # a quick machine: there is nothing more to be killed at
            in_the_middle += 1
        self.assertGreater(in_the_middle, 0, "the kills came too late to prove anything")
        self.live(KILLS, None)
        arrived = defaultdict[str, list[int]](list)
        for line in self.journal.read_text().splitlines():
            generation_of, recipient = line.split()
            arrived[recipient].append(int(generation_of))
        with closing(sqlite3.connect(self.database)) as connection:
            self.assertEqual(connection.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
            texts = [
                text for (text,) in connection.execute("SELECT detail ->> '$.text' FROM event WHERE kind = 'noted'")
            ]
        reported = Counter(text.removeprefix("reported ") for text in texts)
        self.assertEqual(set(reported.values()), {1})
        wanted = {
            f"{'no' if number % 10 == 0 else 'yes'}{number}.{part}@d{number % 40}.example.net"
            for number in range(MESSAGES)
            for part in range(1 + number % 2)
        }
        self.assertEqual({*arrived, *reported}, wanted)
        self.assertEqual(set(arrived) & set(reported), set())
        self.assertEqual(
            (self.count("SELECT COUNT(*) FROM outbound"), self.count("SELECT COUNT(*) FROM message")), (0, 0)
        )
        twice = [lives for lives in arrived.values() if len(lives) > 1]
        self.assertTrue(all(len(set(lives)) == len(lives) for lives in twice), "twice in one life")
        per_life = Counter(life for lives in twice for life in sorted(lives)[:-1])
        # 20 conversations, and what a transaction that was not committed had gathered.
        self.assertLess(max(per_life.values(), default=0), 250)
