"""Programs as recipients: run by Twisted's process API, fed with the message, bounded in time, number and output.

What a program is told and what its exit status means is `mailsvc.directory.program`.  Here it is started in a process
group (a session) of its own, so that what it starts can be ended with it; with nothing of our environment and none
of our files open; as the user that mailsvc runs as.

The hardest idea: its end is its exit, not the end of its output.  A program that leaves something behind in the
background would otherwise hold the sender until the time is up.  And a program need not read: when it exits 0 without
having read everything, it has taken the message.

A detour is the session: Twisted's `spawnProcess` cannot ask for one, so a launcher of a few lines of Python calls
`setsid`, gives SIGPIPE its usual meaning back, and becomes the program.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from mailsvc.directory.program import Ended
from mailsvc.directory.tables import Program

_CHUNK = 64 * 1024

_GRACE = 1.0
"""Seconds that are waited for the end of the output after the end of the process."""

_STOPPED = "was ended because the service stops"

_LAUNCHER = """
import os, signal, sys
os.setsid()
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
try:
    os.execv(sys.argv[1], sys.argv[1:])
except OSError as error:
    os.write(2, b"cannot be started: " + error.strerror.encode())
    os._exit(127)
"""


class Programs:
    """Runs programs.  ``seconds``: how long one may take; ``at_once``: how many run; ``output``: octets kept of what
    one writes (the rest is read and dropped); ``queue``: how many wait for a place, each with its message.

    A client that is gone still has its message given, so the sessions there may be are no limit to those that wait.
    """

    def __init__(
        self, reactor: Any, *, seconds: float = 60.0, at_once: int = 20, output: int = 4096, queue: int = 100
    ) -> None:
        self._reactor = reactor
        self._queue = queue
        self._stopped = False
        self._seconds = seconds
        self._output = output
        self._slots = DeferredSemaphore(at_once)
        self._running: set[_Run] = set()

    async def run(self, program: Program, environment: Mapping[str, str], prefix: bytes, message: IO[bytes]) -> Ended:
        """Run ``program`` with ``prefix`` and then ``message`` (from its beginning) on standard input, to its end.

        ``message`` must be nobody else's meanwhile, and stays open.  Never fails.
        """
        if len(self._slots.waiting) >= self._queue:
            return Ended(None, why="was not started: too many wait for their turn")
        await self._slots.acquire()
        if self._stopped:
            self._slots.release()
            return Ended(None, why=_STOPPED)
        run = _Run(self._reactor, self._seconds, self._output, prefix, message)
        self._running.add(run)
        try:
            self._reactor.spawnProcess(
                run,
                sys.executable,
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, *program.argv],
                env=dict(environment),
                path="/",
                childFDs={0: "w", 1: "r", 2: "r"},
            )
            return await run.ended
        except OSError as error:
            run.give_up()
            return Ended(None, why=f"no process could be made ({error.strerror})")
        finally:
            self._running.discard(run)
            self._slots.release()

    def stop(self) -> None:
        """End everything that runs; its messages will be told to come again."""
        self._stopped = True
        for run in list(self._running):
            run.kill(_STOPPED)


@implementer(IPullProducer)
class _Run(ProcessProtocol):
    """One run: feeds the message as fast as it is read, keeps the first of the output, ends it when time is up."""

    transport: Any

    def __init__(self, reactor: Any, seconds: float, limit: int, prefix: bytes, message: IO[bytes]) -> None:
        self.ended: Deferred[Ended] = Deferred()
        self._prefix = prefix
        self._message = message
        self._limit = limit
        self._output = b""
        self._killed = ""
        self._closed = False
        self._reason: Failure | None = None
        self._grace: Any = None
        self._reactor = reactor
        message.seek(0)
        self._timer = reactor.callLater(seconds, self.kill, f"took longer than {seconds:g} seconds")

    def connectionMade(self) -> None:
        """The process is there."""
        self.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """The pipe is empty: the next piece."""
        try:
            piece, self._prefix = self._prefix or self._message.read(_CHUNK), b""
        except (OSError, ValueError):
            self.kill("could not be given the message: it cannot be read again")
            return
        if piece:
            self.transport.write(piece)
        elif not self._closed:
            self._closed = True
            self.transport.unregisterProducer()
            self.transport.closeStdin()

    def stopProducing(self) -> None:
        """It has closed its standard input; its exit status will say what that means."""
        self._closed = True

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Keep the beginning, drop the rest."""
        self._output += data[: self._limit - len(self._output)]

    def kill(self, why: str) -> None:
        """End the process and all that it has started."""
        self._killed = self._killed or why
        pid = getattr(self.transport, "pid", None)
        if pid is None:
            return
        # Its group first; in its first milliseconds it may have none yet, and then it is alone.
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) == pid:
                os.killpg(pid, signal.SIGKILL)
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")

    def give_up(self) -> None:
        """There will be no process."""
        if self._timer.active():
            self._timer.cancel()

    def processExited(self, reason: Failure) -> None:
        """It is gone.  What it wrote last may still be in the pipes; what it left behind must not keep us waiting."""
        if self._timer.active():
            self._timer.cancel()
        self._reason = reason
        self._grace = self._reactor.callLater(_GRACE, self._finish)

    def processEnded(self, reason: Failure) -> None:
        """It is gone, and its output is complete."""
        self._finish()

    def _finish(self) -> None:
        if self._grace is not None and self._grace.active():
            self._grace.cancel()
        if self.ended.called:
            return
        # Something that was left behind may still hold the pipes.
        self.transport.loseConnection()
        assert self._reason is not None
        self.ended.callback(_ended(self._reason, self._output, self._killed))


def _ended(reason: Failure, output: bytes, killed: str) -> Ended:
    error = reason.value
    if killed:
        return Ended(None, output, killed)
    if isinstance(error, ProcessDone):
        return Ended(0, output)
    if isinstance(error, ProcessTerminated) and error.exitCode is not None:
        return Ended(error.exitCode, output)
    return Ended(None, output, f"was ended by signal {getattr(error, 'signal', None)}")
