"""TLS reports (RFC 8460): who asks for them, what is counted, what they say, and how they are handed over."""

from __future__ import annotations

import gzip
import json
from email import message_from_bytes
from email.policy import default
from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.errors import TemporaryFailure
from mailsvc.mail.address import parse_address
from mailsvc.mtasts.record import PolicyMode, StsPolicy
from mailsvc.relay.demands import StsFacts
from mailsvc.relay.telling import counted
from mailsvc.storage import outbound, tls_reports
from mailsvc.tls.dane import TLSARecord
from mailsvc.tls.recheck import Purpose
from mailsvc.tlsrpt import counting, sending
from mailsvc.tlsrpt.counting import SessionCounter
from mailsvc.tlsrpt.mail import mail_of
from mailsvc.tlsrpt.record import Places, places
from mailsvc.tlsrpt.report import DAY, Counted, Failure, Policy, Report
from mailsvc.tlsrpt.sending import Reporter
from tests.attempt_world import Way
from tests.bad_certificates import HOST, bad_certificates
from tests.fake_dns import NOBODY, FakeResolver
from tests.fake_mail import Script
from tests.memory import MemoryStore, storage_failure

DOMAIN, PLACE = "there.example", "_smtp._tls.there.example"
ONE = ("192.0.2.1", 25)
BAD = {each.title: Script(chain=each.chain, key=each.key) for each in bad_certificates(Purpose.SERVER)}
TODAY = 20_000
PLAIN = Policy("no-policy-found", DOMAIN).json()


class Records(SynchronousTestCase):
    def test_mailboxes_and_web_servers(self) -> None:
        """RFC 8460 section 3: a list of URIs; what is no record of ours does not count."""
        found = places(["v=spf1 -all", "v=TLSRPTv1; rua=mailto:tls@there.example,https://there.example/r?x=1"])
        self.assertEqual(found, Places((parse_address("tls@there.example"),), ("https://there.example/r?x=1",)))

    def test_two_records_are_none(self) -> None:
        """Section 3: then nobody knows what was meant."""
        self.assertEqual(places(["v=TLSRPTv1;rua=mailto:a@b.example"] * 2), Places())

    def test_only_few_and_only_sensible_places(self) -> None:
        """A record is a stranger's wish: no other port, no name or password, no address, no other scheme."""
        for uri in (
            "http://there.example/",
            "https://there.example:8443/",
            "https://user@there.example/",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://localhost/",
            "https://there.example/\x07",
            "ftp://there.example/",
            "mailto:",
            "mailto:no address",
            "mailto:a@b.example%0D%0ABcc:x@y.example",
            "javascript:alert(1)",
        ):
            self.assertEqual(places([f"v=TLSRPTv1; rua={uri}"]), Places(), uri)
        many = ",".join(f"mailto:a{number}@there.example" for number in range(10))
        self.assertEqual(len(places([f"v=TLSRPTv1; rua={many}"]).mailboxes), 3)

    @settings(deadline=None)
    @given(st.text(max_size=80))
    def test_no_record_breaks_it(self, text: str) -> None:
        """Whatever stands in DNS."""
        found = places([f"v=TLSRPTv1;{text}"])
        for url in found.urls:
            self.assertTrue(url.isascii() and url.isprintable())


