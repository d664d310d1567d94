"""What the machine tells us before anything starts: the one place that asks for it.

`config` must stay pure, and both the plugin and the command line need the same answers. Everything that is
not asked of the machine (settings, files, options) is left to `mailsvc.config`.
"""

from __future__ import annotations

import os
import resource
import socket
from contextlib import suppress
from typing import Protocol

from mailsvc.config import Surroundings


def surroundings() -> Surroundings:
    """This machine's full name (asked for only when it is needed), and whether we are root."""
    return Surroundings(fqdn=socket.getfqdn, privileged=os.geteuid() == 0)


class Limits(Protocol):
    """The two functions of the module ``resource`` that are used here."""

    def getrlimit(self, resource: int, /) -> tuple[int, int]: ...
    def setrlimit(self, resource: int, limits: tuple[int, int], /) -> None: ...


def descriptors(wanted: int, system: Limits = resource) -> int:
    """Ask for so many open files and sockets; return how many this process may have now, at most ``wanted``.

    The usual soft limit is 1024, which is kept low for programs that call select(2); we do not, and may raise it up to
    the hard limit, as systemd's documentation of LimitNOFILE advises.
    """
    try:
        soft, hard = system.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:
        return wanted  # forbidden by a sandbox: nothing is known
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            system.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    return wanted if soft == resource.RLIM_INFINITY else min(soft, wanted)
