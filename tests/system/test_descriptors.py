"""The commands when standard input, output or error is closed, or takes nothing: words may get lost, not the truth.

A shell closes the descriptors; nothing is timed but the end of what would hang.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.running import RunningService, python_environment

SENDMAIL = "import sys; from mailsvc.cli.start import sendmail; sys.exit(sendmail())"
MAIL = b"Subject: x\n\nhello\n"


class Descriptors(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="mailsvc-test-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.environment = python_environment(MAILSVC_DATABASE=str(self.folder / "mail.db"))
        added = self.mailsvc("", "user", "add", "alice@example.org", "--password-stdin", stdin=b"pass word one two\n")
        self.assertEqual(added.returncode, 0, added.stderr)

    def run_with(self, how: str, words: list[str], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
        """A Python whose descriptors are redirected as ``how`` says."""
        command = ["sh", "-c", f'exec "$@" {how}', "sh", sys.executable, *words]
        return subprocess.run(
            command, input=stdin, capture_output=True, env=self.environment, cwd=self.folder, timeout=120
        )

    def mailsvc(self, how: str, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return self.run_with(how, ["-m", "mailsvc", *words], stdin)

    def sendmail(self, how: str, *words: str, stdin: bytes = MAIL) -> int:
        return self.run_with(how, ["-c", SENDMAIL, *words], stdin).returncode

    def messages(self) -> int:
        """How many lie in the maildrop."""
        done = self.mailsvc("", "user", "list", "--json")
        self.assertIn(b'"messages"', done.stdout, done.stderr)
        return int(done.stdout.partition(b'"messages": ')[2].partition(b",")[0])

    def full(self) -> str:
        """A device that takes nothing."""
        if not os.path.exists("/dev/full"):
            raise SkipTest("there is no /dev/full")
        return "/dev/full"

    def test_no_input(self) -> None:
        """A closed standard input is no empty message: nothing is taken, and that is said in words."""
        self.assertEqual(self.sendmail("<&-", "alice@example.org"), 75)
        self.assertEqual(self.sendmail("<&-", "-t"), 75)
        done = self.mailsvc("<&-", "send", "--via", "smtp://127.0.0.1:1", "alice@example.org")
        self.assertEqual((done.returncode, b"defect" in done.stderr), (1, False), done.stderr)
        self.assertEqual(self.messages(), 0)

    def test_taken_is_taken(self) -> None:
        """What was stored has status 0 when nobody can be told of it: with any other, programs would send it again."""
        for number, how in enumerate((">&- 2>&-", "2>&-", f"2>{self.full()}"), start=1):
            self.assertEqual(self.sendmail(how, "-v", "alice@example.org"), 0, how)
            self.assertEqual(self.messages(), number)
        for how in (">&- 2>&-", f"2>{self.full()}"):
            self.assertEqual(self.sendmail(how, "nobody@example.org"), 67, how)
        self.assertEqual(self.mailsvc(">&- 2>&-", "sendmail", "alice@example.org", stdin=MAIL).returncode, 0)

    def test_no_output(self) -> None:
        """An answer that nobody gets is no success, and no defect either."""
        for how in (">&-", f">{self.full()}"):
            done = self.mailsvc(how, "user", "list")
            self.assertEqual((done.returncode, b"defect" in done.stderr), (1, False), done.stderr)
            self.assertEqual(self.sendmail(how, "-bp"), 75)
        self.assertEqual(self.mailsvc(">&- 2>&-", "user", "list").returncode, 1)
        self.assertEqual(self.mailsvc(f"2>{self.full()}", "user", "add").returncode, 2)

    def test_smtp_to_nobody(self) -> None:
        """``sendmail -bs`` whose output goes nowhere ends, and has taken nothing that it could not confirm."""
        dialogue = b"EHLO me\r\nQUIT\r\n"
        for how in (">&-", f">{self.full()}"):
            self.assertIn(self.sendmail(how, "-bs", stdin=dialogue), (0, 75), how)
        self.assertEqual(self.messages(), 0)

    def test_half_a_message(self) -> None:
        """A program that dies in the middle of its message: ``sendmail -bs`` ends at once, and has taken nothing."""
        dialogue = b"EHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\nSubject: x\r\n."
        self.assertEqual(self.sendmail("", "-bs", stdin=dialogue), 0)
        self.assertEqual(self.messages(), 0)


class TheService(SynchronousTestCase):
    def test_starts_without_standard_error(self) -> None:
        """`twistd mailsvc` with a closed standard error, or input, is a service like any other."""
        for how in ("2>&-", "<&-", "<&- 2>&-"):
            with tempfile.TemporaryDirectory(prefix="mailsvc-test-") as folder:
                service = RunningService(Path(folder), prefix=["sh", "-c", f'exec "$@" {how}', "sh"])
                with service:
                    self.assertIn("smtp", service.ports)
                self.assertEqual(service.alarms(), [])
