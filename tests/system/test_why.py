"""`mailsvc why` beside a real service."""

from __future__ import annotations

import poplib
import re
import smtplib
import ssl
import time

from twisted.trial.unittest import SynchronousTestCase

from mailsvc.cli.playground import playground

LIMIT = 180.0
"""Seconds until what must happen soon has happened; a passing test does not take them."""


class ARealService(SynchronousTestCase):
    def test_from_connection_to_mailbox(self) -> None:
        """A real service: refused, accepted, delivered, fetched; and `mailsvc why` tells it while the service runs.

        Rule: mailsvc why
        """
        with playground() as place:
            place.command(["certs", "init", "certs/", "--hostname", "mail.example.org"])
            place.command(["user", "add", "alice@example.org", "--password-stdin"], stdin="open sesame\n")
            listeners = ("smtp", "submission", "submissions", "pop3", "pop3s")
            ports = [text for name in listeners for text in (f"--{name}", "tcp:0:interface=127.0.0.1")]
            names = ["--hostname", "mail.example.org", "--certs", "certs/"]
            service = place.start(["-n", "--pidfile=", "mailsvc", *names, *ports])
            trust = ssl.create_default_context()
            trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
            with smtplib.SMTP("127.0.0.1", service.ports["smtp"], timeout=LIMIT) as client:
                client.ehlo("client.example.net")
                self.assertEqual(client.docmd("MAIL", "FROM:<s@example.net>")[0], 530)
                client.starttls(context=trust)
                client.ehlo("client.example.net")
                refused = client.sendmail(
                    "s@example.net",
                    ["nobody@example.org", "alice@example.org"],
                    "Message-ID: <1@example.net>\r\nSubject: secret\r\n\r\nvery secret\r\n",
                )
                self.assertEqual(list(refused), ["nobody@example.org"])
            reader = poplib.POP3_SSL("127.0.0.1", service.ports["pop3s"], timeout=LIMIT, context=trust)
            reader.user("alice@example.org")
            self.assertRaises(poplib.error_proto, reader.pass_, "very wrong")
            reader.user("alice@example.org")
            reader.pass_("open sesame")
            reader.retr(1)
            reader.dele(1)
            reader.quit()
            told = _when_told(lambda: place.command(["why", "1@example.net"]), "removed")
            wanted = [
                r"UTC  127\.0\.0\.1 on \S+$",
                r"connected to \S+$",
                r"TLS handshake completed: TLSv1\.3, ",
                r"[A-Z0-9]+: accepted \(250\) from <s@example\.net> to <alice@example\.org>, .* <1@example.net>$",
                r"[A-Z0-9]+: delivered to the mailbox of alice@example\.org$",
                r"disconnected after ",
                r"",
                r"UTC  127\.0\.0\.1 on pop3s$",
                r"connected to pop3s$",
                r"TLS handshake completed: ",
                r"logged in as alice@example\.org",
                r"mailbox of alice@example\.org: 1 message fetched, 1 removed$",
                r"disconnected after ",
            ]
            lines = told.splitlines()
            self.assertEqual(len(lines), len(wanted), told)
            for line, pattern in zip(lines, wanted, strict=True):
                self.assertTrue(re.search(pattern, line), (line, pattern))
            everything = place.command(["why", "127.0.0.1"])
            for part in ("MAIL was refused: 530 5.7.0", "recipient <nobody@example.org>", "login as alice@example.org"):
                self.assertIn(part, everything)
            self.assertIn("550", place.command(["why", "nobody@example.org"]))
            as_json = place.command(["why", "127.0.0.1", "--json"])
            for secret in ("secret", "sesame", "wrong "):
                self.assertNotIn(secret, everything + as_json)
            self.assertTrue(service.stop())
            # Stopping wrote what was still waiting.
            self.assertIn("disconnected", place.command(["why", "127.0.0.1"]))


def _when_told(ask: object, word: str) -> str:
    """The command's answer once ``word`` stands in it: events that are batched take a second."""
    assert callable(ask)
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        told = str(ask())
        if word in told and told.splitlines()[-1].lstrip()[10:].startswith("disconnected"):
            return told
    raise AssertionError(told)
