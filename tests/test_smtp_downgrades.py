"""A sender that had TLS before is put off when it comes without."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import ensureDeferred

from mailsvc.config import Configuration
from mailsvc.mail.channel import NO_CERTIFICATE, TLSFacts, Verified
from mailsvc.smtp.downgrades import SenderMemory, level_of, sender_domain
from mailsvc.smtp.seams import Client as Who
from mailsvc.storage import tls_policies
from mailsvc.tls.levels import Level
from mailsvc.tls.memory import Override
from tests.memory import ALICE, MX_OPTIONAL, PEER, Client, MailCase, MailHost, storage_failure

DAYS = 3 * 86400.0
MESSAGE = b"Subject: x\r\n\r\ntext\r\n.\r\n"


class Downgrades(MailCase):
    """The MX listener with `tls = optional`, and a memory of three days."""

    def remembering(self) -> MailHost:
        host = self.host()
        host.helpers = replace(host.helpers, memory=SenderMemory(host.store, host.reactor, DAYS))
        return host

    def send(self, client: Client, sender: bytes = b"bob@sender.example") -> bytes:
        """One message; the last reply."""
        answer = client.ask(b"MAIL FROM:<" + sender + b">")
        if answer.startswith(b"250"):
            client.ask(b"RCPT TO:<" + ALICE.encode() + b">")
            client.ask(b"DATA")
            client.send(MESSAGE)
            answer = client.take()
        return answer

    def plain(self, host: MailHost, **where: Any) -> Client:
        client = host.connect(host.smtp_factory(MX_OPTIONAL), **where)
        client.ask(b"EHLO client.sender.example")
        return client

    def test_less_than_before_is_put_off(self) -> None:
        """After a message inside TLS, one in clear from the same host and domain gets 451 4.7.5 and the reason.

        Rule: Downgrade memory: less than was shown is put off
        """
        host = self.remembering()
        self.assertEqual(self.send(self.plain(host))[:3], b"250")
        self.assertEqual(self.send(host.secured_smtp(MX_OPTIONAL))[:3], b"250")
        answer = self.send(self.plain(host))
        self.assertEqual(answer[:10], b"451 4.7.5 ")
        self.assertIn(b"not encrypted now, but it was encrypted", answer)
        self.assertLess(len(answer), 512)

    def test_tls_again_is_let_through(self) -> None:
        """The retry inside TLS is taken."""
        host = self.remembering()
        self.send(host.secured_smtp(MX_OPTIONAL))
        self.assertEqual(self.send(self.plain(host))[:3], b"451")
        self.assertEqual(self.send(host.secured_smtp(MX_OPTIONAL))[:3], b"250")

    def test_another_domain_another_host(self) -> None:
        """Nobody can teach the service something about the domain of somebody else.

        Rule: Downgrade memory: a stranger teaches nothing about others
        """
        host = self.remembering()
        self.send(host.secured_smtp(MX_OPTIONAL))
        self.assertEqual(self.send(self.plain(host), b"eve@other.example")[:3], b"250")
        elsewhere = self.plain(host, peer=replace_host(PEER, "198.51.100.9"))
        self.assertEqual(self.send(elsewhere)[:3], b"250")

    def test_forgotten_after_its_time(self) -> None:
        """Three days later plain text is taken again."""
        host = self.remembering()
        self.send(host.secured_smtp(MX_OPTIONAL))
        host.end()
        host.reactor.advance(DAYS)
        self.assertEqual(self.send(self.plain(host))[:3], b"250")

    def test_a_bounce_speaks_for_its_host(self) -> None:
        """The null sender's domain is the name in EHLO."""
        host = self.remembering()
        self.assertEqual(self.send(host.secured_smtp(MX_OPTIONAL), b"")[:3], b"250")
        client = host.connect(host.smtp_factory(MX_OPTIONAL))
        client.ask(b"EHLO client.example.net")
        self.assertEqual(self.send(client, b"")[:3], b"451")
        self.assertEqual(self.send(self.plain(host), b"")[:3], b"250")

    def test_a_message_that_was_not_taken_teaches_nothing(self) -> None:
        """Only after 250 something is remembered."""
        host = self.remembering()
        client = host.secured_smtp(MX_OPTIONAL)
        client.ask(b"MAIL FROM:<bob@sender.example>")
        client.ask(b"RCPT TO:<nobody@example.org>")
        self.assertEqual(self.send(self.plain(host))[:3], b"250")

    def test_the_database_is_in_trouble(self) -> None:
        """When nobody can know, the sender is put off like for any other trouble."""
        host = self.remembering()
        client = self.plain(host)
        host.store.failure = storage_failure()
        self.assertEqual(client.ask(b"MAIL FROM:<bob@sender.example>")[:3], b"451")
        host.store.failure = None

    def test_levels_of_clients(self) -> None:
        """Plain, encrypted, and a verified certificate: nothing else is known of a client."""
        facts = TLSFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256, None, None)
        verified = replace(facts, client=Verified("CN=a", "CN=b", ("a.example",), "00" * 32))
        seen = [level_of(Who(1, "smtp", "192.0.2.7", tls=each)) for each in (None, facts, verified)]
        self.assertEqual(seen, [Level.PLAIN, Level.ENCRYPTED, Level.CHAIN])
        self.assertIsNone(sender_domain(Who(1, "smtp", "192.0.2.7", helo="[192.0.2.7]"), None))

    def test_a_certificate_counts_at_once(self) -> None:
        """Also when the same host has just come without one, and was let through."""
        host = self.host()
        host.reactor.pass_time(60)
        memory = SenderMemory(host.store, host.reactor, DAYS)
        facts = TLSFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256, None, None, NO_CERTIFICATE)
        without = Who(1, "smtp", "192.0.2.7", helo="client.sender.example", tls=facts)
        shown = replace(without, tls=replace(facts, client=Verified("CN=a", "CN=b", ("a.example",), "00" * 32)))
        self.assertIsNone(self.successResultOf(ensureDeferred(memory.at_mail(without, None))))
        memory.accepted(without, None)
        memory.accepted(shown, None)
        refused = self.successResultOf(ensureDeferred(memory.at_mail(without, None)))
        assert refused is not None
        self.assertEqual((refused.code, refused.enhanced), (451, "4.7.5"))

    def test_what_is_not_asked_for_any_more(self) -> None:
        """When the postmaster stops asking for certificates, senders that had shown one are not put off for days;
        without TLS they are, and what he demands himself holds.

        Rule: Downgrade memory: less than was shown is put off
        """
        host = self.host()
        host.reactor.pass_time(60)
        memory = SenderMemory(host.store, host.reactor, DAYS)
        facts = TLSFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256, None, None)
        unasked = Who(1, "smtp", "192.0.2.7", helo="client.sender.example", tls=facts)
        shown = replace(unasked, tls=replace(facts, client=Verified("CN=a", "CN=b", ("a.example",), "00" * 32)))
        none = replace(unasked, tls=replace(facts, client=NO_CERTIFICATE))
        memory.accepted(shown, None)

        def codes() -> list[int | None]:
            answers = [
                self.successResultOf(ensureDeferred(memory.at_mail(each, None)))
                for each in (unasked, none, replace(unasked, tls=None))
            ]
            return [None if each is None else each.code for each in answers]

        self.assertEqual(codes(), [None, 451, 451])
        now = host.reactor.seconds()
        override = Override(Level.CHAIN, now, now + 3600)
        host.store.now(tls_policies.set_override, "in", "client.sender.example", override)
        host.reactor.pass_time(10)
        self.assertEqual(codes(), [451, 451, 451])

    def test_on_by_default(self) -> None:
        """Three days, for mail that comes in too."""
        self.assertEqual((Configuration().downgrade.memory_days, Configuration().downgrade.inbound), (3, True))


def replace_host(address: Any, host: str) -> Any:
    return type(address)(address.type, host, address.port)
