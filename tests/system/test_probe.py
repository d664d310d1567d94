"""`mailsvc probe` against the real service: each listener, and all of them as a strict client sees them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.running import LISTENERS, ROOT, RunningService, python_environment, shared_service

SECONDS = 180.0


def probe(service: RunningService, *arguments: str) -> tuple[int, Any]:
    """The status and the JSON of a probe."""
    options = ["--timeout=120", "--json", *arguments]
    command = [sys.executable, "-m", "mailsvc", f"--database={service.database}", "probe", *options]
    run = subprocess.run(
        command, cwd=service.folder, env=python_environment(ROOT), capture_output=True, timeout=SECONDS
    )
    assert not run.stderr, run.stderr
    return run.returncode, json.loads(run.stdout)


class Probed(SynchronousTestCase):
    """Our own service."""

    def setUp(self) -> None:
        self.service = shared_service(type(self))

    def test_self(self) -> None:
        """Every listener with every name is verified."""
        places = [f"--{name}=tcp:{self.service.ports[name]}:interface=127.0.0.1" for name in LISTENERS]
        common = (f"--certs={self.service.certs.folder}", f"--hostname={self.service.certs.hostname}")
        status, told = probe(self.service, "--self", *common, *places)
        self.assertEqual((status, told["ok"]), (0, True), told)
        tried = {(each["listener"], each["name"]) for each in told["tried"]}
        names = (self.service.certs.hostname, "localhost", "127.0.0.1")
        self.assertEqual(tried, {(listener, name) for listener in LISTENERS for name in names})

    def test_one_listener(self) -> None:
        """Verified with our CA, not verified with the machine's; IMAP is another protocol."""
        place = f"localhost:{self.service.ports['pop3']}"
        status, told = probe(self.service, place, "--starttls", "pop3", "--ca", self.service.ca, "--resume")
        self.assertEqual((status, told["tls"]["resumed"]), (0, True), told)
        self.assertEqual(told["remarks"], [])
        self.assertEqual(probe(self.service, place, "--starttls", "pop3")[0], 3)
        self.assertEqual(probe(self.service, place, "--starttls", "imap")[0], 6)
        status, told = probe(self.service, f"localhost:{self.service.ports['smtp']}", "--starttls", "smtp")
        self.assertEqual((status, told["remarks"]), (3, []), told)
