"""The housekeeper: what goes without a session, when, and what it leaves alone."""

from __future__ import annotations

from mailsvc.mail.address import parse_address
from mailsvc.pop3.devices import Keeping
from mailsvc.pop3.housekeeping import AGES, ROUND, Housekeeper
from mailsvc.storage import devices
from tests.memory import ALICE, PASSWORD, MailCase, MemoryStore, storage_failure

DAY = 86_400.0
KEY = parse_address(ALICE).key


class Roomy(MemoryStore):
    """A store that is full until so much was purged."""

    full = 0

    def removing_helps(self) -> bool:
        self.full -= 1
        return self.full >= 0


class HousekeeperTests(MailCase):
    def setUp(self) -> None:
        super().setUp()
        self.mail = self.host()
        self.store = Roomy(self.mail.reactor)
        self.store.connection.close()
        self.store.connection = self.mail.store.connection

    def keeper(self, keeping: Keeping) -> Housekeeper:
        self.mail.maildrops.keeping = keeping
        keeper = Housekeeper(self.store, self.mail.reactor, self.mail.maildrops)
        keeper.start()
        return keeper

    def end(self, keeper: Housekeeper) -> None:
        self.successResultOf(keeper.stop())

    def put(self, count: int = 1) -> None:
        for _ in range(count):
            self.mail.put_message(b"A: b\r\n\r\n")

    def delete_all(self, password: str = PASSWORD) -> None:
        client = self.mail.reader(password=password)
        for number in range(1, int(client.ask(b"STAT").split()[1]) + 1):
            client.ask(b"DELE %d" % number)
        client.ask(b"QUIT")

    def held(self) -> tuple[int, int]:
        """How many items are in maildrops, and how many can come back."""
        return self.mail.count("mailbox_item"), self.mail.count("deleted_item")

    def test_deleted_mail_goes_for_good(self) -> None:
        """After so many days and not before, in slices with rests between them."""
        self.put(450)
        self.delete_all()
        keeper = self.keeper(Keeping(undelete=7))
        self.mail.reactor.pass_time(7 * DAY - ROUND)
        self.assertEqual(self.held(), (0, 450))
        self.store.calls.clear()
        self.mail.reactor.pass_time(3 * ROUND)
        self.assertEqual((self.held(), self.mail.count("message")), ((0, 0), 0))
        self.assertGreaterEqual(self.store.calls.count("purge"), 3)
        self.end(keeper)

    def test_old_mail(self) -> None:
        """Mail goes by its age, but not while a session has it; what went can come back."""
        self.put(2)
        keeper = self.keeper(Keeping(expire=30, undelete=7))
        session = self.mail.reader(patience=self.mail.patience)
        self.mail.reactor.pass_time(10)
        self.assertEqual(self.held(), (2, 0))
        self.mail.store.connection.execute("UPDATE mailbox_item SET arrived = ?", (-31 * DAY,))
        for _ in range(70):
            self.mail.reactor.pass_time(ROUND)
            session.ask(b"NOOP")
        self.assertEqual(self.held(), (2, 0))
        session.ask(b"QUIT")
        self.mail.reactor.pass_time(AGES + ROUND)
        self.assertEqual(self.held(), (0, 2))
        self.end(keeper)

    def test_nothing_can_come_back(self) -> None:
        """Where deleted mail cannot come back expired mail does not either, from the next round on."""
        self.put()
        self.mail.store.connection.execute("UPDATE mailbox_item SET arrived = ?", (-31 * DAY,))
        keeper = self.keeper(Keeping(expire=30, undelete=0))
        self.assertEqual(self.held(), (0, 1))
        self.mail.reactor.pass_time(ROUND + 1)
        self.assertEqual((self.held(), self.mail.count("message")), ((0, 0), 0))
        self.end(keeper)

    def test_devices_that_hold_nothing_back_any_more(self) -> None:
        """When a device is not in use any more, what it alone held back goes."""
        self.mail.store.now(devices.set_deletes, KEY, by_device=True)
        for label in ("phone", "laptop"):
            self.delete_all(self.mail.add_device(label))
        self.put()
        self.delete_all("phone")
        keeper = self.keeper(Keeping(device=30))
        self.mail.reactor.pass_time(29 * DAY)
        self.assertEqual(self.held()[0], 1)
        self.delete_all("phone")
        self.mail.reactor.pass_time(2 * DAY)
        self.assertEqual(self.held()[0], 0)
        self.end(keeper)

    def test_no_room(self) -> None:
        """When mail is put off for want of room, deleted mail goes early, and no more of it than helps."""
        self.put(450)
        self.delete_all()
        self.store.full = 1
        keeper = self.keeper(Keeping())
        self.mail.reactor.pass_time(1)
        self.assertEqual(self.held(), (0, 250))
        self.end(keeper)

    def test_trouble(self) -> None:
        """A database that cannot do it now is asked again in the next round; a defect is told, and does not end it."""
        self.put()
        self.delete_all()
        self.store.failure = storage_failure()
        keeper = self.keeper(Keeping(undelete=0))
        self.store.failure = ZeroDivisionError()
        self.mail.reactor.pass_time(ROUND + 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.store.failure = None
        self.mail.reactor.pass_time(ROUND + 1)
        self.assertEqual(self.held(), (0, 0))
        self.end(keeper)

    def test_stop_in_the_middle(self) -> None:
        """A stop waits for the slice that is being removed, and no other begins."""
        self.put(450)
        self.delete_all()
        self.mail.reactor.pass_time(1)
        keeper = self.keeper(Keeping(undelete=0))
        self.assertEqual(self.held(), (0, 250))
        self.store.held = True
        self.mail.reactor.pass_time(0.06)
        stopped = keeper.stop()
        self.assertNoResult(stopped)
        self.store.release()
        self.assertEqual(self.successResultOf(stopped), None)
        self.assertEqual(self.held(), (0, 50))
