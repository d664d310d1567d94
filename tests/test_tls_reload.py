"""New certificates without a restart: when is looked, what is swapped, and who is told how often."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailsvc.certkit.files import current_reader
from mailsvc.certkit.inspect import Finding
from mailsvc.errors import StorageFailure
from mailsvc.journal import Journal
from mailsvc.mail.event import CertificateNews
from mailsvc.storage.events import Entry
from mailsvc.tls.credential import Credential
from mailsvc.tls.gate import Candidate, Decision, Found, Refusal, judge
from mailsvc.tls.notices import Notices
from mailsvc.tls.published import Fit
from mailsvc.tls.reload import Pace, Reloader
from mailsvc.tls.server import ServerTLS
from mailsvc.tls.watching import FolderWatch
from tests.memory import MemoryStore
from tests.pki import HOSTNAME, make_certs
from tests.test_tls_gate import NOW, candidate, issued, judged, table


class FakeSource:
    """A source whose candidates are set by a test."""

    origin = "certs"

    def __init__(self, *candidates: Candidate) -> None:
        self.found = Found(candidates)
        self.version = 0
        self.reads = 0
        self.broken = False

    def put(self, *candidates: Candidate) -> None:
        self.found = Found(candidates)
        self.version += 1

    def state(self) -> object:
        return self.version

    def read(self) -> Found:
        self.reads += 1
        if self.broken:
            raise ZeroDivisionError
        return self.found


class Heard:
    """Remembers what was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def changed(self, why: str, decision: Decision) -> None:
        self.told.append(f"changed by {why}: {' '.join((*decision.replaced, *decision.added, *decision.removed))}")

    def found(self, refusal: Refusal) -> None:
        self.told.append(f"found: {refusal.name or refusal.origin}")

    def refused(self, refusal: Refusal) -> None:
        self.told.append(f"refused: {refusal.name or refusal.origin}")

    def mended(self, name: str, origin: str) -> None:
        self.told.append(f"mended: {name or origin}")

    def remarked(self, finding: Finding) -> None:
        self.told.append(f"remarked: {finding.subject}: {finding.text}")

    def expiring(self, credentials: Sequence[Credential]) -> None:
        pass

    def since(self) -> list[str]:
        told, self.told = self.told, []
        return told


