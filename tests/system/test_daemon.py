"""twistd in its usual form, in the background: it starts, serves, stops, and leaves nothing lying about."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.load import stored
from tests.peer import Peer, send_message, submission_session
from tests.pki import HOSTNAME, make_certs
from tests.running import LISTENERS, ROOT, START_SECONDS, STOP_SECONDS, RunningService, python_environment, twistd


class Daemon(SynchronousTestCase):
    def setUp(self) -> None:
        if not hasattr(os, "pidfd_open"):
            raise SkipTest("this system has no pidfd_open, without which a daemon's end cannot be awaited")
        self.folder = Path(tempfile.mkdtemp(prefix="mailsvc-daemon-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        make_certs(self.folder / "certs")

    def start(self, socket_name: str) -> int:
        """Start a daemon that serves a UNIX socket; a pidfd for it."""
        listeners = [f"--{name}={f'unix:{socket_name}' if name == 'smtp' else ''}" for name in LISTENERS]
        settings = ["--certs=certs", "--database=mail.sqlite3", f"--hostname={HOSTNAME}"]
        done = subprocess.run(
            twistd("--pidfile=mailsvc.pid", "--logfile=mailsvc.log", "mailsvc", *settings, *listeners),
            cwd=self.folder,
            env=python_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=START_SECONDS,
            check=False,
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        # twistd returns when the service has started, with its pidfile written and its sockets open.
        process = os.pidfd_open(int((self.folder / "mailsvc.pid").read_text()))
        self.addCleanup(self.end, process)
        return process

    def end(self, process: int) -> None:
        """Whatever the test did, no daemon of ours is left."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)
        os.close(process)

    def greeting(self, name: str) -> bytes:
        """The first line from the socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_SECONDS)
            connection.connect(str(self.folder / name))
            return connection.makefile("rb").readline()

    def test_it_starts_serves_and_stops_twice(self) -> None:
        """Pidfile and socket are there while it runs and gone afterwards; the log tells of both and of no trouble."""
        for _ in range(2):
            process = self.start("smtp.sock")
            self.assertEqual(self.greeting("smtp.sock"), f"220 {HOSTNAME} ESMTP\r\n".encode())
            signal.pidfd_send_signal(process, signal.SIGTERM)
            self.assertTrue(select.select([process], [], [], STOP_SECONDS)[0], "it did not end")
            for name in ("mailsvc.pid", "smtp.sock", "mail.sqlite3-wal"):
                self.assertFalse((self.folder / name).exists(), name)
        log = (self.folder / "mailsvc.log").read_text()
        self.assertEqual(log.count("mail is kept in"), 2)
        self.assertEqual(log.count("Server Shut Down"), 2)
        for word in ("Traceback", "Unhandled", "#error", "#critical"):
            self.assertNotIn(word, log)


class Stopping(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mailsvc-stop-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def read_to_the_end(self, peer: Peer) -> bytes:
        """What a client does that hears that the service stops: it reads that, and closes too."""
        [said] = peer.reply()
        self.assertTrue(peer.at_end())
        peer.close()
        return said

    def test_sessions_are_told_and_what_was_accepted_stays(self) -> None:
        """SIGTERM with a client connected: 421 inside TLS and an orderly end for it; the mail is there afterwards."""
        with RunningService(self.folder) as service:
            [user] = service.add_users("someone@example.org")
            port = service.ports["submission"]
            with (
                submission_session(port, service.ca, user.address, user.password, tls=False) as peer,
                ThreadPoolExecutor(1) as client,
            ):
                said = send_message(peer, user.address, user.address, b"Subject: kept\r\n\r\nkept\r\n")
                self.assertTrue(said.startswith(b"250 "), said)
                farewell = client.submit(self.read_to_the_end, peer)
                # twistd ends itself by the signal that stopped it, so that whoever waits for it knows.
                self.assertEqual(service.stop(), -signal.SIGTERM)
                self.assertTrue(farewell.result().startswith(b"421 4.3.2"))
            self.assertEqual(service.alarms(), [])
            self.assertFalse((self.folder / "mail.sqlite3-wal").exists())
            service.start()
            [stored_message] = stored(service.database)
            self.assertEqual(stored_message[1], hashlib.sha256(b"Subject: kept\r\n\r\nkept\r\n").hexdigest())


class Installed(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mailsvc-installed-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def test_an_installed_copy_works_from_any_folder(self) -> None:
        """The wheel has all that is needed: plugin, schema, the command; without this tree on the path."""
        source = self.folder / "source"
        unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "_trial_temp*", "tests", "certs")
        shutil.copytree(ROOT, source, ignore=unwanted)
        site = self.folder / "site"
        isolation = [] if not _can_build() else ["--no-build-isolation"]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run(
            [*pip, *isolation, "--target", str(site), str(source)],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
        if done.returncode != 0 and not isolation and os.environ.get("MAILSVC_REQUIRE_ALL") != "1":
            raise SkipTest("setuptools is not installed, and pip could not get it to build with")
        self.assertEqual(done.returncode, 0, done.stderr)
        with RunningService(self.folder / "run", root=site) as service:
            where = subprocess.run(
                [sys.executable, "-c", "import mailsvc; print(mailsvc.__file__)"],
                cwd=service.folder,
                env=python_environment(site),
                capture_output=True,
                encoding="utf-8",
                timeout=START_SECONDS,
                check=True,
            )
            self.assertEqual(Path(where.stdout.strip()), site / "mailsvc" / "__init__.py")
            listed = subprocess.run(
                [str(site / "bin" / "mailsvc"), "--database", str(service.database), "domain", "list"],
                cwd=service.folder,
                env=python_environment(site),
                capture_output=True,
                encoding="utf-8",
                timeout=START_SECONDS,
                check=False,
            )
            self.assertEqual((listed.returncode, listed.stderr), (0, ""), listed.stdout)
        self.assertEqual(service.alarms(), [])

    def test_a_source_archive_is_complete_and_has_no_keys(self) -> None:
        """MANIFEST.in: what a packager and `make test` need is in the sdist; what lies in certs/ is not."""
        if importlib.util.find_spec("setuptools") is None:
            raise SkipTest("setuptools is not installed")
        source = self.folder / "source"
        unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "_trial_temp*", "*.sqlite3*", "certs")
        shutil.copytree(ROOT, source, ignore=unwanted)
        make_certs(source / "certs")
        subprocess.run(
            [sys.executable, "-c", "from setuptools import build_meta; build_meta.build_sdist('..')"],
            cwd=source,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=300,
            check=True,
        )
        [archive] = self.folder.glob("mailsvc-*.tar.gz")
        with tarfile.open(archive) as opened:
            names = {name.partition("/")[2] for name in opened.getnames()}
        wanted = {"Makefile", "README.rst", "LICENSE", "docs/index.rst", "systemd/mailsvc.service", "tests/memory.py"}
        wanted |= {"mailsvc/storage/schema/0001_first_light.sql", "twisted/plugins/mailsvc_plugin.py"}
        self.assertEqual(wanted - names, set())
        self.assertEqual([name for name in names if name.endswith(("privkey.pem", "ca.key"))], [])


def _can_build() -> bool:
    """Whether this Python can build a wheel with what it has."""
    try:
        setuptools = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        return False
    if tuple(int(part) for part in setuptools.split(".")[:2]) >= (70, 1):
        return True
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version("wheel"))
    return False
