"""Under which name the queue counts where a row goes, from the routes in the database.

Rows of one name may travel in one conversation, so equal names must mean equal ways.  A domain without a route is its
own name; every other way has its relays in the name, and the limit of conversations when its route has one: two routes
over one relay with limits of their own are two destinations, or the limit would be that of whose row came last.

The hardest idea is what holds when the way is not the table's: a row that the postmaster has rerouted (``via``) goes by
that URL alone.  Functions of a cursor and of values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from mailsvc.errors import MailsvcError
from mailsvc.mail.address import Address, AddressError, parse_address
from mailsvc.relay.routes import Plan, Route, RouteKind, Target, ToBackup, ToMX, ToRelays, plan, targets_of
from mailsvc.relay.seams import Destination
from mailsvc.relay.url import MX, parse_relay
from mailsvc.storage.outbound import OutboundRow
from mailsvc.storage.routes import RouteRows
from mailsvc.storage.rows import Cursor

NAME_LIMIT = 200
"""Characters of a name; a longer one ends in a digest of all of it."""


class _Remembered:
    """A route table that asks once for each route."""

    def __init__(self, rows: RouteRows) -> None:
        self._rows = rows
        self._known: dict[tuple[RouteKind, str], Route | None] = {}

    def route(self, kind: RouteKind, key: str) -> Route | None:
        """See `mailsvc.relay.routes.RouteTable`."""
        if (kind, key) not in self._known:
            self._known[kind, key] = self._rows.route(kind, key)
        return self._known[kind, key]


def ways_of(txn: Cursor, rows: Sequence[OutboundRow]) -> Mapping[tuple[Target, ...], tuple[OutboundRow, ...]]:
    """The rows by what is to be tried for them: all alike, unless a route has changed since they were put together.

    A row whose recipient is no address has nothing to try, and may stand with others of its domain.  Raises
    `mailsvc.errors.MailsvcError` for a route that cannot be read.
    """
    table = _Remembered(RouteRows(txn))
    known: dict[tuple[str, str, str, str], tuple[Target, ...]] = {}
    found: dict[tuple[Target, ...], list[OutboundRow]] = {}
    for row in rows:
        key = (row.recipient.rpartition("@")[2], row.reverse_path, row.account, row.via)
        targets = known.get(key)
        if targets is None:
            try:
                parse_address(row.recipient)
            except AddressError:
                targets = ()
            else:
                targets = known[key] = _plan(row, table).targets
        found.setdefault(targets, []).append(row)
    return {targets: tuple(alike) for targets, alike in found.items()}


def destination_of(txn: Cursor, rows: Sequence[OutboundRow]) -> Mapping[int, Destination]:
    """The destinations of rows by their ids, without those that cannot be read."""
    table = _Remembered(RouteRows(txn))
    places: dict[tuple[str, str, str, str], Destination] = {}
    found = {}
    for row in rows:
        key = (row.recipient.rpartition("@")[2], row.reverse_path, row.account, row.via)
        if key not in places:
            try:
                way = _plan(row, table)
            except MailsvcError:
                continue
            places[key] = Destination(name_of(way), way.at_once)
        found[row.id] = places[key]
    return found


def name_of(way: Plan) -> str:
    """The name of a way, in lower case."""
    text = " ".join(_part(target) for target in way.targets)
    if way.at_once is not None:
        text += f" at-once={way.at_once}"
    name = text.lower()
    if len(name) <= NAME_LIMIT and name == text:
        return name
    return f"{name[: NAME_LIMIT - 17]}#{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _plan(row: OutboundRow, table: _Remembered) -> Plan:
    recipient = parse_address(row.recipient)
    if row.via:
        route = Route(RouteKind.DEFAULT, "", (parse_relay(row.via),))
        return Plan(("the postmaster has said so",), tuple(targets_of(route, recipient.domain)), "via")
    return plan(recipient, _address(row.reverse_path), _address(row.account), table)


def _address(text: str) -> Address | None:
    return parse_address(text) if text else None


def _part(target: Target) -> str:
    match target:
        case ToMX() | ToBackup():
            return target.domain if target.relay == MX else f"{target.domain} {target.relay}"
        case ToRelays():
            weights = [f"*{weight}" for weight in target.weights] or [""] * len(target.relays)
            return ",".join(f"{relay}{weight}" for relay, weight in zip(target.relays, weights, strict=True))
