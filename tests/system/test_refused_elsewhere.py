"""A real service and a server elsewhere that refuses: the sender hears it, as a report or as the reply, once."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.peer import Peer, pop3_session, send_message, submission_session
from tests.running import PASSWORD, RunningService, python_environment
from tests.sink import Sink

ALICE, NOBODY, JOE, EVE = "alice@example.org", "nobody@there.example", "joe@there.example", "eve@elsewhere.example"
LIMIT = 180.0
"""Seconds until what must happen soon has happened; a passing test does not take them."""

MESSAGE = b"From: <alice@example.org>\r\nSubject: hello\r\n\r\nout into the world\r\n"


class RefusedElsewhere(SynchronousTestCase):
    def service(self, settings: str = "") -> RunningService:
        folder = tempfile.TemporaryDirectory(prefix="mailsvc-test-")
        self.addCleanup(folder.cleanup)
        path = Path(folder.name) / "mailsvc.toml"
        path.write_text(f'tls = "optional"\n{settings}')
        service = RunningService(Path(folder.name) / "service", options=[f"--config={path}"])
        service.add_users(ALICE)
        service.start()
        self.addCleanup(service.stop)
        return service

    def mailsvc(self, service: RunningService, *arguments: str) -> str:
        """What a command prints."""
        command = [sys.executable, "-m", "mailsvc", "--database", str(service.database), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env=python_environment(), cwd=service.folder, timeout=LIMIT
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def route(self, service: RunningService, sink: Sink) -> None:
        ca = os.path.abspath(service.ca)
        self.mailsvc(service, "route", "add", "--default", f"tls://localhost:{sink.port}?ca={ca}")

    def submit(self, service: RunningService, recipient: str) -> bytes:
        with submission_session(service.ports["submission"], service.ca, ALICE, PASSWORD, tls=False) as peer:
            return send_message(peer, ALICE, recipient, MESSAGE)

    def report(self, service: RunningService) -> bytes:
        """The only message in alice's maildrop, once there is one."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            with pop3_session(service.ports["pop3"], service.ca, ALICE, PASSWORD, tls=False) as peer:
                said = peer.pop3(b"STAT")
                if said.startswith(b"+OK 1 "):
                    peer.pop3(b"RETR 1")
                    return peer.dotted()
                self.assertTrue(said.startswith(b"+OK 0 "), said)
                # By QUIT the maildrop is free again before the next session asks for it.
                self.assertTrue(peer.pop3(b"QUIT").startswith(b"+OK"))
        raise AssertionError(service.log_tail())

    def test_as_a_report(self) -> None:
        """The message is accepted, the other server refuses its recipient, the report lies in the user's maildrop."""
        service = self.service()
        with Sink(service.certs) as sink:
            self.route(service, sink)
            self.assertEqual(self.submit(service, NOBODY)[:3], b"250")
            report = self.report(service)
        self.assertIn(b"Subject: Failed: your message could not be delivered\r\n", report)
        self.assertIn(b"\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user at all\r\n", report)
        said = self.mailsvc(service, "why", NOBODY)
        self.assertIn("is told that it failed", said)
        self.assertEqual(service.alarms(), [])

    def test_as_the_reply(self) -> None:
        """With ``relay.hold_reply`` the refusal is the reply to the message, and 250 means that the server has it."""
        service = self.service("[relay]\nhold_reply = 60\n")
        with Sink(service.certs) as sink:
            self.route(service, sink)
            said = self.submit(service, NOBODY)
            self.assertTrue(said.startswith(b"550 5.1.1 <nobody@there.example> localhost answered RCPT TO with"), said)
            self.assertEqual(self.submit(service, JOE)[:3], b"250")
            self.assertEqual(sink.arrived.get_nowait().recipients, (JOE.encode(),))
        with pop3_session(service.ports["pop3"], service.ca, ALICE, PASSWORD, tls=False) as peer:
            self.assertTrue(peer.pop3(b"STAT").startswith(b"+OK 0 "))
        self.assertEqual(service.alarms(), [])

    def test_to_a_sender_elsewhere(self) -> None:
        """What a stranger wrote to an alias is refused there: the report goes to the stranger, by the same way out."""
        service = self.service()
        self.mailsvc(service, "alias", "add", "team@example.org", NOBODY)
        with Sink(service.certs) as sink:
            self.route(service, sink)
            with Peer(service.ports["smtp"], service.ca, tls=False) as peer:
                peer.reply()
                peer.smtp(b"EHLO client.example.org")
                self.assertEqual(send_message(peer, EVE, "team@example.org", MESSAGE)[:3], b"250")
            arrived = sink.arrived.get(timeout=LIMIT)
        self.assertEqual((arrived.sender, arrived.recipients), (b"", (EVE.encode(),)))
        self.assertIn(b"Original-Recipient: rfc822; team@example.org\r\n", arrived.content)
        self.assertEqual(service.alarms(), [])
