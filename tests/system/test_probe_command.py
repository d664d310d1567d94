"""`mailsvc probe` as a process: its options, its status, and its end by a signal; against servers on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.utils import getProcessOutputAndValue

from mailsvc.certkit.keys import encode_key
from mailsvc.probe.observation import Outcome
from mailsvc.storage.opening import offline
from mailsvc.storage.tls_policies import note_shown
from mailsvc.tls.levels import Level
from tests.bad_certificates import root
from tests.hostile import good
from tests.probe_server import Serving
from tests.running import ROOT, python_environment


class Command(Serving):
    """The real command."""

    async def command(self, *arguments: str, folder: str | None = None) -> tuple[int, str, str]:
        """Status and both streams of the real command."""
        out, err, status = await getProcessOutputAndValue(
            sys.executable, ["-m", "mailsvc", *arguments], python_environment(ROOT), folder or str(ROOT)
        )
        return status, out.decode(), err.decode()

    async def test_the_command(self) -> None:
        """Its output, and a status for each outcome."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        ca = folder / "ca.pem"
        ca.write_bytes(root().certificate.public_bytes(Encoding.PEM))
        database = str(folder / "mail.sqlite3")
        with offline(database, create=True) as txn:
            note_shown(txn, "out", "example.org", "", Level.NAME, datetime.now(UTC).timestamp(), 86400.0)
        common = ("--database", database, "probe", "--timeout", "120", "--from", "client.example.net")
        smtp = ("--starttls", "smtp", "--servername", "localhost", "--domain", "example.org", "--ca", str(ca))

        async def tried(port: int, *more: str) -> tuple[int, str]:
            status, out, err = await self.command(*common, f"localhost:{port}", *smtp, *more)
            self.assertEqual(err, "")
            return status, out

        status, out = await tried(self.serve())
        self.assertEqual(status, Outcome.UNVERIFIED.value, out)
        self.assertIn("not for localhost", out)
        self.assertIn("it was encrypted, server name verified before", out)
        status, out = await tried(self.serve(starttls=b"454 4.7.0 later\r\n"), "--json")
        told = json.loads(out)
        self.assertEqual((status, told["outcome"], told["relay"]["would_deliver"]), (4, "no_tls", False))
        status, out = await tried(self.serve(starttls=b"220 go\r\n250 injected\r\n"))
        self.assertEqual(status, 6, out)

    async def test_the_command_used_wrong(self) -> None:
        """Wrong usage is 2, files that are not there are 1 with a sentence."""
        for arguments, expected, words in (
            ((), 2, "give HOST[:PORT], unix:PATH, or --self"),
            (("x:y",), 2, "no port"),
            (("x", "--key", "k"), 2, "--key goes with --cert"),
            (("x", "--self"), 2, "--self finds out"),
            (("127.0.0.1:1", "--ca", "missing.pem"), 1, "missing.pem"),
        ):
            status, out, err = await self.command("probe", *arguments)
            self.assertEqual(status, expected, out + err)
            self.assertIn(words, err)
            self.assertNotIn("Traceback", err)

    def test_interrupted(self) -> None:
        """A signal ends it with a sentence; the connection that breaks thereby is not told as the server's doing."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(180)
            place = f"127.0.0.1:{listener.getsockname()[1]}"
            command = [sys.executable, "-m", "mailsvc", "probe", place, "--starttls", "smtp", "--from", "a.example"]
            with subprocess.Popen(
                command, env=python_environment(ROOT), stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as process:
                connection, _ = listener.accept()
                process.send_signal(signal.SIGTERM)
                out, err = process.communicate(timeout=180)
                connection.close()
        self.assertEqual((process.returncode, out, err), (1, b"", b"mailsvc: stopped; nothing more was done\n"))

    async def test_a_client_certificate_is_shown(self) -> None:
        """--cert and --key are read and shown; a pair that does not fit is refused with a sentence."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(mode=0o700)
        (folder / "c.pem").write_bytes(good().certificate.public_bytes(Encoding.PEM))
        for name, key in (("good.key", good().key), ("other.key", root().key)):
            with open(os.open(folder / name, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
                file.write(encode_key(key))
        cert = ("--cert", str(folder / "c.pem"))
        place = (f"127.0.0.1:{self.serve()}", "--starttls", "smtp", "--from", "client.example.net")
        status, out, err = await self.command("probe", *place, *cert, "--key", str(folder / "good.key"))
        self.assertEqual((status, err), (3, ""), out)
        status, out, err = await self.command("probe", *place, *cert, "--key", str(folder / "other.key"))
        self.assertEqual(status, 1)
        self.assertIn("does not fit", err)
