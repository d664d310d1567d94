"""Hears of changed certificate files at once, where the kernel tells (Linux: inotify); elsewhere it is silent.

A hint and no more: what has changed, and whether it has, is found out by `mailsvc.tls.reload`, which also looks by
itself every few seconds.  So nothing here needs to be complete: a network file system that tells nothing, a limit of
the kernel that is reached, a system without inotify all only mean that a change is seen some seconds later.

The hardest idea is where to look.  certbot's files are links into another folder; what is watched is each folder of
the certificates and each folder that one of their files really lies in.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorFDSet
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.filepath import FilePath

from mailsvc.certkit.layout import CHAIN, KEY
from mailsvc.maillog import shown

MOST_FOLDERS = 1000

_log = Logger("mailsvc")


class FolderWatch:
    """Calls ``changed`` when something in ``folder`` may have changed, from `look_again` to `stop`."""

    def __init__(self, reactor: Any, folder: Path, changed: Callable[[], None]) -> None:
        self._reactor = reactor
        self._folder = folder
        self._changed = changed
        self._notifier: Any = None

    @property
    def works(self) -> bool:
        """Whether the kernel tells us."""
        return self._notifier is not None

    def stop(self) -> None:
        """Listen no more; harmless when that is so already."""
        notifier, self._notifier = self._notifier, None
        if notifier is not None:
            notifier.close()

    def look_again(self) -> None:
        """Begin to listen, if that is possible here; or again, when there may be other folders than before."""
        # All anew: a folder that was removed and made again has the same name, and the old watch is dead.
        self.stop()
        if not IReactorFDSet.providedBy(self._reactor):
            return
        try:
            self._notifier = _notifier(self._reactor)
        except Exception as error:  # ImportError, OSError, or what a libc without it raises
            _log.debug("no inotify ({why}): changed certificates are seen by looking", why=str(error))
            return
        for folder in sorted(self._folders()):
            try:
                self._notifier.watch(FilePath(folder), _MASK, callbacks=[self._told])
            except Exception as error:  # INotifyError: a limit of the kernel, or the folder is gone
                _log.debug("{folder} is not watched: {why}", folder=shown(folder), why=str(error))

    def _folders(self) -> set[str]:
        folders = {os.path.realpath(self._folder)}
        try:
            inside = sorted(entry.path for entry in os.scandir(self._folder) if os.path.isdir(entry.path))
        except OSError:
            inside = []
        for path in inside[: MOST_FOLDERS // 2]:
            folders.add(os.path.realpath(path))
            folders |= {os.path.dirname(os.path.realpath(os.path.join(path, name))) for name in (CHAIN, KEY)}
        return {folder for folder in folders if os.path.isdir(folder)}

    def _told(self, watch: object, path: FilePath[bytes], mask: int) -> None:
        self._changed()


_MASK = 0x008 | 0x004 | 0x100 | 0x080 | 0x040 | 0x200
"""IN_CLOSE_WRITE, IN_ATTRIB, IN_CREATE, IN_MOVED_TO, IN_MOVED_FROM, IN_DELETE (linux/inotify.h)."""


def _notifier(reactor: Any) -> Any:
    """An open notifier.  Raises whatever says that there is none here."""
    # Its import fails on a system without inotify.
    from twisted.internet.inotify import INotify

    class Notifier(INotify):
        """Closes when it is told to, once.

        The stock one closes by itself when any watched folder is removed, for all others as well, and for two folders
        it closes its descriptor twice: the second time that may be somebody else's.
        """

        def loseConnection(self) -> None:
            """Called by Twisted for a folder that was removed."""

        def close(self) -> None:
            self.stopReading()
            self.connectionLost(Failure(ConnectionDone()))

    notifier = Notifier(reactor)
    notifier.startReading()
    return notifier
