"""What happens, noted: one method for each thing, which writes the log line and keeps the event for `mailsvc why`.

`Journal` belongs to the service; `Journal.connection` gives the `ConnectionJournal` of one connection, and the servers
call nothing else.  How a line of the log reads is `mailsvc.maillog`, what an event holds `mailsvc.mail.event`, and the
acceptance of a message is not kept from here: its event is written in the message's own transaction.

The hardest idea is that an attacker decides how many events there are.  So nobody ever waits for the journal.  Events
gather in a bounded buffer and are written in batches, so many a second and no more (`Pace`), between the transactions
of mail.  One network has a share of the buffer and not all of it, else a flood would push out what tells of everybody
else.  What finds no room is counted, and the count becomes an event itself: the story may have a gap, and says where.

A database that cannot write keeps the buffer waiting, never a session.  A disk that is nearly full gets no events: the
rest of it is there so that mail can be removed.  What was noted in the last second before a SIGKILL is lost; what was
said to a client about a message (250) never is, because that event is a part of the message's transaction.

Connections, handshakes and ends are events, and lines of the log only where `log_sessions` asks for them: three lines
for each scanner that comes by cost a third of what its TLS handshake does, and `mailsvc why` finds the same by the
address.
"""

from __future__ import annotations

import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailsvc import maillog
from mailsvc.accounts.throttle import network
from mailsvc.errors import TemporaryFailure
from mailsvc.mail.address import AddressError, parse_address
from mailsvc.mail.channel import TLSFacts
from mailsvc.mail.event import (
    LIST_LIMIT,
    Accepted,
    Connected,
    Defect,
    Disconnected,
    Dropped,
    Event,
    HandshakeFailed,
    Injected,
    LoggedIn,
    LoginFailed,
    MaildropClosed,
    Noted,
    Refused,
    Secured,
    TurnedAway,
    Unavailable,
)
from mailsvc.storage.devices import Carried
from mailsvc.storage.events import Entry, prune, record
from mailsvc.storage.rows import Cursor

P = ParamSpec("P")
T = TypeVar("T")


