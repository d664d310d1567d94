"""SIGKILL at random moments between DELE, QUIT and its answer, fifty times, in both modes of deleting.

Two services side by side, one whose account deletes for all and one whose account deletes by device, are killed while
clients log in, delete and quit (some lose their connection instead), and are started again.  After each start:

- what a QUIT deleted that was answered with +OK stays deleted: for all, or for that device;
- a QUIT whose answer was lost has deleted all of its messages or none of them;
- a DELE without QUIT has deleted nothing;
- what one device has deleted is there for the other; what all have deleted has left the maildrop;
- nothing is lost: what is not in the maildrop can be brought back;
- the counters are the sums of what they count, and the database is sound.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mailsvc.accounts.app_passwords import digest
from mailsvc.mail.address import parse_address
from mailsvc.storage import credentials, devices, mailboxes
from mailsvc.storage.accounts import account
from mailsvc.storage.opening import offline
from tests.peer import Peer, pop3_session
from tests.running import RunningService
from tests.storage_cases import deliver

KILLS = 50
USER = "someone@example.org"
KEY = parse_address(USER).key
MESSAGES = 40
"""So many are in the maildrop when a round begins."""
LONGEST_LIFE = 0.3
"""Seconds to the latest kill, from when enough was going on."""
LIMIT = 180.0
"""Seconds until what must happen soon has happened; a passing test does not take them."""
PASSWORDS = ("aaaa bbbb cccc dddd eeee ffff", "gggg hhhh iiii jjjj kkkk llll")


class Device:
    """One client and what it knows; UIDLs of what it has deleted, and of a QUIT without an answer."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.deleted: set[str] = set()
        self.asked: set[str] = set()
        self.quits = 0
        self.random = random.Random()


