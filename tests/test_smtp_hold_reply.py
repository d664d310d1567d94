"""A submission whose reply waits for the first attempt: a refusal for good is the reply, and nothing is told twice."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from itertools import count

from mailsvc.mail.address import parse_address
from mailsvc.relay.bounces import Reports
from mailsvc.relay.outcome import Kind, Outcome, Phase, by_reply
from mailsvc.relay.queue import Queue, QueueRules
from mailsvc.relay.replies import PeerReply
from mailsvc.relay.schedule import Schedule
from mailsvc.smtp.modes import SUBMISSION, Mode
from mailsvc.storage.aliases import add_alias
from tests.memory import ALICE, BOB, HOSTNAME, MX_OPTIONAL, PASSWORD, Client, MailHost
from tests.relay_world import DOWN, FakeAttempts, Network, NodeClock
from tests.test_smtp_forwarding import CAROL, TEAM, ForwardCase

NEVER = by_reply(PeerReply(550, ("5.1.1 no such user",)), Phase.RCPT, "mx.example.net")
TAKEN = by_reply(PeerReply(250, ("2.0.0 taken",)), Phase.END, "mx.example.net")
X = "x@a.example"


class HoldCase(ForwardCase):
    def setUp(self) -> None:
        super().setUp()
        self.queues: list[Queue] = []

    def tearDown(self) -> None:
        for queue, host in zip(self.queues, self.hosts, strict=True):
            stopped = queue.stop()
            host.reactor.pass_time(60.0)
            self.successResultOf(stopped)
        super().tearDown()

    def begun(
        self,
        fate: Outcome | Mapping[str, Outcome],
        *recipients: str,
        seconds: float = 2.0,
        hold: float = 10.0,
        late: bool = False,
        parameters: str = "",
        mode: Mode = SUBMISSION,
        sender: str = ALICE,
    ) -> tuple[MailHost, Client]:
        """A message to these whose end has just been sent; an attempt takes so many seconds."""
        host = self.host(late=late)
        host.store.now(add_alias, parse_address(TEAM), [parse_address(ALICE), parse_address(CAROL)], 0.0)
        network = Network(host.reactor)
        network.seconds = seconds
        network.others = lambda now, row: fate if isinstance(fate, Outcome) else fate[row.recipient]
        numbers = count(1)
        queue = Queue(
            host.store,
            host.reactor,
            FakeAttempts("one", network, NodeClock(host.reactor)),
            Reports(HOSTNAME, lambda: f"R{next(numbers)}"),
            rules=QueueRules(Schedule(jitter=0.0), poll=1.0),
        )
        queue.start()
        self.queues.append(queue)
        host.intake._outward = queue
        if mode is SUBMISSION:
            client = host.secured_smtp(mode, hold_reply=hold, hold_seconds=3600)
            client.ask(b"AUTH PLAIN " + b64encode(f"\0{ALICE}\0{PASSWORD}".encode()))
        else:
            client = host.mx_client(hold_reply=hold)
        client.ask(f"MAIL FROM:<{sender}>{parameters}".encode())
        for recipient in recipients:
            self.assertEqual(client.ask(f"RCPT TO:<{recipient}>".encode())[:3], b"250")
        client.ask(b"DATA")
        client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        return host, client

    def left(self, host: MailHost) -> tuple[int, int]:
        """Reports in alice's maildrop, and rows that still go out."""
        return len(host.mail_of(ALICE)), host.count("outbound")


