"""Opening a Maildir or an mbox file to read it, also as root in the folder of somebody who is not to be trusted.

`Maildir` and `Mbox` give what they hold as `Found` values, in the order in which POP3 shall list it; content is read
when it is asked for, in pieces.  What the octets mean is `mailsvc.mailbox.maildir`, `mbox` and `uidlist`.

The hardest idea is whose files these are.  An import runs as root, the folder belongs to a user, and a user can put a
symbolic link, a hard link, or a pipe where a message is expected.  So nothing is opened by a path that could be
changed meanwhile: files are opened below an open folder, never through a link, and only if they are plain files that
belong to the folder's owner.  What is not is skipped with the reason, and the import goes on.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from mailsvc.errors import MailsvcError
from mailsvc.mailbox import maildir, mbox, uidlist

PIECE = 256 * 1024
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LONGEST_LINE = 64 * 1024
_LARGEST_LIST = 512 * 1024 * 1024
"""Octets of a dovecot-uidlist, which is held in memory: some millions of messages."""


class Skipped(MailsvcError):
    """Why one message cannot be read; `str(error)` goes behind its name."""


@dataclass(frozen=True, slots=True)
class Found:
    """A message in a source.

    `name` is for people, `key` is what makes it one (`mailsvc.storage.imports`), `uidl` the unique-id it has had, None
    for none; `sender` is "" where the source does not say; `position` counts towards `Source.total`. `pieces` gives
    the octets, and raises `Skipped` or OSError.
    """

    name: str
    key: str
    uidl: str | None
    received_at: float
    sender: str
    position: int
    pieces: Callable[[], Iterator[bytes]] = field(repr=False)


class Source(Protocol):
    """Somewhere that messages come from."""

    total: int
    """What `Found.position` grows to."""

    def messages(self) -> Iterator[Found]:
        """All of them, in order."""


def open_uidlist(path: str) -> uidlist.UidList:
    """Read a dovecot-uidlist; raises `UidListRefused`, `Skipped` or OSError."""
    with open(_opened(path, None, None), "rb") as file:
        if os.fstat(file.fileno()).st_size > _LARGEST_LIST:
            raise Skipped(f"it has more than {_LARGEST_LIST:,} octets")
        return uidlist.parse(iter(lambda: file.readline(_LONGEST_LINE), b""))


class Maildir:
    """The inbox of a Maildir, and of its folders (Maildir++) those that are named; a context manager.

    `listed` brings the unique-ids of the inbox. Raises MailsvcError or OSError when there is no such Maildir.
    """

    def __init__(
        self,
        path: str,
        folders: Sequence[str] = (),
        listed: uidlist.UidList | None = None,
        form: uidlist.UidlFormat | None = None,
    ) -> None:
        self._open = ExitStack()
        self._listed = listed
        self._form = form or uidlist.UidlFormat.parse(uidlist.DEFAULT_FORMAT)
        self._files: list[_File] = []
        try:
            top = self._folder(os.path.normpath(path), None)
            self._files += self._inbox_order(self._list(top, ""))
            for name in folders:
                self._files += sorted(self._list(self._folder(f".{name}", top), name), key=_by_time)
        except BaseException:
            self._open.close()
            raise
        self.total = len(self._files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._open.close()

    def messages(self) -> Iterator[Found]:
        """All messages: as Dovecot's POP3 lists them, then those that it has not seen, by their time."""
        for number, file in enumerate(self._files, 1):
            yield Found(
                _shown(file.name, file.box),
                maildir.source_key(file.box, file.name),
                self._uidl(file),
                file.received_at,
                "",
                number,
                file.pieces,
            )

    def _folder(self, name: str, parent: int | None) -> int:
        try:
            descriptor = os.open(name, _READ | os.O_DIRECTORY, dir_fd=parent)
        except OSError as error:
            if _is_link(name, parent):
                raise MailsvcError(f"{name} is a symbolic link; name the folder itself") from None
            raise MailsvcError(f"the folder {name} cannot be read ({error.strerror})") from None
        self._open.callback(os.close, descriptor)
        return descriptor

    def _list(self, box: int, name: str) -> list[_File]:
        files = []
        for part in ("new", "cur"):
            folder = self._folder(part, box)
            owner = os.fstat(folder).st_uid
            for entry in os.listdir(folder):
                if not entry.startswith("."):
                    files.append(_File(folder, owner, os.fsencode(entry), name))
        return files

    def _inbox_order(self, files: list[_File]) -> list[_File]:
        listed = [file for file in files if self._record(file) is not None]
        others = [file for file in files if self._record(file) is None]
        return [*sorted(listed, key=self._by_record), *sorted(others, key=_by_time)]

    def _by_record(self, file: _File) -> tuple[bool, int, int]:
        record = self._record(file)
        assert record is not None
        return uidlist.pop3_order(record)

    def _record(self, file: _File) -> uidlist.Record | None:
        if self._listed is None or file.box:
            return None
        return self._listed.records.get(maildir.unique_part(file.name))

    def _uidl(self, file: _File) -> str | None:
        record = self._record(file)
        if record is None or self._listed is None:
            return None
        return uidlist.uidl_of(record, self._listed.validity, self._form)


