"""SIGKILL of the whole service while it sends to a real server: nothing is lost, and what comes twice is marked.

`tests/system/test_killed_queue.py` does that to the queue alone, many times; here are the client, the connections that
are kept, the routes and the reports as well, and Postfix's smtp-sink, which writes down what it has taken.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailsvc.relay.routes import Route, RouteKind
from mailsvc.relay.url import parse_relay
from mailsvc.storage.opening import offline
from mailsvc.storage.routes import add_route
from tests.interop.programs import SECONDS, program
from tests.interop.world import until
from tests.relay_world import store_message
from tests.running import RunningService

KILLS = 10
MESSAGES = 3000
LONGEST_LIFE = 0.6
"""Seconds from the service's being ready to its kill, at most."""

SENDER = "alice@example.org"


class KilledSender(SynchronousTestCase):
    """One database, one service after the other, two servers that live through all of it."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mailsvc-killed-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o755)
        self.box = self.folder / "box"
        self.box.mkdir()
        self.box.chmod(0o777)
        taking = self.sink("-d", f"{self.box}/%H%M%S.")
        refusing = self.sink("-f", "RCPT")
        self.service = RunningService(self.folder / "service")
        self.addCleanup(self.service.kill)
        self.service.add_users(SENDER)
        with offline(str(self.service.database), create=True) as txn:
            for domain, port in (("yes.example.net", taking), ("no.example.net", refusing)):
                add_route(txn, Route(RouteKind.TO, domain, (parse_relay(f"smtp://127.0.0.1:{port}"),)), 0.0)
            for number in range(MESSAGES):
                domain = "no" if number % 25 == 0 else "yes"
                recipients = [f"r{number}.{part}@{domain}.example.net" for part in range(1 + number % 2)]
                store_message(txn, f"T{number}", recipients, SENDER, 500, time.time(), {})

    def sink(self, *options: str) -> int:
        """Start one; its port."""
        while True:
            with socket.create_server(("127.0.0.1", 0)) as unused:
                port: int = unused.getsockname()[1]
            if self.started(port, options):
                return port

    def started(self, port: int, options: Sequence[str]) -> bool:
        """Start one there; False when somebody else was quicker to take the port."""
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        process = subprocess.Popen([program("smtp-sink"), *user, *options, f"127.0.0.1:{port}", "100"])
        self.addCleanup(process.wait, SECONDS)
        self.addCleanup(process.kill)

        def is_taken() -> bool:
            with socket.socket() as client:
                return client.connect_ex(("127.0.0.1", port)) == 0

        until(lambda: is_taken() or process.poll() is not None, "smtp-sink does not listen")
        self.assertTrue(is_taken(), "smtp-sink has ended")
        return process.poll() is None

    def rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.service.database)) as connection:
            return connection.execute(query).fetchall()

    def left(self) -> int:
        """How many recipients wait."""
        [(number,)] = self.rows("SELECT COUNT(*) FROM outbound")
        return int(number)

    def arrived(self) -> Counter[str]:
        """How often each recipient's message was taken whole: smtp-sink also keeps the beginnings of others."""
        found: Counter[str] = Counter()
        for path in self.box.iterdir():
            text = path.read_bytes()
            if re.search(rb"\nx{498}\r?\n*\Z", text):
                found.update(each.decode() for each in re.findall(rb"^X-Rcpt-Args: <([^>]*)>", text, re.MULTILINE))
        return found

    def test_killed(self) -> None:
        """After any number of kills everything has arrived or was reported once, without waiting for a lease to end; of
        what has arrived twice the event and the log say that it may have.

        Rule: A service that is killed while it sends loses nothing, and marks what may come twice
        """
        logs: list[str] = []
        in_the_middle = 0
        for _ in range(KILLS):
            self.service.start()
            threading.Event().wait(random.uniform(0.0, LONGEST_LIFE))
            self.service.kill()
            logs += self.service.log
            self.service.log.clear()
            if not self.left():
                break  # a quick machine: there is nothing more to be killed at
            in_the_middle += 1
        self.assertTrue(in_the_middle, "the kills came too late to prove anything")
        [(last_event,)] = self.rows("SELECT COALESCE(MAX(id), 0) FROM event")
        self.service.start()
        while left := self.left():
            until(lambda left=left: self.left() < left, f"{left} are left: {self.service.log_tail()}")  # type: ignore[misc]
        self.service.stop()
        logs += self.service.log
        self.assertEqual([line for line in logs if "Traceback" in line or "#error" in line], [])

        wanted = {
            f"r{number}.{part}@{'no' if number % 25 == 0 else 'yes'}.example.net"
            for number in range(MESSAGES)
            for part in range(1 + number % 2)
        }
        refused = {each for each in wanted if "@no." in each}
        arrived = self.arrived()
        self.assertEqual(set(arrived), wanted - refused)
        contents = self.rows("SELECT data FROM message_content ORDER BY message_id, part")
        reports = b"".join(bytes(data) for (data,) in contents).decode()
        reported = Counter(re.findall(r"^Final-Recipient: rfc822; (\S+)\r$", reports, re.MULTILINE))
        self.assertEqual(reported, Counter(refused))

        rows = self.rows("SELECT id, detail FROM event WHERE kind = 'relayed'")
        relayed = [(number, json.loads(detail)) for number, detail in rows]
        self.assertEqual(Counter(each["recipient"] for _, each in relayed), Counter(wanted - refused))
        events = {each["recipient"]: number for number, each in relayed if each.get("duplicate_possible")}
        marked = set(events)
        twice = {recipient for recipient, copies in arrived.items() if copies > 1}
        self.assertEqual(twice - marked, set())
        # What 40 conversations were in the middle of, and what a transaction that was not committed had gathered.
        self.assertLess(len(twice), KILLS * 250)
        # A line that was not written yet when its process was killed is in no log; its event is.
        said = {
            each for line in logs if "(a duplicate is possible)" in line for each in re.findall(r" <([^>]*)>", line)
        }
        self.assertEqual(said - marked, set())
        # The last service was not killed.
        self.assertEqual({each for each in marked if events[each] > last_event} - said, set())
