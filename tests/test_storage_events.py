"""Events as values and as rows: what they hold, how they are found, how they go."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.mail import event as kinds
from mailsvc.mail.event import (
    KINDS,
    Accepted,
    Connected,
    Delivered,
    Disconnected,
    Event,
    LoginFailed,
    MaildropClosed,
    Refused,
    Unknown,
    event_of,
    peer_key,
)
from mailsvc.storage import events
from mailsvc.storage.events import Entry
from mailsvc.storage.rows import Cursor, many
from tests.storage_cases import OfflineCase, count

ACCEPTED = Accepted("s@example.net", ("Alice@example.org", "bob@example.org"), 1234, message_id_header="<1@x>")


class Values(SynchronousTestCase):
    def test_every_kind_has_a_name_of_its_own(self) -> None:
        """The name in the database tells the class."""
        classes = {found for found in vars(kinds).values() if isinstance(found, type) and issubclass(found, Event)}
        self.assertEqual(set(KINDS.values()), classes - {Event, Unknown})

    @settings(deadline=None, max_examples=30)
    @given(st.data())
    def test_read_back(self, data: st.DataObject) -> None:
        """What was written is read back as the same value, whichever kind it is."""
        for event in KINDS.values():
            wanted = data.draw(st.builds(event, **{field.name: _values(field.type) for field in fields(event)}))
            self.assertEqual(event_of(event.kind, json.loads(json.dumps(wanted.detail()))), wanted)

    def test_of_another_age(self) -> None:
        """A kind that is not known, or a field that is not what it was, makes no error but an Unknown."""
        for kind, detail in (
            ("teleported", {"x": 1}),
            ("delivered", {"mailbox": 7}),
            ("accepted", {"recipients": [1]}),
        ):
            read = event_of(kind, detail)
            self.assertEqual(read, Unknown(kind, detail))
            self.assertEqual(read.detail(), detail)
        self.assertEqual(event_of("delivered", {"mailbox": "a@b.c", "new": [1]}), Delivered("a@b.c"))

    def test_bounded(self) -> None:
        """Whatever a client sends, an event is small; its keys are those of all the recipients nevertheless."""
        recipients = tuple(f"user{number}@example.org" for number in range(1000))
        event = Accepted("s" * 100_000, recipients, 1, helo="h" * 100_000, message_id_header="<" + "m" * 100_000)
        self.assertLess(len(json.dumps(event.detail())), 5000)
        self.assertLess(max(map(len, event.found_by())), 501)
        self.assertIn("user999@example.org", event.found_by())

    def test_keys(self) -> None:
        """An event is found by addresses in any spelling, by Message-ID, by the messages of a maildrop."""
        self.assertEqual(ACCEPTED.found_by(), ("s@example.net", "alice@example.org", "bob@example.org", "<1@x>"))
        self.assertEqual(Refused("RCPT", "550", "A@x.org", ('"a"@X.org',)).found_by(), ("a@x.org",))
        self.assertEqual(Refused("MAIL", "550").found_by(), ())
        self.assertEqual(LoginFailed("").found_by(), ())
        self.assertEqual(MaildropClosed("a@x.org", 2, 1, True, (1, 2), (2,)).found_by(), ("a@x.org", "#1", "#2"))

    def test_one_client_one_name(self) -> None:
        """A client's address has one form, however it was written."""
        forms = {"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7", "2001:DB8:0::1": "2001:db8::1"}
        forms |= {"fe80::1%eth0": "fe80::1", "local": "local"}
        for text, canonical in forms.items():
            self.assertEqual(peer_key(text), canonical)

    @settings(deadline=None)
    @given(st.text(st.characters(categories=["Cs", "Cc", "L"]), max_size=20))
    def test_any_text_can_be_a_key(self, text: str) -> None:
        """A key can always be stored."""
        for key in Accepted(text, (), 1, message_id_header=text).found_by():
            key.encode("utf-8")


def _values(annotation: Any) -> st.SearchStrategy[Any]:
    short = st.text(max_size=50)
    whole = st.integers(0, 2**53)
    return {
        "str": short,
        "int": whole,
        "float": st.floats(0, 1e10),
        "bool": st.booleans(),
        "tuple[str, ...]": st.lists(short, max_size=5).map(tuple),
        "tuple[int, ...]": st.lists(whole, max_size=5).map(tuple),
    }[annotation]


