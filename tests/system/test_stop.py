"""How the service ends when it is told to: in order, and without a traceback, however often it is told."""

from __future__ import annotations

import os
import signal
import smtplib
import ssl
import time

from twisted.trial.unittest import SynchronousTestCase

from tests.running import PASSWORD, RunningService

LIMIT = 20.0
"""Seconds until what must happen soon has happened; a passing test does not take them."""


class Stop(SynchronousTestCase):
    def test_a_second_signal_hurries_the_end_and_makes_no_traceback(self) -> None:
        """A message under way may finish within timeouts.shutdown; a second SIGTERM cuts it off, without a defect."""
        folder = self.mktemp()
        settings = os.path.abspath(self.mktemp())
        with open(settings, "w") as file:
            file.write("[timeouts]\nshutdown = 600\n")
        service = RunningService(folder, options=(f"--config={settings}",)).start()
        self.addCleanup(service.kill)
        [user] = service.add_users("alice@example.org")
        context = ssl.create_default_context(cafile=service.ca)
        with smtplib.SMTP("localhost", service.ports["submission"], timeout=LIMIT) as client:
            client.starttls(context=context)
            client.login(user.address, PASSWORD)
            client.mail(user.address)
            client.rcpt(user.address)
            self.assertEqual(client.docmd("DATA")[0], 354)
            os.kill(service.pid, signal.SIGTERM)
            self._wait_for(service, "Port")
            os.kill(service.pid, signal.SIGTERM)
            self.assertRaises((OSError, smtplib.SMTPServerDisconnected), client.getreply)
            client.close()
        service.wait()
        self.assertEqual(service.alarms(), [])

    def _wait_for(self, service: RunningService, words: str) -> None:
        """Until the log says so: the port is closed, so the first signal is being obeyed."""
        deadline = time.monotonic() + LIMIT
        while not any(words in line and "Closed" in line for line in service.log):
            self.assertLess(time.monotonic(), deadline, service.log_tail())
            time.sleep(0.01)
