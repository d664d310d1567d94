"""A message goes out: from a user's submission through a real service to another server, and `mailsvc why` tells it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.peer import submission_session
from tests.running import PASSWORD, RunningService, python_environment
from tests.sink import Sink

ALICE, JOE = "alice@example.org", "joe@there.example"
LIMIT = 180.0
"""Seconds until what must happen soon has happened; a passing test does not take them."""

MESSAGE = b"From: <alice@example.org>\r\nSubject: hello\r\n\r\nout into the world\r\n"


class GoesOut(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="mailsvc-test-")
        self.addCleanup(folder.cleanup)
        self.service = RunningService(Path(folder.name) / "service")
        self.service.add_users(ALICE)
        self.service.start()
        self.addCleanup(self.service.stop)

    def mailsvc(self, *arguments: str) -> str:
        """What a command prints."""
        command = [sys.executable, "-m", "mailsvc", "--database", str(self.service.database), *arguments]
        environment = python_environment()
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.service.folder)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def submit(self) -> None:
        peer = submission_session(self.service.ports["submission"], self.service.ca, ALICE, PASSWORD, tls=False)
        with peer:
            for command in (f"MAIL FROM:<{ALICE}>", f"RCPT TO:<{JOE}>", "DATA"):
                self.assertIn(peer.smtp(command.encode())[:1], b"23")
            self.assertEqual(peer.smtp(MESSAGE + b".")[:3], b"250")

    def told(self, words: str) -> str:
        """What `mailsvc why` says when it says this."""
        end = time.monotonic() + LIMIT
        while words not in (said := self.mailsvc("why", JOE)):
            self.assertLess(time.monotonic(), end, said)
        return said

    def test_through_a_relay_whose_name_is_verified(self) -> None:
        """``tls://`` to a server with a certificate of a CA that the URL names: inside TLS, and said so."""
        ca = os.path.abspath(self.service.ca)
        with Sink(self.service.certs) as sink:
            self.mailsvc("route", "add", "--default", f"tls://localhost:{sink.port}?ca={ca}")
            self.submit()
            arrived = sink.arrived.get(timeout=LIMIT)
        self.assertEqual((arrived.sender, arrived.recipients), (ALICE.encode(), (JOE.encode(),)))
        self.assertTrue(arrived.encrypted)
        self.assertTrue(arrived.content.startswith(b"Received: from client.example.org"))
        self.assertTrue(arrived.content.endswith(MESSAGE))
        said = self.told("was taken by localhost")
        self.assertIn("encrypted, server name verified (required: encrypted, server name verified)", said)
        self.assertEqual(self.service.alarms(), [])

    def test_a_server_without_tls_gets_nothing_where_tls_is_promised(self) -> None:
        """It waits, and says what was demanded; what the postmaster changes holds at the next attempt."""
        with Sink() as sink:
            self.mailsvc("route", "add", "--default", f"tls://localhost:{sink.port}")
            self.submit()
            said = self.told("does not offer STARTTLS")
            self.assertIn("demanded is: encrypted, server name verified", said)
            self.assertTrue(sink.arrived.empty())
            self.mailsvc("route", "add", "--replace", "--default", f"smtp://localhost:{sink.port}")
            self.mailsvc("queue", "flush", "--all")
            self.assertFalse(sink.arrived.get(timeout=LIMIT).encrypted)
        self.assertEqual(self.service.alarms(), [])
