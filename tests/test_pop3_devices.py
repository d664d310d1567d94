"""Several devices at one maildrop: who may come in, what DELE means for each, and what ends it all."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mail.address import parse_address
from mailsvc.mail.event import MaildropClosed
from mailsvc.pop3.admission import Admission
from mailsvc.pop3.devices import Hold, Keeping, MaildropInUse, enter, expiry, settle, shortest
from mailsvc.storage import credentials, devices
from mailsvc.storage.expiry import own_expiry
from mailsvc.storage.rules import set_disabled
from tests.memory import ALICE, BOB, PASSWORD, Client, MailCase, storage_failure
from tests.test_events_of_servers import ToldHost

DAY = 86_400.0
IN_USE = b"-ERR [IN-USE] another session has this maildrop open\r\n"
ENDED = b"-ERR [SYS/PERM] the password was changed or revoked meanwhile; nothing more is deleted\r\n"
KEY = parse_address(ALICE).key


class RuleTests(SynchronousTestCase):
    """The pure rules."""

    @given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=6))
    @settings(deadline=None)
    def test_never_two_where_one_is_meant(self, sessions: list[tuple[bool, float]]) -> None:
        """Whatever sessions want and in whatever order they learn it: one that is alone is alone, and somebody gets
        in."""
        holds = [Hold(str(number)) for number in range(len(sessions))]
        there = list(holds)
        order = sorted(range(len(sessions)), key=lambda number: sessions[number][1])
        for number in order:
            try:
                settle(there, holds[number], by_device=sessions[number][0])
            except MaildropInUse:
                there.remove(holds[number])
        self.assertTrue(there)
        wanting = {hold.by_device for hold in there}
        self.assertTrue(wanting == {True} or len(there) == 1, wanting)

    def test_one_session_of_a_device(self) -> None:
        """A device has one session at a time, whatever the account wants."""
        with self.assertRaises(MaildropInUse):
            enter([Hold("password", True)], "password")
        enter([Hold("password", True)], "app-password 1")

    def test_expiry(self) -> None:
        """CAPA says for how long mail is kept at least; before login for whom it is shortest.
        Rule: POP3: EXPIRE, with USER where it differs
        """
        self.assertEqual([expiry(0), expiry(30), expiry(10, differs=True)], ["NEVER", "30", "10 USER"])
        self.assertEqual([shortest(0, 0), shortest(30, 0), shortest(0, 5), shortest(30, 5)], [0, 30, 5, 5])
        self.assertEqual(expiry(0, differs=True), "NEVER USER")


class DeviceCase(MailCase):
    """Alice, who deletes by device, with the app passwords phone and laptop."""

    def setUp(self) -> None:
        super().setUp()
        self.mail = ToldHost()
        self.hosts.append(self.mail)
        self.phone, self.laptop = (self.mail.add_device(label) for label in ("phone", "laptop"))
        self.set_mode(by_device=True)

    def set_mode(self, *, by_device: bool) -> None:
        self.mail.store.now(devices.set_deletes, KEY, by_device=by_device)

    def put(self, *names: str) -> None:
        for name in names:
            self.mail.put_message(b"A: " + name.encode() + b"\r\n\r\n")

    def reader(self, device: str) -> Client:
        return self.mail.reader(password=device)

    def seen(self, device: str) -> int:
        """How many messages a device is shown."""
        client = self.reader(device)
        count = int(client.ask(b"STAT").split()[1])
        client.ask(b"QUIT")
        return count

    def delete(self, device: str, *numbers: int) -> bytes:
        """Log in, delete and quit; the last reply."""
        client = self.reader(device)
        for number in numbers:
            self.assertEqual(client.ask(b"DELE %d" % number)[:3], b"+OK")
        return client.ask(b"QUIT")

    def used(self) -> tuple[int, int]:
        """The two counters of Alice, which must be what the tables say."""
        connection = self.mail.store.connection
        counters = connection.execute(
            "SELECT used_octets, deleted_octets FROM account WHERE key = ?", (KEY,)
        ).fetchone()
        sums = connection.execute(
            "SELECT (SELECT COALESCE(SUM(size), 0) FROM mailbox_item WHERE account_id = account.id),"
            " (SELECT COALESCE(SUM(size), 0) FROM deleted_item WHERE account_id = account.id)"
            " FROM account WHERE key = ?",
            (KEY,),
        ).fetchone()
        self.assertEqual(counters, sums)
        return counters[0], counters[1]


class TwoDevices(DeviceCase):
    """A phone and a laptop that both download and delete."""

    def test_neither_robs_the_other(self) -> None:
        """What one has deleted the other still gets; when both have, it is gone, and counted no more."""
        self.assertEqual((self.seen(self.phone), self.seen(self.laptop)), (0, 0))
        self.put("one", "two")
        self.assertEqual(self.delete(self.phone, 1, 2), b"+OK bye\r\n")
        self.assertEqual((self.seen(self.phone), self.seen(self.laptop)), (0, 2))
        self.assertEqual(self.used(), (2 * 10, 0))
        self.delete(self.laptop, 1)
        self.assertEqual(
            (self.seen(self.phone), self.seen(self.laptop), self.mail.mail_of()), (0, 1, [b"A: two\r\n\r\n"])
        )
        self.assertEqual(self.used(), (10, 10))

    def test_at_the_same_time(self) -> None:
        """Sessions of different devices run at once, one device has one; deletes of one do not touch the other."""
        self.put("one", "two")
        phone, laptop = self.reader(self.phone), self.reader(self.laptop)
        third = self.mail.secured_pop3()
        third.ask(b"USER " + ALICE.encode())
        self.assertEqual(third.ask(b"PASS phone"), IN_USE)
        phone.ask(b"DELE 1")
        self.assertEqual(phone.ask(b"QUIT"), b"+OK bye\r\n")
        self.assertEqual(laptop.ask(b"STAT")[:5], b"+OK 2")
        self.assertIn(b"A: one", laptop.ask(b"RETR 1"))
        laptop.ask(b"DELE 1")
        laptop.ask(b"QUIT")
        self.assertEqual(self.mail.mail_of(), [b"A: two\r\n\r\n"])
        self.assertEqual(third.ask(b"USER " + ALICE.encode())[:3], b"+OK")
        self.assertEqual(third.ask(b"PASS phone")[:3], b"+OK")

    def test_login_delay(self) -> None:
        """A phone that has logged in does not make a laptop wait; where a maildrop is shared, it does."""
        for by_device in (True, False):
            self.mail.readers = replace(self.mail.readers, admission=Admission(60))
            self.set_mode(by_device=by_device)
            self.seen(self.phone)
            answers = []
            for device in (self.phone, self.laptop):
                client = self.mail.secured_pop3()
                client.ask(b"USER " + ALICE.encode())
                answers.append(client.ask(b"PASS " + device.encode())[:18])
            self.assertEqual(answers[0], b"-ERR [LOGIN-DELAY]")
            self.assertEqual(answers[1], b"+OK 0 messages, 0 " if by_device else answers[0])
            client.ask(b"QUIT")

    def test_unique_ids_stay(self) -> None:
        """A message has the same unique-id on every device.
        Rule: POP3: the same unique-ids for every device
        """
        self.put("one")
        phone, laptop = self.reader(self.phone), self.reader(self.laptop)
        self.assertEqual(phone.ask(b"UIDL 1"), laptop.ask(b"UIDL 1"))

    def test_lost_connection(self) -> None:
        """Without QUIT nothing is deleted, for no device; what was fetched is noted.
        Rule: POP3: nothing is deleted without QUIT
        """
        self.put("one")
        phone = self.reader(self.phone)
        phone.ask(b"RETR 1")
        phone.ask(b"DELE 1")
        phone.hang_up()
        self.assertEqual(self.seen(self.phone), 1)
        self.assertEqual(self.facts()["app-password 1"], (1, 0))

    def facts(self) -> dict[str, tuple[int, int]]:
        rows = self.mail.store.now(devices.devices, self.mail.account_id(ALICE))
        return {row.credential: (row.fetched, row.deleted) for row in rows}

    def test_told(self) -> None:
        """The event says for whom the messages were deleted, and how many left the mailbox."""
        self.seen(self.laptop)
        self.put("one")
        client = self.reader(self.phone)
        client.ask(b"DELE 1")
        client.ask(b"QUIT")
        *_, closed = [event for event in self.mail.told() if isinstance(event, MaildropClosed)]
        self.assertEqual(
            (closed.credential, closed.by_device, closed.deleted, closed.left), ("app-password 1", True, 1, 0)
        )

    def test_device_that_comes_later(self) -> None:
        """A device that has never logged in holds nothing back, one that has logged in does, also when the account
        did not delete by device then."""
        self.set_mode(by_device=False)
        self.seen(self.laptop)
        self.set_mode(by_device=True)
        self.put("one")
        self.delete(self.phone, 1)
        self.assertEqual(self.seen(self.laptop), 1)

    def test_not_in_use_any_more(self) -> None:
        """A device that has not logged in for so many days holds nothing back; when it comes again it does."""
        self.seen(self.laptop)
        self.put("one", "two")
        self.mail.reactor.advance(31 * DAY)
        self.delete(self.phone, 1)
        self.assertEqual(self.mail.mail_of(), [b"A: two\r\n\r\n"])
        self.assertEqual(self.seen(self.laptop), 1)
        self.delete(self.phone, 1)
        self.assertEqual(self.seen(self.laptop), 1)

    def test_revoked(self) -> None:
        """A revoked app password holds nothing back, and its open session deletes nothing any more."""
        self.seen(self.laptop)
        self.put("one", "two")
        phone = self.reader(self.phone)
        phone.ask(b"DELE 1")
        self.mail.store.now(credentials.revoke_app_password, KEY, "phone")
        self.assertEqual(phone.ask(b"QUIT"), ENDED)
        self.assertEqual((self.facts(), self.seen(self.laptop)), ({"app-password 2": (0, 0)}, 2))
        self.delete(self.laptop, 1)
        self.assertEqual(self.mail.mail_of(), [b"A: two\r\n\r\n"])

    def test_revoked_while_logging_in(self) -> None:
        """A device whose password is revoked between its login and its maildrop does not get in."""
        self.mail.store.now(credentials.revoke_app_password, KEY, "phone")
        client = self.reader(self.phone)
        self.assertEqual(client.ask(b"STAT")[:4], b"-ERR")
        self.assertEqual(self.mail.maildrops._holds, {})

    def test_held_message(self) -> None:
        """What is not to be seen yet is deleted by nobody, and seen by all devices later."""
        self.put("one")
        connection = self.mail.store.connection
        connection.execute("UPDATE mailbox_item SET release_at = 100")
        self.assertEqual((self.seen(self.phone), self.seen(self.laptop)), (0, 0))
        self.mail.reactor.advance(200)
        self.assertEqual((self.seen(self.phone), self.seen(self.laptop)), (1, 1))

    def test_shared_message(self) -> None:
        """A message that another account holds too stays there, whatever devices delete."""
        self.mail.put_message(b"A: b\r\n\r\n", ALICE, BOB)
        self.delete(self.phone, 1)
        self.assertEqual((self.mail.mail_of(ALICE), self.mail.mail_of(BOB)), ([], [b"A: b\r\n\r\n"]))
        self.assertEqual(self.mail.count("message"), 1)

    def test_login_in_trouble(self) -> None:
        """A device that cannot be noted is not let in, or another could delete what it is shown."""
        self.mail.store.failure = storage_failure()
        client = self.reader(self.phone)
        self.mail.store.failure = None
        self.assertEqual(client.ask(b"STAT")[:4], b"-ERR")
        self.assertEqual(self.mail.maildrops._holds, {})

    def test_many(self) -> None:
        """A thousand messages go in slices, for the devices as for the account."""
        self.put(*map(str, range(1000)))
        self.seen(self.laptop)
        self.delete(self.phone, *range(1, 1001))
        self.assertEqual((self.seen(self.phone), self.seen(self.laptop)), (0, 1000))
        self.delete(self.laptop, *range(1, 1001))
        self.assertEqual((self.mail.mail_of(), self.used()[0], self.mail.count("device_item")), ([], 0, 0))


class Switched(DeviceCase):
    """The mode is changed while devices are in the middle of things."""

    def test_to_account_shows_all_again(self) -> None:
        """What only some devices had deleted is seen by all again, under its old unique-id."""
        self.seen(self.laptop)
        self.put("one", "two")
        before = self.reader(self.phone)
        uidl = before.ask(b"UIDL 1")
        before.ask(b"DELE 1")
        before.ask(b"QUIT")
        self.set_mode(by_device=False)
        self.assertEqual((self.seen(self.phone), self.seen(self.laptop)), (2, 2))
        self.assertEqual(self.reader(self.phone).ask(b"UIDL 1"), uidl)
        self.assertEqual(self.mail.count("device_item"), 0)

    def test_session_across_the_switch(self) -> None:
        """QUIT does what holds when it is said, whatever held at login."""
        self.seen(self.laptop)
        self.put("one", "two")
        phone = self.reader(self.phone)
        phone.ask(b"DELE 1")
        self.set_mode(by_device=False)
        self.assertEqual(phone.ask(b"QUIT"), b"+OK bye\r\n")
        self.assertEqual(len(self.mail.mail_of()), 1)
        phone = self.reader(self.phone)
        phone.ask(b"DELE 1")
        self.set_mode(by_device=True)
        phone.ask(b"QUIT")
        self.assertEqual((self.seen(self.phone), self.seen(self.laptop)), (0, 1))

    def test_alone_and_together(self) -> None:
        """A session that has the account for itself keeps it, and one that wants it waits for the devices."""
        self.set_mode(by_device=False)
        alone = self.reader(self.phone)
        self.set_mode(by_device=True)
        self.assertEqual(self.reader(self.laptop).ask(b"STAT")[:4], b"-ERR")
        alone.ask(b"QUIT")
        together = self.reader(self.laptop)
        self.set_mode(by_device=False)
        self.assertEqual(self.reader(self.phone).ask(b"STAT")[:4], b"-ERR")
        together.ask(b"QUIT")
        self.assertEqual(self.reader(self.phone).ask(b"STAT")[:3], b"+OK")


class LoginThatEnded(DeviceCase):
    """What QUIT may do is judged when it is said, in either mode."""

    def test_password_revoked_in_account_mode(self) -> None:
        """A stolen phone whose password was revoked while it was logged in deletes nothing."""
        self.set_mode(by_device=False)
        self.put("one")
        phone = self.reader(self.phone)
        phone.ask(b"DELE 1")
        self.mail.store.now(credentials.revoke_app_password, KEY, "phone")
        self.assertEqual((phone.ask(b"QUIT"), len(self.mail.mail_of())), (ENDED, 1))

    def test_disabled(self) -> None:
        """Nor does an account that was disabled meanwhile."""
        self.put("one")
        client = self.reader(PASSWORD)
        client.ask(b"DELE 1")
        self.mail.store.now(set_disabled, KEY, True)
        self.assertEqual((client.ask(b"QUIT"), len(self.mail.mail_of())), (ENDED, 1))


class GoneMeanwhile(MailCase):
    """A message leaves the maildrop while a session has it in its list."""

    def test_read_from_the_deleted(self) -> None:
        """It can still be fetched, and a DELE of it at QUIT is no error."""
        host = self.host()
        host.put_message(b"A: b\r\n\r\n" + b"x" * 70_000 + b"\r\n", piece=30_000)
        client = host.reader()
        connection = host.store.connection
        connection.execute(
            "INSERT INTO deleted_item SELECT account_id, uid, message_id, size, uidl, prefix, arrived, 5, 'expired', ''"
            " FROM mailbox_item"
        )
        connection.execute("DELETE FROM mailbox_item")
        self.assertEqual(len(client.ask(b"RETR 1")), len(b"+OK 70010 octets\r\n") + 70_010 + len(b".\r\n"))
        client.ask(b"DELE 1")
        self.assertEqual(client.ask(b"QUIT"), b"+OK bye\r\n")


class ExpiryTests(MailCase):
    """CAPA tells for how long mail is kept."""

    def capa(self, client: Client) -> bytes:
        return next(line for line in client.ask(b"CAPA").split(b"\r\n") if line.startswith(b"EXPIRE"))

    def test_before_and_after_login(self) -> None:
        """Before login the shortest with USER, then the account's own.
        Rule: POP3: EXPIRE, with USER where it differs
        """
        host = self.host()
        host.maildrops.keeping = Keeping(expire=30)
        client = host.secured_pop3()
        self.assertEqual(self.capa(client), b"EXPIRE 30")
        host.store.connection.execute("UPDATE account SET expire_days = 9 WHERE key = ?", (KEY,))
        host.maildrops.learn_expiry(host.store.now(own_expiry))
        self.assertEqual(self.capa(client), b"EXPIRE 9 USER")
        self.assertEqual(self.capa(host.reader(ALICE)), b"EXPIRE 9")
        self.assertEqual(self.capa(host.reader(BOB)), b"EXPIRE 30")


class LoginsNoted(MailCase):
    """A login rarely writes."""

    def test_once_an_hour(self) -> None:
        """The first login of an hour is noted, without the client waiting for it; the others write nothing."""
        host = self.host()
        host.reader().ask(b"QUIT")
        host.store.calls.clear()
        host.reader().ask(b"QUIT")
        self.assertNotIn("note_login", host.store.calls)
        host.reactor.advance(3601)
        host.reader().ask(b"QUIT")
        self.assertIn("note_login", host.store.calls)
