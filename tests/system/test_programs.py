"""Programs as recipients: what they are told, what their end means, and real small programs that are run."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from io import BytesIO
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailsvc.directory.program import QUOTED, RETRY, Ended, environment, quoted, sanitised, together, verdict
from mailsvc.directory.running import Programs
from mailsvc.directory.tables import Program
from mailsvc.mail.address import parse_address
from mailsvc.mail.envelope import Envelope, Origin
from mailsvc.mail.reply import Reply, reply

MESSAGE = b"Subject: hello\r\n\r\nbody\r\n"
ENVELOPE = Envelope(
    parse_address('"$(id) x"@example.net'),
    (parse_address("sort+x@example.org"),),
    Origin("192.0.2.1", "() { :; }; evil", "ESMTPS", None, None),
)


def _codes(answer: Reply | None) -> tuple[int, str] | None:
    return None if answer is None else (answer.code, answer.enhanced)


class Meaning(SynchronousTestCase):
    def test_exit_statuses(self) -> None:
        """0 is delivered, what judges message or recipient refuses, everything else is tried again.

        Rule: Pipe: sysexits.h, its output quoted in the refusal
        """
        refused = {65: "5.6.0", 67: "5.1.1", 68: "5.1.2", 69: "5.3.0", 76: "5.5.0", 77: "5.7.1"}
        for status in range(256):
            expected = None if status == 0 else (550, refused[status]) if status in refused else (451, "4.3.0")
            self.assertEqual(_codes(verdict(Ended(status))), expected, status)
        self.assertEqual(verdict(Ended(None, why="was ended by signal 9")), RETRY)

    def test_output_is_quoted(self) -> None:
        """A refusal says what the program said; a retry keeps it to itself.

        Rule: Pipe: sysexits.h, its output quoted in the refusal
        """
        answer = verdict(Ended(67, b'no such\r\nlist\x1b[31m \xc3\xa9 "x"\n'))
        assert answer is not None
        self.assertEqual(answer.lines, ("The program for this address says: \"no such list?[31m ? 'x'\"",))
        self.assertEqual(verdict(Ended(75, b"secret")), RETRY)

    @settings(deadline=None)
    @given(st.binary(max_size=500))
    def test_quoting_is_safe(self, output: bytes) -> None:
        """Whatever a program writes becomes at most one short line of printable ASCII."""
        text = quoted(output)
        self.assertTrue(text.isascii() and (text == "" or text.isprintable()))
        self.assertLessEqual(len(text), QUOTED + 2)

    def test_several(self) -> None:
        """A refusal counts when it is the only kind of failure; one that may heal comes first."""
        refused = reply(550, "5.1.1", "no")
        self.assertEqual(together([]), None)
        self.assertEqual(together([None, None]), None)
        self.assertEqual(together([None, refused]), refused)
        self.assertEqual(together([refused, RETRY, None]), RETRY)

    def test_environment(self) -> None:
        """The envelope is told without characters that a shell would act on; nothing of our own environment is."""
        told = environment(
            ENVELOPE, parse_address("sort@example.org"), parse_address("sort+x@example.org"), trace_id="T1", size=7
        )
        self.assertEqual(told["SENDER"], "___id__x_@example.net")
        self.assertEqual(told["CLIENT_HELO"], "___{_:__}__evil")
        self.assertEqual((told["RECIPIENT"], told["ORIGINAL_RECIPIENT"]), ("sort@example.org", "sort+x@example.org"))
        self.assertEqual((told["TRACE_ID"], told["MESSAGE_SIZE"], told["LOGIN"]), ("T1", "7", ""))
        self.assertEqual(told["PATH"], "/usr/local/bin:/usr/bin:/bin")
        self.assertEqual(sanitised("jörg@bücher.example"), "jörg@bücher.example")

    @settings(deadline=None)
    @given(st.text())
    def test_sanitised(self, text: str) -> None:
        """No control character, blank, quote or shell operator is left, and nothing is shortened.

        Rule: Pipe: never a shell
        """
        clean = sanitised(text)
        self.assertEqual(len(clean), len(text))
        self.assertFalse(set(clean) & set("\0\r\n\t $`'\"\\|&;<>()*?"))


class Running(TestCase):
    """With real programs."""

    def script(self, body: str, interpreter: str = "/bin/sh") -> str:
        """An executable script."""
        path: str = os.path.abspath(self.mktemp())
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"#!{interpreter}\n{body}\n")
        os.chmod(path, stat.S_IRWXU)
        return path

    def run_program(
        self, *argv: str, message: bytes = MESSAGE, seconds: float = 100.0, prefix: bytes = b"", **limits: Any
    ) -> Deferred[Ended]:
        programs = Programs(reactor, seconds=seconds, **limits)
        told = {"SENDER": "x@example.net", "PATH": "/usr/bin:/bin"}
        return Deferred.fromCoroutine(programs.run(Program(argv), told, prefix, BytesIO(message)))

    @inlineCallbacks
    def test_gets_message_and_environment(self) -> Generator[Deferred[Any], Any, None]:
        """The message arrives octet for octet behind the trace header; arguments are not looked at by a shell.

        Rule: Pipe: message on standard input, envelope in the environment
        """
        out = os.path.abspath(self.mktemp())
        body = os.urandom(300_000)
        script = self.script('cat > "$1"; echo "$2" "$SENDER"; pwd; env | wc -l')
        ended = yield self.run_program(script, out, "$HOME; *", message=body, prefix=b"Received: x\r\n")
        self.assertEqual(ended.status, 0, ended)
        with open(out, "rb") as file:
            self.assertEqual(file.read(), b"Received: x\r\n" + body)
        lines = ended.output.decode().splitlines()
        self.assertEqual(lines[:2], ["$HOME; * x@example.net", "/"])
        self.assertLess(int(lines[2]), 8)

    @inlineCallbacks
    def test_exit_status_and_both_outputs(self) -> Generator[Deferred[Any], Any, None]:
        """Exit status, standard output and standard error are all kept."""
        ended = yield self.run_program(self.script("echo one; echo two >&2; exit 67"))
        # Two pipes: which is read first is nobody's promise.
        self.assertEqual((ended.status, sorted(ended.output.splitlines())), (67, [b"one", b"two"]))

    @inlineCallbacks
    def test_does_not_read(self) -> Generator[Deferred[Any], Any, None]:
        """A program that closes its input, or exits, without reading has decided all the same."""
        big = b"x" * 1_000_000
        for body, status in [("exit 0", 0), ("exec <&-; sleep 0.1; exit 65", 65)]:
            ended = yield self.run_program(self.script(body), message=big)
            self.assertEqual(ended.status, status, ended)

    @inlineCallbacks
    def test_too_slow(self) -> Generator[Deferred[Any], Any, None]:
        """A program that takes too long is ended, and so is what it has started.

        Rule: Pipe: time and output limits
        """
        script = self.script("sleep 3600 & echo $!; wait")
        # On a busy machine it may take long until there is something that it has started.
        for seconds in (0.5, 2.0, 8.0, 32.0):
            ended = yield self.run_program(script, seconds=seconds)
            self.assertEqual(ended.status, None)
            self.assertEqual(ended.why, f"took longer than {seconds:g} seconds")
            if ended.output:
                break
        # SIGKILL was sent to both at once; the second may be a moment behind, and would go on for an hour.
        while not _is_gone(int(ended.output)):
            yield deferLater(reactor, 0.01)

    @inlineCallbacks
    def test_leaves_something_behind(self) -> Generator[Deferred[Any], Any, None]:
        """A program has ended when it exits, also when something in the background keeps its output open."""
        ended = yield self.run_program(self.script("sleep 3600 & echo $!; exit 75"))
        self.assertEqual(ended.status, 75)
        os.kill(int(ended.output), 9)

    @inlineCallbacks
    def test_talks_too_much(self) -> Generator[Deferred[Any], Any, None]:
        """Output beyond the limit is read and dropped.

        Rule: Pipe: time and output limits
        """
        ended = yield self.run_program(self.script("head -c 1000000 /dev/zero | tr '\\0' x; exit 69"), output=100)
        self.assertEqual(ended, Ended(69, b"x" * 100))

    @inlineCallbacks
    def test_cannot_be_started(self) -> Generator[Deferred[Any], Any, None]:
        """A program that is missing, or may not be run, is for later, and the reason is told to the log."""
        for path in ("/nowhere/at/all", "/etc/passwd"):
            ended = yield self.run_program(path)
            self.assertEqual(verdict(ended), RETRY)
            self.assertIn("cannot be started", str(ended))

    @inlineCallbacks
    def test_killed(self) -> Generator[Deferred[Any], Any, None]:
        """A program that dies of a signal is for later."""
        ended = yield self.run_program(self.script("kill -SEGV $$"))
        self.assertEqual((ended.status, ended.why), (None, "was ended by signal 11"))

    @inlineCallbacks
    def test_pipes_break_as_usual(self) -> Generator[Deferred[Any], Any, None]:
        """SIGPIPE, which Python ignores, has its usual meaning in the program; no file of ours is open in it."""
        script = self.script("trap - PIPE; grep SigIgn /proc/self/status; ls /proc/self/fd | wc -l")
        ended = yield self.run_program(script)
        ignored, files = ended.output.decode().split("\n")[:2]
        self.assertEqual(int(ignored.split()[1], 16) & (1 << 12), 0)
        self.assertLessEqual(int(files), 4)

    @inlineCallbacks
    def test_one_at_a_time(self) -> Generator[Deferred[Any], Any, None]:
        """More programs than may run wait for each other."""
        folder = os.path.abspath(self.mktemp())
        script = self.script(f"mkdir {folder} || exit 1; sleep 0.1; rmdir {folder}")
        programs = Programs(reactor, at_once=1)
        runs = [
            Deferred.fromCoroutine(programs.run(Program((script,)), {"PATH": "/usr/bin:/bin"}, b"", BytesIO(b"")))
            for _ in range(3)
        ]
        for run in runs:
            ended = yield run
            self.assertEqual(ended.status, 0, ended)

    @inlineCallbacks
    def test_stop(self) -> Generator[Deferred[Any], Any, None]:
        """When the service stops, programs are ended and their messages are for later."""
        programs = Programs(reactor)
        run = Deferred.fromCoroutine(programs.run(Program(("/bin/sleep", "30")), {}, b"", BytesIO(b"")))
        programs.stop()
        ended = yield run
        self.assertEqual(verdict(ended), RETRY)
        self.assertEqual(ended.why, "was ended because the service stops")


def _is_gone(pid: int) -> bool:
    """Whether a process has ended (it may still be a zombie of somebody's)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
