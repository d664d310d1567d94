"""Reading and writing certificate files.

What is read comes back as a `Source`: the bytes *and* the mode and owner of the very file that they came
from, or a sentence why there are none; `certkit.inspect` judges that value and so needs no file system. What
is written is private from its first moment: a file is created with O_EXCL and mode 0600 under a temporary
name, filled, synced, and only then given its name, by a link that fails when the name is taken. There is no
instant at which another user could open it, a half-written file never has the real name, and nothing that
exists is overwritten unless the caller says `replace_all`. The umask plays no part.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mailsvc.errors import AlreadyExists, MailsvcError

PRIVATE = 0o600
PUBLIC = 0o644
LARGEST = 1 << 20
"""Octets: no certificate file is longer, and a mistaken path (a log, a device) must not fill the memory."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Who wants to read: the effective user and all its groups."""

    uid: int
    groups: frozenset[int]


@dataclass(frozen=True, slots=True)
class Source:
    """One file as it was found. `data` is None when it could not be read, and `problem` then says why and
    what to do."""

    path: Path
    data: bytes | None = field(default=None, repr=False)
    problem: str | None = None
    mode: int = PRIVATE
    uid: int = 0
    gid: int = 0


def current_reader() -> Reader:
    """This process."""
    return Reader(os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))


def read(path: Path) -> Source:
    """The file with its mode and owner, following symbolic links (certbot's `live` folder is made of them).
    Never raises."""
    try:
        # O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever. It changes nothing for a
        # regular file.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        return Source(path, problem=_unreadable(path, error))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return Source(path, problem="is not a regular file; put the PEM file itself here, or a link to it")
        data = bytearray()
        while len(data) <= LARGEST and (piece := os.read(descriptor, LARGEST + 1 - len(data))):
            data += piece
    except OSError as error:
        return Source(path, problem=_unreadable(path, error))
    finally:
        os.close(descriptor)
    if len(data) > LARGEST:
        return Source(path, problem="is longer than 1 MiB, so it is no certificate or key; put the right file here")
    return Source(path, bytes(data), None, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


def _unreadable(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if path.is_symlink():
            return f"is a link to {os.readlink(path)}, which does not exist; mend the link or put the file here"
        return "does not exist; put the file here"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            "cannot be read by the user that mailsvc runs as; make that user its owner (chown),"
            " and check the folders above it"
        )
    return f"cannot be read ({error.strerror}); check the disk and the path"


def make_folder(path: Path, mode: int = 0o700) -> bool:
    """Make the folder, with exactly this mode whatever the umask, and the folders above it. False when it is
    there already."""
    if path.is_dir():
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
        path.chmod(mode)
    except OSError as error:
        raise MailsvcError(f"{path}: cannot make this folder ({error.strerror}); check the folder above it") from error
    return True


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that must not exist yet: whole or not at all, synced, with exactly this mode.

    Raises AlreadyExists, or MailsvcError when the file system refuses.
    """
    temporary = _temporary(path)
    try:
        try:
            _fill(temporary, data, mode)
            name_it(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except FileExistsError as error:
        raise AlreadyExists(f"{path}: exists already and is not overwritten; remove it first if it is to go") from error
    except OSError as error:
        raise MailsvcError(f"{path}: cannot be written ({error.strerror}); check the folder and the disk") from error


def replace_all(files: Sequence[tuple[Path, bytes, int]]) -> None:
    """Give several files (path, content, mode) of one folder new content, whether they exist or not.

    All of them lie complete and synced beside the old ones before the first takes its name, and each takes it at
    once (rename), so that a reader sees an old file or a new one; between two of them no more than a few
    microseconds pass. A link is replaced, not what it leads to. Raises MailsvcError when the file system refuses.
    """
    waiting = [(_temporary(path), path, data, mode) for path, data, mode in files]
    try:
        try:
            for temporary, _, data, mode in waiting:
                _fill(temporary, data, mode)
            for temporary, path, _, _ in waiting:
                os.replace(temporary, path)
        finally:
            for temporary, _, _, _ in waiting:
                temporary.unlink(missing_ok=True)
        for folder in {each.parent for each, _, _ in files}:
            _sync_folder(folder)
    except OSError as error:
        where = ", ".join(str(each) for each, _, _ in files)
        raise MailsvcError(f"{where}: cannot be written ({error.strerror}); check the folder and the disk") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder while a file in it is read and written anew, so that two commands do not undo each other's
    work. Waits for the other; ends with the process, whatever happens to it. Raises MailsvcError."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise MailsvcError(f"{folder}: this folder cannot be opened ({error.strerror}); check its owner") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def _fill(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def name_it(temporary: Path, path: Path, link: Callable[[Path, Path], None] = os.link) -> None:
    """Give a finished file its name, unless that is taken (FileExistsError). The temporary name may stay
    behind."""
    try:
        link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # Some file systems (FAT, a few network ones) have no hard links. Claim the name first, then move over
        # the claim.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE))
        os.rename(temporary, path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
