"""The rules of maildrops that several devices share, and of mail that goes by itself: pure.

Which sessions may be open together is decided here, and what CAPA says of EXPIRE; rows are `mailsvc.storage.devices`,
the sessions themselves `mailsvc.pop3.mailbox`.

The hardest idea: what an account wants is known only after the database was asked, and meanwhile others come.  So each
session first takes its place in a queue, asks, and is then judged: by those before it, whatever they will turn out to
want, and by those behind it that were faster.  Of two that come at once one always gets in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mailsvc.errors import MailsvcError

_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long mail is kept, in days: `device` is how long a device counts as in use after its last login, `expire`
    the age at which mail goes (0: never), `undelete` how long deleted mail can come back (0: not at all)."""

    device: int = 30
    expire: int = 0
    undelete: int = 7

    def in_use_since(self, now: float) -> float:
        """Since when (seconds since the epoch) a device must have logged in to be in use."""
        return now - self.device * _DAY

    def purged_before(self, now: float) -> float:
        """What was deleted before that is removed for good."""
        return now - self.undelete * _DAY


class MaildropInUse(MailsvcError):
    """Another session holds the maildrop."""


@dataclass(eq=False, slots=True)
class Hold:
    """A session's place at a maildrop: `by_device` is None until it is known, and the session open."""

    credential: str
    by_device: bool | None = None


def enter(holds: Iterable[Hold], credential: str) -> None:
    """A session comes; raises `MaildropInUse` when the same device has one already."""
    if any(hold.credential == credential for hold in holds):
        raise MaildropInUse("another session has this maildrop open")


def settle(holds: Iterable[Hold], mine: Hold, *, by_device: bool) -> None:
    """A session knows what the account wants; ``holds`` in the order in which they came.  Raises `MaildropInUse`."""
    came_before = True
    for hold in holds:
        if hold is mine:
            came_before = False
        elif hold.by_device is False or (not by_device and (came_before or hold.by_device is not None)):
            raise MaildropInUse("another session has this maildrop open")
    mine.by_device = by_device


def expiry(days: int, *, differs: bool = False) -> str:
    """What CAPA says behind EXPIRE when mail goes after so many days, 0 for never (RFC 2449 section 6.7).

    ``differs``: it is not the same for all, and nobody has logged in yet; ``days`` is then the shortest of all.
    """
    return f"{days or 'NEVER'}{' USER' if differs else ''}"


def shortest(configured: int, own: int) -> int:
    """The shorter of two ages at which mail goes, where 0 is never."""
    return min(days for days in (configured, own) if days) if configured or own else 0
