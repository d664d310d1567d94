"""TLSA records against a new certificate, and whom to believe about them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.rdataclass
import dns.rdatatype
import dns.resolver
import dns.rrset
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.tls import published
from mailsvc.tls.credential import Credential, make_credential
from mailsvc.tls.dane import TLSARecord
from mailsvc.tls.published import NotChecked, check, local_lookup
from tests.pki import HOSTNAME, authority, credential

NOW = datetime.now(UTC)


def of(*names: str) -> Credential:
    """A credential for these names."""
    made = credential(names)
    return make_credential(names[0], (made.certificate, authority().certificate), made.key)


def record(whose: Credential) -> TLSARecord:
    """The record 3 1 1 of it."""
    key = whose.leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return TLSARecord(3, 1, 1, hashlib.sha256(key).digest())


class CheckTests(SynchronousTestCase):
    """What is published against what is to go live."""

    def setUp(self) -> None:
        self.records: dict[str, list[TLSARecord]] = {}
        self.asked: list[str] = []

    def lookup(self, name: str) -> Sequence[TLSARecord]:
        self.asked.append(name)
        return self.records.get(name, [])

    def test_nothing_published(self) -> None:
        """Every name and port is asked for, wildcards are not names, and nothing is held back."""
        fit = check(of(HOSTNAME, "*.example.net"), HOSTNAME, self.lookup, NOW)
        self.assertEqual((fit.unfit, fit.remark, fit.matched), ("", "", ()))
        self.assertEqual(self.asked, [f"_{port}._tcp.{HOSTNAME}" for port in (25, 465, 587)])

    def test_the_host_name_behind_a_wildcard(self) -> None:
        """Senders look below the host name, whatever the certificate says."""
        check(of("*.example.org"), HOSTNAME, self.lookup, NOW)
        self.assertIn(f"_25._tcp.{HOSTNAME}", self.asked)

    def test_more_names_than_are_asked_for(self) -> None:
        """The host name is asked for wherever it stands, and what was left out is said."""
        fit = check(of(*(f"n{number}.example.org" for number in range(12)), HOSTNAME), HOSTNAME, self.lookup, NOW)
        self.assertIn(f"_25._tcp.{HOSTNAME}", self.asked)
        self.assertEqual(fit.remark, "what is published (TLSA) for 3 further names was not checked")

    def test_a_match(self) -> None:
        """One of several records is enough: that is how a key is changed."""
        mine = of(HOSTNAME)
        self.records[f"_25._tcp.{HOSTNAME}"] = [record(of("other.example.org")), record(mine)]
        fit = check(mine, HOSTNAME, self.lookup, NOW)
        self.assertEqual((fit.unfit, fit.matched), ("", (f"_25._tcp.{HOSTNAME}",)))

    def test_no_match(self) -> None:
        """It is held back, and the sentence has the record in it."""
        other = record(of("other.example.org"))
        self.records[f"_25._tcp.{HOSTNAME}"] = [other]
        fit = check(of(HOSTNAME), HOSTNAME, self.lookup, NOW)
        self.assertIn(f"at _25._tcp.{HOSTNAME} do not match it (3 1 1 {other.data.hex()})", fit.unfit)

    def test_records_that_mean_nothing(self) -> None:
        """PKIX usages do not count for SMTP (RFC 7672 section 3.1.3)."""
        self.records[f"_25._tcp.{HOSTNAME}"] = [TLSARecord(1, 1, 1, bytes(32))]
        self.assertEqual(check(of(HOSTNAME), HOSTNAME, self.lookup, NOW).unfit, "")

    def test_not_checked_is_said(self) -> None:
        """And holds nothing back."""

        def refuse(name: str) -> Sequence[TLSARecord]:
            raise NotChecked("no resolver here")

        fit = check(of(HOSTNAME), HOSTNAME, refuse, NOW)
        self.assertEqual(fit.unfit, "")
        self.assertIn("was not checked: no resolver here", fit.remark)


class LookupTests(SynchronousTestCase):
    """Only a resolver on this machine is believed, and only what it says is signed."""

    def why(self, resolv_conf: str) -> str:
        path = Path(self.mktemp())
        path.write_text(resolv_conf)
        return str(self.assertRaises(NotChecked, local_lookup(path), "_25._tcp.mail.example.org"))

    def test_another_machine(self) -> None:
        """One stranger among the resolvers is enough to believe none."""
        self.assertIn("the resolver 192.0.2.1 is not on this machine", self.why("nameserver 192.0.2.1\n"))
        self.assertIn("192.0.2.1", self.why("nameserver 127.0.0.1\nnameserver 192.0.2.1\n"))
        missing = local_lookup(Path(self.mktemp()))
        self.assertIn("names no resolver", str(self.assertRaises(NotChecked, missing, "x")))

    def answer(self, flags: int, *records: str) -> Sequence[TLSARecord]:
        """What is made of an answer with these flags."""
        query = dns.message.make_query("_25._tcp.mail.example.org.", dns.rdatatype.TLSA)
        response = dns.message.make_response(query)
        response.flags |= flags
        if records:
            response.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "TLSA", *records))

        class Fixed(dns.resolver.Resolver):
            def resolve(self, *given: object, **more: object) -> dns.resolver.Answer:
                return dns.resolver.Answer(
                    query.question[0].name,
                    dns.rdatatype.TLSA,
                    dns.rdataclass.IN,
                    dns.message.from_wire(response.to_wire()),  # type: ignore[arg-type]
                )

        return published._asked(Fixed(configure=False), "_25._tcp.mail.example.org")

    def test_signed(self) -> None:
        """The records as they are."""
        (found,) = self.answer(dns.flags.AD, "3 1 1 " + "ab" * 32)
        self.assertEqual(found, TLSARecord(3, 1, 1, b"\xab" * 32))
        self.assertEqual(self.answer(dns.flags.AD), [])

    def test_not_signed(self) -> None:
        """Without AD they are no records; nor are they "none"."""
        self.assertRaises(NotChecked, self.answer, 0, "3 1 1 " + "ab" * 32)

    def test_no_answer(self) -> None:
        """A resolver that fails says nothing."""

        class Failing(dns.resolver.Resolver):
            def resolve(self, *given: object, **more: object) -> dns.resolver.Answer:
                raise dns.exception.Timeout

        resolver = Failing(configure=False)
        self.assertIn("Timeout", str(self.assertRaises(NotChecked, published._asked, resolver, "x")))

    def test_no_such_name(self) -> None:
        """NXDOMAIN is an answer: nothing is published."""

        class Nothing(dns.resolver.Resolver):
            def resolve(self, *given: object, **more: object) -> dns.resolver.Answer:
                raise dns.resolver.NXDOMAIN

        self.assertEqual(published._asked(Nothing(configure=False), "x"), [])
