"""Devices as rows: which programs fetch an account's mail, what each has fetched and deleted, and when mail leaves.

A device is a credential of an account: its password, one of its app passwords or certificates.  In an account that
deletes by device (`mailsvc user set ADDRESS --deletes device`) DELE is a mark of the one device, which does not see the
message any more.  The message leaves the maildrop when every device *in use* has marked it: one that has logged in
since a certain time.

The hardest idea is who is asked, and when.  A device that nobody has heard of holds nothing back, so logins are noted
in every account, also before it deletes by device; to the hour only, so that a login rarely writes.  In an account that
deletes by device the note is written *before* the device is shown its mail: from then on no other can remove what it is
shown.  A revoked app password takes its device along (a foreign key).  What it alone had held back, and what a device
held back that is not used any more, goes by `sweep`.

What QUIT does is decided by what holds in its own transaction, not by what held at login: whether the login is still
good (a stolen phone, whose app password was revoked meanwhile, removes nothing), and what DELE means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mailsvc.errors import MailsvcError, NotFound
from mailsvc.mail.event import LIST_LIMIT, Cleared
from mailsvc.mail.snapshot import Snapshot
from mailsvc.mail.surrogate import Appearance
from mailsvc.storage import events
from mailsvc.storage.credentials import still_holds
from mailsvc.storage.deleted import SLICE, Removal, remove
from mailsvc.storage.identities import CREDENTIAL
from mailsvc.storage.mailboxes import snapshot
from mailsvc.storage.rows import Cursor, many, maybe, one
from mailsvc.storage.surrogates import appearances

NOTED_EVERY = 3600.0
"""Seconds: a device's last login is exact to this."""


class LoginEnded(MailsvcError):
    """The login that a session began with does not hold any more."""