class Lane:
    """One service that is killed again and again; `by_device` with two devices, else with one."""

    def __init__(self, folder: Path, *, by_device: bool) -> None:
        self.service = RunningService(folder)
        self.service.add_users(USER)
        self.by_device = by_device
        self.devices = [Device(password) for password in PASSWORDS[: 2 if by_device else 1]]
        self.delivered = 0
        self.random = random.Random()
        with offline(str(self.service.database), create=False) as txn:
            row = account(txn, KEY)
            assert row is not None
            self.account_id = row.id
            for number, password in enumerate(PASSWORDS):
                credentials.add_app_password(txn, KEY, f"device {number}", "", digest(password.encode()), "", 1.0)
            devices.set_deletes(txn, KEY, by_device=by_device)

    def run(self, kills: int) -> None:
        """Kill the service so many times, and look after each start; AssertionError when a promise was broken."""
        self.refill()
        with self.service:
            for device in self.devices:
                self.seen(device)  # from now on each is known
            for number in range(kills):
                self.round(1 + number % 3)
                self.service.start()
                self.look()
                self.refill()
            assert self.service.alarms() == [], self.service.alarms()

    def refill(self) -> None:
        """Deliver until there are enough messages again."""
        with offline(str(self.service.database), create=False) as txn:
            for _ in range(MESSAGES - len(mailboxes.snapshot(txn, self.account_id))):
                deliver(txn, b"x" * 100, self.account_id)
                self.delivered += 1

    def round(self, quits: int) -> None:
        """Have all devices delete until the service is killed, at a random moment after so many were answered.

        They are counted, because what a slow machine does in some tenths of a second may be nothing.
        """
        wanted = self.quits() + quits
        busy = threading.Event()
        with ThreadPoolExecutor(len(self.devices)) as threads:
            clients = [threads.submit(self.delete_until_killed, device, wanted, busy) for device in self.devices]
            enough = busy.wait(LIMIT)
            # Any moment will do, so this is no wait for something to have happened.
            threading.Event().wait(self.random.uniform(0.0, LONGEST_LIFE))
            self.service.kill()
            for client in clients:
                client.result()
        assert enough, "the service answered no QUIT"

    def quits(self) -> int:
        """How many were answered, to all devices."""
        return sum(device.quits for device in self.devices)

    def delete_until_killed(self, device: Device, wanted: int, busy: threading.Event) -> None:
        """Session after session that deletes some messages, and then quits or just goes."""
        try:
            while True:
                with self.session(device) as peer:
                    uidls = self.uidls(peer)
                    chosen = device.random.sample(sorted(uidls), min(len(uidls), device.random.randint(1, 3)))
                    for uidl in chosen:
                        assert peer.pop3(b"DELE %d" % uidls[uidl]).startswith(b"+OK")
                    if device.random.random() < 0.25:
                        continue  # a lost connection: nothing is deleted
                    device.asked = set(chosen)
                    assert peer.pop3(b"QUIT").startswith(b"+OK")
                    device.deleted |= device.asked
                    device.asked = set()
                    device.quits += 1
                    if self.quits() >= wanted:
                        busy.set()
        except OSError:
            busy.set()

    def session(self, device: Device) -> Peer:
        """A session over TLS; a lock that the last session is still giving back is waited for."""
        port = self.service.ports["pop3s"]
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            try:
                return pop3_session(port, self.service.ca, USER, device.password, tls=True)
            except AssertionError as refused:
                assert "IN-USE" in str(refused), refused
        raise AssertionError("the lock of a session that is over was not given back")

    def uidls(self, peer: Peer) -> dict[str, int]:
        """The numbers of the messages that it is shown, by their UIDLs."""
        assert peer.pop3(b"UIDL").startswith(b"+OK")
        lines = (line.split() for line in peer.dotted().splitlines())
        return {uidl.decode(): int(number) for number, uidl in lines}

    def seen(self, device: Device) -> set[str]:
        """The UIDLs that a device is shown."""
        with self.session(device) as peer:
            uidls = set(self.uidls(peer))
            assert peer.pop3(b"QUIT").startswith(b"+OK")
        return uidls

    def look(self) -> None:
        """After a start: compare what is there with what the devices know."""
        for device in self.devices:
            there = self.seen(device)
            assert not there & device.deleted, f"deleted messages came back: {there & device.deleted}"
            left = there & device.asked
            assert left in (set(), device.asked), "a QUIT deleted some of its messages and not others"
            device.deleted |= device.asked - left
            device.asked = set()
        gone = set.intersection(*(device.deleted for device in self.devices))
        with closing(sqlite3.connect(f"file:{self.service.database}?mode=ro", uri=True)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
            there = {uidl for (uidl,) in connection.execute("SELECT uidl FROM mailbox_item")}
            bin_ = {uidl for (uidl,) in connection.execute("SELECT uidl FROM deleted_item")}
            sums = connection.execute(
                "SELECT used_octets - (SELECT COALESCE(SUM(size), 0) FROM mailbox_item),"
                " deleted_octets - (SELECT COALESCE(SUM(size), 0) FROM deleted_item) FROM account"
            ).fetchall()
        assert bin_ == gone, f"left the maildrop, not deleted by all: {bin_ - gone}; the other way: {gone - bin_}"
        assert not there & bin_ and len(there) + len(bin_) == self.delivered, "messages are lost, or there twice"
        assert sums == [(0, 0)], sums


class KilledWhileDeleting(SynchronousTestCase):
    def test_fifty_kills_leave_a_consistent_maildrop(self) -> None:
        """DELE, QUIT, SIGKILL between the commit and its answer: all of a session's deletes hold, or none."""
        folder = Path(tempfile.mkdtemp(prefix="mailsvc-killed-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        lanes = [Lane(folder / str(by_device), by_device=by_device) for by_device in (False, True)]
        with ThreadPoolExecutor(len(lanes)) as threads:
            running = [threads.submit(lane.run, KILLS // len(lanes)) for lane in lanes]
            for future in running:
                future.result()
        # The test would be worth nothing if the kills had come when nothing was going on.
        self.assertGreater(sum(lane.quits() for lane in lanes), KILLS)
