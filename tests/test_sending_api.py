"""`mailsvc.send` in whole conversations, in memory."""

from __future__ import annotations

from email.message import EmailMessage
from io import BytesIO, StringIO
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import mailsvc
from mailsvc.errors import MailsvcError
from mailsvc.mail.address import AddressError
from mailsvc.relay.url import RelayError
from mailsvc.sending.header import MessageError
from mailsvc.tls.levels import Level
from tests.fake_dns import NOBODY, FakeResolver
from tests.fake_mail import Network, Script

CLEAR = Script(starttls=False)
TEXT = b"From: alice@example.net\nTo: bob@example.org\nBcc: eve@example.org\nSubject: hi\n\nhello\n"


def sent(network: Network, message: Any = TEXT, to: Any = None, **more: Any) -> mailsvc.Sent:
    """What `mailsvc.send` gives on this network, by way of a relay that is an address unless it is said otherwise."""
    more.setdefault("via", "smtp://192.0.2.1")
    more.setdefault("hostname", "us.example.net")
    found: mailsvc.Sent = network.run(mailsvc.send(message, to, reactor=network, **more))
    return found


class Relays(SynchronousTestCase):
    def network(self, script: Script = CLEAR) -> Network:
        return Network({("192.0.2.1", 25): script})

    def test_taken(self) -> None:
        """The recipients of the header get it, Bcc included and gone; what was missing is there."""
        network = self.network()
        found = sent(network)
        self.assertEqual(found.delivered, ("bob@example.org", "eve@example.org"))
        found.check()
        [taken] = network.taken
        self.assertEqual(
            (taken.sender, taken.recipients), ("alice@example.net", ["bob@example.org", "eve@example.org"])
        )
        self.assertNotIn(b"Bcc", taken.content)
        self.assertIn(f"Message-ID: {found.message_id}\r\n".encode(), taken.content)
        self.assertIn(b"\r\nDate: ", taken.content)
        self.assertTrue(taken.content.endswith(b"\r\n\r\nhello\r\n"))

    def test_kinds_of_messages(self) -> None:
        """Octets, text, a file in binary mode, an `email` message; one in text mode is refused with a sentence."""
        made = EmailMessage()
        made["From"], made["To"], made["Subject"] = "alice@example.net", "bob@example.org", "Grüße"
        made.set_content("hällo\n")
        for message in (TEXT, TEXT.decode(), BytesIO(TEXT), made):
            network = self.network()
            self.assertIn("bob@example.org", sent(network, message).delivered)
            self.assertNotIn(b"\n", network.taken[0].content.replace(b"\r\n", b""))
        for wrong in (StringIO("x"), 7, b""):
            self.assertRaises(MessageError, sent, self.network(), wrong)

    def test_outcomes(self) -> None:
        """What a server says is no exception; `check` makes it one, with everybody in it."""
        answers = {"RCPT TO:<b@example.org>": b"450 4.2.0 later\r\n", "RCPT TO:<c@example.org>": b"550 5.1.1 no\r\n"}
        to = ["a@example.org", "b@example.org", "c@example.org"]
        found = sent(self.network(Script(starttls=False, answers=answers)), to=to)
        self.assertEqual((found.delivered, found.deferred, found.failed), (*[(each,) for each in to],))
        error = self.assertRaises(mailsvc.NotDelivered, found.check)
        self.assertIn("c@example.org: 192.0.2.1 answered RCPT TO with 550 5.1.1 no", str(error))
        self.assertFalse(error.temporary)
        self.assertTrue(self.assertRaises(mailsvc.NotDelivered, sent(Network()).check).temporary)

    def test_mistakes(self) -> None:
        """What cannot be tried is an exception with a sentence, and nobody is asked."""
        for kind, more in (
            (RelayError, {"via": "gopher://x"}),
            (AddressError, {"to": "nobody"}),
            (AddressError, {"sender": "nobody"}),
            (MessageError, {"to": []}),
            (MessageError, {"notify": ["sometimes"]}),
            (MessageError, {"ret": "all"}),
            (MailsvcError, {"login": ("me", "secret")}),
            (MessageError, {"limit": 20}),
        ):
            network = self.network()
            error = self.assertRaises(kind, sent, network, **more)
            self.assertNotIn("secret", str(error))
            self.assertEqual(network.asked, [])

    def test_envelope(self) -> None:
        """The null sender, DSN and the dialogue's listener."""
        network = self.network(Script(starttls=False, keywords=("DSN",)))
        heard: list[str] = []
        more = {"notify": ["success"], "ret": "hdrs", "envid": "x1"}
        sent(network, sender="", listener=lambda said: heard.append(said.text), **more)
        self.assertIn("MAIL FROM:<> RET=HDRS ENVID=x1", network.met[0].commands)
        self.assertIn("RCPT TO:<bob@example.org> NOTIFY=SUCCESS", network.met[0].commands)
        self.assertIn("MAIL FROM:<> RET=HDRS ENVID=x1", heard)

    def test_demanded(self) -> None:
        """A URL that demands TLS gives nothing to a server without it."""
        network = self.network()
        found = sent(network, via="tls://192.0.2.1")
        self.assertEqual(found.deferred, ("bob@example.org", "eve@example.org"))
        self.assertEqual(found.outcomes["bob@example.org"].required, Level.NAME)
        self.assertEqual(network.taken, [])


