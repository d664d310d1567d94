"""`mailsvc mailbox import` that is killed or stopped: the next run completes it, and what was said is true."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

from tests.running import python_environment
from tests.system.test_mailbox_transfer import ALICE, TransferCase, message


class StoppedImports(TransferCase):
    def test_killed(self) -> None:
        """After SIGKILL in the middle the next run completes it: every message once."""
        numbers = range(1000)
        path = self.maildir({f"{number}.x": message(number, 3000) for number in numbers})
        for _ in range(3):
            before = len(self.items())
            process = subprocess.Popen(
                [sys.executable, "-m", "mailsvc", "--database", self.database, "mailbox", "import", ALICE, str(path)],
                env=python_environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while process.poll() is None and len(self.items()) == before:
                pass
            process.send_signal(signal.SIGKILL)
            process.wait()
        there = len(self.items())
        facts = self.facts("import", ALICE, str(path))
        self.assertEqual(facts["already_there"], there)
        self.assertEqual(facts["imported"], len(numbers) - there)
        self.assertEqual(
            sorted(self.contents()), sorted(message(number, 3000).replace(b"\n", b"\r\n") for number in numbers)
        )

    def test_interrupted(self) -> None:
        """What an import says is exactly what is in the mailbox, whenever Ctrl-C comes: there is always an answer."""
        path = self.maildir({f"{number}.x": message(number, 3000) for number in range(1500)})
        arguments = [
            sys.executable,
            "-m",
            "mailsvc",
            "--database",
            self.database,
            "mailbox",
            "import",
            ALICE,
            str(path),
        ]
        for _ in range(3):
            before = len(self.items())
            process = subprocess.Popen(
                [*arguments, "--json"],
                env=python_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            while process.poll() is None and len(self.items()) == before:
                pass
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate()
            facts = json.loads(output)
            self.assertEqual(before + facts["imported"], len(self.items()))
            # The signal may also come behind the last word of a complete run, and then ends Python.
            self.assertTrue(facts["complete"] or process.returncode != 0)
