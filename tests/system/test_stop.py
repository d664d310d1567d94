"""How the service ends when it is told to: in order, and without a traceback, however often it is told."""

from __future__ import annotations

import os
import poplib
import signal
import smtplib
import ssl

from twisted.trial.unittest import SynchronousTestCase

from tests.running import PASSWORD, RunningService

LIMIT = 120.0
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
            idle = poplib.POP3("localhost", service.ports["pop3"], timeout=LIMIT)
            os.kill(service.pid, signal.SIGTERM)
            # An idle session is told that the service ends: so it has begun to.
            self.assertIn(b"shutting down", idle.sock.recv(1000))
            idle.close()
            os.kill(service.pid, signal.SIGTERM)
            self.assertRaises((OSError, smtplib.SMTPServerDisconnected), client.getreply)
            client.close()
        service.wait()
        self.assertEqual(service.alarms(), [])
