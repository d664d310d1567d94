"""`mailsvc why`: which events belong to a story, and how they read."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.cli.story import for_programs, sentence, told, visible
from mailsvc.mail.event import (
    KINDS,
    Accepted,
    CertificateNews,
    Cleared,
    Connected,
    Defect,
    Delivered,
    Disconnected,
    Dropped,
    Event,
    GivenUp,
    HandshakeFailed,
    Injected,
    LoggedIn,
    LoginFailed,
    MaildropClosed,
    Noted,
    PutOff,
    Refused,
    Relayed,
    Secured,
    TurnedAway,
    Unavailable,
    Undeleted,
    Unknown,
)
from mailsvc.storage import events
from mailsvc.storage.events import Entry
from mailsvc.storage.rows import Cursor
from mailsvc.storage.stories import Story, story_of
from tests.storage_cases import OfflineCase

NOON = 1_795_176_000.0  # 2026-11-20, 12:00 UTC
A, B, S = "alice@example.org", "bob@example.org", "sender@example.net"

SENTENCES: list[tuple[Event, str]] = [
    (Connected("smtp"), "connected to smtp"),
    (TurnedAway("smtp", "too many connections"), "was turned away from smtp: too many connections"),
    (Secured("TLSv1.3", "AES", "mx.example.org"), "TLS handshake completed: TLSv1.3, AES, for mx.example.org"),
    (Secured("TLSv1.3", "AES"), "TLS handshake completed: TLSv1.3, AES"),
    (HandshakeFailed("no shared cipher"), "TLS handshake failed: no shared cipher"),
    (
        Injected(4000),
        "sent 4,000 octets in clear behind STARTTLS: they were dropped, and the connection was closed",
    ),
    (LoggedIn(A, "PLAIN"), "logged in as alice@example.org by PLAIN"),
    (LoggedIn(A), "logged in as alice@example.org"),
    (
        LoginFailed(A, "PLAIN", "535 5.7.8 No", "wrong password"),
        "login as alice@example.org by PLAIN was refused: 535 5.7.8 No (wrong password)",
    ),
    (LoginFailed("", "", "535 No"), "login under a name that is no mail address was refused: 535 No"),
    (
        Refused("recipient", "550 5.1.1 No such user", S, (B,)),
        "recipient <bob@example.org> of a message from <sender@example.net> was refused: 550 5.1.1 No such user",
    ),
    (
        Refused("message", "552 5.3.4 Too big", "", (A, B)),
        "the message from <> to <alice@example.org>, <bob@example.org> was refused: 552 5.3.4 Too big",
    ),
    (Refused("session", "421 4.7.0 Too many errors"), "the session was ended: 421 4.7.0 Too many errors"),
    (Refused("MAIL", "530 5.7.0 Must issue STARTTLS first"), "MAIL was refused: 530 5.7.0 Must issue STARTTLS first"),
    (
        Refused("maildrop", "-ERR [IN-USE] open", "", (A,)),
        "maildrop of alice@example.org was refused: -ERR [IN-USE] open",
    ),
    (
        Unavailable("storing a message", "the disk is full"),
        "storing a message was not possible, the client was told to try again: the disk is full",
    ),
    (
        Accepted(S, (A, B), 12345, "h.example", "ESMTPSA", "TLSv1.3 AES", A, "<1@x>", 2),
        "T: accepted (250) from <sender@example.net> to <alice@example.org>, <bob@example.org>, 12,345 octets,"
        " with ESMTPSA and TLSv1.3 AES, the client called itself h.example, logged in as alice@example.org,"
        " Message-ID <1@x>",
    ),
    (
        Accepted("", tuple(f"u{n}@x.org" for n in range(11)), 1, recipient_count=1000),
        "T: accepted (250) from <> to " + ", ".join(f"<u{n}@x.org>" for n in range(10)) + " and 990 more, 1 octets",
    ),
    (Delivered(A), "T: delivered to the mailbox of alice@example.org"),
    (Delivered(A, B), "T: delivered to the mailbox of alice@example.org, for bob@example.org"),
    (
        Relayed(B, "mx.example.net", "250 2.0.0 taken", 1, "encrypted, server name verified", "TLSv1.3 AES"),
        "T: <bob@example.org> was taken by mx.example.net at the first attempt"
        " (TLSv1.3 AES; encrypted, server name verified): 250 2.0.0 taken",
    ),
    (
        PutOff(B, "mx.example.net", "RCPT TO", "450 later", 2, NOON + 600, duplicate_possible=True),
        "T: <bob@example.org> was put off after 2 attempts (mx.example.net, at RCPT TO): 450 later;"
        " next at 2026-11-20 12:10:00; it may arrive twice",
    ),
    (
        PutOff(B, "", "connecting", "no route", 1, NOON),
        "T: <bob@example.org> was put off at the first attempt (connecting): no route; next at 2026-11-20 12:00:00",
    ),
    (
        GivenUp(B, "mx.example.net", "550 no such user", 1),
        "T: <bob@example.org> was refused by mx.example.net at the first attempt: 550 no such user",
    ),
    (GivenUp(B, "", "too late", 40, True), "T: <bob@example.org> was given up after 40 attempts: too late"),
    (Noted("There is no relay yet."), "T: There is no relay yet."),
    (MaildropClosed(A, 1, 3), "mailbox of alice@example.org: 1 message fetched, 3 removed"),
    (
        MaildropClosed(A, 1, 3, credential="app-password 7"),
        "mailbox of alice@example.org: 1 message fetched, 3 removed by app-password 7",
    ),
    (
        MaildropClosed(A, 1, 3, credential="app-password 7", by_device=True, left=2),
        "mailbox of alice@example.org: 1 message fetched, 3 deleted for app-password 7, 2 of them removed",
    ),
    (Cleared(A, "expired", 1, (7,)), "mailbox of alice@example.org: 1 message removed (by age)"),
    (
        Cleared(A, "deleted", 2, (7, 8)),
        "mailbox of alice@example.org: 2 messages removed (deleted by every device in use)",
    ),
    (Undeleted(A, 2, (7, 8)), "mailbox of alice@example.org: 2 messages undeleted"),
    (
        MaildropClosed(A, 2, 0, False),
        "mailbox of alice@example.org: 2 messages fetched; the session ended without QUIT, so nothing was removed",
    ),
    (
        Disconnected(1234.56, "Connection was closed cleanly."),
        "disconnected after 1,234.6 s: Connection was closed cleanly",
    ),
    (Disconnected(0.0), "disconnected after 0.0 s"),
    (Dropped(5000, NOON), "5,000 events since 2026-11-20 12:00:00 were not kept: too many came at once"),
    (CertificateNews("a", "refused", "its key does not fit"), "certificate refused: its key does not fit"),
    (Defect("KeyError"), "a mistake of mailsvc itself (KeyError); please report it, the log has more"),
    (Unknown("x", {"a": 1}), 'an event that this mailsvc does not know: {"a": 1}'),
]


class Sentences(SynchronousTestCase):
    def test_every_kind(self) -> None:
        """Each kind of event reads as a sentence, with its codes.

        Rule: Failed logins are seen by mailsvc why
        """
        self.assertEqual({type(event) for event, _ in SENTENCES}, {*KINDS.values(), Unknown})
        for event, wanted in SENTENCES:
            self.assertEqual(sentence(Entry(NOON, event, trace_id="T")), wanted)

    @settings(deadline=None)
    @given(st.text(max_size=50))
    def test_nothing_but_printable(self, text: str) -> None:
        """Whatever a stranger chose, no line holds a control character, a line end or a change of direction."""
        entry = Entry(NOON, Refused("message", text, text, (text,)), 1, text, text)
        for line in told(Story((entry,), gaps=(entry,))):
            self.assertTrue(line.isprintable(), ascii(line))

    def test_visible(self) -> None:
        """What is readable stays, in any script; what acts on a terminal, or could be taken for an escape, does not."""
        self.assertEqual(visible("jürgen@bücher.example"), "jürgen@bücher.example")
        self.assertEqual(visible("\x1b[2J\r\n\u202e\\x1b"), "\\x1b[2J\\r\\n\\u202e\\\\x1b")


class Layout(SynchronousTestCase):
    def test_paragraphs(self) -> None:
        """A paragraph for each connection under its client and time; another day is said."""
        entries = (
            Entry(NOON, Connected("smtp"), 1, "192.0.2.7"),
            Entry(NOON + 1, Connected("pop3"), 2, "192.0.2.8"),
            Entry(NOON + 2, Refused("MAIL", "530 no"), 1, "192.0.2.7"),
            Entry(NOON + 86_400, Disconnected(86_400.0), 1, "192.0.2.7"),
            Entry(NOON + 86_401, Delivered(A), None, None, "T"),
        )
        self.assertEqual(
            list(told(Story(entries, True, (Entry(NOON, Dropped(2, NOON)),)))),
            [
                "Older events were left out; --since and --limit say how far back to look.",
                "",
                "2026-11-20 12:00:00 UTC  192.0.2.7 on smtp",
                "  12:00:00  connected to smtp",
                "  12:00:02  MAIL was refused: 530 no",
                "  2026-11-21 12:00:00  disconnected after 86,400.0 s",
                "",
                "2026-11-20 12:00:01 UTC  192.0.2.8 on pop3",
                "  12:00:01  connected to pop3",
                "",
                "2026-11-21 12:00:01 UTC",
                "  12:00:01  T: delivered to the mailbox of alice@example.org",
                "",
                "Some events may be missing:",
                "  2026-11-20 12:00:00  2 events since 2026-11-20 12:00:00 were not kept: too many came at once",
            ],
        )

    def test_json(self) -> None:
        """Programs get every fact, and the sentence."""
        entry = Entry(NOON + 0.5, Refused("MAIL", "530 no", S), 255, "192.0.2.7")
        self.assertEqual(
            json.loads(for_programs(Story((entry,)))),
            [
                {
                    "time": "2026-11-20T12:00:00.500Z",
                    "kind": "refused",
                    "session": "ff",
                    "peer": "192.0.2.7",
                    "trace_id": None,
                    "message": None,
                    "sentence": "MAIL was refused: 530 no",
                    "detail": {"what": "MAIL", "reply": "530 no", "sender": S},
                }
            ],
        )


class Stories(OfflineCase):
    """Two connections from one client, one message to Alice and Bob, which Alice fetches."""

    def record(self, txn: Cursor) -> None:
        first, second = (1, "192.0.2.7"), (2, "192.0.2.7")
        accepted = Accepted(S, (A, B), 5, message_id_header="<1@x>", recipient_count=2)
        events.record(
            txn,
            [
                # Transactions are written before batches, so that the rows' order is not the story's.
                Entry(3.0, accepted, *first, "TRACE", 7),
                Entry(3.0, Delivered(A), *first, "TRACE", 7),
                Entry(3.0, Delivered(B), *first, "TRACE", 7),
                Entry(1.0, Connected("smtp"), *first),
                Entry(2.0, Refused("recipient", "550 no", S, ("nobody@example.org",)), *first),
                Entry(4.0, Disconnected(3.0), *first),
                Entry(5.0, Connected("smtp"), *second),
                Entry(6.0, Refused("MAIL", "530 no"), *second),
                Entry(10.0, Connected("pop3"), 3, "192.0.2.9"),
                Entry(11.0, LoggedIn(A), 3, "192.0.2.9"),
                Entry(12.0, MaildropClosed(A, 1, 1, True, (7,), (7,)), 3, "192.0.2.9"),
                Entry(13.0, Dropped(4, 12.0)),
            ],
        )

    def kinds(self, word: str, since: float = 0.0, limit: int = 1000) -> list[str]:
        with self.transaction() as txn:
            return [entry.event.kind for entry in story_of(txn, word, since=since, limit=limit).entries]

    def test_of_whom(self) -> None:
        """A message has its connection and who fetched it; a recipient nothing of the others; a client all."""
        with self.transaction() as txn:
            self.record(txn)
        brought = ["connected", "accepted", "delivered", "delivered", "disconnected"]
        fetched = ["connected", "logged in", "maildrop closed"]
        stories = {
            "TRACE": brought + fetched,
            "trace": brought + fetched,
            "<1@x>": brought + fetched,
            "1@x": brought + fetched,
            S: ["connected", "refused", *brought[1:]],
            "Bob@EXAMPLE.org": ["connected", "accepted", "delivered", "disconnected"],
            A: ["connected", "accepted", "delivered", "disconnected", *fetched],
            "nobody@example.org": ["connected", "refused", "disconnected"],
            "192.0.2.7": ["connected", "refused", *brought[1:], "connected", "refused"],
            "[::ffff:192.0.2.7]": ["connected", "refused", *brought[1:], "connected", "refused"],
            "192.0.2.9": fetched,
            "192.0.2.1": [],
            "": [],
            "%": [],
            "!dropped": [],
        }
        for word, wanted in stories.items():
            self.assertEqual(self.kinds(word), wanted, word)

    def test_delivered_to_whom(self) -> None:
        """A recipient's story does not tell of the other mailboxes."""
        with self.transaction() as txn:
            self.record(txn)
            story = story_of(txn, B)
        self.assertEqual([e.event for e in story.entries if isinstance(e.event, Delivered)], [Delivered(B)])

    def test_since_and_limit(self) -> None:
        """Since: nothing older is asked for; limit: the newest, and that older ones are missing is said."""
        with self.transaction() as txn:
            self.record(txn)
        self.assertEqual(self.kinds("192.0.2.7", since=4.5), ["connected", "refused"])
        with self.transaction() as txn:
            story = story_of(txn, "192.0.2.7", limit=1)
            self.assertEqual((story.is_cut, [e.event.kind for e in story.entries]), (True, ["connected", "refused"]))
            self.assertFalse(story_of(txn, "192.0.2.7", limit=8).is_cut)

    def test_gaps(self) -> None:
        """Events that were not kept at the same time are told of; earlier ones are not."""
        with self.transaction() as txn:
            self.record(txn)
            self.assertEqual([gap.event for gap in story_of(txn, A).gaps], [Dropped(4, 12.0)])
            self.assertEqual(story_of(txn, A, since=13.5).gaps, ())
