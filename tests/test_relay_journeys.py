"""What attempts read from the database: together where that is possible, and nothing that is not there."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.errors import StorageFailure, TemporaryFailure
from mailsvc.relay import journeys
from mailsvc.relay.journeys import Contents, Ways
from mailsvc.relay.routes import Route, RouteKind, ToMX, ToRelays
from mailsvc.relay.seams import Batch, Destination
from mailsvc.relay.url import parse_relay
from mailsvc.storage import outbound
from mailsvc.storage.mailboxes import PART_LIMIT, content_parts
from mailsvc.storage.outbound import OutboundRow
from mailsvc.storage.routes import add_route
from tests.memory import MemoryStore
from tests.relay_world import store_message


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = MemoryStore(Clock())

    def tearDown(self) -> None:
        self.store.connection.close()

    def row(self, recipient: str, size: int = 100) -> OutboundRow:
        self.store.now(store_message, "T1", (recipient,), "a@example.org", size, 0.0, {})
        (row,) = self.store.now(outbound.claim, "me", 0.0, seconds=300.0, rows=10, of_each=10).rows
        return row

    def relay(self, domain: str, url: str) -> None:
        self.store.now(add_route, Route(RouteKind.TO, domain, (parse_relay(url),)), 0.0)


class TheWays(Case):
    def test_asked_for_together(self) -> None:
        """What is asked for during a journey is answered by the next one, each question with its own answer."""
        ways = Ways(self.store)
        rows = [self.row(f"b@{name}.example.net") for name in ("one", "two", "three")]
        self.store.held = True
        answers = [ways.of([row]) for row in rows]
        self.store.release(1)
        self.assertEqual([answer.called for answer in answers], [True, False, False])
        self.store.release(1)
        self.assertEqual(self.store.calls, ["_all_ways"] * 2)
        for row, answer in zip(rows, answers, strict=True):
            [((target,), found)] = self.successResultOf(answer).items()
            assert isinstance(target, ToMX)
            self.assertEqual((target.domain, found), (row.destination, (row,)))

    def test_nothing_is_remembered(self) -> None:
        """A route that was committed before a question counts for its answer."""
        ways, row = Ways(self.store), self.row("b@example.net")
        [((target,), _)] = self.successResultOf(ways.of([row])).items()
        self.assertIsInstance(target, ToMX)
        self.relay("example.net", "smtp://relay.example.com")
        [((target,), _)] = self.successResultOf(ways.of([row])).items()
        self.assertIsInstance(target, ToRelays)

    def test_a_damaged_route_is_its_own_rows_failure(self) -> None:
        """Others that were asked for in the same journey get their ways."""
        ways = Ways(self.store)
        good, bad = self.row("b@one.example.net"), self.row("b@two.example.net")
        self.relay("two.example.net", "smtp://relay.example.com")
        self.store.connection.execute("UPDATE route_relay SET url = 'nonsense'")
        self.store.held = True
        first, *answers = [ways.of(rows) for rows in ([good], [bad], [good])]
        for _ in range(2):
            self.store.release()
        self.successResultOf(first)
        self.failureResultOf(answers[0], TemporaryFailure)
        self.successResultOf(answers[1])

    def test_a_database_that_fails(self) -> None:
        """Everybody who asked hears of it, and the next question is asked anew."""
        ways, row = Ways(self.store), self.row("b@example.net")
        self.store.held = True
        self.store.failure = StorageFailure("the disk is gone")
        answers = [ways.of([row]) for _ in range(3)]
        self.store.release()
        self.store.release()
        for answer in answers:
            self.failureResultOf(answer, StorageFailure)
        self.store.failure, self.store.held = None, False
        self.successResultOf(ways.of([row]))

    def test_a_defect_is_not_the_others(self) -> None:
        """What one question breaks in an unforeseen way does not break those beside it."""
        ways, row = Ways(self.store), self.row("b@example.net")
        self.store.held = True
        first, broken, good = ways.of([row]), ways.of([object()]), ways.of([row])  # type: ignore[list-item]
        for _ in range(4):
            self.store.release()
        self.successResultOf(first)
        self.failureResultOf(broken, AttributeError)
        self.successResultOf(good)

    def test_a_question_that_nobody_wants_answered(self) -> None:
        """Being cancelled takes one out, and leaves the others alone."""
        ways, row = Ways(self.store), self.row("b@example.net")
        self.store.held = True
        gone, waiting = ways.of([row]), ways.of([row])
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        for _ in range(2):
            self.store.release()
        self.successResultOf(waiting)


class TheContents(Case):
    def batch(self, size: int) -> Batch:
        row = self.row("b@example.net", size)
        return Batch(Destination(row.destination), row.message, (row,))

    def content(self, contents: Contents, batch: Batch) -> list[bytes]:
        async def read() -> list[bytes]:
            return [piece async for piece in contents.of(batch)()]

        return self.successResultOf(Deferred.fromCoroutine(read()))

    def stored(self, batch: Batch) -> bytes:
        rows = self.store.connection.execute(
            "SELECT data FROM message_content WHERE message_id = ? ORDER BY part", (batch.message.id,)
        )
        return b"".join(data for (data,) in rows)

    def test_a_megabyte_is_one_journey(self) -> None:
        """The header and four parts of the body come at once, what is larger in several journeys; all of it comes."""
        for size, expected in ((1, 1), (4 * PART_LIMIT, 1), (4 * PART_LIMIT + 1, 2), (10 * PART_LIMIT, 3)):
            batch = self.batch(max(size, 2))
            self.store.calls.clear()
            pieces = self.content(Contents(self.store), batch)
            self.assertEqual(self.store.calls, ["content_parts"] * expected)
            self.assertEqual(b"".join(pieces), self.stored(batch))

    def test_memory_is_bounded_for_all_together(self) -> None:
        """When much is read and not sent, journeys bring a part each; what is not wanted any more counts no more."""
        self.patch(journeys, "AHEAD", PART_LIMIT)
        contents, batch = Contents(self.store), self.batch(4 * PART_LIMIT)

        async def first(content: object) -> bytes:
            return await anext(content)  # type: ignore[call-overload, no-any-return]

        slow = contents.of(batch)()
        self.successResultOf(Deferred.fromCoroutine(first(slow)))
        self.store.calls.clear()
        self.content(contents, batch)
        self.assertEqual(self.store.calls, ["content_parts"] * 5)

        async def end() -> None:
            await slow.aclose()  # type: ignore[attr-defined]

        self.successResultOf(Deferred.fromCoroutine(end()))
        self.store.calls.clear()
        self.content(contents, batch)
        self.assertEqual(self.store.calls, ["content_parts"])

    def test_what_is_being_read_counts(self) -> None:
        """Conversations that begin at the same time do not all take the room that each has seen."""
        self.patch(journeys, "AHEAD", PART_LIMIT)
        contents, batch = Contents(self.store), self.batch(4 * PART_LIMIT)
        self.store.held = True

        async def first(content: object) -> bytes:
            return await anext(content)  # type: ignore[call-overload, no-any-return]

        both = [contents.of(batch)() for _ in range(2)]
        answers = [Deferred.fromCoroutine(first(content)) for content in both]
        self.store.release()
        self.assertEqual([len(self.successResultOf(answer)) for answer in answers], [batch.message.header_size] * 2)
        self.store.held = False
        self.store.calls.clear()
        self.successResultOf(Deferred.fromCoroutine(first(both[0])))
        self.assertEqual(self.store.calls, [])
        self.successResultOf(Deferred.fromCoroutine(first(both[1])))
        self.assertEqual(self.store.calls, ["content_parts"])

    def test_a_part_that_is_missing(self) -> None:
        """Nothing behind a gap is taken for what should stand there: the message cannot be read."""
        batch = self.batch(4 * PART_LIMIT)
        self.store.connection.execute(
            "DELETE FROM message_content WHERE message_id = ? AND part = 2", (batch.message.id,)
        )
        self.assertEqual(len(self.store.now(content_parts, batch.message.id, 0, 5)), 2)

        async def read() -> None:
            async for _ in Contents(self.store).of(batch)():
                pass

        self.failureResultOf(Deferred.fromCoroutine(read()), TemporaryFailure)
