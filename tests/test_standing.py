"""An open session whose login is taken back: it ends at its next command, and deletes nothing."""

from __future__ import annotations

from dataclasses import replace

from twisted.internet.defer import Deferred

from mailsvc.mail.address import parse_address
from mailsvc.pop3.mailbox import LOOK_AGAIN
from mailsvc.storage import accounts, credentials, identities
from mailsvc.storage.rules import set_disabled
from tests.client_certificates import AskingHost, external, key_of, person
from tests.memory import ALICE, PASSWORD, Client, MailCase, MailHost, storage_failure
from tests.test_events_of_servers import ToldHost

ENDED = b"-ERR [SYS/PERM] the password was changed or revoked meanwhile; nothing more is deleted\r\n"
KEY = parse_address(ALICE).key
MESSAGE = b"Subject: x\r\n\r\nbody\r\n"


class StandingTests(MailCase):
    """What another process may do meanwhile is done to the tables here, as `mailsvc user` does it."""

    def reader(self) -> tuple[ToldHost, Client]:
        host = ToldHost()
        self.hosts.append(host)
        host.put_message(MESSAGE)
        return host, host.reader()

    def ended(self, host: MailHost, client: Client, command: bytes = b"LIST") -> None:
        client.wait(LOOK_AGAIN)
        self.assertEqual(client.ask(command), ENDED)
        self.assertTrue(client.saw_close_notify)
        self.assertEqual(len(host.mail_of()), 1)

    def test_whatever_was_taken_back(self) -> None:
        """The account disabled or removed: the next command is the last, whichever it is, and what was marked stays.

        Rule: POP3: a session ends when its login is taken back
        """
        for command in (b"STAT", b"LIST", b"UIDL", b"RETR 1", b"TOP 1 0", b"DELE 1", b"NOOP", b"RSET", b"CAPA"):
            host, client = self.reader()
            client.ask(b"DELE 1" if command == b"NOOP" else b"NOOP")
            host.store.now(set_disabled, KEY, True)
            self.ended(host, client, command)
        host, client = self.reader()
        host.store.now(accounts.remove_account, KEY)
        client.wait(LOOK_AGAIN)
        self.assertEqual(client.ask(b"RETR 1"), ENDED)

    def test_another_password(self) -> None:
        """It ends the sessions of the old one; the same password with another hash does not."""
        host, client = self.reader()
        client.ask(b"QUIT")
        facts = host.store.now(credentials.login_facts, KEY)
        assert facts is not None
        account = replace(host.account(ALICE), changed=facts.changed)
        drop = self.successResultOf(Deferred.fromCoroutine(host.maildrops.open(account)))
        self.assertFalse(drop.is_due)
        host.reactor.pass_time(LOOK_AGAIN)
        host.store.now(credentials.renew_hash, KEY, PASSWORD, "another hash")
        self.assertTrue(drop.is_due)
        self.assertTrue(self.successResultOf(Deferred.fromCoroutine(drop.login_holds())))
        self.assertFalse(drop.is_due)
        host.store.now(accounts.set_password, KEY, "another", 7.0)
        self.assertFalse(self.successResultOf(Deferred.fromCoroutine(drop.login_holds())))
        drop.release()

    def test_one_device_of_several(self) -> None:
        """A revoked app password ends the sessions that rest on it, and no other."""
        host, phone = self.reader()
        label = host.add_device("phone")
        other = host.reader(password=label) if phone.ask(b"QUIT") else phone
        host.store.now(credentials.revoke_app_password, KEY, "phone")
        self.ended(host, other)
        again = host.reader()
        again.wait(LOOK_AGAIN)
        self.assertEqual(again.ask(b"STAT")[:3], b"+OK")

    def test_a_certificate(self) -> None:
        """A key that is revoked in the table ends its sessions, too."""
        host, phone = AskingHost(), person("phone")
        self.hosts.append(host)
        host.know(phone, label="phone")
        host.put_message(MESSAGE)
        client = host.fetcher(phone)
        self.assertEqual(client.ask(external())[:3], b"+OK")
        client.wait(LOOK_AGAIN)
        self.assertEqual(client.ask(b"STAT")[:3], b"+OK")
        host.store.now(identities.revoke_key, KEY, key_of(phone), 1.0, "")
        self.ended(host, client)

    def test_a_registration_that_ends(self) -> None:
        """The end of a key's registration ends its session, and lets no other begin; so it does for submission.

        Rule: EXTERNAL: a registration may have an end of its own
        """
        host, phone = AskingHost(), person("phone")
        self.hosts.append(host)
        end = host.reactor.seconds() + 50
        host.store.now(identities.add_certificate, KEY, "phone", key_of(phone), "", 0.0, until=end)
        host.put_message(MESSAGE)
        client, sender = host.fetcher(phone), host.sender(phone)
        self.assertEqual(client.ask(external())[:3], b"+OK")
        self.assertEqual(sender.ask(external())[:3], b"235")
        client.wait(LOOK_AGAIN)
        self.assertEqual(client.ask(b"STAT")[:3], b"+OK")
        client.wait(50)
        self.ended(host, client)
        self.assertEqual(sender.ask(b"MAIL FROM:<alice@example.org>")[:9], b"421 4.7.0")
        self.assertEqual(host.fetcher(phone).ask(external())[:11], b"-ERR [AUTH]")

    def test_the_lock_is_given_back(self) -> None:
        """At once, and not when the client has closed."""
        host, client = self.reader()
        host.store.now(set_disabled, KEY, True)
        client.wait(LOOK_AGAIN)
        client.put(b"STAT\r\n")
        host.reactor.settle()
        host.store.now(set_disabled, KEY, False)
        self.assertEqual(host.reader().ask(b"STAT")[:3], b"+OK")

    def test_what_it_costs(self) -> None:
        """One look at the tables a second at most, however many commands come, and none for a session that rests.

        Rule: POP3: a session ends when its login is taken back
        """
        host, client = self.reader()
        looks = host.store.calls.count("still_holds")
        for _ in range(3):
            client.send(b"NOOP\r\n" * 200)
            self.assertEqual(client.take().count(b"+OK"), 200)
            client.wait(LOOK_AGAIN)
        self.assertEqual(host.store.calls.count("still_holds") - looks, 2)
        client.wait(5 * LOOK_AGAIN)
        self.assertEqual(host.store.calls.count("still_holds") - looks, 2)

    def test_a_database_that_cannot_be_asked(self) -> None:
        """Then nobody is sent away: what needs the database fails by itself, and the next command asks again."""
        host, client = self.reader()
        client.wait(LOOK_AGAIN)
        host.store.failure = storage_failure()
        self.assertEqual(client.ask(b"STAT")[:3], b"+OK")
        host.store.failure = None
        host.store.now(set_disabled, KEY, True)
        self.assertEqual(client.ask(b"STAT"), ENDED)

    def test_it_is_told(self) -> None:
        """The log says why the session ended."""
        host, client = self.reader()
        host.store.now(set_disabled, KEY, True)
        self.ended(host, client)
        self.assertEqual(host.refusals(), [("session", "-ERR")])

    def test_gone_meanwhile(self) -> None:
        """A client that goes while the tables are asked is nobody's concern."""
        host = MailHost(late=True)
        self.hosts.append(host)
        host.put_message(MESSAGE)
        client = host.reader()
        host.store.release()
        client.settle()
        client.wait(LOOK_AGAIN)
        client.send(b"DELE 1\r\n")
        client.hang_up()
        host.store.release()
        client.settle()
        self.assertEqual(len(host.mail_of()), 1)
