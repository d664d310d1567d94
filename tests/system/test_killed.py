"""SIGKILL at random moments under load, fifty times: promise B of the design.

Two services, each with a database of its own, are killed and started again side by side; every kill is of a real
process that was taking, handing out and deleting mail, or that was just starting.  After each start everything that
the maildrop holds is fetched and compared with what the clients know:

- a message that got its 250 is there, with the bytes that were sent;
- one whose reply was lost may be there or not, and is sent again, so that it may be there twice; nothing else is;
- one whose end was never sent is not there: no partial message is visible;
- messages whose deletion was answered with +OK do not come back; when that answer was lost, all or none are gone;
- the database is sound.

A SIGKILL loses nothing that the kernel has already: that COMMIT really waits for the disk is not tested here.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
import threading
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.load import load_message
from tests.peer import Peer, pop3_session, submission_session
from tests.running import RunningService, after_trace

KILLS = 50
LANES = 2
SENDERS = 3
SIZES = (300, 300, 4_000, 4_000, 40_000, 300_000, 1_500_000)
USER = "someone@example.org"
"""Who sends it all, and to whom."""
LONGEST_LIFE = 0.4
"""Seconds to the latest kill, from when enough was going on."""
LIMIT = 180.0
"""Seconds until enough is going on, at most; a passing test does not take them."""
LONGEST_START = 0.6
"""Seconds from the start of the process to the latest kill of one that is only starting."""


def mail(name: str) -> bytes:
    """The message called `name`; its size follows from its name."""
    return load_message(name, random.Random(name).choice(SIZES), USER)


@dataclass
class Ledger:
    """What the clients of one service know; used from several threads."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    names: count[int] = field(default_factory=count)
    again: deque[str] = field(default_factory=deque)
    accepted: Counter[str] = field(default_factory=Counter)
    reply_lost: Counter[str] = field(default_factory=Counter)
    never_ended: int = 0
    copies: dict[str, str] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    perhaps_deleted: set[str] = field(default_factory=set)

    def next_name(self) -> str:
        """What to send next: first what may have been lost."""
        with self.lock:
            return self.again.popleft() if self.again else f"m{next(self.names)}"


