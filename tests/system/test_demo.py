"""`mailsvc demo` as a whole, in processes of its own: everything matches, and nothing is left of it.

Everything ends by itself within a time limit.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mailsvc.cli.playground import playground
from mailsvc.errors import MailsvcError
from tests.running import python_environment

LIMIT = 300.0
"""Seconds for the whole demo, on the slowest machine; it takes two or three."""


class Playgrounds(SynchronousTestCase):
    def test_a_start_that_fails_is_a_sentence_and_leaves_nothing(self) -> None:
        """The folder is gone, the child has ended, and its log says why."""
        with self.assertRaises(MailsvcError) as caught, playground() as place:
            place.start(["-n", "--pidfile=", "mailsvc", "--certs", "nowhere/"])
        self.assertIn("status 1", str(caught.exception))
        assert place.service is not None
        self.assertIn("this folder for certificates does not exist", "\n".join(place.service.log))
        self.assertFalse(place.folder.exists())


class TheDemo(SynchronousTestCase):
    """The command in a process of its own, with a temporary folder of its own."""

    def start(self, **environment: str) -> subprocess.Popen[str]:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.temporary = Path(folder.name)
        # A shell lets what it runs in the background ignore Ctrl-C; a child would inherit that from these tests.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "mailsvc", "demo"],
                cwd="/",
                env=python_environment(TMPDIR=folder.name) | environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )
        finally:
            signal.signal(signal.SIGINT, before)
        guard = threading.Timer(LIMIT, process.kill)
        guard.start()
        self.addCleanup(guard.cancel)
        self.addCleanup(process.stdout.close)  # type: ignore[union-attr]
        self.addCleanup(process.stderr.close)  # type: ignore[union-attr]
        return process

    def assert_nothing_is_left(self, said: str) -> None:
        """No file, and nobody who listens on a port that was told."""
        self.assertEqual(list(self.temporary.iterdir()), [])
        ports = re.findall(r"listens on 127\.0\.0\.1:(\d+)", said)
        self.assertNotEqual(ports, [])
        for port in ports:
            with socket.socket() as client:
                self.assertNotEqual(client.connect_ex(("127.0.0.1", int(port))), 0, f"port {port} is still open")

    def test_everything_matches_and_is_shown(self) -> None:
        """Status 0; both dialogues, the TLS facts, each comparison; no secret, no colour in a pipe; nothing left."""
        # What is configured for a real service must not reach the one of the demo.
        process = self.start(MAILSVC_CONFIG="/nonexistent.toml", MAILSVC_DATABASE="/nonexistent/database")
        said, complaints = process.communicate()
        self.assertEqual((process.returncode, complaints), (0, ""), said)
        for fact in (
            "C: STARTTLS",
            "C: STLS",
            "C: AUTH PLAIN ********",
            "C: PASS ********",
            "S: 530 5.7.0 Must issue a STARTTLS command first",
            "-- chain and name verified by the client",
            "S: +OK bye",
        ):
            self.assertIn(f"  {fact}", said)
        self.assertEqual(len(re.findall(r"^  C: (RETR|DELE) \d$", said, re.M)), 6)
        self.assertEqual(len(re.findall(r"^  S: 250 2\.0\.0 Ok: stored as [A-Z2-7]{16}$", said, re.M)), 3)
        self.assertEqual(len(re.findall(r"^  ok  .*octets are identical", said, re.M)), 3)
        self.assertNotIn("  NO  ", said)
        self.assertNotIn("\x1b", said)
        self.assertRegex(said, r"\nAll \d+ hold\. ")
        self.assert_nothing_is_left(said)

    def test_an_interrupted_demo_leaves_nothing(self) -> None:
        """Ctrl-C and SIGTERM in the middle: status 1, the service has ended, the folder is gone."""
        for number in (signal.SIGINT, signal.SIGTERM):
            process = self.start(PYTHONUNBUFFERED="1")
            assert process.stdout is not None
            said = ""
            for line in process.stdout:
                said += line
                if "listens on" in line:
                    break
            process.send_signal(number)
            rest, complaints = process.communicate()
            self.assertEqual(process.returncode, 1, rest)
            self.assertEqual(complaints.strip(), "mailsvc: stopped; nothing more was done")
            self.assert_nothing_is_left(said + rest)
