"""The client in whole conversations, in memory: every recipient's fate is what the reply about it says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.errors import StorageFailure
from mailsvc.mail.address import parse_address
from mailsvc.mail.wishes import Wish
from mailsvc.relay.client import Conversation, How, Refused, Where, connect, server_policy
from mailsvc.relay.dialogue import BeginTLS, Hear, Say, Secured, Terms
from mailsvc.relay.opening import opening
from mailsvc.relay.outcome import Kind, Outcome, Phase
from mailsvc.relay.outgoing import Outgoing, Record
from mailsvc.relay.replies import PeerReply
from mailsvc.relay.stream import Stream
from mailsvc.relay.url import Tls, parse_relay
from mailsvc.tls.client import ClientTLS
from mailsvc.tls.levels import Level
from mailsvc.tls.observation import ServerIdentity
from mailsvc.tls.policy import ServerPolicy
from mailsvc.tls.sessions import SessionStore
from tests.bad_certificates import root, trusting
from tests.fake_mail import ALL, Network, Script, outgoing
from tests.memory import cut_at

HERE = ("192.0.2.1", 25)
CLEAR = Script(starttls=False)
EVERYTHING = Script(starttls=False, keywords=tuple(each for each in ALL if each != "CHUNKING"))
CHUNKS = Script(starttls=False, keywords=ALL)
LMTP = Script(starttls=False, keywords=("PIPELINING", "8BITMIME", "SMTPUTF8"), lmtp=True)

Fates = dict[str, Outcome]


def how(url: str = "smtp+tls://mail.example.org", **more: Any) -> How:
    relay = parse_relay(url)
    tls = None if relay.tls is Tls.NEVER else ClientTLS(server_policy(relay))
    return How(relay, "us.example.net", tls, **more)


PLAIN = how("smtp://mail.example.org")
WHERE = Where("mail.example.org", ("192.0.2.1",))


async def give(network: Network, *messages: Outgoing, manner: How = PLAIN, where: Where = WHERE) -> list[Fates]:
    """Deliver the messages in one conversation; the outcomes by recipient."""
    conversation = await connect(network, where, manner)
    found = [named(await conversation.deliver(each)) for each in messages]
    await conversation.quit()
    return found


def named(outcomes: Mapping[Any, Outcome]) -> Fates:
    return {str(address): outcome for address, outcome in outcomes.items()}


def fates(script: Script, message: Outgoing, **more: Any) -> tuple[Fates, Network]:
    """What becomes of one message."""
    network = Network({HERE: script})
    (found,) = network.run(give(network, message, **more))
    return found, network


def fate(script: Script, message: Outgoing | None = None, **more: Any) -> Outcome:
    found, network = fates(script, message or outgoing(), **more)
    assert network.getDelayedCalls() == [] and all(each.ended for each in network.met)
    return next(iter(found.values()))


class Recipients(SynchronousTestCase):
    def test_each_reply_decides_its_recipient(self) -> None:
        """With and without PIPELINING, with DATA and BDAT: accepted, deferred and refused side by side."""
        answers = {"RCPT TO:<b@example.org>": b"450 4.2.0 later\r\n", "RCPT TO:<c@example.org>": b"550 5.1.1 no\r\n"}
        message = outgoing("a@example.org", "b@example.org", "c@example.org", "d@example.org")
        for script in (CLEAR, EVERYTHING, CHUNKS):
            found, network = fates(replace(script, answers=answers), message)
            kinds = [(outcome.kind, outcome.code, outcome.enhanced, outcome.phase) for outcome in found.values()]
            taken = (Kind.DELIVERED, 250, "2.0.0", Phase.END)
            later, never = (Kind.DEFERRED, 450, "4.2.0", Phase.RCPT), (Kind.FAILED, 550, "5.1.1", Phase.RCPT)
            self.assertEqual(kinds, [taken, later, never, taken])
            self.assertEqual(network.taken[0].recipients, ["a@example.org", "d@example.org"])

    def test_mail_data_and_the_end(self) -> None:
        """A refusal of MAIL, DATA or the content is everybody's; 4xx waits, 5xx fails.

        Rule: Client: the reply about a recipient decides
        """
        for place, phase in (("MAIL", Phase.MAIL), ("DATA", Phase.DATA), ("END", Phase.END)):
            for text, kind in ((b"451 4.3.0 no\r\n", Kind.DEFERRED), (b"554 5.7.1 no\r\n", Kind.FAILED)):
                for script in (CLEAR, EVERYTHING):
                    answered = replace(script, answers={place: text})
                    found, network = fates(answered, outgoing("a@example.org", "b@example.org"))
                    for outcome in found.values():
                        self.assertEqual((outcome.kind, outcome.phase), (kind, phase), place)
                        self.assertFalse(outcome.duplicate_possible)
                    self.assertEqual(network.taken, [])

    def test_a_host_that_does_not_want_us(self) -> None:
        """5xx before there is any mail is about us, and waits; only 521 says that there never is mail (RFC 7504)."""
        for place in ("GREETING", "EHLO"):
            for code, kind in ((b"554 5.7.1 blocked\r\n", Kind.DEFERRED), (b"521 no mail here\r\n", Kind.FAILED)):
                network = Network({HERE: replace(CLEAR, answers={place: code})})
                with self.assertRaises(Refused) as caught:
                    network.run(connect(network, WHERE, PLAIN))
                outcome = caught.exception.outcome
                self.assertEqual((outcome.kind, outcome.elsewhere), (kind, True))
                self.assertEqual(outcome.enhanced[0], "4" if kind is Kind.DEFERRED else "5")

    def test_all_refused_and_354_all_the_same(self) -> None:
        """RFC 2920 section 3.1: an empty message ends what DATA began, and nobody gets it."""
        script = replace(EVERYTHING, answers={"RCPT": b"550 5.1.1 no\r\n", "DATA": b"354 go on\r\n"})
        found, network = fates(script, outgoing())
        self.assertEqual([each.code for each in found.values()], [550])
        self.assertEqual(network.taken, [])
        self.assertEqual(network.met[0].commands[-1], "QUIT")

    def test_too_many_recipients(self) -> None:
        """452 and 552 to some of RCPT: those follow in the next transaction, as long as it goes on.

        Rule: Client: too many recipients are sent in several transactions
        """
        for code in (b"452 4.5.3 enough\r\n", b"552 5.5.3 enough\r\n"):
            answers = {"RCPT": [b"250 ok\r\n", b"250 ok\r\n", code, code, b"250 ok\r\n", b"250 ok\r\n"]}
            message = outgoing("a@example.org", "b@example.org", "c@example.org", "d@example.org")
            for script in (CLEAR, EVERYTHING, CHUNKS):
                found, network = fates(replace(script, answers=answers), message)
                self.assertEqual({each.kind for each in found.values()}, {Kind.DELIVERED})
                self.assertEqual([len(each.recipients) for each in network.taken], [2, 2])
        found, _ = fates(replace(CLEAR, answers={"RCPT": b"452 4.5.3 enough\r\n"}), outgoing())
        self.assertEqual([each.kind for each in found.values()], [Kind.DEFERRED])

    def test_limits(self) -> None:
        """LIMITS: so many recipients and domains a transaction, so many transactions a session.

        Rule: Client: LIMITS of a server are kept
        """
        message = outgoing("a@example.org", "b@example.org", "c@example.net", "d@example.net", "e@example.net")
        found, network = fates(replace(CLEAR, keywords=("LIMITS RCPTMAX=2",)), message)
        self.assertEqual([len(each.recipients) for each in network.taken], [2, 2, 1])
        found, network = fates(replace(CLEAR, keywords=("LIMITS rcptdomainmax=1 RCPTMAX=x",)), message)
        self.assertEqual([len(each.recipients) for each in network.taken], [2, 3])
        found, network = fates(replace(CLEAR, keywords=("LIMITS MAILMAX=1 RCPTMAX=2",)), message)
        self.assertEqual([each.kind is Kind.DELIVERED for each in found.values()], [True, True, False, False, False])
        self.assertTrue(all(each.elsewhere for each in found.values() if each.kind is Kind.DEFERRED))

    def test_lmtp(self) -> None:
        """LMTP: one reply for each accepted recipient, over TCP and over a UNIX socket.

        Rule: Client: LMTP has a reply for each recipient
        """
        answers = {"END b@example.org": b"452 4.2.2 full\r\n", "RCPT TO:<c@example.org>": b"550 5.1.1 no\r\n"}
        message = outgoing("a@example.org", "b@example.org", "c@example.org", "d@example.org")
        script = replace(LMTP, answers=answers)
        for url, place, where in (
            ("lmtp://mail.example.org", ("192.0.2.1", 24), WHERE),
            ("lmtp:///run/lmtp.sock", "/run/lmtp.sock", Where("", path="/run/lmtp.sock")),
        ):
            network = Network({place: script})
            (found,) = network.run(give(network, message, manner=how(url), where=where))
            self.assertEqual([each.code for each in found.values()], [250, 452, 550, 250])
            self.assertEqual(network.taken[0].recipients, ["a@example.org", "d@example.org"])

    def test_lmtp_lost_between_replies(self) -> None:
        """Who has a reply is decided by it; for the others nobody knows."""
        script = replace(LMTP, answers={"END b@example.org": b""})
        network = Network({("192.0.2.1", 24): script})
        message = outgoing("a@example.org", "b@example.org", "c@example.org")
        (found,) = network.run(give(network, message, manner=how("lmtp://mail.example.org")))
        kinds = [(each.kind, each.duplicate_possible) for each in found.values()]
        self.assertEqual(kinds, [(Kind.DELIVERED, False), (Kind.DEFERRED, True), (Kind.DEFERRED, True)])

    def test_wishes(self) -> None:
        """DSN: RET, ENVID, NOTIFY and ORCPT go to a server that has it, and the outcome says that it reports.

        Rule: Client: DSN is handed on
        """
        joe = parse_address("joe@example.org")
        wishes = {joe: Wish(("SUCCESS", "DELAY"), "rfc822;j o+e@example.net")}
        message = outgoing("joe@example.org", wishes=wishes, dsn_return="HDRS", envelope_id="a+b=c")
        found, network = fates(EVERYTHING, message)
        commands = network.met[0].commands
        self.assertIn("MAIL FROM:<alice@example.net> SIZE=38 RET=HDRS ENVID=a+2Bb+3Dc", commands)
        self.assertIn("RCPT TO:<joe@example.org> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;j+20o+2Be@example.net", commands)
        self.assertTrue(found["joe@example.org"].dsn)
        found, network = fates(CLEAR, message)
        self.assertIn("RCPT TO:<joe@example.org>", network.met[0].commands)
        self.assertFalse(found["joe@example.org"].dsn)
        utf8 = replace(message, wishes={joe: Wish(None, "utf-8;jö+e@example.net")})
        _, network = fates(EVERYTHING, utf8)
        self.assertIn("RCPT TO:<joe@example.org> ORCPT=utf-8;j\\x{F6}\\x{2B}e@example.net", network.met[0].commands)

    def test_the_null_sender(self) -> None:
        """A bounce goes out from <>."""
        _, network = fates(CLEAR, outgoing(sender=""))
        self.assertIn("MAIL FROM:<> SIZE=38", network.met[0].commands)


class Connections(SynchronousTestCase):
    def test_lost_at_each_point(self) -> None:
        """Before the end of the content it is only put off; after it, a duplicate is possible and said so.

        Rule: Client: lost after the final dot may be a duplicate
        """
        for script in (CLEAR, EVERYTHING, CHUNKS):
            for place in ("MAIL", "RCPT", "DATA", "CONTENT", "END"):
                if place in ("DATA", "CONTENT") and script is CHUNKS:
                    continue
                content = b"x: y\r\n\r\n" + b"0123456789\r\n" * (60000 if place == "CONTENT" else 1)
                outcome = fate(replace(script, lost_after=place), outgoing(content=content))
                self.assertEqual((outcome.kind, outcome.code), (Kind.DEFERRED, 0), place)
                self.assertEqual(outcome.duplicate_possible, place == "END", f"{place} {outcome}")
                self.assertEqual(outcome.elsewhere, place != "END")
        early = replace(CHUNKS, keywords=("CHUNKING", "PIPELINING"), lost_after="CONTENT")
        outcome = fate(early, outgoing(content=b"x: y\r\n" * 600_000))
        self.assertEqual((outcome.kind, outcome.duplicate_possible), (Kind.DEFERRED, False))

    def test_a_host_that_does_not_want_us_in_clear(self) -> None:
        """Where TLS is demanded 521 in clear is the word of anybody on the way, and gives no mail up."""
        for place in ("GREETING", "EHLO"):
            network = Network({HERE: Script(answers={place: b"521 5.3.2 no mail here\r\n"})})
            with self.assertRaises(Refused) as caught:
                network.run(connect(network, WHERE, how("tls://mail.example.org")))
            outcome = caught.exception.outcome
            self.assertEqual((outcome.kind, outcome.enhanced), (Kind.DEFERRED, "4.3.2"))

    def test_a_login_that_is_missing(self) -> None:
        """530 and its like are about our login, whatever they answer; it can be mended, and the mail waits."""
        for place in ("MAIL", "RCPT", "DATA"):
            found, _ = fates(replace(CLEAR, answers={place: b"530 5.7.0 log in first\r\n"}), outgoing())
            outcome = found["joe@example.org"]
            self.assertEqual((outcome.kind, outcome.enhanced), (Kind.DEFERRED, "4.7.0"))

    def test_silence_at_each_point(self) -> None:
        """Each phase has its limit, and the outcome says which answer did not come.

        Rule: Client: timeouts for each phase
        """
        for place, words, seconds in (
            ("GREETING", "greeting", 300),
            ("EHLO", "EHLO", 300),
            ("MAIL", "MAIL FROM", 300),
            ("RCPT", "RCPT TO", 300),
            ("DATA", "DATA", 120),
            ("END", "the message", 600),
        ):
            for script in (CLEAR, EVERYTHING):
                network = Network({HERE: replace(script, answers={place: None})})
                try:
                    (found,) = network.run(give(network, outgoing()))
                    outcome = found["joe@example.org"]
                except Refused as refused:
                    outcome = refused.outcome
                self.assertIn(f"{words} within {seconds} seconds", outcome.text)
                self.assertEqual((outcome.kind, outcome.enhanced), (Kind.DEFERRED, "4.4.2"))
                self.assertEqual(outcome.duplicate_possible, place == "END")
                self.assertEqual(network.getDelayedCalls(), [])

    def test_421_at_each_point(self) -> None:
        """421 ends the session: what is not decided waits, what is stays decided."""
        for place in ("MAIL", "RCPT TO:<b@example.org>", "DATA", "END"):
            for script in (CLEAR, EVERYTHING):
                answered = replace(
                    script, answers={place: b"421 4.3.2 going\r\n", "RCPT TO:<a@example.org>": b"550 no\r\n"}
                )
                found, _ = fates(answered, outgoing("a@example.org", "b@example.org", "c@example.org"))
                codes = [each.code for each in found.values()]
                self.assertEqual(codes, [421 if place == "MAIL" else 550, 421, 421], place)
                self.assertEqual({each.kind for each in list(found.values())[1:]}, {Kind.DEFERRED})

    def test_a_server_that_does_not_read(self) -> None:
        """The content waits for room, and not for ever."""
        message = outgoing(content=b"x: y\r\n" * 100_000)
        network = Network({HERE: CLEAR})

        async def slow() -> Outcome:
            conversation = await connect(network, WHERE, PLAIN)
            wire = network.met[0].wire
            assert wire is not None
            wire.window = 1000
            return next(iter((await conversation.deliver(message)).values()))

        outcome = network.run(slow())
        self.assertEqual((outcome.kind, outcome.phase), (Kind.DEFERRED, Phase.CONTENT))
        self.assertIn("within 180 seconds", outcome.text)
        self.assertFalse(outcome.duplicate_possible)
        self.assertEqual(network.getDelayedCalls(), [])

    def test_replies_that_nobody_asked_for(self) -> None:
        """A reply before its command ends the session, wherever it comes; a yes before the end is no yes.

        Rule: Client: a reply before its command is an error
        """
        for place, said in (
            ("EHLO", b"250 hi\r\n250 2.1.0 ok\r\n"),
            ("MAIL", b"250 ok\r\n250 ok\r\n"),
            ("RCPT", b"250 ok\r\n354 go on\r\n"),
            ("DATA", b"354 go on\r\n250 2.0.0 taken\r\n"),
        ):
            found, network = fates(replace(CLEAR, answers={place: said}), outgoing())
            (outcome,) = found.values()
            self.assertIs(outcome.kind, Kind.DEFERRED, place)
            self.assertEqual(outcome.enhanced, "4.5.0")
            self.assertFalse(outcome.duplicate_possible)
            self.assertEqual(network.taken, [])
        ahead = b"250 ok\r\n250 ok\r\n354 go on\r\n250 taken\r\n"
        found, network = fates(replace(EVERYTHING, answers={"MAIL": ahead, "RCPT": b"250 a\r\n"}), outgoing())
        self.assertEqual([each.kind for each in found.values()], [Kind.DEFERRED])
        self.assertEqual(network.taken, [])

    def test_a_refusal_in_the_middle_of_the_content(self) -> None:
        """It is believed, no more of the content follows, and a yes there is none."""
        content = b"x: y\r\n" * 150_000
        for said, kind in ((b"552 5.3.4 too big\r\n", Kind.FAILED), (b"452 4.3.1 full\r\n", Kind.DEFERRED)):
            found, network = fates(replace(CLEAR, answers={"EARLY": said}), outgoing(content=content))
            self.assertEqual([(each.kind, each.phase) for each in found.values()], [(kind, Phase.CONTENT)])
            self.assertLess(len(network.clear), len(content))
        found, network = fates(replace(CLEAR, answers={"EARLY": b"250 2.0.0 taken\r\n"}), outgoing(content=content))
        self.assertEqual([each.kind for each in found.values()], [Kind.DEFERRED])
        found, _ = fates(
            replace(CHUNKS, answers={"BDAT": b"552 5.3.4 too big\r\n"}), outgoing(content=b"x: y\r\n" * 100_000)
        )
        self.assertEqual([(each.kind, each.code) for each in found.values()], [(Kind.FAILED, 552)])

    def test_replies_without_meaning(self) -> None:
        """A code that does not belong there, or no reply at all, decides nothing for good."""
        for place in ("MAIL", "RCPT", "DATA", "END"):
            for said in (b"354 what\r\n", b"garbage\r\n", b"250-a\r\n251 b\r\n"):
                if place == "DATA" and said.startswith(b"354"):
                    continue
                outcome = fate(replace(CLEAR, answers={place: said}))
                self.assertEqual((outcome.kind, outcome.enhanced), (Kind.DEFERRED, "4.5.0"), (place, said))
                self.assertEqual(outcome.duplicate_possible, place == "END")

    def test_many_messages(self) -> None:
        """A session is used again; after a failed transaction RSET comes first."""
        never = outgoing("no@example.org")
        for script in (CLEAR, EVERYTHING, CHUNKS):
            network = Network({HERE: replace(script, answers={"RCPT TO:<no@example.org>": b"550 5.1.1 no\r\n"})})
            found = network.run(give(network, outgoing(), outgoing(), never, outgoing()))
            self.assertEqual([next(iter(each.values())).code for each in found], [250, 250, 550, 250])
            self.assertEqual(len(network.met), 1)
            self.assertEqual(network.met[0].commands.count("RSET"), 1)
            self.assertEqual(len(network.taken), 3)

    def test_an_idle_session_that_ends(self) -> None:
        """`usable` tells it, and so does the outcome of who did not look."""
        for said in (b"421 4.4.2 bye\r\n", b""):
            network = Network({HERE: CLEAR})
            conversation: Conversation = network.run(connect(network, WHERE, PLAIN))
            self.assertTrue(conversation.usable)
            if said:
                network.met[0].say(said)
            network.met[0].end()
            network.settle()
            self.assertFalse(conversation.usable)
            found = named(network.run(conversation.deliver(outgoing())))
            self.assertEqual([(each.kind, each.phase) for each in found.values()], [(Kind.DEFERRED, Phase.MAIL)])
            network.run(conversation.quit())

    def test_several_addresses(self) -> None:
        """The next address when nobody listens; all of them are told when nobody does anywhere."""
        where = Where("mail.example.org", ("2001:db8::1", "192.0.2.9", "192.0.2.1"))
        network = Network({HERE: CLEAR, ("192.0.2.9", 25): None})
        (found,) = network.run(give(network, outgoing(), where=where))
        self.assertEqual(found["joe@example.org"].kind, Kind.DELIVERED)
        self.assertEqual(network.asked, [("2001:db8::1", 25), ("192.0.2.9", 25), ("192.0.2.1", 25)])
        network = Network()
        with self.assertRaises(Refused) as caught:
            network.run(connect(network, where, PLAIN))
        outcome = caught.exception.outcome
        self.assertEqual((outcome.kind, outcome.phase, outcome.enhanced), (Kind.DEFERRED, Phase.CONNECT, "4.4.1"))
        for address in where.addresses:
            self.assertIn(address, outcome.text)

    def test_being_cancelled(self) -> None:
        """It ends at once with an outcome; in the last wait it says that a duplicate is possible."""
        for place, unknown in (("RCPT", False), ("END", True)):
            network = Network({HERE: replace(CLEAR, answers={place: None})})
            found: list[Any] = []
            deferred = Deferred.fromCoroutine(give(network, outgoing()))
            deferred.addBoth(found.append)
            network.settle()
            deferred.cancel()
            network.settle()
            (outcome,) = found[0][0].values()
            self.assertEqual((outcome.kind, outcome.duplicate_possible), (Kind.DEFERRED, unknown))
            self.assertEqual(network.getDelayedCalls(), [])

    def test_the_message_cannot_be_read(self) -> None:
        """The database fails in the middle: the server never gets an end, and the mail waits."""

        async def broken() -> AsyncIterator[bytes]:
            yield b"x: y\r\n" * 100
            raise StorageFailure("the disk is gone")

        for script in (CLEAR, CHUNKS):
            found, network = fates(script, replace(outgoing(), content=broken))
            (outcome,) = found.values()
            self.assertEqual((outcome.kind, outcome.enhanced), (Kind.DEFERRED, "4.3.0"))
            self.assertEqual(network.taken, [])

    def test_the_dialogue_has_no_content(self) -> None:
        """What is kept for people: every line of both sides, nothing of the message."""
        heard: list[str] = []
        network = Network({HERE: EVERYTHING})
        manner = replace(PLAIN, listener=lambda said: heard.append(f"{said.who} {said.text}"))
        network.run(give(network, outgoing(), manner=manner))
        self.assertIn("C: RCPT TO:<joe@example.org>", heard)
        self.assertIn("S: 250-PIPELINING", heard)
        self.assertNotIn("secret content", "\n".join(heard))

    def test_the_dialogue_has_no_challenges(self) -> None:
        """What a server says during a login would let whoever reads the dialogue try passwords (RFC 5802 section 9)."""
        record = Record()
        stream = Stream(Clock(), record)
        stream._note(PeerReply(334, ("cj1ub25jZSxzPXNhbHQsaT00MDk2",)))
        stream._note(PeerReply(235, ("2.7.0 ok",)))
        self.assertEqual([each.text for each in record.lines], ["334 ********", "235 2.7.0 ok"])


class Forms(SynchronousTestCase):
    """What a server may be given at all."""

    SEVEN = replace(CLEAR, keywords=("SIZE 1000000",))

    def test_size(self) -> None:
        """What is too big for a server is not sent to it.

        Rule: Client: SIZE
        """
        found, network = fates(replace(CLEAR, keywords=("SIZE 20",)), outgoing())
        self.assertEqual([(each.kind, each.enhanced) for each in found.values()], [(Kind.FAILED, "5.3.4")])
        self.assertNotIn("MAIL", " ".join(network.met[0].commands))

    def test_eight_bits(self) -> None:
        """8BITMIME is declared where it is offered; elsewhere the content is made of seven bits, or is refused.

        Rule: Client: 8BITMIME, or seven bits
        """
        content = "Content-Type: text/plain; charset=utf-8\r\n\r\nGrüße an alle in Haus und Hof\r\n.\r\n".encode()
        message = outgoing(content=content, body_8bit=True)
        _, network = fates(CLEAR, message)
        self.assertIn("MAIL FROM:<alice@example.net> SIZE=79 BODY=8BITMIME", network.met[0].commands)
        self.assertEqual(network.taken[0].content, content)
        found, network = fates(self.SEVEN, message)
        self.assertIn("MAIL FROM:<alice@example.net>", network.met[0].commands)
        self.assertIn(b"\r\n\r\nGr=C3=BC=C3=9Fe an alle in Haus und Hof\r\n.\r\n", network.taken[0].content)
        self.assertTrue(network.taken[0].content.isascii())
        signed = b"Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\n\xc3\xbc\r\n--b--\r\n"
        for odd, status in ((b"Subject: \xc3\xbc\r\n\r\nx\r\n", "5.6.9"), (signed, "5.6.3")):
            found, network = fates(self.SEVEN, outgoing(content=odd))
            self.assertEqual([(each.kind, each.enhanced) for each in found.values()], [(Kind.FAILED, status)])
            self.assertTrue(network.clear.isascii())
            self.assertEqual(network.taken, [])

    def test_utf8(self) -> None:
        """SMTPUTF8 where it is offered; elsewhere only those are reached who can be written in ASCII.

        Rule: Client: SMTPUTF8, or 5.6.7 and 5.6.9
        """
        message = outgoing("jö@example.org", "joe@example.org", smtputf8=True)
        found, network = fates(EVERYTHING, message)
        self.assertEqual({each.kind for each in found.values()}, {Kind.DELIVERED})
        self.assertIn("MAIL FROM:<alice@example.net> SIZE=38 SMTPUTF8", network.met[0].commands)
        self.assertIn("RCPT TO:<jö@example.org>", network.met[0].commands)
        found, network = fates(CLEAR, message)
        self.assertEqual([each.enhanced for each in found.values()], ["5.6.7", "2.0.0"])
        self.assertEqual(network.taken[0].recipients, ["joe@example.org"])
        found, _ = fates(CLEAR, outgoing(sender="jö@example.net"))
        self.assertEqual([each.enhanced for each in found.values()], ["5.6.7"])
        header = outgoing(content="Subject: Grüße\r\n\r\nx\r\n".encode(), smtputf8=True)
        found, network = fates(CLEAR, header)
        self.assertEqual([each.enhanced for each in found.values()], ["5.6.9"])
        self.assertEqual(network.taken, [])

    def test_require_tls(self) -> None:
        """REQUIRETLS: only over a verified channel to a server that promises the same.

        Rule: Client: REQUIRETLS
        """
        message = outgoing(require_tls=True)
        for script, manner in ((EVERYTHING, PLAIN), (Script(keywords=ALL), how())):
            found, network = fates(script, message, manner=manner)
            self.assertEqual([(each.kind, each.enhanced) for each in found.values()], [(Kind.DEFERRED, "4.7.10")])
            self.assertEqual(network.taken, [])

        verified = replace(how("tls://mail.example.org"), tls=ClientTLS(ServerPolicy(Level.NAME, trusting(root()))))
        found, network = fates(Script(keywords=ALL), message, manner=verified)
        self.assertEqual([(each.kind, each.level) for each in found.values()], [(Kind.DELIVERED, Level.NAME)])
        self.assertIn("MAIL FROM:<alice@example.net> SIZE=38 REQUIRETLS", network.met[0].commands)
        found, network = fates(Script(), message, manner=verified)
        self.assertEqual([(each.kind, each.enhanced) for each in found.values()], [(Kind.FAILED, "5.7.30")])
        self.assertEqual(network.taken, [])

    def test_a_session_is_resumed(self) -> None:
        """The next connection to the same place resumes the TLS session, verified as before."""
        store = SessionStore(lambda: datetime.now(UTC))
        tls = ClientTLS(ServerPolicy(Level.NAME, trusting(root())), sessions=store)
        verified = replace(how("tls://mail.example.org"), tls=tls)
        script, network = Script(context=Script().make_context()), Network()
        network.places[HERE] = script
        for resumed in (False, True):
            (found,) = network.run(give(network, outgoing(), manner=verified))
            (outcome,) = found.values()
            self.assertEqual((outcome.kind, outcome.level), (Kind.DELIVERED, Level.NAME))
            self.assertEqual("resumed" in outcome.tls, resumed)

    def test_hello_only(self) -> None:
        """A server that knows no EHLO gets plain RFC 821 mail."""
        script = replace(CLEAR, answers={"EHLO": b"502 what\r\n"})
        found, network = fates(script, outgoing("a@example.org", "b@example.org"))
        self.assertEqual(network.met[0].commands[1:3], ["HELO us.example.net", "MAIL FROM:<alice@example.net>"])
        self.assertEqual({each.kind for each in found.values()}, {Kind.DELIVERED})

    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(st.sampled_from([b".", b"..", b"", b".x", b"x.", b"QUIT", b"a" * 40]), max_size=12),
        st.booleans(),
        st.lists(st.integers(0, 200), max_size=12),
        st.sampled_from([CLEAR, EVERYTHING, CHUNKS]),
    )
    def test_content_arrives_as_it_is(self, lines: list[bytes], ended: bool, cuts: list[int], script: Script) -> None:
        """Dots at the beginning of lines, in pieces cut anywhere: one message arrives, octet for octet.

        Rule: Client: dots are stuffed wherever content is cut
        """
        content = b"x: y\r\n\r\n" + b"\r\n".join(lines) + (b"\r\n" if ended else b"")
        message = outgoing(content=content, pieces=lambda data: cut_at(data, cuts))
        found, network = fates(script, message)
        self.assertEqual([each.kind for each in found.values()], [Kind.DELIVERED])
        whole = content if content.endswith(b"\r\n") else content + b"\r\n"
        self.assertEqual([each.content for each in network.taken], [whole])
        self.assertEqual(network.met[0].commands[-1], "QUIT")

    def test_no_smuggling(self) -> None:
        """A CR or LF that stands alone is never sent; the server gets no end, so that it keeps nothing.

        Rule: Client: no bare CR or LF is sent
        """
        for odd in (b"a\n.\nMAIL FROM:<x@example.org>\r\n", b"a\r.\r\n", b"a\r\n.\rx\r\n", b"x\r"):
            for cuts in ([], list(range(60))):
                for script in (CLEAR, EVERYTHING, CHUNKS):
                    content = b"x: y\r\n\r\n" + odd
                    found, network = fates(
                        script, outgoing(content=content, pieces=lambda data, at=cuts: cut_at(data, at))
                    )
                    self.assertEqual([(each.kind, each.enhanced) for each in found.values()], [(Kind.FAILED, "5.6.0")])
                    self.assertEqual(network.taken, [])


class Judgement(SynchronousTestCase):
    def test_the_channel_is_judged_twice(self) -> None:
        """A driver that lets a bad handshake pass gets no session all the same."""
        terms = Terms("mail.example.org", "us.example.net", Tls.IMPLICIT, Level.NAME)
        steps = opening(terms)
        self.assertIsInstance(next(steps), BeginTLS)
        weak = ServerIdentity(
            "mail.example.org",
            Level.NAME,
            Level.ENCRYPTED,
            "TLSv1.3",
            None,
            None,
            None,
            (),
            (),
            (),
            (),
            False,
            None,
            False,
        )
        self.assertIsInstance(steps.send(Secured(weak)), Hear)
        self.assertIsInstance(steps.send(PeerReply(220, ("hi",))), Say)
        self.assertIsInstance(next(steps), Hear)
        with self.assertRaises(Refused):
            steps.send(PeerReply(250, ("hi", "AUTH PLAIN")))