class ReloaderCase(SynchronousTestCase):
    """A reloader with one source, a clock, and no threads."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW.timestamp())
        made = issued(HOSTNAME)
        self.tls = ServerTLS(table(judged(HOSTNAME, made)))
        self.source = FakeSource(candidate(HOSTNAME, made))
        self.heard = Heard()
        self.fit = Fit()
        self.held: list[Deferred[None]] | None = None
        self.reloader = Reloader(
            [self.source],
            self.tls,
            HOSTNAME,
            self.clock,
            self.in_thread,
            self.heard,
            fits=lambda credential: self.fit,
            pace=Pace(look=10, settle=0.5, again=5),
        )
        self.reloader.start()
        self.addCleanup(self.reloader.stop)

    def in_thread(self, work: Callable[[], Any]) -> Deferred[Any]:
        if self.held is None:
            return maybeDeferred(work)
        gate: Deferred[None] = Deferred()
        self.held.append(gate)
        return gate.addCallback(lambda _: work())

    def bad(self) -> Candidate:
        return candidate(HOSTNAME, issued(HOSTNAME), key=b"half a k")

    @property
    def serial(self) -> int:
        return self.tls.table.default.leaf.serial_number


class ReloaderTests(ReloaderCase):
    """When is looked, and what comes of it."""

    def test_nothing_new_reads_nothing_again(self) -> None:
        """A look that finds the same state costs no reading and swaps nothing."""
        before = self.tls.table
        reads = self.source.reads
        self.clock.pump([10.0] * 5)
        self.assertIs(self.tls.table, before)
        self.assertEqual((self.source.reads, self.heard.since()), (reads, []))

    def test_a_change_is_found_by_looking(self) -> None:
        """Without any hint, after as many seconds as are set."""
        before = self.serial
        self.source.put(candidate(HOSTNAME, issued(HOSTNAME)))
        self.clock.advance(10)
        self.assertNotEqual(self.serial, before)
        self.assertEqual(self.heard.since(), [f"changed by a change that was found: {HOSTNAME}"])
        self.assertEqual(self.reloader.outcomes["changed"], 1)

    def test_a_hint_settles_first(self) -> None:
        """Many touches are one look, and one who never stops writing is looked at too."""
        self.source.put(candidate(HOSTNAME, issued(HOSTNAME)))
        reads = self.source.reads
        for _ in range(6):
            self.reloader.touched()
            self.clock.advance(0.1)
        self.assertEqual(self.source.reads, reads + 1)
        self.assertEqual(self.heard.since(), [f"changed by a changed file: {HOSTNAME}"])

    def test_a_half_written_renewal_is_told_to_nobody(self) -> None:
        """A pair that does not fit is not used; when it fits five seconds later nobody has heard of it."""
        before = self.serial
        self.source.put(self.bad())
        self.clock.advance(10)
        self.assertEqual((self.serial, self.heard.since()), (before, []))
        self.source.put(candidate(HOSTNAME, issued(HOSTNAME)))
        self.clock.advance(5)
        self.assertEqual(self.heard.since(), [f"changed by a second look: {HOSTNAME}"])

    def test_a_bad_one_that_stays_is_told_once(self) -> None:
        """At the second look, and not at each one after; when it is mended that is told, and a new mistake again."""
        before = self.serial
        self.source.put(self.bad())
        self.clock.pump([10.0, 5.0, 10.0, 10.0])
        self.assertEqual((self.serial, self.heard.since()), (before, [f"refused: {HOSTNAME}"]))
        self.assertEqual([each.name for each in self.reloader.refusals], [HOSTNAME])
        self.source.put(candidate(HOSTNAME, issued(HOSTNAME)))
        self.clock.advance(10)
        self.assertEqual(self.heard.since(), [f"changed by a change that was found: {HOSTNAME}", f"mended: {HOSTNAME}"])
        self.assertEqual(self.reloader.refusals, ())
        self.source.put(self.bad())
        self.clock.pump([10.0, 5.0])
        self.assertEqual(self.heard.since(), [f"refused: {HOSTNAME}"])

    def test_sighup_is_answered_in_the_log_at_once(self) -> None:
        """Who asks sees it each time; it is told to everybody when a second look finds the same, and once."""
        self.source.put(self.bad())
        for _ in range(2):
            self.reloader.reload()
            self.assertEqual(self.heard.since(), [f"found: {HOSTNAME}"])
        self.clock.pump([5.0, 10.0, 5.0, 10.0])
        self.assertEqual(self.heard.since(), [f"refused: {HOSTNAME}"])
        self.reloader.reload()
        self.clock.pump([5.0, 10.0])
        self.assertEqual(self.heard.since(), [f"found: {HOSTNAME}"])

    def test_one_look_at_a_time(self) -> None:
        """A cause that comes while a look is under way makes one more look, which sees the newest."""
        self.held = []
        self.source.put(candidate(HOSTNAME, issued(HOSTNAME)))
        self.reloader.reload()
        self.reloader.reload()
        self.reloader.reload()
        self.assertEqual(len(self.held), 1)
        newest = candidate(HOSTNAME, issued(HOSTNAME))
        while self.held:
            self.held.pop().callback(None)
            if self.source.version == 1 and self.heard.told:
                self.source.put(newest)
        self.assertEqual(len(self.heard.since()), 2)
        self.assertEqual(self.tls.table.default.chain, judge(newest, NOW, current_reader()).chain)

    def test_what_is_published_holds_it_back(self) -> None:
        """Until it is published anew; what is live stays."""
        before = self.serial
        self.fit = Fit("the TLSA records do not match it")
        self.source.put(candidate(HOSTNAME, issued(HOSTNAME)))
        self.reloader.reload()
        self.assertEqual((self.serial, self.heard.since()), (before, [f"found: {HOSTNAME}"]))
        self.fit = Fit()
        self.reloader.reload()
        self.assertNotEqual(self.serial, before)

    def test_what_was_refused_may_become_good_by_itself(self) -> None:
        """A TLSA record that is published, a date that begins, a key file that is mended change no file of ours: what
        is refused is looked at once a minute, and taken.

        Rule: A refused certificate is looked at again
        """
        before = self.serial
        self.fit = Fit("the TLSA records do not match it")
        self.source.put(candidate(HOSTNAME, issued(HOSTNAME)))
        self.clock.pump([10.0, 5.0])
        self.assertEqual(self.heard.since(), [f"refused: {HOSTNAME}"])
        reads = self.source.reads
        self.clock.pump([10.0] * 12)
        self.assertEqual((self.serial, self.source.reads, self.heard.since()), (before, reads + 2, []))
        self.fit = Fit()
        self.clock.pump([10.0] * 6)
        self.assertNotEqual(self.serial, before)
        told = [f"changed by a change that was found: {HOSTNAME}", f"mended: {HOSTNAME}"]
        self.assertEqual(self.heard.since(), told)
        reads = self.source.reads
        self.clock.pump([10.0] * 12)
        self.assertEqual(self.source.reads, reads)

    def test_a_source_that_is_gone_all_at_once(self) -> None:
        """A folder that is suddenly not there is a disk that is not mounted: everything stays."""
        before = self.tls.table
        self.source.found = Found(nothing=Finding("error", "certs", "does not exist"))
        self.reloader.reload()
        self.assertIs(self.tls.table, before)
        self.assertEqual(self.heard.since(), ["found: certs"])

    def test_a_defect_ends_nothing(self) -> None:
        """A source that raises, which it must not, is logged; the next look works."""
        self.source.broken = True
        self.reloader.reload()
        self.source.put(candidate(HOSTNAME, issued(HOSTNAME)))
        self.reloader.reload()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.source.broken = False
        self.clock.advance(10)
        self.assertEqual((self.reloader.outcomes["failed"], self.reloader.outcomes["changed"]), (2, 1))

    def test_stopped_means_stopped(self) -> None:
        """No timer is left, and a look that is under way is waited for and swaps nothing."""
        self.held = []
        before = self.tls.table
        self.source.put(candidate(HOSTNAME, issued(HOSTNAME)))
        self.reloader.reload()
        stopped = self.reloader.stop()
        self.assertNoResult(stopped)
        while self.held:
            self.held.pop().callback(None)
        self.successResultOf(stopped)
        self.assertEqual((self.tls.table, self.clock.getDelayedCalls()), (before, []))
        self.reloader.touched()
        self.reloader.reload()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Mails:
    """A postmaster who counts."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str]] = []
        self.answer: Deferred[bool] | bool = True

    def tell(self, subject: str, text: str) -> Deferred[bool]:
        if self.answer is True:
            self.got.append((subject, text))
        return self.answer if isinstance(self.answer, Deferred) else succeed(self.answer)