class ToHosts(SynchronousTestCase):
    """Directly to the MX hosts."""

    def setUp(self) -> None:
        self.resolver = FakeResolver(
            mx={"example.org": [(10, "mx1.example.org"), (20, "mx2.example.org")], "null.example": [(0, "")]},
            hosts={"mx1.example.org": ["192.0.2.1"], "mx2.example.org": ["192.0.2.2"]},
        )
        self.network = Network({("192.0.2.2", 25): Script()})

    def sent(self, to: Any, **more: Any) -> mailsvc.Sent:
        more.setdefault("private_networks", ["192.0.2.0/24"])
        return sent(self.network, TEXT, to, via=None, resolver=self.resolver, **more)

    def test_the_next_host(self) -> None:
        """Who cannot be reached is passed over; TLS is used although nobody demands it."""
        found = self.sent("bob@example.org").outcomes["bob@example.org"]
        self.assertEqual((found.host, found.level), ("mx2.example.org", Level.ENCRYPTED))
        self.assertEqual(self.network.asked, [("192.0.2.1", 25), ("192.0.2.2", 25)])

    def test_each_domain_has_its_fate(self) -> None:
        """One domain takes it, one takes no mail, of one nobody knows."""
        self.resolver.mx["away.example"] = NOBODY
        found = self.sent(["bob@example.org", "a@null.example", "b@away.example"])
        self.assertEqual(found.delivered, ("bob@example.org",))
        self.assertEqual((found.failed, found.deferred), (("a@null.example",), ("b@away.example",)))
        self.assertEqual(found.outcomes["a@null.example"].enhanced, "5.1.10")

    def test_policies_hold(self) -> None:
        """A URL without a host is a demand on MX hosts; REQUIRETLS needs somebody who vouches for the host."""
        found = sent(
            self.network,
            TEXT,
            "bob@example.org",
            via="tls://",
            resolver=self.resolver,
            private_networks=["192.0.2.0/24"],
        )
        self.assertEqual(found.deferred, ("bob@example.org",))
        found = self.sent("bob@example.org", require_tls=True)
        self.assertEqual(found.outcomes["bob@example.org"].enhanced, "5.7.30")
        self.assertEqual(self.network.taken, [])

    def test_mx_records_do_not_lead_inside(self) -> None:
        """Unless the caller names the network; what is no network is an error."""
        self.resolver.hosts["mx2.example.org"] = ["10.0.0.1"]
        outcome = self.sent("bob@example.org", private_networks=[]).outcomes["bob@example.org"]
        self.assertIn("mx2.example.org of example.org has no address but 10.0.0.1, which is in a private", outcome.text)
        self.assertEqual(self.network.asked, [])
        self.network.places["10.0.0.1", 25] = Script()
        self.assertEqual(self.sent("bob@example.org", private_networks=["10.0.0.0/8"]).delivered, ("bob@example.org",))
        self.assertRaises(MailsvcError, self.sent, "bob@example.org", private_networks=["10/8/8"])


class Names(SynchronousTestCase):
    def test_public(self) -> None:
        """What is public is what the stub says, and nothing else is made up."""
        self.assertIs(mailsvc.send, mailsvc.sending.api.send)  # type: ignore[attr-defined]
        self.assertRaises(AttributeError, lambda: mailsvc.nothing)  # type: ignore[attr-defined]