class EventStore(Protocol):
    """What a journal needs of `mailsvc.storage.database.Database`."""

    def write(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `fn(txn, ...)` in a transaction; fires after COMMIT."""

    def has_room_for(self, octets: int) -> bool:
        """Whether the disk keeps its reserve when it takes `octets` more."""


@dataclass(frozen=True, slots=True)
class Keep:
    """What stays: events of the last ``days``, and no more than ``rows``."""

    days: float = 30.0
    rows: int = 500_000


@dataclass(frozen=True, slots=True)
class Pace:
    """How events are gathered and written.

    ``buffer``: the most events that wait, a ``share``-th of them from one network.  ``gather``: seconds that the first
    waits for others.  ``batch`` at most are written at once, then nothing for ``pause`` seconds (so 2,500 a second,
    some 5 % of one writer).  ``retry``: seconds after a failure.  ``prune``: seconds between two looks for old events.
    """

    buffer: int = 10_000
    share: int = 8
    gather: float = 1.0
    batch: int = 500
    pause: float = 0.2
    retry: float = 5.0
    prune: float = 60.0


class Journal:
    """The service's journal; without a ``store`` things go to the log only.

    ``counts``: how often which kind of event happened, kept or not.  ``log_sessions``: whether connections, handshakes
    and ends are lines of the log too.
    ``new_session`` makes the numbers of connections.  Works between `start` and `stop`; what is noted earlier waits,
    what is noted later goes to the log only.
    """

    _log = Logger()

    def __init__(
        self,
        store: EventStore | None,
        clock: IReactorTime,
        *,
        keep: Keep = Keep(),
        pace: Pace = Pace(),
        new_session: Callable[[], int] = lambda: secrets.randbits(53),
        log_sessions: bool = False,
    ) -> None:
        self.clock = clock
        self.log_sessions = log_sessions
        self.counts: Counter[str] = Counter()
        self._store = store
        self._keep = keep
        self._pace = pace
        self._new_session = new_session
        self._buffer: deque[tuple[str, Entry]] = deque()
        self._held: Counter[str] = Counter()
        self._dropped = 0
        self._dropped_since = 0.0
        self._running = False
        self._stopped = store is None
        self._timer: IDelayedCall | None = None
        self._pruning: IDelayedCall | None = None
        self._writing: Deferred[bool] | None = None

    def connection(self, listener: str, peer: str, number: int | None = None) -> ConnectionJournal:
        """The journal of a new connection, which has the number ``number`` already or gets one."""
        return ConnectionJournal(self, listener, peer, self._new_session() if number is None else number)

    def turned_away(self, listener: str, peer: str, why: str) -> None:
        """A client was turned away before its first word."""
        maillog.refused_connection(listener, peer, why)
        self.note(Entry(self.clock.seconds(), TurnedAway(listener, why), peer=peer), network(peer))

    def note(self, entry: Entry, source: str = "") -> None:
        """Keep an event, on account of ``source`` (a network); returns at once and never fails."""
        self.counts[entry.event.kind] += 1
        if self._stopped:
            return
        pace = self._pace
        if len(self._buffer) >= pace.buffer or self._held[source] >= max(1, pace.buffer // pace.share):
            self._drop(1, entry.time)
            return
        self._buffer.append((source, entry))
        self._held[source] += 1
        if self._writing is None:
            self._write_in(pace.pause if len(self._buffer) >= pace.batch else pace.gather)

    # -- beginning and end ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """The database is open: begin to write, and to prune."""
        if self._stopped or self._running:
            return
        self._running = True
        self._pruning = self.clock.callLater(self._pace.prune, self._prune)
        if self._buffer:
            self._write_in(self._pace.gather)

    def stop(self) -> Deferred[None]:
        """Write what is left; fires when that is done, or cannot be done."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        was_running, self._running, self._stopped = self._running, False, True
        for call in (self._timer, self._pruning):
            if call is not None and call.active():
                call.cancel()
        if not was_running:
            return
        if self._writing is not None:
            await self._writing
        while (self._buffer or self._dropped) and await self._write():
            pass
        lost = len(self._buffer) + self._dropped
        if lost:
            self._log.warn("{lost} events could not be written any more", lost=lost)

    # -- writing --------------------------------------------------------------------------------------------------

    def _write_in(self, seconds: float) -> None:
        """See to it that a batch is written in so many seconds, or sooner when that was planned."""
        if not self._running:
            return
        if self._timer is None or not self._timer.active():
            self._timer = self.clock.callLater(seconds, self._begin)
        elif self._timer.getTime() > self.clock.seconds() + seconds:
            self._timer.reset(seconds)

    def _begin(self) -> None:
        self._writing = Deferred.fromCoroutine(self._write())
        if self._writing.called:
            self._ended(self._writing.result)
        else:
            self._writing.addCallback(self._ended)

    def _ended(self, succeeded: Any) -> Any:
        self._writing = None
        if not succeeded:
            self._write_in(self._pace.retry)
        elif len(self._buffer) >= self._pace.batch:
            self._write_in(self._pace.pause)
        elif self._buffer or self._dropped:
            self._write_in(self._pace.gather)
        return succeeded

    async def _write(self) -> bool:
        """Write a batch; return whether that went well.  Never raises."""
        assert self._store is not None
        if not self._store.has_room_for(0):
            return False
        taken = [self._buffer.popleft() for _ in range(min(self._pace.batch, len(self._buffer)))]
        self._held.subtract(source for source, _ in taken)
        self._held += Counter()  # forget those that hold nothing
        dropped, since = self._dropped, self._dropped_since
        self._dropped = 0
        entries = [entry for _, entry in taken]
        if dropped:
            entries.append(Entry(self.clock.seconds(), Dropped(dropped, since)))
        try:
            await self._store.write(record, entries)
        except TemporaryFailure:
            # The database has said so in the log. All of it again, in its order.
            self._buffer.extendleft(reversed(taken))
            self._held.update(source for source, _ in taken)
            self._drop(dropped, since)
            return False
        except Exception:
            self._log.failure("a defect: {count} events could not be written, and are lost", count=len(taken))
            self._drop(dropped, since)
            self._drop(len(taken), taken[0][1].time if taken else since)
            return False
        return True

    def _drop(self, count: int, since: float) -> None:
        if count:
            self._dropped_since = min(since, self._dropped_since) if self._dropped else since
            self._dropped += count

    # -- pruning --------------------------------------------------------------------------------------------------

    def _prune(self) -> None:
        Deferred.fromCoroutine(self._prune_slice()).addCallback(self._pruned)

    async def _prune_slice(self) -> bool:
        """Remove a slice; return whether there is more."""
        assert self._store is not None
        before = self.clock.seconds() - self._keep.days * 86400
        try:
            return bool(await self._store.write(prune, before=before, keep=self._keep.rows))
        except TemporaryFailure:
            return False
        except Exception:
            self._log.failure("a defect: old events could not be removed")
            return False

    def _pruned(self, more: bool) -> None:
        if self._running:
            self._pruning = self.clock.callLater(self._pace.pause / 2 if more else self._pace.prune, self._prune)


class ConnectionJournal:
    """The journal of one connection.

    ``number`` is what `mailsvc.mail.envelope.Origin.session` wants, so that a message's own events are found with
    those of its connection.
    """

    __slots__ = ("_began", "_handshaking", "_journal", "_network", "_tls", "_told", "listener", "number", "peer")

    def __init__(self, journal: Journal, listener: str, peer: str, number: int) -> None:
        self.listener = listener
        self.peer = peer
        self.number = number
        self._journal = journal
        self._network = network(peer)
        self._began = journal.clock.seconds()
        self._handshaking = False
        self._told = False
        self._tls: TLSFacts | None = None

    def connected(self) -> None:
        """A client connected."""
        if self._journal.log_sessions:
            maillog.connected(self.listener, self.peer)
        self._note(Connected(self.listener))

    def handshake_begun(self) -> None:
        """A TLS handshake is to follow; until `secured` the end of the connection is its failure."""
        self._handshaking = True

    def secured(self, tls: TLSFacts) -> None:
        """A TLS handshake was completed."""
        self._handshaking = False
        self._tls = tls
        if self._journal.log_sessions:
            maillog.secured(self.listener, self.peer, tls)
        self._note(Secured(tls.version, tls.cipher, tls.server_name or ""), tls)

    def handshake_failed(self, why: str) -> None:
        """A TLS handshake was begun and came to nothing."""
        self._handshaking = False
        maillog.refused(self.listener, self.peer, "TLS handshake", why)
        self._note(HandshakeFailed(why))

    def injected(self, octets: int) -> None:
        """Something stood behind STARTTLS in clear."""
        maillog.injection(self.listener, self.peer, octets)
        self._note(Injected(octets))

    def logged_in(self, account: str, mechanism: str = "") -> None:
        """A login succeeded."""
        maillog.logged_in(self.listener, self.peer, account, self._tls)
        self._note(LoggedIn(account, mechanism))

    def login_failed(self, name: str, mechanism: str = "", reply: str = "", why: str = "") -> None:
        """A login was refused with ``reply``; ``name`` is what the client gave as one, ``why`` is not told to it."""
        self._told = True
        maillog.login_failed(self.listener, self.peer, name)
        self._note(LoginFailed(_if_address(name), mechanism, reply, why))

    def answered(self, what: str, reply: str) -> None:
        """A command got an error as its answer; noted unless what led to it has just been told."""
        told, self._told = self._told, False
        if not told:
            self.refused(what, reply)
            self._told = False

    def refused(self, what: str, reply: str, *, sender: str = "", recipients: tuple[str, ...] = ()) -> None:
        """A command, a message or the session was refused with ``reply``; ``what`` holds no words of the client."""
        self._told = True
        about = f"{what} <{recipients[0]}>" if len(recipients) == 1 else what
        maillog.refused(self.listener, self.peer, about, reply)
        self._note(Refused(what, reply, sender, recipients))

    def unavailable(self, what: str, why: Exception) -> None:
        """Something that may heal kept us from doing what was asked: the client was told to try again."""
        self._told = True
        maillog.unavailable(self.listener, self.peer, what, why)
        self._note(Unavailable(what, str(why)))

    def accepted(self, trace_id: str, sender: str, recipients: Iterable[str], octets: int) -> None:
        """A message was committed, and the event with it."""
        self._journal.counts[Accepted.kind] += 1
        maillog.accepted(trace_id, self.peer, sender, tuple(recipients), octets, self._tls)

    def maildrop_closed(
        self,
        account: str,
        credential: str,
        *,
        retrieved: int,
        fetched: Iterable[int] = (),
        removed: Iterable[int] = (),
        done: Carried | None = None,
    ) -> None:
        """A POP3 session after login ended; ``fetched`` and ``removed`` are the numbers of the messages, ``done`` is
        what QUIT did, None without it."""
        orderly, done = done is not None, done or Carried(0, 0, by_device=False)
        if orderly:
            maillog.maildrop_closed(self.listener, self.peer, account, retrieved, done.deleted)
        first, gone = tuple(fetched)[:LIST_LIMIT], tuple(removed)[:LIST_LIMIT]
        counts = (done.deleted, orderly, first, gone, credential, done.by_device, done.left)
        self._note(MaildropClosed(account, retrieved, *counts))

    def noted(self, text: str, *about: str) -> None:
        """A decision in a sentence of ours, about these addresses."""
        self._note(Noted(text, about))

    def defect(self, failure: Failure) -> None:
        """Our own mistake; the traceback goes to the log only."""
        self._told = True
        maillog.defect(self.listener, self.peer, failure)
        self._note(Defect(failure.type.__name__ if failure.type is not None else ""))

    def disconnected(self, why: str) -> None:
        """The connection is gone."""
        if self._handshaking:
            self.handshake_failed(why)
        if self._journal.log_sessions:
            maillog.disconnected(self.listener, self.peer, why)
        self._note(Disconnected(round(self._journal.clock.seconds() - self._began, 3), why))

    def _note(self, event: Event, tls: TLSFacts | None = None) -> None:
        now = self._journal.clock.seconds()
        self._journal.note(Entry(now, event, session=self.number, peer=self.peer, tls=tls), self._network)


def _if_address(name: str) -> str:
    """``name`` when it is a mail address, else "": it could be the password, typed in the wrong place."""
    try:
        return str(parse_address(name))
    except AddressError:
        return ""
