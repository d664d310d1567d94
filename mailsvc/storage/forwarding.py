"""Mail that goes on to other servers, as rows: the secret of rewritten senders, and where bounces to them lead.

`led` is what a recipient means for whoever asks the tables: `mailsvc.storage.aliases.resolution`, and before it the
addresses that `mailsvc.relay.srs` made.  They come first, so that a catch-all does not swallow bounces.
"""

from __future__ import annotations

import secrets

from mailsvc.directory.resolve import Resolution, Step
from mailsvc.mail.address import Address
from mailsvc.relay.srs import Rewriter, is_rewritten
from mailsvc.storage.accounts import domain_exists
from mailsvc.storage.aliases import resolution
from mailsvc.storage.rows import Cursor, maybe, one


def rewriter(txn: Cursor) -> Rewriter:
    """The rewriter of this database; its secret is made when there is none.  In a transaction that writes."""
    txn.execute("INSERT INTO forward_secret (id, secret) VALUES (1, ?) ON CONFLICT (id) DO NOTHING", (_new(),))
    (secret,) = one(txn.execute("SELECT secret FROM forward_secret WHERE id = 1"))
    return Rewriter(bytes(secret))


def led(txn: Cursor, address: Address, *, hostname: str = "", programs: bool = False, now: float) -> Resolution:
    """Where `address` leads at the time `now`, for the arguments of `resolution`."""
    origin = _origin(txn, address, now) if is_rewritten(address) else None
    if origin is None:
        return resolution(txn, address, hostname=hostname, programs=programs)
    step = Step(str(address), 0, f"is what we made of the sender {origin} when we forwarded a message")
    if not domain_exists(txn, origin.domain):
        return Resolution(address, (step,), (), (), (origin,), None, True, False, bounces_only=True)
    # The sender's domain has become one of ours meanwhile.
    found = resolution(txn, origin, hostname=hostname, programs=programs)
    return Resolution(
        address,
        (step, *found.steps),
        found.accounts,
        found.programs,
        found.remotes,
        found.refusal,
        True,
        found.is_reserved,
        bounces_only=True,
    )


def forwarded_sender(txn: Cursor, sender: Address | None, through: Address, now: float) -> str:
    """The reverse-path ("" for the null sender) of a message for `through`, an address of ours, that goes on elsewhere.

    A sender of ours stays, and so does one that has no room in a rewritten address.
    """
    if sender is None:
        return ""
    if domain_exists(txn, sender.domain) or not domain_exists(txn, through.domain):
        return str(sender)
    return str(rewriter(txn).forward(sender, through.domain, now) or sender)


def _origin(txn: Cursor, address: Address, now: float) -> Address | None:
    row = maybe(txn.execute("SELECT secret FROM forward_secret WHERE id = 1"))
    if row is None or not domain_exists(txn, address.domain):
        return None
    return Rewriter(bytes(row[0])).back(address, now)


def _new() -> bytes:
    return secrets.token_bytes(32)
