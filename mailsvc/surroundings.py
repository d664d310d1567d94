"""What the machine tells us before anything starts: the one place that asks for it.

`config` must stay pure, and both the plugin and the command line need the same answers. Everything that is
not asked of the machine (settings, files, options) is left to `mailsvc.config`.
"""

from __future__ import annotations

import os
import socket

from mailsvc.config import Surroundings


def surroundings() -> Surroundings:
    """This machine's full name (asked for only when it is needed), and whether we are root."""
    return Surroundings(fqdn=socket.getfqdn, privileged=os.geteuid() == 0)
