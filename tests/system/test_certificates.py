"""Certificates of a running service: replaced by files, rows and signals, in front of real clients."""

from __future__ import annotations

import json
import os
import poplib
import pty
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.build import Issued, server_certificate
from mailsvc.certkit.keys import encode_key, new_key
from mailsvc.storage.certificates import CertificateRow, put_certificate
from mailsvc.storage.opening import offline
from mailsvc.tls.sealing import make_key_file, seal
from tests.pki import HOSTNAME, authority, chain_pem
from tests.running import LISTENERS, PASSWORD, RunningService, python_environment

LIMIT = 120.0
"""Seconds until what must happen soon has happened; a passing test does not take them."""


def issued(*names: str, lifetime: timedelta = timedelta(days=90)) -> Issued:
    """A new certificate with a new key, each time."""
    return server_certificate(authority(), names or (HOSTNAME, "localhost"), datetime.now(UTC), lifetime=lifetime)


def replace_folder(certs: Path, name: str, made: Issued, key: bytes | None = None) -> None:
    """Put certificate and key in place of the ones that are there, each by one rename."""
    folder = certs / name
    folder.mkdir(exist_ok=True)
    for file, octets in (
        ("privkey.pem", encode_key(made.key) if key is None else key),
        ("fullchain.pem", chain_pem(made)),
    ):
        fresh = folder / f".{file}"
        fresh.write_bytes(octets)
        fresh.chmod(0o600)
        fresh.rename(folder / file)


def doctor(service: RunningService) -> subprocess.CompletedProcess[str]:
    """What `mailsvc doctor` says of a running service."""
    where = [f"--{name}=tcp:{port}:interface=127.0.0.1" for name, port in service.ports.items() if name in LISTENERS]
    command = [sys.executable, "-m", "mailsvc", f"--database={service.database}", "doctor", "--json"]
    options = [f"--certs={service.certs.folder}", f"--hostname={HOSTNAME}", *where]
    return subprocess.run(
        [*command, *options], env=python_environment(), capture_output=True, text=True, check=False, timeout=LIMIT
    )


class RunningCase(SynchronousTestCase):
    """A service of its own, which looks by itself only when a test says so."""

    look_seconds = 3600.0

    def start(self, *, key_file: bool = False) -> RunningService:
        folder = Path(self.mktemp())
        folder.mkdir()
        settings = folder / "mailsvc.toml"
        text = f"[certificates]\nlook_seconds = {self.look_seconds}\n"
        if key_file:
            self.key = make_key_file(folder / "sealing.key")
            text += f'key_file = "{(folder / "sealing.key").absolute()}"\n'
        settings.write_text(text)
        service = RunningService(folder, options=(f"--config={settings.absolute()}",)).start()
        self.addCleanup(service.kill)
        self.context = ssl.create_default_context(cafile=service.ca)
        # Which certificate is shown for which name is what the tests ask.
        self.any_name = ssl.create_default_context(cafile=service.ca)
        self.any_name.check_hostname = False
        return service

    def serial(self, service: RunningService, name: str = "localhost", listener: str = "pop3s") -> int:
        """The serial number of the certificate that a new connection is shown."""
        with (
            socket.create_connection(("127.0.0.1", service.ports[listener]), timeout=LIMIT) as plain,
            self.any_name.wrap_socket(plain, server_hostname=name) as client,
        ):
            der = client.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number

    def wait(self, until: Callable[[], bool], what: str) -> None:
        """Ask until it is so; no test passes by time alone."""
        ended = threading.Event()
        timer = threading.Timer(LIMIT, ended.set)
        timer.start()
        try:
            while not until():
                if ended.is_set():
                    raise AssertionError(f"it never came: {what}")
                threading.Event().wait(0.05)
        finally:
            timer.cancel()

    def log_says(self, service: RunningService, words: str) -> None:
        self.wait(lambda: any(words in line for line in service.log), words)


class ReplacedTests(RunningCase):
    """What makes the service look, and what it does then."""

    def test_sighup(self) -> None:
        """Every listener shows the new one; a session that runs goes on under the old one."""
        service = self.start()
        service.add_users("alice@example.org")
        before = poplib.POP3_SSL("localhost", service.ports["pop3s"], timeout=LIMIT, context=self.context)
        made = issued()
        replace_folder(service.certs.folder, HOSTNAME, made)
        os.kill(service.pid, signal.SIGHUP)
        self.wait(lambda: self.serial(service) == made.certificate.serial_number, "the new certificate")
        self.assertEqual(self.serial(service, listener="submissions"), made.certificate.serial_number)
        told = doctor(service)
        self.assertEqual((told.returncode, told.stderr), (0, ""), told.stdout)
        before.user("alice@example.org")
        before.pass_(PASSWORD)
        self.assertEqual(before.stat(), (0, 0))
        before.quit()
        self.assertEqual(service.alarms(), [])

    def test_a_changed_file_is_seen_by_itself(self) -> None:
        """By inotify: nothing else would look within the hour."""
        service = self.start()
        made = issued()
        replace_folder(service.certs.folder, HOSTNAME, made)
        self.wait(lambda: self.serial(service) == made.certificate.serial_number, "the new certificate")
        other = issued("b.example.org")
        replace_folder(service.certs.folder, "b.example.org", other)
        self.wait(lambda: self.serial(service, "b.example.org") == other.certificate.serial_number, "the new folder")

    def test_a_bad_one_changes_nothing_and_the_postmaster_hears_of_it(self) -> None:
        """The last good one stays; log, event and one mail say why."""
        service = self.start()
        service.add_users("postmaster@mail.example.org")
        good = self.serial(service)
        replace_folder(service.certs.folder, HOSTNAME, issued(), key=encode_key(new_key()))
        os.kill(service.pid, signal.SIGHUP)
        self.log_says(service, "does not fit the certificate")
        self.assertEqual(self.serial(service), good)
        os.kill(service.pid, signal.SIGHUP)

        def mails() -> list[bytes]:
            client = poplib.POP3_SSL("localhost", service.ports["pop3s"], timeout=LIMIT, context=self.context)
            client.user("postmaster@mail.example.org")
            client.pass_(PASSWORD)
            count, _ = client.stat()
            found = [b"\n".join(client.retr(number)[1]) for number in range(1, count + 1)]
            client.quit()
            return found

        self.wait(lambda: len(mails()) > 0, "the mail")
        (mail,) = mails()
        told = doctor(service)
        self.assertEqual(told.returncode, 1)
        (error,) = [each for each in json.loads(told.stdout)["checks"] if each["severity"] == "error"]
        self.assertIn("does not fit the certificate", error["text"])
        self.assertIn(b"Return-Path: <>", mail)
        self.assertIn(b"does not fit the certificate", mail)


