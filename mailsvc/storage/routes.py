"""Routes and the credentials for relays, as rows; what they mean is `mailsvc.relay.routes` and `mailsvc.relay.logins`.

Plain functions of a cursor.  The hardest idea: a row is read as strictly as it was written.  A URL goes through
`parse_relay` again, so that whoever wrote into the table by other means cannot have one that promises what it does not
demand; a route that cannot be read is an error that holds the mail, never "no route".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mailsvc.errors import AlreadyExists, MailsvcError, NotFound, TemporaryFailure
from mailsvc.mail.address import Address
from mailsvc.relay.logins import LoginKind, RelayLogin
from mailsvc.relay.routes import Plan, Route, RouteKind, plan
from mailsvc.relay.url import parse_relay
from mailsvc.storage.rows import Cursor, Row, many, maybe, one
from mailsvc.tls.sealing import RELAY_LOGIN, SealingKey, seal, unseal

MOST_ROUTES = 100_000
"""A route is a row that is asked for by its key; the list is for people."""


def add_route(txn: Cursor, route: Route, now: float, *, replace: bool = False) -> bool:
    """Write the route, and return whether there was one of its kind and key.

    Raises `AlreadyExists` for that when ``replace`` is not given, `MailsvcError` past `MOST_ROUTES`.
    """
    known = maybe(txn.execute("SELECT id FROM route WHERE kind = ? AND key = ?", (route.kind.value, route.key)))
    if known is not None:
        if not replace:
            raise AlreadyExists(
                f"there is a route {route.name} already; --replace puts this one in its place,"
                " and several URLs of one route are given together"
            )
        txn.execute("DELETE FROM route WHERE id = ?", known)
    (present,) = one(txn.execute("SELECT COUNT(*) FROM route"))
    if present >= MOST_ROUTES:
        raise MailsvcError(f"there are {present} routes already; remove one that is not used")
    (route_id,) = one(
        txn.execute(
            "INSERT INTO route (kind, key, at_once, created) VALUES (?, ?, ?, ?) RETURNING id",
            (route.kind.value, route.key, route.at_once, now),
        )
    )
    weights: Sequence[int | None] = route.weights or [None] * len(route.relays)
    txn.executemany(
        "INSERT INTO route_relay (route_id, position, url, weight) VALUES (?, ?, ?, ?)",
        [
            (route_id, position, str(relay), weight)
            for position, (relay, weight) in enumerate(zip(route.relays, weights, strict=True))
        ],
    )
    return known is not None


def remove_route(txn: Cursor, kind: RouteKind, key: str) -> None:
    """Remove the route; `NotFound` when there is none."""
    txn.execute("DELETE FROM route WHERE kind = ? AND key = ?", (kind.value, key))
    if txn.rowcount != 1:
        raise NotFound(
            f"there is no route {' '.join((kind.value, key)).strip()}; `mailsvc route list` shows what there is"
        )


def routes(txn: Cursor) -> list[Route]:
    """All routes, by kind in the order in which they are asked, then by key."""
    rows = many(
        txn.execute(
            "SELECT route.kind, route.key, route_relay.url, route_relay.weight, route.at_once"
            " FROM route JOIN route_relay ON route_relay.route_id = route.id"
            " ORDER BY route.kind, route.key, route_relay.position"
        )
    )
    found: dict[tuple[str, str], list[Row]] = {}
    for kind, key, *relay in rows:
        found.setdefault((kind, key), []).append(tuple(relay))
    order = list(RouteKind)
    listed = [_route(RouteKind(kind), key, relays) for (kind, key), relays in found.items()]
    return sorted(listed, key=lambda route: (order.index(route.kind), route.key))


def planned(txn: Cursor, recipient: Address, sender: Address | None, account: Address | None) -> Plan:
    """`mailsvc.relay.routes.plan` on what the transaction sees.  Raises `TemporaryFailure` for a damaged row."""
    return plan(recipient, sender, account, RouteRows(txn))


class RouteRows:
    """`mailsvc.relay.routes.RouteTable`, read in one transaction."""

    def __init__(self, txn: Cursor) -> None:
        self._txn = txn

    def route(self, kind: RouteKind, key: str) -> Route | None:
        """The route of this kind and key."""
        rows = many(
            self._txn.execute(
                "SELECT route_relay.url, route_relay.weight, route.at_once"
                " FROM route JOIN route_relay ON route_relay.route_id = route.id"
                " WHERE route.kind = ? AND route.key = ? ORDER BY route_relay.position",
                (kind.value, key),
            )
        )
        return _route(kind, key, rows) if rows else None


def _route(kind: RouteKind, key: str, rows: Sequence[Row]) -> Route:
    try:
        relays = tuple(parse_relay(url) for url, _, _ in rows)
        weights = tuple(weight for _, weight, _ in rows if weight is not None)
        return Route(kind, key, relays, weights, at_once=rows[0][2])
    except MailsvcError as error:
        name = " ".join((kind.value, key)).strip()
        raise TemporaryFailure(f"the route {name} in the database is damaged ({error}); add it anew") from None


# -- credentials -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoginRow:
    """Credentials as they are listed, without their secret; ``sealed_by`` is "" when there is none.

    ``mechanisms``: as in `mailsvc.relay.logins.RelayLogin`.
    """

    label: str
    kind: LoginKind
    user: str
    sealed_by: str
    changed: float
    sealed: bytes = field(default=b"", repr=False)
    mechanisms: tuple[str, ...] = ()


def put_login(txn: Cursor, login: RelayLogin, key: SealingKey | None, now: float) -> bool:
    """Write the credentials, in place of others of the same label; return whether there were some.

    ``key`` may be None for those without a secret; else `MailsvcError` is raised.
    """
    sealed, sealed_by = b"", ""
    if login.secret:
        if key is None:
            raise MailsvcError("there is no key to seal a secret with; name a file with [certificates] key_file")
        sealed, sealed_by = seal(key, login.label, login.secret.encode("utf-8"), RELAY_LOGIN), key.name
    known = maybe(txn.execute("SELECT 1 FROM relay_login WHERE label = ?", (login.label,))) is not None
    txn.execute(
        "INSERT INTO relay_login (label, kind, username, sealed, sealed_by, changed, mechanisms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (label) DO UPDATE SET kind = excluded.kind, username = excluded.username,"
        " sealed = excluded.sealed, sealed_by = excluded.sealed_by, changed = excluded.changed,"
        " mechanisms = excluded.mechanisms",
        (login.label, login.kind.value, login.user, sealed, sealed_by, now, " ".join(login.mechanisms)),
    )
    return known


def login_rows(txn: Cursor) -> list[LoginRow]:
    """All credentials, by label."""
    rows = many(txn.execute(f"SELECT {_LOGIN} FROM relay_login ORDER BY label"))
    return [_login_row(*row) for row in rows]


def login_row(txn: Cursor, label: str) -> LoginRow | None:
    """The credentials of this label, or None."""
    row = maybe(txn.execute(f"SELECT {_LOGIN} FROM relay_login WHERE label = ?", (label,)))
    return None if row is None else _login_row(*row)


def opened(row: LoginRow, key: SealingKey | None) -> RelayLogin:
    """The credentials with their secret.  Raises `MailsvcError` when ``key`` is not the one that it was sealed with."""
    if not row.sealed_by:
        return RelayLogin(row.label, row.kind, row.user)
    if key is None or key.name != row.sealed_by:
        which = "there is no key" if key is None else "the key in use is another one"
        raise MailsvcError(
            f"the credentials {row.label} are sealed with the key {row.sealed_by}, and {which};"
            " name its file with [certificates] key_file, or add the credentials again"
        )
    secret = unseal(key, row.label, row.sealed, RELAY_LOGIN).decode("utf-8")
    return RelayLogin(row.label, row.kind, row.user, secret, row.mechanisms)


def remove_login(txn: Cursor, label: str) -> None:
    """Remove the credentials; `NotFound` when there are none, `MailsvcError` while a route names them."""
    using = [route.name for route in routes(txn) if any(relay.label == label for relay in route.relays)]
    if using:
        raise MailsvcError(f"the credentials {label} are used by the route {using[0]}; remove or replace that first")
    txn.execute("DELETE FROM relay_login WHERE label = ?", (label,))
    if txn.rowcount != 1:
        raise NotFound(f"there are no credentials {label}; `mailsvc route credentials list` shows what there is")


_LOGIN = "label, kind, username, sealed_by, changed, sealed, mechanisms"


def _login_row(
    label: str, kind: str, user: str, sealed_by: str, changed: float, sealed: bytes, mechanisms: str
) -> LoginRow:
    return LoginRow(label, LoginKind(kind), user, sealed_by, changed, bytes(sealed), tuple(mechanisms.split()))
