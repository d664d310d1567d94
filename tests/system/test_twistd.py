"""The real twistd: that it finds mailsvc, and what it says of a start that is refused."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.running import ROOT


def twistd(*arguments: str, folder: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real twistd in `folder`, with this tree as its mailsvc, whether one is installed or not."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAILSVC_")}
    return subprocess.run(
        [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", *arguments],
        cwd=folder,
        env=clean | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class TheRealTwistd(SynchronousTestCase):
    """From a folder that is not ours, with nothing but PYTHONPATH."""

    def setUp(self) -> None:
        self.folder = self.mktemp()
        os.mkdir(self.folder)

    def test_it_lists_mailsvc(self) -> None:
        """The plugin is found, and `mailsvc --help` is ours."""
        listed = twistd("--help", folder=self.folder)
        self.assertIn("mailsvc", listed.stdout)
        helped = twistd("mailsvc", "--help", folder=self.folder)
        self.assertIn("--submissions=", helped.stdout)
        self.assertEqual((helped.returncode, helped.stderr), (0, ""))

    def test_mistakes_are_lines_with_status_1(self) -> None:
        """All mistakes of options and environment at once, no traceback, nothing left behind."""
        run = twistd(
            "-n",
            "--pidfile=",
            "mailsvc",
            "--tls=never",
            "--smtp=ssl:25",
            folder=self.folder,
            MAILSVC_CONFIG="no.toml",
        )
        self.assertEqual(run.returncode, 1, run.stderr)
        lines = run.stderr.splitlines()
        self.assertEqual(len(lines), 3, run.stderr)
        for line in lines:
            self.assertTrue(line.startswith("mailsvc: "), line)
        self.assertIn("no.toml", lines[0])
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_daemon_says_it_on_the_terminal_too(self) -> None:
        """Without -n the same lines come, before the process has left the terminal."""
        run = twistd("mailsvc", "--hostname=x", folder=self.folder)
        self.assertEqual(run.returncode, 1)
        self.assertIn("mailsvc: --hostname: ", run.stderr)
        self.assertNotIn("Traceback", run.stdout + run.stderr)

    def test_a_daemon_that_is_refused_late_lets_its_parent_go(self) -> None:
        """A port that is taken is found after the fork: the lines reach the terminal, and twistd returns."""
        made = subprocess.run(
            [sys.executable, "-m", "mailsvc", "certs", "init", "certs", "--hostname", "localhost"],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=False,
        )
        self.assertEqual(made.returncode, 0, made.stderr)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            off = [f"--{name}=" for name in ("submission", "submissions", "pop3", "pop3s")]
            endpoint = f"--smtp=tcp:{port}:interface=127.0.0.1"
            run = twistd("mailsvc", "--hostname=localhost", endpoint, *off, folder=self.folder)
        self.assertEqual(run.returncode, 1)
        self.assertIn("mailsvc: ", run.stderr)
        self.assertIn(str(port), run.stderr)
        self.assertIn("for the reasons above", run.stderr)
        self.assertNotIn("Traceback", Path(self.folder, "twistd.log").read_text())
        self.assertFalse(Path(self.folder, "twistd.pid").exists())
