"""Two real services: a primary that offers its list over mutual TLS, and its backup, which takes mail while it is away
and hands it over when it is back."""

from __future__ import annotations

import http.client
import json
import shutil
import smtplib
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.build import Issued, client_certificate
from mailsvc.certkit.keys import encode_key
from tests.pki import Certs, authority, chain_pem
from tests.running import RunningService, python_environment

LIMIT = 180.0
"""Seconds until what must happen soon has happened; a passing test does not take them."""

ALICE, BOB = "alice@example.org", "bob@example.org"


class BackupMX(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mailsvc-test-")).absolute()
        self.addCleanup(shutil.rmtree, self.folder)
        self.settings = self.folder / "backup.toml"
        self.settings.write_text("[backup]\nfetch_seconds = 1\n")

    def service(self, name: str, *options: str, certs: Certs | None = None) -> RunningService:
        service = RunningService(self.folder / name, options=options, certs=certs)
        self.addCleanup(service.stop)
        return service

    def command(self, service: RunningService, *arguments: str) -> str:
        """What `mailsvc` prints."""
        done = subprocess.run(
            [sys.executable, "-m", "mailsvc.cli.main", "--database", str(service.database), *arguments],
            env=python_environment(),
            cwd=service.folder,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def write(self, name: str, made: Issued) -> Path:
        """A folder with this certificate."""
        folder = self.folder / name
        folder.mkdir()
        (folder / "fullchain.pem").write_bytes(chain_pem(made))
        (folder / "privkey.pem").write_bytes(encode_key(made.key))
        (folder / "privkey.pem").chmod(0o600)
        return folder

    def until(self, what: Callable[[], object], service: RunningService) -> None:
        deadline = time.monotonic() + LIMIT
        while not what():
            self.assertLess(time.monotonic(), deadline, service.log_tail())
            threading.Event().wait(0.1)

    def one(self, service: RunningService, query: str) -> object:
        with closing(sqlite3.connect(service.database)) as connection:
            row = connection.execute(query).fetchone()
            return None if row is None else row[0]

    def ask(self, service: RunningService, path: str, folder: Path | None, method: str = "GET") -> tuple[int, bytes]:
        """Status and body, as a client with this certificate gets them."""
        context = ssl.create_default_context(cafile=service.ca)
        if folder is not None:
            context.load_cert_chain(folder / "fullchain.pem", folder / "privkey.pem")
        with closing(
            http.client.HTTPSConnection("localhost", service.ports["recipients"], timeout=LIMIT, context=context)
        ) as connection:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def test_both(self) -> None:
        """The list travels to whom it is offered and to nobody else; unknown recipients are refused while the primary
        is away, and known ones wait and are handed over when it is back, long before the queue's own time.

        Rule: Backup MX: the list travels over mutual TLS
        Rule: A backup MX hands over when the primary is back
        """
        now = datetime.now(UTC)
        known = self.write("known", client_certificate(authority(), "mx2", now))
        stranger = self.write("stranger", client_certificate(authority(), "mx3", now))
        key = self.folder / "list.key"
        primary = self.service("primary", "--recipients=tcp:0:interface=127.0.0.1")
        primary.add_users(ALICE)
        told = self.command(
            primary,
            *("backup", "offer", "mx2", "example.org"),
            *("--certificate", str(known / "fullchain.pem"), "--key-file", str(key)),
        )
        self.assertIn("may fetch the list of example.org", told)
        primary.start()
        self.check_strangers(primary, known, stranger)

        backup = self.service("backup", f"--config={self.settings}").start()
        url = f"https://localhost:{primary.ports['recipients']}?ca={primary.ca}&cert={known}"
        self.command(backup, "backup", "add", "example.org", "--from-primary", url, "--key-file", str(key))
        self.until(lambda: self.one(backup, "SELECT got FROM backup_domain"), backup)
        self.assertIn("last fetched", self.command(primary, "backup", "offers"))
        relay = f"tls://localhost:{primary.ports['smtp']}?ca={primary.ca}"
        self.command(backup, "route", "add", "--replace", "--to", "example.org", relay)

        ports = primary.ports.copy()
        primary.kill()
        with smtplib.SMTP("127.0.0.1", backup.ports["smtp"], timeout=LIMIT) as client:
            client.starttls(context=ssl._create_unverified_context())
            refused = client.sendmail("", [ALICE, BOB], b"Subject: wait\r\n\r\nbody\r\n")
        self.assertEqual({name: code for name, (code, _) in refused.items()}, {BOB: 550})
        self.until(lambda: self.one(backup, "SELECT attempts FROM outbound"), backup)
        self.until(lambda: self.one(backup, "SELECT problem FROM backup_domain"), backup)
        self.assertEqual(json.loads(self.command(backup, "backup", "show", "example.org", "--json"))["entries"], 3)

        # All of them: a new one from the kernel could be one of the two that have to be the same.
        options = [f"--{name}=tcp:{port}:interface=127.0.0.1" for name, port in ports.items()]
        again = self.service("primary", *options, certs=primary.certs).start()
        self.until(lambda: self.one(again, "SELECT COUNT(*) FROM mailbox_item"), backup)
        self.until(lambda: self.one(backup, "SELECT COUNT(*) FROM outbound") == 0, backup)
        self.assertIn("the primary of example.org answers again; 1 recipients", "\n".join(backup.log))
        self.assertEqual(backup.alarms() + again.alarms(), [])

    def check_strangers(self, primary: RunningService, known: Path, stranger: Path) -> None:
        path = "/recipients/example.org"
        status, body = self.ask(primary, path, known)
        self.assertEqual(status, 200)
        self.assertNotIn(b"alice", body)
        self.assertEqual(self.ask(primary, path, None), (403, b""))
        self.assertEqual(self.ask(primary, path, stranger), (403, b""))
        for other in ("/recipients/example.net", "/recipients/", "/", "/recipients/example.org/x", "/recipients/%00"):
            self.assertEqual(self.ask(primary, other, known), (404, b""), other)
        self.assertEqual(self.ask(primary, path, known, "HEAD")[0], 405)
