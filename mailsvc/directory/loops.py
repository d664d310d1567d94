"""Loops among aliases, found when one is defined (when mail comes, the walk ends by itself: `resolve`).

An alias that has itself as a target, beside an account of that name, is no loop: it keeps a copy.  Everything else
that comes back to where it has been is a mistake of somebody's, although mail might still arrive.
"""

from __future__ import annotations

from mailsvc.directory.resolve import following
from mailsvc.directory.tables import Tables
from mailsvc.mail.address import Address


def loop_from(start: Address, tables: Tables) -> tuple[Address, ...]:
    """The addresses of a loop that is reached from ``start``, its first one repeated at its end; () for none."""
    done: set[str] = set()
    # Depth first with a stack of its own: a chain may be longer than Python's.  Each entry is what was opened on the
    # way, with the address by which it was, and what is still to be followed from there.
    way: list[tuple[str, Address, list[Address]]] = []
    pending = [start]
    while True:
        if not pending:
            if not way:
                return ()
            key, _, _ = way.pop()
            done.add(key)
            pending = way[-1][2] if way else []
            continue
        address = pending.pop()
        opened, further = following(address, tables, alias=way[-1][0] if way else "")
        if not opened or opened in done:
            continue
        before = [key for key, _, _ in way]
        if opened in before:
            ring = [passed for _, passed, _ in way[before.index(opened) :]]
            return (*ring, ring[0])
        way.append((opened, address, sorted(further, key=lambda target: target.key, reverse=True)))
        pending = way[-1][2]