class Lane:
    """One service that is killed again and again, and its clients."""

    def __init__(self, folder: Path) -> None:
        self.service = RunningService(folder)
        [self.user] = self.service.add_users(USER)
        self.ledger = Ledger()
        self.random = random.Random()
        self.wanted = 0
        self.busy = threading.Event()

    def run(self, kills: int) -> Ledger:
        """Kill the service so many times, and look after each start; AssertionError when a promise was broken."""
        with self.service:
            for number in range(kills):
                if number % 5 == 4:
                    self.kill_while_starting()
                else:
                    self.load_until_killed(1 + number % 3)
                self.service.start()
                self.look(delete=number % 4 == 0)
            assert self.service.alarms() == [], self.service.alarms()
        return self.ledger

    def let_live(self, longest: float) -> None:
        """Wait for the random moment; any moment will do, so this is no wait for something to have happened."""
        threading.Event().wait(self.random.uniform(0.0, longest))

    def kill_while_starting(self) -> None:
        """End the service, start it anew, and kill it somewhere on its way."""
        self.service.kill()
        self.service.spawn()
        self.let_live(LONGEST_START)
        self.service.kill()

    # -- load -----------------------------------------------------------------------------------------------------

    def load_until_killed(self, messages: int) -> None:
        """Have clients send, fetch and delete, and kill the service at a random moment after so many were accepted.

        They are counted, because what a slow machine does in some tenths of a second may be nothing.
        """
        self.wanted = self.ledger.accepted.total() + messages
        self.busy.clear()
        with ThreadPoolExecutor(SENDERS + 1) as threads:
            clients = [threads.submit(self.send, number % 2 == 0) for number in range(SENDERS)]
            clients.append(threads.submit(self.fetch_and_delete))
            enough = self.busy.wait(LIMIT)
            self.let_live(LONGEST_LIFE)
            self.service.kill()
            for client in clients:
                client.result()
        assert enough, "the service took no mail"

    def send(self, tls: bool) -> None:
        """One session, message after message, until the connection is lost."""
        ledger, address = self.ledger, self.user.address
        port = self.service.ports["submissions" if tls else "submission"]
        try:
            with submission_session(port, self.service.ca, address, self.user.password, tls=tls) as peer:
                while True:
                    name = ledger.next_name()
                    if not self.send_one(peer, name):
                        return
        except OSError:
            return

    def send_one(self, peer: Peer, name: str) -> bool:
        """Send one message and note what became of it; False when the connection was lost."""
        ledger, address = self.ledger, self.user.address
        try:
            for command in (f"MAIL FROM:<{address}>", f"RCPT TO:<{address}>", "DATA"):
                said = peer.smtp(command.encode())
                assert said[:1] in b"23", said
            peer.send(mail(name))
        except OSError:
            with ledger.lock:
                ledger.never_ended += 1
                ledger.again.append(name)
            return False
        try:
            said = peer.smtp(b".")
        except OSError:
            with ledger.lock:
                ledger.reply_lost[name] += 1
                ledger.again.append(name)
            return False
        assert said.startswith(b"250 "), said
        with ledger.lock:
            ledger.accepted[name] += 1
            if ledger.accepted.total() >= self.wanted:
                self.busy.set()
        return True

    def fetch_and_delete(self) -> None:
        """Fetch and delete all, session after session, until the connection is lost."""
        try:
            while True:
                self.fetch(delete=True)
        except OSError:
            return

    # -- what is there --------------------------------------------------------------------------------------------

    def fetch(self, *, delete: bool) -> set[str]:
        """Fetch what is new, check every octet of it, delete all if told to; the UIDLs that there were."""
        ledger, user = self.ledger, self.user
        port = self.service.ports["pop3s"]
        with pop3_session(port, self.service.ca, user.address, user.password, tls=True) as peer:
            assert peer.pop3(b"LIST").startswith(b"+OK")
            sizes = [int(line.split()[1]) for line in peer.dotted().splitlines()]
            assert peer.pop3(b"UIDL").startswith(b"+OK")
            uidls = [line.split()[1].decode() for line in peer.dotted().splitlines()]
            assert len(uidls) == len(sizes)
            for number, (uidl, size) in enumerate(zip(uidls, sizes, strict=True), 1):
                if uidl not in ledger.copies:
                    assert peer.pop3(b"RETR %d" % number).startswith(b"+OK")
                    fetched = peer.dotted()
                    assert len(fetched) == size, f"{len(fetched)} octets, {size} in LIST"
                    ledger.copies[uidl] = _checked_name(after_trace(fetched))
            if delete:
                for number in range(1, len(uidls) + 1):
                    assert peer.pop3(b"DELE %d" % number).startswith(b"+OK")
                # From here on they may be gone.
                ledger.perhaps_deleted = set(uidls)
            assert peer.pop3(b"QUIT").startswith(b"+OK")
            if delete:
                ledger.deleted |= ledger.perhaps_deleted
                ledger.perhaps_deleted = set()
        return set(uidls)

    def look(self, *, delete: bool) -> None:
        """After a start: compare what is there with what the clients know."""
        ledger = self.ledger
        self.check_database()
        before, perhaps = set(ledger.copies) - ledger.deleted, ledger.perhaps_deleted
        there = self.fetch(delete=False)
        assert not there & ledger.deleted, f"deleted messages came back: {there & ledger.deleted}"
        assert not before - perhaps - there, f"messages that had been seen are gone: {before - perhaps - there}"
        assert there & perhaps in (set(), perhaps), "a QUIT deleted some of its messages and not others"
        ledger.deleted |= perhaps - there
        ledger.perhaps_deleted = set()
        stored = Counter(ledger.copies.values())
        for name in set(stored) | set(ledger.accepted):
            least = ledger.accepted[name]
            most = least + ledger.reply_lost[name]
            assert least <= stored[name] <= most, f"{name}: {stored[name]} copies, not {least} to {most}"
        if delete:
            self.fetch(delete=True)

    def check_database(self) -> None:
        """The file is sound, and nothing in it hangs in the air."""
        with closing(sqlite3.connect(f"file:{self.service.database}?mode=ro", uri=True)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
            orphans = (
                "SELECT count(*) FROM message WHERE id NOT IN (SELECT message_id FROM mailbox_item)"
                " AND id NOT IN (SELECT message_id FROM deleted_item)"
            )
            assert connection.execute(orphans).fetchone() == (0,)
            partial = (
                "SELECT count(*) FROM message WHERE size <>"
                " (SELECT sum(length(data)) FROM message_content WHERE message_id = message.id)"
            )
            assert connection.execute(partial).fetchone() == (0,)


def _checked_name(fetched: bytes) -> str:
    """The name of a message that is exactly what was sent under it."""
    name = fetched.partition(b"<")[2].partition(b"@")[0].decode()
    assert fetched == mail(name), f"message {name} has changed: {len(fetched)} octets, {len(mail(name))} were sent"
    return name


class Killed(SynchronousTestCase):
    def test_fifty_kills_lose_nothing_that_was_acknowledged(self) -> None:
        """No message with a 250 is lost, none is partial, none is twice unless its reply was lost."""
        folder = Path(tempfile.mkdtemp(prefix="mailsvc-killed-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        lanes = [Lane(folder / str(number)) for number in range(LANES)]
        with ThreadPoolExecutor(LANES) as threads:
            running = [threads.submit(lane.run, KILLS // LANES) for lane in lanes]
            ledgers = [future.result() for future in running]
        # The test would be worth nothing if the kills had come when nothing was going on.
        self.assertGreater(sum(ledger.accepted.total() for ledger in ledgers), KILLS)
        self.assertGreater(sum(ledger.never_ended + ledger.reply_lost.total() for ledger in ledgers), KILLS // 2)