class Noting(Journal):
    """A journal that keeps the events about certificates in a list."""

    def __init__(self, clock: Clock, noted: list[CertificateNews]) -> None:
        super().__init__(None, clock)
        self._noted = noted

    def note(self, entry: Entry, source: str = "") -> None:
        assert isinstance(entry.event, CertificateNews)
        self._noted.append(entry.event)


class NoticesTests(SynchronousTestCase):
    """A line, an event, and one mail."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW.timestamp())
        self.store = MemoryStore(self.clock)
        self.addCleanup(self.store.connection.close)
        self.mails = Mails()
        self.notices = self.fresh()

    def fresh(self) -> Notices:
        """As after a restart."""
        self.noted: list[CertificateNews] = []
        return Notices(Noting(self.clock, self.noted), self.store, self.mails, HOSTNAME, self.clock)

    def test_a_refusal_is_one_mail_for_its_cause(self) -> None:
        """Over a restart too; when it was mended in between it is told again."""
        refusal = Refusal(HOSTNAME, "certs", ("its key does not fit",), "the last good one stays in use")
        self.notices.refused(refusal)
        self.notices.refused(refusal)
        self.notices = self.fresh()
        self.notices.refused(refusal)
        self.assertEqual(len(self.mails.got), 1)
        self.assertIn("its key does not fit", self.mails.got[0][1])
        self.notices.refused(replace(refusal, reasons=("another",)))
        self.assertEqual(len(self.mails.got), 2)
        self.notices.mended(HOSTNAME, "certs")
        self.notices.refused(refusal)
        self.assertEqual(len(self.mails.got), 3)

    def test_nothing_in_it_can_begin_a_line(self) -> None:
        """The name of a folder is somebody's words: no line of the log or the mail begins with them."""
        evil = Refusal("a\r\nSubject: x", "certs\n", ("b\nc",), "no")
        self.notices.refused(evil)
        self.assertNotIn("\n\nSubject", self.mails.got[0][1])
        self.assertNotIn("\r", self.mails.got[0][1])
        self.assertNotIn("\n", self.noted[0].text + self.noted[0].name)

    def test_a_name_that_no_database_takes(self) -> None:
        """A folder whose name is no UTF-8 is told of like others, and holds up no other mail."""
        evil = Refusal("\udcff", "certs", ("b",), "no")
        self.notices.refused(evil)
        self.notices.refused(replace(evil, name="other"))
        self.notices.refused(evil)
        self.assertEqual(len(self.mails.got), 2)
        self.notices.mended("\udcff", "certs")
        self.notices.refused(evil)
        self.assertEqual(len(self.mails.got), 3)

    def test_expiry_is_told_once_for_each_of_the_days(self) -> None:
        """21, 7, 3, 1 and the end: five mails, whatever the number of looks, and one event each."""
        credential = judged(HOSTNAME, issued(HOSTNAME, days=30)).credential
        assert credential is not None
        for _ in range(31 * 4):
            self.notices.expiring([credential])
            self.clock.advance(6 * 3600)
        self.assertEqual(len(self.mails.got), 5)
        self.assertEqual([each.what for each in self.noted], ["expires"] * 5)
        self.assertIn("ends within 21 days", self.mails.got[0][1])
        self.assertIn("has ended", self.mails.got[4][0])

    def test_no_postmaster_yet(self) -> None:
        """It is tried again with the next look at the dates."""
        self.mails.answer = False
        self.notices.refused(Refusal(HOSTNAME, "certs", ("x",), "y"))
        self.mails.answer = True
        self.notices.expiring([])
        self.assertEqual(len(self.mails.got), 1)

    def test_a_database_that_cannot(self) -> None:
        """Neither the notices nor what they wait for is lost; it is told when the database works again."""
        self.store.failure = StorageFailure("the disk is full")
        self.notices.refused(Refusal(HOSTNAME, "certs", ("x",), "y"))
        self.assertEqual(self.mails.got, [])
        self.store.failure = None
        self.notices.expiring([])
        self.assertEqual(len(self.mails.got), 1)


