"""Logging in to POP3 with the real engine (RFC 5034), and how many may, how often."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.accounts.realm import Account, AccountId
from mailsvc.accounts.throttle import network
from mailsvc.pop3.admission import Admission
from mailsvc.pop3.texts import Refusal
from mailsvc.smtp.modes import SUBMISSION
from tests.auth_case import AuthCase, b64
from tests.memory import ALICE, PASSWORD, Client, MailCase, MailHost
from tests.scram_client import ScramClient

REFUSED = b"-ERR [AUTH] the name or the password is wrong\r\n"
WELCOME = b"+OK 0 messages, 0 octets\r\n"


def shielded(deferred: Deferred[AccountId]) -> Deferred[AccountId]:
    """The same, but whoever cancels it is not heard."""
    answer: Deferred[AccountId] = Deferred()

    def checked(found: AccountId) -> AccountId:
        if not answer.called:
            answer.callback(found)
        return found

    deferred.addCallback(checked)
    return answer.addErrback(lambda _: deferred)


class LoginCase(AuthCase):
    """A session of POP3."""

    goes_on = b"+ "

    def bound(self, client: Client, seen: Client | None = None) -> ScramClient:
        """A client that binds its login to a TLS session."""
        return ScramClient(ALICE, PASSWORD, flag=b"p=tls-exporter", binding=self.binding(seen or client))


class AuthTests(LoginCase):
    """AUTH beyond its dialogues."""

    def test_offer(self) -> None:
        """CAPA and AUTH name the same mechanisms, the strongest first; in clear none.

        Rule: POP3: SASL in CAPA
        """
        host = self.auth_host()
        self.assertNotIn(b"SASL", host.pop3().ask(b"CAPA"))
        client = host.secured_pop3()
        self.assertIn(b"SASL SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN\r\n", client.ask(b"CAPA"))
        self.assertEqual(client.ask(b"AUTH").split(b"\r\n")[1:3], [b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"])

    def test_scram(self) -> None:
        """SCRAM lets the owner in, with and without an initial response; the server's proof is a challenge of its own.

        Rule: POP3: AUTH with and without initial response, = and *
        """
        host = self.auth_host()
        client = host.secured_pop3()
        self.assertEqual(client.ask(b"AUTH SCRAM-SHA-256"), b"+ \r\n")
        self.assertEqual(client.ask(b"*"), b"-ERR authentication cancelled\r\n")
        self.assertEqual(self.scram(client, ScramClient(ALICE, PASSWORD)), WELCOME)
        client.ask(b"QUIT")
        client = host.pop3(implicit_tls=True)
        client.handshake()
        client.take()
        self.assertEqual(self.scram(client, self.bound(client), b"SCRAM-SHA-256-PLUS"), WELCOME)

    def test_another_channel(self) -> None:
        """A proof that was made for another TLS session is refused, and a downgrade is told."""
        host = self.auth_host()
        client, elsewhere = host.secured_pop3(), host.secured_pop3()
        passed_on = self.bound(client, elsewhere)
        server_first = self.challenge(client.ask(b"AUTH SCRAM-SHA-256-PLUS " + b64(passed_on.first)))
        client.put(b64(passed_on.final(server_first)) + b"\r\n")
        client.wait(2)
        self.assertEqual(client.take(), REFUSED)
        warned = client.ask(b"AUTH SCRAM-SHA-256 " + b64(ScramClient(ALICE, PASSWORD, flag=b"y").first))
        self.assertTrue(warned.startswith(b"-ERR [AUTH] the channel binding"), warned)

    def test_unknown_and_wrong_are_the_same(self) -> None:
        """A wrong proof and an unknown name: the same lines, of the same length, after the same wait.

        Rule: POP3: AUTH and SYS/TEMP as codes of a login
        """
        seen = []
        for name in (ALICE, "nobody@example.org"):
            client = self.auth_host().secured_pop3()
            who = ScramClient(name, "wrong")
            first = client.ask(b"AUTH SCRAM-SHA-256 " + b64(who.first))
            client.put(b64(who.final(self.challenge(first))) + b"\r\n")
            client.wait(0.9)
            early = client.take()
            client.wait(0.2)
            seen.append((len(first), early, client.take()))
        self.assertEqual(seen[0], seen[1])
        self.assertEqual(seen[0][1:], (b"", REFUSED))

    def test_failures_count_with_those_of_smtp(self) -> None:
        """A wrong proof over SMTP makes the next wrong one over POP3 wait longer: one throttle for both."""
        host = self.auth_host()
        peer = network("192.0.2.7")
        mail = host.secured_smtp(SUBMISSION)
        who = ScramClient(ALICE, "wrong")
        first = mail.ask(b"AUTH SCRAM-SHA-256 " + b64(who.first))
        mail.put(b64(who.final(base64.b64decode(first[4:-2]))) + b"\r\n")
        mail.wait(1.1)
        before = self.guard.throttle.failures(peer, self.guard.name(ALICE.encode()).digest, host.reactor.seconds())
        client = host.secured_pop3()
        who = ScramClient(ALICE, "wrong")
        first = client.ask(b"AUTH SCRAM-SHA-256 " + b64(who.first))
        client.put(b64(who.final(self.challenge(first))) + b"\r\n")
        client.wait(1.1)
        self.assertEqual(client.take(), b"")
        after = self.guard.throttle.failures(peer, self.guard.name(ALICE.encode()).digest, host.reactor.seconds())
        self.assertTrue(all(new > old > 0.9 for new, old in zip(after, before, strict=True)))
        client.wait(2)
        self.assertEqual(client.take(), REFUSED)

    def make_stubborn(self, host: MailHost) -> None:
        """A login that is being checked cannot be cancelled."""
        checked = host.checker.requestAvatarId

        def requestAvatarId(credentials: Any) -> Deferred[AccountId]:
            return shielded(checked(credentials))

        host.checker.requestAvatarId = requestAvatarId  # type: ignore[method-assign]

    def test_client_gone(self) -> None:
        """A client that goes away inside AUTH leaves nothing behind, wherever it was."""
        for steps, late in ((0, False), (1, False), (2, False), (0, True)):
            host = self.auth_host()
            host.readers = replace(host.readers, admission=Admission(0, 1))
            client = host.secured_pop3()
            if late:
                # As if the checker could not be cancelled: the login succeeds when the client has gone.
                self.make_stubborn(host)
            host.store.held = True
            client.send(b"AUTH PLAIN " + b64(f"\0{ALICE}\0{PASSWORD}".encode()) + b"\r\n")
            for _ in range(steps):
                host.store.release(1)
                client.settle()
            client.hang_up()
            while host.store.waiting:
                host.store.release()
            host.store.held = False
            # Whoever comes next gets the maildrop, and a place.
            self.assertTrue(host.reader().ask(b"STAT").startswith(b"+OK 0 0"), steps)
            self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_mistake_of_ours(self) -> None:
        """A defect inside AUTH ends the exchange: the next line is a command."""
        host = self.auth_host()
        client = host.secured_pop3()
        client.ask(b"AUTH PLAIN")
        host.store.failure = ZeroDivisionError()
        answer = client.ask(b64(f"\0{ALICE}\0{PASSWORD}".encode()))
        self.assertTrue(answer.startswith(b"-ERR [SYS/TEMP]"), answer)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        host.store.failure = None
        self.assertEqual(client.ask(b"STAT"), b"-ERR log in first\r\n")

    def test_silence_inside_auth(self) -> None:
        """Who does not go on with AUTH is disconnected like any other silent client."""
        client = self.auth_host().secured_pop3()
        client.ask(b"AUTH PLAIN")
        client.wait(310)
        client.close_tls()
        self.assertTrue(client.is_closed)


class PlaceTests(MailCase):
    """How many sessions an account may have, and that each place comes back."""

    def test_the_place_comes_back(self) -> None:
        """By QUIT, by a lost connection, by a maildrop that is in use or cannot be read."""
        host = self.host()
        host.readers = replace(host.readers, admission=Admission(0, 1))
        for end in ("quit", "lost", "trouble"):
            client = host.reader()
            self.assertEqual(client.ask(b"STAT"), b"+OK 0 0\r\n", end)
            second = host.secured_pop3()
            second.ask(b"USER " + ALICE.encode())
            refused = second.ask(b"PASS " + PASSWORD.encode())
            self.assertEqual(refused, b"-ERR [IN-USE] too many sessions of this account\r\n")
            if end == "lost":
                client.hang_up()
            else:
                client.ask(b"QUIT")
            if end == "trouble":
                second.ask(b"USER " + ALICE.encode())
                host.store.held = True
                second.send(b"PASS " + PASSWORD.encode() + b"\r\n")
                host.store.release(1)
                host.store.failure = ZeroDivisionError()
                host.store.release()
                second.settle()
                host.store.failure, host.store.held = None, False
                self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(host.reader().ask(b"STAT"), b"+OK 0 0\r\n")

    def test_never_reading_client(self) -> None:
        """A client that stops reading is cut after the progress time, and its maildrop is free for the next."""
        host = self.host()
        host.put_message(b"A: b\r\n\r\n" + b"y" * 2_000_000, piece=100_000)
        client = host.reader()
        client.wire.window = 1000
        client.send(b"RETR 1\r\n")
        client.wait(179)
        self.assertFalse(client.is_closed)
        client.wait(2)
        self.assertTrue(client.wire.aborted)
        self.assertTrue(host.reader().ask(b"STAT").startswith(b"+OK 1 "))


class AdmissionTests(SynchronousTestCase):
    """`Admission` by itself."""

    def test_a_login_that_came_to_nothing(self) -> None:
        """Only a login that succeeded begins the delay."""
        admission = Admission(60)
        admission.enter(1, "password", 0.0)
        admission.leave(1)
        admission.enter(1, "password", 1.0)
        admission.begun(1, "password", 1.0, by_device=False)
        self.assertRaises(Refusal, admission.enter, 1, "app-password 1", 60.9)
        admission.enter(1, "password", 61.0)

    def test_the_clock_is_set_back(self) -> None:
        """Nobody is locked out for the hour by which it was wrong."""
        admission = Admission(60)
        admission.begun(1, "password", 3600.0, by_device=False)
        admission.enter(1, "password", 10.0)

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from("ab"), st.floats(0, 100)), max_size=40))
    def test_delay(self, logins: list[tuple[int, str, float]]) -> None:
        """However logins come: none within the delay of the last, of the account or, where it deletes by device (those
        with even numbers), of the device; nothing is remembered for longer."""
        admission, last, now = Admission(60, 100), dict[tuple[int, str], float](), 0.0
        for account, device, after in logins:
            now += after
            by_device = account % 2 == 0
            key = (account, device if by_device else "")
            try:
                admission.enter(account, device, now)
            except Refusal as error:
                self.assertLess(now - last[key], 60)
                self.assertGreaterEqual(int(str(error.reply.values["seconds"])), 1)
                continue
            admission.begun(account, device, now, by_device=by_device)
            self.assertGreaterEqual(now - last.get(key, -60.0), 60)
            last[key] = now
            self.assertEqual(set(admission._last), {each for each, at in last.items() if now - at < 60})


class CredentialTests(LoginCase):
    """What the account was opened with reaches the maildrop."""

    def test_credential(self) -> None:
        """The session knows the credential, whichever way it came in by."""
        host = self.auth_host()
        seen: list[str] = []
        checked = host.checker.requestAvatarId

        def with_credential(credentials: Any) -> Deferred[AccountId]:
            return checked(credentials).addCallback(lambda found: replace(found, credential="app-password 7"))

        host.checker.requestAvatarId = with_credential  # type: ignore[method-assign]
        maildrops: Any = host.maildrops
        opened = maildrops.open

        def open_for(account: Account, **more: Any) -> Any:
            seen.append(account.credential)
            return opened(account, **more)

        maildrops.open = open_for
        client = host.secured_pop3()
        client.ask(b"AUTH PLAIN " + b64(f"\0{ALICE}\0{PASSWORD}".encode()))
        client.ask(b"QUIT")
        host.reader()
        self.assertEqual(seen, ["app-password 7"] * 2)