@dataclass(frozen=True, slots=True)
class Device:
    """A credential that has logged in as an account: its name, and when its password was set (None: not ours to know).

    `app_password` is the row id of the app password that it is, `certificate` the fingerprint of the key, if it is one.
    """

    account_id: int
    credential: str
    app_password: int | None = None
    changed: float | None = None
    certificate: str = ""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a session sees when it opens a maildrop.

    `by_device`: DELE is for this device only. `device_id` is None for one that is not noted, or not noted lately; a
    session that deletes by device is then shown nothing (`items` is None) before `note_login`. `expire_days` is the
    account's own, None for the configured. `appearances` are those of `mailsvc.storage.surrogates`.
    """

    by_device: bool
    device_id: int | None
    expire_days: int | None
    items: Snapshot | None
    appearances: dict[int, Appearance] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Carried:
    """What QUIT has done: `deleted` messages, of which `left` have left the maildrop."""

    deleted: int
    left: int
    by_device: bool


@dataclass(frozen=True, slots=True)
class DeviceListing:
    """A device of an account for people: times in seconds since the epoch, how many of the messages that are there it
    has fetched and deleted; `label` is that of its app password."""

    credential: str
    label: str | None
    first_login: float
    last_login: float
    fetched: int
    deleted: int


def open_maildrop(txn: Cursor, device: Device, now: float) -> Opening:
    """What `device` is shown at `now` (seconds since the epoch); `LoginEnded` when the account is gone."""
    row = maybe(txn.execute("SELECT deletes, expire_days FROM account WHERE id = ?", (device.account_id,)))
    if row is None:
        raise LoginEnded("the account has been removed")
    by_device, expire_days = row[0] == "device", row[1]
    device_id = _noted(txn, device, since=now - NOTED_EVERY)
    if by_device and device_id is None:
        return Opening(True, None, expire_days, None)
    items = snapshot(txn, device.account_id, now, device_id if by_device else None)
    return Opening(by_device, device_id, expire_days, items, appearances(txn, device.account_id))


def note_login(txn: Cursor, device: Device, now: float) -> int:
    """Note that `device` has logged in, return its row id; `LoginEnded` when its credential is gone."""
    if not still_holds(txn, device.account_id, device.app_password, device.changed, device.certificate, now=now):
        raise LoginEnded("the password was changed or revoked")
    (device_id,) = one(
        txn.execute(
            "INSERT INTO device (account_id, credential, app_password, first_login, last_login)"
            " VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (account_id, credential) DO UPDATE SET last_login = excluded.last_login RETURNING id",
            (device.account_id, device.credential, device.app_password, now, now),
        )
    )
    return int(device_id)


def note_fetched(txn: Cursor, device_id: int, uids: Sequence[int], now: float) -> None:
    """Note that a device has fetched these items, those that are still there."""
    txn.executemany(
        "INSERT INTO device_item (account_id, uid, device_id, fetched)"
        " SELECT item.account_id, item.uid, device.id, ? FROM device"
        " JOIN mailbox_item AS item ON item.account_id = device.account_id AND item.uid = ? WHERE device.id = ?"
        " ON CONFLICT (account_id, uid, device_id) DO UPDATE SET fetched = COALESCE(fetched, excluded.fetched)",
        [(now, uid, device_id) for uid in uids],
    )


def carry_out(txn: Cursor, device: Device, uids: Sequence[int], how: Removal, in_use_since: float) -> Carried:
    """Delete what a session has marked, as DELE is meant now; devices that have logged in since are in use.

    An item that is gone already is not counted and no error.  `LoginEnded` when the login does not hold any more;
    nothing is deleted then.
    """
    if not still_holds(txn, device.account_id, device.app_password, device.changed, device.certificate, now=how.time):
        raise LoginEnded("the password was changed or revoked")
    if not deletes_by_device(txn, device.account_id):
        removed = remove(txn, device.account_id, uids, how)
        return Carried(removed, removed, False)
    # Not noted when the account has begun to delete by device only after the login of an hour ago.
    device_id = _noted(txn, device) or note_login(txn, device, how.time)
    deleted = [uid for uid in uids if _mark(txn, device.account_id, uid, device_id, how.time)]
    others = _in_use(txn, device.account_id, in_use_since) - {device_id}
    leaving = [uid for uid in deleted if others <= _deleted_by(txn, device.account_id, uid)]
    return Carried(len(deleted), remove(txn, device.account_id, leaving, how), True)


def sweep(txn: Cursor, account_id: int, in_use_since: float, now: float) -> int:
    """Remove a slice of what every device in use has deleted already; return how many.

    That is what another device has held back that was revoked, or is not in use any more.  Where no device is in use
    nothing is removed.
    """
    in_use = _in_use(txn, account_id, in_use_since)
    if not in_use or not deletes_by_device(txn, account_id):
        return 0
    # All of them have deleted it, so this one has as well; the one with the least is the shortest way.
    counted = [(_deleted_count(txn, device_id), device_id) for device_id in in_use]
    rest = sorted(in_use)
    _, fewest = min(counted)
    rest.remove(fewest)
    also = " AND EXISTS (SELECT 1 FROM device_item AS other WHERE other.account_id = mine.account_id"
    also += " AND other.uid = mine.uid AND other.device_id = ? AND other.deleted IS NOT NULL)"
    rows = many(
        txn.execute(
            "SELECT mine.uid, item.message_id FROM device_item AS mine"
            " JOIN mailbox_item AS item ON item.account_id = mine.account_id AND item.uid = mine.uid"
            f" WHERE mine.device_id = ? AND mine.deleted IS NOT NULL{also * len(rest)} LIMIT ?",
            (fewest, *rest, SLICE),
        )
    )
    return clear(txn, account_id, rows, Removal(now))


def clear(txn: Cursor, account_id: int, rows: Sequence[Sequence[int]], how: Removal) -> int:
    """Remove items that no session removes, given as (uid, message id) and all there, and keep an event of it; return
    how many."""
    removed = remove(txn, account_id, [uid for uid, _ in rows], how)
    if removed:
        (address,) = one(txn.execute("SELECT address FROM account WHERE id = ?", (account_id,)))
        for start in range(0, len(rows), LIST_LIMIT):
            messages = tuple(message_id for _, message_id in rows[start : start + LIST_LIMIT])
            events.record(txn, [events.Entry(how.time, Cleared(str(address), how.why, len(messages), messages))])
    return removed


def accounts_by_device(txn: Cursor) -> list[int]:
    """The row ids of the accounts that delete by device."""
    return [int(number) for (number,) in many(txn.execute("SELECT id FROM account WHERE deletes = 'device'"))]


def deletes_by_device(txn: Cursor, account_id: int) -> bool:
    """Whether DELE is for one device only; False also when there is no such account."""
    return maybe(txn.execute("SELECT 1 FROM account WHERE id = ? AND deletes = 'device'", (account_id,))) is not None


def set_deletes(txn: Cursor, key: str, *, by_device: bool) -> None:
    """Say what DELE means in an account from now on; `NotFound`.

    The marks of the devices are forgotten when it is not by device any more: what some of them had deleted and others
    had not is shown to all again. A mistake must not cost anybody his mail.
    """
    mode = "device" if by_device else "account"
    row = maybe(txn.execute("UPDATE account SET deletes = ? WHERE key = ? RETURNING id", (mode, key)))
    if row is None:
        raise NotFound(f"there is no account {key}; `mailsvc user list` shows them")
    if not by_device:
        txn.execute("DELETE FROM device_item WHERE account_id = ?", row)


def devices(txn: Cursor, account_id: int) -> list[DeviceListing]:
    """The devices of an account, the one with the latest login first."""
    rows = many(
        txn.execute(
            "SELECT device.credential, COALESCE(app_password.label, known.label),"
            " device.first_login, device.last_login, COUNT(item.fetched), COUNT(item.deleted) FROM device"
            " LEFT JOIN app_password ON app_password.id = device.app_password"
            " LEFT JOIN account_certificate AS known ON ? || known.spki = device.credential"
            " LEFT JOIN device_item AS item ON item.device_id = device.id WHERE device.account_id = ?"
            " GROUP BY device.id, device.credential, app_password.label, known.label,"
            " device.first_login, device.last_login"
            " ORDER BY device.last_login DESC, device.id",
            (CREDENTIAL, account_id),
        )
    )
    return [DeviceListing(*row) for row in rows]


def _noted(txn: Cursor, device: Device, since: float = 0.0) -> int | None:
    row = maybe(
        txn.execute(
            "SELECT id FROM device WHERE account_id = ? AND credential = ? AND last_login >= ?",
            (device.account_id, device.credential, since),
        )
    )
    return None if row is None else int(row[0])


def _mark(txn: Cursor, account_id: int, uid: int, device_id: int, now: float) -> bool:
    """Put the mark of a device on an item; whether the item is there."""
    txn.execute(
        "INSERT INTO device_item (account_id, uid, device_id, deleted)"
        " SELECT account_id, uid, ?, ? FROM mailbox_item WHERE account_id = ? AND uid = ?"
        " ON CONFLICT (account_id, uid, device_id) DO UPDATE SET deleted = COALESCE(deleted, excluded.deleted)",
        (device_id, now, account_id, uid),
    )
    return txn.rowcount == 1


def _in_use(txn: Cursor, account_id: int, since: float) -> set[int]:
    rows = many(txn.execute("SELECT id FROM device WHERE account_id = ? AND last_login >= ?", (account_id, since)))
    return {int(number) for (number,) in rows}


def _deleted_by(txn: Cursor, account_id: int, uid: int) -> set[int]:
    rows = many(
        txn.execute(
            "SELECT device_id FROM device_item WHERE account_id = ? AND uid = ? AND deleted IS NOT NULL",
            (account_id, uid),
        )
    )
    return {int(number) for (number,) in rows}


def _deleted_count(txn: Cursor, device_id: int) -> int:
    (count,) = one(
        txn.execute("SELECT COUNT(*) FROM device_item WHERE device_id = ? AND deleted IS NOT NULL", (device_id,))
    )
    return int(count)
