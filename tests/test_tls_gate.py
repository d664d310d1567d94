"""The gate: what goes live of what was found, and what stays as it is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.build import Issued, server_certificate
from mailsvc.certkit.files import Source, current_reader
from mailsvc.certkit.keys import encode_key, new_key
from mailsvc.errors import StartRefused
from mailsvc.storage.certificates import CertificateRow
from mailsvc.tls.gate import Candidate, Decision, Found, Judged, decide, judge
from mailsvc.tls.sealing import SealingKey, seal
from mailsvc.tls.sources import FolderSource, RowSource, load_table
from mailsvc.tls.table import CredentialTable, make_table
from tests.pki import HOSTNAME, authority, chain_pem, make_certs

NOW = datetime.now(UTC)
FILES, ROWS = "certs", "the database"
KEY = SealingKey(bytes(32))


def issued(*names: str, days: int = 90, start: datetime = NOW) -> Issued:
    """A new certificate with a new key, each time."""
    return server_certificate(authority(), names, start, lifetime=timedelta(days=days))


def candidate(name: str, made: Issued, origin: str = FILES, *, key: bytes | None = None) -> Candidate:
    """What a source would bring."""
    place = Path(origin) / name
    return Candidate(
        name,
        Source(place / "fullchain.pem", chain_pem(made)),
        Source(place / "privkey.pem", encode_key(made.key) if key is None else key),
        origin,
    )


def judged(name: str, made: Issued, origin: str = FILES, *, key: bytes | None = None) -> Judged:
    """The same, judged now."""
    return judge(candidate(name, made, origin, key=key), NOW, current_reader())


def table(*good: Judged) -> CredentialTable:
    """A table of these, for `HOSTNAME`."""
    return make_table([each.credential for each in good if each.credential is not None], HOSTNAME)


def row(name: str, made: Issued, key: SealingKey = KEY) -> CertificateRow:
    """The same as a row."""
    return CertificateRow(name, chain_pem(made), seal(key, name, encode_key(made.key)), key.name)


class JudgeTests(SynchronousTestCase):
    """One candidate by itself."""

    def test_a_key_of_another_renewal(self) -> None:
        """Half of a renewal is no credential."""
        found = judged("a", issued("a"), key=encode_key(new_key()))
        self.assertIsNone(found.credential)
        self.assertIn("does not fit the certificate", found.errors[0])

    def test_a_row_is_renewed_by_import(self) -> None:
        """The cure for an old row names no folder."""
        old = issued("a", days=5, start=NOW - timedelta(days=9))
        found = judge(replace(candidate("a", old), renewal="renew it with X"), NOW, current_reader())
        self.assertTrue(found.errors[0].endswith("; renew it with X"), found.errors)
        self.assertNotIn("move the folder", found.errors[0])

    def test_a_file_with_a_thousand_mistakes(self) -> None:
        """What is told of it fits into a mail."""
        made = issued("a")
        source = replace(candidate("a", made), chain=Source(Path("a"), chain_pem(made) * 200))
        found = judge(source, NOW, current_reader())
        self.assertEqual(len(found.errors), 21)
        self.assertTrue(found.errors[-1].endswith(" more"))


class DecideTests(SynchronousTestCase):
    """What goes live."""

    def setUp(self) -> None:
        self.made = {name: issued(name) for name in (HOSTNAME, "b.example.org")}
        self.mail, self.other = (judged(name, made) for name, made in self.made.items())
        self.live = table(self.mail, self.other)

    def decide(self, *found: Judged, **more: dict[str, list[str]]) -> Decision:
        return decide(found, more.get("broken", {}), self.live, HOSTNAME)

    def test_nothing_new_is_the_same_table(self) -> None:
        """The same object: nothing is swapped, and sessions can still be resumed."""
        same = [judged(name, made) for name, made in self.made.items()]
        decision = self.decide(*same)
        self.assertIs(decision.table, self.live)
        self.assertEqual(decision.refusals, ())

    def test_a_good_one_replaces_its_name_only(self) -> None:
        """The credential of the other name is the very one of before."""
        new = judged(HOSTNAME, issued(HOSTNAME))
        decision = self.decide(new, self.other)
        self.assertEqual((decision.replaced, decision.added, decision.removed), ((HOSTNAME,), (), ()))
        self.assertIs(decision.table.default, new.credential)
        self.assertIs(decision.table.lookup("b.example.org"), self.other.credential)
        self.assertEqual(decision.fresh, (new.credential,))

    def test_a_bad_one_changes_nothing_and_holds_up_nobody(self) -> None:
        """The last good one stays, the reason is told, and another name's renewal goes through."""
        bad = judged(HOSTNAME, issued(HOSTNAME), key=b"")
        new = judged("b.example.org", issued("b.example.org"))
        decision = self.decide(bad, new)
        self.assertIs(decision.table.default, self.mail.credential)
        self.assertIs(decision.table.lookup("b.example.org"), new.credential)
        (refusal,) = decision.refusals
        self.assertIn("the last good one stays in use: certs/mail.example.org/privkey.pem: has no", str(refusal))

    def test_a_bad_one_of_a_new_name(self) -> None:
        """Nothing is in use for it, and that is said."""
        decision = self.decide(self.mail, self.other, judged("c", issued("c"), key=b""))
        self.assertIs(decision.table, self.live)
        self.assertIn("nothing is in use for it", str(decision.refusals[0]))

    def test_one_that_expired_while_it_was_live(self) -> None:
        """It stays, because less would be nothing; but it is told."""
        old = candidate(HOSTNAME, self.made[HOSTNAME])
        later = judge(old, NOW + timedelta(days=91), current_reader())
        decision = self.decide(later, self.other)
        self.assertIs(decision.table, self.live)
        self.assertIn("still in use, and should not be", str(decision.refusals[0]))

    def test_a_renewal_that_is_half_done(self) -> None:
        """The new key beside the old certificate: what is in use is good, and nothing else is said."""
        half = judged(HOSTNAME, self.made[HOSTNAME], key=encode_key(new_key()))
        self.assertIn("the last good one stays in use", str(self.decide(half, self.other).refusals[0]))

    def test_removed_and_added(self) -> None:
        """A folder that is gone is gone, and a new one is there."""
        new = judged("c.example.org", issued("c.example.org"))
        decision = self.decide(self.mail, new)
        self.assertEqual((decision.added, decision.removed), (("c.example.org",), ("b.example.org",)))

    def test_a_source_that_cannot_be_read_removes_nothing(self) -> None:
        """An unmounted folder, a locked database."""
        decision = self.decide(broken={FILES: ["cannot be read"]})
        self.assertIs(decision.table, self.live)
        self.assertIn("certs: they cannot be had, and the last ones stay", str(decision.refusals[0]))

    def test_the_host_name_stays_covered(self) -> None:
        """Neither a removal nor a certificate for other names takes the last one that covers it away."""
        removed = self.decide(self.other)
        self.assertIs(removed.table.lookup(HOSTNAME), self.mail.credential)
        self.assertIn("no other certificate covers the host name", str(removed.refusals[0]))
        renamed = self.decide(judged(HOSTNAME, issued("x.example.org")), self.other)
        self.assertIs(renamed.table.lookup(HOSTNAME), self.mail.credential)
        self.assertIn(
            "does not cover the host name mail.example.org (it covers: x.example.org)", str(renamed.refusals[0])
        )
        moved = self.decide(judged("elsewhere", issued(HOSTNAME, "y.example.org")), self.other)
        self.assertEqual(moved.table.default.name, "elsewhere")
        self.assertEqual(moved.refusals, ())

    def test_one_that_does_not_fit_what_is_published(self) -> None:
        """It is held back; the one that is live stays, whether it fits or not."""
        new = judged(HOSTNAME, issued(HOSTNAME))
        decision = decide([new, self.other], {}, self.live, HOSTNAME, {HOSTNAME: "the TLSA record says no"})
        self.assertIs(decision.table, self.live)
        self.assertIn("the TLSA record says no", str(decision.refusals[0]))
        kept = decide([self.mail, self.other], {}, self.live, HOSTNAME, {HOSTNAME: "the TLSA record says no"})
        self.assertEqual(kept.refusals, ())

    def test_the_earlier_source_counts(self) -> None:
        """Of a folder and a row with one name the folder counts, good or bad, and that the row is hidden is told."""
        by_row = judged(HOSTNAME, issued(HOSTNAME), ROWS)
        decision = self.decide(self.mail, by_row, self.other)
        self.assertIs(decision.table, self.live)
        self.assertIn("is not used: certs has a certificate of this name too", str(decision.warnings[0]))
        bad = self.decide(judged(HOSTNAME, issued(HOSTNAME), key=b""), by_row, self.other)
        self.assertIs(bad.table, self.live)
        gone = self.decide(by_row, self.other)
        self.assertIs(gone.table.default, by_row.credential)

    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["good", "bad", "other names"])), max_size=4))
    def test_whatever_comes_the_host_name_is_covered(self, found: list[tuple[str, str]]) -> None:
        """No sequence of good, bad, and missing certificates leaves it uncovered."""
        parts = {"good": _GOOD, "bad": _BAD, "other names": _OTHER}
        decision = decide([replace(parts[kind], name=name) for name, kind in found], {}, self.live, HOSTNAME)
        self.assertTrue(decision.table.lookup(HOSTNAME).names.cover(HOSTNAME))