class Reports(SynchronousTestCase):
    report = Report(DOMAIN, TODAY, "here.example", "postmaster@here.example", "abc")

    def values(self, *rows: Counted) -> Any:
        return json.loads(gzip.decompress(self.report.octets(rows)))

    def test_the_report_is_that_of_the_standard(self) -> None:
        """RFC 8460 section 4.4, field by field; sessions of one policy come together.

        Rule: TLS reports: the JSON of the standard
        """
        sts = Policy("sts", DOMAIN, ("version: STSv1", "mode: testing"), ("*.there.example",)).json()
        failure = Failure("certificate-expired", HOST, "192.0.2.1", "it ended yesterday").json()
        values = self.values(Counted(sts, "", 7), Counted(sts, failure, 2), Counted(PLAIN, "", 1))
        self.assertEqual(
            values,
            {
                "organization-name": "here.example",
                "date-range": {"start-datetime": "2024-10-04T00:00:00Z", "end-datetime": "2024-10-04T23:59:59Z"},
                "contact-info": "postmaster@here.example",
                "report-id": "abc@here.example",
                "policies": [
                    {
                        "policy": {
                            "policy-type": "sts",
                            "policy-string": ["version: STSv1", "mode: testing"],
                            "policy-domain": DOMAIN,
                            "mx-host": ["*.there.example"],
                        },
                        "summary": {"total-successful-session-count": 7, "total-failure-session-count": 2},
                        "failure-details": [
                            {
                                "result-type": "certificate-expired",
                                "receiving-mx-hostname": HOST,
                                "receiving-ip": "192.0.2.1",
                                "failure-reason-code": "it ended yesterday",
                                "failed-session-count": 2,
                            }
                        ],
                    },
                    {
                        "policy": {"policy-type": "no-policy-found", "policy-domain": DOMAIN},
                        "summary": {"total-successful-session-count": 1, "total-failure-session-count": 0},
                    },
                ],
            },
        )

    def test_the_mail_is_that_of_the_standard(self) -> None:
        """Section 5.3: multipart/report, the two header fields, the file's name; and it may go without TLS.

        Rule: TLS reports: by mail
        """
        octets = self.report.octets([Counted(PLAIN, "", 1)])
        header, body = mail_of(self.report, octets, parse_address("tls@there.example"), 1_800_000_000.0)
        mail = message_from_bytes(header + body, policy=default)
        self.assertEqual(mail.get_content_type(), "multipart/report")
        self.assertEqual(mail.get_param("report-type"), "tlsrpt")
        self.assertEqual((mail["TLS-Report-Domain"], mail["TLS-Report-Submitter"]), (DOMAIN, "here.example"))
        self.assertEqual(mail["TLS-Required"], "No")
        self.assertEqual(mail["Auto-Submitted"], "auto-generated")
        self.assertEqual(
            mail["Subject"], "Report Domain: there.example Submitter: here.example Report-ID: <abc@here.example>"
        )
        _, attached = mail.iter_parts()
        self.assertEqual(attached.get_content_type(), "application/tlsrpt+gzip")
        start = TODAY * DAY
        wanted = f"here.example!there.example!{start}!{start + DAY - 1}!abc.json.gz"
        self.assertEqual(attached.get_filename(), wanted)
        self.assertEqual(attached.get_content(), octets)
        self.assertTrue(all(len(line) <= 998 for line in (header + body).split(b"\r\n")))


class Telling(SynchronousTestCase):
    def told(self, script: Script | None, sts: PolicyMode | None = None, **more: Any) -> list[tuple[str, str]]:
        """(policy type, failure type) of each session that one attempt counts."""
        signed = more.pop("signed", ())
        resolver = FakeResolver({DOMAIN: [(10, HOST)]}, {HOST: ["192.0.2.1"]}, signed=signed, **more)
        way = Way({} if script is None else {ONE: script}, resolver)
        self.addCleanup(way.end)
        if sts is not None:
            way.sts[DOMAIN] = StsFacts(DOMAIN, "1", StsPolicy(sts, self.mx, 86400))
        if self.facts is not None:
            way.sts[DOMAIN] = self.facts
        way.send(f"joe@{DOMAIN}", columns=self.columns)
        rows = [each for tried in way.heard if (each := counted(tried)) is not None]
        types = [json.loads(each.failure)["result-type"] if each.failure else "" for each in rows]
        return [(json.loads(each.policy)["policy-type"], kind) for each, kind in zip(rows, types, strict=True)]

    def setUp(self) -> None:
        self.mx: tuple[str, ...] = (HOST,)
        self.facts: StsFacts | None = None
        self.columns: dict[str, Any] = {}

    def test_without_a_policy_tls_is_counted_all_the_same(self) -> None:
        """Also that there is none; a certificate that nobody demanded is no failure."""
        self.assertEqual(self.told(Script()), [("no-policy-found", "")])
        self.assertEqual(self.told(BAD["expired"]), [("no-policy-found", "")])
        self.assertEqual(self.told(Script(starttls=False)), [("no-policy-found", "starttls-not-supported")])

    def test_a_host_that_is_not_reached_is_not_counted(self) -> None:
        """Nor one that sends us away before TLS."""
        self.assertEqual(self.told(None), [])
        self.assertEqual(self.told(Script(answers={"GREETING": b"421 busy\r\n"})), [])

    def test_what_a_sender_demands_is_not_the_domains_failure(self) -> None:
        """REQUIRETLS without anybody who vouches for the MX host."""
        self.columns = {"require_tls": 1}
        self.assertEqual(self.told(Script()), [])

    def test_testing_and_enforce_report_the_same_failures(self) -> None:
        """RFC 8461 section 5: testing delivers, and is told of.

        Rule: TLS reports: failures in testing mode
        """
        for mode in (PolicyMode.TESTING, PolicyMode.ENFORCE):
            self.assertEqual(self.told(Script(), mode), [("sts", "")])
            self.assertEqual(self.told(BAD["expired"], mode), [("sts", "certificate-expired")])
            self.assertEqual(self.told(BAD["another host"], mode), [("sts", "certificate-host-mismatch")])
            self.assertEqual(self.told(BAD["self-signed"], mode), [("sts", "certificate-not-trusted")])
            self.assertEqual(self.told(Script(starttls=False), mode), [("sts", "starttls-not-supported")])
            self.assertEqual(self.told(Script(tls="end"), mode)[-1][0], "sts")
        self.assertEqual(self.told(Script(), PolicyMode.NONE), [("no-policy-found", "")])

    def test_a_host_that_the_policy_does_not_name(self) -> None:
        """It is a failure, whatever its certificate says."""
        self.mx = ("other.example",)
        for mode in (PolicyMode.TESTING, PolicyMode.ENFORCE):
            self.assertEqual(self.told(Script(), mode), [("sts", "validation-failure")])

    def test_a_policy_that_could_not_be_fetched(self) -> None:
        """The record says there is one."""
        self.facts = StsFacts(DOMAIN, "1", None, "nobody answers")
        self.assertEqual(self.told(Script()), [("sts", "sts-policy-fetch-error")])

    def test_dane(self) -> None:
        """A record that does not fit, one that cannot be used, and one that nobody answers for."""
        names = (DOMAIN, HOST, place := f"_25._tcp.{HOST}")
        for records, kind in (
            ([TLSARecord(3, 1, 1, bytes(32))], "validation-failure"),
            ([TLSARecord(1, 1, 1, bytes(32))], "tlsa-invalid"),
            (NOBODY, "dnssec-invalid"),
        ):
            self.assertEqual(self.told(Script(), signed=names, records={place: records}), [("tlsa", kind)])


