"""The downgrade memory and the postmaster's overrides, as rows; what they mean is `mailsvc.tls.memory`.

`domain` is always in lower case and A-label form; `direction` is "in" or "out".
"""

from __future__ import annotations

from dataclasses import dataclass

from mailsvc.errors import NotFound
from mailsvc.storage.rows import Cursor, many, maybe
from mailsvc.tls.levels import Level
from mailsvc.tls.memory import Demand, Memory, Override, demand, learned

_FORGOTTEN_AT_ONCE = 20
"""Old rows that go with each new one, so that the table never holds much more than what is remembered."""


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """A line of the memory; `peer` is "" for mail that goes out."""

    direction: str
    domain: str
    peer: str
    memory: Memory


@dataclass(frozen=True, slots=True)
class OverrideRow:
    """A line of the overrides."""

    direction: str
    domain: str
    override: Override


def demanded(txn: Cursor, direction: str, domain: str, peer: str, now: float, seconds: float) -> Demand:
    """What this peer must show at the time `now`, when it is remembered for `seconds`."""
    return demand(_memory(txn, direction, domain, peer), _override(txn, direction, domain), now, seconds)


def note_shown(
    txn: Cursor, direction: str, domain: str, peer: str, seen: Level, now: float, seconds: float
) -> Memory | None:
    """A peer has shown `seen`; return what is remembered of it anew, None when nothing changed."""
    memory = learned(_memory(txn, direction, domain, peer), seen, now, seconds)
    if memory is None:
        return None
    txn.execute(
        "INSERT INTO tls_memory (direction, domain, peer, level, shown) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (direction, domain, peer) DO UPDATE SET level = excluded.level, shown = excluded.shown",
        (direction, domain, peer, int(memory.level), memory.shown),
    )
    _forget_old(txn, now - seconds)
    return memory


def memories(txn: Cursor, now: float, seconds: float, domain: str | None = None) -> list[MemoryRow]:
    """What is remembered at the time `now`, of one domain or of all, by domain."""
    rows = many(
        txn.execute(
            "SELECT direction, domain, peer, level, shown FROM tls_memory"
            " WHERE shown > ? AND (CAST(? AS TEXT) IS NULL OR domain = ?) ORDER BY domain, direction, peer",
            (now - seconds, domain, domain),
        )
    )
    return [MemoryRow(way, name, peer, Memory(Level(level), shown)) for way, name, peer, level, shown in rows]


def overrides(txn: Cursor, now: float, domain: str | None = None) -> list[OverrideRow]:
    """The overrides that hold at the time `now`, of one domain or of all, by domain."""
    rows = many(
        txn.execute(
            "SELECT direction, domain, level, made, until FROM tls_override"
            " WHERE until > ? AND (CAST(? AS TEXT) IS NULL OR domain = ?) ORDER BY domain, direction",
            (now, domain, domain),
        )
    )
    return [OverrideRow(way, name, Override(Level(level), made, until)) for way, name, level, made, until in rows]


def set_override(txn: Cursor, direction: str, domain: str, override: Override) -> None:
    """Let `override` hold for the domain, instead of another one if there was one; those that have ended go."""
    txn.execute("DELETE FROM tls_override WHERE until <= ?", (override.made,))
    txn.execute(
        "INSERT INTO tls_override (direction, domain, level, made, until) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (direction, domain) DO UPDATE SET"
        " level = excluded.level, made = excluded.made, until = excluded.until",
        (direction, domain, int(override.level), override.made, override.until),
    )


def forget(txn: Cursor, domain: str, direction: str | None = None) -> int:
    """Forget what a domain has shown, and its override; return how many lines went.  `NotFound` when there was none."""
    gone = 0
    for statement in (
        "DELETE FROM tls_memory WHERE domain = ? AND (CAST(? AS TEXT) IS NULL OR direction = ?)",
        "DELETE FROM tls_override WHERE domain = ? AND (CAST(? AS TEXT) IS NULL OR direction = ?)",
    ):
        txn.execute(statement, (domain, direction, direction))
        gone += txn.rowcount
    if not gone:
        raise NotFound(f"nothing is remembered of {domain}; `mailsvc tls policy list` shows what is")
    return gone


def _forget_old(txn: Cursor, before: float) -> None:
    old = many(
        txn.execute(
            "SELECT direction, domain, peer FROM tls_memory WHERE shown <= ? ORDER BY shown LIMIT ?",
            (before, _FORGOTTEN_AT_ONCE),
        )
    )
    txn.executemany("DELETE FROM tls_memory WHERE direction = ? AND domain = ? AND peer = ?", old)


def _memory(txn: Cursor, direction: str, domain: str, peer: str) -> Memory | None:
    row = maybe(
        txn.execute(
            "SELECT level, shown FROM tls_memory WHERE direction = ? AND domain = ? AND peer = ?",
            (direction, domain, peer),
        )
    )
    return None if row is None else Memory(Level(row[0]), row[1])


def _override(txn: Cursor, direction: str, domain: str) -> Override | None:
    row = maybe(
        txn.execute(
            "SELECT level, made, until FROM tls_override WHERE direction = ? AND domain = ?", (direction, domain)
        )
    )
    return None if row is None else Override(Level(row[0]), row[1], row[2])
