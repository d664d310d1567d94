"""Starts that are refused: a sentence for each thing that is wrong, with the cure, status 1, and never a traceback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.pki import HOSTNAME, make_certs
from tests.running import LISTENERS, START_SECONDS, RunningService, python_environment, twistd


class RefusedStart(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mailsvc-refused-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.certs = make_certs(self.folder / "certs")

    def refused(self, *options: str, daemon: bool = False) -> list[str]:
        """Start with these options, the others being good, in the folder; the sentences of the refusal."""
        given = " ".join(options)
        defaults = {"certs": "certs", "database": "mail.sqlite3", "hostname": HOSTNAME}
        defaults |= dict.fromkeys(LISTENERS, "tcp:0:interface=127.0.0.1")
        good = [f"--{name}={value}" for name, value in defaults.items() if f"--{name}=" not in given]
        how = ("--logfile=mailsvc.log",) if daemon else ("-n", "--pidfile=")
        done = subprocess.run(
            twistd(*how, "mailsvc", *good, *options),
            cwd=self.folder,
            env=python_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=START_SECONDS,
            check=False,
        )
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertNotIn("Traceback", done.stdout + done.stderr)
        self.assertEqual([name for name in os.listdir(self.folder) if name.endswith(".pid")], [])
        lines = done.stderr.splitlines()
        if daemon:
            # The last word is twistd's own, in the terminal that the daemon has left: "An error has occurred: ...".
            self.assertEqual(len([line for line in lines if not line.startswith("mailsvc: ")]), 2, done.stderr)
            lines = [line for line in lines if line.startswith("mailsvc: ")]
        for line in lines:
            self.assertTrue(line.startswith("mailsvc: "), line)
        return [line.removeprefix("mailsvc: ") for line in lines]

    def taken_port(self) -> int:
        """A port that another program listens on: this one."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        number: int = listener.getsockname()[1]
        return number

    def test_a_port_that_is_taken(self) -> None:
        """Each is named with the option that changes it, in the foreground and as a daemon; no database is made."""
        smtp, pop3 = (f"tcp:{self.taken_port()}:interface=127.0.0.1" for _ in range(2))
        for daemon in (False, True):
            first, second = self.refused(f"--smtp={smtp}", f"--pop3={pop3}", daemon=daemon)
            for sentence, endpoint, option in ((first, smtp, "--smtp"), (second, pop3, "--pop3")):
                self.assertIn(f"cannot listen on {endpoint}", sentence)
                self.assertIn("already in use", sentence)
                self.assertIn(f"choose another endpoint with {option}", sentence)
        self.assertFalse((self.folder / "mail.sqlite3").exists())

    def test_no_certificates(self) -> None:
        """The sentence is the command that makes them."""
        [sentence] = self.refused("--certs=nowhere")
        self.assertIn("nowhere: ", sentence)
        self.assertIn(f"mailsvc certs init nowhere/ --hostname {HOSTNAME}", sentence)

    def test_a_certificate_that_is_for_another_name(self) -> None:
        """The hostname is named."""
        [sentence] = self.refused("--hostname=mx.example.com")
        self.assertIn("mx.example.com", sentence)

    def test_everything_that_is_wrong_is_said_at_once(self) -> None:
        """A broken certificate, a key that others can read, and a database that is none: three sentences."""
        certificate = self.certs.folder / HOSTNAME / "fullchain.pem"
        certificate.write_text("not a certificate\n")
        key = self.certs.folder / HOSTNAME / "privkey.pem"
        key.chmod(0o644)
        (self.folder / "notes.txt").write_text("this is no database, but somebody's notes\n" * 100)
        first, second, third = self.refused("--database=notes.txt")
        self.assertIn(str(certificate.relative_to(self.folder)), first)
        self.assertIn("PEM", first)
        self.assertIn(f"chmod 600 {key.relative_to(self.folder)}", second)
        self.assertIn("notes.txt is not a database; give --database another file", third)
        self.assertTrue((self.folder / "notes.txt").read_text().startswith("this is no database"))

    def test_wrong_settings(self) -> None:
        """Options and configuration file together, each by its name."""
        (self.folder / "mailsvc.toml").write_text(
            "[smtp]\nmessage_size = 'much'\nsise = 1\n[limits]\nconnections = 0\n"
        )
        sentences = self.refused("--config=mailsvc.toml", "--tls=never", "--pop3s=ssl:995")
        self.assertEqual(len(sentences), 5, sentences)
        for name in ("smtp.message_size", "smtp.sise", "limits.connections", "--tls", "--pop3s"):
            self.assertEqual(len([sentence for sentence in sentences if name in sentence]), 1, sentences)

    def test_a_database_in_a_place_that_is_none(self) -> None:
        """A folder that does not exist, and a folder itself."""
        [sentence] = self.refused("--database=missing/mail.sqlite3")
        self.assertRegex(sentence, r"folder .*missing for the database mail.sqlite3 does not exist; make it")
        [sentence] = self.refused("--database=certs")
        self.assertRegex(sentence, r"certs is not a file; give --database the name of a file")

    def test_a_database_that_may_not_be_read(self) -> None:
        """Whose it must be is in the sentence."""
        if os.geteuid() == 0:
            raise SkipTest("root may read every file")
        database = self.folder / "mail.sqlite3"
        database.touch(0o600)
        database.chmod(0o000)
        [sentence] = self.refused()
        self.assertIn(f"{database} is not readable and writable for the user", sentence)
        self.assertIn("change its owner", sentence)

    def test_a_second_instance(self) -> None:
        """The first is named by its process number, and is not disturbed."""
        with RunningService(self.folder / "first", certs=self.certs) as first:
            [sentence] = self.refused(f"--database={first.database}")
            self.assertIn(f"another mailsvc, process {first.pid}, uses this database", sentence)
            self.assertIn("stop it or give --database another file", sentence)
            with socket.create_connection(("127.0.0.1", first.ports["smtp"]), 30) as connection:
                self.assertTrue(connection.recv(4).startswith(b"220 "))
        self.assertEqual(first.alarms(), [])

    def test_after_a_kill_the_database_is_free_again(self) -> None:
        """A lock that a dead process left is none."""
        service = RunningService(self.folder / "first", certs=self.certs).start()
        service.kill()
        with service:
            self.assertTrue(service.ports)