class HoldTests(HoldCase):
    def test_refused(self) -> None:
        """The reply is the refusal of the other server; nothing is stored any more, and there is no report.

        Rule: A refusal in time is a reply and no report
        """
        for late in (False, True):
            host, client = self.begun(NEVER, CAROL, late=late)
            self.assertEqual(client.take(), b"")
            client.wait(3.0)
            said = "mx.example.net answered RCPT TO with 550 5.1.1 no such user"
            self.assertEqual(client.take(), f"550 5.1.1 <{CAROL}> {said}\r\n".encode())
            self.assertEqual((self.left(host), host.count("message")), ((0, 0), 0))
            # The session goes on.
            self.assertEqual(client.ask(b"NOOP")[:3], b"250")

    def test_all_refused(self) -> None:
        """Of several recipients each has its line, when all are refused."""
        host, client = self.begun(NEVER, CAROL, X)
        client.wait(3.0)
        lines = client.take().splitlines()
        self.assertEqual(
            [line.split(b">")[0] for line in lines], [b"550-5.1.1 <carol@example.net", b"550 5.1.1 <x@a.example"]
        )
        self.assertEqual(self.left(host), (0, 0))

    def test_one_refused(self) -> None:
        """When another one is taken the reply is 250, and a report tells the rest."""
        host, client = self.begun({CAROL: NEVER, X: TAKEN}, CAROL, X)
        client.wait(3.0)
        self.assertEqual(client.take()[:3], b"250")
        self.assertEqual(self.left(host), (1, 0))

    def test_taken_or_put_off(self) -> None:
        """The reply comes as soon as it is known that there is nothing to wait for."""
        for fate, rows in ((TAKEN, 0), (DOWN, 1)):
            host, client = self.begun(fate, CAROL)
            client.wait(2.5)
            self.assertEqual(client.take()[:3], b"250")
            self.assertEqual(self.left(host), (0, rows))

    def test_too_slow(self) -> None:
        """After the time the reply is 250, and the refusal is reported."""
        host, client = self.begun(NEVER, CAROL, seconds=60.0)
        client.wait(9.0)
        self.assertEqual(client.take(), b"")
        client.wait(2.0)
        self.assertEqual(client.take()[:3], b"250")
        client.wait(60.0)
        self.assertEqual(self.left(host), (1, 0))

    def test_the_client_goes_away(self) -> None:
        """Nobody reads the reply, so a report tells."""
        for late in (False, True):
            host, client = self.begun(NEVER, CAROL, late=late)
            client.hang_up()
            host.reactor.pass_time(3.0)
            self.assertEqual(self.left(host), (1, 0))

    def test_gone_while_it_is_stored(self) -> None:
        """Nothing is waited for: the database answered when nobody listened any more."""
        host, client = self.begun(NEVER, CAROL)
        client.wait(3.0)
        client.take()
        client.ask(f"MAIL FROM:<{ALICE}>".encode())
        client.ask(f"RCPT TO:<{CAROL}>".encode())
        client.ask(b"DATA")
        host.store.held = True
        client.send(b"\r\nx\r\n.\r\n")
        client.hang_up()
        host.store.held = False
        host.store.release()
        host.reactor.pass_time(5.0)
        self.assertEqual(self.left(host), (1, 0))

    def test_what_waits_for_nothing(self) -> None:
        """Not when somebody has it already, not when it is for later, not from servers, not unless it is configured."""
        for recipients, options in (
            ((CAROL, BOB), {}),
            ((TEAM,), {}),
            ((CAROL,), {"parameters": " HOLDFOR=60"}),
            ((CAROL,), {"hold": 0.0}),
            ((TEAM,), {"mode": MX_OPTIONAL, "sender": BOB}),
        ):
            _, client = self.begun(NEVER, *recipients, **options)
            self.assertEqual(client.take()[:3], b"250", recipients)

    def test_codes(self) -> None:
        """Codes that would mean the session, or none at all, become 550."""
        for code, enhanced, expected in (
            (554, "5.7.1", b"554 5.7.1"),
            (530, "5.7.0", b"550 5.7.0"),
            (521, "5.3.2", b"550 5.3.2"),
            (0, "5.1.10", b"550 5.1.10"),
        ):
            _, client = self.begun(Outcome(Kind.FAILED, "no", code, enhanced, Phase.RCPT, "mx"), CAROL)
            client.wait(3.0)
            self.assertTrue(client.take().startswith(expected + b" <"))

    def test_many(self) -> None:
        """The reply has a limit."""
        _, client = self.begun(NEVER, *(f"x{number}@a.example" for number in range(30)))
        client.wait(3.0)
        lines = client.take().splitlines()
        self.assertEqual((len(lines), lines[-1]), (21, b"550 5.1.1 and 10 more recipients"))
