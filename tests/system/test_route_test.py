"""`mailsvc route test`: what a host is found to be, and the verdict; in a process of its own, which has a reactor."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

from tests.pki import make_certs
from tests.running import python_environment
from tests.sink import Sink
from tests.test_cli_directory import DirectoryCase
from tests.test_cli_user import ALICE

CAROL = "carol@example.net"


class RouteTestTests(DirectoryCase):
    def asked(self, *arguments: str, status: int) -> str:
        """What `mailsvc route test` prints."""
        options = ["--database", str(self.path), *self.options]
        command = [sys.executable, "-m", "mailsvc", *options, "route", "test", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env=python_environment(), timeout=60, check=False
        )
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def test_taken(self) -> None:
        """A verified channel, both questions asked, exit status 0; the server gets no message."""
        certs = make_certs(Path(self.mktemp()).absolute())
        with Sink(certs) as sink:
            self.succeed("route", "add", "--to", "example.net", f"tls://localhost:{sink.port}?ca={certs.ca}")
            said = self.asked(CAROL, "--from", ALICE, status=0)
            [facts] = json.loads(self.asked(CAROL, "--json", status=0))
            self.assertTrue(sink.arrived.empty())
            self.assertEqual(sink.connections, 2)
        for words in (
            "there is a route to example.net",
            ": encrypted, server name verified",
            "required: encrypted, server name verified",
            "localhost answered RCPT TO with 250 ok",
            f"Mail for {CAROL} would be taken now by localhost.",
        ):
            self.assertIn(words, said)
        self.assertEqual((facts["verdict"], facts["hosts"][0]["channel"]), ("taken", "name"))

    def test_refused_recipient(self) -> None:
        """The server's own words, and exit status 1; a relay after it is tried, but does not decide."""
        with Sink() as sink:
            url = f"smtp://localhost:{sink.port}"
            self.succeed("route", "add", "--to", "example.net", url, f"smtp://127.0.0.1:{sink.port}")
            said = self.asked("nobody@example.net", status=1)
        self.assertIn("would come back now: localhost answered RCPT TO with 550 5.1.1 no such user at all", said)
        self.assertIn("127.0.0.1, which would not be asked", said.replace(f" (smtp://127.0.0.1:{sink.port})", ""))

    def test_too_little(self) -> None:
        """A server without TLS where the route demands it is not asked for anything."""
        with Sink() as sink:
            self.succeed("route", "add", "--to", "example.net", f"tls://localhost:{sink.port}")
            said = self.asked(CAROL, status=1)
        self.assertIn("does not offer STARTTLS", said)
        self.assertNotIn("answered RCPT TO", said)

    def test_nobody_listens(self) -> None:
        """It is said, and the second relay decides; alone, mail waits."""
        with socket.socket() as taken, Sink() as sink:
            taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
            nobody = f"smtp://127.0.0.1:{taken.getsockname()[1]}"
            self.succeed("route", "add", "--to", "example.net", nobody)
            self.assertIn(f"Mail for {CAROL} would wait now: ", self.asked(CAROL, status=1))
            self.succeed("route", "add", "--replace", "--to", "example.net", nobody, f"smtp://localhost:{sink.port}")
            self.assertIn("would be taken now by localhost", self.asked(CAROL, status=0))

    def test_credentials_that_are_missing(self) -> None:
        """Nobody is connected to without them."""
        with Sink() as sink:
            self.succeed("route", "add", "--to", "example.net", f"tls://isp@localhost:{sink.port}")
            said = self.asked(CAROL, status=1)
            self.assertIn("there are no credentials isp", said)
            self.assertIn("required: encrypted, server name verified", said)
            self.assertEqual(sink.connections, 0)

    def test_login(self) -> None:
        """The login is tried: a server that offers none is not asked about the recipient."""
        certs = make_certs(Path(self.mktemp()).absolute())
        self.use_configuration(f'[certificates]\nkey_file = "{Path(self.mktemp()).absolute()}"\n')
        arguments = ["route", "credentials", "add", "isp", "--user", "us", "--password-stdin"]
        self.succeed(*arguments, input="correct horse\n")
        with Sink(certs) as sink:
            self.succeed("route", "add", "--to", "example.net", f"tls://isp@localhost:{sink.port}?ca={certs.ca}")
            said = self.asked(CAROL, status=1)
            self.assertEqual(sink.connections, 1)
        self.assertIn("would wait now: localhost: no login with the credentials isp: the server offers none", said)
        self.assertNotIn("answered RCPT TO", said)

    def test_mx_host_that_is_this_machine(self) -> None:
        """Without a route: what the relay does not connect to is not connected to here."""
        said = self.asked("carol@[127.0.0.1]", status=1)
        self.assertIn("would come back now: ", said)
        self.assertIn("which is this machine itself", said)

    def test_stays_here(self) -> None:
        """Mail that does not leave is nothing to test."""
        self.assertIn("stays on this server", self.asked(ALICE, status=1))
