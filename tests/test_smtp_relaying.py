"""Who may relay where: every listener, everybody who may stand there, every way to name somebody elsewhere."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

from mailsvc.directory.tables import Program
from mailsvc.mail.address import parse_address
from mailsvc.smtp.forwarding import Daily
from mailsvc.smtp.modes import SUBMISSION, SUBMISSIONS, Mode, lmtp
from mailsvc.smtp.seams import Client as Peer
from mailsvc.smtp.seams import Machine
from mailsvc.storage.aliases import add_alias
from mailsvc.storage.outbound import count_for_day
from tests.memory import ALICE, MX, MX_OPTIONAL, PASSWORD, Client, MailHost
from tests.test_smtp_forwarding import CAROL, TEAM, ForwardCase

LMTP = lmtp(requires_tls=False)
DENIED, UNKNOWN, TAKEN = b"550 5.7.1", b"550 5.1.1", b"250 2.1.5"

ELSEWHERE = (
    CAROL,
    CAROL.upper(),
    "carol@mail.example.net",
    "carol@sub.example.org",
    "carol@notexample.org",
    "carol@[192.0.2.55]",
    "carol@[IPv6:2001:db8::1]",
    "@mail.example.org:" + CAROL,
    "@example.org,@mail.example.org:" + CAROL,
    '"carol"@example.net',
    '"@example.org:x"@example.net',
    "alice%example.org@example.net",
)
"""Addresses that are somewhere else, whatever they look like."""

TRICKS = (
    "carol%example.net@example.org",
    "example.net!carol@example.org",
    '"carol@example.net"@example.org',
    '"carol%example.net"@example.org',
    "carol=example.net@example.org",
    "@example.net:carol%example.net@example.org",
    "SRS0=AAAAAA=AA=example.net=carol@example.org",
    "srs0+AAAAAA=AA=example.net=carol@example.org",
    "SRS1=AAAAAA=example.net==AAAAAA=AA=example.com=carol@example.org",
)
"""Names of ours that other servers once took as "send it on"; here they are names that nobody has."""

OURS = ("bob@example.org", TEAM, "postmaster", "@example.net:bob@example.org")
"""Addresses of ours; `TEAM` leads elsewhere because the postmaster has said so."""


class OneMachine:
    """Takes everybody for a relay client."""

    async def recognise(self, client: Peer) -> Machine | None:
        return Machine(1, "printer")


class TableTests(ForwardCase):
    def client(self, host: MailHost, mode: Mode, who: str) -> Client:
        if mode is LMTP:
            client = host.smtp(mode)
            client.ask(b"LHLO client.example.net")
            return client
        client = host.mx_client() if mode is MX_OPTIONAL else host.secured_smtp(mode)
        if who == "user":
            self.assertEqual(client.ask(b"AUTH PLAIN " + b64encode(f"\0{ALICE}\0{PASSWORD}".encode()))[:3], b"235")
        return client

    def answers(self, mode: Mode, who: str, sender: str, recipients: tuple[str, ...]) -> set[bytes]:
        host = self.host()
        host.store.now(add_alias, parse_address(TEAM), [parse_address(CAROL)], 0.0)
        if who == "machine":
            host.helpers = replace(host.helpers, machines=OneMachine())
        client = self.client(host, mode, who)
        reply = client.ask(f"MAIL FROM:<{sender}>".encode())
        if reply[:3] != b"250":
            return {reply[:9]}
        return {client.ask(f"RCPT TO:<{recipient}>".encode())[:9] for recipient in recipients}

    def test_the_table(self) -> None:
        """Only who has logged in, and relay clients where users hand in mail, may write to the world; nobody else may,
        by no listener, as no sender, by no spelling.

        Rule: Who may relay where
        """
        trusted = {(mode, who) for mode in (SUBMISSION, SUBMISSIONS) for who in ("user", "machine")}
        closed = {(mode, "stranger") for mode in (SUBMISSION, SUBMISSIONS)}
        everybody = trusted | closed
        everybody |= {(mode, who) for mode in (MX, MX_OPTIONAL, LMTP) for who in ("stranger", "machine")}
        for mode, who in sorted(everybody, key=lambda each: (each[0].name, each[0].requires_tls, each[1])):
            for sender in (ALICE, CAROL, "", "postmaster@mail.example.org"):
                with self.subTest(listener=mode.name, who=who, sender=sender):
                    if (mode, who) in closed:
                        self.assertEqual(self.answers(mode, who, sender, (CAROL,)), {b"530 5.7.0"})
                        continue
                    expected = TAKEN if (mode, who) in trusted else DENIED
                    self.assertEqual(self.answers(mode, who, sender, ELSEWHERE), {expected})
                    self.assertEqual(self.answers(mode, who, sender, TRICKS), {UNKNOWN})
                    self.assertEqual(self.answers(mode, who, sender, OURS), {TAKEN})

    def test_a_login_ends_with_its_session(self) -> None:
        """What one session may, the next one may not."""
        host = self.a_host()
        self.send(self.user(host), ALICE, CAROL)
        client = host.mx_client()
        client.ask(f"MAIL FROM:<{ALICE}>".encode())
        self.assertEqual(client.ask(f"RCPT TO:<{CAROL}>".encode())[:9], DENIED)


class MixedTests(ForwardCase):
    def test_lmtp(self) -> None:
        """By LMTP an alias leads elsewhere too; each recipient has its own reply, and its rows only if that is 250."""
        host = self.a_host()
        client = host.smtp(LMTP)
        client.ask(b"LHLO client.example.net")
        client.ask(b"MAIL FROM:<eve@example.com>")
        for recipient in (TEAM, "bob@example.org"):
            client.ask(f"RCPT TO:<{recipient}>".encode())
        client.ask(b"DATA")
        replies = client.ask(f"Delivered-To: {TEAM}\r\n\r\nx\r\n.".encode()).splitlines()
        self.assertEqual([reply[:9] for reply in replies], [b"554 5.4.6", b"250 2.0.0"])
        self.assertEqual((self.rows(host), host.count("mailbox_item")), ([], 1))
        client.ask(b"MAIL FROM:<eve@example.com>")
        for recipient in (TEAM, "bob@example.org"):
            client.ask(f"RCPT TO:<{recipient}>".encode())
        client.ask(b"DATA")
        replies = client.ask(b"\r\nx\r\n.").splitlines()
        self.assertEqual([reply[:9] for reply in replies], [b"250 2.0.0", b"250 2.0.0"])
        self.assertEqual([row[0] for row in self.rows(host)], [CAROL])

    def test_held(self) -> None:
        """What is to be released later (RFC 4865) is not due before, and its age counts from then.

        Rule: FUTURERELEASE
        """
        host = self.a_host()
        client = host.secured_smtp(SUBMISSION, hold_seconds=3600)
        client.ask(b"AUTH PLAIN " + b64encode(f"\0{ALICE}\0{PASSWORD}".encode()))
        self.assertEqual(client.ask(f"MAIL FROM:<{ALICE}> HOLDFOR=60".encode())[:3], b"250")
        client.ask(f"RCPT TO:<{CAROL}>".encode())
        client.ask(b"DATA")
        client.ask(b"\r\nx\r\n.")
        self.assertEqual(host.store.connection.execute("SELECT due, age FROM outbound").fetchall(), [(60.0, -60.0)])

    def test_require_tls(self) -> None:
        """REQUIRETLS (RFC 8689) stays with the message."""
        host = self.a_host()
        client = self.user(host)
        client.ask(f"MAIL FROM:<{ALICE}> REQUIRETLS".encode())
        client.ask(f"RCPT TO:<{CAROL}>".encode())
        client.ask(b"DATA")
        client.ask(b"\r\nx\r\n.")
        self.assertEqual(host.store.connection.execute("SELECT require_tls FROM message").fetchall(), [(1,)])

    def test_all_or_nothing(self) -> None:
        """A disk that fails leaves neither maildrop rows nor rows that go out."""
        host = self.a_host()
        client = self.user(host)
        client.ask(f"MAIL FROM:<{ALICE}>".encode())
        for recipient in (CAROL, "bob@example.org"):
            client.ask(f"RCPT TO:<{recipient}>".encode())
        client.ask(b"DATA")
        host.store.failure = OSError("the disk")
        self.assertEqual(client.ask(b"\r\nx\r\n.")[:3], b"451")
        host.store.failure = None
        self.flushLoggedErrors(OSError)
        counts = [host.count(table) for table in ("message", "mailbox_item", "outbound", "outbound_day")]
        self.assertEqual(counts, [0, 0, 0, 0])

    def test_the_day_of_a_relay_client(self) -> None:
        """A machine that hands mail in by its certificate has a limit of its own, which is not that of accounts.

        Rule: A limit of recipients elsewhere a day
        """
        host = self.a_host()
        host.helpers = replace(host.helpers, machines=OneMachine())
        host.intake._daily = Daily(account=1, machine=2)
        client = host.secured_smtp(SUBMISSION)
        self.assertEqual(self.send(client, ALICE, CAROL, "x@a.example")[:3], b"250")
        full = b"relay client printer may write to 2 recipients a day elsewhere, and has; more tomorrow (UTC)"
        self.assertEqual(self.send(client, ALICE, CAROL), b"450 4.7.1 " + full + b"\r\n")
        self.assertEqual(self.send(client, ALICE, "bob@example.org")[:3], b"250")
        user = self.user(host)
        self.assertEqual(self.send(user, ALICE, CAROL)[:3], b"250")
        self.assertEqual(self.send(user, ALICE, CAROL)[:9], b"450 4.7.1")
        rows = host.store.connection.execute("SELECT account, recipients FROM outbound_day ORDER BY account").fetchall()
        self.assertEqual(rows, [(ALICE, 1), ("relay client printer", 2)])
        host.reactor.advance(86_400.0)
        client = host.secured_smtp(SUBMISSION)
        self.assertEqual(self.send(client, ALICE, CAROL)[:3], b"250")

    def test_programs_do_not_run_for_a_full_day(self) -> None:
        """A program cannot be asked to forget: the limit of the day is looked at before it runs."""
        host = self.a_host()
        host.store.now(add_alias, parse_address("sorter@example.org"), [Program(("/bin/sorter",))], 0.0)
        host.intake._daily = Daily(2)
        host.store.now(count_for_day, ALICE, 2, 0.0, 2)
        self.assertEqual(self.send(self.user(host), ALICE, CAROL, "sorter@example.org")[:9], b"450 4.7.1")
        self.assertEqual(host.programs.given, [])