class Counts(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(TODAY * DAY + 3600)
        self.store = MemoryStore(self.clock)
        self.addCleanup(self.store.connection.close)
        self.counter = SessionCounter(self.store, self.clock, 0.5)

    def rows(self) -> list[Counted]:
        return self.store.now(tls_reports.counted, DOMAIN, TODAY)

    def test_sessions_are_written_together(self) -> None:
        """Ten seconds after the first; and what was counted is added to what is there."""
        for _ in range(3):
            self.counter.add(DOMAIN, Counted(PLAIN, "", 1))
        self.assertEqual(self.rows(), [])
        self.clock.advance(counting.PAUSE)
        self.counter.add(DOMAIN, Counted(PLAIN, "", 1))
        self.successResultOf(self.counter.stop())
        self.assertEqual(self.rows(), [Counted(PLAIN, "", 4)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_session_belongs_to_its_day(self) -> None:
        """Also when it is written on the next one."""
        self.clock.advance(DAY - 3600 - 1)
        self.counter.add(DOMAIN, Counted(PLAIN, "", 1))
        self.clock.advance(counting.PAUSE)
        self.assertEqual(self.rows(), [Counted(PLAIN, "", 1)])

    def test_the_report_is_due_within_four_hours_of_the_days_end(self) -> None:
        """At a time of our own (RFC 8460 section 4.1)."""
        self.counter.add(DOMAIN, Counted(PLAIN, "", 1))
        self.clock.advance(counting.PAUSE)
        for now, wanted in ((DAY + 7199, 0), (DAY + 7200, 1)):
            found = self.store.now(tls_reports.due_reports, TODAY * DAY + now, lease=60.0, limit=10)
            self.assertEqual(len(found), wanted)

    def test_what_others_make_up_is_limited(self) -> None:
        """A host with a new fault for each session fills neither memory nor the table; the sum stays right."""
        for number in range(200):
            self.counter.add(DOMAIN, Counted(PLAIN, Failure("validation-failure", HOST, "", str(number)).json(), 1))
        self.clock.advance(counting.PAUSE)
        rows = self.rows()
        self.assertLessEqual(len(rows), tls_reports.MOST_DETAILS + 1)
        self.assertEqual(sum(each.sessions for each in rows), 200)

    def test_numbers_are_not_worth_an_error(self) -> None:
        """A database that cannot write loses them, and nothing else happens."""
        self.counter.add(DOMAIN, Counted(PLAIN, "", 1))
        self.store.failure = storage_failure()
        self.clock.advance(counting.PAUSE)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Sending(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance((TODAY + 1) * DAY)
        self.store = MemoryStore(self.clock)
        self.addCleanup(self.store.connection.close)
        self.resolver = FakeResolver(txt={PLACE: ["v=TLSRPTv1; rua=mailto:tls@reports.example"]})
        self.posted: list[tuple[str, bytes]] = []
        self.web: Exception | None = None
        self.woken = 0
        numbers = count(1)
        self.reporter = Reporter(
            self.store, self.clock, self.resolver, self.post, "here.example", lambda: f"ID{next(numbers)}", self.wake
        )
        self.store.now(tls_reports.count_sessions, TODAY, [(DOMAIN, Counted(PLAIN, "", 3))], 0.0)
        self.reporter.start()
        self.addCleanup(self.end)

    def end(self) -> None:
        self.successResultOf(self.reporter.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def post(self, url: str, octets: bytes) -> None:
        self.posted.append((url, octets))
        if self.web is not None:
            raise self.web

    def wake(self) -> None:
        self.woken += 1

    def left(self) -> int:
        found = self.store.connection.execute("SELECT COUNT(*) FROM tls_report").fetchone()
        return int(found[0])

    def queued(self) -> tuple[outbound.OutboundRow, ...]:
        now = self.clock.seconds()
        return self.store.now(outbound.claim, "me", now, seconds=1e6, rows=10, of_each=10, content=1 << 20).rows

    def test_who_asks_gets_a_mail(self) -> None:
        """Through our own queue, with the null sender, wanting no reports; and the counts are gone."""
        self.clock.advance(sending.LOOK)
        [row] = self.queued()
        self.assertEqual((row.recipient, row.reverse_path, row.notify), ("tls@reports.example", "", "NEVER"))
        self.assertTrue(row.message.tls_optional)
        self.assertIn(b"TLS-Report-Domain: there.example", row.message.content or b"")
        self.assertEqual((self.left(), self.woken), (0, 1))
        self.clock.advance(sending.LOOK)
        self.assertEqual(self.queued(), ())

    def test_who_does_not_ask_gets_nothing(self) -> None:
        """And the counts are gone."""
        self.resolver.txt.clear()
        self.clock.advance(sending.LOOK)
        self.assertEqual((self.queued(), self.left(), self.woken), ((), 0, 0))

    def test_a_resolver_that_does_not_answer_is_asked_again(self) -> None:
        """For a day."""
        self.resolver.txt[PLACE] = NOBODY
        for _ in range(12):
            self.clock.advance(sending.LOOK)
        self.assertEqual(self.left(), 1)
        for _ in range(30 * 12):
            self.clock.advance(sending.LOOK)
        self.assertEqual(self.left(), 0)

    def test_a_web_server_gets_it_posted(self) -> None:
        """Compressed; and when it cannot, it is asked again with the same id.

        Rule: TLS reports: over HTTPS
        """
        self.resolver.txt[PLACE] = ["v=TLSRPTv1; rua=https://there.example/tls"]
        self.web = TemporaryFailure("the server answers 500")
        self.clock.advance(sending.LOOK)
        self.assertEqual((len(self.posted), self.left()), (1, 1))
        self.web = None
        for _ in range(13):
            self.clock.advance(sending.LOOK)
        self.assertEqual((len(self.posted), self.left()), (2, 0))
        first, second = (json.loads(gzip.decompress(octets)) for _, octets in self.posted)
        self.assertEqual(first, second)
        self.assertEqual(self.queued(), ())

    def test_two_processes_do_not_send_it_twice(self) -> None:
        """Who works at a report has it for a while."""
        now = self.clock.seconds()
        self.assertEqual(len(self.store.now(tls_reports.due_reports, now, lease=60.0, limit=10)), 1)
        self.assertEqual(len(self.store.now(tls_reports.due_reports, now, lease=60.0, limit=10)), 0)

    def test_a_database_that_cannot_is_no_end(self) -> None:
        """The next look comes."""
        self.store.failure = storage_failure()
        self.clock.advance(sending.LOOK)
        self.store.failure = None
        self.clock.advance(sending.LOOK)
        self.assertEqual(len(self.queued()), 1)