class _File:
    """A file in `new` or `cur`; `box` is the folder's name, "" for the inbox."""

    __slots__ = ("_folder", "_owner", "box", "name", "received_at")

    def __init__(self, folder: int, owner: int, name: bytes, box: str) -> None:
        self._folder = folder
        self._owner = owner
        self.name = name
        self.box = box
        self.received_at = maildir.delivered_at(name) or self._modified()

    def _modified(self) -> float:
        try:
            return os.stat(self.name, dir_fd=self._folder, follow_symlinks=False).st_mtime
        except OSError:
            return 0.0

    def pieces(self) -> Iterator[bytes]:
        with open(_opened(self.name, self._folder, self._owner), "rb", buffering=0) as file:
            while piece := file.read(PIECE):
                yield piece


class Mbox:
    """An mbox file; a context manager.  Raises MailsvcError or OSError when it cannot be read."""

    def __init__(self, path: str, quoting: mbox.Quoting) -> None:
        try:
            self._file: BinaryIO = os.fdopen(_opened(path, None, None), "rb")
        except Skipped as error:
            raise MailsvcError(f"{path}: {error}") from None
        status = os.fstat(self._file.fileno())
        if status.st_nlink > 1:
            self._file.close()
            raise MailsvcError(f"{path} has further names (hard links) and may be somebody else's; import a copy of it")
        self._quoting = quoting
        self.total = status.st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    def messages(self) -> Iterator[Found]:
        """All messages of the file, as they stand there; raises `mbox.NotAnMbox`."""
        # The same octets twice are two messages, and a copy of the file has them in the same order.
        seen: Counter[bytes] = Counter()
        for entry in mbox.entries(self._file, self._quoting):
            seen[entry.digest] += 1
            yield Found(
                f"message {entry.number}",
                sha256(b"mbox\0%d\0" % seen[entry.digest] + entry.digest).hexdigest(),
                None,
                entry.received_at,
                entry.sender,
                entry.end,
                lambda entry=entry: self._pieces(entry),  # type: ignore[misc]
            )

    def _pieces(self, entry: mbox.Entry) -> Iterator[bytes]:
        unquoter = None if self._quoting is mbox.Quoting.MBOXCL2 else mbox.Unquoter(self._quoting)
        place = entry.begin
        # Not `seek`: the search for the next message reads the same file.
        while place < entry.end and (piece := os.pread(self._file.fileno(), min(PIECE, entry.end - place), place)):
            place += len(piece)
            yield piece if unquoter is None else unquoter.feed(piece)
        if unquoter is not None:
            yield unquoter.close()


def _opened(name: str | bytes, folder: int | None, owner: int | None) -> int:
    """A descriptor of a plain file that is no link and belongs to `owner`; `Skipped` or OSError."""
    try:
        descriptor = os.open(name, _READ, dir_fd=folder)
    except OSError as error:
        if _is_link(name, folder):
            raise Skipped("it is a symbolic link") from None
        if isinstance(error, FileNotFoundError) and folder is not None:
            raise Skipped("it has gone meanwhile") from None
        if folder is None:
            raise
        raise Skipped(f"it cannot be opened ({error.strerror})") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise Skipped("it is no plain file")
    if owner is not None and status.st_uid != owner:
        os.close(descriptor)
        raise Skipped("it belongs to another user than the folder")
    return descriptor


def _is_link(name: str | bytes, folder: int | None) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _by_time(file: _File) -> tuple[float, bytes]:
    return (file.received_at, file.name)


def _shown(name: bytes, box: str) -> str:
    text = name.decode("utf-8", "backslashreplace")
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return f"{box}: {shown}" if box else shown