_GOOD = judged("x", issued(HOSTNAME))
_BAD = judged("x", issued(HOSTNAME), key=b"")
_OTHER = judged("x", issued("other.example.org"))


class SourceTests(SynchronousTestCase):
    """Files and rows together, as at a start."""

    def setUp(self) -> None:
        self.certs = Path(self.mktemp())
        self.rows: list[CertificateRow] = []
        self.key: SealingKey | None = KEY
        self.folder = FolderSource(self.certs, lambda: None, hostname=HOSTNAME)
        self.database = RowSource(
            lambda: self.rows, lambda: tuple(each.revision for each in self.rows), lambda: self.key
        )

    def load(self) -> CredentialTable:
        return load_table([self.folder, self.database], HOSTNAME, NOW)

    def refusal(self) -> str:
        (problem,) = self.assertRaises(StartRefused, self.load).problems
        return str(problem)

    def test_both_at_once(self) -> None:
        """One table of both."""
        make_certs(self.certs)
        self.rows = [row("b.example.org", issued("b.example.org"))]
        loaded = self.load()
        self.assertEqual([each.origin for each in loaded.credentials], [str(self.certs), ROWS])
        self.assertEqual(loaded.lookup("b.example.org").name, "b.example.org")

    def test_rows_alone_need_no_folder(self) -> None:
        """A folder that does not exist is a mistake only when there is nothing else."""
        self.assertIn("does not exist; make it", self.refusal())
        self.rows = [row(HOSTNAME, issued(HOSTNAME))]
        self.assertEqual(self.load().default.origin, ROWS)

    def test_a_row_that_cannot_be_opened(self) -> None:
        """No key, another key, a seal of another row: each is said with its cure."""
        self.rows = [row(HOSTNAME, issued(HOSTNAME))]
        self.key = None
        self.assertIn("[certificates] key_file", self.refusal())
        self.key = SealingKey(bytes(31) + b"x")
        self.assertIn("was sealed with another key", self.refusal())
        self.key = KEY
        self.rows = [replace(self.rows[0], name="mail2.example.org")]
        self.assertIn("import the certificate again", self.refusal())

    def test_the_state_of_a_folder(self) -> None:
        """It is equal while nothing changes, and another after a file was replaced, also by a link of a link."""
        make_certs(self.certs)
        seen = {self.folder.state(), self.folder.state()}
        self.assertEqual(len(seen), 1)
        chain = self.certs / HOSTNAME / "fullchain.pem"
        data = chain.read_bytes()
        moved = self.certs.with_name(self.certs.name + "-archive")
        chain.rename(moved)
        chain.symlink_to(moved.absolute())
        seen.add(self.folder.state())
        moved.with_suffix(".new").write_bytes(data)
        moved.with_suffix(".new").rename(moved)
        seen.add(self.folder.state())
        (self.certs / HOSTNAME / "ocsp.der").write_bytes(b"")
        seen.add(self.folder.state())
        (self.certs / "new").mkdir()
        seen.add(self.folder.state())
        self.assertEqual(len(seen), 5)

    def test_a_third_source(self) -> None:
        """Anything with `origin`, `state` and `read` will do."""

        class Fixed:
            origin = "memory"

            def state(self) -> object:
                return None

            def read(self) -> Found:
                return Found((candidate(HOSTNAME, issued(HOSTNAME), "memory"),))

        self.assertEqual(load_table([self.folder, Fixed()], HOSTNAME, NOW).default.origin, "memory")
