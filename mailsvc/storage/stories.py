"""From a word that somebody comes with to the events that answer it: `mailsvc why`, without the sentences.

The word may be a trace id, the Message-ID of a message, an address (as sender, recipient or login) or the IP address
of a client; it is looked up as whatever it can be.

The hardest idea is what belongs to a story beside the events that were asked for.  A message's story wants the
connection that brought it, and who fetched it later; a sender's wants where the messages went; a recipient's must not
tell of the other recipients.  All of it is a bounded number of index look-ups, whatever the table holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailsvc.mail.event import (
    DROPPED_KEY,
    Accepted,
    CertificateNews,
    Connected,
    Disconnected,
    HandshakeFailed,
    LoggedIn,
    Secured,
    address_key,
    message_key,
    peer_key,
)
from mailsvc.storage.events import Entry, by_key, by_peer, by_session, by_trace
from mailsvc.storage.rows import Cursor

CONTEXT = tuple(event.kind for event in (Connected, Secured, HandshakeFailed, LoggedIn, Disconnected))
"""The kinds that tell of a connection as such."""

_ORDER = {Connected.kind: 0, Secured.kind: 1, Disconnected.kind: 3}
"""What comes first of things that have the same time; the rest is 2."""

_SESSION_ROWS = 50
_MESSAGE_ROWS = 2000


@dataclass(frozen=True, slots=True)
class Story:
    """The events in the order in which they happened; ``is_cut``: older ones were left out.

    ``gaps`` are the `Dropped` events of the same time: what is missing may have been among those.
    """

    entries: tuple[Entry, ...]
    is_cut: bool = False
    gaps: tuple[Entry, ...] = ()


def story_of(txn: Cursor, word: str, *, since: float = 0.0, limit: int = 1000) -> Story:
    """Everything since the time ``since`` that tells of ``word``, at most the newest ``limit`` events of it."""
    asked, is_message = _asked(txn, word, since, limit)
    found = {entry.number: entry for entry in asked[:limit]}
    for trace_id in _messages_to_follow(asked, word, is_message):
        for entry in by_trace(txn, trace_id, since=since, limit=_MESSAGE_ROWS):
            found.setdefault(entry.number, entry)
    if is_message:
        for message_id in {entry.message_id for entry in asked if entry.message_id is not None}:
            for entry in by_key(txn, message_key(message_id), since=since, limit=_MESSAGE_ROWS):
                found.setdefault(entry.number, entry)
    for session in dict.fromkeys(entry.session for entry in found.values() if entry.session is not None):
        for entry in by_session(txn, session, CONTEXT, limit=_SESSION_ROWS):
            found.setdefault(entry.number, entry)
    if not found:
        return Story(())
    entries = tuple(sorted(found.values(), key=_moment))
    first = max(since, entries[0].time)
    return Story(entries, len(asked) > limit, tuple(by_key(txn, DROPPED_KEY, since=first, limit=100)[::-1]))


def _asked(txn: Cursor, word: str, since: float, limit: int) -> tuple[list[Entry], bool]:
    """The events that were asked for, one more than ``limit`` at most, and whether they are those of messages."""
    more = limit + 1
    bare = word.removeprefix("<").removesuffix(">")
    for trace_id in dict.fromkeys((word, word.upper())):
        if found := by_trace(txn, trace_id, since=since, limit=more):
            return found, True
    if "@" in word:
        # A stranger may write one of our addresses as his Message-ID; that must not hide what is known of the address.
        if bare == word and (found := by_key(txn, address_key(word), since=since, limit=more)):
            return found, False
        if found := by_key(txn, f"<{bare}>", since=since, limit=more):
            return found, True
        return by_key(txn, address_key(bare), since=since, limit=more), False
    if found := by_peer(txn, peer_key(word.removeprefix("[").removesuffix("]")), since=since, limit=more):
        return found, False
    # The word "certificates", or the name of one; other keys of ours are no words to ask for.
    told = by_key(txn, address_key(word), since=since, limit=more)
    return [entry for entry in told if isinstance(entry.event, CertificateNews)], False


def _messages_to_follow(asked: list[Entry], word: str, is_message: bool) -> list[str]:
    """The trace ids of which everything is told: all of a message's, and what ``word`` has sent."""
    key = address_key(word.removeprefix("<").removesuffix(">"))
    followed = []
    for entry in asked:
        if entry.trace_id is None:
            continue
        event = entry.event
        if is_message or (isinstance(event, Accepted) and key in (address_key(event.sender), address_key(event.login))):
            followed.append(entry.trace_id)
    return list(dict.fromkeys(followed))


def _moment(entry: Entry) -> tuple[float, int, int]:
    return entry.time, _ORDER.get(entry.event.kind, 2), entry.number
