"""The files of a database: made for its owner only, and held by one service at a time.

sqlite gives its write-ahead log and shared memory the mode and (as root) the owner of the database file, so
it is enough to make that one file right, whatever the umask is.  What the bytes in the files mean is left
to `dialect`.

Two services on one database would be safe for the data, but not for the mail: each holds the maildrop locks
of its own sessions only.  So a service holds an instance lock, `FILE.lock`, with flock(2).  The kernel
drops it when the process ends, however it ends, which a file with a number in it alone cannot do.

The hardest idea: a file of the database must never be opened and closed beside sqlite in the same process,
because closing *any* descriptor of a file drops all POSIX locks that the process has on it (sqlite.org,
"How To Corrupt", section 2.2).  That is why the lock is a file of its own, why it is never removed, and why
nothing here opens a database file that exists.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress

from mailsvc.errors import StartRefused


def create_private(path: str) -> bool:
    """Make the empty file `path` with mode 0600; False when there is a file already.  Raises OSError.

    Made by root in somebody's folder it belongs to that somebody: `sudo mailsvc user add` before the first
    start must not leave a file that the service cannot write.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    try:
        _make_private(descriptor, os.path.dirname(path))
    finally:
        os.close(descriptor)
    sync_folder(os.path.dirname(path))
    return True


def close_to_others(*paths: str) -> None:
    """Take from users who are neither owner nor group all rights to `paths`, where we may and they exist."""
    for path in paths:
        with suppress(OSError):
            mode = stat.S_IMODE(os.stat(path).st_mode)
            if mode & 0o007:
                os.chmod(path, mode & ~0o007)


def sync_folder(folder: str) -> None:
    """Make new names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def identity(path: str) -> tuple[int, int] | None:
    """What stays the same as long as `path` is the same file; None when there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class InstanceLock:
    """That this process is the one service on the database `path`; held from the call until `release`.

    Raises `StartRefused` when another holds it.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = _locked(path, path + ".lock")
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)

    @property
    def name(self) -> str:
        """What tells this lock from every other while somebody holds it, letters and digits.

        It is the file and not its path: who was given a lock file of that path that was removed later may live on.  A
        file that is open, or has a name, shares its numbers with no other one.
        """
        device, number = _identity_of(self._descriptor)
        return f"{device:x}x{number:x}"

    def release(self) -> None:
        """Let others have it; harmless when done already."""
        if self._descriptor >= 0:
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1


def _locked(path: str, lock_path: str) -> int:
    while True:
        try:
            descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartRefused(
                [
                    f"the lock file {lock_path} cannot be opened ({error.strerror}); remove it,"
                    " or make it writable for the user that runs mailsvc"
                ]
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Somebody may have removed the file between our open and our lock; then we hold a lock on
            # nothing.
            if identity(lock_path) == _identity_of(descriptor):
                _make_private(descriptor, os.path.dirname(lock_path))
                return descriptor
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).strip()
            os.close(descriptor)
            process = f", process {holder.decode()}," if holder.isdigit() else ""
            raise StartRefused(
                [f"another mailsvc{process} uses this database {path}; stop it or give --database another file"]
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise StartRefused(
                [f"the lock file {lock_path} cannot be locked ({error.strerror}); use a local disk"]
            ) from error
        os.close(descriptor)


def _identity_of(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _make_private(descriptor: int, folder: str) -> None:
    if os.geteuid() == 0:
        owner = os.stat(folder)
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    # The umask may have taken rights from the owner too. Also the last step because a change of owner can
    # clear bits.
    os.fchmod(descriptor, 0o600)
