"""Writing a Maildir or an mbox file: private, durable, resumable, and nobody else's file ever touched.

A target is asked for a message with `add` and says whether it was there already; `finish` makes the result whole.  The
files are 0600, the folders 0700, and what `add` has returned from survives a power cut (an mbox: since the last
`keep`).

The hardest idea is how a run finds what an earlier one has done.  In a Maildir each message has a name that can be made
again (`mailsvc.mailbox.maildir.stem`), and comes into `cur` whole by link(2), which never replaces a file.  An mbox has
no names: it is written as ``FILE.partial``, and beside it ``FILE.partial.json`` says up to which uid and which octet it
is good, and when it was begun; a run cuts it there and goes on.  What was held back when it was begun (FUTURERELEASE)
stays out of it: its uid may be one that the run does not come to again.  FILE appears when all is in it.  Both must be
our own files with one name only: otherwise who owns the folder could make root cut, and write into, any file of the
machine.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import BinaryIO

from mailsvc.errors import AlreadyExists, MailsvcError
from mailsvc.mailbox import maildir, mbox, uidlist
from mailsvc.mailbox.lineends import ToLf
from mailsvc.mailbox.reading import Skipped, open_uidlist
from mailsvc.storage.exports import Outgoing

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_UIDLIST = "dovecot-uidlist"

Content = Callable[[], Iterable[bytes]]
"""Gives the octets of a message with CRLF, each time from the beginning."""


class MaildirTarget:
    """A Maildir at `path`, made when it is not there, for the mail of `address`.

    Raises `MailsvcError` or OSError: also when the folder has a dovecot-uidlist of a Dovecot's own mail, because what
    is there has unique-ids that we cannot know of.
    """

    def __init__(self, path: str, address: str) -> None:
        self._path = path
        self._address = address
        self._records: list[uidlist.Record] = []
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        self._top = _folder(path, None)
        try:
            # Another run would remove what this one has in tmp.
            fcntl.flock(self._top, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._top)
            raise MailsvcError(f"another export is writing {path}; wait until it has ended") from None
        self._list = self._own_list()
        self._listed = {} if self._list is None else {one.uid: name for name, one in self._list.records.items()}
        for name in ("tmp", "new", "cur"):
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=self._top)
        self._tmp, new, self._cur = (_folder(name, self._top) for name in ("tmp", "new", "cur"))
        self._there = {
            maildir.beginning_of(name): maildir.unique_part(name)
            for folder in (new, self._cur)
            for name in map(os.fsencode, os.listdir(folder))
            if maildir.is_ours(name)
        }
        os.close(new)
        for left in os.listdir(self._tmp):  # by a run that was killed: nobody else has names like ours
            if maildir.is_ours(os.fsencode(left)):
                os.unlink(left, dir_fd=self._tmp)

    def _own_list(self) -> uidlist.UidList | None:
        try:
            found = open_uidlist(os.path.join(self._path, _UIDLIST))
        except FileNotFoundError:
            return None
        except Skipped as error:
            raise MailsvcError(f"{self._path}/{_UIDLIST}: {error}") from None
        if all(maildir.is_ours(name) for name in found.records):
            return found
        raise AlreadyExists(
            f"{self._path} holds mail of a Dovecot (its {_UIDLIST} names messages that are not from an export);"
            " export into a new folder"
        )

    def add(self, item: Outgoing, content: Content) -> bool:
        """Write a message; False when it is there already."""
        beginning = maildir.stem(self._address, item.received_at, item.uid, item.uidl)
        name = self._there.get(beginning.encode())
        if name is None:
            listed = self._listed.get(item.uid)
            if listed is not None and maildir.beginning_of(listed) != beginning.encode():  # before a file is written
                raise self._of_another()
            unique = self._write(beginning, item, content)
            self._record(item, unique.encode())
            return True
        self._record(item, name)
        return False

    def _record(self, item: Outgoing, name: bytes) -> None:
        self._records.append(uidlist.Record(item.uid, name, item.uidl))

    def _write(self, beginning: str, item: Outgoing, content: Content) -> str:
        with open(os.open(beginning, _NEW, 0o600, dir_fd=self._tmp), "wb") as file:
            _write_lf(file, content)
            octets = file.tell()
            file.flush()
            os.utime(file.fileno(), (item.received_at, item.received_at))
            os.fsync(file.fileno())
        unique = maildir.sized(beginning, octets, item.size)
        os.link(beginning, f"{unique}:2,", src_dir_fd=self._tmp, dst_dir_fd=self._cur, follow_symlinks=False)
        os.unlink(beginning, dir_fd=self._tmp)
        return unique

    def keep(self) -> None:
        """Make the new names survive a power cut."""
        os.fsync(self._cur)

    def finish(self, next_uid: int, now: float) -> None:
        """Write the list of unique-ids, in place of the one that an earlier export wrote.

        `next_uid` is above all uids; `now` (seconds since the epoch) becomes the UIDVALIDITY of a new list.
        """
        records = self._merged()
        validity = self._list.validity if self._list else int(now) % 2**32 or 1
        guid = (self._list and self._list.guid) or secrets.token_hex(16)
        highest = max(next_uid, self._list.next_uid if self._list else 0)
        temporary = f"{_UIDLIST}.mailsvc"
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=self._top)
        with open(os.open(temporary, _NEW, 0o600, dir_fd=self._top), "wb") as file:
            file.writelines(uidlist.written(validity, highest, guid, records))
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, _UIDLIST, src_dir_fd=self._top, dst_dir_fd=self._top)
        self.keep()
        os.fsync(self._top)

    def _merged(self) -> list[uidlist.Record]:
        """Ours, and what an earlier export wrote of messages that have left the maildrop since; by uid."""
        if self._list is None:
            return self._records
        names = {record.uid: record.name for record in self._records}
        uids = {record.name: record.uid for record in self._records}
        earlier = self._list.records.values()
        if any(names.get(one.uid, one.name) != one.name or uids.get(one.name, one.uid) != one.uid for one in earlier):
            raise self._of_another()
        kept = [one for one in earlier if one.name not in uids]
        return sorted([*kept, *self._records], key=lambda record: record.uid)

    def _of_another(self) -> AlreadyExists:
        return AlreadyExists(
            f"{self._path} holds the mail of another mailbox, or a Dovecot has numbered it before the export was"
            " complete; export into a new folder"
        )

    def close(self) -> None:
        """Close what is open."""
        for folder in (self._top, self._tmp, self._cur):
            os.close(folder)


class MboxTarget:
    """An mbox file (mboxrd) at `path`, for the mail of `address`, as it is at `now` (seconds since the epoch).

    `begun` is that, or when a run began which this one goes on with.  `AlreadyExists` when there is a file already.
    """

    def __init__(self, path: str, address: str, now: float) -> None:
        self.begun = now
        self._path = path
        self._address = address
        self._partial = f"{path}.partial"
        self._state = f"{path}.partial.json"
        if os.path.lexists(path):
            raise AlreadyExists(f"{path} is there already; export into a new file")
        self._last, octets = self._earlier()
        self._since = self._last
        self._file: BinaryIO = os.fdopen(self._open_partial(octets), "r+b")
        self._file.truncate(octets)
        self._file.seek(octets)

    def _earlier(self) -> tuple[int, int]:
        """Up to which uid and octet an earlier run has come."""
        try:
            with open(os.open(self._state, _OLD | os.O_RDONLY), encoding="utf-8") as file:
                _must_be_ours(file.fileno(), self._state)
                found = json.load(file)
            address, uid, octets = found["address"], int(found["uid"]), int(found["octets"])
            self.begun = float(found["begun"])
        except FileNotFoundError:
            return 0, 0
        except (ValueError, KeyError, TypeError):
            raise MailsvcError(f"{self._state} is not from an export of mailsvc; export into another file") from None
        if address != self._address:
            raise AlreadyExists(f"{self._partial} is an export of {address} that was stopped; export into another file")
        return uid, octets

    def _open_partial(self, octets: int) -> int:
        create = os.O_CREAT | os.O_EXCL if not octets and not os.path.exists(self._state) else 0
        try:
            descriptor = os.open(self._partial, _OLD | os.O_RDWR | create, 0o600)
        except FileExistsError:
            raise AlreadyExists(
                f"{self._partial} is there already, and nothing says that an export wrote it; export into another file"
            ) from None
        except FileNotFoundError:
            raise MailsvcError(
                f"{self._state} tells of an export, but {self._partial} is gone; remove the first to begin anew"
            ) from None
        try:
            _must_be_ours(descriptor, self._partial, octets)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if create:
                self._note(0)
        except BlockingIOError:
            os.close(descriptor)
            raise MailsvcError(f"another export is writing {self._partial}; wait until it has ended") from None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    @property
    def after(self) -> int:
        """The uid up to which all is there."""
        return self._since

    def add(self, item: Outgoing, content: Content) -> bool:
        """Write a message; False when an earlier run has written it."""
        if item.uid <= self._since:
            return False
        self._file.write(mbox.from_line(item.reverse_path, item.received_at))
        quoter = mbox.Quoter()
        ended = _write_lf(self._file, content, quoter)
        self._file.write(b"\n" if ended else b"\n\n")
        self._last = item.uid
        return True

    def keep(self) -> None:
        """Make what was written survive a power cut, and the next run go on behind it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._note(self._file.tell())

    def _note(self, octets: int) -> None:
        temporary = f"{self._state}.new"
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        with open(os.open(temporary, _NEW, 0o600), "w", encoding="utf-8") as file:
            state = {"address": self._address, "begun": self.begun, "uid": self._last, "octets": octets}
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, self._state)

    def finish(self, next_uid: int, now: float) -> None:
        """Give the file its name; `AlreadyExists` when somebody has taken that meanwhile."""
        self.keep()
        try:
            os.link(self._partial, self._path, follow_symlinks=False)
        except FileExistsError:
            raise AlreadyExists(f"{self._path} has appeared meanwhile; the export is in {self._partial}") from None
        os.unlink(self._partial)
        os.unlink(self._state)
        folder = _folder(os.path.dirname(self._path) or ".", None)
        os.fsync(folder)
        os.close(folder)

    def close(self) -> None:
        """Close what is open."""
        self._file.close()