class RowTests(RunningCase):
    """Rows, which only looking finds."""

    look_seconds = 0.2

    def test_a_changed_row_is_seen(self) -> None:
        """A row that is put in goes live, and another in its place too; its key is sealed."""
        service = self.start(key_file=True)
        for _ in range(2):
            made = issued("row.example.org")
            sealed = seal(self.key, "row.example.org", encode_key(made.key))
            row = CertificateRow("row.example.org", chain_pem(made), sealed, self.key.name)
            with offline(str(service.database), create=False) as txn:
                put_certificate(txn, row, 0.0)
            self.wait(
                lambda made=made: self.serial(service, "row.example.org") == made.certificate.serial_number,  # type: ignore[misc]
                "the row's certificate",
            )
        octets = service.database.read_bytes()
        self.assertNotIn(b"PRIVATE KEY", octets)
        self.assertEqual(service.stop(), -signal.SIGTERM)
        self.assertEqual(service.start().alarms(), [])
        self.assertEqual(self.serial(service, "row.example.org"), made.certificate.serial_number)


class SwapTests(RunningCase):
    """Certificates that are swapped all the time, under load."""

    SWAPS = 60
    MOST_SWAPS = 1000
    CLIENTS = 4

    def test_no_handshake_fails(self) -> None:
        """Swapped every 100 ms or so by two renames and SIGHUP: every handshake succeeds, with an old or a new one."""
        service = self.start()
        known = {self.serial(service)}
        seen: set[int] = set()
        failures: list[str] = []
        handshakes = [0] * self.CLIENTS
        done = threading.Event()

        def client(number: int) -> None:
            while not done.is_set():
                try:
                    seen.add(self.serial(service, listener=("pop3s", "submissions")[number % 2]))
                    handshakes[number] += 1
                except (OSError, ssl.SSLError) as error:
                    failures.append(repr(error))

        threads = [threading.Thread(target=client, args=(number,)) for number in range(self.CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            # Counted and not timed: a slow machine swaps until as much has been seen.
            for swap in range(self.MOST_SWAPS):
                if swap >= self.SWAPS and sum(handshakes) > self.SWAPS and len(seen) > self.SWAPS // 4:
                    break
                made = issued()
                known.add(made.certificate.serial_number)
                replace_folder(service.certs.folder, HOSTNAME, made)
                os.kill(service.pid, signal.SIGHUP)
                done.wait(0.1)
        finally:
            done.set()
            for thread in threads:
                thread.join(LIMIT)
        self.assertEqual(failures, [])
        self.assertGreater(sum(handshakes), self.SWAPS)
        self.assertGreater(len(seen), self.SWAPS // 4)
        self.assertLessEqual(seen, known)
        self.wait(lambda: self.serial(service) == made.certificate.serial_number, "the last one")
        self.assertEqual([line for line in service.alarms() if "Traceback" in line], [])


class OnATerminal(RunningService):
    """A service in the foreground of a terminal of its own."""

    terminal = ""

    def command(self) -> list[str]:
        # Under nohup these tests ignore SIGHUP, and so would the service.
        code = (
            "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); os.setsid()\n"
            "os.open(sys.argv[1], os.O_RDWR); os.execv(sys.argv[2], sys.argv[2:])"
        )
        return [sys.executable, "-c", code, self.terminal, *super().command()]


class TerminalTests(SynchronousTestCase):
    """SIGHUP has two meanings in the foreground."""

    def test_a_lost_terminal_ends_the_service_and_a_signal_does_not(self) -> None:
        """While the terminal is there SIGHUP looks at the certificates; without it the service stops in order."""
        master, slave = pty.openpty()
        service = OnATerminal(self.mktemp())
        service.terminal = os.ttyname(slave)
        service.start()
        self.addCleanup(service.kill)
        os.close(slave)
        os.kill(service.pid, signal.SIGHUP)
        idle = poplib.POP3("localhost", service.ports["pop3"], timeout=LIMIT)
        os.close(master)
        self.assertIn(b"shutting down", idle.sock.recv(1000))
        idle.close()
        self.assertEqual(service.wait(), 0)
        self.assertTrue(any("looking at the certificates" in line for line in service.log))
        self.assertEqual(service.alarms(), [])
