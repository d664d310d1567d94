"""The storage alone, killed while it delivers."""

from __future__ import annotations

import signal

from mailsvc.storage.database import offline
from mailsvc.storage.rows import many
from tests.storage_cases import OfflineCase, add, content, count, spawn

DELIVER = """
import sys
from twisted.internet import reactor
from mailsvc.storage.database import Database, offline
from tests.storage_cases import deliver

def deliver_for_ever(worker, number):
    trace_id = f"{worker}-{number}"
    body = bytes([number % 256]) * (number * 97 % 20000)
    done = database.write(deliver_in_pieces, body, trace_id)
    done.addCallback(lambda _: print(trace_id, flush=True))
    done.addCallback(lambda _: deliver_for_ever(worker, number + 1))

def deliver_in_pieces(txn, body, trace_id):
    deliver(txn, body, 1, trace_id=trace_id)

database = Database(sys.argv[1], reactor)
database.open()
for worker in range(20):
    reactor.callWhenRunning(deliver_for_ever, worker, 0)
reactor.run()
"""


class Killed(OfflineCase):
    def test_acknowledged_survives_sigkill(self) -> None:
        """Every delivery that was acknowledged before SIGKILL is there, whole, and the database is sound."""
        with self.transaction() as txn:
            add(txn)
        acknowledged: set[str] = set()
        for _ in range(3):
            with self.transaction() as txn:
                txn.execute("DELETE FROM mailbox_item")
                txn.execute("DELETE FROM message")
            process = spawn(DELIVER, self.path)
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(150)]
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read()
            process.communicate(timeout=180)
            # The last line may be torn.
            acknowledged = {line.strip() for line in (*lines, *rest.splitlines(keepends=True)) if line.endswith("\n")}
            self.assertNotIn("Traceback", str(acknowledged))
            with offline(self.path, create=False) as txn:
                self.assertEqual(many(txn.execute("PRAGMA integrity_check")), [("ok",)])
                self.assertEqual(many(txn.execute("PRAGMA foreign_key_check")), [])
                stored = {
                    trace: (number, size)
                    for number, trace, size in many(txn.execute("SELECT id, trace_id, size FROM message"))
                }
                self.assertEqual(acknowledged - set(stored), set())
                for number, size in stored.values():
                    self.assertEqual(len(content(txn, number)), size)
                self.assertEqual(count(txn, "mailbox_item"), len(stored))