def _write_lf(file: BinaryIO, content: Content, quoter: mbox.Quoter | None = None) -> bool:
    """Write a message with LF, or with CRLF where only that is exact; return whether it ends with a line end."""
    begin = file.tell()
    convert = ToLf()
    last = b"\n"
    for piece in content():
        _quoted(file, convert.feed(piece), quoter)
        last = piece[-1:] or last
    _quoted(file, convert.close(), quoter)
    if quoter is not None:
        file.write(quoter.close())
    if convert.exact:
        return last == b"\n"
    file.seek(begin)
    file.truncate()
    again = None if quoter is None else type(quoter)()
    for piece in content():
        _quoted(file, piece, again)
    if again is not None:
        file.write(again.close())
    return last == b"\n"


def _must_be_ours(descriptor: int, name: str, octets: int = 0) -> None:
    """Raise `MailsvcError` for a file that an export cannot have left here, or that has fewer octets than it left."""
    status = os.fstat(descriptor)
    private = stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_uid == os.geteuid()
    if not private or status.st_size < octets:
        raise MailsvcError(f"{name} is not what an export of ours has left there; export into another file")


def _quoted(file: BinaryIO, piece: bytes, quoter: mbox.Quoter | None) -> None:
    file.write(piece if quoter is None else quoter.feed(piece))


def _folder(name: str, parent: int | None) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=parent)
    except OSError as error:
        raise MailsvcError(f"the folder {name} cannot be used ({error.strerror}); name another one") from None
