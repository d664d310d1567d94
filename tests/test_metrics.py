"""The numbers for Prometheus, and the HTTP listener that serves nothing else."""

from __future__ import annotations

from twisted.internet.testing import StringTransport

from mailsvc import metrics
from mailsvc.config import Configuration
from mailsvc.config.settings import Listen
from mailsvc.errors import StartRefused
from mailsvc.service import make_service
from tests.pki import HOSTNAME
from tests.test_tls_gate import candidate, issued
from tests.test_tls_reload import ReloaderCase


class Transport(StringTransport):
    """Remembers that it was cut."""

    def abortConnection(self) -> None:
        self.disconnecting = True


class MetricsTests(ReloaderCase):
    """What is served, and what is not."""

    def setUp(self) -> None:
        super().setUp()
        self.happened = {"connected": 3, "accepted": 2}
        numbers = metrics.Numbers(self.happened, lambda: 7, self.reloader)
        self.site = metrics.site(numbers, self.clock)

    def ask(self, request: bytes) -> tuple[str, bool]:
        """The answer, and whether the connection was cut."""
        channel = self.site.buildProtocol(None)
        assert channel is not None
        transport = Transport()
        channel.makeConnection(transport)
        channel.dataReceived(request)
        self.addCleanup(self.clock.advance, 100)
        return transport.value().decode(), transport.disconnecting

    def numbers(self) -> dict[str, float]:
        answer, _ = self.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        head, _, body = answer.partition("\r\n\r\n")
        self.assertTrue(head.startswith("HTTP/1.1 200"), head)
        lines = [line for line in body.splitlines() if line and not line.startswith("#") and " " in line]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    def test_numbers(self) -> None:
        """Sessions, events by kind, and the end of each certificate."""
        found = self.numbers()
        self.assertEqual(found["mailsvc_sessions"], 7)
        self.assertEqual(found['mailsvc_events_total{kind="accepted"}'], 2)
        ends = self.tls.table.default.not_after.timestamp()
        self.assertEqual(
            found[f'mailsvc_certificate_expiry_timestamp_seconds{{name="{HOSTNAME}",source="certs"}}'], ends
        )
        self.assertFalse(any("refused{" in name for name in found))

    def test_a_refused_certificate_shows(self) -> None:
        """As long as it is refused; and how often certificates were taken."""
        self.source.put(self.bad())
        self.clock.pump([10.0, 5.0])
        refused = f'mailsvc_certificate_refused{{name="{HOSTNAME}",source="certs"}}'
        self.assertEqual(self.numbers()[refused], 1)
        self.source.put(candidate(HOSTNAME, issued(HOSTNAME)))
        self.clock.advance(10)
        found = self.numbers()
        self.assertNotIn(refused, found)
        self.assertEqual(found['mailsvc_certificate_reloads_total{result="changed"}'], 1)
        self.assertEqual(found["mailsvc_certificate_last_change_timestamp_seconds"], self.clock.seconds())

    def test_a_name_cannot_begin_a_line(self) -> None:
        """The name of a folder is quoted, whatever is in it."""
        self.source.put(*self.source.found.candidates, candidate('a"\nb 1\n', issued("b.example.org")))
        self.clock.advance(10)
        self.assertIn('name="a\\"?b 1?"', self.ask(b"GET /metrics HTTP/1.0\r\n\r\n")[0])

    def test_nothing_else(self) -> None:
        """Another path is 404, another method 405, a body is cut off, and nothing names the software."""
        self.assertIn(" 404 ", self.ask(b"GET /x HTTP/1.0\r\n\r\n")[0])
        self.assertIn(" 405 ", self.ask(b"DELETE /metrics HTTP/1.0\r\n\r\n")[0])
        self.assertEqual(self.ask(b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999\r\n\r\nxx"), ("", True))
        self.assertEqual(self.ask(b"POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n"), ("", True))
        self.assertNotIn("TwistedWeb", self.ask(b"GET /metrics HTTP/1.0\r\n\r\n")[0])

    def test_only_on_this_machine(self) -> None:
        """There is no login, so another address refuses the start."""
        listen = Listen(metrics=("tcp:9464", "tcp:9464:interface=127.0.0.1"))
        refused = self.assertRaises(StartRefused, make_service, Configuration(listen=listen), self.clock)
        problems = [problem for problem in refused.problems if "metrics" in problem]
        self.assertEqual(len(problems), 1)
        self.assertIn("not served on tcp:9464;", problems[0])
