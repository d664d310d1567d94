"""KMail, by its command sequences: it wants a desktop, so a scripted client says here what KMail says.

What KMail needs of a server, as its sources have it (KSMTP, the POP3 resource of kdepim-runtime, and the server test
of kmailtransport, which the account wizard runs):

- SMTP: EHLO, STARTTLS (or TLS from the start), EHLO again, AUTH PLAIN with an initial response or AUTH LOGIN, one
  message after the other, QUIT;
- POP3: STLS without asking CAPA first (or TLS from the start), USER and PASS for "clear text" as the method of login,
  AUTH PLAIN or AUTH LOGIN for "PLAIN" and "LOGIN", LIST, UIDL, RETR and DELE, up to ten of them sent ahead when
  PIPELINING is offered, QUIT;
- the server test: CAPA (looks for TOP, UIDL, PIPELINING, STLS), then ``AUTH`` without argument, on the clear
  connection, where it is refused in one line, and again inside TLS, where it lists the mechanisms.
"""

from __future__ import annotations

import base64

from tests.interop.mail import message
from tests.interop.programs import InteropCase
from tests.peer import Peer, plain, send_message
from tests.running import after_trace


class KMail(InteropCase):
    def peer(self, listener: str) -> Peer:
        peer = Peer(self.port(listener), self.service.ca, tls=listener in ("submissions", "pop3s"))
        self.addCleanup(peer.__exit__, None, None, None)
        return peer

    def smtp_session(self, listener: str) -> tuple[Peer, list[bytes]]:
        """Greeting, TLS, and the extensions that are offered inside it."""
        peer = self.peer(listener)
        self.assertTrue(peer.line().startswith(b"220 "))
        peer.send(b"EHLO desktop.localnet\r\n")
        offered = peer.reply()
        if listener == "submission":
            self.assertIn(b"STARTTLS", [line[4:] for line in offered])
            self.assertTrue(peer.smtp(b"STARTTLS").startswith(b"220 "))
            peer.start_tls()
            peer.send(b"EHLO desktop.localnet\r\n")
            offered = peer.reply()
        return peer, [line[4:] for line in offered]

    def pop3_session(self, listener: str, method: str = "USER") -> Peer:
        """Greeting, STLS without CAPA, and a login by USER and PASS, AUTH PLAIN or AUTH LOGIN."""
        peer = self.peer(listener)
        self.assertTrue(peer.line().startswith(b"+OK"))
        if listener == "pop3":
            self.assertTrue(peer.pop3(b"STLS").startswith(b"+OK"))
            peer.start_tls()
        name, password = self.user.address.encode(), self.user.password.encode()
        if method == "USER":
            self.assertTrue(peer.pop3(b"USER " + name).startswith(b"+OK"))
            answer = peer.pop3(b"PASS " + password)
        elif method == "PLAIN":
            self.assertTrue(peer.pop3(b"AUTH PLAIN").startswith(b"+ "))
            answer = peer.pop3(base64.b64encode(b"\0" + name + b"\0" + password))
        else:
            self.assertTrue(peer.pop3(b"AUTH LOGIN").startswith(b"+ "))
            self.assertTrue(peer.pop3(base64.b64encode(name)).startswith(b"+ "))
            answer = peer.pop3(base64.b64encode(password))
        self.assertTrue(answer.startswith(b"+OK"), answer)
        return peer

    def test_it_sends_and_fetches(self) -> None:
        """PLAIN and LOGIN, both ways into TLS; LIST, UIDL, RETR and DELE sent ahead."""
        sent: list[bytes] = []
        for listener in ("submission", "submissions"):
            for mechanism in ("PLAIN", "LOGIN"):
                peer, offered = self.smtp_session(listener)
                [mechanisms] = [line for line in offered if line.startswith(b"AUTH ")]
                self.assertIn(mechanism.encode(), mechanisms.split())
                if mechanism == "PLAIN":
                    said = peer.smtp(plain(self.user.address, self.user.password))
                else:
                    self.assertEqual(peer.smtp(b"AUTH LOGIN"), b"334 " + base64.b64encode(b"Username:"))
                    said = peer.smtp(base64.b64encode(self.user.address.encode()))
                    self.assertEqual(said, b"334 " + base64.b64encode(b"Password:"))
                    said = peer.smtp(base64.b64encode(self.user.password.encode()))
                self.assertTrue(said.startswith(b"235 "), said)
                for _ in range(4):
                    sent.append(message(len(sent), self.user.address))
                    said = send_message(peer, self.user.address, self.user.address, sent[-1])
                    self.assertTrue(said.startswith(b"250 "), said)
                self.assertTrue(peer.smtp(b"QUIT").startswith(b"221 "))
                self.assertTrue(peer.at_end())

        for listener in ("pop3", "pop3s"):
            peer = self.pop3_session(listener)
            self.assertTrue(peer.pop3(b"LIST").startswith(b"+OK"))
            sizes = [int(line.split()[1]) for line in peer.dotted().splitlines()]
            self.assertTrue(peer.pop3(b"UIDL").startswith(b"+OK"))
            self.assertEqual(len(peer.dotted().splitlines()), len(sizes))
            fetched = []
            for numbers in (range(1, 11), range(11, len(sizes) + 1)):
                peer.send(b"".join(b"RETR %d\r\n" % number for number in numbers))
                for _ in numbers:
                    self.assertTrue(peer.line().startswith(b"+OK"))
                    fetched.append(peer.dotted())
            self.assertEqual([len(mail) for mail in fetched], sizes)
            self.assertEqual([after_trace(mail) for mail in fetched], sent)
            if listener == "pop3s":
                for numbers in (range(1, 11), range(11, len(sizes) + 1)):
                    peer.send(b"".join(b"DELE %d\r\n" % number for number in numbers))
                    for _ in numbers:
                        self.assertTrue(peer.line().startswith(b"+OK"))
            self.assertTrue(peer.pop3(b"QUIT").startswith(b"+OK"))
            self.assertTrue(peer.at_end())
        peer = self.pop3_session("pop3")
        self.assertEqual(peer.pop3(b"LIST")[:3], b"+OK")
        self.assertEqual(peer.dotted(), b"")

    def test_every_method_of_login(self) -> None:
        """What its configuration calls clear text, PLAIN and LOGIN, over both ports."""
        for listener in ("pop3", "pop3s"):
            for method in ("USER", "PLAIN", "LOGIN"):
                peer = self.pop3_session(listener, method)
                self.assertTrue(peer.pop3(b"STAT").startswith(b"+OK 0 0"))
                self.assertTrue(peer.pop3(b"QUIT").startswith(b"+OK"))

    def test_the_server_test_of_the_account_wizard(self) -> None:
        """CAPA and a bare AUTH, in clear and inside TLS; the wizard finds TOP, UIDL, PIPELINING and STLS."""
        for listener in ("pop3", "pop3s"):
            peer = self.peer(listener)
            self.assertTrue(peer.line().startswith(b"+OK"))
            for secured in (False, True) if listener == "pop3" else (True,):
                self.assertTrue(peer.pop3(b"CAPA").startswith(b"+OK"))
                offered = peer.dotted().splitlines()
                for capability in (b"TOP", b"UIDL", b"PIPELINING"):
                    self.assertIn(capability, offered)
                self.assertEqual(b"STLS" in offered, not secured)
                self.assertEqual(b"USER" in offered, secured)
                answer = peer.pop3(b"AUTH")
                self.assertTrue(answer.startswith(b"+OK" if secured else b"-ERR"), answer)
                if secured:
                    self.assertLessEqual({b"PLAIN", b"LOGIN", b"SCRAM-SHA-256"}, set(peer.dotted().splitlines()))
                if not secured:
                    self.assertTrue(peer.pop3(b"STLS").startswith(b"+OK"))
                    peer.start_tls()
            self.assertTrue(peer.pop3(b"QUIT").startswith(b"+OK"))