class Rows(OfflineCase):
    def entries(self, txn: Cursor) -> list[tuple[float, str]]:
        return [(time, kind) for time, kind in many(txn.execute("SELECT time, kind FROM event ORDER BY id"))]

    @settings(deadline=None, max_examples=20)
    @given(st.lists(st.booleans(), max_size=45))
    def test_many_at_once_keep_their_order_and_their_keys(self, keyed: list[bool]) -> None:
        """Events with keys and without, in any order and number: each is found by its own key, in the order given."""
        with self.transaction() as txn:
            txn.execute("DELETE FROM event_key")
            txn.execute("DELETE FROM event")
            made = [
                LoginFailed(f"u{number}@x") if is_keyed else Connected(f"l{number}")
                for number, is_keyed in enumerate(keyed)
            ]
            events.record(txn, [Entry(1.0, each) for each in made])
            rows = many(txn.execute("SELECT kind, detail FROM event ORDER BY id"))
            self.assertEqual([event_of(kind, json.loads(detail)) for kind, detail in rows], made)
            for each in made:
                if isinstance(each, LoginFailed):
                    found = events.by_key(txn, each.name, since=0.0, limit=5)
                    self.assertEqual([entry.event for entry in found], [each])

    def test_written_and_found(self) -> None:
        """A row is found by trace id, client, key and connection, and comes back whole."""
        entry = Entry(5.0, ACCEPTED, 77, "192.0.2.7", "TRACE", 4)
        with self.transaction() as txn:
            events.record(txn, [entry, Entry(6.0, Disconnected(1.5), 77, "192.0.2.7"), Entry(7.0, Connected("smtp"))])
            read = Entry(5.0, ACCEPTED, 77, "192.0.2.7", "TRACE", 4, 1)
            self.assertEqual(events.by_trace(txn, "TRACE", since=0, limit=9), [read])
            self.assertEqual([found.number for found in events.by_peer(txn, "192.0.2.7", since=0, limit=9)], [2, 1])
            self.assertEqual(events.by_session(txn, 77, ["accepted"], limit=9), [read])
            for key in ACCEPTED.found_by():
                self.assertEqual(events.by_key(txn, key, since=0, limit=9), [read])
                self.assertEqual(events.by_key(txn, key, since=5.5, limit=9), [])

    def test_questions_use_an_index(self) -> None:
        """No question reads all events."""
        plans = {
            "SELECT 1 FROM event WHERE trace_id = ? ORDER BY id DESC": "event_by_trace",
            "SELECT 1 FROM event WHERE peer = ? ORDER BY id DESC": "event_by_peer",
            "SELECT 1 FROM event WHERE session = ? ORDER BY id": "event_by_session",
            "DELETE FROM event_key WHERE event_id <= ?": "event_key_by_event",
        }
        with self.transaction() as txn:
            for sql, index in plans.items():
                plan = str(many(txn.execute("EXPLAIN QUERY PLAN " + sql, ("x",))))
                self.assertIn(index, plan)
                self.assertNotIn("TEMP B-TREE", plan)

    def test_limit_takes_the_newest(self) -> None:
        """More events than anybody can read: the newest are given."""
        with self.transaction() as txn:
            events.record(txn, [Entry(float(number), Connected("smtp"), 1, "192.0.2.7") for number in range(9)])
            found = events.by_peer(txn, "192.0.2.7", since=0, limit=2)
        self.assertEqual([entry.time for entry in found], [8.0, 7.0])

    def test_detail_is_ascii(self) -> None:
        """An event keeps its details as one JSON object of ASCII, whatever they hold."""
        with self.transaction() as txn:
            events.record(txn, [Entry(1.0, Refused("ä'\n", "550"))])
            ((detail,),) = many(txn.execute("SELECT detail FROM event"))
        self.assertEqual(json.loads(detail), {"what": "ä'\n", "reply": "550"})
        self.assertTrue(detail.isascii())

    def test_pruned_by_age(self) -> None:
        """What is older goes, with its keys; the rest stays.

        Rule: Old events are pruned by age and count
        """
        with self.transaction() as txn:
            events.record(txn, [Entry(float(number), ACCEPTED) for number in range(10)])
            self.assertEqual(events.prune(txn, before=4.0, keep=100), 4)
            self.assertEqual([time for time, _ in self.entries(txn)], [4.0, 5.0, 6.0, 7.0, 8.0, 9.0])
            self.assertEqual(count(txn, "event_key"), 6 * len(ACCEPTED.found_by()))
            self.assertEqual(events.prune(txn, before=4.0, keep=100), 0)

    def test_pruned_by_count(self) -> None:
        """No more than so many stay, also when they are young; numbers go on from there.

        Rule: Old events are pruned by age and count
        """
        with self.transaction() as txn:
            for _ in range(3):
                events.record(txn, [Entry(float(number), Connected("smtp")) for number in range(10)])
                while events.prune(txn, before=0.0, keep=7, slice_of=4):
                    pass
                self.assertEqual(count(txn, "event"), 7)

    def test_pruned_in_slices(self) -> None:
        """One call removes a slice at most."""
        with self.transaction() as txn:
            events.record(txn, [Entry(float(number), ACCEPTED) for number in range(10)])
            removed = [events.prune(txn, before=100.0, keep=0, slice_of=4) for _ in range(4)]
            self.assertEqual((removed, count(txn, "event_key")), ([4, 4, 2, 0], 0))

    def test_from_the_time_before(self) -> None:
        """What an older mailsvc has noted is still read: its words for the peer are left out."""
        detail = {
            "peer": "192.0.2.7",
            "helo": "h",
            "tls": None,
            "sender": "a@x.org",
            "recipients": ["b@x.org"],
            "size": 3,
        }
        with self.transaction() as txn:
            txn.execute(
                "INSERT INTO event (time, kind, trace_id, detail) VALUES (1.0, 'accepted', 'T', ?)",
                (json.dumps(detail),),
            )
            (entry,) = events.by_trace(txn, "T", since=0, limit=1)
        self.assertEqual(entry.event, Accepted("a@x.org", ("b@x.org",), 3, helo="h"))

    def test_no_secret_has_a_field(self) -> None:
        """No event has a field for a password, a text or a line of a client (promise H)."""
        names = {field.name for event in KINDS.values() for field in fields(event)}
        self.assertEqual(names & {"password", "secret", "body", "content", "subject", "line", "data", "text"}, {"text"})
        self.assertIn("text", {field.name for field in fields(kinds.Noted)})
