"""`mailsvc.send` on real sockets under both kinds of reactor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.running import ROOT, python_environment

_SINK = """
import asyncio, sys
async def serve(reader, writer):
    writer.write(b"220 sink\\r\\n")
    while line := await reader.readline():
        verb = line[:4].upper()
        if verb == b"DATA":
            writer.write(b"354 go on\\r\\n")
            await reader.readuntil(b"\\r\\n.\\r\\n")
            writer.write(b"250 2.0.0 Ok: queued as SINK1\\r\\n")
        else:
            writer.write(b"221 bye\\r\\n" if verb == b"QUIT" else b"250 ok\\r\\n")
        if verb == b"QUIT":
            break
    writer.close()
"""

_ASYNCIO = (
    _SINK
    + """
from twisted.internet import asyncioreactor
async def main():
    asyncioreactor.install(asyncio.get_running_loop())
    import mailsvc
    from twisted.internet import reactor
    reactor.startRunning(installSignalHandlers=False)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    found = await mailsvc.send(b"Subject: x\\n\\nhi\\n", "bob@example.org", via=f"smtp://127.0.0.1:{port}")
    print(found.outcomes["bob@example.org"].text)
asyncio.run(main())
"""
)

_ASYNCIO_REACT = (
    _SINK
    + """
from twisted.internet import asyncioreactor
loop = asyncio.new_event_loop()
asyncioreactor.install(loop)
from twisted.internet.defer import Deferred
from twisted.internet.task import react
import mailsvc
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    found = await mailsvc.send(b"Subject: x\\n\\nhi\\n", "bob@example.org", via=f"smtp://localhost:{port}")
    print(found.outcomes["bob@example.org"].text)
react(lambda reactor: Deferred.fromFuture(loop.create_task(main())))
"""
)

_NO_REACTOR = """
import asyncio, sys
from mailsvc.errors import MailsvcError
import mailsvc
async def main():
    try:
        await mailsvc.send(b"Subject: x\\n\\nhi\\n", "bob@example.org", via="smtp://127.0.0.1:1")
    except MailsvcError as error:
        print(error)
async def unstarted():
    from twisted.internet import asyncioreactor
    asyncioreactor.install(asyncio.get_running_loop())
    await main()
asyncio.run(main())
asyncio.run(unstarted())
"""

_TWISTED = """
import sys
from twisted.internet.protocol import Factory
from twisted.internet.task import react
from twisted.internet.defer import ensureDeferred
from twisted.protocols.basic import LineReceiver
import mailsvc

class Sink(LineReceiver):
    data = False
    def connectionMade(self):
        self.sendLine(b"220 sink")
    def lineReceived(self, line):
        if self.data:
            if line == b".":
                self.data = False
                self.sendLine(b"250 2.0.0 Ok: queued as SINK1")
        elif line == b"DATA":
            self.data = True
            self.sendLine(b"354 go on")
        else:
            self.sendLine(b"250 ok")
            if line == b"QUIT":
                self.transport.loseConnection()

async def main(reactor):
    port = reactor.listenTCP(0, Factory.forProtocol(Sink), interface="127.0.0.1")
    via = f"smtp://localhost:{port.getHost().port}"
    found = await mailsvc.send(b"Subject: x\\n\\nhi\\n", "bob@example.org", via=via)
    print(found.outcomes["bob@example.org"].text)

react(lambda reactor: ensureDeferred(main(reactor)))
"""


class Reactors(SynchronousTestCase):
    """A process each: a reactor can be installed once."""

    def said(self, program: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=python_environment(ROOT),
            capture_output=True,
            timeout=60,
            cwd=Path(self.mktemp()).parent,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        return done.stdout.decode().strip()

    def test_asyncio(self) -> None:
        """An asyncio task awaits it, on Twisted's asyncio reactor."""
        self.assertEqual(self.said(_ASYNCIO), "127.0.0.1 answered the message with 250 2.0.0 Ok: queued as SINK1")

    def test_asyncio_run_by_twisted(self) -> None:
        """As docs/send.rst shows it; the program ends, although the name was looked up in a thread."""
        self.assertEqual(self.said(_ASYNCIO_REACT), "localhost answered the message with 250 2.0.0 Ok: queued as SINK1")

    def test_asyncio_without_a_reactor(self) -> None:
        """Without a reactor on its loop, or with one that was not started, the task hears so at once."""
        lines = self.said(_NO_REACTOR).splitlines()
        self.assertEqual(len(lines), 2, lines)
        for line in lines:
            self.assertIn("asyncio reactor does not run on the loop of that task", line)
            self.assertIn("reactor.startRunning(installSignalHandlers=False)", line)

    def test_twisted(self) -> None:
        """A Twisted coroutine awaits it, on the usual reactor."""
        self.assertEqual(self.said(_TWISTED), "localhost answered the message with 250 2.0.0 Ok: queued as SINK1")