class FolderWatchTests(TestCase):
    """What the kernel tells, with a real reactor."""

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.folder = Path(self.mktemp())
        make_certs(self.folder)
        self.told: Deferred[None] = Deferred()
        self.watch = FolderWatch(reactor, self.folder, self.changed)
        self.addCleanup(self.watch.stop)
        self.watch.look_again()

    def changed(self) -> None:
        told, self.told = self.told, Deferred()
        told.callback(None)

    def test_a_replaced_file_and_a_new_folder(self) -> Deferred[None]:
        """Both are told; so is what happens in a folder after it was removed and made again."""
        if not self.watch.works:
            self.assertRaises(ImportError, __import__, "twisted.internet.inotify")
            return succeed(None)

        async def changes() -> None:
            chain = self.folder / HOSTNAME / "fullchain.pem"
            told = self.told
            shutil.copy(chain, chain.with_suffix(".new"))
            chain.with_suffix(".new").rename(chain)
            await told
            self.watch.look_again()
            told = self.told
            shutil.rmtree(self.folder / HOSTNAME)
            await told
            (self.folder / HOSTNAME).mkdir()
            self.watch.look_again()
            told = self.told
            (self.folder / HOSTNAME / "privkey.pem").write_text("x")
            await told

        return Deferred.fromCoroutine(changes()).addTimeout(100, self.reactor)

    def test_without_inotify(self) -> None:
        """A reactor that cannot watch descriptors: silence, no error."""
        watch = FolderWatch(Clock(), self.folder, self.changed)
        watch.look_again()
        self.assertFalse(watch.works)
        watch.stop()
